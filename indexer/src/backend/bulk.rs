//! A batch of items as the body of one bulk request, and what its answer says of each.
//!
//! In: items from the queue. What is written is looked up in the cache at this moment: an object that is there is indexed under
//! its own version, one that is known to be gone is deleted under the version of its deletion. An equal version is accepted, so
//! that a repeat changes nothing.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use opensearch::http::Method;
use serde::Deserialize;
use serde_json::json;

use super::BackendError;
use super::assignment::Assignment;
use super::client::{Client, ErrorCause, Request};
use super::document::{self, Collection};
use super::original::OriginalBatch;
use super::queue::Item;
use crate::cache::{Cache, Part, ResourceCache};
use crate::entry::{Entry, EntryKey};
use crate::query::document::Facts;

/// What is done with an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The object is written.
    Index,
    /// The document is deleted.
    Delete,
}

/// A body to be sent.
pub(super) struct Batch {
    /// Lines, compressed.
    pub(super) body: Bytes,
    /// What each action of the body is about, in its order.
    pub(super) actions: Vec<(Item, Action)>,
    /// Items that have nothing to be written: neither is the object there nor is it known to have gone.
    pub(super) nothing: Vec<Item>,
    /// Items whose objects can't be put into a document, and why.
    pub(super) broken: Vec<(Item, String)>,
    /// Items for which there was no room.
    pub(super) rest: Vec<Item>,
    /// Bytes of lines before they were compressed.
    pub(super) bytes: usize,
    /// The same objects in karmada-search's layout, if they are wanted there too.
    pub(super) original: Option<OriginalBatch>,
}

/// What the answer says of an action.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Done, or there was nothing to be deleted.
    Done,
    /// The backend has something of a later version, which is this one where it says so.
    Conflict(Option<u64>),
    /// It could not be done now; where the backend was busy, whatever it was.
    Again { reason: String, is_busy: bool },
    /// It will never be done so.
    Rejected(String),
}

/// Where objects are looked up.
pub(super) struct Sources {
    pub(super) cache: Arc<Cache>,
    pub(super) assignment: Arc<Assignment>,
    /// How far a collection's versions have to be raised, for collections that went back to earlier ones.
    pub(super) raised: HashMap<Arc<Collection>, u64>,
}

type Opened = Option<(Arc<ResourceCache>, Arc<Part>)>;

impl Sources {
    fn open(&self, collection: &Collection) -> Opened {
        let share = self.assignment.collections.get(collection)?;
        let cache = self.cache.get(&share.resource)?;
        let part = cache.part(&collection.cluster)?;
        Some((cache, part))
    }

    /// The object as it is now, if it is wanted.
    fn entry<'a>(&self, opened: &'a Opened, item: &Item) -> Option<(&'a Arc<ResourceCache>, &'a Part, &'a Entry)> {
        let (cache, part) = opened.as_ref()?;
        if !self.assignment.wants(&item.collection, &item.namespace) {
            return None;
        }
        Some((cache, part, part.objects.get(&EntryKey::new(&item.namespace, &item.name))?))
    }

    /// Whether the collection is known as it is in its cluster.
    pub(super) fn is_in_touch(&self, collection: &Collection) -> bool {
        match self.open(collection) {
            Some((_, part)) => is_in_touch(&part),
            // Nothing is wanted of it; nothing more has to be known.
            None => !self.assignment.collections.contains_key(collection),
        }
    }

    /// State and version of the object as it is now.
    pub(super) fn present(&self, item: &Item) -> Option<(String, u64)> {
        let opened = self.open(&item.collection);
        let (_, _, entry) = self.entry(&opened, item)?;
        Some((self.assignment.state_of(entry.version().fingerprint), entry.resource_version()))
    }

    /// The document of an object as it would be written now.
    pub(super) fn document(&self, item: &Item) -> Option<Vec<u8>> {
        let opened = self.open(&item.collection);
        let (cache, part, entry) = self.entry(&opened, item)?;
        let mut lines = Lines::new();
        let state = self.assignment.state_of(entry.version().fingerprint);
        lines.document(&facts(item, part, entry), &state, cache, entry).ok()?;
        Some(lines.line)
    }

    /// Puts together a body of about `most` bytes. Takes its time: not for a thread that others wait for.
    pub(super) fn batch(&self, items: Vec<Item>, most: usize) -> Result<Batch, BackendError> {
        let mut lines = Lines::new();
        let mut batch = Batch {
            body: Bytes::new(),
            actions: Vec::new(),
            nothing: Vec::new(),
            broken: Vec::new(),
            rest: Vec::new(),
            bytes: 0,
            original: self.assignment.in_original_layout.then(OriginalBatch::default),
        };
        let mut opened: HashMap<Arc<Collection>, Opened> = HashMap::new();
        let mut items = items.into_iter();
        while lines.bytes < most
            && let Some(item) = items.next()
        {
            let collection = opened.entry(Arc::clone(&item.collection)).or_insert_with(|| self.open(&item.collection));
            // Without its cluster's part nobody knows what of an assigned collection has gone.
            let is_known = collection.is_some() || !self.assignment.collections.contains_key(&item.collection);
            let is_ours = self.assignment.shards.is_ours(&item.collection.cluster);
            match (self.entry(collection, &item), item.deleted.filter(|_| is_known && is_ours)) {
                (Some((cache, part, entry)), _) => {
                    let raised = self.raised.get(&item.collection).copied().unwrap_or_default();
                    let version = entry.resource_version().saturating_add(raised).max(item.at_least);
                    let (facts, state) =
                        (facts(&item, part, entry), self.assignment.state_of(entry.version().fingerprint));
                    match lines.index((&item.id, version), &facts, &state, cache, entry) {
                        Ok(()) => {
                            if let Some(original) = &mut batch.original {
                                let may_replace = item.replaces || item.deleted.is_some();
                                original.index((&item.id, version), may_replace, &facts, &lines.object)?;
                            }
                            batch.actions.push((item, Action::Index));
                        }
                        Err(error) => batch.broken.push((item, error.to_string())),
                    }
                }
                (None, Some(version)) => {
                    let version = version.max(item.at_least);
                    lines.delete(&item.id, version)?;
                    if let Some(original) = &mut batch.original {
                        original.delete(&item.id, version);
                    }
                    batch.actions.push((item, Action::Delete));
                }
                (None, None) => batch.nothing.push(item),
            }
        }
        batch.rest = items.collect();
        batch.bytes = lines.bytes;
        batch.body = lines.finish()?;
        Ok(batch)
    }
}

