//! The schema documents that `kubectl explain`, `kubectl apply` and the control plane's aggregation read.
//!
//! In: `openapi/schemas.yaml`. Out: `/openapi/v2` and `/openapi/v3`, each with a tag that changes with its content.
//! The two versions differ in where things stand and in how one schema refers to another; both are written from the
//! same description of operations in `paths`.

mod paths;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::discovery::{has_tag, hash};
use crate::encode::{choose_accept, joined_accept};
use crate::error::ApiError;
use crate::{GROUP, GROUP_VERSION, VERSION};

const SCHEMAS: &str = include_str!("openapi/schemas.yaml");

/// The two forms of OpenAPI that Kubernetes clients know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    V2,
    V3,
}

impl Form {
    /// What stands before a schema's name in a reference.
    fn prefix(self) -> &'static str {
        match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        }
    }

    /// A reference to a schema.
    fn reference(self, name: &str) -> Value {
        json!({ "$ref": format!("{}{name}", self.prefix()) })
    }
}

/// The schema documents, written once.
#[derive(Debug)]
pub(crate) struct OpenApi {
    v2: Document,
    v3_index: Document,
    v3: Document,
}

#[derive(Debug)]
struct Document {
    body: String,
    tag: HeaderValue,
}

impl Document {
    fn new(content: &Value) -> Self {
        let body = content.to_string();
        let tag = HeaderValue::try_from(format!("\"{}\"", hash(body.as_bytes())));
        Self { tag: tag.unwrap_or(HeaderValue::from_static("\"\"")), body }
    }

    fn hash(&self) -> &str {
        self.tag.to_str().unwrap_or_default().trim_matches('"')
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let described = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (header::ETAG, self.tag.clone()),
            (header::VARY, HeaderValue::from_static("Accept")),
        ];
        if has_tag(headers, &self.tag) {
            return (StatusCode::NOT_MODIFIED, described).into_response();
        }
        (described, self.body.clone()).into_response()
    }
}

impl OpenApi {
    pub(crate) fn new() -> Self {
        let schemas = serde_yaml::from_str::<Map<String, Value>>(SCHEMAS).unwrap_or_else(|error| {
            // A test reads the embedded file, so this is never seen; without schemas all else still works.
            tracing::error!(%error, "the embedded schemas cannot be read");
            Map::new()
        });
        let v3 = Document::new(&document(Form::V3, &schemas));
        let location = format!("/openapi/v3/apis/{GROUP_VERSION}?hash={}", v3.hash());
        let index = json!({"paths": {format!("apis/{GROUP_VERSION}"): {"serverRelativeURL": location}}});
        Self { v2: Document::new(&document(Form::V2, &schemas)), v3_index: Document::new(&index), v3 }
    }

    /// Answers a path below `/openapi`.
    pub(crate) fn answer(&self, below: &[&str], headers: &HeaderMap) -> Result<Response, ApiError> {
        let document = match below {
            ["v2"] => &self.v2,
            ["v3"] => &self.v3_index,
            ["v3", "apis", GROUP, VERSION] => &self.v3,
            _ => return Err(ApiError::unknown_path()),
        };
        let accept = joined_accept(headers);
        let json = |media_type: &str| matches!(media_type, "*/*" | "application/*" | "application/json");
        if !accept.trim().is_empty() && choose_accept(&accept, |kind, _| json(kind).then_some(())).is_none() {
            return Err(ApiError::not_acceptable("application/json"));
        }
        Ok(document.answer(headers))
    }
}

