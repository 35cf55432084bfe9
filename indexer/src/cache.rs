//! The one copy of every object, and the feed of its changes.
//!
//! Owned here: for each resource a [`ResourceCache`]; in it, for each cluster, the objects in key order. Written by the
//! reflector of that (cluster, resource) only, through a [`Writer`]; read through [`crate::view`]. A reader takes a
//! [`Snapshot`] in constant time and holds no lock while it answers; a watcher reads the feed by sequence number.
//!
//! The feed is bounded. A watcher that falls behind it is told so and lists again; nobody waits for anybody.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use twox_hash::XxHash3_64;

use crate::codec::{Codec, CodecError};
use crate::connection::PrinterColumn;
use crate::entry::{Entries, Entry, EntryKey, LabelSets, Version};
use crate::raw::ParsedObject;
use crate::resource::{ApiResource, ClusterName, GroupVersionResource};

/// Changes kept for watchers that resume, per resource.
const FEED_LENGTH: usize = 16_384;
/// Bytes of objects that only the feed still holds, per resource.
const FEED_BYTES: usize = 32 << 20;

/// Every resource that is cached.
#[derive(Debug, Default)]
pub struct Cache {
    resources: RwLock<BTreeMap<GroupVersionResource, Arc<ResourceCache>>>,
    /// Tells those who follow all resources.
    changed: watch::Sender<()>,
}

impl Cache {
    /// The resource's cache, made if it is not there yet.
    pub fn open(&self, resource: &GroupVersionResource) -> Arc<ResourceCache> {
        if let Some(known) = self.resources.read().get(resource) {
            return Arc::clone(known);
        }
        let mut resources = self.resources.write();
        let new = || Arc::new(ResourceCache::new(resource.clone(), self.changed.clone()));
        Arc::clone(resources.entry(resource.clone()).or_insert_with(new))
    }

    /// The resource's cache, if there is one.
    pub fn get(&self, resource: &GroupVersionResource) -> Option<Arc<ResourceCache>> {
        self.resources.read().get(resource).cloned()
    }

    /// All of them, in the order of their names.
    pub fn all(&self) -> Vec<Arc<ResourceCache>> {
        self.resources.read().values().cloned().collect()
    }

    /// Tells when something has changed in any resource.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Forgets resources that no cluster contributes to and nobody reads.
    pub fn drop_unused(&self) {
        self.resources.write().retain(|_, cache| Arc::strong_count(cache) > 1 || !cache.state.lock().parts.is_empty());
        self.changed.send_replace(());
    }
}

/// The objects of one resource over all clusters.
#[derive(Debug)]
pub struct ResourceCache {
    resource: GroupVersionResource,
    codec: Codec,
    label_sets: LabelSets,
    state: Mutex<State>,
    newest: watch::Sender<u64>,
    /// Tells those who follow all resources.
    changed: watch::Sender<()>,
    /// Makes fingerprints of the same object in two versions of its resource differ.
    seed: u64,
}

#[derive(Debug, Default)]
struct State {
    parts: BTreeMap<ClusterName, Part>,
    feed: VecDeque<FeedItem>,
    feed_bytes: usize,
    next_sequence: u64,
}

/// One cluster's objects of one resource.
#[derive(Debug, Clone)]
pub struct Part {
    /// The resource as this cluster serves it, which may be another version than the one asked for.
    pub served: ApiResource,
    /// Its objects.
    pub objects: Entries,
    /// The version its collection has reached; none before the first list.
    pub version: Option<Arc<str>>,
    /// How well it follows the cluster.
    pub sync: SyncState,
    /// Columns its CustomResourceDefinition asks to be printed.
    pub printer_columns: Arc<[PrinterColumn]>,
    /// The version from which on the feed holds every change: a watcher that knows this one or a later one misses nothing.
    pub floor: u64,
    /// How much its objects take.
    pub size: Size,
    /// What came from the cluster so far.
    pub traffic: Arc<Traffic>,
}

