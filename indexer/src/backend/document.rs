//! One object as the document that is indexed.
//!
//! Metadata stands in fields of its own, typed as [`mapping.json`](super::layout) says. Labels, annotations and the rest of the
//! object are flat objects, so that no key of anybody's object becomes a field. The object itself stands beside them as it is,
//! for whoever wants it back; of a Secret, what may be seen.

pub(super) mod searchable;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json_borrow::{ObjectAsVec, Value};
use twox_hash::XxHash3_64;

use super::layout::FORM;
use super::summary::Summary;
use crate::query::document::{Document, Facts};
use crate::resource::ClusterName;
use searchable::{Cut, Searchable};

/// OpenSearch takes no longer ones.
const LONGEST_ID: usize = 512;
/// Longer values are cut in flat objects: Lucene takes terms of 32 KiB at most, the path included.
pub(super) const LONGEST_VALUE: usize = 1024;
/// Longer keys, and what is below more of them, are left out of flat objects.
const LONGEST_KEY: usize = 512;
const DEEPEST: usize = 24;
/// Longer labels can't be counted by.
const LONGEST_LABEL: usize = 512;

/// One cluster's objects of one resource, in whatever version: within it a document is known by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Collection {
    pub(super) cluster: ClusterName,
    /// API group, empty for the core group.
    pub(super) group: Arc<str>,
    /// Plural resource name.
    pub(super) resource: Arc<str>,
}

impl std::fmt::Display for Collection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cluster, group, resource } = self;
        if group.is_empty() {
            write!(formatter, "{resource} in {cluster}")
        } else {
            write!(formatter, "{resource}.{group} in {cluster}")
        }
    }
}

/// The document's id: the object's identity, readable unless it is longer than ids may be. No part of it can hold a `/`.
pub(super) fn id(collection: &Collection, namespace: &str, name: &str) -> Arc<str> {
    let Collection { cluster, group, resource } = collection;
    let whole = format!("{cluster}/{group}/{resource}/{namespace}/{name}");
    if whole.len() <= LONGEST_ID {
        return whole.into();
    }
    let hash = |seed| XxHash3_64::oneshot_with_seed(seed, whole.as_bytes());
    let mut end = LONGEST_ID - 40;
    while !whole.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}#{:016x}{:016x}", &whole[..end], hash(0), hash(1)).into()
}

/// Which state of an object a document has, in which form.
pub(super) fn state(fingerprint: u64) -> String {
    format!("{FORM}-{fingerprint:016x}")
}

/// Appends the document of an object, as one line of JSON without its end.
pub(super) fn write(facts: &Facts<'_>, state: &str, object: &[u8], line: &mut Vec<u8>) -> serde_json::Result<()> {
    let is_secret = facts.served.gvr.group.is_empty() && &*facts.served.gvr.resource == "secrets";
    // What is listed among Secrets and calls itself something else is not shown at all.
    let document = Document::read(object).filter(|document| !is_secret || calls_itself_secret(document));
    let Some(document) = document.as_ref() else {
        serde_json::to_writer(&mut *line, &Fields::without_document(facts, state))?;
        // What can't be read may be an object all the same, one that is too deep.
        if !is_secret && object.first() == Some(&b'{') {
            append_object(object, line);
        }
        return Ok(());
    };
    serde_json::to_writer(&mut *line, &Fields::new(facts, state, document))?;
    let seen: Cow<'_, [u8]> = if is_secret { document.to_json().into() } else { object.into() };
    append_object(&seen, line);
    Ok(())
}

