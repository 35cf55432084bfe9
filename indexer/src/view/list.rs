//! Lists and pages: a merge of the clusters' ordered sets.
//!
//! A [`ListCursor`] walks a snapshot. It takes entries from each cluster in small batches, so that a page costs what it
//! shows, and a list over a thousand clusters holds a few entries of each.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use crate::cache::{Part, Snapshot};
use crate::codec::{CodecError, Decoder};
use crate::entry::{ByLabels, Entries, Entry, EntryKey, LabelSet, Most, Whose};
use crate::resource::ClusterName;
use crate::version::{MergedVersion, encode_versions};
use crate::view::Query;

/// Entries taken from a cluster at first, doubled with each refill up to the most.
const FIRST_BATCH: usize = 1;
const LARGEST_BATCH: usize = 256;
/// Label sets of clusters that are walked beside each other: so many at least, and for each cluster. Where more of them have the
/// labels that are asked for, those are met soon enough by looking at all.
const LABEL_SETS: (usize, usize) = (256, 4);
/// One label set is looked at for so many objects.
const OBJECTS_FOR_A_SET: usize = 8;
/// Objects that are opened in vain at a time.
const LOOKED_AT: usize = 256;

/// Where a page ended: the identity of its last object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Namespace of the last object.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its cluster.
    pub cluster: ClusterName,
}

/// Walks the objects that a query asks for, in order.
#[derive(Debug)]
pub struct ListCursor {
    query: Query,
    decoder: Decoder,
    sources: Vec<Source>,
    heads: BinaryHeap<Head>,
    scratch: Vec<u8>,
    deadline: Option<Instant>,
    is_late: bool,
}

#[derive(Debug)]
struct Source {
    cluster: ClusterName,
    entries: Walked,
    batch: VecDeque<Entry>,
    batch_size: usize,
    last: Option<Entry>,
    exhausted: bool,
}

/// Entries in key order.
#[derive(Debug)]
enum Walked {
    All(Entries),
    Labelled(ByLabels, Arc<LabelSet>),
}

/// The next entry of one source; the heap gives the smallest first.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    entry: Entry,
    source: usize,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.entry.key(), other.source).cmp(&(self.entry.key(), self.source))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// One object of a list.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The cluster it lives in.
    pub cluster: ClusterName,
    /// The object.
    pub entry: Entry,
}

impl Listed {
    /// Where a page that ends with this object ends.
    pub fn position(&self) -> Position {
        Position {
            namespace: self.entry.namespace().to_owned(),
            name: self.entry.name().to_owned(),
            cluster: self.cluster.clone(),
        }
    }
}

impl ListCursor {
    /// A walk over `snapshot`, behind `after` if that is given. The decoder must be taken after the snapshot.
    pub fn new(snapshot: &Snapshot, query: Query, decoder: Decoder, after: Option<&Position>) -> Self {
        let mut sources = labelled_sources(snapshot, &query).unwrap_or_else(|| all_sources(snapshot, &query));
        for source in &mut sources {
            source.start(&query, after);
        }
        let (heads, scratch) = (BinaryHeap::new(), Vec::new());
        let mut cursor = Self { query, decoder, sources, heads, scratch, deadline: None, is_late: false };
        (0..cursor.sources.len()).for_each(|source| cursor.push_head(source));
        cursor
    }

