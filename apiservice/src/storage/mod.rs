//! Where ResourceRegistry objects are kept: one trait, two stores, and encryption around either.
//!
//! Values are JSON without `metadata.resourceVersion`; the store's revision takes its place on reading. Every write names the
//! revision it was made from, so that no write overwrites one it has not seen. An acknowledged write is on disk.

pub mod embedded;
pub mod encryption;
pub mod etcd;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

/// An object as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// Its JSON.
    pub value: Bytes,
    /// The revision of its last write.
    pub revision: u64,
    /// Whether it is stored in another way than it would be written now, so that even an update without a change is worth it.
    pub is_outdated: bool,
}

/// All objects at one revision, in order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The objects.
    pub items: Vec<Stored>,
    /// The revision they were read at.
    pub revision: u64,
}

/// What happened to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageEvent {
    /// It was written.
    Written {
        /// As it is now.
        object: Stored,
        /// As it was, if it was there.
        previous: Option<Bytes>,
    },
    /// It was deleted.
    Deleted {
        /// As it last was; its revision is that of the deletion.
        object: Stored,
    },
    /// Nothing happened up to this revision.
    Progress(u64),
}

/// A store could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// An object of that name is there already.
    #[error("the object exists")]
    Exists,
    /// The object was written since the revision named, or is gone.
    #[error("the object was changed meanwhile")]
    Conflict,
    /// The store no longer has the changes since the revision named.
    #[error("the changes since this revision are no longer kept")]
    Compacted,
    /// The store cannot be reached or refuses.
    #[error("the store of ResourceRegistry objects does not answer: {0}")]
    Unavailable(String),
    /// What is stored cannot be read.
    #[error("what is stored cannot be read: {0}")]
    Corrupt(String),
}

/// A stream of changes in order of their revisions.
pub type Changes = BoxStream<'static, Result<StorageEvent, StorageError>>;

/// A store of small named objects.
#[async_trait]
pub trait Storage: std::fmt::Debug + Send + Sync + 'static {
    /// The key an object is stored under.
    fn key(&self, name: &str) -> String;
    /// Reads one object.
    async fn get(&self, name: &str) -> Result<Option<Stored>, StorageError>;
    /// Reads all objects at one revision.
    async fn list(&self) -> Result<Listing, StorageError>;
    /// Writes a new object; returns its revision.
    async fn create(&self, name: &str, value: Bytes) -> Result<u64, StorageError>;
    /// Replaces an object that is at `expected`; returns its new revision.
    async fn update(&self, name: &str, value: Bytes, expected: u64) -> Result<u64, StorageError>;
    /// Deletes an object that is at `expected`; returns the deletion's revision.
    async fn delete(&self, name: &str, expected: u64) -> Result<u64, StorageError>;
    /// The changes after a revision, without end.
    async fn watch(&self, after: u64) -> Result<Changes, StorageError>;
    /// Whether the store answers.
    async fn ping(&self) -> Result<(), StorageError>;
}
