//! Writes what has changed: adds it to the part's file, or begins the file anew where that is too long, or not known.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use twox_hash::XxHash3_64;

use super::part_file::{self, BEGUN, Header};
use super::{Disk, DiskError, Restored, at, restore};
use crate::cache::{Cache, Change, FeedItem, Part, Parts, ResourceCache, Traffic};
use crate::resource::{ClusterName, GroupVersionResource};

/// What file names may have as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');
/// Longer names are cut.
const LONGEST_NAME: usize = 120;
/// How the files of parts and dictionaries end and begin.
pub(super) const PART: &str = "part";
const DICTIONARY: &str = "dictionary-";
/// Where all files are. Beside it may lie what is somebody else's.
pub(super) const PARTS: &str = "fleetglass-cache";
/// Where damaged files go.
pub(super) const SET_ASIDE: &str = "set-aside";
const LOCK: &str = "lock";
/// What an object takes in a file beside its compressed bytes, roughly.
const BESIDE: u64 = 160;
/// A file may be so much longer than twice what its objects need.
const SLACK: u64 = 256 << 10;

/// The one writer of a folder.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) folder: PathBuf,
    pub(super) cache: Arc<Cache>,
    pub(super) disk: Arc<Disk>,
    pub(super) resources: BTreeMap<GroupVersionResource, KeptResource>,
    /// Whether other files than those known may lie there.
    is_swept: bool,
    /// Held as long as the folder is in use.
    _lock: File,
}

/// One resource's folder.
#[derive(Debug)]
pub(super) struct KeptResource {
    folder: PathBuf,
    cache: Weak<ResourceCache>,
    /// The first change that is not on disk; none if that is not known.
    sequence: Option<u64>,
    dictionaries: u32,
    parts: BTreeMap<ClusterName, KeptPart>,
}

/// One part's file.
#[derive(Debug)]
pub(super) struct KeptPart {
    header: Header,
    bytes: u64,
    /// Which part it was and how many changes it had seen when it was written.
    traffic: Arc<Traffic>,
    changes: u64,
    version: Option<Arc<str>>,
    /// Whether its last write was cut off, so that nothing can be added.
    is_torn: bool,
}

impl KeptPart {
    pub(super) fn new(header: Header, bytes: u64, part: &Part) -> Self {
        let changes = part.traffic.changes.load(Ordering::Relaxed);
        let (traffic, version) = (Arc::clone(&part.traffic), part.version.clone());
        Self { header, bytes, traffic, changes, version, is_torn: false }
    }

    pub(super) fn torn(self, is_torn: bool) -> Self {
        Self { is_torn, ..self }
    }

    /// Whether the file has all of a part.
    fn is_as(&self, part: &Part) -> bool {
        // While a list is under way, changes may have been counted that a snapshot doesn't have.
        part.version.is_some()
            && self.changes == part.traffic.changes.load(Ordering::Relaxed)
            && self.version == part.version
            && self.is_of(part)
    }

    /// Whether the file is of this part, and not of an earlier one of the cluster.
    fn is_of(&self, part: &Part) -> bool {
        let Header { served, scope, printer_columns, origin, .. } = &self.header;
        Arc::ptr_eq(&self.traffic, &part.traffic)
            && *served == part.served
            && *scope == part.scope
            && *printer_columns == part.printer_columns
            && *origin == part.origin
    }

    /// Whether the file has to be begun anew before changes are added: most of it is of no use any more, or it ends in the
    /// middle.
    fn is_spent(&self, part: &Part) -> bool {
        self.is_torn || self.bytes > 2 * (part.size.compressed + BESIDE * part.objects.len() as u64) + SLACK
    }
}

impl Keeper {
    /// Takes a folder into use, which no other process does.
    pub(super) fn open(folder: &Path, cache: &Arc<Cache>, disk: &Arc<Disk>) -> Result<Self, DiskError> {
        create_private(folder)?;
        create_private(&folder.join(PARTS))?;
        let path = folder.join(LOCK);
        let lock = File::create(&path).map_err(at(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DiskError::InUse(folder.to_path_buf())),
            Err(TryLockError::Error(error)) => return Err(at(&path)(error)),
        }
        let (cache, disk) = (Arc::clone(cache), Arc::clone(disk));
        let resources = BTreeMap::new();
        Ok(Self { folder: folder.to_path_buf(), cache, disk, resources, is_swept: false, _lock: lock })
    }

