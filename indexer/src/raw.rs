//! Reading an object's bytes without building a tree: what the cache must know of it, and the bytes as they will be served.
//!
//! In: the JSON of one object as a member sent it. Out: a [`ParsedObject`], whose `bytes` are the member's own with three
//! things made sure: `apiVersion` and `kind` stand first if the member left them out (API servers do so for the items of
//! typed lists), and the one annotation that says which cluster the object came from is in `metadata.annotations`.
//! Everything else is untouched.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::resource::ClusterName;

/// The annotation that names the cluster an object was cached from; part of the `search.karmada.io/v1alpha1` contract.
pub const CACHED_FROM_CLUSTER: &str = "resource.karmada.io/cached-from-cluster";

/// Why an object cannot be taken into the cache.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Not JSON, or not an object with the fields every Kubernetes object has.
    #[error("not a Kubernetes object: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Without a name there is no identity.
    #[error("the object has no metadata.name")]
    NoName,
    /// Names are bounded by Kubernetes to 253 characters; far longer ones are not names.
    #[error("the object's namespace or name is longer than {limit} bytes")]
    NameTooLong {
        /// The bound, in bytes.
        limit: usize,
    },
    /// Names are printable; indexes put them side by side with control characters between them.
    #[error("the object's namespace or name has control characters in it")]
    NotPrintable,
    /// It is something else than what was asked for. Another version of the same is none: some servers mix them up.
    #[error("the object is of {found}, and not of {expected}")]
    OtherKind {
        /// What was asked for, as `apiVersion` and `kind`.
        expected: String,
        /// What came.
        found: String,
    },
    /// Larger than anything an API server stores: whatever sends it is sick.
    #[error("the object is larger than {limit} bytes")]
    TooLarge {
        /// The bound, in bytes.
        limit: usize,
    },
}

/// Longest namespace or name that is taken.
const NAME_LIMIT: usize = 4096;
/// Largest object that is taken: ten times what any API server stores.
const OBJECT_LIMIT: usize = 16 << 20;

/// What the cache needs to know of an object, and the bytes to keep.
#[derive(Debug)]
pub struct ParsedObject {
    /// `metadata.namespace`, empty for cluster-scoped objects.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.resourceVersion` as an integer; 0 where it is none.
    pub resource_version: u64,
    /// `metadata.labels`, in no particular order.
    pub labels: Vec<(String, String)>,
    /// The object as it will be served.
    pub bytes: Vec<u8>,
}

/// Prepares objects of one cluster and kind; made once, used for each object.
#[derive(Debug, Clone)]
pub struct ObjectReader {
    api_version: String,
    kind: String,
    annotation: String,
    cluster_value: String,
}

impl ObjectReader {
    /// A reader for the objects of `kind` in `api_version` that come from `cluster`.
    pub fn new(cluster: &ClusterName, api_version: &str, kind: &str) -> Self {
        let quote = |text: &str| serde_json::Value::from(text).to_string();
        let cluster_value = quote(cluster.as_str());
        Self {
            api_version: quote(api_version),
            kind: quote(kind),
            annotation: format!("{}:{cluster_value}", quote(CACHED_FROM_CLUSTER)),
            cluster_value,
        }
    }

    /// Reads one object.
    pub fn read(&self, object: &str) -> Result<ParsedObject, ObjectError> {
        if object.len() > OBJECT_LIMIT {
            return Err(ObjectError::TooLarge { limit: OBJECT_LIMIT });
        }
        let head: Head<'_> = serde_json::from_str(object)?;
        self.check_kind(&head)?;
        let metadata: Metadata<'_> = serde_json::from_str(head.metadata.get())?;
        let name = metadata.name.filter(|name| !name.is_empty()).ok_or(ObjectError::NoName)?;
        let namespace = metadata.namespace.unwrap_or_default();
        if name.len() > NAME_LIMIT || namespace.len() > NAME_LIMIT {
            return Err(ObjectError::NameTooLong { limit: NAME_LIMIT });
        }
        if name.chars().chain(namespace.chars()).any(char::is_control) {
            return Err(ObjectError::NotPrintable);
        }
        let bytes = self.splice(object, &head, metadata.annotations)?;
        Ok(ParsedObject {
            resource_version: metadata.resource_version.and_then(|version| version.parse().ok()).unwrap_or(0),
            labels: metadata.labels.map(|labels| labels.0).unwrap_or_default(),
            namespace: namespace.into_owned(),
            name: name.into_owned(),
            bytes,
        })
    }

