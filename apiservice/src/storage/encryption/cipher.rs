//! How one value is encrypted with one key, in the forms that API servers write to etcd.
//!
//! - `aescbc`: an initialization vector of 16 bytes, then AES-CBC with PKCS#7 padding
//! - `aesgcm`: a nonce of 12 bytes, then AES-GCM with its tag; the storage key is authenticated along
//! - `secretbox`: a nonce of 24 bytes, then XSalsa20-Poly1305
//!
//! The ciphers themselves are those of AWS-LC and of the RustCrypto project.

use std::fmt;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce};
use aws_lc_rs::cipher::{
    self, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use crypto_secretbox::aead::{Aead as _, KeyInit as _};
use crypto_secretbox::{Nonce as BoxNonce, XSalsa20Poly1305};

const CBC_VECTOR: usize = 16;
const BOX_NONCE: usize = 24;

/// A way to encrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    AesCbc,
    AesGcm,
    Secretbox,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::AesCbc => "aescbc",
            Self::AesGcm => "aesgcm",
            Self::Secretbox => "secretbox",
        })
    }
}

/// A named key.
pub(super) struct Key {
    name: String,
    prefix: String,
    cipher: Cipher,
}

enum Cipher {
    // Boxed: the contexts are large, and keys are few.
    Cbc(Box<(PaddedBlockEncryptingKey, PaddedBlockDecryptingKey)>),
    Gcm(Box<LessSafeKey>),
    Secretbox(Box<XSalsa20Poly1305>),
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Key").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// Encryption failed; says nothing of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed;

impl Key {
    /// A key from its bytes.
    pub(super) fn new(algorithm: Algorithm, name: &str, secret: &[u8]) -> Result<Self, String> {
        let cipher = match algorithm {
            Algorithm::AesCbc => cbc(secret),
            Algorithm::AesGcm => gcm(secret),
            Algorithm::Secretbox => XSalsa20Poly1305::new_from_slice(secret)
                .map(|cipher| Cipher::Secretbox(Box::new(cipher)))
                .map_err(|_| wrong_size(secret, "32 bytes")),
        }?;
        Ok(Self { name: name.to_owned(), prefix: format!("k8s:enc:{algorithm}:v1:{name}:"), cipher })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What stands in front of a value that this key encrypted.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Encrypts; `place` is the storage key, so that a value can't be moved to another one unnoticed.
    pub(super) fn encrypt(&self, plain: &[u8], place: &str) -> Result<Vec<u8>, Failed> {
        let mut sealed = self.prefix.as_bytes().to_vec();
        match &self.cipher {
            Cipher::Cbc(keys) => {
                let mut body = plain.to_vec();
                let context = keys.0.encrypt(&mut body).map_err(|_| Failed)?;
                let DecryptionContext::Iv128(vector) = context else { return Err(Failed) };
                sealed.extend_from_slice(vector.as_ref());
                sealed.append(&mut body);
            }
            Cipher::Gcm(key) => {
                let nonce: [u8; NONCE_LEN] = random()?;
                let mut body = plain.to_vec();
                let authenticated = Aad::from(place.as_bytes());
                key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), authenticated, &mut body)
                    .map_err(|_| Failed)?;
                sealed.extend_from_slice(&nonce);
                sealed.append(&mut body);
            }
            Cipher::Secretbox(cipher) => {
                let nonce: [u8; BOX_NONCE] = random()?;
                let mut body = cipher.encrypt(BoxNonce::from_slice(&nonce), plain).map_err(|_| Failed)?;
                sealed.extend_from_slice(&nonce);
                sealed.append(&mut body);
            }
        }
        Ok(sealed)
    }

    /// Decrypts what stands behind the prefix.
    pub(super) fn decrypt(&self, sealed: &[u8], place: &str) -> Result<Vec<u8>, Failed> {
        match &self.cipher {
            Cipher::Cbc(keys) => {
                let (vector, body) = sealed.split_first_chunk::<CBC_VECTOR>().ok_or(Failed)?;
                let mut body = body.to_vec();
                let context = DecryptionContext::Iv128(FixedLength::from(*vector));
                keys.1.decrypt(&mut body, context).map(|plain| plain.to_vec()).map_err(|_| Failed)
            }
            Cipher::Gcm(key) => {
                let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(Failed)?;
                let mut body = body.to_vec();
                let nonce = Nonce::assume_unique_for_key(*nonce);
                key.open_in_place(nonce, Aad::from(place.as_bytes()), &mut body)
                    .map(|plain| plain.to_vec())
                    .map_err(|_| Failed)
            }
            Cipher::Secretbox(cipher) => {
                let (nonce, body) = sealed.split_first_chunk::<BOX_NONCE>().ok_or(Failed)?;
                cipher.decrypt(BoxNonce::from_slice(nonce), body).map_err(|_| Failed)
            }
        }
    }
}