/// Bytes of objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// As they are kept.
    pub compressed: u64,
    /// As the cluster wrote them.
    pub raw: u64,
}

impl Size {
    fn add(&mut self, entry: &Entry) {
        self.compressed += entry.frame().bytes.len() as u64;
        self.raw += u64::from(entry.frame().raw_length);
    }

    fn subtract(&mut self, entry: &Entry) {
        self.compressed -= entry.frame().bytes.len() as u64;
        self.raw -= u64::from(entry.frame().raw_length);
    }
}

/// What came from a cluster since its part was opened; for metrics. Written by its reflector only.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Watches begun; the first one included.
    pub watches: AtomicU64,
    /// Whole lists taken in.
    pub lists: AtomicU64,
    /// Objects written or deleted.
    pub changes: AtomicU64,
    /// Rounds that ended with a failure.
    pub failures: AtomicU64,
}

/// How well a cluster's part follows the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncState {
    /// Whether a whole list has been taken at some time.
    pub synced: bool,
    /// When the cluster was last heard from.
    pub last_seen: Option<Timestamp>,
    /// What went wrong since; none while all is well.
    pub failure: Option<Failure>,
}

/// What keeps a part from following its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Since when.
    pub since: Timestamp,
    /// What happened, for people.
    pub message: String,
}

/// A change, as watchers see it.
#[derive(Debug, Clone)]
pub struct FeedItem {
    /// Rises by one with each change of the resource.
    pub sequence: u64,
    /// Where it happened.
    pub cluster: ClusterName,
    /// What happened.
    pub change: Change,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Change {
    /// An object is new, or is another than before.
    Upserted {
        /// As it is now.
        entry: Entry,
        /// As it was, if it was there.
        previous: Option<Entry>,
        /// The collection's version that this change brought.
        version: u64,
    },
    /// An object is gone.
    Deleted {
        /// As it was last seen by the cache.
        previous: Entry,
        /// As the cluster last showed it, where it did.
        last: Option<Entry>,
        /// The collection's version that this change brought.
        version: u64,
    },
    /// The collection reached this version with no change to its objects.
    Bookmark {
        /// As the cluster wrote it.
        version: Arc<str>,
    },
    /// The cluster no longer contributes; all these objects are gone at once.
    Left {
        /// Its objects as they were.
        objects: Entries,
    },
}

impl Change {
    /// The collection's version that the change brought.
    pub fn version(&self) -> Option<u64> {
        match self {
            Self::Upserted { version, .. } | Self::Deleted { version, .. } => Some(*version),
            Self::Bookmark { version } => Some(number(version)),
            Self::Left { .. } => None,
        }
    }

    fn held_bytes(&self) -> usize {
        match self {
            Self::Upserted { entry, .. } => entry.frame().bytes.len(),
            Self::Deleted { previous, .. } => previous.frame().bytes.len(),
            Self::Bookmark { .. } | Self::Left { .. } => 0,
        }
    }
}

impl ResourceCache {
    fn new(resource: GroupVersionResource, changed: watch::Sender<()>) -> Self {
        let name = format!("{}/{}/{}", resource.group, resource.version, resource.resource);
        Self {
            seed: XxHash3_64::oneshot(name.as_bytes()),
            resource,
            changed,
            codec: Codec::default(),
            label_sets: LabelSets::default(),
            state: Mutex::default(),
            newest: watch::Sender::new(0),
        }
    }

    /// Which resource this is, in the version that registries select.
    pub fn resource(&self) -> &GroupVersionResource {
        &self.resource
    }

    /// How its frames are opened.
    pub fn codec(&self) -> &Codec {
        &self.codec
    }

    /// Changes that followers can still catch up with.
    pub fn feed_length(&self) -> usize {
        self.state.lock().feed.len()
    }

    /// The number that the next change will get.
    pub fn next_sequence(&self) -> u64 {
        self.state.lock().next_sequence
    }

