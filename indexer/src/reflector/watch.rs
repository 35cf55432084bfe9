//! Watches: frames one by one into changes, as many at a time as have arrived.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use rand::Rng;
use serde::Deserialize;

use super::list::Intake;
use super::{Interruption, Reflector};
use crate::cache::PreparedChange;
use crate::connection::{ConnectionError, WatchStream};
use crate::raw::{Bookmark, RawEvent};

/// A watch is asked to end after a random time of this range, so that members' watches do not all end together.
const WATCH_SECONDS: std::ops::Range<u64> = 300..600;
/// A watch that ends earlier was broken off.
pub(super) const SHORTEST: Duration = Duration::from_secs(WATCH_SECONDS.start);
/// How much longer than that a watch may stay silent before it is given up.
const GRACE: Duration = Duration::from_secs(30);
/// How long a streamed list may pause.
const LIST_SILENCE: Duration = Duration::from_secs(20);
/// Frames applied at one moment at most.
const BATCH: usize = 256;

/// What a frame means.
enum Frame {
    Change(PreparedChange),
    InitialEventsEnd(String),
    Nothing,
}

/// Where a stream of events stands.
enum Phase {
    Listing(Intake),
    Following,
}

impl Reflector {
    /// Watches from `version` until the member ends the watch.
    pub(super) async fn watch(&mut self, version: &str) -> Result<(), Interruption> {
        let stream = self.open("", version).await?;
        self.writer.seen();
        self.following_since = Some(Instant::now());
        self.consume(stream, Phase::Following).await
    }

    /// Asks for the list as a stream of events and goes on watching in the same answer.
    pub(super) async fn list_and_watch_streamed(&mut self) -> Result<(), Interruption> {
        let streamed = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        let stream = match self.open(streamed, "").await {
            Ok(stream) => stream,
            Err(Interruption::Connection(error)) if refuses_streamed_lists(&error) => {
                return Err(Interruption::StreamedListRefused);
            }
            Err(other) => return Err(other),
        };
        // Who doesn't answer has no turn to keep from others.
        let intake = Intake::new(self.known_objects(), self.turn().await);
        self.consume(stream, Phase::Listing(intake)).await
    }

