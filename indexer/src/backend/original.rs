//! Objects once more, as karmada-search lays them out, for dashboards that were made for it.
//!
//! One index a kind, `kubernetes-KIND`, whatever group and version; the document's id is the object's UID; `spec` and `status` are
//! JSON within JSON. What is written here beside that are two fields of ours by which documents are found again: karmada-search
//! never deletes what went while it was down, and this does. Written before each batch of our own layout, from the same objects: that
//! is what a later comparison goes by. A batch counts as written when both are.

use std::collections::BTreeSet;

use bytes::Bytes;
use opensearch::http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::BackendError;
use super::bulk::{self, Lines, Outcome};
use super::client::{Client, Request};
use crate::query::document::{Document, Facts};

/// Begins the names of karmada-search's indices.
const PREFIX: &str = "kubernetes-";

/// What of a batch goes into karmada-search's layout.
#[derive(Default)]
pub(super) struct OriginalBatch {
    lines: Option<Lines>,
    actions: usize,
    kinds: BTreeSet<String>,
    deleted: Vec<Value>,
}

/// Which of karmada-search's indices are known to be there.
#[derive(Debug, Default)]
pub(super) struct OriginalIndices(Mutex<BTreeSet<String>>);

/// The index of a kind.
fn index_of(kind: &str) -> String {
    format!("{PREFIX}{}", kind.to_lowercase())
}

impl OriginalBatch {
    /// Adds an object; what has no UID has no place there. Where the id may have been another object's before, that one goes.
    pub(super) fn index(
        &mut self,
        (id, version): (&str, u64),
        may_replace: bool,
        facts: &Facts<'_>,
        object: &[u8],
    ) -> Result<(), BackendError> {
        let Some(document) = Document::read(object) else { return Ok(()) };
        let Some(uid) = document.uid().filter(|uid| !uid.is_empty()) else { return Ok(()) };
        if may_replace {
            let (same, itself) = (json!({ "term": { "fleetglassId": id } }), json!({ "ids": { "values": [uid] } }));
            self.deleted.push(json!({ "bool": { "filter": [same], "must_not": [itself] } }));
        }
        let index = index_of(&facts.served.kind);
        let version = i64::try_from(version).unwrap_or(i64::MAX);
        let head = json!({ "index": { "_index": index, "_id": uid, "require_alias": false, "version": version,
            "version_type": "external_gte" } });
        let line = document_of(&document, id, version);
        let lines = self.lines.get_or_insert_with(Lines::new);
        lines.add(head.to_string().as_bytes())?;
        lines.add(line.to_string().as_bytes())?;
        self.actions += 1;
        self.kinds.insert(index);
        Ok(())
    }

    /// Adds an object that has gone.
    pub(super) fn delete(&mut self, id: &str, version: u64) {
        let same = json!({ "term": { "fleetglassId": id } });
        let earlier =
            json!({ "range": { "fleetglassVersion": { "lte": i64::try_from(version).unwrap_or(i64::MAX) } } });
        self.deleted.push(json!({ "bool": { "filter": [same, earlier] } }));
    }

    /// Writes it.
    pub(super) async fn send(self, client: &Client, indices: &OriginalIndices) -> Result<(), BackendError> {
        if let Some(lines) = self.lines {
            match indices.prepare(client, &self.kinds).await {
                // It is the same for every batch, and our own documents don't wait for it.
                Err(error) if error.status() == Some(400) => {
                    tracing::warn!(%error, "an index in karmada-search's layout can't be made");
                }
                Err(error) => return Err(error),
                Ok(()) => {
                    write(client, lines.finish()?, self.actions).await.inspect_err(|_| indices.forget())?;
                }
            }
        }
        delete(client, self.deleted).await
    }
}

async fn write(client: &Client, body: Bytes, actions: usize) -> Result<(), BackendError> {
    // Every action names its index.
    let (mut refused, mut why) = (0, String::new());
    for outcome in bulk::send_to(client, "_bulk", body, actions).await? {
        match outcome {
            // Of clusters that were cloned, objects have the same UID: there is room for one of them, as there was.
            Outcome::Done | Outcome::Conflict(_) => {}
            Outcome::Rejected(reason) => (refused, why) = (refused + 1, reason),
            Outcome::Again { reason, .. } => return Err(BackendError::Unsuitable(reason)),
        }
    }
    if refused > 0 {
        tracing::warn!(documents = refused, reason = why, "indices in karmada-search's layout refuse documents");
    }
    Ok(())
}

/// Clauses of one request: OpenSearch takes 1,024.
const AT_ONCE: usize = 300;