    /// What is asked for.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// The same walk, which ends early when its time is over.
    #[must_use]
    pub fn until(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Whether it ended early.
    pub fn is_late(&self) -> bool {
        self.is_late
    }

    /// How objects are opened.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Whether nothing is left to look at.
    pub fn is_at_end(&self) -> bool {
        self.heads.is_empty()
    }

    /// Appends the next object to `output`; nothing if many were looked at and none of them passed, so that others have their
    /// turn before the next call. None at the end.
    pub fn append_next(&mut self, output: &mut Vec<u8>) -> Option<Result<Option<Listed>, CodecError>> {
        for _ in 0..LOOKED_AT {
            let listed = self.next_admitted()?;
            let before = output.len();
            if let Err(error) = self.decoder.append(listed.entry.frame(), output) {
                return Some(Err(error));
            }
            let object = &output[before..];
            if !self.query.reads_objects() || self.query.holds(&listed.cluster, &listed.entry, object) {
                return Some(Ok(Some(listed)));
            }
            output.truncate(before);
        }
        Some(Ok(None))
    }

    fn next_admitted(&mut self) -> Option<Listed> {
        loop {
            let head = self.heads.pop()?;
            self.push_head(head.source);
            let cluster = &self.sources[head.source].cluster;
            if self.query.admits(cluster, &head.entry) {
                return Some(Listed { cluster: cluster.clone(), entry: head.entry });
            }
        }
    }

    fn push_head(&mut self, source: usize) {
        if let Some(entry) = self.sources[source].next(&self.query) {
            self.heads.push(Head { entry, source });
        }
    }
}

impl Iterator for ListCursor {
    type Item = Listed;

    /// The next object, closed.
    fn next(&mut self) -> Option<Listed> {
        loop {
            self.is_late |= self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
            let listed = if self.is_late { None } else { self.next_admitted() }?;
            if self.query.matches(&listed.cluster, &listed.entry, &self.decoder, &mut self.scratch) {
                return Some(listed);
            }
        }
    }
}

fn all_sources(snapshot: &Snapshot, query: &Query) -> Vec<Source> {
    let source = |(cluster, part): (&ClusterName, &Arc<Part>)| Source::new(cluster, Walked::All(part.objects.clone()));
    snapshot.chosen(query).map(source).collect()
}

/// A source for each label set of each cluster, if labels are asked for and those that have them are few.
fn labelled_sources(snapshot: &Snapshot, query: &Query) -> Option<Vec<Source>> {
    if !query.filter.reads_labels() || query.name.is_some() {
        return None;
    }
    let objects: usize = snapshot.chosen(query).map(|(_, part)| part.objects.len()).sum();
    // The objects of a namespace lie together: one walk for each cluster finds them.
    let for_each = if query.namespace.is_some() { 1 } else { LABEL_SETS.1 };
    let most = Most {
        sets: LABEL_SETS.0.max(objects / OBJECTS_FOR_A_SET),
        found: LABEL_SETS.0.max(snapshot.chosen(query).count() * for_each),
    };
    let passes = |labels: &LabelSet| query.filter.labels_hold(labels);
    let is_wanted = |cluster: &ClusterName| query.wants_cluster(cluster) && snapshot.parts.contains_key(cluster);
    let found = snapshot.label_sets.having(&query.filter.wanted_labels(), passes, is_wanted, most)?;
    let mut sources = Vec::new();
    for Whose { labels, clusters } in found {
        for cluster in clusters {
            if let Some(part) = snapshot.parts.get(&cluster) {
                sources.push(Source::new(&cluster, Walked::Labelled(part.by_labels.clone(), Arc::clone(&labels))));
            }
        }
    }
    // Equal keys come in the order of their clusters.
    sources.sort_by(|left, right| left.cluster.cmp(&right.cluster));
    Some(sources)
}

impl Walked {
    fn get(&self, key: &EntryKey<'_>) -> Option<&Entry> {
        match self {
            Self::All(entries) => entries.get(key),
            Self::Labelled(by_labels, labels) => {
                by_labels.of(labels, Bound::Included(*key)).next().filter(|entry| entry.key() == *key)
            }
        }
    }

