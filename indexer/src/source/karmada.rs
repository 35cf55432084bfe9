//! Members from a Karmada control plane: `Cluster` objects (cluster.karmada.io/v1alpha1) and the Secrets they name.
//!
//! Clusters are watched; so are the Secrets of each namespace that some Cluster names, so that a rotated token is used
//! within moments. A Cluster that cannot be read, or whose Secret is missing, is a member that says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use http::{HeaderName, HeaderValue, Uri};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource as KubeResource, DynamicObject};
use kube::config::AuthInfo;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, ResourceExt};
use secrecy::SecretString;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::{MemberSet, access};
use crate::member::{Location, Member, MemberAccess, MemberHealth};

/// Most changes of Clusters taken in at one time.
const CHUNK: usize = 1000;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClusterSpec {
    api_endpoint: String,
    secret_ref: Option<SecretReference>,
    #[serde(rename = "insecureSkipTLSVerification")]
    insecure_skip_tls_verification: bool,
    #[serde(rename = "proxyURL")]
    proxy_url: String,
    proxy_header: BTreeMap<String, String>,
    provider: String,
    region: String,
    zone: String,
    zones: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default)]
struct SecretReference {
    namespace: String,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ClusterStatus {
    conditions: Vec<ClusterCondition>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClusterCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    last_transition_time: Option<Timestamp>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// What of a Secret is of interest.
#[derive(Clone, Default, PartialEq, Eq)]
struct Credentials {
    token: Vec<u8>,
    ca_bundle: Vec<u8>,
}

/// Starts following the control plane's clusters.
pub fn start(client: Client, cancelled: CancellationToken) -> watch::Receiver<Arc<MemberSet>> {
    let (sender, receiver) = watch::channel(Arc::default());
    let (secrets, changed_secrets) = mpsc::unbounded_channel();
    let source = KarmadaSource {
        client,
        members: sender,
        clusters: BTreeMap::new(),
        listed: BTreeMap::new(),
        loaded: false,
        secrets: BTreeMap::new(),
        namespaces: BTreeMap::new(),
        secret_changes: secrets,
    };
    tokio::spawn(cancelled.run_until_cancelled_owned(source.run(changed_secrets)));
    receiver
}

/// What happened to the Secrets of a namespace.
enum SecretChange {
    Set(SecretReference, Option<Credentials>),
    /// The namespace was listed whole: only these are there.
    Listed(String, BTreeMap<String, Credentials>),
    /// The namespace cannot be read, and why.
    Failed(String, String),
}

struct KarmadaSource {
    client: Client,
    members: watch::Sender<Arc<MemberSet>>,
    clusters: BTreeMap<String, DynamicObject>,
    listed: BTreeMap<String, DynamicObject>,
    loaded: bool,
    secrets: BTreeMap<SecretReference, Credentials>,
    /// Namespaces whose Secrets are watched, and whether they have been listed.
    namespaces: BTreeMap<String, SecretWatch>,
    secret_changes: mpsc::UnboundedSender<SecretChange>,
}

struct SecretWatch {
    listed: bool,
    failure: Option<String>,
    _stop: DropGuard,
}

impl KarmadaSource {
    async fn run(mut self, mut changed_secrets: mpsc::UnboundedReceiver<SecretChange>) {
        let kind = kube::core::GroupVersionKind::gvk("cluster.karmada.io", "v1alpha1", "Cluster");
        let resource = KubeResource::from_gvk_with_plural(&kind, "clusters");
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        // Changes that have arrived together are published once.
        let mut events = watcher(api, watcher::Config::default()).default_backoff().ready_chunks(CHUNK).boxed();
        let mut failing = false;
        loop {
            tokio::select! {
                chunk = events.next() => match chunk {
                    Some(chunk) => self.take(chunk, &mut failing),
                    None => return,
                },
                Some(change) = changed_secrets.recv() => self.apply_secret(change),
            }
            while let Ok(change) = changed_secrets.try_recv() {
                self.apply_secret(change);
            }
            self.follow_secrets();
            self.publish();
        }
    }