/// Puts the object in as it is, in place of the closing brace.
fn append_object(object: &[u8], line: &mut Vec<u8>) {
    line.pop();
    line.extend_from_slice(b",\"object\":");
    let start = line.len();
    line.extend_from_slice(object);
    // Within JSON a line's end stands between values only.
    for byte in line[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
    line.push(b'}');
}

fn calls_itself_secret(document: &Document) -> bool {
    let is = |name: &str, text: &str| field(document.root(), name).and_then(Value::as_str) == Some(text);
    is("apiVersion", "v1") && is("kind", "Secret")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    cluster: &'a str,
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    name: &'a str,
    state: &'a str,
    #[serde(flatten)]
    content: Option<Content<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Content<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<Timestamp>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    owner: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    label: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Flat<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Flat<'a>>,
    #[serde(flatten)]
    summary: Summary<'a>,
    body: Body<'a>,
    /// In which form all this is.
    form: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    owner_keys: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    name_text: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    label_text: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    text: Vec<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    numbers: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    objects: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    dotted: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    cut: BTreeSet<Cut>,
}

impl<'a> Fields<'a> {
    fn without_document(facts: &Facts<'a>, state: &'a str) -> Self {
        let served = facts.served;
        Self {
            cluster: facts.cluster.as_str(),
            group: &served.gvr.group,
            version: &served.gvr.version,
            kind: &served.kind,
            resource: &served.gvr.resource,
            namespace: facts.namespace,
            name: facts.name,
            state,
            content: None,
        }
    }

    fn new(facts: &Facts<'a>, state: &'a str, document: &'a Document) -> Self {
        Self { content: Some(Content::new(facts, document)), ..Self::without_document(facts, state) }
    }
}

impl<'a> Content<'a> {
    fn new(facts: &Facts<'_>, document: &'a Document) -> Self {
        let root = document.root();
        let metadata = |name: &str| field(field(root, "metadata")?, name);
        let text = |name: &str| metadata(name)?.as_str();
        let object = |name: &str| metadata(name).filter(|value| value.is_object()).map(Flat::new);
        let searchable = Searchable::of(document, facts.labels);
        let labels = facts.labels.iter().map(|(key, value)| format!("{key}={value}"));
        Self {
            uid: document.uid(),
            resource_version: text("resourceVersion"),
            created: document.created(),
            changed: document.changed(),
            deleted: text("deletionTimestamp").and_then(|time| time.parse().ok()),
            owner: document.owners().into_iter().skip(1).step_by(3).collect(),
            label: labels.filter(|label| label.len() <= LONGEST_LABEL).collect(),
            labels: object("labels"),
            annotations: object("annotations"),
            summary: Summary::of(&facts.served.kind, document),
            body: Body(root),
            form: FORM.to_string(),
            owner_keys: document.owners(),
            name_text: searchable.names,
            label_text: searchable.labels,
            text: searchable.texts,
            numbers: searchable.numbers,
            objects: searchable.objects,
            dotted: searchable.dotted,
            cut: searchable.cut,
        }
    }
}

fn field<'a>(value: &'a Value<'a>, name: &str) -> Option<&'a Value<'a>> {
    value.as_object()?.get(name)
}

/// At most so many bytes of a text.
pub(super) fn beginning(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What of an object stands in no field of its own.
struct Body<'a>(&'a Value<'a>);

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.0.as_object().into_iter().flat_map(ObjectAsVec::iter);
        let mut body = serializer.serialize_map(None)?;
        for (key, value) in fields.filter(|(key, _)| !matches!(*key, "apiVersion" | "kind" | "metadata")) {
            if is_usable(key) {
                body.serialize_entry(key, &Flat { value, depth: 1 })?;
            }
        }
        body.end()
    }
}

/// A value in which nothing is longer or deeper than an index takes.
#[derive(Clone, Copy)]
struct Flat<'a> {
    value: &'a Value<'a>,
    depth: usize,
}

impl<'a> Flat<'a> {
    fn new(value: &'a Value<'a>) -> Self {
        Self { value, depth: 0 }
    }

    fn below(self, value: &'a Value<'a>) -> Self {
        Self { value, depth: self.depth + 1 }
    }
}

impl Serialize for Flat<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::Str(text) => serializer.serialize_str(beginning(text, LONGEST_VALUE)),
            Value::Array(elements) => {
                let mut sequence = serializer.serialize_seq(None)?;
                for element in elements.iter().filter(|_| self.depth < DEEPEST) {
                    sequence.serialize_element(&self.below(element))?;
                }
                sequence.end()
            }
            Value::Object(fields) => {
                let mut map = serializer.serialize_map(None)?;
                for (key, value) in fields.iter().filter(|(key, _)| self.depth < DEEPEST && is_usable(key)) {
                    map.serialize_entry(key, &self.below(value))?;
                }
                map.end()
            }
            // As queries read them; a flat object keeps texts alone.
            Value::Number(number) => serializer.collect_str(number),
            Value::Null | Value::Bool(_) => self.value.serialize(serializer),
        }
    }
}