fn document(form: Form, schemas: &Map<String, Value>) -> Value {
    let schemas: Map<String, Value> =
        schemas.iter().map(|(name, schema)| (name.clone(), written(form, schema))).collect();
    let info = json!({"title": "Fleetglass", "version": "v0.1.0"});
    let paths = paths::all(form);
    match form {
        Form::V2 => json!({"swagger": "2.0", "info": info, "paths": paths, "definitions": schemas}),
        Form::V3 => json!({"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}),
    }
}

/// A schema as `form` writes it.
fn written(form: Form, schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => match fields.get("$ref").and_then(Value::as_str) {
            Some(name) => referring(form, fields, name),
            None => fields.iter().map(|(key, value)| (key.clone(), written(form, value))).collect(),
        },
        Value::Array(items) => items.iter().map(|item| written(form, item)).collect(),
        other => other.clone(),
    }
}

/// A reference with a description beside it; version 3 ignores what stands beside `$ref`, so there it is wrapped.
fn referring(form: Form, fields: &Map<String, Value>, name: &str) -> Value {
    let mut property = match form {
        Form::V2 => form.reference(name),
        Form::V3 => json!({"allOf": [form.reference(name)]}),
    };
    for (key, value) in fields.iter().filter(|(key, _)| *key != "$ref") {
        property[key] = value.clone();
    }
    property
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use rstest::rstest;

    use super::*;

    async fn get(below: &[&str]) -> Value {
        let response = OpenApi::new().answer(below, &HeaderMap::new()).unwrap();
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    const GROUP_DOCUMENT: [&str; 4] = ["v3", "apis", GROUP, VERSION];

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[rstest]
    #[case(&["v2"], "/definitions")]
    #[case(&GROUP_DOCUMENT, "/components/schemas")]
    #[tokio::test]
    async fn every_reference_leads_to_a_schema(#[case] below: &[&str], #[case] schemas: &str) {
        let document = get(below).await;
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20);
        for reference in found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference} leads nowhere");
        }
        assert!(document.pointer(schemas).unwrap().as_object().unwrap().len() > 15);
    }

    /// The fields of a schema as `kubectl explain --recursive` prints them.
    fn explained(document: &Value, schema: &Value, depth: usize, out: &mut String) {
        let referred = |value: &Value| {
            let reference = value.pointer("/allOf/0/$ref").or(value.get("$ref"))?.as_str()?.to_owned();
            Some((document.pointer(&reference[1..])?.clone(), reference.rsplit('.').next()?.to_owned()))
        };
        let kind = |value: &Value| value["type"].as_str().unwrap_or("Object").to_owned();
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let (inner, shown) = match (referred(property), &property["items"], &property["additionalProperties"]) {
                (Some((inner, shown)), ..) => (Some(inner), shown),
                (None, Value::Null, Value::Null) => (None, kind(property)),
                (None, Value::Null, values) => (None, format!("map[string]{}", kind(values))),
                (None, items, _) => match referred(items) {
                    Some((inner, shown)) => (Some(inner), format!("[]{shown}")),
                    None => (None, format!("[]{}", kind(items))),
                },
            };
            let marker = if required.contains(&json!(name)) { " -required-" } else { "" };
            out.push_str(&format!("{}{name} <{shown}>{marker}\n", "  ".repeat(depth)));
            if let Some(inner) = inner {
                explained(document, &inner, depth + 1, out);
            }
        }
    }

    #[tokio::test]
    async fn explain_shows_the_recorded_fields() {
        let document = get(&GROUP_DOCUMENT).await;
        let name = "com.github.karmada-io.karmada.pkg.apis.search.v1alpha1.ResourceRegistrySpec";
        let mut out = String::new();
        explained(&document, &document["components"]["schemas"][name], 0, &mut out);
        insta::assert_snapshot!(out, @"
        backendStore <BackendStoreConfig>
          openSearch <OpenSearchConfig>
            addresses <[]string> -required-
            secretRef <LocalSecretReference>
              name <string> -required-
              namespace <string> -required-
        resourceSelectors <[]ResourceSelector> -required-
          apiVersion <string> -required-
          kind <string> -required-
          namespace <string>
        targetCluster <ClusterAffinity> -required-
          clusterNames <[]string>
          exclude <[]string>
          fieldSelector <FieldSelector>
            matchExpressions <[]NodeSelectorRequirement>
              key <string> -required-
              operator <string> -required-
              values <[]string>
          labelSelector <LabelSelector>
            matchExpressions <[]LabelSelectorRequirement>
              key <string> -required-
              operator <string> -required-
              values <[]string>
            matchLabels <map[string]string>
        ");
    }

    #[tokio::test]
    async fn kubectl_finds_the_kind_behind_the_path_and_how_it_may_be_changed() {
        let document = get(&GROUP_DOCUMENT).await;
        let operation = &document["paths"]["/apis/search.karmada.io/v1alpha1/resourceregistries/{name}"]["patch"];
        assert_eq!(
            operation["x-kubernetes-group-version-kind"],
            json!({"group": "search.karmada.io", "kind": "ResourceRegistry", "version": "v1alpha1"})
        );
        let forms: Vec<&String> = operation["requestBody"]["content"].as_object().unwrap().keys().collect();
        assert_eq!(
            forms,
            ["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"]
        );
        let parameters = operation["parameters"].as_array().unwrap();
        for wanted in ["dryRun", "fieldManager", "fieldValidation", "force"] {
            assert!(parameters.iter().any(|parameter| parameter["name"] == wanted), "{wanted}");
        }
    }

    #[tokio::test]
    async fn the_index_names_the_document_with_its_hash() {
        let index = get(&["v3"]).await;
        let location = index["paths"]["apis/search.karmada.io/v1alpha1"]["serverRelativeURL"].as_str().unwrap();
        let response = OpenApi::new().answer(&GROUP_DOCUMENT, &HeaderMap::new()).unwrap();
        let tag = response.headers()[header::ETAG].to_str().unwrap().trim_matches('"');
        assert_eq!(location, format!("/openapi/v3/apis/search.karmada.io/v1alpha1?hash={tag}"));
    }

    #[test]
    fn who_holds_the_document_is_not_sent_it_again_and_who_wants_protobuf_is_told() {
        let openapi = OpenApi::new();
        let tag = openapi.v2.tag.clone();
        let held = HeaderMap::from_iter([(header::IF_NONE_MATCH, tag)]);
        assert_eq!(openapi.answer(&["v2"], &held).unwrap().status(), StatusCode::NOT_MODIFIED);
        let accept = |text: &str| HeaderMap::from_iter([(header::ACCEPT, text.parse().unwrap())]);
        let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
        assert_eq!(openapi.answer(&["v2"], &accept(protobuf)).unwrap_err().code(), 406);
        let either = accept(&format!("{protobuf},application/json"));
        assert_eq!(openapi.answer(&["v2"], &either).unwrap().status(), StatusCode::OK);
        assert_eq!(openapi.answer(&["v3", "api", "v1"], &HeaderMap::new()).unwrap_err().code(), 404);
    }
}