fn wrong_size(secret: &[u8], wanted: &str) -> String {
    format!("{} bytes, but {wanted} are needed", secret.len())
}

fn cbc(secret: &[u8]) -> Result<Cipher, String> {
    let algorithm = match secret.len() {
        16 => &cipher::AES_128,
        24 => &cipher::AES_192,
        32 => &cipher::AES_256,
        _ => return Err(wrong_size(secret, "16, 24 or 32 bytes")),
    };
    let key = || UnboundCipherKey::new(algorithm, secret).map_err(|_| "cannot be used as a key".to_owned());
    let unusable = |_| "cannot be used as a key".to_owned();
    let encrypting = PaddedBlockEncryptingKey::cbc_pkcs7(key()?).map_err(unusable)?;
    let decrypting = PaddedBlockDecryptingKey::cbc_pkcs7(key()?).map_err(unusable)?;
    Ok(Cipher::Cbc(Box::new((encrypting, decrypting))))
}

fn gcm(secret: &[u8]) -> Result<Cipher, String> {
    let algorithm = match secret.len() {
        16 => &aead::AES_128_GCM,
        24 => &aead::AES_192_GCM,
        32 => &aead::AES_256_GCM,
        _ => return Err(wrong_size(secret, "16, 24 or 32 bytes")),
    };
    let key = aead::UnboundKey::new(algorithm, secret).map_err(|_| "cannot be used as a key".to_owned())?;
    Ok(Cipher::Gcm(Box::new(LessSafeKey::new(key))))
}

fn random<const SIZE: usize>() -> Result<[u8; SIZE], Failed> {
    let mut bytes = [0; SIZE];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn key(algorithm: Algorithm, size: usize) -> Key {
        Key::new(algorithm, "key1", &vec![7; size]).unwrap()
    }

    fn all() -> Vec<Key> {
        let sizes = [16, 24, 32];
        let mut keys = vec![key(Algorithm::Secretbox, 32)];
        keys.extend(sizes.iter().map(|size| key(Algorithm::AesCbc, *size)));
        keys.extend(sizes.iter().map(|size| key(Algorithm::AesGcm, *size)));
        keys
    }

    proptest! {
        #[test]
        fn what_was_encrypted_is_read_again_and_never_twice_the_same(plain in proptest::collection::vec(any::<u8>(), 0..200)) {
            for key in all() {
                let sealed = key.encrypt(&plain, "/registry/a").unwrap();
                let body = sealed.strip_prefix(key.prefix().as_bytes()).unwrap();
                prop_assert_eq!(key.decrypt(body, "/registry/a").unwrap(), plain.clone());
                prop_assert_ne!(key.encrypt(&plain, "/registry/a").unwrap(), sealed);
            }
        }

        #[test]
        fn rubbish_is_refused(rubbish in proptest::collection::vec(any::<u8>(), 0..100)) {
            for key in [key(Algorithm::Secretbox, 32), key(Algorithm::AesGcm, 32)] {
                prop_assert_eq!(key.decrypt(&rubbish, "/registry/a"), Err(Failed));
            }
            // CBC has no tag: it may pass by chance, but must not panic.
            let _ = key(Algorithm::AesCbc, 32).decrypt(&rubbish, "/registry/a");
        }
    }

    #[test]
    fn a_value_moved_to_another_key_is_noticed() {
        let key = key(Algorithm::AesGcm, 32);
        let sealed = key.encrypt(b"{}", "/registry/a").unwrap();
        assert_eq!(key.decrypt(&sealed[key.prefix().len()..], "/registry/b"), Err(Failed));
    }

    /// Written with other programs: `openssl enc -aes-256-cbc`, and PyNaCl's `SecretBox`.
    #[rstest]
    #[case(Algorithm::AesCbc, "0102030405060708090a0b0c0d0e0f10", "5209a8dcb79a681de3ba426632cd5512")]
    #[case(
        Algorithm::Secretbox,
        "000102030405060708090a0b0c0d0e0f1011121314151617",
        "22b901ca56b20cb6bd38c1d81e3ed37625dd596d"
    )]
    fn other_programs_values_are_read(#[case] algorithm: Algorithm, #[case] nonce: &str, #[case] body: &str) {
        let secret: Vec<u8> = (0..32).collect();
        let bytes = |hex: &str| -> Vec<u8> {
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
        };
        let key = Key::new(algorithm, "k", &secret).unwrap();
        let plain = key.decrypt(&[bytes(nonce), bytes(body)].concat(), "/").unwrap();
        assert_eq!(plain, b"{\"a\"");
    }
}
