//! Writing a cluster's part: objects are compressed outside of the lock, and applied many at one moment.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use twox_hash::XxHash3_64;

use super::{Failure, Part, Refused, ResourceCache, SyncState, number};
use crate::codec::CodecError;
use crate::connection::PrinterColumn;
use crate::entry::{Entries, Entry, EntryKey, LabelSet, Version};
use crate::plan::Scope;
use crate::raw::ParsedObject;
use crate::resource::ClusterName;

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
    pub(super) fn new(cache: Arc<ResourceCache>, cluster: ClusterName) -> Self {
        Self { cache, cluster, buffer: Vec::new() }
    }

    /// Compresses an object. Done outside of any lock.
    pub fn prepare(&mut self, object: ParsedObject) -> Result<Entry, CodecError> {
        let frame = self.cache.codec.compress(&object.bytes, &mut self.buffer)?;
        let labels = self.cache.intern_labels(LabelSet::new(object.labels), &self.cluster);
        let fingerprint = XxHash3_64::oneshot_with_seed(self.cache.seed, &object.bytes);
        let version = Version { resource_version: object.resource_version, fingerprint };
        let entry = Entry::new(EntryKey::new(&object.namespace, &object.name), version, labels, frame);
        if let Some(sample) = self.cache.codec.note(&object.bytes, entry.frame().bytes.len()) {
            let cache = Arc::clone(&self.cache);
            tokio::task::spawn_blocking(move || cache.train(&sample));
        }
        Ok(entry)
    }

    /// Says what of the resource is followed from here on, and where. If that is anything else than before, the version is
    /// forgotten.
    pub fn follow(&self, scope: &Scope, origin: &str) {
        self.update(|part| {
            if part.scope != *scope || *part.origin != *origin {
                (part.scope, part.origin) = (scope.clone(), origin.into());
                part.version = None;
            }
        });
    }

    /// Says whether what is written here need not be kept on disk.
    pub fn set_volatile(&self, is_volatile: bool) {
        self.update(|part| part.is_volatile = is_volatile);
    }

    /// Whether there is no reason to wait a moment before more is prepared: see [`Writer::ready`].
    pub fn is_ready(&self) -> bool {
        !self.cache.codec.is_beginning()
    }

    /// Waits for the first dictionary while it is being trained.
    pub async fn ready(&self) {
        self.cache.codec.begun().await;
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
        if let Some(part) = state.part_mut(&self.cluster) {
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
        if let Some(part) = state.part_mut(&self.cluster) {
            part.traffic.lists.fetch_add(1, Ordering::Relaxed);
            let refused = part.sync.refused.take();
            part.sync = SyncState { synced: true, last_seen: Some(Timestamp::now()), failure: None, refused };
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

    /// Notes an object of a watch that could not be taken; whether it is the first one.
    pub fn refuse(&self, reason: &str) -> bool {
        let mut is_first = false;
        self.update(|part| {
            part.traffic.refused.fetch_add(1, Ordering::Relaxed);
            is_first = part.sync.refused.is_none();
            Refused::add(&mut part.sync.refused, reason);
        });
        is_first
    }

    /// Says what of a whole list could not be taken; nothing that was refused before counts any more.
    pub fn set_refused(&self, refused: Option<Refused>) {
        self.update(|part| {
            let times = refused.as_ref().map_or(0, |refused| refused.times);
            part.traffic.refused.fetch_add(times, Ordering::Relaxed);
            part.sync.refused = refused;
        });
    }

    /// Sets the columns that the cluster's CustomResourceDefinition asks for.
    pub fn set_printer_columns(&self, columns: Arc<[PrinterColumn]>) {
        self.update(|part| part.printer_columns = columns);
    }

    fn read<T>(&self, read: impl FnOnce(&Part) -> T) -> Option<T> {
        self.cache.state.lock().parts.get(&self.cluster).map(|part| read(part))
    }

    fn update(&self, update: impl FnOnce(&mut Part)) {
        if let Some(part) = self.cache.state.lock().part_mut(&self.cluster) {
            update(part);
        }
    }
}
