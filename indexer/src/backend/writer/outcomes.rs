//! What came of bulk requests: what is done, what is tried again and when, and what will never be taken.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::value::RawValue;
use tracing::warn;

use super::pause::jittered;
use super::{BYTES, ITEMS, PAUSE, Writer, Written, count, is_index_missing};
use crate::backend::BackendError;
use crate::backend::bulk::{Action, Outcome, Sources};
use crate::backend::conflicts;
use crate::backend::dead_letters::{DeadLetter, DeadLetters};
use crate::backend::health::Rejection;
use crate::backend::queue::Item;

/// A bulk request that takes no longer may be larger; one that takes longer than this had better be smaller.
const QUICK: Duration = Duration::from_secs(1);
const SLOW: Duration = Duration::from_secs(5);
/// How often an item may fail while others are written; then it is to blame itself.
const TRIES: u32 = 6;

impl Writer {
    pub(super) fn note_written(&mut self, written: Written) {
        let Written { batch, result, took } = written;
        self.put_back(batch.rest);
        for item in &batch.nothing {
            self.feeds.queue.settle(&item.id);
            self.health.forgive(&item.id);
        }
        self.reject(batch.broken);
        match result {
            // Nothing had to be asked; a pause that is over tells nothing either.
            Ok(_) if batch.actions.is_empty() => {
                if self.writing.is_over() {
                    self.recover_writing();
                }
            }
            Ok(outcomes) => {
                count(&self.health.counters.requests, 1);
                count(&self.health.counters.bytes, batch.bytes);
                count(&self.health.counters.sent_bytes, batch.body.len());
                self.adapt(took);
                self.note_outcomes(batch.actions, outcomes);
            }
            Err(error) => self.note_refused(batch.actions, &error),
        }
    }

    fn adapt(&mut self, took: Duration) {
        self.batch_items = (self.batch_items * 2).min(ITEMS);
        if took < QUICK {
            self.batch_bytes = (self.batch_bytes * 2).min(self.largest_bytes);
        } else if took > SLOW {
            self.batch_bytes = (self.batch_bytes / 2).max(BYTES.1);
        }
    }

