//! What a member cluster is to the rest of this crate: a name, what registries select it by, whether it answers, and how to
//! reach it. Written by the sources in [`crate::source`], read by the plan and the supervisor.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use jiff::Timestamp;
use kube::Config;
use twox_hash::XxHash3_64;

use crate::resource::ClusterName;

/// One member cluster, as its source describes it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, unique over all sources.
    pub name: ClusterName,
    /// Labels that a registry's `labelSelector` is matched against.
    pub labels: BTreeMap<String, String>,
    /// Where it runs, for a registry's `fieldSelector`.
    pub location: Location,
    /// Whether its source says that it can be reached.
    pub health: MemberHealth,
    /// How to read its objects.
    pub access: MemberAccess,
}

/// `spec.provider`, `spec.region` and `spec.zones` of a Cluster; empty where unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Location {
    /// Cloud provider.
    pub provider: String,
    /// Region.
    pub region: String,
    /// Zones the cluster spans.
    pub zones: Vec<String>,
}

/// What the source says of a member's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberHealth {
    /// It answers.
    Ready,
    /// It does not; its last objects are kept and shown as such.
    NotReady {
        /// Since when.
        since: Timestamp,
        /// Why, in the words of the source.
        reason: String,
    },
}

/// How to read a member's objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberAccess {
    /// From its API server.
    Api(Arc<ApiAccess>),
    /// From a folder of manifests.
    Snapshot(PathBuf),
    /// Not at all for now, e.g. because its Secret is missing; the text says what to do.
    Unusable(String),
}

/// Connection settings of a member's API server.
#[derive(Debug)]
pub struct ApiAccess {
    /// Endpoint, trust and credentials, ready for a client.
    pub config: Config,
    /// Sent to the proxy that `config` names, and to nobody else.
    pub proxy_headers: Vec<(HeaderName, HeaderValue)>,
    /// Changes whenever endpoint, trust or credentials do, so that readers know when to reconnect.
    pub fingerprint: u64,
}

impl PartialEq for ApiAccess {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for ApiAccess {}

impl ApiAccess {
    /// The address and the authority that vouches for it: with others it is another cluster.
    pub(crate) fn origin(&self) -> String {
        let authority = self.config.root_cert.iter().flatten().flatten().copied().collect::<Vec<u8>>();
        format!("{} {:016x}", self.config.cluster_url, XxHash3_64::oneshot(&authority))
    }
}
