//! Who this server is and whom it believes: certificates, authorities, reviews, from the flags.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use apiservice::authn::{Authenticator, FrontProxySettings, TokenReviewer, TrustSources, TrustStore};
use apiservice::authz::{AnswerTtl, Authorizer};
use apiservice::tls::{CertificateFiles, ServingCertificates, SniFiles, StandalonePki, standalone_pki};
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::args::{Authentication, ServeArgs, Serving};
use crate::kubeconfig;

/// How often certificate files are looked at.
const REREAD: Duration = Duration::from_secs(10);

/// Certificates to serve with and the means to judge callers.
pub(crate) struct Identity {
    pub(crate) certificates: Arc<ServingCertificates>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) authorizer: Arc<Authorizer>,
    /// Authority and administrator of a server without a control plane.
    pub(crate) standalone: Option<StandalonePki>,
}

/// The identity of a server without a control plane: its own authority, one administrator.
///
/// # Errors
/// If keys cannot be made.
pub(crate) fn standalone(address: SocketAddr) -> Result<Identity> {
    let pki = generate(address)?;
    let trust = TrustStore::standalone(&pki.authority)?;
    Ok(Identity {
        certificates: ServingCertificates::from_pem(&pki.serving_certificate, &pki.serving_key)?,
        authenticator: Arc::new(Authenticator::new(trust, None)),
        authorizer: Arc::new(Authorizer::new(None, AnswerTtl::default(), health_paths())),
        standalone: Some(pki),
    })
}

fn health_paths() -> Vec<String> {
    apiservice::authz::HEALTH_PATHS.iter().map(ToString::to_string).collect()
}

fn generate(address: SocketAddr) -> Result<StandalonePki> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !address.ip().is_unspecified() && !address.ip().is_loopback() {
        names.push(address.ip().to_string());
    }
    standalone_pki(&names, "fleetglass-admin").context("certificates cannot be generated")
}

/// The identity of a server below a control plane.
///
/// # Errors
/// If files that flags name cannot be used.
pub(crate) async fn aggregated(args: &ServeArgs, address: SocketAddr, stop: &CancellationToken) -> Result<Identity> {
    let own_kubeconfig = args.control_plane.kubeconfig.as_deref();
    let authentication = &args.authentication;
    let reviewer = kubeconfig::client(authentication.authentication_kubeconfig.as_deref().or(own_kubeconfig)).await?;
    let authorization = &args.authorization;
    let judge = kubeconfig::client(authorization.authorization_kubeconfig.as_deref().or(own_kubeconfig)).await?;
    let trust = trust(authentication, &reviewer, stop)?;
    let tokens = TokenReviewer::new(reviewer, authentication.authentication_token_webhook_cache_ttl);
    let ttl = AnswerTtl {
        allowed: authorization.authorization_webhook_cache_authorized_ttl,
        denied: authorization.authorization_webhook_cache_unauthorized_ttl,
    };
    let always_allowed = authorization.authorization_always_allow_paths.clone();
    Ok(Identity {
        certificates: certificates(&args.serving, address, stop)?,
        authenticator: Arc::new(Authenticator::new(trust, Some(tokens))),
        authorizer: Arc::new(Authorizer::new(Some(judge), ttl, always_allowed)),
        standalone: None,
    })
}

fn trust(flags: &Authentication, client: &Client, stop: &CancellationToken) -> Result<Arc<TrustStore>> {
    let settings = FrontProxySettings {
        allowed_names: flags.requestheader_allowed_names.clone(),
        username_headers: flags.requestheader_username_headers.clone(),
        group_headers: flags.requestheader_group_headers.clone(),
        uid_headers: flags.requestheader_uid_headers.clone(),
        extra_prefixes: flags.requestheader_extra_headers_prefix.clone(),
    };
    let sources = TrustSources {
        client_ca: flags.client_ca_file.clone(),
        front_proxy: flags.requestheader_client_ca_file.clone().map(|path| (path, settings)),
    };
    let looks_up = !flags.authentication_skip_lookup;
    let trust = TrustStore::new(sources, looks_up)?;
    tokio::spawn(Arc::clone(&trust).keep_files_fresh(REREAD, stop.clone()));
    if looks_up {
        tokio::spawn(Arc::clone(&trust).follow_control_plane(client.clone(), stop.clone()));
    }
    Ok(trust)
}

fn certificates(flags: &Serving, address: SocketAddr, stop: &CancellationToken) -> Result<Arc<ServingCertificates>> {
    let (Some(certificate), Some(key)) = (&flags.tls_cert_file, &flags.tls_private_key_file) else {
        return self_signed(flags, address);
    };
    let main = CertificateFiles { certificate: certificate.clone(), key: key.clone() };
    let further = flags.tls_sni_cert_key.iter().map(|pair| SniFiles {
        files: CertificateFiles { certificate: pair.certificate.clone(), key: pair.key.clone() },
        names: pair.names.clone(),
    });
    let certificates = ServingCertificates::from_files(main, further.collect())?;
    tokio::spawn(Arc::clone(&certificates).keep_fresh(REREAD, stop.clone()));
    Ok(certificates)
}

/// The pair in `--cert-dir`; made and put there if there is none, so that the next start shows the same.
fn self_signed(flags: &Serving, address: SocketAddr) -> Result<Arc<ServingCertificates>> {
    let folder = &flags.cert_dir;
    let files = CertificateFiles { certificate: folder.join("apiserver.crt"), key: folder.join("apiserver.key") };
    if files.certificate.exists() && files.key.exists() {
        tracing::warn!(folder = %folder.display(), "no --tls-cert-file is given: serving with the pair in this folder");
        return Ok(ServingCertificates::from_files(files, Vec::new())?);
    }
    let pki = generate(address)?;
    let written = kubeconfig::write_private(&files.key, &pki.serving_key)
        .and_then(|()| std::fs::write(&files.certificate, format!("{}{}", pki.serving_certificate, pki.authority)));
    match written {
        Ok(()) => tracing::warn!(folder = %folder.display(), "no --tls-cert-file is given: made a pair in this folder"),
        Err(error) => tracing::warn!(
            folder = %folder.display(), %error,
            "no --tls-cert-file is given: serving with a pair made for this run, which could not be kept"
        ),
    }
    Ok(ServingCertificates::from_pem(&pki.serving_certificate, &pki.serving_key)?)
}
