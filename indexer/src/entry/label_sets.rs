//! The distinct label sets of a resource kind: one copy of each, and the way from a label to the clusters that have it.
//!
//! A kind's objects have far fewer label sets than there are objects. Each is known by a number; for each label there is a list
//! of the sets that have it, and for each set a list of the clusters where some object has had it. Both lists may name more than
//! there is, never less: who follows them looks at what they lead to.

use std::sync::Arc;

use hashbrown::{HashMap, HashTable};
use parking_lot::Mutex;
use slab::Slab;
use smallvec::SmallVec;

use super::LabelSet;
use crate::resource::ClusterName;

/// Sets that are looked at between two looks at what is known.
const AT_ONCE: usize = 4096;
/// Sets that are known before the first look for unused ones.
const FIRST_SWEEP: usize = 64;

/// Keeps one copy of each distinct label set of a resource kind.
#[derive(Debug, Default)]
pub struct LabelSets(Mutex<Known>);

/// Something that a label set can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Label<'a> {
    /// A label of this key.
    Key(&'a str),
    /// A label of this key and value.
    Pair(&'a str, &'a str),
}

/// A label set, and the clusters where objects may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whose {
    /// The labels.
    pub labels: Arc<LabelSet>,
    /// The clusters.
    pub clusters: Vec<ClusterName>,
}

/// How much is looked at, and how much may be found.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    /// Label sets.
    pub sets: usize,
    /// Clusters of sets.
    pub found: usize,
}

/// Numbers of sets or of clusters. Most lists are of one.
type Numbers = SmallVec<[u32; 2]>;

#[derive(Debug, Default)]
struct Known {
    sets: Slab<OneSet>,
    by_content: HashTable<u32>,
    /// The sets that have a label, by the hash of the label: what shares a hash is told apart by looking at the set.
    having: HashMap<u64, Numbers>,
    clusters: Vec<ClusterName>,
    cluster_numbers: HashMap<ClusterName, u32>,
    hasher: ahash::RandomState,
    sweep_at: usize,
}

#[derive(Debug)]
struct OneSet {
    labels: Arc<LabelSet>,
    clusters: Numbers,
}

impl LabelSets {
    /// The shared copy of the labels of an object of a cluster.
    pub fn intern(&self, labels: LabelSet, cluster: &ClusterName) -> Arc<LabelSet> {
        let mut known = self.0.lock();
        let cluster = known.cluster_number(cluster);
        let number = match known.find(&labels) {
            Some(number) => number,
            None => known.add(labels),
        };
        let set = &mut known.sets[number as usize];
        add_number(&mut set.clusters, cluster);
        Arc::clone(&set.labels)
    }

    /// Forgets sets that no object has, if there are more sets than these objects can have.
    pub fn forget_unused(&self, objects: usize) {
        let mut known = self.0.lock();
        if known.sets.len() > objects + FIRST_SWEEP {
            known.sweep();
        }
    }

    /// The sets that pass, and which of the wanted clusters have them. A set that passes has one label of each of `alternatives`;
    /// without any, all sets are looked at. None if too much would have to be looked at, or too much is found.
    pub fn having(
        &self,
        alternatives: &[Vec<Label<'_>>],
        passes: impl Fn(&LabelSet) -> bool,
        is_wanted: impl Fn(&ClusterName) -> bool,
        most: Most,
    ) -> Option<Vec<Whose>> {
        let candidates = self.0.lock().candidates(alternatives, most.sets)?;
        let (mut found, mut left) = (Vec::new(), most.found);
        for numbers in candidates.chunks(AT_ONCE) {
            // Writers wait for the lock, so that what takes time is done without it.
            let sets: Vec<(Arc<LabelSet>, Numbers)> = {
                let known = self.0.lock();
                numbers.iter().filter_map(|number| known.held(*number)).collect()
            };
            let passing: Vec<_> = sets.into_iter().filter(|(labels, _)| passes(labels)).collect();
            let known = self.0.lock();
            for (labels, clusters) in passing {
                let clusters = clusters.iter().filter_map(|number| known.clusters.get(*number as usize));
                let clusters: Vec<ClusterName> = clusters.filter(|cluster| is_wanted(cluster)).cloned().collect();
                left = left.checked_sub(clusters.len())?;
                found.push(Whose { labels, clusters });
            }
        }
        Some(found)
    }
}

impl Known {
    fn cluster_number(&mut self, cluster: &ClusterName) -> u32 {
        if let Some(number) = self.cluster_numbers.get(cluster) {
            return *number;
        }
        let number = number_of(self.clusters.len());
        self.clusters.push(cluster.clone());
        self.cluster_numbers.insert(cluster.clone(), number);
        number
    }