    fn take(&mut self, chunk: Vec<Result<watcher::Event<DynamicObject>, watcher::Error>>, failing: &mut bool) {
        for event in chunk {
            match event {
                Ok(event) => {
                    // A new attempt begins before it is known to succeed.
                    if !matches!(event, watcher::Event::Init) {
                        *failing = false;
                    }
                    self.apply(event);
                }
                Err(error) => {
                    if !std::mem::replace(failing, true) {
                        warn!(%error, "the control plane's Clusters cannot be read, retrying");
                    }
                }
            }
        }
    }

    fn apply(&mut self, event: watcher::Event<DynamicObject>) {
        match event {
            watcher::Event::Init => self.listed.clear(),
            watcher::Event::InitApply(cluster) => drop(self.listed.insert(cluster.name_any(), cluster)),
            watcher::Event::InitDone => {
                self.clusters = std::mem::take(&mut self.listed);
                self.loaded = true;
            }
            watcher::Event::Apply(cluster) => drop(self.clusters.insert(cluster.name_any(), cluster)),
            watcher::Event::Delete(cluster) => drop(self.clusters.remove(&cluster.name_any())),
        }
    }

    fn apply_secret(&mut self, change: SecretChange) {
        match change {
            SecretChange::Set(reference, credentials) => {
                // The watch goes on.
                if let Some(watch) = self.namespaces.get_mut(&reference.namespace) {
                    watch.failure = None;
                }
                match credentials {
                    Some(credentials) => drop(self.secrets.insert(reference, credentials)),
                    None => drop(self.secrets.remove(&reference)),
                }
            }
            SecretChange::Listed(namespace, secrets) => {
                self.secrets.retain(|reference, _| reference.namespace != namespace);
                if let Some(watch) = self.namespaces.get_mut(&namespace) {
                    watch.listed = true;
                    watch.failure = None;
                }
                let reference = |name| SecretReference { namespace: namespace.clone(), name };
                self.secrets.extend(secrets.into_iter().map(|(name, secret)| (reference(name), secret)));
            }
            SecretChange::Failed(namespace, error) => {
                if let Some(watch) = self.namespaces.get_mut(&namespace) {
                    watch.failure = Some(error);
                }
            }
        }
    }

    /// One watch for each namespace that some Cluster's `secretRef` names.
    fn follow_secrets(&mut self) {
        let named: BTreeSet<String> = self
            .clusters
            .values()
            .filter_map(|cluster| spec(cluster).ok()?.secret_ref)
            .map(|reference| reference.namespace)
            .filter(|namespace| !namespace.is_empty())
            .collect();
        self.namespaces.retain(|namespace, _| named.contains(namespace));
        for namespace in named {
            self.namespaces.entry(namespace.clone()).or_insert_with(|| {
                let cancelled = CancellationToken::new();
                let watch = watch_secrets(self.client.clone(), namespace, self.secret_changes.clone());
                tokio::spawn(cancelled.clone().run_until_cancelled_owned(watch));
                SecretWatch { listed: false, failure: None, _stop: cancelled.drop_guard() }
            });
        }
    }

    fn publish(&self) {
        // Until a namespace's Secrets are listed, "not found" would be a guess.
        let is_known = |watch: &SecretWatch| watch.listed || watch.failure.is_some();
        let is_loaded = self.loaded && self.namespaces.values().all(is_known);
        if !is_loaded && !self.members.borrow().loaded {
            return;
        }
        let members = self
            .clusters
            .values()
            .filter(|cluster| cluster.metadata.deletion_timestamp.is_none())
            .map(|cluster| self.member(cluster))
            .map(|member| (member.name.clone(), member))
            .collect();
        super::tell(&self.members, MemberSet { members, loaded: true, ..MemberSet::default() });
    }

    fn member(&self, cluster: &DynamicObject) -> Member {
        let spec = spec(cluster);
        let access = match &spec {
            Ok(spec) => self.access(spec).unwrap_or_else(MemberAccess::Unusable),
            Err(error) => MemberAccess::Unusable(format!("the Cluster object cannot be read: {error}")),
        };
        let spec = spec.unwrap_or_default();
        let zones = if spec.zones.is_empty() && !spec.zone.is_empty() { vec![spec.zone] } else { spec.zones };
        Member {
            name: cluster.name_any().into(),
            labels: cluster.labels().clone(),
            location: Location { provider: spec.provider, region: spec.region, zones },
            health: health(cluster),
            access,
        }
    }

