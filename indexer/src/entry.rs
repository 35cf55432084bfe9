//! One cached object as one heap block: a small header, its namespace, its name, its compressed frame.
//!
//! Entries are immutable and shared by reference count: the cache, a list being streamed and a watch in progress hold the
//! same block. They are ordered by (namespace, name), the order of answers.

mod by_labels;
mod label_sets;

use std::cmp::Ordering;
use std::sync::Arc;

use equivalent::{Comparable, Equivalent};
use triomphe::ThinArc;

use crate::codec::Frame;

pub use by_labels::ByLabels;
pub use label_sets::{Label, LabelSets, Most, Whose};

/// A set of entries in key order; cloning one is constant time and shares everything.
pub type Entries = imbl::OrdSet<Entry>;

/// A cached object.
#[derive(Debug, Clone)]
pub struct Entry(ThinArc<Header, u8>);

#[derive(Debug)]
struct Header {
    labels: Arc<LabelSet>,
    resource_version: u64,
    fingerprint: u64,
    dictionary: u32,
    raw_length: u32,
    namespace_length: u16,
    name_length: u16,
}

/// Which state of an object an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// `metadata.resourceVersion` in its own cluster, 0 where that is no integer.
    pub resource_version: u64,
    /// A hash of the resource and the whole object, its cluster included: what differs in anything differs in this.
    pub fingerprint: u64,
}

/// Where an object stands among the objects of its kind and cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryKey<'a> {
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: &'a [u8],
    /// Name.
    pub name: &'a [u8],
}

impl<'a> EntryKey<'a> {
    /// Joins the two names.
    pub fn new(namespace: &'a str, name: &'a str) -> Self {
        Self { namespace: namespace.as_bytes(), name: name.as_bytes() }
    }
}

impl Equivalent<Entry> for EntryKey<'_> {
    fn equivalent(&self, entry: &Entry) -> bool {
        *self == entry.key()
    }
}

impl Comparable<Entry> for EntryKey<'_> {
    fn compare(&self, entry: &Entry) -> Ordering {
        self.cmp(&entry.key())
    }
}

impl Entry {
    /// Puts the parts into one block. Names longer than 64 KiB are cut, which [`crate::raw`] rules out.
    pub fn new(key: EntryKey<'_>, version: Version, labels: Arc<LabelSet>, frame: Frame<'_>) -> Self {
        let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        let header = Header {
            labels,
            resource_version: version.resource_version,
            fingerprint: version.fingerprint,
            dictionary: frame.dictionary,
            raw_length: frame.raw_length,
            namespace_length: length(key.namespace),
            name_length: length(key.name),
        };
        let mut block = Vec::with_capacity(key.namespace.len() + key.name.len() + frame.bytes.len());
        block.extend_from_slice(&key.namespace[..usize::from(header.namespace_length)]);
        block.extend_from_slice(&key.name[..usize::from(header.name_length)]);
        block.extend_from_slice(frame.bytes);
        Self(ThinArc::from_header_and_slice(header, &block))
    }

    /// Its place in the order.
    pub fn key(&self) -> EntryKey<'_> {
        let (namespace, rest) = self.0.slice.split_at(usize::from(self.0.header.header.namespace_length));
        EntryKey { namespace, name: &rest[..usize::from(self.0.header.header.name_length)] }
    }

    /// Its namespace; empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        str::from_utf8(self.key().namespace).unwrap_or_default()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        str::from_utf8(self.key().name).unwrap_or_default()
    }

    /// `metadata.resourceVersion` in its own cluster, 0 where that is no integer.
    pub fn resource_version(&self) -> u64 {
        self.0.header.header.resource_version
    }

    /// Which state of which object it is.
    pub fn version(&self) -> Version {
        let header = &self.0.header.header;
        Version { resource_version: header.resource_version, fingerprint: header.fingerprint }
    }

    /// Its labels.
    pub fn labels(&self) -> &Arc<LabelSet> {
        &self.0.header.header.labels
    }

    /// Its compressed bytes.
    pub fn frame(&self) -> Frame<'_> {
        let header = &self.0.header.header;
        let names = usize::from(header.namespace_length) + usize::from(header.name_length);
        Frame { dictionary: header.dictionary, raw_length: header.raw_length, bytes: &self.0.slice[names..] }
    }

    /// Whether both are the very same block.
    pub fn same_block(&self, other: &Self) -> bool {
        std::ptr::eq(self.0.slice.as_ptr(), other.0.slice.as_ptr())
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// The labels of an object, sorted by key, in one block. Objects with the same labels share one set.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSet {
    // key length, key, value length, value; lengths as two bytes each, little endian.
    block: Box<[u8]>,
}

