//! Whom this server believes: authorities for clients and for front proxies, and the header names that proxies use.
//!
//! Two sources feed one [`TrustStore`]: files named by flags, and the ConfigMap
//! `kube-system/extension-apiserver-authentication` in which a control plane publishes its own settings. Only the two
//! `follow` tasks write; each request reads one consistent [`Trust`]. Until the ConfigMap was read, the trust is
//! *pending*: nothing waits for it, but a certificate that can't be judged yet is "try again", not "unknown".

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderMap;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;
use crate::request::Caller;
use crate::tls::{CertificateAuthority, TlsError, read_file};

const CONFIG_NAMESPACE: &str = "kube-system";
const CONFIG_NAME: &str = "extension-apiserver-authentication";
const REREAD: Duration = Duration::from_secs(60);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// What a front proxy may be called and which headers it uses. Header names in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontProxySettings {
    /// Accepted common names; empty accepts all that the authority signed.
    pub allowed_names: Vec<String>,
    /// Headers that carry the user name.
    pub username_headers: Vec<String>,
    /// Headers that carry a group each.
    pub group_headers: Vec<String>,
    /// Headers that carry the user's unique id.
    pub uid_headers: Vec<String>,
    /// Prefixes of headers that carry extra values.
    pub extra_prefixes: Vec<String>,
}

impl Default for FrontProxySettings {
    fn default() -> Self {
        Self {
            allowed_names: Vec::new(),
            username_headers: vec!["x-remote-user".to_owned()],
            group_headers: vec!["x-remote-group".to_owned()],
            uid_headers: vec!["x-remote-uid".to_owned()],
            extra_prefixes: vec!["x-remote-extra-".to_owned()],
        }
    }
}

/// What flags say about trust.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustSources {
    /// Authority bundle for client certificates.
    pub client_ca: Option<PathBuf>,
    /// Authority bundle for front proxies, and how they speak.
    pub front_proxy: Option<(PathBuf, FrontProxySettings)>,
}

/// A front proxy that is believed.
#[derive(Debug, Clone)]
pub(super) struct FrontProxy {
    authority: CertificateAuthority,
    settings: FrontProxySettings,
}

impl FrontProxy {
    fn new(pem: &[u8], mut settings: FrontProxySettings) -> Result<Self, TlsError> {
        let FrontProxySettings { username_headers, group_headers, uid_headers, extra_prefixes, .. } = &mut settings;
        for names in [username_headers, group_headers, uid_headers, extra_prefixes] {
            names.iter_mut().for_each(|name| name.make_ascii_lowercase());
        }
        Ok(Self { authority: CertificateAuthority::from_pem(pem)?, settings })
    }

    pub(super) fn is(&self, chain: &[CertificateDer<'_>], common_name: &str) -> bool {
        let allowed = &self.settings.allowed_names;
        (allowed.is_empty() || allowed.iter().any(|name| name == common_name)) && self.authority.vouches_for(chain)
    }

    /// The user that the headers name; none if they name none.
    pub(super) fn caller(&self, headers: &HeaderMap) -> Result<Option<Caller>, ApiError> {
        let Some(username) = values(headers, &self.settings.username_headers)?.into_iter().next() else {
            return Ok(None);
        };
        let groups = values(headers, &self.settings.group_headers)?;
        let uid = values(headers, &self.settings.uid_headers)?.into_iter().next();
        let caller = Caller::authenticated(username, groups);
        Ok(Some(Caller { uid, extra: self.extra(headers)?, ..caller }))
    }

    fn extra(&self, headers: &HeaderMap) -> Result<BTreeMap<String, Vec<String>>, ApiError> {
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in headers {
            let key =
                self.settings.extra_prefixes.iter().find_map(|prefix| name.as_str().strip_prefix(prefix.as_str()));
            if let Some(key) = key.filter(|key| !key.is_empty()) {
                extra.entry(decode_extra_key(key)).or_default().push(text(value)?);
            }
        }
        Ok(extra)
    }

    fn names_a_user(&self, header: &str) -> bool {
        let FrontProxySettings { username_headers, group_headers, uid_headers, extra_prefixes, .. } = &self.settings;
        [username_headers, group_headers, uid_headers].iter().any(|names| names.iter().any(|name| name == header))
            || extra_prefixes.iter().any(|prefix| header.starts_with(prefix.as_str()))
    }
}

fn values(headers: &HeaderMap, names: &[String]) -> Result<Vec<String>, ApiError> {
    let values = names.iter().flat_map(|name| headers.get_all(name.as_str()));
    values.filter(|value| !value.is_empty()).map(text).collect()
}

/// Extra keys are percent-encoded in header names; one that doesn't decode stands for itself.
pub(super) fn decode_extra_key(key: &str) -> String {
    let lower = key.to_ascii_lowercase();
    percent_decode_str(&lower).decode_utf8().map_or_else(|_| lower.clone(), std::borrow::Cow::into_owned)
}

/// Bytes that are no UTF-8 would have to be bent into a name, and two users could become one.
pub(super) fn text(value: &http::HeaderValue) -> Result<String, ApiError> {
    String::from_utf8(value.as_bytes().to_vec()).map_err(|_| ApiError::unauthorized())
}

/// One consistent state of all that is believed.
#[derive(Debug, Default)]
pub(super) struct Trust {
    version: u64,
    pending: bool,
    client: Option<CertificateAuthority>,
    front_proxy: Option<FrontProxy>,
}

impl Trust {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn is_pending(&self) -> bool {
        self.pending
    }