    fn access(&self, spec: &ClusterSpec) -> Result<MemberAccess, String> {
        if spec.api_endpoint.is_empty() {
            return Err("the Cluster has no spec.apiEndpoint".to_owned());
        }
        let reference = spec.secret_ref.as_ref().ok_or("the Cluster has no spec.secretRef")?;
        let failure = self.namespaces.get(&reference.namespace).and_then(|watch| watch.failure.as_deref());
        let secret = self.secrets.get(reference).ok_or_else(|| {
            let why = failure.unwrap_or("not found");
            format!("Secret {}/{}: {why}", reference.namespace, reference.name)
        })?;
        let config = connection_settings(spec, reference, secret)?;
        let proxy_headers = if spec.proxy_url.is_empty() { Vec::new() } else { proxy_headers(spec)? };
        Ok(MemberAccess::Api(access(config, proxy_headers)))
    }
}

fn connection_settings(spec: &ClusterSpec, at: &SecretReference, secret: &Credentials) -> Result<Config, String> {
    // The text is not quoted: a proxy's URL may hold a password.
    let uri = |text: &str, field: &str| text.parse::<Uri>().map_err(|error| format!("spec.{field} is no URL: {error}"));
    let token = str::from_utf8(&secret.token).map(str::trim).unwrap_or_default();
    if token.is_empty() {
        return Err(format!("Secret {}/{} has no token", at.namespace, at.name));
    }
    let mut config = Config::new(uri(&spec.api_endpoint, "apiEndpoint")?);
    config.auth_info = AuthInfo { token: Some(SecretString::from(token.to_owned())), ..AuthInfo::default() };
    config.accept_invalid_certs = spec.insecure_skip_tls_verification;
    if !spec.insecure_skip_tls_verification && !secret.ca_bundle.is_empty() {
        config.root_cert = Some(
            certificates(&secret.ca_bundle)
                .map_err(|error| format!("Secret {}/{}: caBundle: {error}", at.namespace, at.name))?,
        );
    }
    if !spec.proxy_url.is_empty() {
        config.proxy_url = Some(uri(&spec.proxy_url, "proxyURL")?);
    }
    Ok(config)
}

fn proxy_headers(spec: &ClusterSpec) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let read = |(name, value): (&String, &String)| {
        let name = HeaderName::try_from(name).map_err(|error| format!("spec.proxyHeader {name:?}: {error}"))?;
        let value = HeaderValue::try_from(value).map_err(|error| format!("spec.proxyHeader {name}: {error}"))?;
        Ok((name, value))
    };
    spec.proxy_header.iter().map(read).collect()
}

fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let found: Result<Vec<_>, _> = rustls_pemfile::certs(&mut &*pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("it holds no certificate".to_owned()),
        Ok(found) => Ok(found.into_iter().map(|certificate| certificate.to_vec()).collect()),
        Err(error) => Err(error.to_string()),
    }
}

fn spec(cluster: &DynamicObject) -> Result<ClusterSpec, String> {
    match cluster.data.get("spec") {
        Some(spec) => ClusterSpec::deserialize(spec).map_err(|error| error.to_string()),
        None => Ok(ClusterSpec::default()),
    }
}

fn health(cluster: &DynamicObject) -> MemberHealth {
    let status = cluster.data.get("status").map(ClusterStatus::deserialize);
    let status = match status {
        Some(Ok(status)) => status,
        Some(Err(error)) => {
            debug!(cluster = %cluster.name_any(), %error, "unreadable status");
            ClusterStatus::default()
        }
        None => ClusterStatus::default(),
    };
    match status.conditions.into_iter().find(|condition| condition.kind == "Ready") {
        Some(ready) if ready.status == "True" => MemberHealth::Ready,
        Some(other) => MemberHealth::NotReady {
            since: other.last_transition_time.unwrap_or_else(Timestamp::now),
            reason: if other.message.is_empty() { other.reason } else { other.message },
        },
        None => MemberHealth::NotReady {
            since: cluster.metadata.creation_timestamp.as_ref().map_or_else(Timestamp::now, |time| time.0),
            reason: "its status has no Ready condition yet".to_owned(),
        },
    }
}

