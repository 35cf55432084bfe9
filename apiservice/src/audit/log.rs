//! Where audit events go: lines in a file that is rotated, or on standard output.
//!
//! A thread of its own writes, so that a slow disk holds up those who wait for their event and nobody else. Rotated files
//! are named after the time of their end, as `audit-2026-01-02T03-04-05.678.log`, and may be compressed; the oldest go
//! when there are too many, or when they are too old.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::{Timestamp, tz::TimeZone};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, oneshot};

use super::AuditError;

/// How a line looks: `--audit-log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditFormat {
    /// The event as JSON.
    Json,
    /// One line of `key="value"` pairs without bodies, as in old API servers.
    Legacy,
}

/// Where lines go: `--audit-log-path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output, which is never rotated.
    Stdout,
    /// A file.
    File(PathBuf),
}

/// Where and how lines are written.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Where.
    pub target: LogTarget,
    /// How.
    pub format: AuditFormat,
    /// Bytes after which a new file is begun.
    pub max_size: u64,
    /// Rotated files that are kept, 0 for all: `--audit-log-maxbackup`
    pub max_backups: usize,
    /// How long rotated files are kept, zero for ever: `--audit-log-maxage`
    pub max_age: Duration,
    /// Whether rotated files are compressed.
    pub compress: bool,
}

enum Order {
    Write { line: Vec<u8>, done: Option<oneshot::Sender<io::Result<()>>> },
    Flush(oneshot::Sender<()>),
}

/// The way to the thread that writes.
#[derive(Debug)]
pub(super) struct AuditLog {
    orders: mpsc::Sender<Order>,
    pub(super) format: AuditFormat,
}

impl AuditLog {
    /// Opens the file and starts the thread. Counts in `errors` what fails when nobody waits for it.
    pub(super) fn start(settings: LogSettings, queue: usize, errors: Counter) -> Result<Self, AuditError> {
        let format = settings.format;
        let path = match &settings.target {
            LogTarget::Stdout => PathBuf::from("-"),
            LogTarget::File(path) => path.clone(),
        };
        let failed = |source| AuditError::Log { path: path.clone(), source };
        let mut writer = Writer::open(settings, errors).map_err(failed)?;
        let (orders, mut received) = mpsc::channel(queue.max(1));
        let work = move || {
            while let Some(order) = received.blocking_recv() {
                writer.carry_out(order);
            }
        };
        std::thread::Builder::new().name("audit-log".to_owned()).spawn(work).map_err(failed)?;
        Ok(Self { orders, format })
    }

    /// Writes a line and says when that is done.
    pub(super) async fn write(&self, line: Vec<u8>) -> io::Result<()> {
        let gone = || io::Error::other("the audit log's thread has ended");
        let (done, outcome) = oneshot::channel();
        self.orders.send(Order::Write { line, done: Some(done) }).await.map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }

    /// Puts a line into the queue, if there is room.
    pub(super) fn queue(&self, line: Vec<u8>) -> io::Result<()> {
        let full = |_| io::Error::other("the audit log's queue is full");
        self.orders.try_send(Order::Write { line, done: None }).map_err(full)
    }

    pub(super) async fn flush(&self) {
        let (done, outcome) = oneshot::channel();
        if self.orders.send(Order::Flush(done)).await.is_ok() {
            // An error means that the thread has ended, and with it all it had to write.
            let _ = outcome.await;
        }
    }
}

struct Writer {
    settings: LogSettings,
    output: Box<dyn Write + Send>,
    size: u64,
    errors: Counter,
}

impl Writer {
    fn open(settings: LogSettings, errors: Counter) -> io::Result<Self> {
        let (output, size): (Box<dyn Write + Send>, u64) = match &settings.target {
            LogTarget::Stdout => (Box::new(io::stdout()), 0),
            LogTarget::File(path) => {
                let file = open_file(path)?;
                let size = file.metadata()?.len();
                (Box::new(file), size)
            }
        };
        Ok(Self { settings, output, size, errors })
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Write { line, done } => {
                let outcome = self.write(&line);
                match (outcome, done) {
                    // Whoever asked may be gone; the line is written all the same.
                    (outcome, Some(done)) => drop(done.send(outcome)),
                    (Err(error), None) => {
                        self.errors.inc();
                        tracing::warn!(%error, "an audit event was not written");
                    }
                    (Ok(()), None) => {}
                }
            }
            Order::Flush(done) => drop(done.send(())),
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.size > 0
            && self.size + length > self.settings.max_size
            && let LogTarget::File(path) = &self.settings.target
        {
            let path = path.clone();
            self.rotate(&path)?;
        }
        self.output.write_all(line)?;
        self.output.flush()?;
        self.size += length;
        Ok(())
    }