    pub(super) fn front_proxy(&self) -> Option<&FrontProxy> {
        self.front_proxy.as_ref()
    }

    pub(super) fn vouches_for_client(&self, chain: &[CertificateDer<'_>]) -> bool {
        self.client.as_ref().is_some_and(|authority| authority.vouches_for(chain))
    }

    /// Whether a header could be taken for a front proxy's word.
    pub(super) fn names_a_user(&self, header: &str) -> bool {
        header.starts_with("x-remote-") || self.front_proxy.as_ref().is_some_and(|proxy| proxy.names_a_user(header))
    }
}

/// What one source contributes.
#[derive(Debug, Clone, Default)]
struct Part {
    client: Option<CertificateAuthority>,
    front_proxy: Option<FrontProxy>,
}

#[derive(Debug, Default)]
struct Parts {
    files: Part,
    file_contents: Vec<Vec<u8>>,
    published: Option<Part>,
    published_data: Option<BTreeMap<String, String>>,
}

/// Holds what is believed at the moment and the sources it comes from.
#[derive(Debug)]
pub struct TrustStore {
    current: ArcSwap<Trust>,
    parts: Mutex<Parts>,
    sources: TrustSources,
    looks_up: bool,
}

impl TrustStore {
    /// From the files that flags name. With `looks_up`, certificates that can't be judged are "not yet known" until
    /// [`Self::follow_control_plane`] read the ConfigMap for the first time.
    ///
    /// # Errors
    /// If a file can't be read or holds no authority.
    pub fn new(sources: TrustSources, looks_up: bool) -> Result<Arc<Self>, TlsError> {
        let store = Self {
            current: ArcSwap::from_pointee(Trust::default()),
            parts: Mutex::new(Parts::default()),
            sources,
            looks_up,
        };
        store.reload_files()?;
        store.publish(&store.parts.lock());
        Ok(Arc::new(store))
    }

    /// From one authority for client certificates, in PEM: for a server without a control plane.
    ///
    /// # Errors
    /// If the text holds no authority.
    pub fn standalone(client_ca: &str) -> Result<Arc<Self>, TlsError> {
        let store = Self::new(TrustSources::default(), false)?;
        let mut parts = store.parts.lock();
        parts.files.client = Some(CertificateAuthority::from_pem(client_ca.as_bytes())?);
        store.publish(&parts);
        drop(parts);
        Ok(store)
    }

    /// Whether nothing is missing to judge certificates.
    pub fn is_ready(&self) -> bool {
        !self.current.load().pending
    }

    pub(super) fn current(&self) -> Arc<Trust> {
        self.current.load_full()
    }

