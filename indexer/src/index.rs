//! The index: which objects of the cache have which value, so that queries need not open them.
//!
//! ```text
//! cache ─► follow ─► Tantivy ─► Committed ─► (search)
//! ```
//!
//! Owned here: a Tantivy index in a folder, written by one [`follow`] task that goes after the cache's feeds. Each document is
//! one state of one object, known by its fingerprint; its [`terms`] are what queries ask for. Readers take what was last
//! committed, with the place in each feed that it stands for: what changed since is looked at in the cache itself
//! ([`crate::search`]), so that no answer is older than the cache.
//!
//! The index may go at any time – a full disk, a damaged file, a limit – and nothing but speed goes with it.

mod counting;
mod directory;
mod elements;
mod follow;
mod matching;
pub(crate) mod segment;
mod sorting;
mod terms;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::watch;

pub use follow::follow;
pub(crate) use matching::{Matcher, Matches};
pub(crate) use segment::Segment;
pub(crate) use sorting::Selection;
pub(crate) use terms::PartKey;

use crate::cache::{Cache, ResourceCache};
use crate::resource::{ClusterName, GroupVersionResource};

/// Why the index can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Tantivy's own words.
    #[error("{0}")]
    Tantivy(#[from] tantivy::TantivyError),
    /// A file can't be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A folder can't be made or removed.
    #[error("{}: {error}", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Another process has it.
    #[error("{}: another process keeps its index there", .0.display())]
    InUse(PathBuf),
    /// It isn't what was written.
    #[error("the index is damaged: {0}")]
    Damaged(&'static str),
    /// It takes more room than it may.
    #[error("the index takes {size} bytes, more than the {limit} that it may")]
    TooLarge {
        /// Bytes that it takes.
        size: u64,
        /// Bytes that it may take.
        limit: u64,
    },
    /// An object of the cache can't be opened.
    #[error("{0}")]
    Codec(#[from] crate::codec::CodecError),
    /// A query's time is up. Nothing is wrong with the index.
    #[error("the query's time is up")]
    Late,
}

/// Where the index is, and how much it may take.
#[derive(Debug, Clone)]
pub struct IndexSettings {
    /// Its folder; one of its own that is gone with the process if none.
    pub folder: Option<PathBuf>,
    /// Bytes of memory for documents that are not written yet.
    pub memory: usize,
    /// Bytes that it may take on the disk; no limit if none.
    pub disk: Option<u64>,
}

/// What people see of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexState {
    /// There is none.
    Off,
    /// Objects are taken in for the first time: so many of so many.
    Building {
        /// Taken in.
        done: u64,
        /// In all.
        of: u64,
    },
    /// It follows the cache.
    Following,
    /// It can't be used, and why.
    Failed(String),
}

/// The index, for who reads it.
#[derive(Debug)]
pub struct Index {
    committed: ArcSwapOption<Committed>,
    state: Mutex<IndexState>,
    /// Tells the follower that a reader found something wrong.
    given_up: watch::Sender<()>,
    /// Counts for metrics.
    pub counters: Counters,
}

/// Counts for metrics. Written by the follower only.
#[derive(Debug, Default)]
pub struct Counters {
    /// Objects in the index.
    pub documents: AtomicU64,
    /// Bytes on the disk.
    pub bytes: AtomicU64,
    /// Objects taken in so far.
    pub indexed: AtomicU64,
    /// Times that it was written out.
    pub commits: AtomicU64,
    /// Times that it was begun anew.
    pub rebuilds: AtomicU64,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            committed: ArcSwapOption::empty(),
            state: Mutex::new(IndexState::Off),
            given_up: watch::Sender::new(()),
            counters: Counters::default(),
        }
    }
}

impl Index {
    /// How it is.
    pub fn state(&self) -> IndexState {
        self.state.lock().clone()
    }

    /// Changes of the cache that are not in the index yet; of resources that it doesn't know, all objects.
    pub fn queue(&self, cache: &Cache) -> u64 {
        let committed = self.committed();
        let waiting = |resource: &Arc<ResourceCache>| {
            let position = committed.as_ref().and_then(|committed| committed.position(resource));
            match position {
                Some(position) => resource.next_sequence().saturating_sub(position.sequence),
                None => resource.snapshot(None).parts.values().map(|part| part.objects.len() as u64).sum(),
            }
        };
        if committed.is_none() { 0 } else { cache.all().iter().map(waiting).sum() }
    }

    /// Something is wrong with what was committed: nobody is to read it any more, and it is built anew. Unless that has begun.
    pub(crate) fn give_up(&self, damaged: Option<&Arc<Committed>>, error: &IndexError) {
        let present = self.committed.load_full();
        let is_present = damaged.zip(present.as_ref()).is_some_and(|(damaged, present)| Arc::ptr_eq(damaged, present));
        if !is_present {
            return;
        }
        tracing::warn!(%error, "a query found the search index damaged and looks at each object");
        self.publish(None);
        self.given_up.send_replace(());
    }

    /// What was last committed, if there is anything.
    pub(crate) fn committed(&self) -> Option<Arc<Committed>> {
        self.committed.load_full()
    }

    fn set_state(&self, state: IndexState) {
        *self.state.lock() = state;
    }

    fn publish(&self, committed: Option<Committed>) {
        let documents = committed.as_ref().map_or(0, Committed::documents);
        self.counters.documents.store(documents, Ordering::Relaxed);
        self.committed.store(committed.map(Arc::new));
    }
}

/// What the index knows, and up to where.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) positions: HashMap<GroupVersionResource, Position>,
}

impl Committed {
    fn documents(&self) -> u64 {
        let parts = self.segments.iter().flat_map(|segment| &segment.parts);
        parts.map(|(_, documents)| documents.len()).sum()
    }

    /// Up to where a resource is known; none if it isn't, or was begun anew since.
    pub(crate) fn position(&self, cache: &Arc<ResourceCache>) -> Option<&Position> {
        self.positions.get(cache.resource()).filter(|position| position.is_of(cache))
    }

    /// The fingerprints of a part's documents.
    fn fingerprints(&self, part: &PartKey) -> impl Iterator<Item = u64> + '_ {
        let part = part.clone();
        self.segments.iter().flat_map(move |segment| {
            let documents = segment.documents_of_part(&part).into_iter().flatten();
            documents.filter_map(|document| segment.fingerprint(document))
        })
    }

    /// Whether there is a document of this fingerprint in a part.
    fn has(&self, part: &PartKey, fingerprint: u64) -> bool {
        self.segments.iter().any(|segment| {
            let documents = segment.documents_of_part(part);
            let is_there = |document| documents.is_some_and(|documents| documents.contains(document));
            segment.with_fingerprint(fingerprint).any(is_there)
        })
    }
}

/// Up to where the index has followed a resource's feed.
#[derive(Debug, Clone)]
pub(crate) struct Position {
    cache: Weak<ResourceCache>,
    /// The first change that is not in the index.
    pub(crate) sequence: u64,
    /// Clusters of which the index has objects from an earlier run that nobody has compared with theirs yet.
    pub(crate) unsettled: BTreeSet<ClusterName>,
}

impl Position {
    fn is_of(&self, cache: &Arc<ResourceCache>) -> bool {
        std::ptr::eq(self.cache.as_ptr(), Arc::as_ptr(cache))
    }
}

#[cfg(test)]
mod tests;
