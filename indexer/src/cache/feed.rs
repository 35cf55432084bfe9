//! What happened to the objects of a resource, in the order in which it happened.

use std::sync::Arc;

use crate::entry::{Entries, Entry};
use crate::resource::ClusterName;

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

    /// Bytes of objects that nobody else need hold: the states before the change.
    pub(super) fn held_bytes(&self) -> usize {
        let bytes = |entry: &Option<Entry>| entry.as_ref().map_or(0, |entry| entry.frame().bytes.len());
        match self {
            Self::Upserted { previous, .. } => bytes(previous),
            Self::Deleted { previous, last, .. } => previous.frame().bytes.len() + bytes(last),
            Self::Bookmark { .. } | Self::Left { .. } => 0,
        }
    }
}

/// Versions are compared as integers; what is none counts as the beginning.
pub(super) fn number(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}
