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
//! After a failure, a watch goes on only if the member still stands where it stood: one that was restored from a backup doesn't.
//!
//! A list is taken in by difference: readers keep seeing what was there until the new list says otherwise.

mod list;
mod pace;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::cache::{Refused, Writer};
use crate::connection::{ConnectionError, MemberConnection};
use crate::entry::Entries;
use crate::plan::{Scope, WatchKey, WatchTarget};
use crate::raw::{ObjectReader, RawList};
use crate::resource::ApiResource;
use crate::source::builtin::is_built_in_group;

use pace::Backoff;

/// A turn to list, which ends when it is dropped.
#[derive(Debug)]
struct Turn {
    _ends: oneshot::Sender<()>,
}

/// Lists that are taken in at a time.
pub const LISTS_AT_ONCE: usize = 64;
/// How long to wait for a turn to list, and how long a list may keep it.
const PATIENCE: Duration = Duration::from_secs(30);

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
    /// How sure it is that the member still counts its versions as it did.
    trust: Trust,
    /// Since when the present watch tells what happens, if it does.
    following_since: Option<Instant>,
    /// Whether something in the present watch could not be taken.
    has_refused: bool,
}

/// Whether the member's versions are those that we know. A member that was restored from a backup, or another one in its place,
/// may have gone back to earlier ones: a watch from a version that it has not reached yet would be silent for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// The last watch ran its full time.
    Full,
    /// We were out of touch: it is asked for its version before a watch goes on.
    Doubt,
    /// It went back: equal versions don't mean equal objects.
    None,
}

/// A watch that ends so soon was not worth beginning.
const BRIEF: Duration = Duration::from_secs(1);
/// Who was followed for so long was well.
const LONG: Duration = Duration::from_secs(60);

/// How a reflector and its supervisor speak to each other.
#[derive(Debug, Clone)]
pub struct Signals {
    /// Notified when the member may be reachable again: ends a wait between attempts.
    pub retry_now: Arc<Notify>,
    /// Notified by the reflector when the member says that the resource does not exist.
    pub rediscover: Arc<Notify>,
    /// Turns to list, which all members share: what many send at once would lie in memory until it is taken in.
    pub listing: Arc<Semaphore>,
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
    #[error("the member no longer has the version that it listed or told of last")]
    Expired,
    /// A watch was answered and ended before it was worth beginning.
    #[error("the member ends each watch at once")]
    EndedAtOnce,
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

    /// Failures in a row that are told of: fewer of this kind come and go by themselves.
    fn times_until_failure(&self) -> u32 {
        match self {
            Self::Expired | Self::EndedAtOnce => 3,
            _ => 1,
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
        // Without a version, what is held may be of another version of the resource, or of another cluster.
        let trust = if writer.version().is_some() { Trust::Doubt } else { Trust::None };
        Self {
            reader: ObjectReader::new(&key.cluster, &api_version, &target.served.kind),
            key: key.clone(),
            served: target.served.clone(),
            scope: target.scope.clone(),
            connection,
            writer,
            signals,
            streamed_list,
            trust,
            following_since: None,
            has_refused: false,
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
        let (mut failing, mut in_a_row) = (false, 0);
        loop {
            let ended = self.next_round().await;
            if self.has_followed() {
                (backoff, in_a_row) = (Backoff::default(), 0);
            }
            match ended {
                Ok(()) => (backoff, in_a_row) = (Backoff::default(), 0),
                Err(Interruption::StreamedListRefused) => self.streamed_list = StreamedList::Refused,
                Err(interruption) => {
                    in_a_row += 1;
                    if in_a_row >= interruption.times_until_failure() {
                        self.note_failure(&interruption, !failing);
                        failing = true;
                    } else {
                        debug!(cluster = %self.key.cluster, resource = %self.key.resource, %interruption, "going on");
                    }
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

    /// A round, and what is not known any more after it.
    async fn next_round(&mut self) -> Result<(), Interruption> {
        let begun = Instant::now();
        (self.following_since, self.has_refused) = (None, false);
        let ended = self.round().await;
        // What was refused in a watch may be mended or gone by now; only a list shows it.
        if self.has_refused || matches!(ended, Err(Interruption::Expired)) {
            self.writer.forget_version();
        }
        if ended.is_ok() && begun.elapsed() < BRIEF { Err(Interruption::EndedAtOnce) } else { ended }
    }

    /// Whether the last watch went well for long, however it ended.
    fn has_followed(&self) -> bool {
        self.following_since.is_some_and(|since| since.elapsed() >= LONG)
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
            if self.trust != Trust::Doubt || !self.went_back(&version).await? {
                return self.watch_from(&version).await;
            }
            warn!(cluster = %self.key.cluster, resource = %self.key.resource, version = %version, "the member went back to earlier versions, listing all anew");
            self.writer.forget_version();
            self.trust = Trust::None;
        }
        self.read_printer_columns().await;
        match self.streamed_list {
            StreamedList::Try => {
                let ended = self.list_and_watch_streamed().await;
                if self.writer.version().is_some() {
                    // The list was taken in; what comes behind it is not for sure.
                    self.trust = Trust::Doubt;
                }
                ended
            }
            StreamedList::Refused => {
                let version = self.list_pages().await?;
                self.watch_from(&version).await
            }
        }
    }

    /// Watches; only a watch that ended in its time leaves no doubt.
    async fn watch_from(&mut self, version: &str) -> Result<(), Interruption> {
        let began = Instant::now();
        self.trust = Trust::Doubt;
        self.watch(version).await?;
        if began.elapsed() >= watch::SHORTEST {
            self.trust = Trust::Full;
        }
        Ok(())
    }

    /// Whether the member's collection stands at an earlier version than ours.
    async fn went_back(&self, version: &str) -> Result<bool, Interruption> {
        let body =
            self.connection.get_small(&format!("{}?limit=1", self.collection_path()), "application/json").await?;
        let list: RawList<'_> = serde_json::from_slice(&body)?;
        // Nobody stands at 0; some say so for want of anything better.
        let number = |version: &str| version.parse::<u64>().ok().filter(|version| *version > 0);
        let present = list.metadata.resource_version.as_deref().and_then(number);
        Ok(present.zip(number(version)).is_some_and(|(present, known)| present < known))
    }

    /// What of the objects held need not be taken in again if a list has them in the same version.
    fn known_objects(&self) -> Entries {
        if self.trust == Trust::None { Entries::new() } else { self.writer.objects() }
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

    /// A turn to list; without one if there is none for long, because others are slow.
    async fn turn(&self) -> Option<Turn> {
        let permit = Arc::clone(&self.signals.listing).acquire_owned();
        let permit = tokio::time::timeout(PATIENCE, permit).await.ok()?.ok()?;
        let (turn, ended) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let _permit = permit;
            // Who is slow lets others have their turn and goes on without.
            let _ = tokio::time::timeout(PATIENCE, ended).await;
        });
        Some(Turn { _ends: turn })
    }

    fn collection_path(&self) -> String {
        self.served.gvr.collection_path(self.scope.only_namespace().filter(|_| self.served.namespaced))
    }

    /// Of many, the first one is told of loudly; the status counts them.
    fn tell_left_out(&self, reason: &str, is_first: bool) {
        let reason = Refused::shortened(reason);
        if is_first {
            warn!(cluster = %self.key.cluster, resource = %self.key.resource, reason, "an object was left out");
        } else {
            debug!(cluster = %self.key.cluster, resource = %self.key.resource, reason, "an object was left out");
        }
    }
}
