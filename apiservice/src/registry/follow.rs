//! Watching registries.
//!
//! Events come from the store in order of their revisions. An object that comes to match the request's selectors is
//! `ADDED`, one that ceases to is `DELETED`.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::unfold;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use super::read::Selection;
use super::store::{api_error, document, parse};
use super::{Call, RegistryApi, table};
use crate::GROUP_VERSION;
use crate::encode::{Accepted, Offer, View, negotiate, watch as respond, watch_event};
use crate::error::ApiError;
use crate::request::ListOptions;
use crate::storage::{Changes, StorageError, StorageEvent};
use crate::table::{IncludeObject, PartialObjectMetadata, TableMeta};

/// How often a watcher that wants bookmarks is told how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long a watch lasts at least if the caller does not say; up to twice as long.
const SECONDS: u64 = 1800;

/// Answers a watch, of one registry if it is named.
pub(super) async fn watch(
    api: &RegistryApi,
    call: &Call,
    options: &ListOptions,
    name: Option<&str>,
) -> Result<Response, ApiError> {
    options.check()?;
    let accepted = negotiate(&call.headers, Offer::Watch)?;
    let selection = Selection::parse(options, name)?;
    let storage = api.store.storage();
    let failed = |error: StorageError| api_error(&error, "");
    let wants_everything =
        options.send_initial_events == Some(true) || matches!(options.resource_version.as_str(), "" | "0");
    let mut pending = Vec::new();
    let after = if wants_everything {
        let listing = storage.list().await.map_err(failed)?;
        for stored in &listing.items {
            pending.push(("ADDED", document(stored)?));
        }
        listing.revision
    } else {
        options.resource_version.parse().map_err(|_| {
            ApiError::bad_request(format!(
                "resourceVersion: Invalid value: {:?}: not a version",
                options.resource_version
            ))
        })?
    };
    pending.retain(|(_, document)| selection.is_met_by(document));
    pending.reverse();
    let seconds =
        options.timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    let follower = Follower {
        changes: storage.watch(after).await.map_err(failed)?,
        selection,
        form: Form { view: accepted.view, include: IncludeObject::parse(&call.query)? },
        pending,
        initial_end_due: options.send_initial_events == Some(true),
        reached: after,
        bookmarks: options.allow_watch_bookmarks.then(bookmark_timer),
        ends: Instant::now() + Duration::from_secs(seconds.unwrap_or_else(some_seconds)),
        stopping: api.stopping.clone(),
        done: false,
    };
    Ok(stream(accepted, follower))
}

/// Watches end at different times, so that not all clients come back at once.
fn some_seconds() -> u64 {
    let random = u64::from(uuid::Uuid::new_v4().as_fields().1);
    SECONDS + random % SECONDS
}

fn bookmark_timer() -> Interval {
    let mut timer = interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

fn stream(accepted: Accepted, follower: Follower) -> Response {
    let frames = unfold(follower, |mut follower| async move {
        let frame = follower.next_frame().await?;
        Some((Ok::<Bytes, Infallible>(frame), follower))
    });
    respond(accepted, frames)
}

/// How an event's object is shown.
struct Form {
    view: View,
    include: IncludeObject,
}

impl Form {
    fn frame(&self, event_type: &str, document: &Value) -> Result<Bytes, ApiError> {
        match self.view {
            View::Whole => watch_event(event_type, document),
            View::Metadata => {
                watch_event(event_type, &PartialObjectMetadata::new(&super::read::raw(&document["metadata"])?))
            }
            View::Table => {
                let rows = table::table(TableMeta::default(), std::slice::from_ref(document), self.include)?;
                watch_event(event_type, &rows)
            }
        }
    }
}

struct Follower {
    changes: Changes,
    selection: Selection,
    form: Form,
    /// Events ready to be given, the next one last.
    pending: Vec<(&'static str, Value)>,
    initial_end_due: bool,
    reached: u64,
    bookmarks: Option<Interval>,
    ends: Instant,
    stopping: CancellationToken,
    done: bool,
}

impl Follower {
    async fn next_frame(&mut self) -> Option<Bytes> {
        match self.try_next_frame().await {
            Ok(frame) => frame,
            Err(error) => {
                self.done = true;
                watch_event("ERROR", &error.to_json()).ok()
            }
        }
    }

    async fn try_next_frame(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            if self.done {
                return Ok(None);
            }
            if let Some((event_type, document)) = self.pending.pop() {
                return self.form.frame(event_type, &document).map(Some);
            }
            if std::mem::take(&mut self.initial_end_due) {
                return self.bookmark(true).map(Some);
            }
            let change = tokio::select! {
                biased;
                () = self.stopping.cancelled() => return Ok(None),
                () = sleep_until(self.ends) => return Ok(None),
                change = self.changes.next() => change,
                () = tick(self.bookmarks.as_mut()) => return self.bookmark(false).map(Some),
            };
            match change {
                Some(Ok(event)) => self.take(event)?,
                Some(Err(error)) => return Err(api_error(&error, "")),
                None => return Ok(None),
            }
        }
    }

    fn take(&mut self, event: StorageEvent) -> Result<(), ApiError> {
        match event {
            StorageEvent::Written { object, previous } => {
                self.reached = object.revision;
                let present = document(&object)?;
                let was = match &previous {
                    Some(previous) => self.selection.is_met_by(&parse(previous, &object.name)?),
                    None => false,
                };
                match (was, self.selection.is_met_by(&present)) {
                    (true, true) => self.pending.push(("MODIFIED", present)),
                    (false, true) => self.pending.push(("ADDED", present)),
                    (true, false) => self.pending.push(("DELETED", present)),
                    (false, false) => {}
                }
            }
            StorageEvent::Deleted { object } => {
                self.reached = object.revision;
                let last = document(&object)?;
                if self.selection.is_met_by(&last) {
                    self.pending.push(("DELETED", last));
                }
            }
            StorageEvent::Progress(revision) => self.reached = revision,
        }
        Ok(())
    }

    fn bookmark(&self, ends_initial_events: bool) -> Result<Bytes, ApiError> {
        let mut metadata = json!({ "resourceVersion": self.reached.to_string() });
        if ends_initial_events {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = json!({
            "kind": crate::validation::KIND, "apiVersion": GROUP_VERSION, "metadata": metadata,
            "spec": { "targetCluster": {}, "resourceSelectors": null }, "status": {},
        });
        watch_event("BOOKMARK", &object)
    }
}

async fn tick(timer: Option<&mut Interval>) {
    match timer {
        Some(timer) => drop(timer.tick().await),
        None => std::future::pending().await,
    }
}
