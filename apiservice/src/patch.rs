//! Patches: how the three kinds that name changes turn one document into another. (An apply patch names a state, see
//! [`crate::managed_fields`].)

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::Value;

use crate::error::ApiError;

/// A patch, by its media type.
#[derive(Debug, Clone, PartialEq)]
pub enum Patch {
    /// `application/json-patch+json`
    Json(json_patch::Patch),
    /// `application/merge-patch+json`
    Merge(Value),
    /// `application/strategic-merge-patch+json`
    Strategic(Value),
    /// `application/apply-patch+yaml`
    Apply(Value),
}

const KINDS: &str = "application/json-patch+json, application/merge-patch+json, \
                     application/strategic-merge-patch+json, application/apply-patch+yaml";

impl Patch {
    /// Reads a patch from a request's body.
    ///
    /// # Errors
    /// 415 for a media type that is no patch, 400 for a body that cannot be read.
    pub fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, ApiError> {
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let unreadable =
            |error: &dyn std::fmt::Display| ApiError::bad_request(format!("the patch cannot be read: {error}"));
        let json = || serde_json::from_slice(body).map_err(|error| unreadable(&error));
        match media_type {
            "application/json-patch+json" => {
                serde_json::from_slice(body).map(Self::Json).map_err(|error| unreadable(&error))
            }
            "application/merge-patch+json" => json().and_then(object).map(Self::Merge),
            "application/strategic-merge-patch+json" => json().and_then(object).map(Self::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+json" => {
                let value = serde_yaml::from_slice(body).map_err(|error| unreadable(&error))?;
                object(value).map(Self::Apply)
            }
            other => Err(ApiError::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: {KINDS}; found {other:?}"
            ))),
        }
    }

    /// Whether the patch itself demands a version of the object, so that a conflict is the caller's to solve.
    pub fn names_version(&self) -> bool {
        match self {
            Self::Merge(value) | Self::Strategic(value) => !value["metadata"]["resourceVersion"].is_null(),
            Self::Json(patch) => patch.iter().any(|operation| *operation.path() == "/metadata/resourceVersion"),
            Self::Apply(_) => false,
        }
    }

    /// The document after the patch.
    ///
    /// # Errors
    /// 422 for a JSON patch that does not fit the document, 400 for a directive that has no meaning here.
    pub fn apply(&self, document: &Value) -> Result<Value, ApiError> {
        let mut patched = document.clone();
        match self {
            Self::Json(patch) => json_patch::patch(&mut patched, patch)
                .map_err(|error| ApiError::bad_request(format!("the JSON patch does not fit the object: {error}")))?,
            Self::Merge(patch) => json_patch::merge(&mut patched, patch),
            Self::Strategic(patch) => strategic(&mut patched, patch, "")?,
            Self::Apply(_) => return Err(ApiError::internal("an apply patch has no changes of its own")),
        }
        Ok(patched)
    }
}

fn object(value: Value) -> Result<Value, ApiError> {
    if value.is_object() { Ok(value) } else { Err(ApiError::bad_request("the patch is not an object")) }
}

/// A merge by this type's rules: lists are replaced whole, conditions are merged by their type.
fn strategic(document: &mut Value, patch: &Value, path: &str) -> Result<(), ApiError> {
    let Value::Object(changes) = patch else {
        *document = patch.clone();
        return Ok(());
    };
    match changes.get("$patch").and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("replace") => *document = Value::Null,
        Some("delete") => {
            *document = Value::Null;
            return Ok(());
        }
        Some(other) => return Err(ApiError::bad_request(format!("unknown $patch directive {other:?}"))),
    }
    if !document.is_object() {
        *document = Value::Object(serde_json::Map::new());
    }
    for (name, change) in changes.iter().filter(|(name, _)| !name.starts_with('$')) {
        let path = format!("{path}/{name}");
        match (change, document.as_object_mut()) {
            (Value::Null, Some(fields)) => drop(fields.remove(name)),
            (Value::Array(conditions), Some(_)) if path == "/status/conditions" => {
                merge_conditions(&mut document[name.as_str()], conditions);
            }
            (change, Some(_)) => strategic(&mut document[name.as_str()], change, &path)?,
            (_, None) => {}
        }
    }
    Ok(())
}

fn merge_conditions(present: &mut Value, changes: &[Value]) {
    if !present.is_array() {
        *present = Value::Array(Vec::new());
    }
    let Value::Array(present) = present else { return };
    for change in changes {
        let at = present.iter().position(|condition| condition["type"] == change["type"]);
        match (at, change["$patch"] == "delete") {
            (Some(at), true) => drop(present.remove(at)),
            (None, true) => {}
            (Some(at), false) => json_patch::merge(&mut present[at], change),
            (None, false) => present.push(change.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(media_type: &str, body: &Value) -> Result<Patch, ApiError> {
        let mut headers = HeaderMap::new();
        headers.extend(http::HeaderValue::from_str(media_type).map(|value| (CONTENT_TYPE, value)));
        Patch::read(&headers, body.to_string().as_bytes())
    }

    fn patched(media_type: &str, body: &Value) -> Value {
        let document = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"list": [1, 2]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "True"}]}});
        read(media_type, body).unwrap().apply(&document).unwrap()
    }

    #[test]
    fn the_three_kinds_change_what_they_name() {
        let json_patch = json!([{"op": "add", "path": "/metadata/labels/b", "value": "2"}]);
        assert_eq!(
            patched("application/json-patch+json", &json_patch)["metadata"]["labels"],
            json!({"a": "1", "b": "2"})
        );
        let merge = json!({"metadata": {"labels": {"a": null}}, "spec": {"list": [3]}});
        for media_type in ["application/merge-patch+json", "application/strategic-merge-patch+json"] {
            let result = patched(media_type, &merge);
            assert_eq!((&result["metadata"]["labels"], &result["spec"]["list"]), (&json!({}), &json!([3])));
        }
    }

    #[test]
    fn conditions_are_merged_by_type() {
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Other", "$patch": "delete"}]}});
        let result = patched("application/strategic-merge-patch+json", &patch);
        assert_eq!(result["status"]["conditions"], json!([{"type": "Ready", "status": "False"}]));
    }

    #[test]
    fn what_is_no_patch_is_refused() {
        assert_eq!(read("application/json", &json!({})).unwrap_err().code(), 415);
        assert_eq!(read("application/merge-patch+json", &json!([1])).unwrap_err().code(), 400);
        assert_eq!(read("application/json-patch+json", &json!({"op": "add"})).unwrap_err().code(), 400);
        let missing = read("application/json-patch+json", &json!([{"op": "remove", "path": "/no"}])).unwrap();
        assert_eq!(missing.apply(&json!({})).unwrap_err().code(), 400);
    }

    #[test]
    fn a_patch_that_demands_a_version_says_so() {
        let patch = json!({"metadata": {"resourceVersion": "7"}});
        assert!(read("application/merge-patch+json", &patch).unwrap().names_version());
        let patch = json!([{"op": "test", "path": "/metadata/resourceVersion", "value": "7"}]);
        assert!(read("application/json-patch+json", &patch).unwrap().names_version());
        assert!(!read("application/merge-patch+json", &json!({})).unwrap().names_version());
    }
}
