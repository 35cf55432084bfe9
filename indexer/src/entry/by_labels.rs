//! Entries in the order of their label sets, so that those with certain labels are found without looking at all.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use equivalent::{Comparable, Equivalent};

use super::{Entry, EntryKey, LabelSet};

/// The entries of one cluster's resource, by their labels. Cloning takes constant time and shares everything.
#[derive(Debug, Clone, Default)]
pub struct ByLabels(imbl::OrdSet<Labelled>);

/// An entry in the order of label sets, which are told apart by where they lie: equal ones are one.
#[derive(Debug, Clone)]
struct Labelled(Entry);

/// A place in that order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place<'a> {
    labels: usize,
    key: EntryKey<'a>,
}

impl Labelled {
    fn place(&self) -> Place<'_> {
        Place { labels: address(self.0.labels()), key: self.0.key() }
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

    /// The entries of one label set, in key order from a place on.
    pub fn of<'a>(&'a self, labels: &Arc<LabelSet>, from: Bound<EntryKey<'_>>) -> impl Iterator<Item = &'a Entry> {
        let labels = address(labels);
        let from = from.map(|key| Place { labels, key });
        self.0
            .range::<_, Place<'_>>((from, Bound::Unbounded))
            .map(|Labelled(entry)| entry)
            .take_while(move |entry| address(entry.labels()) == labels)
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
        let set = sets.intern(LabelSet::new(vec![("app".to_owned(), labels.to_string())]), &"m1".into());
        let frame = Frame { dictionary: 0, raw_length: 0, bytes: b"" };
        let name = format!("{name:05}");
        Entry::new(EntryKey::new("shop", &name), Version { resource_version: 1, fingerprint: 1 }, set, frame)
    }

    proptest! {
        #[test]
        fn it_finds_what_looking_at_all_finds(
            changes in prop::collection::vec((0u16..60, 0u16..12, prop::bool::weighted(0.8)), 0..200),
            wanted in 0u16..12, from in 0u16..60,
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
            let set = entry(&sets, 0, wanted).labels().clone();
            let behind = all.range(from + 1..).map(|(_, entry)| entry).filter(|entry| Arc::ptr_eq(entry.labels(), &set));
            let expected: Vec<&str> = behind.map(Entry::name).collect();
            let name = format!("{from:05}");
            let found = by_labels.of(&set, Bound::Excluded(EntryKey::new("shop", &name)));
            prop_assert_eq!(found.map(Entry::name).collect::<Vec<_>>(), expected);
        }
    }
}
