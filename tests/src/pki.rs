//! Certificates of a stage: authorities, servers, clients, the front proxy, the key of service accounts.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};

/// An authority that signs servers and clients.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, PEM.
    pub certificate: String,
}

/// A certificate and its key as files.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// The key, PEM.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = parameters.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(parameters, key), certificate })
    }

    /// Writes the authority's certificate.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<PathBuf> {
        std::fs::write(path, &self.certificate)?;
        Ok(path.to_path_buf())
    }

    /// A certificate for a server of these names, as `folder/FILE.crt` and `folder/FILE.key`.
    ///
    /// # Errors
    /// If a name is not valid or a file cannot be written.
    pub fn server(&self, folder: &Path, file: &str, names: &[&str]) -> Result<Pair> {
        let mut parameters = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        parameters.distinguished_name.push(DnType::CommonName, file);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(folder, file, &parameters)
    }

    /// A certificate for a client: its name and its groups.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn client(&self, folder: &Path, name: &str, groups: &[&str]) -> Result<Pair> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        for group in groups {
            parameters.distinguished_name.push(DnType::OrganizationName, *group);
        }
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(folder, name, &parameters)
    }

    fn sign(&self, folder: &Path, file: &str, parameters: &CertificateParams) -> Result<Pair> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        let pair = Pair { certificate: folder.join(format!("{file}.crt")), key: folder.join(format!("{file}.key")) };
        std::fs::write(&pair.certificate, certificate.pem())?;
        std::fs::write(&pair.key, key.serialize_pem())?;
        Ok(pair)
    }
}

/// Writes a new pair of keys, e.g. for signing the tokens of service accounts and checking them: `NAME.key`, `NAME.pub`.
///
/// # Errors
/// If a file cannot be written.
pub fn write_keys(folder: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let (private, public) = (folder.join(format!("{name}.key")), folder.join(format!("{name}.pub")));
    std::fs::write(&private, pair.serialize_pem())?;
    std::fs::write(&public, pair.public_key_pem())?;
    Ok((private, public))
}
