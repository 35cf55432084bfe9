//! The store that needs no server: one file, written in durable transactions.
//!
//! Changes are kept in memory for watchers, a bounded number of them; after a restart a watcher lists again.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{iter, unfold};
use parking_lot::Mutex;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::{Changes, Listing, Storage, StorageError, StorageEvent, Stored};

const OBJECTS: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("resourceregistries");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
const REVISION: &str = "revision";
/// Changes kept for watchers that resume.
const HISTORY: usize = 4096;

/// A store in one file of a folder.
#[derive(Debug, Clone)]
pub struct EmbeddedStorage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Database,
    feed: Mutex<Feed>,
    live: broadcast::Sender<StorageEvent>,
}

#[derive(Debug)]
struct Feed {
    history: VecDeque<StorageEvent>,
    /// Changes after this revision are in the history.
    floor: u64,
    revision: u64,
}

/// The store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{0} is in use by another process; give each its own --data-dir")]
    InUse(PathBuf),
    /// Anything else.
    #[error("{path}: {error}")]
    Failed {
        /// The file or folder.
        path: PathBuf,
        /// What went wrong.
        error: String,
    },
}

fn unavailable(error: impl std::fmt::Display) -> StorageError {
    StorageError::Unavailable(error.to_string())
}

impl EmbeddedStorage {
    /// Opens the store in `folder`, making both if they are not there.
    ///
    /// # Errors
    /// If the folder cannot be written or another process has the store open.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        Self::open_for("registries", folder)
    }

    /// The same for other objects, which are kept in a file of this name.
    ///
    /// # Errors
    /// If the folder cannot be written or another process has the store open.
    pub fn open_for(objects: &str, folder: &Path) -> Result<Self, OpenError> {
        let path = folder.join(format!("{objects}.redb"));
        let failed = |error: &dyn std::fmt::Display| OpenError::Failed { path: path.clone(), error: error.to_string() };
        std::fs::create_dir_all(folder).map_err(|error| failed(&error))?;
        let database = match Database::create(&path) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(OpenError::InUse(path)),
            Err(error) => return Err(failed(&error)),
        };
        let revision = read_revision(&database).map_err(|error| failed(&error))?;
        let feed = Feed { history: VecDeque::new(), floor: revision, revision };
        let (live, _) = broadcast::channel(HISTORY);
        Ok(Self(Arc::new(Inner { database, feed: Mutex::new(feed), live })))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || work(&inner)).await.map_err(unavailable)?
    }
}

/// Makes the tables if they are not there and reads the last revision.
fn read_revision(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(OBJECTS)?;
    let revision = transaction.open_table(COUNTERS)?.get(REVISION)?.map_or(1, |revision| revision.value());
    transaction.commit()?;
    Ok(revision)
}

/// What a write does to an object's name.
enum Write {
    Create(Bytes),
    Update(Bytes, u64),
    Delete(u64),
}

impl Inner {
    /// One durable transaction: checks what the write expects, does it, and tells the watchers.
    fn write(&self, name: &str, write: Write) -> Result<u64, StorageError> {
        // Held over the commit, so that watchers see changes in the order of their revisions.
        let mut feed = self.feed.lock();
        let revision = feed.revision + 1;
        let event = self.commit(name, write, revision)?;
        feed.revision = revision;
        feed.history.push_back(event.clone());
        if feed.history.len() > HISTORY
            && let Some(dropped) = feed.history.pop_front()
        {
            feed.floor = revision_of(&dropped);
        }
        // Nobody watching is no failure.
        let _ = self.live.send(event);
        Ok(revision)
    }