    /// Fills the cache with what is there.
    pub(super) fn restore(&mut self) -> Restored {
        restore::restore(self)
    }

    /// What is on disk is not known any more.
    pub(super) fn forget(&mut self) {
        self.resources.clear();
        self.is_swept = false;
    }

    /// Writes what has changed; returns how long all files are.
    pub(super) fn flush(&mut self) -> Result<u64, DiskError> {
        let caches: Vec<_> = self.cache.all().into_iter().filter(|cache| is_kept(cache.resource())).collect();
        let present: BTreeSet<_> = caches.iter().map(|cache| cache.resource().clone()).collect();
        let gone: Vec<_> = self.resources.keys().filter(|resource| !present.contains(resource)).cloned().collect();
        for resource in gone {
            if let Some(kept) = self.resources.remove(&resource) {
                fs::remove_dir_all(&kept.folder).map_err(at(&kept.folder))?;
            }
        }
        for cache in &caches {
            let folder = self.folder.join(PARTS).join(file_name(&cache.resource().to_string()));
            let kept = self.resources.entry(cache.resource().clone());
            let kept = kept.or_insert_with(|| KeptResource::new(folder, cache));
            if !std::ptr::eq(kept.cache.as_ptr(), Arc::as_ptr(cache)) {
                // It was away for a while and counts its changes anew.
                *kept = KeptResource::new(kept.folder.clone(), cache);
                self.is_swept = false;
            }
            kept.flush(cache)?;
        }
        if !self.is_swept {
            self.sweep()?;
        }
        Ok(self.resources.values().flat_map(|kept| kept.parts.values()).map(|part| part.bytes).sum())
    }

    /// Removes what lies there and is nobody's.
    fn sweep(&mut self) -> Result<(), DiskError> {
        for path in entries(&self.folder.join(PARTS))? {
            let is_known = self.resources.values().any(|kept| kept.folder == path);
            if path.is_dir() && !is_known {
                fs::remove_dir_all(&path).map_err(at(&path))?;
            }
        }
        for kept in self.resources.values() {
            kept.sweep()?;
        }
        self.is_swept = true;
        Ok(())
    }
}

/// Secrets stay in memory.
fn is_kept(resource: &GroupVersionResource) -> bool {
    !(resource.group.is_empty() && &*resource.resource == "secrets")
}

/// A folder that others can't look into: what is cached may be nobody else's business.
pub(super) fn create_private(folder: &Path) -> Result<(), DiskError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at(folder))
}

/// The paths in a folder.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, DiskError> {
    let listed = fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    listed.map_err(at(folder))
}

/// A name that no two clusters or resources share.
fn file_name(name: &str) -> String {
    let plain = utf8_percent_encode(name, PLAIN).to_string();
    match plain.get(..LONGEST_NAME) {
        Some(beginning) => format!("{beginning}-{:016x}", XxHash3_64::oneshot(name.as_bytes())),
        None => plain,
    }
}

/// Where the dictionary of that number of a codec is.
pub(super) fn dictionary_path(folder: &Path, codec: u64, number: u32) -> PathBuf {
    folder.join(format!("{DICTIONARY}{codec:016x}-{number}"))
}

impl KeptResource {
    fn new(folder: PathBuf, cache: &Arc<ResourceCache>) -> Self {
        Self { folder, cache: Arc::downgrade(cache), sequence: None, dictionaries: 0, parts: BTreeMap::new() }
    }

    /// What was restored and is on disk as it is in the cache.
    pub(super) fn restored(
        folder: PathBuf,
        cache: &Arc<ResourceCache>,
        parts: BTreeMap<ClusterName, KeptPart>,
    ) -> Self {
        let (sequence, dictionaries) = (Some(cache.next_sequence()), cache.codec().newest_dictionary());
        Self { sequence, dictionaries, parts, ..Self::new(folder, cache) }
    }

    fn path(&self, cluster: &ClusterName) -> PathBuf {
        self.folder.join(format!("{}.{PART}", file_name(cluster.as_str())))
    }

