//! The one copy of every object, and the feed of its changes.
//!
//! Owned here: for each resource a [`ResourceCache`]; in it, for each cluster, the objects in key order. Written by the
//! reflector of that (cluster, resource) only, through a [`Writer`]; read through [`crate::view`]. A reader takes a
//! [`Snapshot`] in constant time and holds no lock while it answers; a watcher reads the feed by sequence number.
//!
//! The feed is bounded. A watcher that falls behind it is told so and lists again; nobody waits for anybody.

mod feed;
mod part;
mod writer;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use twox_hash::XxHash3_64;

use crate::codec::{Codec, Sample};
use crate::entry::{ByLabels, Entries, Entry, EntryKey, LabelSet, LabelSets};
use crate::plan::Scope;
use crate::resource::{ApiResource, ClusterName, GroupVersionResource};
use crate::version::MergedVersion;

use feed::number;
pub use feed::{Change, FeedItem};
pub use part::{Failure, Part, Refused, RestoredPart, Size, SyncState, Traffic};
pub use writer::{PreparedChange, Writer};

/// Changes kept for watchers that resume, per resource: at least and at most, and between them one for two objects.
const FEED_LENGTH: (usize, usize) = (2048, 16_384);
/// Frames that are made anew at a time.
const ANEW: usize = 512;
/// Why a restored part is out of touch.
const NOT_HEARD: &str = "not heard from since the restart of this server";
/// Bytes of objects that only the feed still holds, per resource: at least and at most, and between them a quarter of what the
/// objects take.
const FEED_BYTES: (usize, usize) = (2 << 20, 32 << 20);

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

    /// Forgets resources that no cluster contributes to and nobody reads, the labels of objects that are gone, and what feeds
    /// still hold of clusters that left so long ago. True if there is more to forget later.
    pub fn tidy(&self, kept: Duration) -> bool {
        let is_unused =
            |cache: &mut Arc<ResourceCache>| Arc::strong_count(cache) == 1 && cache.state.lock().parts.is_empty();
        // Freeing many objects takes its time, and is done without the lock.
        let gone: Vec<_> = self.resources.write().extract_if(.., |_, cache| is_unused(cache)).collect();
        if !gone.is_empty() {
            self.changed.send_replace(());
        }
        drop(gone);
        let all = self.all();
        all.iter().for_each(|cache| cache.forget_labels());
        all.iter().map(|cache| cache.forget_departed(kept)).fold(false, |more, one| more | one)
    }
}

/// The objects of one resource over all clusters.
#[derive(Debug)]
pub struct ResourceCache {
    resource: GroupVersionResource,
    codec: Codec,
    label_sets: Arc<LabelSets>,
    state: Mutex<State>,
    newest: watch::Sender<u64>,
    /// Tells those who follow all resources.
    changed: watch::Sender<()>,
    /// Makes fingerprints of the same object in two versions of its resource differ.
    seed: u64,
}

#[derive(Debug, Default)]
struct State {
    parts: Parts,
    feed: VecDeque<FeedItem>,
    feed_bytes: usize,
    /// The feed's changes with all objects of a cluster that left, and when that was.
    departed: VecDeque<(u64, Instant)>,
    next_sequence: u64,
    /// Objects of all parts, and their compressed bytes.
    objects: usize,
    compressed: usize,
}

/// The parts of clusters. Shared with snapshots, which take constant time: who writes to a part while it is read gets one of its
/// own.
pub type Parts = imbl::OrdMap<ClusterName, Arc<Part>>;

