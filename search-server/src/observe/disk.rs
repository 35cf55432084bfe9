//! How the cache on disk is, for `/metrics` and `search/status`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use indexer::disk::Disk;
use indexer::status::seconds;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;

/// The disk's part of `search/status`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DiskReport {
    /// `Keeping`, or `Failed`: then the cache is in memory only.
    state: &'static str,
    folder: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    written: Option<String>,
    restored_objects: usize,
    damaged_files: u64,
}

impl DiskReport {
    /// None if nothing is to be kept.
    pub(crate) fn of(disk: &Disk) -> Option<Self> {
        let status = disk.status();
        let (since, message) = status.failure.map(|(since, message)| (seconds(since), message)).unzip();
        Some(Self {
            state: if message.is_some() { "Failed" } else { "Keeping" },
            folder: status.folder?,
            since,
            message,
            bytes: status.bytes,
            written: status.written.map(seconds),
            restored_objects: status.restored.unwrap_or_default().objects,
            damaged_files: disk.set_aside.load(Ordering::Relaxed),
        })
    }
}

/// The disk's part of `/metrics`.
pub(crate) struct Kept {
    pub(crate) disk: Arc<Disk>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Kept")
    }
}

impl Collector for Kept {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = self.disk.status();
        if status.folder.is_none() {
            return Ok(());
        }
        let restored = status.restored.unwrap_or_default();
        let gauges = [
            ("fleetglass_disk_usable", "Whether the cache is kept on disk", i64::from(status.failure.is_none())),
            ("fleetglass_disk_bytes", "Bytes of the cache on disk", i64::try_from(status.bytes).unwrap_or(i64::MAX)),
            (
                "fleetglass_disk_restored_objects",
                "Objects that were on disk at the start",
                i64::try_from(restored.objects).unwrap_or(i64::MAX),
            ),
        ];
        for (name, help, value) in gauges {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let help = "Time that reading the cache from disk took at the start";
        let family = encoder.encode_descriptor("fleetglass_disk_restore_seconds", help, None, MetricType::Gauge)?;
        ConstGauge::new(restored.took.as_secs_f64()).encode(family)?;
        let counts = [
            ("fleetglass_disk_failures", "Times that the cache could not be written to disk", &self.disk.failures),
            ("fleetglass_disk_damaged_files", "Files that were not as they had been written", &self.disk.set_aside),
        ];
        for (name, help, counter) in counts {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(counter.load(Ordering::Relaxed)).encode(family)?;
        }
        Ok(())
    }
}
