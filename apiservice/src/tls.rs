//! The serving certificate and the certificate authorities that clients are checked against.
//!
//! In: files, PEM text, or nothing at all (then everything is generated). Out: a rustls [`ServerConfig`] whose
//! certificate can be exchanged while connections live, and [`CertificateAuthority`], which judges a client's chain.
//!
//! The handshake only *asks* for a client certificate and checks that the client holds its key. Whom the certificate
//! makes the caller is decided for each request (see [`crate::authn`]), because two authorities with different powers
//! are accepted on one port.

mod policy;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
pub use policy::{CipherSuite, Curve, MinVersion, TlsPolicy};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rcgen::{KeyUsagePurpose, PKCS_ECDSA_P256_SHA256};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Why a certificate, key or authority cannot be used. The operator has to mend it; callers never see it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is no PEM of the expected kind.
    #[error("{what}: {why}")]
    Pem {
        /// Which text.
        what: String,
        /// Why.
        why: String,
    },
    /// The certificate and key were read but cannot serve.
    #[error("certificate cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// A certificate could not be generated.
    #[error("cannot generate a certificate: {0}")]
    Generate(#[from] rcgen::Error),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Reads a file with an error that names it.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn parse_certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |why: String| TlsError::Pem { what: what.to_owned(), why };
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| error(format!("not PEM: {source}")))?;
    if chain.is_empty() { Err(error("holds no certificate".to_owned())) } else { Ok(chain) }
}

/// A certificate chain and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The leaf's private key.
    pub key: PathBuf,
}

/// A further certificate for clients that ask for one of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SniFiles {
    /// Where it is.
    pub files: CertificateFiles,
    /// For which names, `*.` allowed in front; empty means the names inside of the certificate.
    pub names: Vec<String>,
}

#[derive(Debug)]
struct CertificateSet {
    default: Arc<CertifiedKey>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
    /// What the set was made from, to see whether files changed.
    source: Vec<Vec<u8>>,
}

impl CertificateSet {
    fn pick(&self, name: &str) -> Arc<CertifiedKey> {
        let name = name.to_ascii_lowercase();
        let wildcard = || self.by_name.get(&format!("*.{}", name.split_once('.')?.1));
        self.by_name.get(&name).or_else(wildcard).unwrap_or(&self.default).clone()
    }
}

/// The certificates that are served at this moment. Connections that live keep the one they began with.
#[derive(Debug)]
pub struct ServingCertificates {
    current: ArcSwap<CertificateSet>,
    main: Option<CertificateFiles>,
    sni: Vec<SniFiles>,
}

impl ServingCertificates {
    /// From files that [`Self::reload`] reads again.
    ///
    /// # Errors
    /// If a file can't be read or does not hold a usable pair.
    pub fn from_files(main: CertificateFiles, sni: Vec<SniFiles>) -> Result<Arc<Self>, TlsError> {
        let set = load_set(&main, &sni)?;
        Ok(Arc::new(Self { current: ArcSwap::from_pointee(set), main: Some(main), sni }))
    }

    /// From PEM text that never changes.
    ///
    /// # Errors
    /// If the pair is not usable.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Arc<Self>, TlsError> {
        let default = Arc::new(certified_key(certificate.as_bytes(), key.as_bytes(), "serving certificate")?);
        let set = CertificateSet { default, by_name: HashMap::new(), source: Vec::new() };
        Ok(Arc::new(Self { current: ArcSwap::from_pointee(set), main: None, sni: Vec::new() }))
    }

    /// Reads the files again; true if the served certificates changed. On an error the old ones stay.
    ///
    /// # Errors
    /// If a file can't be read or, say in the middle of a rotation, certificate and key don't match.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let Some(main) = &self.main else { return Ok(false) };
        if read_sources(main, &self.sni)? == self.current.load().source {
            return Ok(false);
        }
        self.current.store(Arc::new(load_set(main, &self.sni)?));
        Ok(true)
    }

    /// Calls [`Self::reload`] from time to time until told to stop. Polling instead of watching the files, because
    /// mounted secrets change by exchanging a symbolic link further up.
    pub async fn keep_fresh(self: Arc<Self>, every: Duration, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            match self.reload() {
                Ok(true) => tracing::info!("serving certificate reloaded"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "serving certificate not reloaded, the old one stays"),
            }
        }
    }
}