/// Whether a part has all that its cluster has at this moment: read whole, and followed without a failure since.
pub(super) fn is_in_touch(part: &Part) -> bool {
    part.sync.synced && part.sync.failure.is_none() && part.version.is_some()
}

fn facts<'a>(item: &'a Item, part: &'a Part, entry: &'a Entry) -> Facts<'a> {
    Facts {
        cluster: &item.collection.cluster,
        served: &part.served,
        namespace: &item.namespace,
        name: &item.name,
        labels: entry.labels(),
    }
}

/// Lines as a body.
pub(super) fn zipped(lines: &[u8]) -> Result<Bytes, BackendError> {
    let mut body = Lines::new();
    body.line.extend_from_slice(lines);
    body.end_line()?;
    body.finish()
}

/// The body being written.
pub(super) struct Lines {
    out: GzEncoder<Vec<u8>>,
    bytes: usize,
    line: Vec<u8>,
    object: Vec<u8>,
}

impl Lines {
    pub(super) fn new() -> Self {
        // Every further level costs more of our time than it saves of the network's.
        let out = GzEncoder::new(Vec::new(), Compression::fast());
        Self { out, bytes: 0, line: Vec::new(), object: Vec::new() }
    }

    /// The object under an id and a version.
    fn index(
        &mut self,
        (id, version): (&str, u64),
        facts: &Facts<'_>,
        state: &str,
        cache: &ResourceCache,
        entry: &Entry,
    ) -> Result<(), BackendError> {
        self.line.clear();
        push_action(&mut self.line, "index", id, version);
        self.document(facts, state, cache, entry)?;
        self.line.push(b'\n');
        self.end_line()
    }

    fn document(
        &mut self,
        facts: &Facts<'_>,
        state: &str,
        cache: &ResourceCache,
        entry: &Entry,
    ) -> Result<(), BackendError> {
        self.object.clear();
        cache.codec().decoder().append(entry.frame(), &mut self.object)?;
        document::write(facts, state, &self.object, &mut self.line).map_err(unwritable)
    }

    fn delete(&mut self, id: &str, version: u64) -> Result<(), BackendError> {
        self.line.clear();
        push_action(&mut self.line, "delete", id, version);
        self.end_line()
    }

    /// Adds a line as it is.
    pub(super) fn add(&mut self, line: &[u8]) -> Result<(), BackendError> {
        self.line.clear();
        self.line.extend_from_slice(line);
        self.line.push(b'\n');
        self.end_line()
    }

    fn end_line(&mut self) -> Result<(), BackendError> {
        self.bytes += self.line.len();
        self.out.write_all(&self.line).map_err(unwritable)
    }

    pub(super) fn finish(self) -> Result<Bytes, BackendError> {
        Ok(self.out.finish().map_err(unwritable)?.into())
    }
}

/// Writing to memory doesn't fail; if it ever did, the task has ended without its work done.
fn unwritable(error: impl std::fmt::Display) -> BackendError {
    BackendError::Task(error.to_string())
}

