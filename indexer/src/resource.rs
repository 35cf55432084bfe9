//! Names of things: clusters, resources, objects. Immutable, cheap to clone, ordered as answers are ordered.
//!
//! Everything in this crate speaks of objects by (cluster, group, resource, namespace, name); a UID is never an identity,
//! because cloned clusters share them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Name of a member cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(Arc<str>);

impl ClusterName {
    /// The name as written in the Cluster object, the kubeconfig context or the snapshot folder.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ClusterName {
    fn from(name: &str) -> Self {
        Self(Arc::from(name))
    }
}

impl From<String> for ClusterName {
    fn from(name: String) -> Self {
        Self(Arc::from(name))
    }
}

impl std::borrow::Borrow<str> for ClusterName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for ClusterName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ClusterName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// A group, a version and a plural resource name, as they stand in a request path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupVersionResource {
    /// API group, empty for the core group.
    pub group: Arc<str>,
    /// API version, e.g. `v1`.
    pub version: Arc<str>,
    /// Plural, lower-case resource name, e.g. `deployments`.
    pub resource: Arc<str>,
}

impl GroupVersionResource {
    /// Joins the three names.
    pub fn new(group: &str, version: &str, resource: &str) -> Self {
        Self { group: Arc::from(group), version: Arc::from(version), resource: Arc::from(resource) }
    }

    /// `v1` or `apps/v1`: the `apiVersion` of the resource's objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The path of the collection on an API server, over all namespaces or within one.
    pub fn collection_path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.resource),
            None => format!("{root}/{}", self.resource),
        }
    }
}

impl fmt::Display for GroupVersionResource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.api_version(), self.resource)
    }
}

/// A resource as an API server's discovery announces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiResource {
    /// Where it is served.
    pub gvr: GroupVersionResource,
    /// Kind of its objects, e.g. `Deployment`.
    pub kind: Arc<str>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether it can be both listed and watched.
    pub watchable: bool,
}
