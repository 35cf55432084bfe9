//! ResourceRegistry (search.karmada.io/v1alpha1) as it is read. What is stored stays JSON, so that fields this program does
//! not know survive; these types are a view of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, ObjectMeta};
use serde::{Deserialize, Deserializer, Serialize};

/// What to cache, of which clusters, and where to send it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ResourceRegistry {
    /// Name, labels, versions.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(deserialize_with = "or_default")]
    pub spec: ResourceRegistrySpec,
    /// How well it is met.
    #[serde(deserialize_with = "or_default")]
    pub status: ResourceRegistryStatus,
}

impl ResourceRegistry {
    /// `metadata.name`
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// `metadata.generation`; 0 for objects written by a server that keeps none.
    pub fn generation(&self) -> i64 {
        self.metadata.generation.unwrap_or_default()
    }
}

/// `spec` of a ResourceRegistry.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceRegistrySpec {
    /// Of which clusters; all if empty.
    #[serde(deserialize_with = "or_default")]
    pub target_cluster: ClusterAffinity,
    /// Which kinds.
    #[serde(deserialize_with = "or_default")]
    pub resource_selectors: Vec<ResourceSelector>,
    /// Where the objects are sent, beside the cache.
    pub backend_store: Option<BackendStoreConfig>,
}

/// Conditions on clusters; see the indexer for what they mean.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterAffinity {
    /// On the cluster's labels.
    pub label_selector: Option<LabelSelector>,
    /// On where the cluster runs.
    pub field_selector: Option<FieldSelector>,
    /// Only these.
    #[serde(deserialize_with = "or_default")]
    pub cluster_names: Vec<String>,
    /// Never these.
    #[serde(deserialize_with = "or_default")]
    pub exclude: Vec<String>,
}

/// Conditions on where a cluster runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FieldSelector {
    /// All must hold.
    #[serde(deserialize_with = "or_default")]
    pub match_expressions: Vec<FieldSelectorRequirement>,
}

/// One of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FieldSelectorRequirement {
    /// `provider`, `region` or `zone`.
    pub key: String,
    /// `In` or `NotIn`.
    pub operator: String,
    /// The values.
    #[serde(deserialize_with = "or_default")]
    pub values: Vec<String>,
}

/// One kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceSelector {
    /// `v1` or `group/version`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Only this namespace; all if empty.
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
}

/// Where objects are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendStoreConfig {
    /// To OpenSearch.
    pub open_search: Option<OpenSearchConfig>,
}

/// An OpenSearch cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OpenSearchConfig {
    /// URLs of its nodes.
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<String>,
    /// The Secret with its credentials.
    pub secret_ref: Option<SecretReference>,
}

/// A Secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SecretReference {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// `status` of a ResourceRegistry.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct ResourceRegistryStatus {
    /// `Ready`, and whatever others write.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A null stands for the default, as it does for Kubernetes' decoders.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_registry_with_nulls_and_unknown_fields_is_read() {
        let text = r#"{"kind":"ResourceRegistry","metadata":{"name":"a","generation":3},"future":1,
            "spec":{"targetCluster":{"clusterNames":null},"resourceSelectors":null,"new":{}},"status":null}"#;
        let registry: ResourceRegistry = serde_json::from_str(text).unwrap();
        assert_eq!((registry.name(), registry.generation()), ("a", 3));
        assert!(registry.spec.resource_selectors.is_empty());
    }
}