    /// The state of the chosen clusters (all of them if `clusters` is none), taken at one moment.
    pub fn snapshot(&self, clusters: Option<&BTreeSet<ClusterName>>) -> Snapshot {
        let state = self.state.lock();
        let parts = state
            .parts
            .iter()
            .filter(|(name, _)| clusters.is_none_or(|chosen| chosen.contains(*name)))
            .map(|(name, part)| (name.clone(), part.clone()))
            .collect();
        Snapshot { parts, sequence: state.next_sequence, oldest_sequence: state.oldest_sequence() }
    }

    /// One cluster's part as it is now.
    pub fn part(&self, cluster: &ClusterName) -> Option<Part> {
        self.state.lock().parts.get(cluster).cloned()
    }

    /// The changes from `sequence` on, at most `limit`; none if the feed no longer reaches back that far.
    pub fn changes_since(&self, sequence: u64, limit: usize) -> Option<Vec<FeedItem>> {
        let state = self.state.lock();
        let skip = usize::try_from(sequence.checked_sub(state.oldest_sequence())?).ok()?;
        Some(state.feed.iter().skip(skip).take(limit).cloned().collect())
    }

    /// Tells when there are new changes: holds the sequence number that the next change will get.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Opens the part of one cluster for writing. What it held before stays, also its version if `served` is the same.
    pub fn writer(self: &Arc<Self>, cluster: &ClusterName, served: &ApiResource) -> Writer {
        let mut state = self.state.lock();
        let part = state.parts.entry(cluster.clone()).or_insert_with(|| Part {
            served: served.clone(),
            objects: Entries::new(),
            version: None,
            sync: SyncState::default(),
            printer_columns: Arc::default(),
            floor: u64::MAX,
            size: Size::default(),
            traffic: Arc::default(),
        });
        if part.served != *served {
            part.served = served.clone();
            part.version = None;
        }
        drop(state);
        Writer { cache: Arc::clone(self), cluster: cluster.clone(), buffer: Vec::new() }
    }

    /// Removes a cluster's part; watchers see its objects deleted.
    pub fn remove(&self, cluster: &ClusterName) {
        let mut state = self.state.lock();
        if let Some(part) = state.parts.remove(cluster) {
            state.push(cluster, Change::Left { objects: part.objects });
        }
        self.announce(state);
    }

    fn announce(&self, state: parking_lot::MutexGuard<'_, State>) {
        let newest = state.next_sequence;
        drop(state);
        self.newest.send_replace(newest);
        self.changed.send_replace(());
    }

    /// Trains the codec and makes the frames that were made before it anew. Runs on a blocking thread.
    fn train(self: &Arc<Self>) {
        if !self.codec.train() {
            return;
        }
        let snapshot = self.snapshot(None);
        let decoder = self.codec.decoder();
        let (mut object, mut buffer) = (Vec::new(), Vec::new());
        for (cluster, part) in &snapshot.parts {
            for old in part.objects.iter().filter(|entry| entry.frame().dictionary < self.codec.newest_dictionary()) {
                object.clear();
                if decoder.append(old.frame(), &mut object).is_err() {
                    continue;
                }
                let Ok(frame) = self.codec.compress(&object, &mut buffer) else { continue };
                let new = Entry::new(old.key(), old.version(), Arc::clone(old.labels()), frame);
                self.replace_frame(cluster, old, new);
            }
        }
    }

    fn replace_frame(&self, cluster: &ClusterName, old: &Entry, new: Entry) {
        if let Some(part) = self.state.lock().parts.get_mut(cluster)
            && part.objects.get(&old.key()).is_some_and(|present| present.same_block(old))
        {
            part.insert(new);
        }
    }
}

impl State {
    fn oldest_sequence(&self) -> u64 {
        self.feed.front().map_or(self.next_sequence, |item| item.sequence)
    }