    /// Reads the files again; true if they changed. On an error the old authorities stay.
    ///
    /// # Errors
    /// If a file can't be read or holds no authority.
    pub fn reload_files(&self) -> Result<bool, TlsError> {
        let paths = self.sources.client_ca.iter().chain(self.sources.front_proxy.iter().map(|(path, _)| path));
        let contents = paths.map(|path| read_file(path)).collect::<Result<Vec<_>, _>>()?;
        if contents == self.parts.lock().file_contents {
            return Ok(false);
        }
        let mut pem = contents.iter();
        let mut next = || pem.next().map(Vec::as_slice).unwrap_or_default();
        let client = self.sources.client_ca.as_ref().map(|_| CertificateAuthority::from_pem(next())).transpose()?;
        let front_proxy = match &self.sources.front_proxy {
            Some((_, settings)) => Some(FrontProxy::new(next(), settings.clone())?),
            None => None,
        };
        let mut parts = self.parts.lock();
        parts.files = Part { client, front_proxy };
        parts.file_contents = contents;
        self.publish(&parts);
        Ok(true)
    }

    /// Reads the files again from time to time until told to stop.
    pub async fn keep_files_fresh(self: Arc<Self>, every: Duration, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            match self.reload_files() {
                Ok(true) => tracing::info!("client authorities reloaded"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "client authorities not reloaded, the old ones stay"),
            }
        }
    }

    /// Reads what the control plane publishes: soon and often until it worked once, then every minute.
    pub async fn follow_control_plane(self: Arc<Self>, client: kube::Client, stop: CancellationToken) {
        let api: Api<ConfigMap> = Api::namespaced(client, CONFIG_NAMESPACE);
        let mut retry = FIRST_RETRY;
        loop {
            let Some(read) = stop.run_until_cancelled(api.get_opt(CONFIG_NAME)).await else { return };
            let wait = match read.map(|config| self.take_published(config)) {
                Ok(Ok(())) => {
                    retry = FIRST_RETRY;
                    REREAD
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "published authentication settings cannot be used, the old ones stay");
                    LONGEST_RETRY
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot read {CONFIG_NAMESPACE}/{CONFIG_NAME}, trying again");
                    retry = (retry * 2).min(LONGEST_RETRY);
                    retry
                }
            };
            if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    /// Takes over what the control plane published; nothing at all, if there is no such ConfigMap.
    pub(crate) fn take_published(&self, config: Option<ConfigMap>) -> Result<(), TlsError> {
        if config.is_none() {
            tracing::warn!("{CONFIG_NAMESPACE}/{CONFIG_NAME} does not exist: front proxies cannot be recognized");
        }
        let data = config.and_then(|config| config.data).unwrap_or_default();
        if self.parts.lock().published_data.as_ref() == Some(&data) {
            return Ok(());
        }
        let part = published_part(&data)?;
        let mut parts = self.parts.lock();
        parts.published = Some(part);
        parts.published_data = Some(data);
        self.publish(&parts);
        Ok(())
    }

    /// What flags name counts in place of what the control plane publishes, for each of the two.
    fn publish(&self, parts: &Parts) {
        let published = parts.published.as_ref();
        let client = parts.files.client.as_ref().or(published.and_then(|part| part.client.as_ref()));
        let front_proxy = parts.files.front_proxy.as_ref().or(published.and_then(|part| part.front_proxy.as_ref()));
        let complete = parts.files.client.is_some() && parts.files.front_proxy.is_some();
        self.current.store(Arc::new(Trust {
            version: self.current.load().version + 1,
            pending: self.looks_up && published.is_none() && !complete,
            client: client.cloned(),
            front_proxy: front_proxy.cloned(),
        }));
    }
}

fn published_part(data: &BTreeMap<String, String>) -> Result<Part, TlsError> {
    let pem = |key: &str| data.get(key).filter(|text| !text.trim().is_empty()).map(String::as_bytes);
    let list = |key: &str| match data.get(key).filter(|text| !text.trim().is_empty()) {
        None => Ok(Vec::new()),
        Some(text) => serde_json::from_str::<Vec<String>>(text)
            .map_err(|error| TlsError::Pem { what: key.to_owned(), why: format!("not a JSON list: {error}") }),
    };
    let client = pem("client-ca-file").map(CertificateAuthority::from_pem).transpose()?;
    let front_proxy = match pem("requestheader-client-ca-file") {
        None => None,
        Some(pem) => Some(FrontProxy::new(
            pem,
            FrontProxySettings {
                allowed_names: list("requestheader-allowed-names")?,
                username_headers: list("requestheader-username-headers")?,
                group_headers: list("requestheader-group-headers")?,
                uid_headers: list("requestheader-uid-headers")?,
                extra_prefixes: list("requestheader-extra-headers-prefix")?,
            },
        )?),
    };
    Ok(Part { client, front_proxy })
}
