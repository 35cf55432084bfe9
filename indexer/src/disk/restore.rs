//! Reads what an earlier process has left, into the cache: all files side by side, each trusted only if it is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use tracing::{error, info, warn};

use super::frame::FrameError;
use super::keep::{Keeper, KeptPart, KeptResource, PART, PARTS, SET_ASIDE, create_private, dictionary_path, entries};
use super::part_file::{self, Contents, Header};
use super::{Restored, RestoredCount, at};
use crate::cache::{Cache, ResourceCache, RestoredPart};
use crate::connection::Discovery;
use crate::plan::WatchKey;
use crate::resource::{ApiResource, ClusterName};

/// Damaged files that are kept for who wants to look at them.
const MOST_SET_ASIDE: usize = 16;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(2);

/// A resource's folder while it is read.
struct Folder {
    path: PathBuf,
    /// Known from the first file that was read, with the dictionaries that its files need.
    cache: Mutex<Option<Arc<ResourceCache>>>,
    parts: Mutex<BTreeMap<ClusterName, KeptPart>>,
}

/// Work that threads share.
struct Reading<'a> {
    keeper: &'a Keeper,
    folders: Vec<Folder>,
    files: Vec<(usize, PathBuf)>,
    next: AtomicUsize,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    objects: usize,
    served: BTreeMap<ClusterName, Vec<ApiResource>>,
    watches: BTreeSet<WatchKey>,
    told: Option<Instant>,
}

/// Fills the cache, and notes what is on disk already.
pub(super) fn restore(keeper: &mut Keeper) -> Restored {
    let begun = Instant::now();
    let reading = Reading::of(keeper);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| reading.run());
        }
    });
    let Reading { folders, found, .. } = reading;
    let Found { objects, served, watches, .. } = found.into_inner();
    for folder in folders {
        if let Some(cache) = folder.cache.into_inner() {
            let kept = KeptResource::restored(folder.path, &cache, folder.parts.into_inner());
            keeper.resources.insert(cache.resource().clone(), kept);
        }
    }
    let count = RestoredCount { objects, parts: watches.len(), took: begun.elapsed() };
    if count.parts > 0 {
        let milliseconds = u64::try_from(count.took.as_millis()).unwrap_or(u64::MAX);
        info!(objects, parts = count.parts, milliseconds, "restored the cache from disk");
    }
    keeper.disk.status.lock().restored = Some(count);
    let discoveries = served.into_iter().map(|(cluster, served)| (cluster, Discovery::remembered(served))).collect();
    Restored { discoveries, watches }
}

impl<'a> Reading<'a> {
    fn of(keeper: &'a Keeper) -> Self {
        let listed = |folder: &Path| {
            entries(folder).unwrap_or_else(|error| {
                warn!(%error, "a folder of the cache on disk can't be read");
                Vec::new()
            })
        };
        let folders: Vec<PathBuf> =
            listed(&keeper.folder.join(PARTS)).into_iter().filter(|path| path.is_dir()).collect();
        let mut files: Vec<(u64, usize, PathBuf)> = Vec::new();
        for (at, folder) in folders.iter().enumerate() {
            let parts = listed(folder).into_iter().filter(|path| path.extension().is_some_and(|end| end == PART));
            files.extend(parts.map(|path| (fs::metadata(&path).map_or(0, |metadata| metadata.len()), at, path)));
        }
        // The longest first, so that no thread ends long after the others.
        files.sort_by_key(|(bytes, ..)| std::cmp::Reverse(*bytes));
        let folder = |path| Folder { path, cache: Mutex::default(), parts: Mutex::default() };
        Self {
            keeper,
            folders: folders.into_iter().map(folder).collect(),
            files: files.into_iter().map(|(_, at, path)| (at, path)).collect(),
            next: AtomicUsize::new(0),
            found: Mutex::new(Found { told: Some(Instant::now()), ..Found::default() }),
        }
    }