impl LabelSet {
    /// Sorts the pairs; of a doubled key the last one counts, as JSON readers have it. Keys and values are cut at 64 KiB.
    pub fn new(mut pairs: Vec<(String, String)>) -> Self {
        pairs.reverse();
        pairs.sort_by(|left, right| left.0.cmp(&right.0));
        pairs.dedup_by(|later, earlier| later.0 == earlier.0);
        let mut block = Vec::with_capacity(pairs.iter().map(|(key, value)| key.len() + value.len() + 4).sum());
        for text in pairs.iter().flat_map(|(key, value)| [key, value]) {
            let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
            block.extend_from_slice(&length.to_le_bytes());
            block.extend_from_slice(&text.as_bytes()[..usize::from(length)]);
        }
        Self { block: block.into_boxed_slice() }
    }

    /// Its block, from which [`LabelSet::from_bytes`] makes the same set.
    pub fn as_bytes(&self) -> &[u8] {
        &self.block
    }

    /// A set from the bytes of another one; none if they are not that.
    pub fn from_bytes(block: &[u8]) -> Option<Self> {
        let mut rest = block;
        while !rest.is_empty() {
            take_text(&mut rest)?;
        }
        Some(Self { block: block.into() })
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let mut rest = &*self.block;
        loop {
            let candidate = take_bytes(&mut rest)?;
            let value = take_bytes(&mut rest)?;
            if candidate == key.as_bytes() {
                return Some(str::from_utf8(value).unwrap_or_default());
            }
        }
    }

    /// All labels in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &*self.block;
        std::iter::from_fn(move || {
            let key = take_text(&mut rest)?;
            let value = take_text(&mut rest)?;
            Some((key, value))
        })
    }
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    take_bytes(rest).map(|text| str::from_utf8(text).unwrap_or_default())
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<2>()?;
    let (text, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    *rest = after;
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(namespace: &str, name: &str) -> Entry {
        let frame = Frame { dictionary: 3, raw_length: 9, bytes: b"frame" };
        Entry::new(
            EntryKey::new(namespace, name),
            Version { resource_version: 7, fingerprint: 11 },
            Arc::default(),
            frame,
        )
    }

    #[test]
    fn an_entry_gives_back_what_was_put_in() {
        let entry = entry("shop", "web");
        assert_eq!((entry.namespace(), entry.name(), entry.resource_version()), ("shop", "web", 7));
        assert_eq!((entry.frame().dictionary, entry.frame().raw_length, entry.frame().bytes), (3, 9, &b"frame"[..]));
    }

    #[test]
    fn entries_are_found_by_key_and_come_in_namespace_then_name_order() {
        let set: Entries =
            [entry("b", "a"), entry("a", "z"), entry("", "node"), entry("ab", "a")].into_iter().collect();
        let order: Vec<_> = set.iter().map(|entry| (entry.namespace().to_owned(), entry.name().to_owned())).collect();
        assert_eq!(
            order,
            [("", "node"), ("a", "z"), ("ab", "a"), ("b", "a")].map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
        assert!(set.get(&EntryKey::new("ab", "a")).is_some());
        assert!(set.get(&EntryKey::new("ab", "b")).is_none());
    }

    proptest! {
        #[test]
        fn labels_read_back_as_a_map(pairs in proptest::collection::vec(("\\PC{0,6}", "\\PC{0,6}"), 0..8)) {
            let expected: std::collections::BTreeMap<String, String> = pairs.iter().cloned().collect();
            let set = LabelSet::new(pairs);
            let read: std::collections::BTreeMap<String, String> =
                set.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            prop_assert_eq!(&read, &expected);
            prop_assert_eq!(LabelSet::from_bytes(set.as_bytes()), Some(LabelSet::new(expected.clone().into_iter().collect())));
            for (key, value) in &expected {
                prop_assert_eq!(set.get(key), Some(value.as_str()));
            }
        }
    }
}
