//! The log of documents that backends refuse for what is in them: one line of JSON each, with the reason and the document.
//!
//! A refused object is tried again when it changes, with the next comparison, and when the program starts; the log is for people
//! who want to know what it was that was refused. It is bounded: a full one becomes `FILE.1`, in place of the one before.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::RawValue;

/// Bytes after which another file is begun.
const LARGEST: u64 = 32 << 20;

/// The log; writers of several backends share it.
#[derive(Debug)]
pub(super) struct DeadLetters {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

/// A line of the log.
#[derive(Debug, Serialize)]
pub(super) struct DeadLetter<'a> {
    pub(super) time: Timestamp,
    pub(super) backend: &'a str,
    pub(super) id: &'a str,
    pub(super) reason: &'a str,
    /// As it was sent, if it was a write.
    pub(super) document: Option<&'a RawValue>,
}

impl DeadLetters {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), file: Mutex::default() }
    }

    /// Appends a line.
    ///
    /// # Errors
    /// If the file can't be written; the next one tries anew.
    pub(super) fn write(&self, letter: &DeadLetter<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(letter)?;
        line.push(b'\n');
        let mut open = self.file.lock();
        let mut file = match open.take() {
            Some(file) => file,
            None => self.open()?,
        };
        if file.metadata()?.len() + line.len() as u64 > LARGEST {
            let mut earlier = self.path.clone().into_os_string();
            earlier.push(".1");
            std::fs::rename(&self.path, earlier)?;
            file = self.open()?;
        }
        file.write_all(&line)?;
        *open = Some(file);
        Ok(())
    }

    fn open(&self) -> io::Result<File> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_makes_room_and_keeps_what_came_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backend/dead-letters.ndjson");
        let log = DeadLetters::new(&path);
        let long = RawValue::from_string(format!("{:?}", "x".repeat(10 << 20))).unwrap();
        for id in ["a", "b", "c", "d"] {
            let letter = DeadLetter {
                time: Timestamp::UNIX_EPOCH,
                backend: "http://a",
                id,
                reason: "bad",
                document: Some(&long),
            };
            log.write(&letter).unwrap();
        }
        let ids = |path: &Path| {
            let text = std::fs::read_to_string(path).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            lines.map(|line| line["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(ids(&path), ["d"]);
        assert_eq!(ids(&path.with_extension("ndjson.1")), ["a", "b", "c"]);
    }
}
