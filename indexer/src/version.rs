//! Versions over many clusters, and where the next page begins.
//!
//! A merged resource version is the base64url form, without padding, of compact JSON `{"cluster":"version",…}` sorted by
//! cluster name: the form karmada-search gives, so that clients can carry one over. A continue token is the same encoding of
//! our own fields; clients must treat both as opaque.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize, Serializer as _};

use crate::resource::ClusterName;
use crate::search::moments::Moments;

/// Longest token that is looked at, in bytes: room for thousands of clusters.
const TOKEN_LIMIT: usize = 1 << 20;

/// A token is not one of ours, or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a version or token that this server gave")]
pub struct UnknownToken;

/// How far each cluster's part of an answer reaches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MergedVersion(BTreeMap<ClusterName, Arc<str>>);

impl MergedVersion {
    /// Sets a cluster's version.
    pub fn set(&mut self, cluster: ClusterName, version: Arc<str>) {
        self.0.insert(cluster, version);
    }

    /// Forgets a cluster.
    pub fn remove(&mut self, cluster: &ClusterName) {
        self.0.remove(cluster);
    }

    /// A cluster's version, if it has a part in it.
    pub fn get(&self, cluster: &ClusterName) -> Option<&str> {
        self.0.get(cluster).map(|version| &**version)
    }

    /// The clusters that have a part in it.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        self.0.keys()
    }

    /// The opaque form.
    pub fn encode(&self) -> String {
        encode_versions(self.0.iter())
    }

    /// Reads the opaque form.
    pub fn decode(token: &str) -> Result<Self, UnknownToken> {
        let plain: BTreeMap<String, String> = decode(token)?;
        Ok(Self(plain.into_iter().map(|(name, version)| (ClusterName::from(name), Arc::from(version))).collect()))
    }
}

/// Where the next page of a list begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContinueToken {
    /// The version the first page showed, repeated on each page: watching from it misses nothing.
    #[serde(rename = "rv")]
    pub resource_version: String,
    /// Namespace, name and cluster of the last object given.
    pub after: (String, String, String),
    /// Objects given on the pages so far.
    pub given: u64,
    /// The moments of backends that the pages show.
    #[serde(default, skip_serializing_if = "Moments::is_empty")]
    pub moments: Moments,
}

impl ContinueToken {
    /// The opaque form.
    pub fn encode(&self) -> String {
        encode(self)
    }

    /// Reads the opaque form.
    pub fn decode(token: &str) -> Result<Self, UnknownToken> {
        decode(token)
    }
}

/// The opaque form of clusters' versions, in the order of their names.
pub(crate) fn encode_versions<'a>(versions: impl Iterator<Item = (&'a ClusterName, &'a Arc<str>)>) -> String {
    let mut plain = Vec::new();
    // Maps of strings always serialize.
    drop(serde_json::Serializer::new(&mut plain).collect_map(versions));
    URL_SAFE_NO_PAD.encode(plain)
}

fn encode(plain: &impl Serialize) -> String {
    // Maps of strings and structs of strings and numbers always serialize.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(plain).unwrap_or_default())
}

fn decode<T: for<'de> Deserialize<'de>>(token: &str) -> Result<T, UnknownToken> {
    if token.len() > TOKEN_LIMIT {
        return Err(UnknownToken);
    }
    let plain = URL_SAFE_NO_PAD.decode(token).map_err(|_| UnknownToken)?;
    serde_json::from_slice(&plain).map_err(|_| UnknownToken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_form_is_the_one_karmada_search_gives() {
        let mut version = MergedVersion::default();
        version.set("cluster2".into(), "5678".into());
        version.set("cluster1".into(), "1234".into());
        assert_eq!(version.encode(), "eyJjbHVzdGVyMSI6IjEyMzQiLCJjbHVzdGVyMiI6IjU2NzgifQ");
    }

    #[test]
    fn a_members_own_version_is_not_mistaken_for_a_merged_one() {
        assert_eq!(MergedVersion::decode("20935"), Err(UnknownToken));
    }

    proptest! {
        #[test]
        fn versions_and_tokens_survive_the_round_trip(
            parts in proptest::collection::btree_map("[a-z0-9-]{1,12}", "[0-9]{0,12}", 0..6),
            after in ("\\PC{0,8}", "\\PC{0,8}", "\\PC{0,8}"), given in any::<u64>(),
        ) {
            let mut version = MergedVersion::default();
            for (name, part) in parts {
                version.set(name.into(), part.into());
            }
            prop_assert_eq!(&MergedVersion::decode(&version.encode()).unwrap(), &version);
            let token = ContinueToken { resource_version: version.encode(), after, given, moments: Moments::default() };
            prop_assert_eq!(ContinueToken::decode(&token.encode()).unwrap(), token);
        }

        #[test]
        fn arbitrary_text_is_refused_without_a_panic(text in "\\PC{0,40}") {
            let _ = MergedVersion::decode(&text);
            let _ = ContinueToken::decode(&text);
        }
    }
}
