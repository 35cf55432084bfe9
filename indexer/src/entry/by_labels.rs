//! Entries in the order of their label sets, so that those with certain labels are found without looking at all.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use equivalent::{Comparable, Equivalent};

use super::{Entry, EntryKey, LabelSet};

/// Entries looked at one by one before those with the same labels are skipped over: where hardly two objects have the same
/// ones, going on is cheaper than skipping.
const STEPS: usize = 8;

/// The entries of one cluster's resource, by their labels. Cloning takes constant time and shares everything.
#[derive(Debug, Clone, Default)]
pub struct ByLabels(imbl::OrdSet<Labelled>);

/// An entry in the order of label sets, which are told apart by where they lie: equal ones are one.
#[derive(Debug, Clone)]
struct Labelled(Entry);

/// A place in that order: behind all entries of a label set, or at one of them.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place<'a> {
    labels: usize,
    is_behind: bool,
    key: EntryKey<'a>,
}

impl Labelled {
    fn place(&self) -> Place<'_> {
        Place { labels: address(self.0.labels()), is_behind: false, key: self.0.key() }
    }
}

fn address(labels: &Arc<LabelSet>) -> usize {
    Arc::as_ptr(labels).addr()
}

impl PartialEq for Labelled {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Labelled {}

impl PartialOrd for Labelled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Labelled {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl Equivalent<Labelled> for Place<'_> {
    fn equivalent(&self, entry: &Labelled) -> bool {
        *self == entry.place()
    }
}

impl Comparable<Labelled> for Place<'_> {
    fn compare(&self, entry: &Labelled) -> Ordering {
        self.cmp(&entry.place())
    }
}

impl FromIterator<Entry> for ByLabels {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        Self(entries.into_iter().map(Labelled).collect())
    }
}

impl ByLabels {
    /// Puts an entry in the place of its earlier state.
    pub(crate) fn insert(&mut self, entry: Entry, previous: Option<&Entry>) {
        if let Some(previous) = previous.filter(|previous| !Arc::ptr_eq(previous.labels(), entry.labels())) {
            self.remove(previous);
        }
        self.0.insert(Labelled(entry));
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, entry: &Entry) {
        self.0.remove(&Labelled(entry.clone()).place());
    }

    /// The entries whose labels pass, in key order. None if there are more than `most`: then most are worth a look anyway.
    pub fn find(&self, mut passes: impl FnMut(&LabelSet) -> bool, most: usize) -> Option<Vec<Entry>> {
        let mut found = Vec::new();
        let mut entries = self.0.range::<_, Place<'_>>(..);
        // The labels that were looked at last, whether they pass, and how many entries in a row had them in vain.
        let (mut looked_at, mut is_wanted, mut steps) = (0, false, 0);
        while let Some(Labelled(entry)) = entries.next() {
            let labels = address(entry.labels());
            if labels != looked_at {
                (looked_at, is_wanted, steps) = (labels, passes(entry.labels()), 0);
            }
            if is_wanted {
                found.push(entry.clone());
                if found.len() > most {
                    return None;
                }
                continue;
            }
            steps += 1;
            if steps == STEPS {
                let behind = Place { labels, is_behind: true, key: EntryKey::new("", "") };
                entries = self.0.range::<_, Place<'_>>((Bound::Excluded(behind), Bound::Unbounded));
            }
        }
        found.sort_unstable();
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::{LabelSets, Version};
    use super::*;
    use crate::codec::Frame;

    fn entry(sets: &LabelSets, name: u16, labels: u16) -> Entry {
        let set = sets.intern(LabelSet::new(vec![("app".to_owned(), labels.to_string())]));
        let frame = Frame { dictionary: 0, raw_length: 0, bytes: b"" };
        let name = format!("{name:05}");
        Entry::new(EntryKey::new("shop", &name), Version { resource_version: 1, fingerprint: 1 }, set, frame)
    }

    proptest! {
        #[test]
        fn it_finds_what_looking_at_all_finds(
            changes in prop::collection::vec((0u16..60, 0u16..12, prop::bool::weighted(0.8)), 0..200),
            wanted in prop::collection::btree_set(0u16..12, 0..4),
        ) {
            let (sets, mut by_labels, mut all) = (LabelSets::default(), ByLabels::default(), BTreeMap::new());
            for (name, labels, is_there) in changes {
                if is_there {
                    let entry = entry(&sets, name, labels);
                    let previous = all.insert(name, entry.clone());
                    by_labels.insert(entry, previous.as_ref());
                } else if let Some(previous) = all.remove(&name) {
                    by_labels.remove(&previous);
                }
            }
            let passes = |set: &LabelSet| wanted.iter().any(|label| set.get("app") == Some(&label.to_string()));
            let expected: Vec<&str> = all.values().filter(|entry| passes(entry.labels())).map(Entry::name).collect();
            let found = by_labels.find(passes, usize::MAX).unwrap();
            prop_assert_eq!(found.iter().map(Entry::name).collect::<Vec<_>>(), expected.clone());
            prop_assert_eq!(by_labels.find(passes, expected.len()).is_some(), true);
            prop_assert_eq!(by_labels.find(passes, expected.len().saturating_sub(1)).is_some(), expected.is_empty());
        }
    }
}