    fn push(&mut self, cluster: &ClusterName, change: Change) {
        self.feed_bytes += change.held_bytes();
        self.feed.push_back(FeedItem { sequence: self.next_sequence, cluster: cluster.clone(), change });
        self.next_sequence += 1;
        while self.feed.len() > FEED_LENGTH || self.feed_bytes > FEED_BYTES {
            let Some(dropped) = self.feed.pop_front() else { break };
            self.feed_bytes -= dropped.change.held_bytes();
            if let (Some(part), Some(version)) = (self.parts.get_mut(&dropped.cluster), dropped.change.version())
                && part.floor != u64::MAX
            {
                part.floor = part.floor.max(version);
            }
        }
    }
}

/// The state of a resource at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// The chosen clusters' parts.
    pub parts: BTreeMap<ClusterName, Part>,
    /// The sequence number of the first change that is not in it.
    pub sequence: u64,
    /// The oldest change that the feed still holds.
    pub oldest_sequence: u64,
}

/// The only way to write a cluster's part; one reflector holds it at a time.
#[derive(Debug)]
pub struct Writer {
    cache: Arc<ResourceCache>,
    cluster: ClusterName,
    buffer: Vec<u8>,
}

/// A change that is ready to be applied: its object is already compressed.
#[derive(Debug)]
pub enum PreparedChange {
    /// Insert or replace this object.
    Upsert(Entry),
    /// Remove the object at this entry's key; the entry is its last state.
    Delete(Entry),
    /// The collection reached this version.
    Bookmark(Arc<str>),
}

impl Writer {
    /// Compresses an object. Done outside of any lock.
    pub fn prepare(&mut self, object: ParsedObject) -> Result<Entry, CodecError> {
        let frame = self.cache.codec.compress(&object.bytes, &mut self.buffer)?;
        let labels = self.cache.label_sets.intern(object.labels);
        let fingerprint = XxHash3_64::oneshot_with_seed(self.cache.seed, &object.bytes);
        let version = Version { resource_version: object.resource_version, fingerprint };
        let entry = Entry::new(EntryKey::new(&object.namespace, &object.name), version, labels, frame);
        if self.cache.codec.sample(&object.bytes) {
            let cache = Arc::clone(&self.cache);
            tokio::task::spawn_blocking(move || cache.train());
        }
        Ok(entry)
    }

    /// The objects held now.
    pub fn objects(&self) -> Entries {
        self.read(|part| part.objects.clone()).unwrap_or_default()
    }

    /// The version reached, from which a watch can go on.
    pub fn version(&self) -> Option<Arc<str>> {
        self.read(|part| part.version.clone()).flatten()
    }

    /// Applies changes in order, at one moment.
    pub fn apply(&self, changes: impl IntoIterator<Item = PreparedChange>) {
        let mut state = self.cache.state.lock();
        for change in changes {
            state.apply(&self.cluster, change);
        }
        if let Some(part) = state.parts.get_mut(&self.cluster) {
            part.sync.last_seen = Some(Timestamp::now());
            part.sync.failure = None;
        }
        self.cache.announce(state);
    }

    /// Ends a whole list: what is not in `listed` is gone, and the collection stands at `version`.
    pub fn finish_list(&self, listed: &Entries, version: Arc<str>) {
        let mut state = self.cache.state.lock();
        let Some(part) = state.parts.get(&self.cluster) else { return };
        let first = !part.sync.synced;
        let gone: Vec<Entry> = part.objects.iter().filter(|entry| !listed.contains(&entry.key())).cloned().collect();
        for entry in gone {
            state.remove(&self.cluster, &entry.key(), None, number(&version));
        }
        let reached = number(&version);
        state.apply(&self.cluster, PreparedChange::Bookmark(version));
        if let Some(part) = state.parts.get_mut(&self.cluster) {
            part.traffic.lists.fetch_add(1, Ordering::Relaxed);
            part.sync = SyncState { synced: true, last_seen: Some(Timestamp::now()), failure: None };
            if first {
                part.floor = reached;
            }
        }
        self.cache.announce(state);
    }

    /// Forgets the version, so that the next round lists again. The objects stay.
    pub fn forget_version(&self) {
        self.update(|part| part.version = None);
    }