pub(super) fn is_usable(key: &str) -> bool {
    !key.is_empty() && key.len() <= LONGEST_KEY
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::entry::LabelSet;
    use crate::resource::{ApiResource, GroupVersionResource};

    fn served(resource: &str, kind: &str) -> ApiResource {
        ApiResource {
            gvr: GroupVersionResource::new("", "v1", resource),
            kind: kind.into(),
            namespaced: true,
            watchable: true,
        }
    }

    fn document(served: &ApiResource, object: &str) -> Value {
        let labels = LabelSet::new(vec![("app".into(), "shop".into()), ("app.name".into(), "cart".into())]);
        let cluster = ClusterName::from("m1");
        let facts = Facts { cluster: &cluster, served, namespace: "shop", name: "a", labels: &labels };
        let mut line = Vec::new();
        write(&facts, &state(255), object.as_bytes(), &mut line).unwrap();
        assert!(!line.contains(&b'\n'));
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn an_object_is_kept_whole_beside_what_is_searched() {
        let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a", "uid": "u",
            "labels": { "app": "shop", "app.name": "cart" }, "creationTimestamp": "2026-01-02T03:04:05Z",
            "annotations": { "note": "hello world" } }, "data": { "long": "x".repeat(40_000), "": "unnamed" } });
        let text = serde_json::to_string_pretty(&object).unwrap();
        let document = document(&served("configmaps", "ConfigMap"), &text);
        assert_eq!(document["object"], object);
        assert_eq!(document["label"], json!(["app=shop", "app.name=cart"]));
        assert_eq!(document["labels"], object["metadata"]["labels"]);
        assert_eq!(document["state"], "2-00000000000000ff");
        assert_eq!(document["created"], "2026-01-02T03:04:05Z");
        assert_eq!(document["body"]["data"], json!({ "long": "x".repeat(1024) }));
        assert!(document["text"].as_array().unwrap().contains(&json!("hello world")));
        assert_eq!(document["nameText"], json!(["a"]));
        assert_eq!(document["cut"], json!(["body", "body data.long", "words"]));
        assert_eq!(document.get("healthy"), None);
    }

    #[test]
    fn nothing_that_a_secret_keeps_is_in_its_document() {
        let object = json!({ "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": { "k": "aGlkZGVu" },
            "metadata": { "name": "a", "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "{\"data\":{\"k\":\"aGlkZGVu\"}}" } } });
        let written = document(&served("secrets", "Secret"), &object.to_string());
        assert_eq!(written["object"]["type"], "Opaque");
        assert!(!written.to_string().contains("aGlkZGVu"), "{written}");
        let lying = object.to_string().replace("\"Secret\"", "\"ConfigMap\"");
        let written = document(&served("secrets", "Secret"), &lying);
        assert!(!written.to_string().contains("aGlkZGVu"), "{written}");
    }

    #[test]
    fn what_is_no_object_has_a_document_that_says_where_it_is() {
        let written = document(&served("configmaps", "ConfigMap"), "[]");
        assert_eq!(written["name"], "a");
        assert_eq!(written.get("object"), None);
    }

    #[test]
    fn ids_are_readable_bounded_and_never_the_same_for_two() {
        let collection = |cluster: &str, group: &str| Collection {
            cluster: cluster.into(),
            group: group.into(),
            resource: "pods".into(),
        };
        assert_eq!(&*id(&collection("m1", ""), "shop", "a"), "m1//pods/shop/a");
        let long = "x".repeat(253);
        let ids = [
            id(&collection("m1", &long), "shop", &long),
            id(&collection("m1", &long), "shop", &format!("{}y", &long[1..])),
        ];
        assert!(ids.iter().all(|id| id.len() <= LONGEST_ID) && ids[0] != ids[1]);
    }
}
