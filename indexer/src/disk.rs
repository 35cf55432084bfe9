//! The cache on disk, so that a restart goes on from where the process ended, however that ended.
//!
//! In: the cache's feeds. Out: a folder with a file for each (cluster, resource), and at the start the cache as it was, each part
//! with the version from which its watch goes on. Objects lie there as they are held, compressed; frames of them have
//! checksums. What is not as it was written is set aside and never used. Where the disk can't be written, the cache goes on
//! without it, and says so.
//!
//! Secrets are never written, nor is what is read from files anyway.

mod frame;
mod keep;
mod part_file;
mod restore;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::cache::Cache;
use crate::connection::Discovery;
use crate::plan::WatchKey;
use crate::resource::ClusterName;

use keep::Keeper;

/// How long more changes are waited for.
const GATHERING: Duration = Duration::from_secs(1);
/// How long to wait before a disk that failed is tried again.
const RETRY: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(30) };

/// How the cache on disk is.
#[derive(Debug, Default)]
pub struct Disk {
    status: Mutex<DiskStatus>,
    /// How often it could not be written.
    pub failures: AtomicU64,
    /// Files that were not as they had been written.
    pub set_aside: AtomicU64,
}

/// How the cache on disk is, at one moment.
#[derive(Debug, Clone, Default)]
pub struct DiskStatus {
    /// Where it is; none if there is to be none.
    pub folder: Option<PathBuf>,
    /// Since when and why it can't be kept; none if it is.
    pub failure: Option<(Timestamp, String)>,
    /// Bytes of its files.
    pub bytes: u64,
    /// When it was last written.
    pub written: Option<Timestamp>,
    /// What was there at the start.
    pub restored: Option<RestoredCount>,
}

/// How much was there at the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct RestoredCount {
    /// Objects.
    pub objects: usize,
    /// Resources of clusters.
    pub parts: usize,
    /// How long it took.
    pub took: Duration,
}

/// What a restart goes on from.
#[derive(Debug, Default)]
pub struct Restored {
    /// What each cluster served, as far as it was followed.
    pub discoveries: BTreeMap<ClusterName, Discovery>,
    /// What is in the cache now.
    pub watches: BTreeSet<WatchKey>,
}

/// A folder that is ready to be written, or is not.
#[derive(Debug)]
pub struct Opened {
    folder: PathBuf,
    keeper: Option<Box<Keeper>>,
}

/// Why a folder can't be used.
#[derive(Debug, thiserror::Error)]
enum DiskError {
    #[error("{folder} is used by another process", folder = .0.display())]
    InUse(PathBuf),
    #[error("{path}: {error}", path = .path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// Names the path in what went wrong with it.
fn at(path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    move |error| DiskError::Io { path: path.to_path_buf(), error }
}

impl Disk {
    /// How it is now.
    pub fn status(&self) -> DiskStatus {
        self.status.lock().clone()
    }

    fn failed(&self, error: &DiskError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut status = self.status.lock();
        if status.failure.is_none() {
            error!(%error, "the cache can't be kept on disk, it is in memory only; after a restart all is read again");
        }
        let since = status.failure.as_ref().map_or_else(Timestamp::now, |(since, _)| *since);
        status.failure = Some((since, error.to_string()));
    }

    fn wrote(&self, bytes: u64) {
        let mut status = self.status.lock();
        if status.failure.take().is_some() {
            info!("the cache is kept on disk again");
        }
        (status.bytes, status.written) = (bytes, Some(Timestamp::now()));
    }
}

/// Takes a folder into use and fills the cache with what is there. Takes seconds for millions of objects.
pub fn open(folder: PathBuf, cache: &Arc<Cache>, disk: &Arc<Disk>) -> (Opened, Restored) {
    disk.status.lock().folder = Some(folder.clone());
    match Keeper::open(&folder, cache, disk) {
        Ok(mut keeper) => {
            let restored = keeper.restore();
            (Opened { folder, keeper: Some(Box::new(keeper)) }, restored)
        }
        Err(error) => {
            disk.failed(&error);
            (Opened { folder, keeper: None }, Restored::default())
        }
    }
}

/// Keeps the folder in step with the cache until told to stop.
pub async fn follow(opened: Opened, cache: Arc<Cache>, disk: Arc<Disk>, stop: CancellationToken) {
    let Opened { folder, mut keeper } = opened;
    let mut news = cache.subscribe();
    loop {
        news.mark_unchanged();
        let work = {
            let (folder, cache, disk) = (folder.clone(), Arc::clone(&cache), Arc::clone(&disk));
            move || keep_once(keeper, &folder, &cache, &disk)
        };
        keeper = tokio::task::spawn_blocking(work).await.unwrap_or_default();
        if stop.is_cancelled() {
            return;
        }
        let is_failing = disk.status.lock().failure.is_some();
        let pause = async {
            if is_failing {
                tokio::time::sleep(RETRY).await;
            } else if news.changed().await.is_ok() {
                tokio::time::sleep(GATHERING).await;
            }
        };
        // Told to stop, it writes what there is once more.
        stop.run_until_cancelled(pause).await;
    }
}

/// One round of writing. What is on disk after a failure is not known; it is written anew.
fn keep_once(keeper: Option<Box<Keeper>>, folder: &Path, cache: &Arc<Cache>, disk: &Arc<Disk>) -> Option<Box<Keeper>> {
    let mut keeper = match keeper {
        Some(keeper) => keeper,
        None => match Keeper::open(folder, cache, disk) {
            Ok(keeper) => Box::new(keeper),
            Err(error) => {
                disk.failed(&error);
                return None;
            }
        },
    };
    match keeper.flush() {
        Ok(bytes) => disk.wrote(bytes),
        Err(error) => {
            disk.failed(&error);
            keeper.forget();
        }
    }
    Some(keeper)
}
