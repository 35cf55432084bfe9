//! The audit log: who asked for what, and what came of it, as API servers record it (`audit.k8s.io/v1`).
//!
//! In: requests at their stages, from the layers, and a policy file that says how much of each is recorded. Out: one line
//! for each event, in a file that is rotated or on standard output. [`policy`] decides, [`event`] is what a line says,
//! [`log`] writes it, [`record`] follows one request.
//!
//! Without a policy nothing is recorded. An event that can't be written is counted and told in the log; in the mode
//! `blocking-strict` the request is refused then.

mod event;
mod log;
mod policy;
mod record;

use std::path::PathBuf;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;

pub use log::{AuditFormat, LogSettings, LogTarget};
pub(crate) use record::{Arrival, Record};

use crate::metrics::Metrics;
use crate::request::{Caller, RequestInfo};
use log::AuditLog;
use policy::{Decision, Policy};

/// Why there can be no audit log; for the operator, at start.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The policy can't be read or does not make sense.
    #[error("--audit-policy-file {path}: {why}")]
    Policy {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The log can't be written.
    #[error("--audit-log-path {path}: {source}")]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What happens to a request whose event can't be written at once: `--audit-log-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditMode {
    /// It doesn't wait: events go through a queue, and those that don't fit are lost.
    Batch,
    /// It waits until its event is written, and goes on also if that failed.
    Blocking,
    /// It waits, and is refused if its first event can't be written.
    BlockingStrict,
}

/// How requests are recorded.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    /// `--audit-policy-file`
    pub policy: PathBuf,
    /// `--audit-log-mode`
    pub mode: AuditMode,
    /// Events waiting to be written at once: `--audit-log-batch-buffer-size`
    pub queue: usize,
    /// Bytes of an event above which bodies are left out: `--audit-log-truncate-max-event-size`
    pub truncate: Option<usize>,
    /// Where and how lines are written.
    pub log: LogSettings,
}

/// Records requests.
#[derive(Debug)]
pub struct Audit {
    policy: Policy,
    log: AuditLog,
    mode: AuditMode,
    truncate: Option<usize>,
    events: Counter,
    errors: Counter,
}

impl Audit {
    /// Reads the policy, opens the log, and begins to write.
    ///
    /// # Errors
    /// If one of them can't be used.
    pub fn start(settings: AuditSettings, metrics: &Metrics) -> Result<Arc<Self>, AuditError> {
        let policy = Policy::from_file(&settings.policy)?;
        let (events, errors) = (Counter::default(), Counter::default());
        let log = AuditLog::start(settings.log, settings.queue, errors.clone())?;
        metrics.register(|registry| {
            registry.register("apiserver_audit_event", "Audit events generated", events.clone());
            registry.register("apiserver_audit_error", "Audit events that could not be written", errors.clone());
        });
        let (mode, truncate) = (settings.mode, settings.truncate);
        Ok(Arc::new(Self { policy, log, mode, truncate, events, errors }))
    }

    /// Waits until all events so far are written.
    pub async fn flush(&self) {
        self.log.flush().await;
    }

    fn decide(&self, caller: &Caller, info: &RequestInfo) -> Option<Decision> {
        self.policy.decide(caller, info)
    }

    fn failed(&self, why: &str) {
        self.errors.inc();
        tracing::warn!(why, "an audit event was not written");
    }
}
