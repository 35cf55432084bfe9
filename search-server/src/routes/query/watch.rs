//! `search/query?watch=true`: what passes a query, then how that changes, one JSON event a line as Kubernetes watches have it.
//!
//! The objects that pass at the beginning come as `ADDED`; a `BOOKMARK` with the annotation `k8s.io/initial-events-end` says
//! that there are no more of them. A watch can't be taken up where another one ended: it begins with everything again.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use apiservice::encode::stream;
use apiservice::error::ApiError;
use apiservice::table::{CLOSE, TableMeta};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::unfold;
use indexer::query::Field;
use indexer::search::watch::{First, SearchWatch, WatchError};
use indexer::search::{Hit, Scope};
use indexer::view::watch::EventType;
use jiff::Timestamp;
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use super::formats::{Format, Projected, Shape};
use super::parameters::Parameters;
use super::rows::Rows;
use super::{Turns, state_of, warn};
use crate::routes::SearchState;
use crate::routes::body::{Render, Verbatim, leave_out_secrets};

/// How often a watcher hears that the watch is alive.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
const LONGEST: usize = 24 * 60 * 60;
/// Bytes after which a frame is given out.
const FRAME: usize = 128 << 10;

/// Answers a watch of a query.
pub(super) fn answer(
    state: &SearchState,
    scope: Scope,
    shape: Shape,
    parameters: &Parameters,
) -> Result<Response, ApiError> {
    parameters.refuse(&["orderBy", "limit", "continue", "count"], "watch")?;
    if scope.evaluator.expression().asks_for(&Field::OwnerChain) {
        return Err(ApiError::bad_request("q: owner~ can't be watched; ask for it again, or watch owner:"));
    }
    let frames = Frames::new(shape)?;
    let shortest = state.shortest_watch.as_secs().max(1);
    let seconds = match parameters.number("timeoutSeconds", 0, LONGEST)? {
        // Watches end at different times, so that callers spread over replicas without coming all at once.
        0 => rand::rng().random_range(shortest..shortest * 2),
        seconds => seconds as u64,
    };
    let lacks = state_of(state, scope.clusters.as_ref());
    let (watch, first) = SearchWatch::begin(state.cache.clone(), &state.index, scope);
    let mut bookmarks = interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watcher = Watcher {
        watch,
        first: Some(first),
        pending: VecDeque::new(),
        bookmark: Some(true),
        turns: state.turns.clone(),
        frames,
        ends: Instant::now() + Duration::from_secs(seconds),
        bookmarks,
        stopping: state.stopping.clone(),
        is_done: false,
    };
    let frames = unfold(watcher, |mut watcher| async move {
        let frame = watcher.next_frame().await?;
        Some((Ok::<Bytes, Infallible>(frame), watcher))
    });
    let mut response = stream("application/json", frames);
    warn(response.headers_mut(), &lacks, false);
    Ok(response)
}

struct Watcher {
    watch: SearchWatch,
    first: Option<First>,
    /// What is not written out yet.
    pending: VecDeque<(EventType, Hit)>,
    /// The bookmark to be written when nothing is pending: whether it ends what comes first.
    bookmark: Option<bool>,
    turns: Turns,
    frames: Frames,
    ends: Instant,
    bookmarks: Interval,
    stopping: CancellationToken,
    is_done: bool,
}

impl Watcher {
    /// The next bytes to send; none when the watch is over.
    async fn next_frame(&mut self) -> Option<Bytes> {
        if self.is_done {
            return None;
        }
        let (stopping, ends) = (self.stopping.clone(), self.ends);
        let next = async {
            loop {
                // Whatever there is, a frame is no larger than what a slow reader may cost.
                if let Some(frame) = self.written() {
                    return frame;
                }
                if let Err(error) = self.gather().await {
                    return self.end(&error);
                }
            }
        };
        tokio::select! {
            biased;
            () = stopping.cancelled() => None,
            () = sleep_until(ends) => None,
            frame = next => Some(frame),
        }
    }