fn push_action(line: &mut Vec<u8>, action: &str, id: &str, version: u64) {
    // OpenSearch's versions are signed.
    let version = i64::try_from(version).unwrap_or(i64::MAX);
    let head = json!({ action: { "_id": id, "version": version, "version_type": "external_gte" } });
    line.extend_from_slice(head.to_string().as_bytes());
    line.push(b'\n');
}

#[derive(Deserialize)]
struct Answer {
    items: Vec<AnsweredItem>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum AnsweredItem {
    Index(Answered),
    Delete(Answered),
}

#[derive(Deserialize)]
struct Answered {
    status: u16,
    error: Option<ErrorCause>,
}

/// Sends a batch; what came of each action, in their order.
pub(super) async fn send(
    client: &Client,
    alias: &str,
    body: Bytes,
    actions: usize,
) -> Result<Vec<Outcome>, BackendError> {
    send_to(client, &format!("{alias}/_bulk"), body, actions).await
}

/// Sends a batch to a path.
pub(super) async fn send_to(
    client: &Client,
    path: &str,
    body: Bytes,
    actions: usize,
) -> Result<Vec<Outcome>, BackendError> {
    // Without the alias nothing is written: an index that a write made by itself would have no mapping.
    // An index that is red says so before we take it for an answer that doesn't come.
    let parameters = [("require_alias", "true"), ("timeout", "30s"), ("filter_path", "items.*.status,items.*.error")];
    let request = Request::new(Method::Post, path).with(&parameters).zipped_lines(body);
    let answer: Answer = client.ask(request).await?;
    if answer.items.len() != actions {
        return Err(BackendError::Unsuitable(format!(
            "the answer to a bulk request of {actions} actions speaks of {}",
            answer.items.len()
        )));
    }
    Ok(answer.items.into_iter().map(AnsweredItem::outcome).collect())
}

impl AnsweredItem {
    fn outcome(self) -> Outcome {
        let (is_delete, Answered { status, error }) = match self {
            Self::Index(answered) => (false, answered),
            Self::Delete(answered) => (true, answered),
        };
        let text = || error.as_ref().map_or_else(|| format!("status {status}"), ErrorCause::text);
        let is_missing_index = error.as_ref().is_some_and(|error| error.kind == "index_not_found_exception");
        let is_about_document = error.as_ref().is_some_and(ErrorCause::is_about_document);
        match status {
            200..300 => Outcome::Done,
            404 if is_delete && !is_missing_index => Outcome::Done,
            409 => Outcome::Conflict(error.and_then(|error| current_version(error.reason.as_deref()?))),
            400..500 if is_about_document => Outcome::Rejected(text()),
            // Busy, starting, closed, without the shard or the index: none of it is the document's fault.
            _ => Outcome::Again { reason: text(), is_busy: matches!(status, 429 | 502..=504) },
        }
    }
}

/// The version that a conflict names: "version conflict, current version \[8\] is higher than the one provided \[5\]".
fn current_version(reason: &str) -> Option<u64> {
    let (_, behind) = reason.split_once("current version [")?;
    behind.split_once(']')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(item: &str) -> Outcome {
        serde_json::from_str::<AnsweredItem>(item).unwrap().outcome()
    }

    #[test]
    fn each_answer_to_an_action_is_understood() {
        assert_eq!(outcome(r#"{"index":{"status":201}}"#), Outcome::Done);
        assert_eq!(outcome(r#"{"delete":{"status":404}}"#), Outcome::Done);
        let conflict = r#"{"index":{"status":409,"error":{"type":"version_conflict_engine_exception",
            "reason":"[2]: version conflict, current version [9] is higher than the one provided [7]"}}}"#;
        assert_eq!(outcome(conflict), Outcome::Conflict(Some(9)));
        let busy = r#"{"index":{"status":429,"error":{"type":"rejected_execution_exception","reason":"queue"}}}"#;
        assert!(matches!(outcome(busy), Outcome::Again { reason, is_busy: true } if reason.contains("queue")));
        let gone = r#"{"delete":{"status":404,"error":{"type":"index_not_found_exception","reason":"no such index"}}}"#;
        assert!(matches!(outcome(gone), Outcome::Again { is_busy: false, .. }));
        let closed = r#"{"index":{"status":400,"error":{"type":"index_closed_exception","reason":"closed"}}}"#;
        assert!(matches!(outcome(closed), Outcome::Again { is_busy: false, .. }));
        let nowhere = r#"{"index":{"status":400,"error":{"type":"illegal_argument_exception",
            "reason":"no write index is defined for alias [fleetglass-objects]"}}}"#;
        assert!(matches!(outcome(nowhere), Outcome::Again { is_busy: false, .. }));
        let bad = r#"{"index":{"status":400,"error":{"type":"mapper_parsing_exception","reason":"failed to parse",
            "caused_by":{"type":"illegal_argument_exception","reason":"immense term"}}}}"#;
        assert!(matches!(outcome(bad), Outcome::Rejected(reason) if reason.contains("immense term")));
    }
}