    fn find(&self, labels: &LabelSet) -> Option<u32> {
        let hash = self.hasher.hash_one(labels);
        self.by_content.find(hash, |number| *self.sets[*number as usize].labels == *labels).copied()
    }

    fn add(&mut self, labels: LabelSet) -> u32 {
        if self.sets.len() >= self.sweep_at {
            self.sweep();
        }
        let hash = self.hasher.hash_one(&labels);
        let labels = Arc::new(labels);
        let number = number_of(self.sets.insert(OneSet { labels: Arc::clone(&labels), clusters: Numbers::new() }));
        for label in labels.iter().flat_map(|(key, value)| [Label::Key(key), Label::Pair(key, value)]) {
            // The number is new to every list; a label that is there twice by its hash only is told apart when it is looked for.
            self.having.entry(self.hasher.hash_one(label)).or_default().push(number);
        }
        let Self { sets, by_content, hasher, .. } = self;
        by_content.insert_unique(hash, number, |number| hasher.hash_one(&*sets[*number as usize].labels));
        number
    }

    /// Forgets sets that no object has.
    fn sweep(&mut self) {
        self.sets.retain(|_, set| Arc::strong_count(&set.labels) > 1);
        let sets = &self.sets;
        self.by_content.retain(|number| sets.contains(*number as usize));
        self.having.retain(|_, numbers| {
            numbers.retain(|number| sets.contains(*number as usize));
            !numbers.is_empty()
        });
        if self.having.len() < self.having.capacity() / 4 {
            let Self { sets, by_content, having, hasher, .. } = self;
            having.shrink_to_fit();
            sets.shrink_to_fit();
            by_content.shrink_to_fit(|number| hasher.hash_one(&*sets[*number as usize].labels));
        }
        self.sweep_at = (self.sets.len() * 2).max(FIRST_SWEEP);
    }

    /// A set that some object has, and the numbers of its clusters.
    fn held(&self, number: u32) -> Option<(Arc<LabelSet>, Numbers)> {
        let set = self.sets.get(number as usize)?;
        (Arc::strong_count(&set.labels) > 1).then(|| (Arc::clone(&set.labels), set.clusters.clone()))
    }