    fn commit(&self, name: &str, write: Write, revision: u64) -> Result<StorageEvent, StorageError> {
        let transaction = self.database.begin_write().map_err(unavailable)?;
        let event = {
            let mut objects = transaction.open_table(OBJECTS).map_err(unavailable)?;
            let present = objects
                .get(name)
                .map_err(unavailable)?
                .map(|held| (held.value().0, Bytes::copy_from_slice(held.value().1)));
            let event = apply(name, &write, present, revision)?;
            match &write {
                Write::Create(value) | Write::Update(value, _) => {
                    objects.insert(name, (revision, &**value)).map_err(unavailable)?;
                }
                Write::Delete(_) => drop(objects.remove(name).map_err(unavailable)?),
            }
            let mut counters = transaction.open_table(COUNTERS).map_err(unavailable)?;
            counters.insert(REVISION, revision).map_err(unavailable)?;
            event
        };
        transaction.commit().map_err(unavailable)?;
        Ok(event)
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&redb::ReadOnlyTable<&str, (u64, &[u8])>) -> Result<T, redb::Error>,
    ) -> Result<T, StorageError> {
        let transaction = self.database.begin_read().map_err(unavailable)?;
        let objects = transaction.open_table(OBJECTS).map_err(unavailable)?;
        read(&objects).map_err(unavailable)
    }
}

/// The event that a write becomes, if the object is as the write expects.
fn apply(
    name: &str,
    write: &Write,
    present: Option<(u64, Bytes)>,
    revision: u64,
) -> Result<StorageEvent, StorageError> {
    let object = |value: &Bytes| Stored { name: name.to_owned(), value: value.clone(), revision, is_outdated: false };
    match (write, present) {
        (Write::Create(_), Some(_)) => Err(StorageError::Exists),
        (Write::Create(value), None) => Ok(StorageEvent::Written { object: object(value), previous: None }),
        (Write::Update(value, expected), Some((at, previous))) if at == *expected => {
            Ok(StorageEvent::Written { object: object(value), previous: Some(previous) })
        }
        (Write::Delete(expected), Some((at, previous))) if at == *expected => {
            Ok(StorageEvent::Deleted { object: object(&previous) })
        }
        (Write::Update(..) | Write::Delete(_), _) => Err(StorageError::Conflict),
    }
}

fn revision_of(event: &StorageEvent) -> u64 {
    match event {
        StorageEvent::Written { object, .. } | StorageEvent::Deleted { object } => object.revision,
        StorageEvent::Progress(revision) => *revision,
    }
}

#[async_trait]
impl Storage for EmbeddedStorage {
    fn key(&self, name: &str) -> String {
        format!("/search.karmada.io/resourceRegistries/{name}")
    }

    async fn get(&self, name: &str) -> Result<Option<Stored>, StorageError> {
        let name = name.to_owned();
        self.blocking(move |inner| {
            inner.read(|objects| {
                Ok(objects.get(name.as_str())?.map(|held| {
                    let (revision, value) = held.value();
                    Stored { name: name.clone(), value: Bytes::copy_from_slice(value), revision, is_outdated: false }
                }))
            })
        })
        .await
    }

    async fn list(&self) -> Result<Listing, StorageError> {
        self.blocking(|inner| {
            // Held so that no write comes between the objects and the revision.
            let feed = inner.feed.lock();
            let items = inner.read(|objects| {
                objects
                    .iter()?
                    .map(|held| {
                        let (name, value) = held?;
                        let (revision, value) = value.value();
                        Ok(Stored {
                            name: name.value().to_owned(),
                            value: Bytes::copy_from_slice(value),
                            revision,
                            is_outdated: false,
                        })
                    })
                    .collect()
            })?;
            Ok(Listing { items, revision: feed.revision })
        })
        .await
    }

    async fn create(&self, name: &str, value: Bytes) -> Result<u64, StorageError> {
        let name = name.to_owned();
        self.blocking(move |inner| inner.write(&name, Write::Create(value))).await
    }

    async fn update(&self, name: &str, value: Bytes, expected: u64) -> Result<u64, StorageError> {
        let name = name.to_owned();
        self.blocking(move |inner| inner.write(&name, Write::Update(value, expected))).await
    }

    async fn delete(&self, name: &str, expected: u64) -> Result<u64, StorageError> {
        let name = name.to_owned();
        self.blocking(move |inner| inner.write(&name, Write::Delete(expected))).await
    }

