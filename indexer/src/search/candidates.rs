//! What a question is about: the parts of the cache as they are at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Hit;
use crate::cache::{Cache, Part, ResourceCache};
use crate::codec::Decoder;
use crate::entry::Entry;
use crate::resource::{ClusterName, GroupVersionResource};
use crate::version::MergedVersion;

/// One cluster's objects of one resource.
pub(super) struct Candidate {
    pub(super) cluster: ClusterName,
    pub(super) part: Part,
    pub(super) decoder: Decoder,
    /// Which of the resources it is of.
    pub(super) resource: usize,
}

impl Candidate {
    /// Whether it is in step, and how mature its version is.
    fn rank(&self) -> (bool, (u8, Vec<u32>)) {
        (self.part.sync.synced, maturity(&self.part.served.gvr.version))
    }
}

/// How far a version is on the way from `v1alpha1` over `v1beta1` and `v1` to `v2`.
fn maturity(version: &str) -> (u8, Vec<u32>) {
    let stability = match version {
        _ if version.contains("alpha") => 0,
        _ if version.contains("beta") => 1,
        _ => 2,
    };
    let numbers = version.split(|character: char| !character.is_ascii_digit());
    (stability, numbers.filter_map(|number| number.parse().ok()).collect())
}

/// Whether a cluster's objects are not cached in a newer version too.
pub(super) fn is_foremost(cache: &Cache, resource: &GroupVersionResource, cluster: &ClusterName) -> bool {
    let others = cache.all().into_iter().filter(|other| {
        let other = other.resource();
        (&other.group, &other.resource) == (&resource.group, &resource.resource) && other.version != resource.version
    });
    let mine = maturity(&resource.version);
    others.filter(|other| maturity(&other.resource().version) > mine).all(|other| other.part(cluster).is_none())
}

/// What may be looked at: each object once, also if registries select its resource in several versions. Then the part counts
/// that is in step, and of two that are, the newer version.
pub(super) struct Candidates {
    pub(super) parts: Vec<Candidate>,
    pub(super) resources: Vec<Looked>,
    pub(super) version: MergedVersion,
}

/// A resource that was looked at.
pub(super) struct Looked {
    pub(super) cache: Arc<ResourceCache>,
    /// The first change that was not seen.
    pub(super) sequence: u64,
}

impl Candidates {
    pub(super) fn of(cache: &Cache, clusters: Option<&BTreeSet<ClusterName>>) -> Self {
        let mut parts: BTreeMap<_, Candidate> = BTreeMap::new();
        let mut versions: BTreeMap<ClusterName, u64> = BTreeMap::new();
        let mut resources = Vec::new();
        for resource in cache.all() {
            let snapshot = resource.snapshot(clusters);
            let decoder = resource.codec().decoder();
            for (cluster, part) in snapshot.parts {
                // A watch from here on must miss nothing of the slowest.
                if let Some(reached) = part.version.as_ref().and_then(|version| version.parse().ok()) {
                    let slowest = versions.entry(cluster.clone()).or_insert(reached);
                    *slowest = reached.min(*slowest);
                }
                let gvr = resource.resource();
                let key = (Arc::clone(&gvr.group), Arc::clone(&gvr.resource), cluster.clone());
                let candidate = Candidate { cluster, part, decoder: decoder.clone(), resource: resources.len() };
                match parts.get(&key) {
                    Some(present) if present.rank() >= candidate.rank() => {}
                    _ => drop(parts.insert(key, candidate)),
                }
            }
            resources.push(Looked { cache: resource, sequence: snapshot.sequence });
        }
        let mut version = MergedVersion::default();
        for (cluster, reached) in versions {
            version.set(cluster, Arc::from(reached.to_string()));
        }
        Self { parts: parts.into_values().collect(), resources, version }
    }

    /// An object of the candidate with this number.
    pub(super) fn hit(&self, at: usize, entry: Entry) -> Option<Hit> {
        let Candidate { cluster, part, decoder, .. } = self.parts.get(at)?;
        Some(Hit { cluster: cluster.clone(), served: part.served.clone(), entry, decoder: decoder.clone() })
    }
}
