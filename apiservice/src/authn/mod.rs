//! Who is asking? Tried in this order: front proxy headers, client certificate, bearer token, nobody (anonymous).
//!
//! In: the connection's [`Peer`] and the request's headers. Out: a [`Caller`], or 401 for credentials that nobody
//! accepts, or 503 while it can't be known yet (the control plane's settings were not read, or it does not answer).
//! Headers that name a user count only beside the certificate of a known front proxy; they never travel further.

mod impersonation;
mod token;
mod trust;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, header};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

pub use impersonation::impersonate;
pub use token::TokenReviewer;
pub use trust::{FrontProxySettings, TrustSources, TrustStore};

use crate::error::ApiError;
use crate::request::Caller;
use crate::serve::Peer;
use trust::Trust;

/// For how long a verified certificate is believed without looking again; it bounds how late an expiry is noticed.
const REMEMBER: Duration = Duration::from_secs(60);

/// Finds out who sends a request.
#[derive(Debug)]
pub struct Authenticator {
    trust: Arc<TrustStore>,
    tokens: Option<TokenReviewer>,
}

/// Whom a connection's certificates make it. Verifying a chain costs more than the rest of a small request, so the
/// verdict is kept for as long as the trusted authorities stay the same and the minute is not over.
#[derive(Debug, Default)]
pub(crate) struct PeerIdentity {
    verdict: Mutex<Option<Verdict>>,
}

#[derive(Debug, Clone)]
struct Verdict {
    trust_version: u64,
    since: Instant,
    is_front_proxy: bool,
    user: Option<Caller>,
}

impl Authenticator {
    /// Without a token reviewer no bearer token is accepted.
    pub fn new(trust: Arc<TrustStore>, tokens: Option<TokenReviewer>) -> Self {
        Self { trust, tokens }
    }

    /// Who sends the request.
    ///
    /// # Errors
    /// 401 for credentials that nobody accepts; 503 if that can't be known now.
    pub async fn authenticate(&self, peer: Option<&Peer>, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let trust = self.trust.current();
        let certified = peer.filter(|peer| !peer.certificates.is_empty());
        if let Some(peer) = certified
            && let Some(caller) = by_certificate(&trust, peer, headers)?
        {
            return Ok(caller);
        }
        if let Some(token) = bearer_token(headers) {
            let Some(reviewer) = &self.tokens else { return Err(ApiError::unauthorized()) };
            return reviewer.review(token).await?.ok_or_else(ApiError::unauthorized);
        }
        match certified {
            None => Ok(Caller::anonymous()),
            Some(_) if trust.is_pending() => Err(ApiError::unavailable(
                "the control plane's authentication settings were not read yet, so the certificate cannot be judged",
            )),
            Some(_) => Err(ApiError::unauthorized()),
        }
    }

    /// Removes credentials and what could be mistaken for them, so that handlers never see or forward them.
    pub fn strip(&self, headers: &mut HeaderMap) {
        headers.remove(header::AUTHORIZATION);
        let trust = self.trust.current();
        let doomed: Vec<_> = headers.keys().filter(|name| trust.names_a_user(name.as_str())).cloned().collect();
        for name in doomed {
            headers.remove(name);
        }
    }
}

fn by_certificate(trust: &Trust, peer: &Peer, headers: &HeaderMap) -> Result<Option<Caller>, ApiError> {
    let verdict = peer.identity.verdict(trust, &peer.certificates);
    if verdict.is_front_proxy
        && let Some(proxy) = trust.front_proxy()
        && let Some(caller) = proxy.caller(headers)?
    {
        return Ok(Some(caller));
    }
    Ok(verdict.user)
}

impl PeerIdentity {
    fn verdict(&self, trust: &Trust, chain: &[CertificateDer<'static>]) -> Verdict {
        let mut verdict = self.verdict.lock();
        match &*verdict {
            Some(known) if known.trust_version == trust.version() && known.since.elapsed() < REMEMBER => known.clone(),
            _ => verdict.insert(judge(trust, chain)).clone(),
        }
    }
}

fn judge(trust: &Trust, chain: &[CertificateDer<'static>]) -> Verdict {
    let subject = chain.first().and_then(|leaf| Subject::of(leaf));
    let name = subject.as_ref().map(|subject| subject.common_name.as_str()).unwrap_or_default();
    let is_front_proxy = trust.front_proxy().is_some_and(|proxy| proxy.is(chain, name));
    let user = subject
        .filter(|subject| !subject.common_name.is_empty() && trust.vouches_for_client(chain))
        .map(|subject| Caller::authenticated(subject.common_name, subject.organizations));
    Verdict { trust_version: trust.version(), since: Instant::now(), is_front_proxy, user }
}

struct Subject {
    common_name: String,
    organizations: Vec<String>,
}

impl Subject {
    fn of(leaf: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        let subject = certificate.subject();
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().map(str::to_owned);
        let common_name = subject.iter_common_name().last().and_then(|name| text(name).ok()).unwrap_or_default();
        let organizations = subject.iter_organization().filter_map(|name| text(name).ok()).collect();
        Some(Self { common_name, organizations })
    }
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
