//! Backends: OpenSearch clusters to which registries with `spec.backendStore` send their objects.
//!
//! ```text
//! registries + Secrets ─► target ─┐
//! plan ─► assignment ─────────────┤
//! cache ─► writer: feeds, comparison ─► queue ─► bulk ─► OpenSearch ─► reading ─► answers
//! ```
//!
//! Owned here: for each backend one [`writer`], which keeps the backend's documents equal to the objects that the cache holds
//! of what registries send there. What waits is known by its name only: what is written is the object as it is when its turn
//! comes. Each write carries the object's own version, so that repeats, restarts and other writers come to the same state; and
//! whatever is not known for sure – after a start, a change of registries, a feed that has run over – is found out by comparing.
//!
//! A backend that fails delays nobody: its writer tries again, and says so in its [`BackendHealth`].

mod assignment;
mod bulk;
pub mod check;
mod client;
mod comparison;
mod conflicts;
mod dead_letters;
mod document;
mod feeds;
mod health;
mod layout;
mod original;
mod queue;
mod readers;
pub mod reading;
pub mod replay;
pub mod reports;
pub mod secrets;
mod summary;
mod supervise;
mod target;
mod tunnel;
mod wanted;
mod writer;

pub use health::{BackendHealth, BackendState, Counters, Rejection};
pub use layout::MAPPING;
pub use readers::{Asked, ReaderOf, Readers, ReadersInputs};
pub use supervise::{BackendStatus, Backends, BackendsSettings, Inputs, Told, follow};
pub use target::TargetError;

use std::time::Duration;

/// Why a backend can't be used, or didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// What registries and Secrets say of it isn't enough.
    #[error("{0}")]
    Target(#[from] TargetError),
    /// No answer.
    #[error("{node} does not answer: {error}")]
    Unreachable {
        /// The node that was asked last.
        node: String,
        /// Why.
        error: String,
    },
    /// An answer that is no success.
    #[error("{node} refuses {request} with {status}: {reason}")]
    Refused {
        /// Which node.
        node: String,
        /// What it was asked.
        request: String,
        /// HTTP status.
        status: u16,
        /// What it says.
        reason: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// An answer that can't be read.
    #[error("{node} answers {request} with something else than OpenSearch does: {error}")]
    Malformed {
        /// Which node.
        node: String,
        /// What it was asked.
        request: String,
        /// What is wrong with it.
        error: String,
    },
    /// The server is none that is known to work.
    #[error("{0}")]
    Unsuitable(String),
    /// An object of the cache can't be opened.
    #[error("{0}")]
    Codec(#[from] crate::codec::CodecError),
    /// A task of ours ended without an answer.
    #[error("a task ended unexpectedly: {0}")]
    Task(String),
}

impl BackendError {
    /// HTTP status of a refusal.
    fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Which kind of error it is: the same for errors that differ in their words only.
    fn kind(&self) -> u16 {
        match self {
            Self::Refused { status, .. } => *status,
            Self::Unreachable { .. } => 1,
            Self::Malformed { .. } => 2,
            Self::Unsuitable(_) => 3,
            Self::Codec(_) => 4,
            Self::Task(_) => 5,
            Self::Target(_) => 6,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether less at once may do.
    fn is_too_much(&self) -> bool {
        match self {
            Self::Refused { status, .. } => matches!(status, 408 | 413 | 429 | 503 | 504),
            Self::Unreachable { .. } => true,
            _ => false,
        }
    }
}