impl ResolvesServerCert for ServingCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let set = self.current.load();
        Some(hello.server_name().map_or_else(|| set.default.clone(), |name| set.pick(name)))
    }
}

fn read_sources(main: &CertificateFiles, sni: &[SniFiles]) -> Result<Vec<Vec<u8>>, TlsError> {
    let pairs = std::iter::once(main).chain(sni.iter().map(|extra| &extra.files));
    pairs.flat_map(|pair| [&pair.certificate, &pair.key]).map(|path| read_file(path)).collect()
}

fn load_set(main: &CertificateFiles, sni: &[SniFiles]) -> Result<CertificateSet, TlsError> {
    let source = read_sources(main, sni)?;
    let mut pairs = source.chunks_exact(2);
    let load = |pair: Option<&[Vec<u8>]>, files: &CertificateFiles| {
        let what = files.certificate.display().to_string();
        let [certificate, key] = pair.unwrap_or_default() else {
            return Err(TlsError::Pem { what, why: "has no key beside it".to_owned() });
        };
        Ok(Arc::new(certified_key(certificate, key, &what)?))
    };
    let default = load(pairs.next(), main)?;
    let mut by_name = HashMap::new();
    for extra in sni {
        let pair = load(pairs.next(), &extra.files)?;
        let names = if extra.names.is_empty() { names_inside(&pair) } else { extra.names.clone() };
        for name in names {
            by_name.entry(name.to_ascii_lowercase()).or_insert_with(|| pair.clone());
        }
    }
    Ok(CertificateSet { default, by_name, source })
}

fn certified_key(certificate: &[u8], key: &[u8], what: &str) -> Result<CertifiedKey, TlsError> {
    let chain = parse_certificates(certificate, what)?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|source| TlsError::Pem { what: format!("key of {what}"), why: format!("not a PEM key: {source}") })?;
    Ok(CertifiedKey::from_der(chain, key, &provider())?)
}

fn names_inside(pair: &CertifiedKey) -> Vec<String> {
    let Some(Ok((_, certificate))) = pair.cert.first().map(|leaf| X509Certificate::from_der(leaf)) else {
        return Vec::new();
    };
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    names
        .filter_map(|name| if let GeneralName::DNSName(name) = name { Some((*name).to_owned()) } else { None })
        .collect()
}

/// The configuration to serve with.
///
/// # Errors
/// If nothing is left that could be spoken.
pub fn server_config(
    certificates: Arc<ServingCertificates>,
    policy: &TlsPolicy,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(policy.provider());
    let verifier = Arc::new(AskOnly { algorithms: provider.signature_verification_algorithms });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&policy.versions())?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificates);
    config.alpn_protocols =
        if policy.http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    Ok(Arc::new(config))
}

/// Asks for a certificate and checks that the client holds its key; trusts nothing yet.
#[derive(Debug)]
struct AskOnly {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AskOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Certificate authorities that may vouch for clients.
#[derive(Debug, Clone)]
pub struct CertificateAuthority {
    verifier: Arc<dyn ClientCertVerifier>,
}

impl CertificateAuthority {
    /// From a PEM bundle.
    ///
    /// # Errors
    /// If it holds no usable certificate.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        let (added, ignored) = roots.add_parsable_certificates(parse_certificates(pem, "certificate authority")?);
        if ignored > 0 {
            tracing::warn!(added, ignored, "some certificates of an authority bundle cannot be used");
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| TlsError::Pem { what: "certificate authority".to_owned(), why: error.to_string() })?;
        Ok(Self { verifier })
    }

    /// Whether one of the authorities signed this chain (leaf first) for use by a client, and it is valid now.
    pub fn vouches_for(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else { return false };
        self.verifier.verify_client_cert(leaf, intermediates, UnixTime::now()).is_ok()
    }
}

/// All that a server without a control plane needs to be reached safely. Every field is PEM.
#[derive(Clone)]
pub struct StandalonePki {
    /// The authority that signed the other two; for servers and clients to trust.
    pub authority: String,
    /// Serving certificate.
    pub serving_certificate: String,
    /// Its key.
    pub serving_key: String,
    /// Client certificate of a member of `system:masters`.
    pub admin_certificate: String,
    /// Its key.
    pub admin_key: String,
}