    /// The next `most` entries, up to the first one that lies outside.
    fn take(&self, from: Bound<EntryKey<'_>>, most: usize, is_inside: impl Fn(&&Entry) -> bool) -> Vec<Entry> {
        match self {
            Self::All(entries) => {
                // Where an order begins is found without comparing.
                let is_beginning = from == Bound::Included(EntryKey::new("", ""));
                let from = if is_beginning { Bound::Unbounded } else { from };
                let entries = entries.range::<_, EntryKey<'_>>((from, Bound::Unbounded));
                entries.take(most).take_while(is_inside).cloned().collect()
            }
            Self::Labelled(by_labels, labels) => {
                by_labels.of(labels, from).take(most).take_while(is_inside).cloned().collect()
            }
        }
    }
}

impl Source {
    fn new(cluster: &ClusterName, entries: Walked) -> Self {
        let cluster = cluster.clone();
        Self { cluster, entries, batch: VecDeque::new(), batch_size: FIRST_BATCH, last: None, exhausted: false }
    }

    fn start(&mut self, query: &Query, after: Option<&Position>) {
        if let (Some(namespace), Some(name), None) = (&query.namespace, &query.name, after) {
            self.batch.extend(self.entries.get(&EntryKey::new(namespace, name)).cloned());
            self.exhausted = true;
            return;
        }
        let first = EntryKey::new(query.namespace.as_deref().unwrap_or(""), "");
        let bound = match after {
            // Of objects with the same key, those of later clusters are still to come.
            Some(after) if self.cluster > after.cluster => {
                Bound::Included(EntryKey::new(&after.namespace, &after.name).max(first))
            }
            Some(after) => {
                let after = EntryKey::new(&after.namespace, &after.name);
                if after >= first { Bound::Excluded(after) } else { Bound::Included(first) }
            }
            None => Bound::Included(first),
        };
        self.fill(bound, query);
    }

    fn next(&mut self, query: &Query) -> Option<Entry> {
        if self.batch.is_empty() && !self.exhausted {
            let last = self.last.clone()?;
            self.batch_size = (self.batch_size * 2).min(LARGEST_BATCH);
            self.fill(Bound::Excluded(last.key()), query);
        }
        let entry = self.batch.pop_front()?;
        if self.batch.is_empty() {
            self.last = Some(entry.clone());
        }
        Some(entry)
    }

    fn fill(&mut self, from: Bound<EntryKey<'_>>, query: &Query) {
        let namespace = query.namespace.as_deref();
        let is_inside = |entry: &&Entry| namespace.is_none_or(|namespace| entry.namespace() == namespace);
        self.batch = self.entries.take(from, self.batch_size, is_inside).into();
        self.exhausted = self.batch.len() < self.batch_size;
    }
}

impl Snapshot {
    fn chosen<'a>(&'a self, query: &'a Query) -> impl Iterator<Item = (&'a ClusterName, &'a Arc<Part>)> {
        self.parts.iter().filter(|(cluster, _)| query.wants_cluster(cluster))
    }

    /// How many objects lie before the query's filter: in its namespace, or all.
    pub fn candidates(&self, query: &Query) -> usize {
        let in_namespace = |objects: &Entries, namespace: &str| {
            let from = EntryKey { namespace: namespace.as_bytes(), name: b"" };
            objects
                .range::<_, EntryKey<'_>>((Bound::Included(&from), Bound::Unbounded))
                .take_while(|entry| entry.namespace() == namespace)
                .count()
        };
        self.chosen(query)
            .map(|(_, part)| match &query.namespace {
                Some(namespace) => in_namespace(&part.objects, namespace),
                None => part.objects.len(),
            })
            .sum()
    }

    /// The version that an answer from this snapshot carries: a watch from it misses nothing. A cluster whose first list
    /// is not complete has no part in it yet.
    pub fn merged_version(&self, query: &Query) -> MergedVersion {
        let mut version = MergedVersion::default();
        for (cluster, reached) in self.versions(query) {
            version.set(cluster.clone(), Arc::clone(reached));
        }
        version
    }

    /// The same in its opaque form.
    pub fn encoded_version(&self, query: &Query) -> String {
        encode_versions(self.versions(query))
    }