    fn run(&self) {
        while let Some((at, path)) = self.files.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let Some(folder) = self.folders.get(*at) else { continue };
            match part_file::read(path, |header| folder.cache_of(header, self.keeper)) {
                Ok(contents) => self.take(folder, contents),
                Err(damage) => self.keeper.set_aside(path, &damage),
            }
        }
    }

    fn take(&self, folder: &Folder, contents: Contents) {
        let Contents { header, objects, standing, bytes, is_torn } = contents;
        let Some(cache) = folder.cache.lock().clone() else { return };
        let (cluster, served) = (header.cluster.clone(), header.served.clone());
        let count = objects.len();
        cache.restore(
            &cluster,
            RestoredPart {
                served: served.clone(),
                scope: header.scope.clone(),
                printer_columns: Arc::clone(&header.printer_columns),
                objects,
                version: standing.version,
                reached: standing.reached,
                last_seen: standing.last_seen,
                origin: Arc::clone(&header.origin),
            },
        );
        if is_torn {
            info!(%cluster, resource = %header.resource, "the last changes before the restart were not written whole; going on from those before");
        }
        if let Some(part) = cache.part(&cluster) {
            let kept = KeptPart::new(header.clone(), bytes, &part).torn(is_torn);
            folder.parts.lock().insert(cluster.clone(), kept);
        }
        let mut found = self.found.lock();
        found.objects += count;
        found.served.entry(cluster.clone()).or_default().push(served);
        found.watches.insert(WatchKey { cluster, resource: header.resource });
        if found.told.is_some_and(|told| told.elapsed() > PROGRESS) {
            info!(objects = found.objects, parts = found.watches.len(), of = self.files.len(), "restoring the cache");
            found.told = Some(Instant::now());
        }
    }
}

impl Folder {
    /// The cache that a file's objects go to. None if the file does not belong here.
    fn cache_of(&self, header: &Header, keeper: &Keeper) -> Option<Arc<ResourceCache>> {
        let mut known = self.cache.lock();
        if let Some(cache) = &*known {
            let is_its = *cache.resource() == header.resource && cache.codec().id() == header.codec;
            return is_its.then(|| Arc::clone(cache));
        }
        let opened = open(&keeper.cache, header, &self.path, keeper);
        *known = Some(Arc::clone(&opened));
        Some(opened)
    }
}

/// A resource's cache, with the dictionaries of its folder.
fn open(cache: &Cache, header: &Header, folder: &Path, keeper: &Keeper) -> Arc<ResourceCache> {
    let opened = cache.open(&header.resource);
    opened.codec().stand_in_for(header.codec);
    for number in 1.. {
        let path = dictionary_path(folder, header.codec, number);
        if !path.exists() {
            break;
        }
        match part_file::read_dictionary(&path) {
            Ok(trained) if opened.codec().restore(&trained) => {}
            Ok(_) => keeper.set_aside(&path, &FrameError::Damaged("it is no dictionary")),
            Err(damage) => keeper.set_aside(&path, &damage),
        }
        if opened.codec().newest_dictionary() != number {
            // Those behind it would get other numbers; what needs them is set aside with them.
            break;
        }
    }
    opened
}

impl Keeper {
    /// Puts a file away that is not as it was written. Its cluster is read anew.
    fn set_aside(&self, path: &Path, damage: &FrameError) {
        self.disk.set_aside.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.join(SET_ASIDE);
        let name = |path: Option<&Path>| {
            path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let time = Timestamp::now().as_millisecond();
        let target = folder.join(format!("{time}-{}-{}", name(path.parent()), name(Some(path))));
        let moved = create_private(&folder).and_then(|()| fs::rename(path, &target).map_err(at(path)));
        error!(file = %path.display(), %damage, set_aside = %target.display(), "a file of the cache on disk is damaged; what it held is read again from its cluster");
        if let Err(error) = moved {
            warn!(file = %path.display(), %error, "it could not be put away");
        }
        let mut present = entries(&folder).unwrap_or_default();
        present.sort();
        for path in present.iter().rev().skip(MOST_SET_ASIDE) {
            if let Err(error) = fs::remove_file(path) {
                warn!(file = %path.display(), %error, "it could not be removed");
            }
        }
    }
}
