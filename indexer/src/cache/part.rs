//! One cluster's objects of one resource, and what is known of them: how well they follow the cluster, how much they take, and
//! what could not be taken.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use jiff::Timestamp;

use crate::connection::PrinterColumn;
use crate::entry::{ByLabels, Entries, Entry};
use crate::plan::Scope;
use crate::resource::ApiResource;

/// One cluster's objects of one resource.
#[derive(Debug, Clone)]
pub struct Part {
    /// The resource as this cluster serves it, which may be another version than the one asked for.
    pub served: ApiResource,
    /// Its objects.
    pub objects: Entries,
    /// The same by their labels.
    pub by_labels: ByLabels,
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
    /// What of the resource it follows.
    pub scope: Scope,
    /// Where the cluster is, as far as that tells it from another one of its name.
    pub origin: Arc<str>,
    /// Whether it is worth keeping on disk: what is read from files is not.
    pub is_volatile: bool,
}

/// A part as it was before a restart.
#[derive(Debug)]
pub struct RestoredPart {
    /// The resource as the cluster served it.
    pub served: ApiResource,
    /// What of it was followed.
    pub scope: Scope,
    /// Columns to be printed.
    pub printer_columns: Arc<[PrinterColumn]>,
    /// Its objects.
    pub objects: Entries,
    /// The version to go on from, if there is one.
    pub version: Option<Arc<str>>,
    /// The latest version that its objects show.
    pub reached: u64,
    /// When the cluster was last heard from.
    pub last_seen: Timestamp,
    /// Where the cluster was.
    pub origin: Arc<str>,
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
    pub(super) fn add(&mut self, entry: &Entry) {
        self.compressed += entry.frame().bytes.len() as u64;
        self.raw += u64::from(entry.frame().raw_length);
    }

    pub(super) fn subtract(&mut self, entry: &Entry) {
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
    /// Objects that could not be taken.
    pub refused: AtomicU64,
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
    /// What the cluster has that could not be taken, since the last whole list.
    pub refused: Option<Refused>,
}

/// Bytes of a reason that are kept.
const LONGEST_REASON: usize = 300;

/// Objects that a cluster sent and that could not be taken; what was held of them before, if anything, is still held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// How often that was.
    pub times: u64,
    /// What was wrong with the last one, for people.
    pub reason: String,
}

impl Refused {
    /// Counts one more.
    pub fn add(refused: &mut Option<Self>, reason: &str) {
        let times = refused.as_ref().map_or(0, |earlier| earlier.times) + 1;
        *refused = Some(Self { times, reason: Self::shortened(reason).to_owned() });
    }

    /// As much of a reason as is worth reading: it may quote what was sent.
    pub fn shortened(reason: &str) -> &str {
        &reason[..reason.floor_char_boundary(LONGEST_REASON)]
    }
}

/// What keeps a part from following its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Since when.
    pub since: Timestamp,
    /// What happened, for people.
    pub message: String,
}

impl Part {
    pub(super) fn insert(&mut self, entry: Entry) -> Option<Entry> {
        self.size.add(&entry);
        let previous = self.objects.insert(entry.clone());
        if let Some(previous) = &previous {
            self.size.subtract(previous);
        }
        self.by_labels.insert(entry, previous.as_ref());
        previous
    }

    /// Moves the version on. Objects of a list not yet complete must not set one, so only a version that is there moves.
    pub(super) fn reach(&mut self, version: u64) {
        if let Some(present) = &self.version
            && present.parse::<u64>().is_ok_and(|present| version > present)
        {
            self.version = Some(Arc::from(version.to_string()));
        }
    }
}