    /// Namespace and name alone, of an object that can't be read whole.
    pub fn read_name(&self, object: &str) -> Option<(String, String)> {
        let named: Named<'_> = serde_json::from_str(object).ok()?;
        let name = named.metadata.name.filter(|name| !name.is_empty())?;
        Some((named.metadata.namespace.unwrap_or_default().into_owned(), name.into_owned()))
    }

    /// What says of itself what it is must be what was asked for; API servers leave it out in lists of what they know well.
    fn check_kind(&self, head: &Head<'_>) -> Result<(), ObjectError> {
        let is_as = |told: Option<&RawValue>, wanted: &str| told.is_none_or(|told| told.get() == wanted);
        if is_as(head.kind, &self.kind) && is_as(head.api_version, &self.api_version) {
            return Ok(());
        }
        let read = |told: &str| serde_json::from_str::<String>(told);
        let told = |told: Option<&RawValue>, wanted: &str| read(told.map_or(wanted, RawValue::get));
        let found = (told(head.api_version, &self.api_version)?, told(head.kind, &self.kind)?);
        let expected = (read(&self.api_version)?, read(&self.kind)?);
        let group = |api_version: &str| api_version.rsplit_once('/').map_or("", |(group, _)| group).to_owned();
        if found.1 == expected.1 && group(&found.0) == group(&expected.0) {
            return Ok(());
        }
        let name = |(api_version, kind): (String, String)| format!("{api_version} {kind}");
        Err(ObjectError::OtherKind { expected: name(expected), found: name(found) })
    }

    fn splice(&self, object: &str, head: &Head<'_>, annotations: Option<&RawValue>) -> Result<Vec<u8>, ObjectError> {
        let mut bytes = Vec::with_capacity(object.len() + self.annotation.len() + self.kind.len() + 64);
        let object_start = object.find('{').map_or(0, |brace| brace + 1);
        bytes.push(b'{');
        // In this order watches have them, so that an object has the same bytes wherever it comes from.
        if head.kind.is_none() {
            bytes.extend_from_slice(b"\"kind\":");
            bytes.extend_from_slice(self.kind.as_bytes());
            bytes.push(b',');
        }
        if head.api_version.is_none() {
            bytes.extend_from_slice(b"\"apiVersion\":");
            bytes.extend_from_slice(self.api_version.as_bytes());
            bytes.push(b',');
        }
        match annotations {
            Some(annotations) => {
                let at = offset_within(object, annotations.get());
                bytes.extend_from_slice(&object.as_bytes()[object_start..at]);
                self.push_annotations(&mut bytes, annotations.get())?;
                bytes.extend_from_slice(&object.as_bytes()[at + annotations.get().len()..]);
            }
            None => {
                let at = offset_within(object, head.metadata.get()) + 1;
                bytes.extend_from_slice(&object.as_bytes()[object_start..at]);
                bytes.extend_from_slice(b"\"annotations\":{");
                bytes.extend_from_slice(self.annotation.as_bytes());
                bytes.extend_from_slice(b"},");
                bytes.extend_from_slice(&object.as_bytes()[at..]);
            }
        }
        Ok(bytes)
    }

    fn push_annotations(&self, bytes: &mut Vec<u8>, annotations: &str) -> Result<(), ObjectError> {
        if annotations == "null" {
            bytes.push(b'{');
            bytes.extend_from_slice(self.annotation.as_bytes());
            bytes.push(b'}');
            return Ok(());
        }
        if annotations.contains(CACHED_FROM_CLUSTER) {
            return self.push_rewritten_annotations(bytes, annotations);
        }
        let rest = annotations[1..].trim_start();
        bytes.push(b'{');
        bytes.extend_from_slice(self.annotation.as_bytes());
        if !rest.starts_with('}') {
            bytes.push(b',');
        }
        bytes.extend_from_slice(rest.as_bytes());
        Ok(())
    }

