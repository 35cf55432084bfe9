//! Watches: what has happened since a version, computed anew, then what happens.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{Stream, unfold};
use serde_json::Value;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until};

use super::answer::{NONSENSE, Problem};
use super::collection::{CHUNK, Chunks, Collection, Form, frame};
use super::counters::OpenWatch;
use super::fault::Fault;
use super::schedule::{Standing, updates_until};
use super::state::State;

/// How often a watch is told where the cluster stands.
const BOOKMARKS: Duration = Duration::from_secs(60);

/// How a watch was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// Only what is newer is told.
    pub(crate) version: usize,
    pub(crate) ends: Instant,
    pub(crate) bookmarks: bool,
    /// How often readers had had to forget what they were told when it began.
    pub(crate) restored: usize,
}

/// A watch in progress.
pub(crate) struct Watch {
    asked: Collection,
    terms: Terms,
    states: Receiver<State>,
    /// Counted for as long as it is held.
    _open: OpenWatch,
    /// What is to be sent before anything else.
    waiting: Option<Chunks>,
    collection: Collection,
    /// The first update that has not been told.
    next: usize,
    bookmark: Instant,
    told: Fault,
    ended: bool,
}

impl Watch {
    /// A watch that begins with what `waiting` has.
    pub(crate) fn new(
        asked: Collection,
        terms: Terms,
        states: Receiver<State>,
        open: OpenWatch,
        waiting: Option<Chunks>,
    ) -> Self {
        let collection = asked.clone();
        let (next, bookmark) = (updates_until(terms.version), Instant::now() + BOOKMARKS);
        let (told, ended) = (Fault::None, false);
        Self { asked, terms, states, _open: open, waiting, collection, next, bookmark, told, ended }
    }

    /// Its answer, chunk by chunk.
    pub(crate) fn stream(self) -> impl Stream<Item = Bytes> + Send {
        unfold(self, |mut watch| async move { Some((watch.step().await?, watch)) })
    }

    async fn step(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.waiting.as_mut().and_then(Iterator::next) {
                return Some(chunk);
            }
            self.waiting = None;
            if self.ended {
                return None;
            }
            let state = *self.states.borrow_and_update();
            if let Some(chunk) = self.notice(&state).or_else(|| self.due(&state, Instant::now())) {
                return Some(chunk);
            }
            if self.ended || self.waiting.is_some() || self.next < self.until(&state, Instant::now()) {
                continue;
            }
            tokio::select! {
                () = sleep_until(self.wake(&state)) => {}
                changed = self.states.changed() => changed.ok()?,
            }
        }
    }

    /// What a fault makes of the watch when it begins.
    fn notice(&mut self, state: &State) -> Option<Bytes> {
        if self.terms.restored != state.restored || state.fault == Fault::Expired {
            return self.end_with(frame("ERROR", &gone(&self.terms)));
        }
        if self.told == state.fault {
            return None;
        }
        self.told = state.fault;
        self.collection = self.asked.with(state.fault);
        let sample = self.collection.sample(state.updates(Instant::now()));
        match state.fault {
            Fault::Empty => self.end_with(Bytes::new()),
            Fault::Nonsense => self.end_with(Bytes::from_static(NONSENSE)),
            Fault::HalfFrame => self.end_with(sample.slice(..sample.len() / 2)),
            Fault::Huge => {
                let huge = self.collection.huge(state.updates(Instant::now()), Form::Added, false);
                self.waiting = Some(huge);
                None
            }
            Fault::InvalidUtf8 | Fault::WrongKind => Some(sample),
            _ => None,
        }
    }

    fn end_with(&mut self, last: Bytes) -> Option<Bytes> {
        self.ended = true;
        (!last.is_empty()).then_some(last)
    }

    /// Events or a bookmark, if there are any to be told.
    fn due(&mut self, state: &State, now: Instant) -> Option<Bytes> {
        if self.ended || self.waiting.is_some() {
            return None;
        }
        let present = state.updates(now);
        let late = present.saturating_sub(self.next) > self.collection.world.settings.history;
        if late && self.collection.changes() {
            // Who reads so slowly has lost what was in between.
            return self.end_with(frame("ERROR", &gone(&self.terms)));
        }
        if let Some(events) = self.events(present) {
            return Some(events);
        }
        if self.next < present {
            return None;
        }
        if now >= self.terms.ends {
            let last = self.bookmark(present);
            return self.end_with(last);
        }
        if now >= self.bookmark {
            self.bookmark = now + BOOKMARKS;
            return Some(self.bookmark(present)).filter(|bookmark| !bookmark.is_empty());
        }
        None
    }

    fn bookmark(&self, present: usize) -> Bytes {
        let behind = self.collection.version(present) < self.terms.version;
        if behind || !self.terms.bookmarks { Bytes::new() } else { self.collection.bookmark(present, false) }
    }

    /// How far it can be told about now.
    fn until(&self, state: &State, now: Instant) -> usize {
        if self.collection.changes() { state.updates(now) } else { self.next }
    }

    /// A chunk of events up to so many updates.
    fn events(&mut self, present: usize) -> Option<Bytes> {
        if !self.collection.changes() {
            self.next = self.next.max(present);
            return None;
        }
        let mut buffer = Vec::new();
        while self.next < present && buffer.len() < CHUNK {
            self.write_update(self.next, &mut buffer);
            self.next += 1;
        }
        (!buffer.is_empty()).then(|| buffer.into())
    }

    fn write_update(&self, update: usize, buffer: &mut Vec<u8>) {
        let (collection, schedule) = (&self.collection, &self.collection.world.schedule);
        let (index, after) = (schedule.index_of(update), schedule.after(update));
        if !collection.range.contains(&index) {
            return;
        }
        if !collection.world.replaces(collection.identity(index), after.generation) {
            return collection.write_event("MODIFIED", index, after, buffer);
        }
        let deleted = Standing { generation: after.generation - 1, version: after.version - 1 };
        if deleted.version > self.terms.version {
            collection.write_event("DELETED", index, deleted, buffer);
        }
        collection.write_event("ADDED", index, after, buffer);
    }

    fn wake(&self, state: &State) -> Instant {
        let next = state.moment_of(self.next + 1).filter(|_| self.collection.changes());
        next.unwrap_or(self.terms.ends).min(self.terms.ends).min(self.bookmark)
    }
}

fn gone(terms: &Terms) -> Value {
    Problem::too_old(terms.version).status()
}