/// How long generated leaf certificates are valid. They are made anew at each start.
const LEAF_DAYS: i64 = 365;
const AUTHORITY_DAYS: i64 = 3650;

/// Generates an authority, a serving certificate for `names` (host names and addresses) and an administrator's.
///
/// # Errors
/// If the system has no randomness or a name is not valid.
pub fn standalone_pki(names: &[String], admin: &str) -> Result<StandalonePki, TlsError> {
    let authority_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut authority = parameters("fleetglass-ca", AUTHORITY_DAYS, &[])?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);

    let mut serving = parameters("fleetglass", LEAF_DAYS, names)?;
    serving.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let (serving_certificate, serving_key) = sign(&serving, &issuer)?;

    let mut administrator = parameters(admin, LEAF_DAYS, &[])?;
    administrator.distinguished_name.push(DnType::OrganizationName, crate::request::MASTERS_GROUP);
    administrator.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let (admin_certificate, admin_key) = sign(&administrator, &issuer)?;

    Ok(StandalonePki {
        authority: authority_certificate.pem(),
        serving_certificate,
        serving_key,
        admin_certificate,
        admin_key,
    })
}

fn parameters(common_name: &str, days: i64, names: &[String]) -> Result<CertificateParams, TlsError> {
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    let (year, month, day) = date_from_now(-1);
    parameters.not_before = rcgen::date_time_ymd(year, month, day);
    let (year, month, day) = date_from_now(days);
    parameters.not_after = rcgen::date_time_ymd(year, month, day);
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(parameters)
}

fn sign(parameters: &CertificateParams, issuer: &Issuer<'_, KeyPair>) -> Result<(String, String), TlsError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok((parameters.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}

fn date_from_now(days: i64) -> (i32, u8, u8) {
    let seconds = jiff::Timestamp::now().as_second().saturating_add(days.saturating_mul(86_400));
    let date = jiff::Timestamp::from_second(seconds).unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC).date();
    let small = |number: i8| u8::try_from(number).unwrap_or(1);
    (i32::from(date.year()), small(date.month()), small(date.day()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standalone_server_comes_with_an_administrator_it_knows() {
        let pki = standalone_pki(&["localhost".to_owned(), "127.0.0.1".to_owned()], "admin").unwrap();
        let authority = CertificateAuthority::from_pem(pki.authority.as_bytes()).unwrap();
        let chain = |pem: &str| parse_certificates(pem.as_bytes(), "test").unwrap();
        assert!(authority.vouches_for(&chain(&pki.admin_certificate)));
        assert!(!authority.vouches_for(&chain(&pki.serving_certificate)), "it may not be shown by clients");
        let other = standalone_pki(&[], "admin").unwrap();
        assert!(!authority.vouches_for(&chain(&other.admin_certificate)));
        let (_, pem) = x509_parser::pem::parse_x509_pem(pki.admin_certificate.as_bytes()).unwrap();
        assert_eq!(pem.parse_x509().unwrap().subject().to_string(), "CN=admin, O=system:masters");
        assert!(ServingCertificates::from_pem(&pki.serving_certificate, &pki.serving_key).is_ok());
        assert!(ServingCertificates::from_pem(&pki.serving_certificate, &pki.admin_key).is_err());
    }

    #[test]
    fn each_name_gets_its_own_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let files = |name: &str| {
            let pki = standalone_pki(&[name.to_owned()], "admin").unwrap();
            let (certificate, key) =
                (folder.path().join(format!("{name}.crt")), folder.path().join(format!("{name}.key")));
            std::fs::write(&certificate, pki.serving_certificate).unwrap();
            std::fs::write(&key, pki.serving_key).unwrap();
            CertificateFiles { certificate, key }
        };
        let sni = vec![
            SniFiles { files: files("inner.example"), names: Vec::new() },
            SniFiles { files: files("wild.example"), names: vec!["*.Wild.example".to_owned()] },
        ];
        let served = ServingCertificates::from_files(files("main.example"), sni).unwrap();
        let set = served.current.load();
        let name = |asked: &str| names_inside(&set.pick(asked)).join(",");
        assert_eq!(name("inner.example"), "inner.example");
        assert_eq!(name("INNER.example"), "inner.example");
        assert_eq!(name("a.wild.example"), "wild.example");
        assert_eq!(name("a.b.wild.example"), "main.example");
        assert_eq!(name("unknown"), "main.example");
    }
}
