//! Watches of one resource over all clusters: one JSON event a line.

use std::convert::Infallible;
use std::time::Duration;

use apiservice::encode::{Offer, negotiate, stream};
use apiservice::error::ApiError;
use axum::response::Response;
use bytes::Bytes;
use futures::stream::unfold;
use http::HeaderMap;
use indexer::status::notices;
use indexer::view::watch::{Watch, WatchEvent};
use rand::Rng;
use serde_json::json;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use super::list::{Asked, kind_of, wants_table};
use super::table::Rows;
use super::{SearchState, warning};

/// How often a watcher that wants bookmarks is told how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// Answers a watch.
pub(super) fn answer(state: &SearchState, headers: &HeaderMap, asked: Asked) -> Result<Response, ApiError> {
    let kind = kind_of(state, &asked.resource)?;
    let start = asked.options.watch_start()?;
    let cache = state.cache.open(&asked.resource);
    if asked.options.order.is_some() {
        return Err(ApiError::bad_request("labelSelector: search.karmada.io/order-by: a watch has no order"));
    }
    let query = asked.query(&kind);
    let snapshot = cache.snapshot(query.clusters.as_ref());
    let notices = notices(&state.overview(), &asked.resource, &snapshot, &query);
    let rows = wants_table(headers).then(|| Rows::new(&asked.resource, &kind, &snapshot, asked.options.include_object));
    let version = asked.options.list.resource_version.clone();
    let watch = Watch::start(cache, query, &start)
        .map_err(|expired| ApiError::expired(format!("{expired}: {version}: list again and watch from the list's")))?;
    let seconds = asked.options.list.timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok()).filter(|s| *s > 0);
    let seconds = seconds.unwrap_or_else(|| {
        // Watches end at different times, so that callers spread over replicas without coming all at once.
        let shortest = state.shortest_watch.as_secs().max(1);
        rand::rng().random_range(shortest..shortest * 2)
    });
    let wants_initial_end = asked.options.list.send_initial_events == Some(true);
    let watcher = Watcher {
        watch,
        rows,
        bookmark: Bookmark { kind, api_version: asked.resource.api_version() },
        ends: Instant::now() + Duration::from_secs(seconds),
        bookmarks: asked.options.list.allow_watch_bookmarks.then(bookmark_timer),
        initial_end_due: wants_initial_end,
        stopping: state.stopping.clone(),
        done: false,
    };
    let frames = unfold(watcher, |mut watcher| async move {
        let frame = watcher.next_frame().await?;
        Some((Ok::<Bytes, Infallible>(frame), watcher))
    });
    let accepted = negotiate(headers, Offer::Watch).unwrap_or_default();
    let content_type = if accepted.stream { "application/json;stream=watch" } else { "application/json" };
    let mut response = stream(content_type, frames);
    warning::warn(response.headers_mut(), &notices);
    Ok(response)
}

fn bookmark_timer() -> Interval {
    let mut timer = interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

struct Watcher {
    watch: Watch,
    rows: Option<Rows>,
    bookmark: Bookmark,
    ends: Instant,
    bookmarks: Option<Interval>,
    initial_end_due: bool,
    stopping: CancellationToken,
    done: bool,
}

struct Bookmark {
    kind: String,
    api_version: String,
}

impl Bookmark {
    fn frame(&self, version: &str, ends_initial_events: bool) -> Bytes {
        let mut metadata = json!({ "resourceVersion": version });
        if ends_initial_events {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = json!({ "kind": self.kind, "apiVersion": self.api_version, "metadata": metadata });
        format!("{}\n", json!({ "type": "BOOKMARK", "object": object })).into()
    }
}

impl Watcher {
    /// The next bytes to send; none when the watch is over.
    async fn next_frame(&mut self) -> Option<Bytes> {
        loop {
            if self.done {
                return None;
            }
            if self.initial_end_due && self.watch.initial_events_given() {
                self.initial_end_due = false;
                return Some(self.bookmark.frame(&self.watch.version().encode(), true));
            }
            let events = tokio::select! {
                biased;
                () = self.stopping.cancelled() => return None,
                () = sleep_until(self.ends) => return None,
                () = tick(self.bookmarks.as_mut()) => {
                    return Some(self.bookmark.frame(&self.watch.version().encode(), false));
                }
                events = self.watch.next() => events,
            };
            match events {
                // Many changes that pass nothing must not keep others waiting.
                Ok(events) if events.is_empty() => tokio::task::yield_now().await,
                Ok(events) => return Some(self.frames(&events)),
                Err(expired) => {
                    self.done = true;
                    let status = ApiError::expired(expired.to_string()).to_json();
                    return Some(format!("{}\n", json!({ "type": "ERROR", "object": status })).into());
                }
            }
        }
    }

    fn frames(&mut self, events: &[WatchEvent]) -> Bytes {
        let size: usize = events.iter().map(|event| event.object.len() + 40).sum();
        let mut frames = Vec::with_capacity(size);
        for event in events {
            frames.extend_from_slice(b"{\"type\":\"");
            frames.extend_from_slice(event.event_type.as_str().as_bytes());
            frames.extend_from_slice(b"\",\"object\":");
            match &mut self.rows {
                Some(rows) => rows.append_table(&event.cluster, &event.object, &mut frames),
                None => frames.extend_from_slice(&event.object),
            }
            frames.extend_from_slice(b"}\n");
        }
        frames.into()
    }
}

async fn tick(timer: Option<&mut Interval>) {
    match timer {
        Some(timer) => drop(timer.tick().await),
        None => std::future::pending().await,
    }
}