    async fn watch(&self, after: u64) -> Result<Changes, StorageError> {
        let feed = self.0.feed.lock();
        if after < feed.floor {
            return Err(StorageError::Compacted);
        }
        let missed: Vec<_> = feed.history.iter().filter(|event| revision_of(event) > after).cloned().map(Ok).collect();
        let live = unfold(Some(self.0.live.subscribe()), |receiver| async move {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Ok(event) => Some((Ok(event), Some(receiver))),
                Err(RecvError::Lagged(_)) => Some((Err(StorageError::Compacted), None)),
                Err(RecvError::Closed) => None,
            }
        });
        Ok(iter(missed).chain(live).boxed())
    }

    async fn ping(&self) -> Result<(), StorageError> {
        self.blocking(|inner| inner.read(|_| Ok(()))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    #[tokio::test]
    async fn objects_and_revisions_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let revision = {
            let storage = EmbeddedStorage::open(folder.path()).unwrap();
            let created = storage.create("a", value("1")).await.unwrap();
            storage.update("a", value("2"), created).await.unwrap()
        };
        let storage = EmbeddedStorage::open(folder.path()).unwrap();
        let stored = storage.get("a").await.unwrap().unwrap();
        assert_eq!((stored.value, stored.revision), (value("2"), revision));
        assert!(storage.create("b", value("1")).await.unwrap() > revision);
    }

    #[tokio::test]
    async fn a_write_made_from_an_old_revision_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let storage = EmbeddedStorage::open(folder.path()).unwrap();
        let first = storage.create("a", value("1")).await.unwrap();
        storage.update("a", value("2"), first).await.unwrap();
        assert_eq!(storage.update("a", value("3"), first).await, Err(StorageError::Conflict));
        assert_eq!(storage.delete("a", first).await, Err(StorageError::Conflict));
        assert_eq!(storage.create("a", value("3")).await, Err(StorageError::Exists));
        assert_eq!(storage.update("gone", value("3"), 1).await, Err(StorageError::Conflict));
    }

    #[tokio::test]
    async fn a_watch_replays_what_was_missed_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let storage = EmbeddedStorage::open(folder.path()).unwrap();
        let start = storage.list().await.unwrap().revision;
        let created = storage.create("a", value("1")).await.unwrap();
        let mut changes = storage.watch(start).await.unwrap();
        let deleted = storage.delete("a", created).await.unwrap();
        let first = changes.next().await.unwrap().unwrap();
        assert!(matches!(&first, StorageEvent::Written { object, previous: None } if object.revision == created));
        let second = changes.next().await.unwrap().unwrap();
        assert!(
            matches!(&second, StorageEvent::Deleted { object } if object.revision == deleted && object.value == value("1"))
        );
    }

    #[tokio::test]
    async fn a_revision_from_before_the_restart_is_too_old_to_watch_from() {
        let folder = tempfile::tempdir().unwrap();
        let start = EmbeddedStorage::open(folder.path()).unwrap().list().await.unwrap().revision;
        EmbeddedStorage::open(folder.path()).unwrap().create("a", value("1")).await.unwrap();
        let storage = EmbeddedStorage::open(folder.path()).unwrap();
        assert!(matches!(storage.watch(start).await, Err(StorageError::Compacted)));
    }

    #[tokio::test]
    async fn two_processes_cannot_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let _first = EmbeddedStorage::open(folder.path()).unwrap();
        let error = EmbeddedStorage::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("--data-dir"), "{error}");
    }

    #[tokio::test]
    async fn of_many_writers_with_the_same_revision_one_wins_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let storage = EmbeddedStorage::open(folder.path()).unwrap();
        storage.create("counter", value("0")).await.unwrap();
        let writers = (0..16).map(|_| {
            let storage = storage.clone();
            tokio::spawn(async move {
                loop {
                    let held = storage.get("counter").await.unwrap().unwrap();
                    let next: u32 = str::from_utf8(&held.value).unwrap().parse::<u32>().unwrap() + 1;
                    if storage.update("counter", value(&next.to_string()), held.revision).await.is_ok() {
                        return;
                    }
                }
            })
        });
        futures::future::join_all(writers).await.into_iter().for_each(Result::unwrap);
        assert_eq!(storage.get("counter").await.unwrap().unwrap().value, value("16"));
    }
}
