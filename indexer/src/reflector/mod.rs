//! Follows one resource of one member: lists it, then watches it, for as long as it is asked to.
//!
//! In: raw bytes over a [`MemberConnection`]. Out: changes applied to the cache through a [`Writer`]. A small state machine:
//!
//! ```text
//!            ┌──────────── 410: forget the version ────────────┐
//!            ▼                                                 │
//!   list (streamed, else paged) ── version ──► watch ── ends ──┤
//!            ▲                                   ▲             │
//!            └── failure: wait with jitter ──────┴── resume ◄──┘
//! ```
//!
//! A list is taken in by difference: readers keep seeing what was there until the new list says otherwise.

mod list;
mod pace;
mod watch;

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::cache::Writer;
use crate::connection::{ConnectionError, MemberConnection};
use crate::plan::{Scope, WatchKey, WatchTarget};
use crate::raw::{ObjectError, ObjectReader};
use crate::resource::ApiResource;
use crate::source::builtin::is_built_in_group;

use pace::Backoff;

/// One resource of one member, to be followed.
#[derive(Debug)]
pub struct Reflector {
    key: WatchKey,
    served: ApiResource,
    scope: Scope,
    connection: MemberConnection,
    writer: Writer,
    reader: ObjectReader,
    signals: Signals,
    streamed_list: StreamedList,
}

/// How a reflector and its supervisor speak to each other.
#[derive(Debug, Clone)]
pub struct Signals {
    /// Notified when the member may be reachable again: ends a wait between attempts.
    pub retry_now: Arc<Notify>,
    /// Notified by the reflector when the member says that the resource does not exist.
    pub rediscover: Arc<Notify>,
}

/// Whether to ask the member for its list as a stream of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamedList {
    Try,
    Refused,
}

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
enum Interruption {
    /// The version is no longer held by the member: list again.
    #[error("the version was compacted")]
    Expired,
    /// The member does not stream lists: ask for pages.
    #[error("streamed lists are not supported")]
    StreamedListRefused,
    /// The member could not be reached or refused.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The member sent something that is not what was asked for.
    #[error("the member sent something unreadable: {0}")]
    Unreadable(String),
}

impl From<serde_json::Error> for Interruption {
    fn from(error: serde_json::Error) -> Self {
        Self::Unreadable(error.to_string())
    }
}

impl From<std::str::Utf8Error> for Interruption {
    fn from(error: std::str::Utf8Error) -> Self {
        Self::Unreadable(error.to_string())
    }
}

impl Interruption {
    fn status_code(&self) -> Option<u16> {
        match self {
            Self::Connection(error) => error.status_code(),
            _ => None,
        }
    }
}

impl Reflector {
    /// A reflector that goes on from what `writer` holds.
    pub fn new(
        key: &WatchKey,
        target: &WatchTarget,
        connection: MemberConnection,
        writer: Writer,
        signals: Signals,
    ) -> Self {
        let api_version = target.served.gvr.api_version();
        let streamed_list = if connection.streams_lists() { StreamedList::Try } else { StreamedList::Refused };
        Self {
            reader: ObjectReader::new(&key.cluster, &api_version, &target.served.kind),
            key: key.clone(),
            served: target.served.clone(),
            scope: target.scope.clone(),
            connection,
            writer,
            signals,
            streamed_list,
        }
    }

    /// Follows the resource until cancelled. Failures are noted in the cache, logged when they begin and end, and retried.
    pub async fn run(mut self, cancelled: CancellationToken) {
        tokio::select! {
            () = cancelled.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        let mut backoff = Backoff::default();
        let mut failing = false;
        loop {
            match self.round().await {
                Ok(()) => backoff.reset(),
                Err(Interruption::StreamedListRefused) => self.streamed_list = StreamedList::Refused,
                Err(Interruption::Expired) => {
                    debug!(cluster = %self.key.cluster, resource = %self.key.resource, "version compacted, listing again");
                    self.writer.forget_version();
                    backoff.wait(&self.signals.retry_now).await;
                }
                Err(interruption) => {
                    self.note_failure(&interruption, !failing);
                    failing = true;
                    backoff.wait(&self.signals.retry_now).await;
                    continue;
                }
            }
            if failing {
                failing = false;
                info!(cluster = %self.key.cluster, resource = %self.key.resource, "following again");
            }
        }
    }

    fn note_failure(&self, interruption: &Interruption, begins: bool) {
        self.writer.failed(interruption.to_string());
        match interruption.status_code() {
            Some(404) => self.signals.rediscover.notify_one(),
            // The server no longer knows the credentials or the stored version; the next round starts from its list.
            Some(410) => self.writer.forget_version(),
            _ => {}
        }
        if begins {
            warn!(cluster = %self.key.cluster, resource = %self.key.resource, error = %interruption, "cannot follow, retrying");
        }
    }

    /// Lists if there is no version to go on from, then watches until the member ends the watch.
    async fn round(&mut self) -> Result<(), Interruption> {
        if let Some(version) = self.writer.version() {
            return self.watch(&version).await;
        }
        self.read_printer_columns().await;
        match self.streamed_list {
            StreamedList::Try => self.list_and_watch_streamed().await,
            StreamedList::Refused => {
                let version = self.list_pages().await?;
                self.watch(&version).await
            }
        }
    }

    async fn read_printer_columns(&self) {
        if is_built_in_group(&self.served.gvr.group) {
            return;
        }
        match self.connection.printer_columns(&self.served).await {
            Ok(columns) => self.writer.set_printer_columns(columns.into()),
            // Columns are a convenience; a member that does not let us read its CRDs is followed all the same.
            Err(error) => {
                debug!(cluster = %self.key.cluster, resource = %self.key.resource, %error, "no printer columns");
            }
        }
    }

    fn collection_path(&self) -> String {
        self.served.gvr.collection_path(self.scope.only_namespace().filter(|_| self.served.namespaced))
    }

    fn note_refused_object(&self, error: &ObjectError) {
        warn!(cluster = %self.key.cluster, resource = %self.key.resource, %error, "an object was left out");
    }
}