    /// An object that already carries the annotation was applied from a cached copy. Two members of that name would be
    /// ambiguous JSON, so this rare case pays for a rewrite.
    fn push_rewritten_annotations(&self, bytes: &mut Vec<u8>, annotations: &str) -> Result<(), ObjectError> {
        let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(annotations)?;
        fields.insert(CACHED_FROM_CLUSTER.to_owned(), serde_json::from_str(&self.cluster_value)?);
        bytes.extend_from_slice(serde_json::to_string(&fields)?.as_bytes());
        Ok(())
    }
}

/// Where `part`, a slice of `whole`, begins in it.
fn offset_within(whole: &str, part: &str) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, rename = "apiVersion")]
    api_version: Option<&'a RawValue>,
    #[serde(borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    metadata: &'a RawValue,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    metadata: Name<'a>,
}

#[derive(Deserialize)]
struct Name<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    namespace: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    namespace: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "resourceVersion")]
    resource_version: Option<Cow<'a, str>>,
    labels: Option<Labels>,
    // A null must be told from an absent field: the one is replaced, the other inserted.
    #[serde(borrow, default, deserialize_with = "present")]
    annotations: Option<&'a RawValue>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

struct Labels(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LabelsVisitor;
        impl<'de> Visitor<'de> for LabelsVisitor {
            type Value = Labels;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a map of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut labels = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Option<String>>()? {
                    labels.push((key, value.unwrap_or_default()));
                }
                Ok(Labels(labels))
            }
        }
        deserializer.deserialize_map(LabelsVisitor)
    }
}

/// A list answer, its items left as raw JSON.
#[derive(Debug, Deserialize)]
pub struct RawList<'a> {
    /// Version, continue token and count of the list.
    #[serde(default)]
    pub metadata: ListMetadata,
    /// One raw JSON object each; absent or null means none.
    #[serde(borrow, default)]
    pub items: Option<Vec<&'a RawValue>>,
}

/// `metadata` of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMetadata {
    /// The collection's version that the list shows.
    #[serde(default)]
    pub resource_version: Option<String>,
    /// Where the next page begins; empty on the last.
    #[serde(default, rename = "continue")]
    pub continue_token: Option<String>,
}

/// One frame of a watch, its object left as raw JSON.
#[derive(Debug, Deserialize)]
pub struct RawEvent<'a> {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
    #[serde(borrow, rename = "type")]
    pub kind: Cow<'a, str>,
    /// The object, or a Status for `ERROR`.
    #[serde(borrow)]
    pub object: &'a RawValue,
}

/// What a `BOOKMARK` carries.
#[derive(Debug, Deserialize)]
pub struct Bookmark {
    /// Only the version and the annotations are set.
    pub metadata: BookmarkMetadata,
}

/// `metadata` of a `BOOKMARK`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BookmarkMetadata {
    /// The collection's version reached.
    pub resource_version: String,
    /// Carries `k8s.io/initial-events-end` once a streamed list is complete.
    #[serde(default)]
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
}

impl Bookmark {
    /// Whether this bookmark ends the initial part of a streamed list.
    pub fn ends_initial_events(&self) -> bool {
        self.metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get("k8s.io/initial-events-end"))
            .is_some_and(|value| value == "true")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn reader() -> ObjectReader {
        ObjectReader::new(&ClusterName::from("member1"), "apps/v1", "Deployment")
    }

    fn served(object: &str) -> Value {
        serde_json::from_slice(&reader().read(object).unwrap().bytes).unwrap()
    }

    #[test]
    fn an_object_gains_the_cluster_annotation_beside_its_own() {
        let object = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","annotations":{"a":"b"}},"spec":{"x":1}}"#;
        assert_eq!(
            served(object),
            json!({"apiVersion":"apps/v1","kind":"Deployment","spec":{"x":1},
                "metadata":{"name":"web","annotations":{"a":"b", CACHED_FROM_CLUSTER:"member1"}}})
        );
    }