    async fn open(&self, more: &str, version: &str) -> Result<WatchStream, Interruption> {
        let seconds = rand::rng().random_range(WATCH_SECONDS);
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={version}{more}",
            self.collection_path()
        );
        match self.connection.watch(&path, Duration::from_secs(seconds) + GRACE).await {
            Err(error) if error.status_code() == Some(410) => Err(Interruption::Expired),
            other => {
                self.writer.watching();
                Ok(other?)
            }
        }
    }

    async fn consume(&mut self, mut stream: WatchStream, mut phase: Phase) -> Result<(), Interruption> {
        while let Some(frame) = next_frame(&mut stream, &phase).await? {
            self.writer.ready().await;
            let mut changes = Vec::new();
            let mut next = Some(Ok(frame));
            // Frames that have arrived already are applied together: one lock and one notice for all of them.
            while let Some(frame) = next {
                let read = frame.map_err(Interruption::from).and_then(|frame| self.read_frame(&frame, &mut phase));
                match read {
                    Ok(Frame::Change(change)) => changes.push(change),
                    Ok(Frame::InitialEventsEnd(version)) => {
                        self.writer.apply(changes.drain(..));
                        self.end_list(&mut phase, &version)?;
                    }
                    Ok(Frame::Nothing) => {}
                    Err(error) => {
                        // What came before it is as good as any.
                        self.writer.apply(changes);
                        return Err(error);
                    }
                }
                let may_go_on = changes.len() < BATCH && self.writer.is_ready();
                next = if may_go_on { stream.next().now_or_never().flatten() } else { None };
            }
            if !changes.is_empty() {
                self.writer.apply(changes);
            }
        }
        match phase {
            Phase::Following => Ok(()),
            Phase::Listing(_) => Err(Interruption::Unreadable("the streamed list ended before it was complete".into())),
        }
    }

    fn end_list(&mut self, phase: &mut Phase, version: &str) -> Result<(), Interruption> {
        if let Phase::Listing(intake) = std::mem::replace(phase, Phase::Following) {
            self.finish(&intake, version)?;
            self.following_since = Some(Instant::now());
        }
        Ok(())
    }

    fn read_frame(&mut self, frame: &Bytes, phase: &mut Phase) -> Result<Frame, Interruption> {
        let text = str::from_utf8(frame)?;
        if text.trim().is_empty() {
            return Ok(Frame::Nothing);
        }
        let event: RawEvent<'_> = serde_json::from_str(text)?;
        match (&*event.kind, phase) {
            ("ADDED" | "MODIFIED", Phase::Listing(intake)) => {
                Ok(self.take_in(intake, event.object.get()).map_or(Frame::Nothing, Frame::Change))
            }
            ("ADDED" | "MODIFIED" | "DELETED", _) => Ok(self.read_change(&event)),
            ("BOOKMARK", phase) => read_bookmark(&event, matches!(phase, Phase::Listing(_))),
            ("ERROR", _) => Err(read_error(&event)),
            (other, _) => Err(Interruption::Unreadable(format!("a watch event of type {other:?}"))),
        }
    }

    fn read_change(&mut self, event: &RawEvent<'_>) -> Frame {
        let parsed = match self.reader.read(event.object.get()) {
            Ok(parsed) => parsed,
            Err(error) => return self.refuse(error.to_string()),
        };
        if self.served.namespaced && !self.scope.contains(&parsed.namespace) {
            return Frame::Nothing;
        }
        let is_deletion = event.kind == "DELETED";
        match self.writer.prepare(parsed) {
            Ok(entry) if is_deletion => Frame::Change(PreparedChange::Delete(entry)),
            Ok(entry) => Frame::Change(PreparedChange::Upsert(entry)),
            Err(error) => self.refuse(error.to_string()),
        }
    }

    fn refuse(&mut self, reason: String) -> Frame {
        self.has_refused = true;
        let is_first = self.writer.refuse(&reason);
        self.tell_left_out(&reason, is_first);
        Frame::Nothing
    }
}

/// The next frame. A server that knows nothing of streamed lists may take one for an ordinary watch and never say that
/// the list is complete; its silence is the sign.
async fn next_frame(stream: &mut WatchStream, phase: &Phase) -> Result<Option<Bytes>, Interruption> {
    match phase {
        Phase::Following => Ok(stream.next().await.transpose()?),
        Phase::Listing(_) => match tokio::time::timeout(LIST_SILENCE, stream.next()).await {
            Ok(frame) => Ok(frame.transpose()?),
            Err(_) => Err(Interruption::StreamedListRefused),
        },
    }
}

fn read_bookmark(event: &RawEvent<'_>, listing: bool) -> Result<Frame, Interruption> {
    let bookmark: Bookmark = serde_json::from_str(event.object.get())?;
    let ends = bookmark.ends_initial_events();
    let version = bookmark.metadata.resource_version;
    Ok(match (listing, ends) {
        (true, true) => Frame::InitialEventsEnd(version),
        // A bookmark before the end of the list says nothing of what is still to be listed.
        (true, false) => Frame::Nothing,
        (false, _) => Frame::Change(PreparedChange::Bookmark(version.into())),
    })
}

#[derive(Deserialize)]
struct StatusObject {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
}

fn read_error(event: &RawEvent<'_>) -> Interruption {
    match serde_json::from_str::<StatusObject>(event.object.get()) {
        Ok(status) if status.code == 410 => Interruption::Expired,
        Ok(status) => Interruption::Unreadable(format!(
            "the watch ended with {} {}: {}",
            status.code, status.reason, status.message
        )),
        Err(error) => error.into(),
    }
}

/// Servers without streamed lists answer 400 (feature off: 422), because they take the parameters for a mistake.
fn refuses_streamed_lists(error: &ConnectionError) -> bool {
    matches!(error.status_code(), Some(400 | 405 | 422))
}
