//! How backends are doing, for `/metrics` and `search/status`. They are asked when somebody looks.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indexer::backend::{BackendHealth, BackendState, Backends, Counters, Rejection};
use indexer::status::seconds;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;

/// A backend's part of `search/status`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BackendReport {
    backend: String,
    registries: BTreeSet<String>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Objects that wait to be written or deleted.
    queue: usize,
    lag_seconds: f64,
    written: u64,
    deleted: u64,
    retries: u64,
    conflicts: u64,
    rejected: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rejections: Vec<RejectionReport>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RejectionReport {
    document: String,
    reason: String,
    at: String,
}

impl From<Rejection> for RejectionReport {
    fn from(Rejection { id, reason, at }: Rejection) -> Self {
        Self { document: id, reason, at: seconds(at) }
    }
}

/// State and message as people read them.
pub(crate) fn described(health: &BackendHealth, problem: Option<&str>) -> (&'static str, Option<String>) {
    if let Some(problem) = problem {
        return ("Refused", Some(problem.to_owned()));
    }
    match health.state() {
        BackendState::Connecting => ("Connecting", None),
        BackendState::Filling { left, of, queue } => {
            let message = format!("{} of {of} collections compared, {queue} objects wait to be written", of - left);
            ("Filling", Some(message))
        }
        BackendState::Following => ("Following", None),
        BackendState::Failing { since, error } => ("Failing", Some(format!("since {}: {error}", seconds(since)))),
    }
}

/// All backends as `search/status` shows them.
pub(crate) fn reports(backends: &Backends) -> Vec<BackendReport> {
    let statuses = backends.statuses();
    let report = |status: &indexer::backend::BackendStatus| {
        let (state, message) = described(&status.health, status.problem.as_deref());
        let counters = &status.health.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BackendReport {
            backend: status.name.clone(),
            registries: status.registries.clone(),
            state,
            message,
            queue: status.health.queue(),
            lag_seconds: (status.health.lag().as_secs_f64() * 1e3).round() / 1e3,
            written: load(&counters.written),
            deleted: load(&counters.deleted),
            retries: load(&counters.retries),
            conflicts: load(&counters.conflicts),
            rejected: load(&counters.rejected),
            rejections: status.health.rejections().into_iter().map(Into::into).collect(),
        }
    };
    statuses.iter().map(report).collect()
}

/// The backends' part of `/metrics`.
pub(crate) struct Written {
    pub(crate) backends: Arc<Backends>,
}

impl fmt::Debug for Written {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Written")
    }
}

type Count = (&'static str, &'static str, fn(&Counters) -> &AtomicU64);

const COUNTS: [Count; 8] = [
    ("fleetglass_backend_written_objects", "Objects written to the backend", |counters| &counters.written),
    ("fleetglass_backend_deleted_documents", "Documents deleted from the backend", |counters| &counters.deleted),
    ("fleetglass_backend_conflicts", "Writes refused because the backend had something newer", |counters| {
        &counters.conflicts
    }),
    ("fleetglass_backend_rejections", "Documents refused for what is in them", |counters| &counters.rejected),
    ("fleetglass_backend_retries", "Objects that had to be written again", |counters| &counters.retries),
    ("fleetglass_backend_requests", "Bulk requests answered", |counters| &counters.requests),
    ("fleetglass_backend_raw_bytes", "Bytes of bulk requests before compression", |counters| &counters.bytes),
    ("fleetglass_backend_sent_bytes", "Bytes of bulk requests as sent", |counters| &counters.sent_bytes),
];

type Level = (&'static str, &'static str, fn(&BackendHealth) -> f64);

#[expect(clippy::cast_precision_loss, reason = "a queue is far shorter than what a float counts")]
const LEVELS: [Level; 3] = [
    ("fleetglass_backend_up", "Whether the backend can be written to", |health| {
        f64::from(u8::from(matches!(health.state(), BackendState::Filling { .. } | BackendState::Following)))
    }),
    ("fleetglass_backend_queue_length", "Objects that wait to be written or deleted", |health| health.queue() as f64),
    ("fleetglass_backend_lag_seconds", "For how long the oldest of them has been waiting", |health| {
        health.lag().as_secs_f64()
    }),
];

impl Collector for Written {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let statuses = self.backends.statuses();
        // Registries that name the same nodes otherwise are told apart nowhere here.
        let mut asked: Vec<_> = statuses.iter().collect();
        asked.dedup_by(|later, earlier| later.name == earlier.name);
        for (name, help, value) in LEVELS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for status in &asked {
                let labels = [("backend", status.name.as_str())];
                ConstGauge::new(value(&status.health)).encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, counter) in COUNTS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for status in &asked {
                let labels = [("backend", status.name.as_str())];
                let count = counter(&status.health.counters).load(Ordering::Relaxed);
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
