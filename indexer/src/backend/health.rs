//! How a backend is doing, for status, conditions and metrics. Written by its writer only.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::BackendError;

/// A failure that is over sooner is nobody's business: a busy backend refuses now and then.
const PASSING: Duration = Duration::from_secs(2);
/// Rejections that are shown.
const SHOWN: usize = 20;

/// How a backend is doing.
#[derive(Debug, Default)]
pub struct BackendHealth {
    facts: Mutex<Facts>,
    /// Counts for metrics.
    pub counters: Counters,
}

#[derive(Debug, Default)]
struct Facts {
    progress: Progress,
    failure: Option<Failure>,
    rejections: VecDeque<Rejection>,
}

#[derive(Debug, Clone)]
struct Failure {
    since: Timestamp,
    began: Instant,
    kind: u16,
    error: String,
}

/// What a backend's writer is at.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    pub(super) is_connected: bool,
    /// Collections that were not compared yet, of how many.
    pub(super) to_compare: usize,
    pub(super) collections: usize,
    /// Objects and documents on their way.
    pub(super) queue: usize,
    /// Objects that are looked at again later because the backend has something newer.
    pub(super) delayed: usize,
    pub(super) oldest: Option<Instant>,
}

/// Counts for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Objects written.
    pub written: AtomicU64,
    /// Documents deleted.
    pub deleted: AtomicU64,
    /// Writes that the backend refused because it had something newer.
    pub conflicts: AtomicU64,
    /// Documents that the backend will never take as they are.
    pub rejected: AtomicU64,
    /// Objects that had to be written again, for any other reason.
    pub retries: AtomicU64,
    /// Bulk requests that were answered.
    pub requests: AtomicU64,
    /// Bytes of their bodies before compression.
    pub bytes: AtomicU64,
    /// Bytes of their bodies as they were sent.
    pub sent_bytes: AtomicU64,
}

/// A document that the backend will never take as it is.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// The document's id.
    pub id: String,
    /// What the backend says.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// What people see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendState {
    /// Nothing has been heard of it yet.
    Connecting,
    /// It is being compared with the cache: so many collections of so many are left, so many objects wait.
    Filling {
        /// Collections not compared yet.
        left: usize,
        /// All of them.
        of: usize,
        /// Objects that wait to be written.
        queue: usize,
    },
    /// It has what the cache has, but for what changed just now.
    Following,
    /// It can't be used.
    Failing {
        /// Since when.
        since: Timestamp,
        /// Why.
        error: String,
    },
}

impl BackendHealth {
    /// How it is.
    pub fn state(&self) -> BackendState {
        let facts = self.facts.lock();
        let progress = &facts.progress;
        match &facts.failure {
            Some(Failure { since, error, began, .. }) if !progress.is_connected || began.elapsed() >= PASSING => {
                BackendState::Failing { since: *since, error: error.clone() }
            }
            _ if !progress.is_connected => BackendState::Connecting,
            _ if progress.to_compare > 0 => {
                BackendState::Filling { left: progress.to_compare, of: progress.collections, queue: progress.queue }
            }
            _ => BackendState::Following,
        }
    }

    /// Objects that wait to be written or are being written.
    pub fn queue(&self) -> usize {
        let facts = self.facts.lock();
        facts.progress.queue + facts.progress.delayed
    }

    /// For how long the oldest of them has been waiting.
    pub fn lag(&self) -> Duration {
        self.facts.lock().progress.oldest.map_or(Duration::ZERO, |oldest| oldest.elapsed())
    }

    /// Documents that it would not take, the latest last.
    pub fn rejections(&self) -> Vec<Rejection> {
        self.facts.lock().rejections.iter().cloned().collect()
    }

    pub(super) fn set_progress(&self, progress: Progress) {
        self.facts.lock().progress = progress;
    }

    /// Notes a failure; true if all was well before.
    pub(super) fn fail(&self, error: &BackendError) -> bool {
        let mut facts = self.facts.lock();
        match &mut facts.failure {
            // Which node it was this time is of no interest.
            Some(failure) if failure.kind == error.kind() => false,
            Some(failure) => {
                (failure.kind, failure.error) = (error.kind(), error.to_string());
                false
            }
            None => {
                let (since, began) = (Timestamp::now(), Instant::now());
                facts.failure = Some(Failure { since, began, kind: error.kind(), error: error.to_string() });
                true
            }
        }
    }

    /// Notes that all is well; true if it wasn't before.
    pub(super) fn recover(&self) -> bool {
        self.facts.lock().failure.take().is_some()
    }

    pub(super) fn reject(&self, rejection: Rejection) {
        self.counters.rejected.fetch_add(1, Ordering::Relaxed);
        let mut facts = self.facts.lock();
        facts.rejections.retain(|known| known.id != rejection.id);
        facts.rejections.push_back(rejection);
        if facts.rejections.len() > SHOWN {
            facts.rejections.pop_front();
        }
    }

    /// A document that was refused before has been taken, or is no longer wanted.
    pub(super) fn forgive(&self, id: &str) {
        let mut facts = self.facts.lock();
        if !facts.rejections.is_empty() {
            facts.rejections.retain(|rejection| rejection.id != id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(node: &str, status: u16) -> BackendError {
        let (node, request, reason) = (node.to_owned(), "GET /".to_owned(), "no".to_owned());
        BackendError::Refused { node, request, status, reason, retry_after: None }
    }

    #[test]
    fn a_failure_keeps_its_beginning_and_its_words_and_ends_once() {
        let health = BackendHealth::default();
        assert_eq!(health.state(), BackendState::Connecting);
        assert!(health.fail(&refused("a", 503)));
        let first = health.state();
        assert!(matches!(&first, BackendState::Failing { error, .. } if error.contains("503")));
        assert!(!health.fail(&refused("b", 503)));
        assert_eq!(health.state(), first, "the same from another node is no news");
        assert!(!health.fail(&refused("b", 401)));
        assert!(matches!(health.state(), BackendState::Failing { error, .. } if error.contains("401")));
        assert!(health.recover());
        assert!(!health.recover());
    }

    #[test]
    fn a_backend_that_was_busy_for_a_moment_is_not_called_failing() {
        let health = BackendHealth::default();
        health.set_progress(Progress { is_connected: true, ..Progress::default() });
        health.fail(&refused("a", 429));
        assert_eq!(health.state(), BackendState::Following);
    }

    #[test]
    fn what_was_rejected_is_shown_until_it_is_taken() {
        let health = BackendHealth::default();
        for number in 0..=SHOWN {
            health.reject(Rejection { id: number.to_string(), reason: "bad".into(), at: Timestamp::now() });
        }
        health.forgive("20");
        let ids: Vec<String> = health.rejections().into_iter().map(|rejection| rejection.id).collect();
        assert_eq!(ids.len(), SHOWN - 1);
        assert_eq!(ids.first().map(String::as_str), Some("1"));
        assert_eq!(health.counters.rejected.load(Ordering::Relaxed), SHOWN as u64 + 1);
    }
}