    fn versions<'a>(&'a self, query: &'a Query) -> impl Iterator<Item = (&'a ClusterName, &'a Arc<str>)> {
        self.chosen(query).filter_map(|(cluster, part)| Some((cluster, part.version.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::cache::{Cache, PreparedChange, ResourceCache};
    use crate::filter::{FieldCondition, FieldPath, Filter, LabelCondition, LabelTest};
    use crate::raw::ObjectReader;
    use crate::resource::{ApiResource, GroupVersionResource};

    fn pods() -> ApiResource {
        ApiResource {
            gvr: GroupVersionResource::new("", "v1", "pods"),
            kind: "Pod".into(),
            namespaced: true,
            watchable: true,
        }
    }

    fn cache_of(objects: &[(&str, &str, &str)]) -> Arc<ResourceCache> {
        let cache = Cache::default().open(&pods().gvr);
        for (cluster, namespace, name) in objects {
            add(&cache, cluster, namespace, name);
        }
        cache
    }

    fn add(cache: &Arc<ResourceCache>, cluster: &str, namespace: &str, name: &str) {
        add_labelled(cache, cluster, namespace, name, "");
    }

    fn add_labelled(cache: &Arc<ResourceCache>, cluster: &str, namespace: &str, name: &str, labels: &str) {
        let mut writer = cache.writer(&cluster.into(), &pods());
        let text = format!(
            r#"{{"metadata":{{"namespace":"{namespace}","name":"{name}","labels":{{{labels}}}}},"spec":{{"n":"{name}"}}}}"#
        );
        let object = ObjectReader::new(&cluster.into(), "v1", "Pod").read(&text).unwrap();
        let entry = writer.prepare(object).unwrap();
        writer.apply([PreparedChange::Upsert(entry)]);
    }

    fn cursor(cache: &ResourceCache, query: Query, after: Option<&Position>) -> ListCursor {
        let snapshot = cache.snapshot(None);
        ListCursor::new(&snapshot, query, cache.codec().decoder(), after)
    }

    fn triples(cursor: impl Iterator<Item = Listed>) -> Vec<(String, String, String)> {
        cursor.map(|one| one.position()).map(|p| (p.namespace, p.name, p.cluster.to_string())).collect()
    }

    #[test]
    fn a_list_is_ordered_by_namespace_name_and_cluster() {
        let cache = cache_of(&[("m2", "a", "x"), ("m1", "b", "x"), ("m1", "a", "x"), ("m1", "a", "w")]);
        let order = triples(cursor(&cache, Query::default(), None));
        let expected = [("a", "w", "m1"), ("a", "x", "m1"), ("a", "x", "m2"), ("b", "x", "m1")];
        assert_eq!(order, expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
    }

    #[test]
    fn one_namespace_one_name_and_one_cluster_can_be_asked_for() {
        let cache = cache_of(&[("m1", "a", "x"), ("m2", "a", "x"), ("m1", "ab", "x"), ("m1", "a", "y")]);
        let count = |query: Query| cursor(&cache, query, None).count();
        assert_eq!(count(Query { namespace: Some("a".into()), ..Query::default() }), 3);
        assert_eq!(count(Query { namespace: Some("a".into()), name: Some("x".into()), ..Query::default() }), 2);
        assert_eq!(count(Query { clusters: Some(["m2".into()].into()), ..Query::default() }), 1);
        assert_eq!(count(Query { namespace: Some("nowhere".into()), ..Query::default() }), 0);
    }

    #[test]
    fn objects_are_appended_with_their_cluster_annotation() {
        let cache = cache_of(&[("m1", "a", "x")]);
        let mut output = Vec::new();
        cursor(&cache, Query::default(), None).append_next(&mut output).unwrap().unwrap().unwrap();
        assert!(String::from_utf8(output).unwrap().contains(r#""resource.karmada.io/cached-from-cluster":"m1""#));
    }

    #[tokio::test]
    async fn who_looks_for_one_object_among_many_gives_others_their_turn() {
        let cache = Cache::default().open(&pods().gvr);
        (0..600).for_each(|number| add(&cache, "m1", "a", &format!("pod-{number:03}")));
        let fields = vec![FieldCondition::new(FieldPath::parse("spec.n").unwrap(), "pod-599".to_owned(), true)];
        let query = Query { filter: Filter { fields, ..Filter::default() }, ..Query::default() };
        let mut cursor = cursor(&cache, query, None);
        let mut output = Vec::new();
        let steps: Vec<bool> =
            std::iter::from_fn(|| cursor.append_next(&mut output).map(|step| step.unwrap().is_some())).collect();
        assert_eq!(steps, [false, false, true]);
        assert!(String::from_utf8(output).unwrap().contains("pod-599"));
    }

    proptest! {
        #[test]
        fn objects_found_by_their_labels_are_those_that_a_look_at_all_finds(
            objects in proptest::collection::btree_map(("[ab]", "[a-c]", "[a-e]{1,2}"), ("[xyz]", proptest::option::of("[12]")), 0..60),
            app in proptest::collection::vec("[xyz]", 0..3), tier in 0_usize..5, namespace in proptest::option::of("[a-c]"),
            page in 1_usize..7,
        ) {
            let cache = Cache::default().open(&pods().gvr);
            for ((cluster, namespace, name), (app, tier)) in &objects {
                let tier = tier.as_ref().map(|tier| format!(r#","tier":"{tier}""#)).unwrap_or_default();
                add_labelled(&cache, cluster, namespace, name, &format!(r#""app":"{app}"{tier}"#));
            }
            let condition = |key: &str, test| LabelCondition { key: key.to_owned(), test };
            let tests = [LabelTest::Exists, LabelTest::DoesNotExist, LabelTest::GreaterThan(1), LabelTest::NotIn(vec!["1".into()])];
            let mut labels: Vec<_> = tests.get(tier).cloned().map(|test| condition("tier", test)).into_iter().collect();
            if !app.is_empty() {
                labels.push(condition("app", LabelTest::In(app)));
            }
            let filter = Filter { labels, ..Filter::default() };
            let all: Vec<Listed> = cursor(&cache, Query { namespace: namespace.clone(), ..Query::default() }, None).collect();
            let expected = triples(all.into_iter().filter(|listed| filter.admits(&listed.entry)));
            let query = Query { namespace, filter, ..Query::default() };
            let (mut after, mut seen) = (None, Vec::new());
            loop {
                let listed: Vec<Listed> = cursor(&cache, query.clone(), after.as_ref()).take(page).collect();
                let Some(last) = listed.last() else { break };
                after = Some(last.position());
                seen.extend(triples(listed.into_iter()));
            }
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn pages_give_each_object_once_whatever_the_page_size_and_whatever_comes_and_goes_between(
            objects in proptest::collection::btree_set(("[ab]", "[a-c]", "[a-e]{1,2}"), 0..60),
            page in 1_usize..7, namespace in proptest::option::of("[a-c]"),
            added in proptest::collection::vec(("[ab]", "[a-c]", "[f-h]"), 0..6),
        ) {
            let cache = Cache::default().open(&pods().gvr);
            for (cluster, namespace, name) in &objects {
                add(&cache, cluster, namespace, name);
            }
            let query = Query { namespace: namespace.clone(), ..Query::default() };
            let (mut after, mut seen) = (None, Vec::new());
            let mut added = added.into_iter();
            loop {
                let listed: Vec<Listed> = cursor(&cache, query.clone(), after.as_ref()).take(page).collect();
                let Some(last) = listed.last() else { break };
                after = Some(last.position());
                seen.extend(triples(listed.into_iter()));
                if let Some((cluster, namespace, name)) = added.next() {
                    add(&cache, &cluster, &namespace, &name);
                }
            }
            let unchanged: Vec<_> = seen.into_iter().filter(|(_, name, _)| !name.starts_with(['f', 'g', 'h'])).collect();
            let mut expected: Vec<_> = objects.into_iter().map(|(cluster, space, name)| (space, name, cluster))
                .filter(|(space, ..)| namespace.as_ref().is_none_or(|wanted| wanted == space)).collect();
            expected.sort();
            prop_assert_eq!(unchanged, expected);
        }
    }
}
