//! One part's file: what it is of, its objects as they were when the file was begun, then changes, frame by frame.
//!
//! A file is begun under another name and takes its place when it is whole; from then on it only grows. So whatever moment a
//! process is killed at, there is a file whose beginning is whole, and at most its last frame is cut off.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::frame::{FrameError, FrameWriter, Record, Standing, read_frame, take_record};
use crate::cache::{Change, FeedItem, Part, ResourceCache};
use crate::connection::PrinterColumn;
use crate::entry::{Entries, Entry, LabelSet};
use crate::plan::Scope;
use crate::resource::{ApiResource, ClusterName, GroupVersionResource};

/// How every file begins. The number rises when files look otherwise.
const MAGIC: &[u8] = b"fleetglass cache 1\n";
/// What a file is called while it is begun.
pub(super) const BEGUN: &str = "new";

/// What a file is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) cluster: ClusterName,
    pub(super) resource: GroupVersionResource,
    pub(super) served: ApiResource,
    pub(super) scope: Scope,
    pub(super) printer_columns: Arc<[PrinterColumn]>,
    /// Which cluster it was, as far as its address tells.
    pub(super) origin: Arc<str>,
    /// Whose dictionaries its frames name.
    pub(super) codec: u64,
}

/// What a file holds.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) header: Header,
    pub(super) objects: Entries,
    pub(super) standing: Standing,
    pub(super) bytes: u64,
    /// Whether its last write was cut off; such a file must not be written on.
    pub(super) is_torn: bool,
}

impl Header {
    pub(super) fn of(cluster: &ClusterName, cache: &ResourceCache, part: &Part) -> Self {
        Self {
            cluster: cluster.clone(),
            resource: cache.resource().clone(),
            served: part.served.clone(),
            scope: part.scope.clone(),
            printer_columns: Arc::clone(&part.printer_columns),
            origin: Arc::clone(&part.origin),
            codec: cache.codec().id(),
        }
    }
}

/// How far a part has come. What is kept is never ahead of this version.
fn standing(part: &Part, reached: u64) -> Standing {
    let newest = part.objects.iter().map(Entry::resource_version).max().unwrap_or_default();
    // Of what was deleted, only the floor still tells.
    let floor = Some(part.floor).filter(|floor| *floor != u64::MAX).unwrap_or_default();
    let of_changes = standing_of_changes(part, reached);
    Standing { reached: of_changes.reached.max(newest).max(floor), ..of_changes }
}

fn standing_of_changes(part: &Part, reached: u64) -> Standing {
    let of_version = part.version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default();
    Standing {
        last_seen: part.sync.last_seen.unwrap_or_default(),
        reached: reached.max(of_version),
        // What was refused leaves a hole: behind it, only a list tells what there is.
        version: part.version.clone().filter(|_| part.sync.refused.is_none()),
    }
}

/// Begins a file anew with all of a part; returns its size.
///
/// # Errors
/// If it can't be written; then what was there before is there still.
pub(super) fn write(path: &Path, header: &Header, part: &Part) -> std::io::Result<u64> {
    let begun = begun(path);
    let mut file = File::create(&begun)?;
    let mut bytes = 0;
    let mut put = |file: &mut File, frame: &[u8]| {
        bytes += frame.len() as u64;
        file.write_all(frame)
    };
    put(&mut file, MAGIC)?;
    let mut frame = FrameWriter::new();
    frame.bytes(&serde_json::to_vec(header)?);
    put(&mut file, &frame.finish())?;
    let mut frame = FrameWriter::new();
    for entry in &part.objects {
        frame.object(entry);
        if frame.is_full() {
            put(&mut file, &std::mem::replace(&mut frame, FrameWriter::new()).finish())?;
        }
    }
    frame.stands(&standing(part, 0));
    put(&mut file, &frame.finish())?;
    // Else the name could outlive a loss of power and the contents not.
    file.sync_data()?;
    fs::rename(&begun, path)?;
    Ok(bytes)
}

fn begun(path: &Path) -> PathBuf {
    path.with_added_extension(BEGUN)
}

