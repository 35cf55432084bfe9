//! What a question is about: the parts of the cache as they are at one moment.

use std::collections::{BTreeMap, BTreeSet, HashMap};
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
    pub(super) part: Arc<Part>,
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

pub(crate) fn is_another_version(one: &GroupVersionResource, other: &GroupVersionResource) -> bool {
    (&one.group, &one.resource) == (&other.group, &other.resource) && one.version != other.version
}

/// The same resource in other versions.
pub(super) fn other_versions(cache: &Cache, resource: &GroupVersionResource) -> Vec<Arc<ResourceCache>> {
    cache.all().into_iter().filter(|other| is_another_version(other.resource(), resource)).collect()
}

/// Whether a cluster's objects of a resource count, and not those of the same resource in another version.
pub(super) fn is_foremost(cache: &Cache, resource: &ResourceCache, cluster: &ClusterName) -> bool {
    let others = other_versions(cache, resource.resource());
    let rank = |resource: &ResourceCache| {
        let part = resource.part(cluster)?;
        Some((part.sync.synced, maturity(&part.served.gvr.version)))
    };
    others.is_empty() || others.iter().all(|other| rank(other) <= rank(resource))
}

/// What may be looked at: each object once, also if registries select its resource in several versions. Then the part counts
/// that is in step, and of two that are, the newer version.
pub(super) struct Candidates {
    pub(super) parts: Vec<Candidate>,
    pub(super) resources: Vec<Looked>,
    pub(super) version: MergedVersion,
}

/// Group, plural name and cluster: what a part is in whatever version.
type PartName = (Arc<str>, Arc<str>, ClusterName);

/// A resource that was looked at.
pub(super) struct Looked {
    pub(super) cache: Arc<ResourceCache>,
    /// The first change that was not seen.
    pub(super) sequence: u64,
}

impl Candidates {
    pub(super) fn of(cache: &Cache, clusters: Option<&BTreeSet<ClusterName>>) -> Self {
        let all = cache.all();
        let mut found = Self { parts: Vec::new(), resources: Vec::new(), version: MergedVersion::default() };
        // Of resources that are cached in several versions: where each cluster's part stands.
        let mut foremost: BTreeMap<PartName, usize> = BTreeMap::new();
        let mut versions: HashMap<ClusterName, u64, ahash::RandomState> = HashMap::default();
        for resource in all.iter().cloned() {
            let has_others = all.iter().any(|other| is_another_version(other.resource(), resource.resource()));
            let snapshot = resource.snapshot(clusters);
            let decoder = resource.codec().decoder();
            for (cluster, part) in snapshot.parts {
                // A watch from here on must miss nothing of the slowest.
                if let Some(reached) = part.version.as_ref().and_then(|version| version.parse().ok()) {
                    let slowest = versions.entry(cluster.clone()).or_insert(reached);
                    *slowest = reached.min(*slowest);
                }
                let key = has_others.then(|| {
                    let GroupVersionResource { group, resource, .. } = resource.resource();
                    (Arc::clone(group), Arc::clone(resource), cluster.clone())
                });
                let candidate = Candidate { cluster, part, decoder: decoder.clone(), resource: found.resources.len() };
                found.add(candidate, key, &mut foremost);
            }
            found.resources.push(Looked { cache: resource, sequence: snapshot.sequence });
        }
        for (cluster, reached) in versions {
            found.version.set(cluster, Arc::from(reached.to_string()));
        }
        found
    }

    /// Adds a part, unless the same objects are there in a version that goes before.
    fn add(&mut self, candidate: Candidate, key: Option<PartName>, foremost: &mut BTreeMap<PartName, usize>) {
        let Some(key) = key else {
            self.parts.push(candidate);
            return;
        };
        match foremost.get(&key).and_then(|at| self.parts.get_mut(*at)) {
            Some(present) if present.rank() >= candidate.rank() => {}
            Some(present) => *present = candidate,
            None => {
                foremost.insert(key, self.parts.len());
                self.parts.push(candidate);
            }
        }
    }

    /// An object of the candidate with this number.
    pub(super) fn hit(&self, at: usize, entry: Entry) -> Option<Hit> {
        let Candidate { cluster, part, decoder, .. } = self.parts.get(at)?;
        Some(Hit { cluster: cluster.clone(), served: part.served.clone(), entry, decoder: decoder.clone() })
    }
}