    fn rotate(&mut self, path: &Path) -> io::Result<()> {
        let rotated = rotated_name(path, Timestamp::now());
        std::fs::rename(path, &rotated)?;
        self.output = Box::new(open_file(path)?);
        self.size = 0;
        // Whatever becomes of old files, the event at hand is written.
        if self.settings.compress
            && let Err(error) = compress(&rotated)
        {
            tracing::warn!(%error, file = %rotated.display(), "an old audit log was not compressed");
        }
        if let Err(error) = remove_old(path, self.settings.max_backups, self.settings.max_age) {
            tracing::warn!(%error, "old audit logs were not removed");
        }
        Ok(())
    }
}

/// Readable by the owner only: bodies of requests may stand in it.
fn open_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    File::options().create(true).append(true).mode(0o600).open(path)
}

/// The parts of a log's name around the time.
fn name_parts(path: &Path) -> (String, String) {
    let text =
        |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default();
    let extension = text(path.extension());
    let extension = if extension.is_empty() { extension } else { format!(".{extension}") };
    (format!("{}-", text(path.file_stem())), extension)
}

fn rotated_name(path: &Path, at: Timestamp) -> PathBuf {
    let (stem, extension) = name_parts(path);
    let time = at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H-%M-%S%.3f").to_string();
    path.with_file_name(format!("{stem}{time}{extension}"))
}

fn compress(path: &Path) -> io::Result<()> {
    let target = PathBuf::from(format!("{}.gz", path.display()));
    let write = || {
        let mut encoder = GzEncoder::new(open_file(&target)?, Compression::fast());
        io::copy(&mut File::open(path)?, &mut encoder)?;
        encoder.finish()?.sync_all()
    };
    match write() {
        Ok(()) => std::fs::remove_file(path),
        Err(error) => {
            // Half a file is worth nothing, and the disk may be full.
            let _ = std::fs::remove_file(&target);
            Err(error)
        }
    }
}

fn remove_old(path: &Path, max_backups: usize, max_age: Duration) -> io::Result<()> {
    let (stem, extension) = name_parts(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut rotated = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let plain = name.strip_suffix(".gz").unwrap_or(&name);
        let time = plain.strip_prefix(&stem).and_then(|rest| rest.strip_suffix(&extension));
        if time.is_some_and(|time| time.len() == "2026-01-02T03-04-05.678".len()) {
            rotated.push((name, entry.metadata()?.modified()?, entry.path()));
        }
    }
    // Newest first: their names are in the order of time.
    rotated.sort_by(|one, other| other.0.cmp(&one.0));
    let now = SystemTime::now();
    for (position, (_, modified, path)) in rotated.into_iter().enumerate() {
        let too_many = max_backups > 0 && position >= max_backups;
        let too_old = !max_age.is_zero() && now.duration_since(modified).is_ok_and(|age| age > max_age);
        if too_many || too_old {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn settings(path: &Path, compress: bool) -> LogSettings {
        LogSettings {
            target: LogTarget::File(path.to_owned()),
            format: AuditFormat::Json,
            max_size: 100,
            max_backups: 2,
            max_age: Duration::ZERO,
            compress,
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_full_file_is_put_aside_and_only_the_newest_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        std::fs::write(folder.path().join("audit-other.log"), "not ours").unwrap();
        let log = AuditLog::start(settings(&path, false), 10, Counter::default()).unwrap();
        for round in 0..8 {
            log.write(format!("{round}{}\n", "x".repeat(60)).into_bytes()).await.unwrap();
            // Two rotations within a millisecond would have one name.
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        let names = names(folder.path());
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(names.contains(&"audit.log".to_owned()) && names.contains(&"audit-other.log".to_owned()));
        assert!(std::fs::read_to_string(&path).unwrap().starts_with('7'));
    }

    #[tokio::test]
    async fn rotated_files_can_be_compressed_and_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let log = AuditLog::start(settings(&path, true), 10, Counter::default()).unwrap();
        log.write(
            b"first, with some bytes behind it to fill the file: ------------------------------------------\n".to_vec(),
        )
        .await
        .unwrap();
        log.queue(b"second line\n".to_vec()).unwrap();
        log.flush().await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second line\n");
        let rotated = names(folder.path()).into_iter().find(|name| name.ends_with(".log.gz")).unwrap();
        let mut text = String::new();
        let file = File::open(folder.path().join(rotated)).unwrap();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        assert!(text.starts_with("first"));
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named_at_once() {
        let error =
            AuditLog::start(settings(Path::new("/proc/no/audit.log"), false), 1, Counter::default()).unwrap_err();
        assert!(error.to_string().contains("/proc/no/audit.log"), "{error}");
    }
}