    fn flush(&mut self, cache: &Arc<ResourceCache>) -> Result<(), DiskError> {
        if self.sequence == Some(cache.next_sequence()) {
            return Ok(());
        }
        create_private(&self.folder)?;
        match self.sequence.and_then(|sequence| cache.changes_and_parts(sequence)) {
            Some((items, parts)) => {
                self.write_dictionaries(cache)?;
                self.add(cache, &items, &parts)?;
                if let Some(last) = items.last() {
                    self.sequence = Some(last.sequence + 1);
                }
            }
            None => {
                let snapshot = cache.snapshot(None);
                self.write_dictionaries(cache)?;
                self.write_all(cache, &snapshot.parts)?;
                self.sequence = Some(snapshot.sequence);
            }
        }
        Ok(())
    }

    /// Whatever names a dictionary is written after it.
    fn write_dictionaries(&mut self, cache: &ResourceCache) -> Result<(), DiskError> {
        let newest = cache.codec().newest_dictionary();
        for number in self.dictionaries + 1..=newest {
            let path = dictionary_path(&self.folder, cache.codec().id(), number);
            let trained = cache.codec().trained(number).unwrap_or_default();
            part_file::write_dictionary(&path, &trained).map_err(at(&path))?;
        }
        self.dictionaries = newest;
        Ok(())
    }

    fn add(&mut self, cache: &ResourceCache, items: &[FeedItem], parts: &Parts) -> Result<(), DiskError> {
        let mut by_cluster: BTreeMap<&ClusterName, Vec<&FeedItem>> = BTreeMap::new();
        for item in items {
            by_cluster.entry(&item.cluster).or_default().push(item);
        }
        for (cluster, items) in by_cluster {
            let Some(part) = parts.get(cluster).filter(|part| !part.is_volatile) else {
                self.remove(cluster)?;
                continue;
            };
            let was_away = items.iter().any(|item| matches!(item.change, Change::Left { .. }));
            let path = self.path(cluster);
            match self.parts.get_mut(cluster) {
                Some(kept) if !was_away && kept.is_of(part) && !kept.is_spent(part) => {
                    kept.bytes += part_file::append(&path, part, &items).map_err(at(&path))?;
                    *kept = KeptPart::new(kept.header.clone(), kept.bytes, part);
                }
                _ => self.write(cache, cluster, part)?,
            }
        }
        Ok(())
    }

    fn write_all(&mut self, cache: &ResourceCache, parts: &Parts) -> Result<(), DiskError> {
        let is_gone = |cluster: &&ClusterName| parts.get(*cluster).is_none_or(|part| part.is_volatile);
        let gone: Vec<_> = self.parts.keys().filter(is_gone).cloned().collect();
        for cluster in gone {
            self.remove(&cluster)?;
        }
        for (cluster, part) in parts.iter().filter(|(_, part)| !part.is_volatile) {
            if !self.parts.get(cluster).is_some_and(|kept| kept.is_as(part)) {
                self.write(cache, cluster, part)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, cache: &ResourceCache, cluster: &ClusterName, part: &Part) -> Result<(), DiskError> {
        if !part.sync.synced {
            // Its first list is not complete: there is nothing to go on from, and what an earlier part has left is outdated.
            return self.remove(cluster);
        }
        let (path, header) = (self.path(cluster), Header::of(cluster, cache, part));
        let bytes = part_file::write(&path, &header, part).map_err(|error| {
            // What was begun takes room that is needed.
            let _ = fs::remove_file(path.with_added_extension(BEGUN));
            at(&path)(error)
        })?;
        self.parts.insert(cluster.clone(), KeptPart::new(header, bytes, part));
        Ok(())
    }

    fn remove(&mut self, cluster: &ClusterName) -> Result<(), DiskError> {
        if self.parts.remove(cluster).is_some() {
            let path = self.path(cluster);
            fs::remove_file(&path).map_err(at(&path))?;
        }
        Ok(())
    }

    fn sweep(&self) -> Result<(), DiskError> {
        let known: BTreeSet<PathBuf> = self.parts.keys().map(|cluster| self.path(cluster)).collect();
        let codec = self.cache.upgrade().map_or(0, |cache| cache.codec().id());
        let is_needed =
            |path: &Path| (1..=self.dictionaries).any(|number| dictionary_path(&self.folder, codec, number) == path);
        if !self.folder.exists() {
            return Ok(());
        }
        for path in entries(&self.folder)? {
            if !known.contains(&path) && !is_needed(&path) {
                fs::remove_file(&path).map_err(at(&path))?;
            }
        }
        Ok(())
    }
}
