//! How the search index is, for `/metrics` and `search/status`. The index is asked when somebody looks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indexer::cache::Cache;
use indexer::index::{Index, IndexState};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;

/// The index's part of `search/status`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IndexStatus {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    objects: u64,
    bytes: u64,
    queue: u64,
}

impl IndexStatus {
    pub(crate) fn of(index: &Index, cache: &Cache) -> Self {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (state, message) = match index.state() {
            IndexState::Off => ("Off", None),
            IndexState::Building { done, of } => ("Building", Some(format!("{done} of {of} objects are taken in"))),
            IndexState::Following => ("Following", None),
            IndexState::Failed(error) => ("Failed", Some(error)),
        };
        let counters = &index.counters;
        Self {
            state,
            message,
            objects: load(&counters.documents),
            bytes: load(&counters.bytes),
            queue: index.queue(cache),
        }
    }
}

/// The index's part of `/metrics`.
pub(crate) struct Indexed {
    pub(crate) index: Arc<Index>,
    pub(crate) cache: Arc<Cache>,
}

impl fmt::Debug for Indexed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Indexed")
    }
}

impl Collector for Indexed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counters = &self.index.counters;
        let state = self.index.state();
        let is_usable = !matches!(state, IndexState::Off | IndexState::Failed(_));
        let gauges = [
            ("fleetglass_index_usable", "Whether queries are answered from the search index", u64::from(is_usable)),
            ("fleetglass_index_objects", "Objects in the search index", counters.documents.load(Ordering::Relaxed)),
            (
                "fleetglass_index_bytes",
                "Bytes that the search index takes on the disk",
                counters.bytes.load(Ordering::Relaxed),
            ),
            (
                "fleetglass_index_queue_length",
                "Changes that are not in the search index yet",
                self.index.queue(&self.cache),
            ),
        ];
        for (name, help, value) in gauges {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let counts = [
            ("fleetglass_index_additions", "Objects taken into the search index", &counters.indexed),
            ("fleetglass_index_commits", "Times that the search index was written out", &counters.commits),
            ("fleetglass_index_rebuilds", "Times that the search index was begun anew", &counters.rebuilds),
        ];
        for (name, help, counter) in counts {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(counter.load(Ordering::Relaxed)).encode(family)?;
        }
        Ok(())
    }
}