    /// Notes that a watch begins.
    pub fn watching(&self) {
        self.update(|part| {
            part.traffic.watches.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// Notes that the cluster was heard from just now and all is well.
    pub fn seen(&self) {
        self.update(|part| {
            part.sync.last_seen = Some(Timestamp::now());
            part.sync.failure = None;
        });
    }

    /// Notes a failure; its beginning stays the first moment of an uninterrupted row of failures.
    pub fn failed(&self, message: String) {
        self.update(|part| {
            let since = part.sync.failure.as_ref().map_or_else(Timestamp::now, |earlier| earlier.since);
            part.sync.failure = Some(Failure { since, message });
            part.traffic.failures.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// Sets the columns that the cluster's CustomResourceDefinition asks for.
    pub fn set_printer_columns(&self, columns: Arc<[PrinterColumn]>) {
        self.update(|part| part.printer_columns = columns);
    }

    fn read<T>(&self, read: impl FnOnce(&Part) -> T) -> Option<T> {
        self.cache.state.lock().parts.get(&self.cluster).map(read)
    }

    fn update(&self, update: impl FnOnce(&mut Part)) {
        if let Some(part) = self.cache.state.lock().parts.get_mut(&self.cluster) {
            update(part);
        }
    }
}

impl State {
    fn apply(&mut self, cluster: &ClusterName, change: PreparedChange) {
        match change {
            PreparedChange::Upsert(entry) => self.upsert(cluster, entry),
            PreparedChange::Delete(last) => {
                let version = last.resource_version();
                self.remove(cluster, &last.clone().key(), Some(last), version);
            }
            PreparedChange::Bookmark(version) => {
                let Some(part) = self.parts.get_mut(cluster) else { return };
                part.version = Some(Arc::clone(&version));
                self.push(cluster, Change::Bookmark { version });
            }
        }
    }

    fn upsert(&mut self, cluster: &ClusterName, entry: Entry) {
        let Some(part) = self.parts.get_mut(cluster) else { return };
        let version = entry.resource_version();
        part.reach(version);
        let previous = part.insert(entry.clone());
        part.traffic.changes.fetch_add(1, Ordering::Relaxed);
        self.push(cluster, Change::Upserted { entry, previous, version });
    }

    fn remove(&mut self, cluster: &ClusterName, key: &EntryKey<'_>, last: Option<Entry>, version: u64) {
        let Some(part) = self.parts.get_mut(cluster) else { return };
        part.reach(version);
        let Some(previous) = part.objects.remove(key) else { return };
        part.size.subtract(&previous);
        part.traffic.changes.fetch_add(1, Ordering::Relaxed);
        self.push(cluster, Change::Deleted { previous, last, version });
    }
}

/// Versions are compared as integers; what is none counts as the beginning.
fn number(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}

impl Part {
    fn insert(&mut self, entry: Entry) -> Option<Entry> {
        self.size.add(&entry);
        let previous = self.objects.insert(entry);
        if let Some(previous) = &previous {
            self.size.subtract(previous);
        }
        previous
    }

    /// Moves the version on. Objects of a list not yet complete must not set one, so only a version that is there moves.
    fn reach(&mut self, version: u64) {
        if let Some(present) = &self.version
            && present.parse::<u64>().is_ok_and(|present| version > present)
        {
            self.version = Some(Arc::from(version.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::ObjectReader;

    fn served() -> ApiResource {
        ApiResource {
            gvr: GroupVersionResource::new("", "v1", "pods"),
            kind: "Pod".into(),
            namespaced: true,
            watchable: true,
        }
    }

    fn prepare(writer: &mut Writer, name: &str, version: u64) -> Entry {
        let text = format!(r#"{{"metadata":{{"namespace":"shop","name":"{name}","resourceVersion":"{version}"}}}}"#);
        writer.prepare(ObjectReader::new(&"m1".into(), "v1", "Pod").read(&text).unwrap()).unwrap()
    }

    fn names(cache: &ResourceCache) -> Vec<String> {
        let snapshot = cache.snapshot(None);
        snapshot.parts.values().flat_map(|part| part.objects.iter().map(|entry| entry.name().to_owned())).collect()
    }

    #[tokio::test]
    async fn a_second_list_takes_away_what_is_gone_and_keeps_the_rest() {
        let cache = Cache::default().open(&served().gvr);
        let mut writer = cache.writer(&"m1".into(), &served());
        let first: Entries = [prepare(&mut writer, "a", 1), prepare(&mut writer, "b", 2)].into_iter().collect();
        writer.apply(first.iter().cloned().map(PreparedChange::Upsert));
        writer.finish_list(&first, "5".into());
        let second: Entries = [prepare(&mut writer, "b", 2)].into_iter().collect();
        writer.finish_list(&second, "9".into());
        assert_eq!(names(&cache), ["b"]);
        assert_eq!(writer.version().as_deref(), Some("9"));
        let deleted =
            cache.changes_since(0, 100).unwrap().into_iter().any(
                |item| matches!(item.change, Change::Deleted { previous, version: 9, .. } if previous.name() == "a"),
            );
        assert!(deleted, "watchers see the deletion with the list's version");
    }

    #[tokio::test]
    async fn replacing_an_object_keeps_one_copy_the_newest() {
        let cache = Cache::default().open(&served().gvr);
        let mut writer = cache.writer(&"m1".into(), &served());
        let (old, new) = (prepare(&mut writer, "a", 1), prepare(&mut writer, "a", 2));
        writer.apply([PreparedChange::Upsert(old), PreparedChange::Upsert(new)]);
        let snapshot = cache.snapshot(None);
        let entries: Vec<_> = snapshot.parts.values().flat_map(|part| part.objects.iter()).collect();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].resource_version(), 2);
    }

    #[tokio::test]
    async fn a_list_in_progress_has_no_version_to_resume_from() {
        let cache = Cache::default().open(&served().gvr);
        let mut writer = cache.writer(&"m1".into(), &served());
        let entry = prepare(&mut writer, "a", 7);
        writer.apply([PreparedChange::Upsert(entry)]);
        assert_eq!(writer.version(), None);
    }

    #[tokio::test]
    async fn the_feed_is_bounded_and_says_when_it_no_longer_reaches_back() {
        let cache = Cache::default().open(&served().gvr);
        let writer = cache.writer(&"m1".into(), &served());
        writer.finish_list(&Entries::new(), "1".into());
        for version in 2..FEED_LENGTH as u64 + 10 {
            writer.apply([PreparedChange::Bookmark(version.to_string().into())]);
        }
        assert!(cache.changes_since(0, 1).is_none());
        let snapshot = cache.snapshot(None);
        let floor = snapshot.parts.values().next().unwrap().floor;
        assert!(floor > 1 && floor < FEED_LENGTH as u64);
    }

    #[tokio::test]
    async fn a_cluster_that_leaves_takes_its_objects_along() {
        let cache = Cache::default().open(&served().gvr);
        let mut writer = cache.writer(&"m1".into(), &served());
        let entry = prepare(&mut writer, "a", 7);
        writer.apply([PreparedChange::Upsert(entry)]);
        cache.remove(&"m1".into());
        assert!(names(&cache).is_empty());
        let left = cache.changes_since(0, 100).unwrap().pop().unwrap();
        assert!(matches!(left.change, Change::Left { objects } if objects.len() == 1));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn training_makes_earlier_frames_small_too() {
        let cache = Cache::default().open(&served().gvr);
        let mut writer = cache.writer(&"m1".into(), &served());
        for number in 0..450 {
            let entry = prepare(&mut writer, &format!("pod-{number}"), number);
            writer.apply([PreparedChange::Upsert(entry)]);
        }
        for _ in 0..500 {
            let done =
                cache.snapshot(None).parts.values().all(|part| part.objects.iter().all(|e| e.frame().dictionary == 1));
            if done {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("frames made before the training kept their first form");
    }
}
