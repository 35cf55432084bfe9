//! Which clusters are whose, where several servers share the work of following them.
//!
//! Pure. A cluster belongs to one of a fixed number of shards by its name, so that everybody comes to the same answer without
//! asking anybody.

pub mod election;

use std::collections::BTreeSet;

use twox_hash::XxHash3_64;

use crate::resource::ClusterName;

/// The shards that are ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shards {
    /// Of how many.
    pub of: u32,
    /// Their numbers, counted from zero.
    pub held: BTreeSet<u32>,
}

impl Default for Shards {
    /// All clusters are ours.
    fn default() -> Self {
        Self { of: 1, held: [0].into() }
    }
}

impl Shards {
    /// None of so many.
    pub fn none(of: u32) -> Self {
        Self { of, held: BTreeSet::new() }
    }

    /// The shard of a cluster.
    pub fn shard_of(&self, cluster: &ClusterName) -> u32 {
        let hash = XxHash3_64::oneshot(cluster.as_str().as_bytes());
        u32::try_from(hash % u64::from(self.of.max(1))).unwrap_or_default()
    }

    /// Whether a cluster is ours.
    pub fn is_ours(&self, cluster: &ClusterName) -> bool {
        self.held.contains(&self.shard_of(cluster))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cluster_belongs_to_one_shard_and_shards_are_about_equal() {
        let shards = |held: u32| Shards { of: 4, held: [held].into() };
        let mut counts = [0; 4];
        for number in 0..1000 {
            let cluster = ClusterName::from(format!("cluster-{number}"));
            let owners: Vec<u32> = (0..4).filter(|held| shards(*held).is_ours(&cluster)).collect();
            assert_eq!(owners.len(), 1);
            counts[owners[0] as usize] += 1;
        }
        assert!(counts.iter().all(|count| (150..350).contains(count)), "{counts:?}");
        assert!(Shards::default().is_ours(&"anything".into()));
    }
}