    fn note_outcomes(&mut self, actions: Vec<(Item, Action)>, outcomes: Vec<Outcome>) {
        let (mut again, mut reason, mut rejected) = (Vec::new(), None, Vec::new());
        let some_done = outcomes.iter().any(|outcome| !matches!(outcome, Outcome::Again { .. }));
        for ((item, action), outcome) in actions.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Done => self.note_done(&item, action),
                Outcome::Conflict(version) => {
                    count(&self.health.counters.conflicts, 1);
                    let at_least = version.unwrap_or_default().max(item.at_least);
                    let pause = jittered(conflicts::pause(item.conflicts));
                    let item = Item { at_least, conflicts: item.conflicts.saturating_add(1), ..item };
                    self.feeds.queue.delay(item, pause);
                }
                Outcome::Again { reason: why, is_busy } => {
                    again.push((item, is_busy));
                    reason = Some(why);
                }
                Outcome::Rejected(why) => rejected.push((item, why)),
            }
        }
        self.reject(rejected);
        match reason {
            None => self.recover_writing(),
            Some(reason) => self.note_again(again, &reason, some_done),
        }
    }

    /// Items that could not be written now: all of them, or some while others could.
    fn note_again(&mut self, items: Vec<(Item, bool)>, reason: &str, others_could: bool) {
        self.batch_bytes = (self.batch_bytes / 2).max(BYTES.1);
        if !others_could || is_index_missing(reason) {
            let tried = items.len();
            self.put_back(items.into_iter().map(|(item, _)| item).collect());
            if is_index_missing(reason) {
                self.begin_anew();
            }
            self.fail_writing(&BackendError::Unsuitable(format!("the backend could not write: {reason}")), tried);
            return;
        }
        count(&self.health.counters.retries, items.len());
        self.recover_writing();
        let mut hopeless = Vec::new();
        for (item, is_busy) in items {
            if item.tries >= TRIES && !is_busy {
                hopeless.push((item, reason.to_owned()));
                continue;
            }
            let pause = PAUSE.0.saturating_mul(2_u32.saturating_pow(item.tries));
            // What the backend was too busy for is not the item's fault.
            let tries = (item.tries + 1).min(if is_busy { TRIES - 1 } else { TRIES });
            self.feeds.queue.delay(Item { tries, ..item }, jittered(pause.min(PAUSE.1)));
        }
        self.reject(hopeless);
    }

    fn note_done(&mut self, item: &Item, action: Action) {
        let counters = &self.health.counters;
        count(if action == Action::Index { &counters.written } else { &counters.deleted }, 1);
        self.feeds.queue.settle(&item.id);
        self.health.forgive(&item.id);
    }

    /// The whole request was refused or got no answer.
    fn note_refused(&mut self, actions: Vec<(Item, Action)>, error: &BackendError) {
        let items: Vec<Item> = actions.into_iter().map(|(item, _)| item).collect();
        if matches!(error.status(), Some(400 | 413)) {
            self.note_bad_request(items, error);
            return;
        }
        if error.is_too_much() {
            self.batch_bytes = (self.batch_bytes / 2).max(BYTES.1);
        }
        if is_index_missing(&error.to_string()) {
            self.begin_anew();
        }
        let tried = items.len();
        self.put_back(items);
        self.fail_writing(error, tried);
    }

    /// The request as a whole is refused for what is in it, or can't be put together: it is halved until the item that is to blame
    /// stands alone.
    pub(super) fn note_bad_request(&mut self, items: Vec<Item>, error: &BackendError) {
        let tried = items.len();
        self.batch_items = (tried / 2).max(1);
        // What is too large alone says nothing of others.
        if error.status() == Some(413) && tried > 1 {
            self.largest_bytes = (self.batch_bytes / 2).max(BYTES.1);
            self.batch_bytes = self.largest_bytes;
        }
        match <[Item; 1]>::try_from(items) {
            Ok([item]) if item.tries >= TRIES => {
                self.reject(vec![(item, error.to_string())]);
                self.recover_writing();
            }
            Ok([item]) => {
                let pause = PAUSE.0 * 2_u32.saturating_pow(item.tries);
                self.feeds.queue.delay(Item { tries: item.tries + 1, ..item }, jittered(pause.min(PAUSE.1)));
                self.fail_writing(error, 1);
            }
            Err(items) => {
                self.put_back(items);
                self.fail_writing(error, tried);
            }
        }
    }

    fn reject(&mut self, rejected: Vec<(Item, String)>) {
        let Some((first, why)) = rejected.first() else { return };
        warn!(
            backend = self.name,
            document = %first.id,
            reason = why,
            further = rejected.len() - 1,
            "the backend refuses documents for what is in them"
        );
        let sources = self.feeds.sources();
        for (item, reason) in &rejected {
            self.feeds.queue.settle(&item.id);
            let rejection = Rejection { id: item.id.to_string(), reason: reason.clone(), at: Timestamp::now() };
            if let Some(log) = &self.dead_letters {
                self.bury(log, &sources, item, &rejection);
            }
            self.health.reject(rejection);
        }
    }

    fn bury(&self, log: &DeadLetters, sources: &Sources, item: &Item, rejection: &Rejection) {
        let document = sources.document(item).and_then(|line| String::from_utf8(line).ok());
        let document = document.and_then(|line| RawValue::from_string(line).ok());
        let letter = DeadLetter {
            time: rejection.at,
            backend: &self.name,
            id: &item.id,
            reason: &rejection.reason,
            document: document.as_deref(),
        };
        if let Err(error) = log.write(&letter) {
            warn!(%error, document = %item.id, "the log of refused documents can't be written");
        }
    }
}