async fn delete(client: &Client, deleted: Vec<Value>) -> Result<(), BackendError> {
    if deleted.is_empty() {
        return Ok(());
    }
    let existing = [("ignore_unavailable", "true"), ("allow_no_indices", "true")];
    // Documents are found by queries only after a refresh.
    client.ask::<Value>(Request::new(Method::Post, &format!("{PREFIX}*/_refresh")).with(&existing)).await?;
    for some in deleted.chunks(AT_ONCE) {
        let path = format!("{PREFIX}*/_delete_by_query");
        let parameters = [("conflicts", "proceed"), existing[0], existing[1]];
        let body = json!({ "query": { "bool": { "should": some, "minimum_should_match": 1 } } });
        client.ask::<Value>(Request::new(Method::Post, &path).with(&parameters).json(&body)).await?;
    }
    Ok(())
}

impl OriginalIndices {
    async fn prepare(&self, client: &Client, indices: &BTreeSet<String>) -> Result<(), BackendError> {
        let unknown: Vec<String> = {
            let known = self.0.lock();
            indices.difference(&known).cloned().collect()
        };
        for index in unknown {
            create(client, &index).await?;
            self.0.lock().insert(index);
        }
        Ok(())
    }

    /// Somebody may have deleted one.
    fn forget(&self) {
        self.0.lock().clear();
    }
}

/// Fields of ours, by which documents are found again.
fn own_fields() -> Value {
    json!({ "fleetglassId": { "type": "keyword" }, "fleetglassVersion": { "type": "long" } })
}

async fn create(client: &Client, index: &str) -> Result<(), BackendError> {
    let text = json!({ "type": "text" });
    let named = json!({ "type": "text", "fields": { "keyword": { "type": "keyword", "ignore_above": 256 } } });
    let closed = json!({ "type": "object", "enabled": false });
    let metadata = json!({
        "annotations": closed, "creationTimestamp": text, "deletionTimestamp": text, "labels": closed, "name": named,
        "namespace": named, "ownerReferences": text, "resourceVersion": named,
    });
    let mut properties = json!({
        "apiVersion": text, "kind": text, "metadata": { "properties": metadata }, "spec": closed, "status": closed,
    });
    if let (Some(properties), Value::Object(own)) = (properties.as_object_mut(), own_fields()) {
        properties.extend(own);
    }
    let body = json!({
        "settings": { "index": { "number_of_shards": 1, "number_of_replicas": 0 } },
        "mappings": { "properties": properties },
    });
    match client.ask::<Value>(Request::new(Method::Put, index).json(&body)).await {
        Err(BackendError::Refused { status: 400, reason, .. })
            if reason.contains("resource_already_exists_exception") =>
        {
            // One that karmada-search made lacks our fields.
            let path = format!("{index}/_mapping");
            let body = json!({ "properties": own_fields() });
            client.ask::<Value>(Request::new(Method::Put, &path).json(&body)).await.map(drop)
        }
        other => other.map(drop),
    }
}

/// An object as karmada-search writes it.
fn document_of(document: &Document, id: &str, version: i64) -> Value {
    let at = |path: &[&str]| {
        let value = path.iter().try_fold(document.root(), |value, step| value.as_object()?.get(step));
        value.map_or(Value::Null, Value::from)
    };
    let text = |name: &str| Value::String(at(&[name]).to_string());
    json!({
        "apiVersion": at(&["apiVersion"]),
        "kind": at(&["kind"]),
        "metadata": {
            "name": at(&["metadata", "name"]),
            "namespace": at(&["metadata", "namespace"]).as_str().unwrap_or_default(),
            "creationTimestamp": at(&["metadata", "creationTimestamp"]),
            "labels": at(&["metadata", "labels"]),
            "annotations": at(&["metadata", "annotations"]),
            "deletionTimestamp": at(&["metadata", "deletionTimestamp"]),
        },
        "spec": text("spec"),
        "status": text("status"),
        "fleetglassId": id,
        "fleetglassVersion": version,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_the_fields_that_dashboards_of_the_original_know() {
        let object = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a", "namespace": "shop", "uid": "u",
            "creationTimestamp": "2026-01-02T03:04:05Z", "labels": { "app": "x" } }, "spec": { "nodeName": "n" } });
        let document = Document::read(object.to_string().as_bytes()).unwrap();
        assert_eq!(
            document_of(&document, "m1//pods/shop/a", 7),
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": "a", "namespace": "shop", "creationTimestamp": "2026-01-02T03:04:05Z",
                    "labels": { "app": "x" }, "annotations": null, "deletionTimestamp": null },
                "spec": "{\"nodeName\":\"n\"}", "status": "null",
                "fleetglassId": "m1//pods/shop/a", "fleetglassVersion": 7,
            })
        );
        assert_eq!(index_of("ReplicaSet"), "kubernetes-replicaset");
    }
}