    #[test]
    fn objects_without_annotations_gain_them_whether_absent_empty_or_null() {
        for annotations in ["", r#","annotations":{}"#, r#","annotations":null"#, r#","annotations":{ }"#] {
            let object = format!(r#"{{"metadata":{{"name":"web"{annotations}}}}}"#);
            assert_eq!(served(&object)["metadata"]["annotations"], json!({ CACHED_FROM_CLUSTER: "member1" }));
        }
    }

    #[test]
    fn list_items_gain_the_kind_that_api_servers_leave_out() {
        let served = served(r#"{"metadata":{"name":"web"}}"#);
        assert_eq!((served["apiVersion"].as_str(), served["kind"].as_str()), (Some("apps/v1"), Some("Deployment")));
    }

    #[test]
    fn what_says_that_it_is_something_else_is_refused_by_name() {
        let object = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web"}}"#;
        assert_eq!(
            reader().read(object).unwrap_err().to_string(),
            "the object is of v1 Pod, and not of apps/v1 Deployment"
        );
        let older = r#"{"kind":"Deployment","apiVersion":"apps/v1beta2","metadata":{"name":"web"}}"#;
        assert_eq!(reader().read(older).unwrap().name, "web", "some servers mix up the versions of a kind");
        assert_eq!(reader().read_name(object), Some((String::new(), "web".to_owned())));
        let escaped = r#"{"kind":"Deploym\u0065nt","apiVersion":"apps\/v1","metadata":{"name":"web"}}"#;
        assert_eq!(reader().read(escaped).unwrap().name, "web");
    }

    #[test]
    fn an_annotation_persisted_by_mistake_is_replaced_not_doubled() {
        let object =
            format!(r#"{{"metadata":{{"name":"web","annotations":{{"{CACHED_FROM_CLUSTER}":"old","k":"v"}}}}}}"#);
        let bytes = String::from_utf8(reader().read(&object).unwrap().bytes).unwrap();
        assert_eq!(bytes.matches(CACHED_FROM_CLUSTER).count(), 1);
        assert!(bytes.contains(r#""member1""#) && !bytes.contains("old") && bytes.contains(r#""k":"v""#));
    }

    #[test]
    fn names_labels_and_version_are_read_with_escapes_resolved() {
        let object = r#"{"metadata":{"name":"w\u0065b","namespace":"shop","resourceVersion":"42","labels":{"app":"w\"b","n":null}}}"#;
        let parsed = reader().read(object).unwrap();
        assert_eq!((parsed.name.as_str(), parsed.namespace.as_str(), parsed.resource_version), ("web", "shop", 42));
        assert_eq!(parsed.labels, [("app".to_owned(), "w\"b".to_owned()), ("n".to_owned(), String::new())]);
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for nonsense in
            ["", "[]", "{}", "null", "\"x\"", r#"{"metadata":7}"#, r#"{"metadata":{}}"#, r#"{"metadata":{"name":""}}"#]
        {
            assert!(reader().read(nonsense).is_err(), "{nonsense} was taken");
        }
    }

    proptest! {
        #[test]
        fn nothing_but_the_annotation_and_the_type_changes(
            keys in proptest::collection::btree_map("[a-z/.\"\\\\]{1,8}", "\\PC{0,8}", 0..4),
            spaced in any::<bool>(), cluster in "\\PC{1,8}",
        ) {
            let original = json!({"metadata": {"name": "n", "annotations": keys, "labels": keys}, "spec": {"list": [1, "]}"]}});
            let text = if spaced { serde_json::to_string_pretty(&original).unwrap() } else { original.to_string() };
            let reader = ObjectReader::new(&ClusterName::from(cluster.as_str()), "v1", "Thing");
            let mut expected = original;
            expected["apiVersion"] = json!("v1");
            expected["kind"] = json!("Thing");
            expected["metadata"]["annotations"][CACHED_FROM_CLUSTER] = json!(cluster);
            prop_assert_eq!(serde_json::from_slice::<Value>(&reader.read(&text).unwrap().bytes).unwrap(), expected);
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,64}") {
            let _ = reader().read(&text);
        }
    }
}