impl ResourceCache {
    fn new(resource: GroupVersionResource, changed: watch::Sender<()>) -> Self {
        let name = format!("{}/{}/{}", resource.group, resource.version, resource.resource);
        Self {
            seed: XxHash3_64::oneshot(name.as_bytes()),
            resource,
            changed,
            codec: Codec::default(),
            label_sets: Arc::default(),
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

    /// Whether changes from `sequence` on are soon dropped: the feed drops old ones, and more than half of what it holds comes
    /// behind that.
    pub fn is_pressed(&self, sequence: u64) -> bool {
        let state = self.state.lock();
        let has_dropped = state.oldest_sequence() > 0;
        has_dropped && sequence.saturating_sub(state.oldest_sequence()) < state.feed.len() as u64 / 2
    }

    /// The number that the next change will get.
    pub fn next_sequence(&self) -> u64 {
        self.state.lock().next_sequence
    }

    /// The state of the chosen clusters (all of them if `clusters` is none), taken at one moment.
    pub fn snapshot(&self, clusters: Option<&BTreeSet<ClusterName>>) -> Snapshot {
        let state = self.state.lock();
        let one = |cluster: &ClusterName| Some((cluster.clone(), Arc::clone(state.parts.get(cluster)?)));
        let parts = match clusters {
            Some(chosen) => chosen.iter().filter_map(one).collect(),
            None => state.parts.clone(),
        };
        Snapshot {
            parts,
            sequence: state.next_sequence,
            oldest_sequence: state.oldest_sequence(),
            label_sets: Arc::clone(&self.label_sets),
        }
    }

    /// One cluster's part as it is now.
    pub fn part(&self, cluster: &ClusterName) -> Option<Arc<Part>> {
        self.state.lock().parts.get(cluster).cloned()
    }

    /// The changes from `sequence` on, at most `limit`; none if the feed no longer reaches back that far.
    pub fn changes_since(&self, sequence: u64, limit: usize) -> Option<Vec<FeedItem>> {
        let state = self.state.lock();
        let skip = usize::try_from(sequence.checked_sub(state.oldest_sequence())?).ok()?;
        Some(state.feed.iter().skip(skip).take(limit).cloned().collect())
    }

    /// The changes from `sequence` on, and the parts that they changed as they are after all of these. None if the feed no
    /// longer reaches back that far.
    pub fn changes_and_parts(&self, sequence: u64) -> Option<(Vec<FeedItem>, Parts)> {
        let state = self.state.lock();
        let skip = usize::try_from(sequence.checked_sub(state.oldest_sequence())?).ok()?;
        let items: Vec<FeedItem> = state.feed.iter().skip(skip).cloned().collect();
        let mut parts = Parts::new();
        for cluster in items.iter().map(|item| &item.cluster) {
            if !parts.contains_key(cluster)
                && let Some(part) = state.parts.get(cluster)
            {
                parts.insert(cluster.clone(), Arc::clone(part));
            }
        }
        Some((items, parts))
    }

    /// The shared copy of the labels of an object of a cluster.
    pub fn intern_labels(&self, labels: LabelSet, cluster: &ClusterName) -> Arc<LabelSet> {
        self.label_sets.intern(labels, cluster)
    }

    /// Puts a cluster's part as it was before a restart in its place. It counts as out of touch until the cluster is heard.
    pub fn restore(&self, cluster: &ClusterName, restored: RestoredPart) {
        let RestoredPart { served, scope, printer_columns, objects, version, reached, last_seen, origin } = restored;
        let mut size = Size::default();
        objects.iter().for_each(|entry| size.add(entry));
        let failure = Some(Failure { since: last_seen, message: NOT_HEARD.to_owned() });
        let part = Part {
            served,
            by_labels: objects.iter().cloned().collect(),
            objects,
            version,
            sync: SyncState { synced: true, last_seen: Some(last_seen), failure, refused: None },
            printer_columns,
            floor: reached,
            size,
            traffic: Arc::default(),
            scope,
            origin,
            is_volatile: false,
        };
        let mut state = self.state.lock();
        state.objects += part.objects.len();
        state.compressed += usize::try_from(part.size.compressed).unwrap_or(usize::MAX);
        if let Some(earlier) = state.parts.insert(cluster.clone(), Arc::new(part)) {
            state.forget_size(&earlier);
        }
        self.announce(state);
    }

    /// Tells when there are new changes: holds the sequence number that the next change will get.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Opens the part of one cluster for writing. What it held before stays, also its version if `served` is the same.
    pub fn writer(self: &Arc<Self>, cluster: &ClusterName, served: &ApiResource) -> Writer {
        let mut state = self.state.lock();
        let part = state.parts.entry(cluster.clone()).or_insert_with(|| {
            Arc::new(Part {
                served: served.clone(),
                objects: Entries::new(),
                by_labels: ByLabels::default(),
                version: None,
                sync: SyncState::default(),
                printer_columns: Arc::default(),
                floor: u64::MAX,
                size: Size::default(),
                traffic: Arc::default(),
                scope: Scope::All,
                origin: Arc::default(),
                is_volatile: false,
            })
        });
        if part.served != *served {
            let part = Arc::make_mut(part);
            part.served = served.clone();
            part.version = None;
        }
        drop(state);
        Writer::new(Arc::clone(self), cluster.clone())
    }

    /// Removes a cluster's part; watchers see its objects deleted.
    pub fn remove(&self, cluster: &ClusterName) {
        let mut state = self.state.lock();
        if let Some(part) = state.parts.remove(cluster) {
            state.forget_size(&part);
            let sequence = state.next_sequence;
            state.departed.push_back((sequence, Instant::now()));
            state.push(cluster, Change::Left { objects: part.objects.clone() });
        }
        self.announce(state);
    }

    fn forget_labels(&self) {
        let objects = self.state.lock().objects;
        self.label_sets.forget_unused(objects);
    }

    /// Takes out of the feed what it holds of clusters that left so long ago. True if there is more to do later.
    fn forget_departed(&self, kept: Duration) -> bool {
        let (mut gone, mut state) = (Vec::new(), self.state.lock());
        while let Some((sequence, _)) = state.departed.pop_front_if(|(_, when)| when.elapsed() >= kept) {
            while state.oldest_sequence() <= sequence
                && let Some(item) = state.take_oldest()
            {
                gone.push(item);
            }
        }
        let has_more = !state.departed.is_empty() || state.parts.is_empty();
        drop(state);
        drop(gone);
        has_more
    }

    fn announce(&self, state: parking_lot::MutexGuard<'_, State>) {
        let newest = state.next_sequence;
        drop(state);
        self.newest.send_replace(newest);
        self.changed.send_replace(());
    }

    /// Trains the codec and makes the frames that were made before it anew. Runs on a blocking thread.
    fn train(&self, sample: &Sample) {
        if !self.codec.train(sample) {
            return;
        }
        let clusters: Vec<ClusterName> = self.state.lock().parts.keys().cloned().collect();
        for cluster in clusters {
            let mut behind = None;
            while let Some(last) = self.compress_anew(&cluster, behind.as_ref()) {
                behind = Some(last);
            }
        }
        self.state.lock().forget_earlier_frames();
    }

    /// Makes some frames anew, as far as that makes them smaller; returns the last entry that was looked at. Only a few at a
    /// time: what is looked at is held twice meanwhile.
    fn compress_anew(&self, cluster: &ClusterName, behind: Option<&Entry>) -> Option<Entry> {
        let newest = self.codec.newest_dictionary();
        let from = behind.map_or(Bound::Unbounded, |last| Bound::Excluded(last.clone()));
        let entries: Vec<Entry> = {
            let objects = self.part(cluster)?.objects.clone();
            objects.range((from, Bound::Unbounded)).take(ANEW).cloned().collect()
        };
        let decoder = self.codec.decoder();
        let (mut object, mut buffer) = (Vec::new(), Vec::new());
        for old in entries.iter().filter(|entry| entry.frame().dictionary < newest) {
            object.clear();
            if decoder.append(old.frame(), &mut object).is_err() {
                continue;
            }
            let Ok(frame) = self.codec.compress(&object, &mut buffer) else { continue };
            if frame.bytes.len() < old.frame().bytes.len() {
                let new = Entry::new(old.key(), old.version(), Arc::clone(old.labels()), frame);
                self.replace_frame(cluster, old, new);
            }
        }
        entries.last().cloned()
    }

    fn replace_frame(&self, cluster: &ClusterName, old: &Entry, new: Entry) {
        let mut state = self.state.lock();
        let present = state.parts.get(cluster).and_then(|part| part.objects.get(&old.key()));
        if present.is_some_and(|present| present.same_block(old)) {
            state.insert(cluster, new);
        }
    }
}

impl State {
    fn oldest_sequence(&self) -> u64 {
        self.feed.front().map_or(self.next_sequence, |item| item.sequence)
    }

    /// A part to write to.
    fn part_mut(&mut self, cluster: &ClusterName) -> Option<&mut Part> {
        self.parts.get_mut(cluster).map(Arc::make_mut)
    }

    fn forget_size(&mut self, part: &Part) {
        self.objects -= part.objects.len();
        self.compressed -= usize::try_from(part.size.compressed).unwrap_or(usize::MAX);
    }

    fn push(&mut self, cluster: &ClusterName, change: Change) {
        self.feed_bytes += change.held_bytes();
        self.feed.push_back(FeedItem { sequence: self.next_sequence, cluster: cluster.clone(), change });
        self.next_sequence += 1;
        let length = (self.objects / 2).clamp(FEED_LENGTH.0, FEED_LENGTH.1);
        let bytes = (self.compressed / 4).clamp(FEED_BYTES.0, FEED_BYTES.1);
        // What was just pushed stays, however large it is.
        while self.feed.len() > 1 && (self.feed.len() > length || self.feed_bytes > bytes) {
            self.take_oldest();
        }
    }

    /// Takes the oldest change out of the feed.
    fn take_oldest(&mut self) -> Option<FeedItem> {
        let dropped = self.feed.pop_front()?;
        self.feed_bytes -= dropped.change.held_bytes();
        if let (Some(part), Some(version)) = (self.parts.get_mut(&dropped.cluster), dropped.change.version())
            && part.floor != u64::MAX
        {
            Arc::make_mut(part).floor = part.floor.max(version);
        }
        Some(dropped)
    }
}

/// The state of a resource at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// The chosen clusters' parts.
    pub parts: Parts,
    /// The sequence number of the first change that is not in it.
    pub sequence: u64,
    /// The oldest change that the feed still holds.
    pub oldest_sequence: u64,
    /// The label sets of its objects, and whose they are.
    pub label_sets: Arc<LabelSets>,
}

impl Snapshot {
    /// A cluster whose part does not reach a version yet. Versions that are no numbers can't be compared, and a cluster that has no
    /// part is waited for by nobody.
    pub fn behind(&self, version: &MergedVersion) -> Option<&ClusterName> {
        let number = |version: &str| version.parse::<u64>().ok();
        let is_behind = |(cluster, part): &(&ClusterName, &Arc<Part>)| {
            let (wanted, reached) = (version.get(cluster).and_then(number), part.version.as_deref().and_then(number));
            wanted.zip(reached).is_some_and(|(wanted, reached)| reached < wanted)
        };
        self.parts.iter().find(is_behind).map(|(cluster, _)| cluster)
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
                let Some(part) = self.part_mut(cluster) else { return };
                part.version = Some(Arc::clone(&version));
                self.push(cluster, Change::Bookmark { version });
            }
        }
    }

    fn upsert(&mut self, cluster: &ClusterName, entry: Entry) {
        let Some(part) = self.part_mut(cluster) else { return };
        let version = entry.resource_version();
        part.reach(version);
        // A list that is taken again shows much that is held already, byte for byte.
        if part.objects.get(&entry.key()).is_some_and(|held| held.version() == entry.version()) {
            return;
        }
        part.traffic.changes.fetch_add(1, Ordering::Relaxed);
        let previous = self.insert(cluster, entry.clone());
        self.push(cluster, Change::Upserted { entry, previous, version });
    }

    fn insert(&mut self, cluster: &ClusterName, entry: Entry) -> Option<Entry> {
        let part = self.parts.get_mut(cluster).map(Arc::make_mut)?;
        self.compressed += entry.frame().bytes.len();
        let previous = part.insert(entry);
        match &previous {
            Some(previous) => self.compressed -= previous.frame().bytes.len(),
            None => self.objects += 1,
        }
        previous
    }

    /// After objects were compressed anew, the feed need not hold what they were before.
    fn forget_earlier_frames(&mut self) {
        for item in &mut self.feed {
            if let Change::Upserted { entry, .. } = &mut item.change
                && let Some(part) = self.parts.get(&item.cluster)
                && let Some(present) = part.objects.get(&entry.key())
                && present.version() == entry.version()
            {
                *entry = present.clone();
            }
        }
    }

    fn remove(&mut self, cluster: &ClusterName, key: &EntryKey<'_>, last: Option<Entry>, version: u64) {
        let Some(part) = self.parts.get_mut(cluster).map(Arc::make_mut) else { return };
        part.reach(version);
        let Some(previous) = part.objects.remove(key) else { return };
        part.size.subtract(&previous);
        part.by_labels.remove(&previous);
        self.objects -= 1;
        self.compressed -= previous.frame().bytes.len();
        part.traffic.changes.fetch_add(1, Ordering::Relaxed);
        self.push(cluster, Change::Deleted { previous, last, version });
    }
}

#[cfg(test)]
mod tests;
