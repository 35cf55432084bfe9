//! Lists: page by page, taken in by difference.

use std::sync::Arc;
use std::time::Instant;

use serde_json::value::RawValue;
use tracing::info;

use super::{Interruption, Reflector, Turn};
use crate::cache::{PreparedChange, Refused};
use crate::entry::{Entries, Entry, EntryKey};
use crate::raw::RawList;

/// Objects asked for at a time.
const PAGE: u32 = 500;

/// A list being taken in.
#[derive(Debug)]
pub(super) struct Intake {
    begun: Instant,
    known: Entries,
    listed: Entries,
    refused: Option<Refused>,
    /// How many objects could be taken.
    taken: usize,
    _turn: Option<Turn>,
}

impl Intake {
    pub(super) fn new(known: Entries, turn: Option<Turn>) -> Self {
        Self { begun: Instant::now(), known, listed: Entries::new(), refused: None, taken: 0, _turn: turn }
    }
}

impl Reflector {
    /// Lists all pages; returns the version from which to watch.
    pub(super) async fn list_pages(&mut self) -> Result<Arc<str>, Interruption> {
        let turn = self.turn().await;
        let mut intake = Intake::new(self.known_objects(), turn);
        let mut continue_token: Option<String> = None;
        loop {
            let path = self.page_path(continue_token.as_deref());
            let body = self.connection.get(&path, "application/json").await?;
            let list: RawList<'_> = serde_json::from_slice(&body)?;
            self.writer.ready().await;
            self.take_in_page(&mut intake, list.items.as_deref().unwrap_or_default());
            continue_token = list.metadata.continue_token.filter(|token| !token.is_empty());
            if continue_token.is_none() {
                let version = list.metadata.resource_version.filter(|version| !version.is_empty());
                let version =
                    version.ok_or_else(|| Interruption::Unreadable("the list has no resourceVersion".into()))?;
                return self.finish(&intake, &version);
            }
        }
    }

    fn page_path(&self, continue_token: Option<&str>) -> String {
        let mut query = form_urlencoded::Serializer::new(format!("{}?limit={PAGE}", self.collection_path()));
        if let Some(token) = continue_token {
            query.append_pair("continue", token);
        }
        query.finish()
    }

    fn take_in_page(&mut self, intake: &mut Intake, items: &[&RawValue]) {
        let changes: Vec<_> = items.iter().filter_map(|item| self.take_in(intake, item.get())).collect();
        self.writer.apply(changes);
    }

    /// One object of a list: remembered as listed; a change only if it is not held as it is already.
    pub(super) fn take_in(&mut self, intake: &mut Intake, object: &str) -> Option<PreparedChange> {
        let parsed = match self.reader.read(object) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.keep_what_is_held(intake, object);
                self.leave_out(intake, error.to_string());
                return None;
            }
        };
        intake.taken += 1;
        if !self.scope.contains(&parsed.namespace) && self.served.namespaced {
            return None;
        }
        let key = EntryKey::new(&parsed.namespace, &parsed.name);
        if let Some(held) = intake.known.get(&key).filter(|held| is_same(held, parsed.resource_version)) {
            intake.listed.insert(held.clone());
            return None;
        }
        match self.writer.prepare(parsed) {
            Ok(entry) => {
                intake.listed.insert(entry.clone());
                Some(PreparedChange::Upsert(entry))
            }
            Err(error) => {
                self.leave_out(intake, error.to_string());
                None
            }
        }
    }

    /// An object that can't be read is not gone.
    fn keep_what_is_held(&self, intake: &mut Intake, object: &str) {
        if let Some((namespace, name)) = self.reader.read_name(object)
            && let Some(held) = intake.known.get(&EntryKey::new(&namespace, &name))
        {
            intake.listed.insert(held.clone());
        }
    }

    fn leave_out(&self, intake: &mut Intake, reason: String) {
        self.tell_left_out(&reason, intake.refused.is_none());
        Refused::add(&mut intake.refused, &reason);
    }

    /// What was not listed is gone. A list of which nothing could be taken says nothing of what is gone.
    pub(super) fn finish(&self, intake: &Intake, version: &str) -> Result<Arc<str>, Interruption> {
        if let Some(refused) = intake.refused.as_ref().filter(|_| intake.taken == 0) {
            return Err(Interruption::Unreadable(refused.reason.clone()));
        }
        let version: Arc<str> = Arc::from(version);
        self.writer.set_refused(intake.refused.clone());
        self.writer.finish_list(&intake.listed, Arc::clone(&version));
        info!(
            cluster = %self.key.cluster, resource = %self.key.resource, objects = intake.listed.len(),
            milliseconds = u64::try_from(intake.begun.elapsed().as_millis()).unwrap_or(u64::MAX), "listed"
        );
        Ok(version)
    }
}

fn is_same(held: &Entry, resource_version: u64) -> bool {
    resource_version != 0 && held.resource_version() == resource_version
}
