//! Which versions, cipher suites and curves are spoken.
//!
//! In: names and numbers as flags give them, read as Go's TLS library knows them. Out: what rustls takes. Names of suites
//! that exist but are not offered here (CBC, RC4, RSA key exchange) are accepted and leave nothing behind; what is no
//! suite's name is refused.

use std::fmt;
use std::str::FromStr;

use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

/// Lowest TLS version that is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

/// A cipher suite by its name at IANA.
#[derive(Debug, Clone)]
pub struct CipherSuite {
    name: String,
    offered: Option<SupportedCipherSuite>,
}

const OFFERED: [(&str, SupportedCipherSuite); 6] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Real suites that are not chosen by flag: those of TLS 1.3, and those that are not safe any more.
const KNOWN: [&str; 19] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

impl FromStr for CipherSuite {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        // Go has two names for those with ChaCha20.
        let name = match word.strip_suffix("_CHACHA20_POLY1305") {
            Some(start) => format!("{start}_CHACHA20_POLY1305_SHA256"),
            None => word.to_owned(),
        };
        let offered = OFFERED.iter().find(|(offered, _)| *offered == name).map(|(_, suite)| *suite);
        if offered.is_none() && !KNOWN.contains(&name.as_str()) {
            let names: Vec<&str> = OFFERED.iter().map(|(name, _)| *name).collect();
            return Err(format!("no such cipher suite; offered here are {}", names.join(", ")));
        }
        Ok(Self { name, offered })
    }
}

impl fmt::Display for CipherSuite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

/// A curve by its number at IANA.
#[derive(Clone, Copy)]
pub struct Curve(&'static dyn SupportedKxGroup);

impl fmt::Debug for Curve {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Curve({:?})", self.0.name())
    }
}

impl FromStr for Curve {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "23" => Ok(Self(kx_group::SECP256R1)),
            "24" => Ok(Self(kx_group::SECP384R1)),
            "29" => Ok(Self(kx_group::X25519)),
            "4588" => Ok(Self(kx_group::X25519MLKEM768)),
            _ => Err("write 23 (P-256), 24 (P-384), 29 (X25519) or 4588 (X25519MLKEM768)".to_owned()),
        }
    }
}

/// What is spoken.
#[derive(Debug, Clone)]
pub struct TlsPolicy {
    /// The oldest version.
    pub min_version: MinVersion,
    /// Suites of TLS 1.2; those of TLS 1.3 are always offered. Empty for all.
    pub cipher_suites: Vec<CipherSuite>,
    /// Curves in the order of preference. Empty for all.
    pub curves: Vec<Curve>,
    /// Whether HTTP/2 is offered beside HTTP/1.1.
    pub http2: bool,
}

impl Default for TlsPolicy {
    fn default() -> Self {
        Self { min_version: MinVersion::default(), cipher_suites: Vec::new(), curves: Vec::new(), http2: true }
    }
}

impl TlsPolicy {
    /// Suites that were named and are not offered for it.
    pub fn suites_not_offered(&self) -> impl Iterator<Item = &CipherSuite> {
        self.cipher_suites.iter().filter(|suite| suite.offered.is_none())
    }

    pub(super) fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        // Without a suite for it, TLS 1.2 can't be spoken.
        let has_suites =
            self.cipher_suites.is_empty() || self.cipher_suites.iter().any(|suite| suite.offered.is_some());
        match self.min_version {
            MinVersion::Tls12 if has_suites => vec![&rustls::version::TLS13, &rustls::version::TLS12],
            MinVersion::Tls12 | MinVersion::Tls13 => vec![&rustls::version::TLS13],
        }
    }

    pub(super) fn provider(&self) -> CryptoProvider {
        let mut provider = default_provider();
        if !self.cipher_suites.is_empty() {
            let wanted: Vec<SupportedCipherSuite> =
                self.cipher_suites.iter().filter_map(|suite| suite.offered).collect();
            provider.cipher_suites.retain(|suite| suite.tls13().is_some() || wanted.contains(suite));
        }
        if !self.curves.is_empty() {
            provider.kx_groups = self.curves.iter().map(|curve| curve.0).collect();
        }
        provider
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(suites: &[&str]) -> TlsPolicy {
        TlsPolicy { cipher_suites: suites.iter().map(|name| name.parse().unwrap()).collect(), ..TlsPolicy::default() }
    }

    #[test]
    fn only_the_named_suites_of_tls_1_2_are_offered_and_all_of_1_3() {
        let provider = policy(&["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"]).provider();
        let suites = provider.cipher_suites.into_iter();
        let (newer, older): (Vec<_>, Vec<_>) = suites.partition(|suite| suite.tls13().is_some());
        assert_eq!((newer.len(), older.len()), (3, 1));
        assert_eq!(older[0].suite(), rustls::CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384);
    }

    #[test]
    fn suites_that_are_not_safe_leave_only_the_newest_version() {
        assert_eq!(policy(&["TLS_RSA_WITH_AES_128_CBC_SHA"]).versions().len(), 1);
        assert_eq!(policy(&[]).versions().len(), 2);
    }

    #[test]
    fn what_is_no_suite_and_no_curve_is_refused_with_those_that_are() {
        let error = "TLS_MADE_UP".parse::<CipherSuite>().unwrap_err();
        assert!(error.contains("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"), "{error}");
        assert!("25".parse::<Curve>().unwrap_err().contains("X25519"));
        assert!("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305".parse::<CipherSuite>().unwrap().offered.is_some());
    }
}
