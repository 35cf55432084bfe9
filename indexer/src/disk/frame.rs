//! How changes lie in a file: frames, each with its length and checksum, of records.
//!
//! In and out: bytes. A frame is taken as a whole or not at all. Numbers are little endian:
//!
//! ```text
//! frame    length of the payload (4)  XXH3 of the payload (8)  payload
//! payload  record…
//! record   1 labels   length (4), block of the set; numbered from 0 within the frame
//!          2 object   version (8) fingerprint (8) dictionary (4) raw length (4) labels (4)
//!                     lengths of namespace (2), name (2), compressed object (4), and these
//!          3 gone     lengths of namespace (2) and name (2), and these
//!          4 stands   last heard, ms since 1970 (8), latest version (8), length (2) of the version to go on from, and that
//! ```

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, BufMut};
use jiff::Timestamp;
use twox_hash::XxHash3_64;

use crate::codec::Frame as Compressed;
use crate::entry::{Entry, EntryKey, LabelSet, Version};

const LABELS: u8 = 1;
const OBJECT: u8 = 2;
const GONE: u8 = 3;
const STANDS: u8 = 4;
/// Bytes before the payload.
pub(super) const PREFIX: usize = 12;
/// Frames are ended when they reach this size, so that reading takes little memory.
pub(super) const FULL: usize = 256 << 10;

/// How far a part has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) last_seen: Timestamp,
    pub(super) reached: u64,
    pub(super) version: Option<Arc<str>>,
}

/// What a record says.
#[derive(Debug)]
pub(super) enum Record<'a> {
    Labels(LabelSet),
    Object(StoredObject<'a>),
    Gone(EntryKey<'a>),
    Stands(Standing),
}

/// An object as it lies in a file.
#[derive(Debug)]
pub(super) struct StoredObject<'a> {
    pub(super) key: EntryKey<'a>,
    pub(super) version: Version,
    /// Which of the label sets that its frame has named so far.
    pub(super) labels: u32,
    pub(super) compressed: Compressed<'a>,
}

/// Why a file can't be read on.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// The last write was cut off, by the end of the process or of the power.
    #[error("its last write was cut off")]
    Torn,
    /// It is not what was written.
    #[error("{0}")]
    Damaged(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A frame being put together.
#[derive(Debug)]
pub(super) struct FrameWriter {
    bytes: Vec<u8>,
    labels: HashMap<*const LabelSet, u32>,
}

impl FrameWriter {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; PREFIX], labels: HashMap::new() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= FULL
    }

    pub(super) fn object(&mut self, entry: &Entry) {
        let labels = self.labels(entry.labels());
        let (key, version, compressed) = (entry.key(), entry.version(), entry.frame());
        let bytes = &mut self.bytes;
        bytes.put_u8(OBJECT);
        bytes.put_u64_le(version.resource_version);
        bytes.put_u64_le(version.fingerprint);
        bytes.put_u32_le(compressed.dictionary);
        bytes.put_u32_le(compressed.raw_length);
        bytes.put_u32_le(labels);
        put_lengths(bytes, &key);
        bytes.put_u32_le(length(compressed.bytes));
        bytes.put_slice(key.namespace);
        bytes.put_slice(key.name);
        bytes.put_slice(compressed.bytes);
    }

    /// The number of a label set in this frame. Objects that follow each other often share one.
    fn labels(&mut self, labels: &Arc<LabelSet>) -> u32 {
        let next = u32::try_from(self.labels.len()).unwrap_or(u32::MAX);
        *self.labels.entry(Arc::as_ptr(labels)).or_insert_with(|| {
            self.bytes.put_u8(LABELS);
            self.bytes.put_u32_le(length(labels.as_bytes()));
            self.bytes.put_slice(labels.as_bytes());
            next
        })
    }

    pub(super) fn gone(&mut self, key: &EntryKey<'_>) {
        let bytes = &mut self.bytes;
        bytes.put_u8(GONE);
        put_lengths(bytes, key);
        bytes.put_slice(key.namespace);
        bytes.put_slice(key.name);
    }

    pub(super) fn stands(&mut self, standing: &Standing) {
        // A version of so many bytes is none to go on from.
        let version = standing.version.as_deref().filter(|version| version.len() < usize::from(u16::MAX));
        let version = version.unwrap_or_default();
        self.bytes.put_u8(STANDS);
        self.bytes.put_i64_le(standing.last_seen.as_millisecond());
        self.bytes.put_u64_le(standing.reached);
        self.bytes.put_u16_le(u16::try_from(version.len()).unwrap_or_default());
        self.bytes.put_slice(version.as_bytes());
    }

    pub(super) fn bytes(&mut self, payload: &[u8]) {
        self.bytes.put_slice(payload);
    }

    /// The whole frame.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let (prefix, payload) = self.bytes.split_at_mut(PREFIX);
        let mut prefix: &mut [u8] = prefix;
        prefix.put_u32_le(length(payload));
        prefix.put_u64_le(XxHash3_64::oneshot(payload));
        self.bytes
    }
}