/// Adds changes to a file; returns how much it grew.
///
/// # Errors
/// If they can't be written; then the file must be begun anew before anything is added.
pub(super) fn append(path: &Path, part: &Part, changes: &[&FeedItem]) -> std::io::Result<u64> {
    let mut file = File::options().append(true).open(path)?;
    let (mut frame, mut reached, mut bytes) = (FrameWriter::new(), 0, 0);
    for item in changes {
        match &item.change {
            Change::Upserted { entry, version, .. } => {
                frame.object(entry);
                reached = reached.max(*version);
            }
            Change::Deleted { previous, version, .. } => {
                frame.gone(&previous.key());
                reached = reached.max(*version);
            }
            Change::Bookmark { .. } | Change::Left { .. } => {}
        }
        if frame.is_full() {
            let full = std::mem::replace(&mut frame, FrameWriter::new()).finish();
            file.write_all(&full)?;
            bytes += full.len() as u64;
        }
    }
    frame.stands(&standing_of_changes(part, reached));
    let frame = frame.finish();
    file.write_all(&frame)?;
    Ok(bytes + frame.len() as u64)
}

/// Reads a file. The labels of its objects are shared with those that `cache` holds.
///
/// # Errors
/// If it is not a file of this form, or not what was written.
pub(super) fn read(path: &Path, cache: impl Fn(&Header) -> Option<Arc<ResourceCache>>) -> Result<Contents, FrameError> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut file = BufReader::with_capacity(64 << 10, file);
    let mut magic = vec![0; MAGIC.len()];
    if bytes < MAGIC.len() as u64 || file.read_exact(&mut magic).is_err() || magic != MAGIC {
        return Err(FrameError::Damaged("it is of another form"));
    }
    let (mut left, mut payload) = (bytes - MAGIC.len() as u64, Vec::new());
    if !read_frame(&mut file, &mut left, &mut payload)? {
        return Err(FrameError::Damaged("it ends too early"));
    }
    let header: Header =
        serde_json::from_slice(&payload).map_err(|_| FrameError::Damaged("its header is not readable"))?;
    let cache = cache(&header).ok_or(FrameError::Damaged("it needs a dictionary that is not there"))?;
    let mut taken = Taken::default();
    let is_torn = loop {
        match read_frame(&mut file, &mut left, &mut payload) {
            Ok(true) => taken.frame(&payload, &cache, &header.cluster)?,
            Ok(false) => break false,
            Err(FrameError::Torn) => break true,
            Err(error) => return Err(error),
        }
    };
    // Without it, not all objects of the beginning are there.
    let standing = taken.standing.ok_or(FrameError::Damaged("it ends too early"))?;
    Ok(Contents { header, objects: taken.objects, standing, bytes, is_torn })
}

/// Writes a dictionary's file.
///
/// # Errors
/// If it can't be written.
pub(super) fn write_dictionary(path: &Path, trained: &[u8]) -> std::io::Result<()> {
    let begun = begun(path);
    let mut frame = FrameWriter::new();
    frame.bytes(trained);
    let mut file = File::create(&begun)?;
    file.write_all(MAGIC)?;
    file.write_all(&frame.finish())?;
    file.sync_data()?;
    fs::rename(&begun, path)
}

/// Reads a dictionary's file.
///
/// # Errors
/// If it is not what was written.
pub(super) fn read_dictionary(path: &Path) -> Result<Vec<u8>, FrameError> {
    let bytes = fs::read(path)?;
    let mut rest = bytes.strip_prefix(MAGIC).ok_or(FrameError::Damaged("it is of another form"))?;
    let (mut left, mut trained) = (rest.len() as u64, Vec::new());
    read_frame(&mut rest, &mut left, &mut trained)?;
    Ok(trained)
}

/// What was read of a file so far.
#[derive(Default)]
struct Taken {
    objects: Entries,
    standing: Option<Standing>,
}

impl Taken {
    fn frame(&mut self, mut payload: &[u8], cache: &ResourceCache, cluster: &ClusterName) -> Result<(), FrameError> {
        let mut labels: Vec<Arc<LabelSet>> = Vec::new();
        let newest = cache.codec().newest_dictionary();
        while let Some(record) = take_record(&mut payload)? {
            match record {
                Record::Labels(set) => labels.push(cache.intern_labels(set, cluster)),
                Record::Object(object) => {
                    let set = labels.get(object.labels as usize).ok_or(FrameError::Damaged("labels are missing"))?;
                    if object.compressed.dictionary > newest {
                        return Err(FrameError::Damaged("it needs a dictionary that is not there"));
                    }
                    let entry = Entry::new(object.key, object.version, Arc::clone(set), object.compressed);
                    self.objects.insert(entry);
                }
                Record::Gone(key) => drop(self.objects.remove(&key)),
                Record::Stands(standing) => {
                    let before = self.standing.as_ref().map_or(0, |before| before.reached);
                    self.standing = Some(Standing { reached: standing.reached.max(before), ..standing });
                }
            }
        }
        Ok(())
    }
}