async fn watch_secrets(client: Client, namespace: String, changes: mpsc::UnboundedSender<SecretChange>) {
    let api: Api<Secret> = Api::namespaced(client, &namespace);
    let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut listed = BTreeMap::new();
    let mut failing = false;
    while let Some(event) = events.next().await {
        let reference = |secret: &Secret| SecretReference { namespace: namespace.clone(), name: secret.name_any() };
        let change = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(watcher::Event::InitApply(secret)) => {
                listed.insert(secret.name_any(), credentials(secret));
                continue;
            }
            Ok(watcher::Event::InitDone) => SecretChange::Listed(namespace.clone(), std::mem::take(&mut listed)),
            Ok(watcher::Event::Apply(secret)) => SecretChange::Set(reference(&secret), Some(credentials(secret))),
            Ok(watcher::Event::Delete(secret)) => SecretChange::Set(reference(&secret), None),
            Err(error) => {
                if !failing {
                    warn!(%namespace, %error, "the clusters' Secrets cannot be read, retrying");
                }
                failing = true;
                SecretChange::Failed(namespace.clone(), format!("the namespace's Secrets cannot be read: {error}"))
            }
        };
        failing &= matches!(change, SecretChange::Failed(..));
        if changes.send(change).is_err() {
            return;
        }
    }
}

fn credentials(secret: Secret) -> Credentials {
    let mut data = secret.data.unwrap_or_default();
    let mut take = |key: &str| data.remove(key).map(|value| value.0).unwrap_or_default();
    Credentials { token: take("token"), ca_bundle: take("caBundle") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster(spec: serde_json::Value, status: serde_json::Value) -> DynamicObject {
        let object = json!({"apiVersion": "cluster.karmada.io/v1alpha1", "kind": "Cluster",
            "metadata": {"name": "member1"}, "spec": spec, "status": status});
        serde_json::from_value(object).unwrap()
    }

    fn settings(spec: serde_json::Value, token: &str) -> Result<Config, String> {
        let at = SecretReference { namespace: "ns".into(), name: "member1".into() };
        let secret = Credentials { token: token.into(), ca_bundle: Vec::new() };
        let spec = ClusterSpec::deserialize(spec).map_err(|error| error.to_string())?;
        connection_settings(&spec, &at, &secret)
    }

    #[test]
    fn a_cluster_is_ready_only_if_it_says_so() {
        let ready = |status: &str| {
            json!({"conditions": [{"type": "Ready", "status": status, "message": "it sleeps",
            "lastTransitionTime": "2026-01-02T03:04:05Z"}]})
        };
        assert_eq!(health(&cluster(json!({}), ready("True"))), MemberHealth::Ready);
        let since = "2026-01-02T03:04:05Z".parse().unwrap();
        let expected = MemberHealth::NotReady { since, reason: "it sleeps".into() };
        assert_eq!(health(&cluster(json!({}), ready("Unknown"))), expected);
        assert!(matches!(health(&cluster(json!({}), json!({}))), MemberHealth::NotReady { .. }));
    }

    #[test]
    fn endpoint_proxy_and_token_become_connection_settings() {
        let spec = json!({"apiEndpoint": "https://10.0.0.1:6443", "proxyURL": "http://proxy:3128",
            "proxyHeader": {"x-team": "a"}, "insecureSkipTLSVerification": true});
        let config = settings(spec, "secret\n").unwrap();
        assert_eq!(config.cluster_url.to_string(), "https://10.0.0.1:6443/");
        assert!(config.accept_invalid_certs && config.proxy_url.is_some());
        assert!(config.headers.is_empty(), "what is meant for the proxy is not sent to the member");
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = settings(json!({"apiEndpoint": "https://a:1"}), "").unwrap_err();
        assert_eq!(error, "Secret ns/member1 has no token");
        assert!(settings(json!({"apiEndpoint": "not a url"}), "t").unwrap_err().contains("spec.apiEndpoint"));
        assert_eq!(certificates(b"nonsense").unwrap_err(), "it holds no certificate");
    }
}
