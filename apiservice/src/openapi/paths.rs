//! The operations on ResourceRegistries as OpenAPI describes them.
//!
//! In: nothing but the list in here. Out: the `paths` object of either form. It must say the truth: kubectl decides by
//! it which patches to send and whether the server checks unknown fields itself.

use serde_json::{Map, Value, json};

use super::Form;
use crate::{GROUP, GROUP_VERSION_PATH, VERSION};

const REGISTRY: &str = "com.github.karmada-io.karmada.pkg.apis.search.v1alpha1.ResourceRegistry";
const REGISTRY_LIST: &str = "com.github.karmada-io.karmada.pkg.apis.search.v1alpha1.ResourceRegistryList";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const WRITES: [&str; 2] = ["application/json", "application/yaml"];
const PATCHES: [&str; 3] =
    ["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"];

struct Operation {
    method: &'static str,
    action: &'static str,
    id: &'static str,
    description: &'static str,
    body: Option<(&'static str, &'static [&'static str])>,
    answer: (&'static str, &'static [u16]),
    parameters: &'static [&'static str],
}

const SELECT: [&str; 9] = [
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
];
const LIST: [&str; 10] = [
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
const FORCED_WRITE: [&str; 4] = ["dryRun", "fieldManager", "fieldValidation", "force"];

const COLLECTION: [Operation; 3] = [
    Operation {
        method: "get",
        action: "list",
        id: "listSearchKarmadaIoV1alpha1ResourceRegistry",
        description: "list or watch objects of kind ResourceRegistry",
        body: None,
        answer: (REGISTRY_LIST, &[200]),
        parameters: &LIST,
    },
    Operation {
        method: "post",
        action: "post",
        id: "createSearchKarmadaIoV1alpha1ResourceRegistry",
        description: "create a ResourceRegistry",
        body: Some((REGISTRY, &WRITES)),
        answer: (REGISTRY, &[200, 201]),
        parameters: &WRITE,
    },
    Operation {
        method: "delete",
        action: "deletecollection",
        id: "deleteSearchKarmadaIoV1alpha1CollectionResourceRegistry",
        description: "delete all selected ResourceRegistries",
        body: Some((DELETE_OPTIONS, &WRITES)),
        answer: (STATUS, &[200]),
        parameters: &SELECT,
    },
];

const OBJECT: [Operation; 4] = [
    Operation {
        method: "get",
        action: "get",
        id: "readSearchKarmadaIoV1alpha1ResourceRegistry",
        description: "read the ResourceRegistry",
        body: None,
        answer: (REGISTRY, &[200]),
        parameters: &[],
    },
    Operation {
        method: "put",
        action: "put",
        id: "replaceSearchKarmadaIoV1alpha1ResourceRegistry",
        description: "replace the ResourceRegistry",
        body: Some((REGISTRY, &WRITES)),
        answer: (REGISTRY, &[200, 201]),
        parameters: &WRITE,
    },
    Operation {
        method: "patch",
        action: "patch",
        id: "patchSearchKarmadaIoV1alpha1ResourceRegistry",
        description: "change parts of the ResourceRegistry",
        body: Some((PATCH, &PATCHES)),
        answer: (REGISTRY, &[200, 201]),
        parameters: &FORCED_WRITE,
    },
    Operation {
        method: "delete",
        action: "delete",
        id: "deleteSearchKarmadaIoV1alpha1ResourceRegistry",
        description: "delete the ResourceRegistry",
        body: Some((DELETE_OPTIONS, &WRITES)),
        answer: (STATUS, &[200, 202]),
        parameters: &["dryRun", "gracePeriodSeconds", "propagationPolicy"],
    },
];

const OBJECT_STATUS: [Operation; 3] = [
    Operation {
        method: "get",
        action: "get",
        id: "readSearchKarmadaIoV1alpha1ResourceRegistryStatus",
        description: "read the ResourceRegistry with its status",
        body: None,
        answer: (REGISTRY, &[200]),
        parameters: &[],
    },
    Operation {
        method: "put",
        action: "put",
        id: "replaceSearchKarmadaIoV1alpha1ResourceRegistryStatus",
        description: "replace the status of the ResourceRegistry",
        body: Some((REGISTRY, &WRITES)),
        answer: (REGISTRY, &[200, 201]),
        parameters: &WRITE,
    },
    Operation {
        method: "patch",
        action: "patch",
        id: "patchSearchKarmadaIoV1alpha1ResourceRegistryStatus",
        description: "change parts of the status of the ResourceRegistry",
        body: Some((PATCH, &PATCHES)),
        answer: (REGISTRY, &[200, 201]),
        parameters: &FORCED_WRITE,
    },
];

/// All paths with their operations.
pub(super) fn all(form: Form) -> Value {
    let collection = format!("{GROUP_VERSION_PATH}/resourceregistries");
    let object = format!("{collection}/{{name}}");
    let status = format!("{object}/status");
    json!({
        collection: path(form, &COLLECTION, false),
        object: path(form, &OBJECT, true),
        status: path(form, &OBJECT_STATUS, true),
    })
}

fn path(form: Form, operations: &[Operation], named: bool) -> Value {
    let mut written: Map<String, Value> =
        operations.iter().map(|operation| (operation.method.to_owned(), operation.written(form))).collect();
    if named {
        let name =
            json!({"name": "name", "in": "path", "required": true, "description": "name of the ResourceRegistry"});
        written.insert("parameters".to_owned(), json!([typed(form, name, "string")]));
    }
    Value::Object(written)
}

/// A parameter with its type where `form` wants it.
fn typed(form: Form, mut parameter: Value, kind: &str) -> Value {
    match form {
        Form::V2 => {
            parameter["type"] = json!(kind);
            parameter["uniqueItems"] = json!(true);
        }
        Form::V3 => parameter["schema"] = json!({"type": kind, "uniqueItems": true}),
    }
    parameter
}

fn query_parameter(form: Form, name: &str) -> Value {
    let (kind, description) = match name {
        "allowWatchBookmarks" => ("boolean", "whether a watch may tell its progress by bookmarks"),
        "continue" => ("string", "where the page begins, as the page before said"),
        "dryRun" => ("string", "All, to try without storing anything"),
        "fieldManager" => ("string", "in whose name fields are set"),
        "fieldSelector" => ("string", "takes objects by their fields"),
        "fieldValidation" => ("string", "what happens to unknown and repeated fields: Ignore, Warn or Strict"),
        "force" => ("boolean", "whether an apply takes fields from other managers"),
        "gracePeriodSeconds" => ("integer", "how long the object may take to end"),
        "labelSelector" => ("string", "takes objects by their labels"),
        "limit" => ("integer", "the most objects on a page"),
        "propagationPolicy" => ("string", "what becomes of objects that belong to this one"),
        "resourceVersion" => ("string", "the version to list at or to watch from"),
        "resourceVersionMatch" => ("string", "how resourceVersion is meant: Exact or NotOlderThan"),
        "sendInitialEvents" => ("boolean", "whether a watch begins with all objects there are"),
        "timeoutSeconds" => ("integer", "when a list or watch ends"),
        _ => ("boolean", "whether changes are sent as they happen instead of a list"),
    };
    typed(form, json!({"name": name, "in": "query", "description": description}), kind)
}

impl Operation {
    fn written(&self, form: Form) -> Value {
        let mut parameters: Vec<Value> = self.parameters.iter().map(|name| query_parameter(form, name)).collect();
        let mut operation = json!({
            "description": self.description,
            "operationId": self.id,
            "tags": ["searchKarmadaIo_v1alpha1"],
            "responses": self.responses(form),
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": {"group": GROUP, "kind": "ResourceRegistry", "version": VERSION},
        });
        match (form, self.body) {
            (Form::V2, Some((schema, media_types))) => {
                let required = self.method != "delete";
                let schema = form.reference(schema);
                parameters.push(json!({"name": "body", "in": "body", "required": required, "schema": schema}));
                operation["consumes"] = json!(media_types);
            }
            (Form::V2, None) => operation["consumes"] = json!(["*/*"]),
            (Form::V3, Some((schema, media_types))) => {
                operation["requestBody"] = json!({"content": content(form, schema, media_types)});
            }
            (Form::V3, None) => {}
        }
        if form == Form::V2 {
            operation["produces"] = json!(["application/json", "application/yaml", "application/json;stream=watch"]);
            operation["schemes"] = json!(["https"]);
        }
        operation["parameters"] = json!(parameters);
        operation
    }

    fn responses(&self, form: Form) -> Value {
        let (schema, codes) = self.answer;
        let mut responses = Map::new();
        for code in codes {
            let description = match code {
                201 => "Created",
                202 => "Accepted",
                _ => "OK",
            };
            let response = match form {
                Form::V2 => json!({"description": description, "schema": form.reference(schema)}),
                Form::V3 => json!({"description": description, "content": content(form, schema, &WRITES)}),
            };
            responses.insert(code.to_string(), response);
        }
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        Value::Object(responses)
    }
}

fn content(form: Form, schema: &str, media_types: &[&str]) -> Value {
    media_types.iter().map(|kind| ((*kind).to_owned(), json!({"schema": form.reference(schema)}))).collect()
}