fn put_lengths(bytes: &mut Vec<u8>, key: &EntryKey<'_>) {
    // Entries' names are no longer than this.
    bytes.put_u16_le(u16::try_from(key.namespace.len()).unwrap_or(u16::MAX));
    bytes.put_u16_le(u16::try_from(key.name.len()).unwrap_or(u16::MAX));
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Reads the payload of the next frame into `payload`; false at the end. `left` is what the file still has.
pub(super) fn read_frame(file: &mut impl Read, left: &mut u64, payload: &mut Vec<u8>) -> Result<bool, FrameError> {
    if *left == 0 {
        return Ok(false);
    }
    if *left < PREFIX as u64 {
        return Err(FrameError::Torn);
    }
    let mut prefix = [0; PREFIX];
    file.read_exact(&mut prefix)?;
    let mut prefix = &prefix[..];
    let (length, checksum) = (u64::from(prefix.get_u32_le()), prefix.get_u64_le());
    *left -= PREFIX as u64;
    if length > *left {
        return Err(FrameError::Torn);
    }
    payload.clear();
    file.by_ref().take(length).read_to_end(payload)?;
    *left -= length;
    if payload.len() as u64 != length || XxHash3_64::oneshot(payload) != checksum {
        // What was cut off stands at the end; behind it nothing can have been written.
        return Err(if *left == 0 { FrameError::Torn } else { FrameError::Damaged("a checksum does not fit") });
    }
    Ok(true)
}

/// Takes the next record off a payload; none at its end.
pub(super) fn take_record<'a>(payload: &mut &'a [u8]) -> Result<Option<Record<'a>>, FrameError> {
    if payload.is_empty() {
        return Ok(None);
    }
    read_record(payload).map(Some).ok_or(FrameError::Damaged("a record is not readable"))
}

fn read_record<'a>(payload: &mut &'a [u8]) -> Option<Record<'a>> {
    match payload.try_get_u8().ok()? {
        LABELS => {
            let length = payload.try_get_u32_le().ok()?;
            LabelSet::from_bytes(take(payload, length)?).map(Record::Labels)
        }
        OBJECT => read_object(payload).map(Record::Object),
        GONE => {
            let (namespace, name) = (payload.try_get_u16_le().ok()?, payload.try_get_u16_le().ok()?);
            let key = EntryKey { namespace: take(payload, namespace)?, name: take(payload, name)? };
            Some(Record::Gone(key))
        }
        STANDS => {
            let last_seen = Timestamp::from_millisecond(payload.try_get_i64_le().ok()?).ok()?;
            let reached = payload.try_get_u64_le().ok()?;
            let length = payload.try_get_u16_le().ok()?;
            let version = str::from_utf8(take(payload, length)?).ok()?;
            let version = Some(version).filter(|version| !version.is_empty()).map(Arc::from);
            Some(Record::Stands(Standing { last_seen, reached, version }))
        }
        _ => None,
    }
}

fn read_object<'a>(payload: &mut &'a [u8]) -> Option<StoredObject<'a>> {
    let resource_version = payload.try_get_u64_le().ok()?;
    let fingerprint = payload.try_get_u64_le().ok()?;
    let (dictionary, raw_length) = (payload.try_get_u32_le().ok()?, payload.try_get_u32_le().ok()?);
    let labels = payload.try_get_u32_le().ok()?;
    let (namespace, name) = (payload.try_get_u16_le().ok()?, payload.try_get_u16_le().ok()?);
    let length = payload.try_get_u32_le().ok()?;
    let key = EntryKey { namespace: take(payload, namespace)?, name: take(payload, name)? };
    let compressed = Compressed { dictionary, raw_length, bytes: take(payload, length)? };
    Some(StoredObject { key, version: Version { resource_version, fingerprint }, labels, compressed })
}

fn take<'a>(payload: &mut &'a [u8], length: impl TryInto<usize>) -> Option<&'a [u8]> {
    let (taken, rest) = payload.split_at_checked(length.try_into().ok()?)?;
    *payload = rest;
    Some(taken)
}