    /// The fewest sets that may have one label of each of `alternatives`, each once; all without alternatives. None if there are
    /// more than `most`.
    fn candidates(&self, alternatives: &[Vec<Label<'_>>], most: usize) -> Option<Vec<u32>> {
        let lists = |labels: &Vec<Label<'_>>| -> Vec<&Numbers> {
            labels.iter().filter_map(|label| self.having.get(&self.hasher.hash_one(label))).collect()
        };
        let length = |lists: &Vec<&Numbers>| lists.iter().map(|list| list.len()).sum::<usize>();
        let Some(lists) = alternatives.iter().map(lists).min_by_key(length) else {
            return (self.sets.len() <= most).then(|| self.sets.iter().map(|(number, _)| number_of(number)).collect());
        };
        if length(&lists) > most {
            return None;
        }
        let mut numbers: Vec<u32> = lists.into_iter().flatten().copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        Some(numbers)
    }
}

/// More than four thousand million label sets or clusters don't fit into memory.
fn number_of(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

fn add_number(numbers: &mut Numbers, number: u32) {
    if let Err(at) = numbers.binary_search(&number) {
        numbers.insert(at, number);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(pairs: &[(&str, &str)]) -> LabelSet {
        LabelSet::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn equal_labels_share_one_set_and_unused_ones_are_dropped() {
        let sets = LabelSets::default();
        let intern = |value: &str| sets.intern(set(&[("app", value)]), &"m1".into());
        assert!(Arc::ptr_eq(&intern("web"), &intern("web")));
        for number in 0..1000 {
            intern(&number.to_string());
        }
        let known = sets.0.lock();
        assert!(known.sets.len() <= 128, "label sets nobody holds must not pile up");
        assert!(known.having.len() <= 130 && known.by_content.len() <= 128, "nor what leads to them");
    }

    #[test]
    fn labels_of_deleted_objects_are_forgotten_also_when_nothing_new_comes() {
        let sets = LabelSets::default();
        let mut held: Vec<_> =
            (0..1000).map(|number| sets.intern(set(&[("app", &number.to_string())]), &"m1".into())).collect();
        sets.forget_unused(held.len());
        assert_eq!(sets.0.lock().sets.len(), 1000);
        held.truncate(10);
        sets.forget_unused(held.len());
        let known = sets.0.lock();
        assert_eq!((known.sets.len(), known.having.len(), known.by_content.len()), (10, 11, 10));
    }

    #[test]
    fn a_label_leads_to_the_clusters_that_have_it() {
        let sets = LabelSets::default();
        let held: Vec<_> = [("m1", "web"), ("m2", "web"), ("m2", "db")]
            .map(|(cluster, app)| sets.intern(set(&[("app", app), ("tier", "x")]), &cluster.into()))
            .into();
        let web = vec![vec![Label::Key("tier")], vec![Label::Pair("app", "web")]];
        let is_web = |set: &LabelSet| set.get("app") == Some("web");
        let most = |sets, found| Most { sets, found };
        let whose = |clusters: &[&str]| Whose {
            labels: Arc::clone(&held[0]),
            clusters: clusters.iter().map(|name| (*name).into()).collect(),
        };
        assert_eq!(sets.having(&web, is_web, |_| true, most(100, 2)).unwrap(), [whose(&["m1", "m2"])]);
        assert_eq!(sets.having(&web, is_web, |name| *name == "m2".into(), most(100, 1)).unwrap(), [whose(&["m2"])]);
        assert_eq!(sets.having(&web, is_web, |_| true, most(100, 1)), None, "two clusters are more than one");
        assert_eq!(sets.having(&[], is_web, |_| true, most(2, 2)).unwrap(), [whose(&["m1", "m2"])]);
        assert_eq!(sets.having(&[], is_web, |_| true, most(1, 2)), None, "too many to look at");
    }

    proptest! {
        #[test]
        fn what_is_held_is_found(
            added in prop::collection::vec((0u8..4, prop::collection::btree_map("[ab]", "[xyz]{1,3}", 0..3), any::<bool>()), 0..300),
            key in "[ab]", value in "[xyz]{1,2}",
        ) {
            let sets = LabelSets::default();
            let mut held = Vec::new();
            for (cluster, labels, is_kept) in added {
                let cluster = ClusterName::from(format!("m{cluster}"));
                let set = sets.intern(LabelSet::new(labels.into_iter().collect()), &cluster);
                held.extend(is_kept.then_some((set, cluster)));
            }
            let passes = |set: &LabelSet| set.get(&key) == Some(&value);
            let most = Most { sets: usize::MAX, found: usize::MAX };
            let found = sets.having(&[vec![Label::Pair(&key, &value)]], passes, |_| true, most).unwrap();
            let found: BTreeSet<_> = found.iter()
                .flat_map(|whose| whose.clusters.iter().map(|cluster| (Arc::as_ptr(&whose.labels), cluster.clone())))
                .collect();
            for (set, cluster) in held.iter().filter(|(set, _)| passes(set)) {
                prop_assert!(found.contains(&(Arc::as_ptr(set), cluster.clone())));
            }
        }
    }
}