    /// What is pending, up to the size of a frame.
    fn written(&mut self) -> Option<Bytes> {
        let mut output = Vec::new();
        while output.len() < FRAME
            && let Some((event_type, hit)) = self.pending.pop_front()
        {
            self.frames.append(event_type, &hit, &mut output);
        }
        if self.pending.is_empty()
            && self.first.is_none()
            && let Some(ends_first) = self.bookmark.take()
        {
            output.extend_from_slice(&bookmark(ends_first));
        }
        (!output.is_empty()).then(|| output.into())
    }

    /// Waits for events.
    async fn gather(&mut self) -> Result<(), ApiError> {
        if let Some(first) = self.first.take() {
            let hits = self.turns.take(move || first.find()).await?.map_err(ended)?;
            self.pending.extend(hits.into_iter().map(|hit| (EventType::Added, hit)));
            return Ok(());
        }
        // Many changes that pass nothing must not keep others waiting.
        tokio::task::yield_now().await;
        tokio::select! {
            biased;
            _ = self.bookmarks.tick() => self.bookmark = Some(false),
            events = self.watch.next() => {
                self.pending.extend(events.map_err(ended)?.into_iter().map(|event| (event.event_type, event.hit)));
            }
        }
        Ok(())
    }

    /// The last event, which says why it is.
    fn end(&mut self, error: &ApiError) -> Bytes {
        self.is_done = true;
        format!("{}\n", json!({ "type": "ERROR", "object": error.to_json() })).into()
    }
}

fn ended(error: WatchError) -> ApiError {
    match error {
        WatchError::Expired => ApiError::expired(error.to_string()),
        WatchError::TooLong => ApiError::timeout(error.to_string()),
        WatchError::TooMany => ApiError::too_large(error.to_string()),
    }
}

fn bookmark(ends_first: bool) -> Bytes {
    let annotations: Value = if ends_first { json!({ "k8s.io/initial-events-end": "true" }) } else { json!({}) };
    let object = json!({ "kind": "List", "apiVersion": "v1", "metadata": { "annotations": annotations } });
    format!("{}\n", json!({ "type": "BOOKMARK", "object": object })).into()
}

/// Writes events.
struct Frames {
    render: Box<dyn Render>,
    /// What stands around each object.
    around: (String, &'static str),
    scratch: Vec<u8>,
}

impl Frames {
    fn new(shape: Shape) -> Result<Self, ApiError> {
        let Shape { format, fields, columns, include } = shape;
        let plain = (String::new(), "");
        let (render, around): (Box<dyn Render>, _) = match (format, fields) {
            (Format::Table, _) => {
                let rows = Rows { fields: columns, include, now: Timestamp::now() };
                let head = apiservice::table::open(&TableMeta::default(), &rows.columns())?;
                (Box::new(rows), (head, CLOSE.trim_ascii_end()))
            }
            (Format::Json | Format::Lines, Some(fields)) => (Box::new(Projected(fields)), plain),
            (Format::Json | Format::Lines, None) => (Box::new(Verbatim), plain),
            (Format::Yaml | Format::Csv, _) => {
                return Err(ApiError::bad_request("format: a watch is written as json or table"));
            }
        };
        Ok(Self { render, around, scratch: Vec::new() })
    }

    fn append(&mut self, event_type: EventType, hit: &Hit, output: &mut Vec<u8>) {
        self.scratch.clear();
        if let Err(error) = hit.decoder.append(hit.entry.frame(), &mut self.scratch) {
            tracing::error!(%error, "a cached object cannot be opened; its event is left out");
            return;
        }
        if hit.is_secret() {
            leave_out_secrets(&mut self.scratch, 0);
        }
        output
            .extend_from_slice(format!(r#"{{"type":"{}","object":{}"#, event_type.as_str(), self.around.0).as_bytes());
        let begun = output.len();
        self.render.render(&hit.cluster, &hit.entry, &self.scratch, output);
        // Between tokens a line's end is a blank; within texts it is always escaped.
        output.iter_mut().skip(begun).filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        output.extend_from_slice(self.around.1.as_bytes());
        output.extend_from_slice(b"}\n");
    }
}
