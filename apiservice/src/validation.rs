//! What a ResourceRegistry must look like: types, names, operators, addresses; and which fields there are.
//!
//! Pure: a JSON document in; causes for a 422, names of unknown fields, or a typed view out.

use http::Uri;
use serde_json::Value;

use crate::error::{ApiError, StatusCause, Subject};
use crate::types::{ClusterAffinity, OpenSearchConfig, ResourceRegistry, ResourceSelector};
use crate::{GROUP, GROUP_VERSION};

/// The kind of the objects.
pub const KIND: &str = "ResourceRegistry";

/// Fields that a document may have, as a tree.
enum Known {
    /// An object with these fields.
    Fields(&'static [(&'static str, Known)]),
    /// A list of such objects.
    Each(&'static [(&'static str, Known)]),
    /// Anything.
    Any,
}

use Known::{Any, Each, Fields};

const METADATA: &[(&str, Known)] = &[
    ("name", Any),
    ("generateName", Any),
    ("namespace", Any),
    ("selfLink", Any),
    ("uid", Any),
    ("resourceVersion", Any),
    ("generation", Any),
    ("creationTimestamp", Any),
    ("deletionTimestamp", Any),
    ("deletionGracePeriodSeconds", Any),
    ("labels", Any),
    ("annotations", Any),
    ("ownerReferences", Any),
    ("finalizers", Any),
    ("managedFields", Any),
];
const EXPRESSION: &[(&str, Known)] = &[("key", Any), ("operator", Any), ("values", Any)];
const TARGET: &[(&str, Known)] = &[
    ("clusterNames", Any),
    ("exclude", Any),
    ("labelSelector", Fields(&[("matchLabels", Any), ("matchExpressions", Each(EXPRESSION))])),
    ("fieldSelector", Fields(&[("matchExpressions", Each(EXPRESSION))])),
];
const OPEN_SEARCH: &[(&str, Known)] =
    &[("addresses", Any), ("secretRef", Fields(&[("namespace", Any), ("name", Any)]))];
const SPEC: &[(&str, Known)] = &[
    ("targetCluster", Fields(TARGET)),
    ("resourceSelectors", Each(&[("apiVersion", Any), ("kind", Any), ("namespace", Any)])),
    ("backendStore", Fields(&[("openSearch", Fields(OPEN_SEARCH))])),
];
const CONDITION: &[(&str, Known)] = &[
    ("type", Any),
    ("status", Any),
    ("observedGeneration", Any),
    ("lastTransitionTime", Any),
    ("reason", Any),
    ("message", Any),
];
const ROOT: &[(&str, Known)] = &[
    ("apiVersion", Any),
    ("kind", Any),
    ("metadata", Fields(METADATA)),
    ("spec", Fields(SPEC)),
    ("status", Fields(&[("conditions", Each(CONDITION))])),
];

/// Paths of the fields that no ResourceRegistry has.
pub fn unknown_fields(document: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    collect_unknown(document, ROOT, "", &mut unknown);
    unknown
}

fn collect_unknown(value: &Value, known: &[(&str, Known)], path: &str, unknown: &mut Vec<String>) {
    let Value::Object(fields) = value else { return };
    for (name, value) in fields {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match known.iter().find(|(known, _)| known == name) {
            None => unknown.push(path),
            Some((_, Any)) => {}
            Some((_, Fields(fields))) => collect_unknown(value, fields, &path, unknown),
            Some((_, Each(fields))) => {
                for (index, element) in value.as_array().into_iter().flatten().enumerate() {
                    collect_unknown(element, fields, &format!("{path}[{index}]"), unknown);
                }
            }
        }
    }
}

/// The typed view of a document.
///
/// # Errors
/// 400 if it is another kind, or a field has the wrong type.
pub fn read(document: &Value) -> Result<ResourceRegistry, ApiError> {
    let text = |field: &str| document[field].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if kind != KIND || api_version != GROUP_VERSION {
        return Err(ApiError::bad_request(format!(
            "the body is {kind:?} in version {api_version:?}; {KIND:?} in version {GROUP_VERSION:?} is expected here"
        )));
    }
    let registry: ResourceRegistry = serde_json::from_value(document.clone())
        .map_err(|error| ApiError::bad_request(format!("the body cannot be read as a {KIND}: {error}")))?;
    Ok(registry)
}

/// Checks a registry's name and spec.
///
/// # Errors
/// 422 with a cause for each field that is wrong.
pub fn validate(registry: &ResourceRegistry) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    check_name(registry.name(), &mut causes);
    check_affinity(&registry.spec.target_cluster, &mut causes);
    for (index, selector) in registry.spec.resource_selectors.iter().enumerate() {
        check_selector(index, selector, &mut causes);
    }
    let backend = registry.spec.backend_store.as_ref();
    if let Some(open_search) = backend.and_then(|backend| backend.open_search.as_ref()) {
        check_open_search(open_search, &mut causes);
    }
    if causes.is_empty() {
        return Ok(());
    }
    let subject = Subject { group: GROUP, resource: KIND, name: registry.name() };
    Err(ApiError::invalid(KIND, subject, causes))
}

fn invalid(causes: &mut Vec<StatusCause>, field: String, value: &str, why: &str) {
    causes.push(StatusCause {
        reason: "FieldValueInvalid",
        message: format!("Invalid value: {value:?}: {why}"),
        field,
    });
}

fn required(causes: &mut Vec<StatusCause>, field: String, why: &str) {
    causes.push(StatusCause { reason: "FieldValueRequired", message: format!("Required value: {why}"), field });
}

fn check_name(name: &str, causes: &mut Vec<StatusCause>) {
    if name.is_empty() {
        required(causes, "metadata.name".to_owned(), "name or generateName is required");
    } else if !is_dns_subdomain(name) {
        // The words that every Kubernetes API server has for it.
        let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
                   start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                   '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
        invalid(causes, "metadata.name".to_owned(), name, why);
    }
}

/// Whether a text is a DNS label: the form of namespace names.
fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| inner(*byte) || *byte == b'-')
        && bytes.first().is_some_and(|byte| inner(*byte))
        && bytes.last().is_some_and(|byte| inner(*byte))
}

/// Whether a text is a DNS subdomain: the form of most object names.
pub fn is_dns_subdomain(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_part = |part: &str| {
        let bytes = part.as_bytes();
        !bytes.is_empty()
            && bytes.iter().all(|byte| inner(*byte) || *byte == b'-')
            && bytes.first().is_some_and(|byte| inner(*byte))
            && bytes.last().is_some_and(|byte| inner(*byte))
    };
    text.len() <= 253 && text.split('.').all(is_part)
}

fn check_affinity(target: &ClusterAffinity, causes: &mut Vec<StatusCause>) {
    let path = "spec.targetCluster";
    let expressions = target.field_selector.iter().flat_map(|selector| &selector.match_expressions);
    for (index, expression) in expressions.enumerate() {
        let field = |name: &str| format!("{path}.fieldSelector.matchExpressions[{index}].{name}");
        if !matches!(expression.key.as_str(), "provider" | "region" | "zone") {
            invalid(causes, field("key"), &expression.key, "one of provider, region, zone is expected");
        }
        if !matches!(expression.operator.as_str(), "In" | "NotIn") {
            invalid(causes, field("operator"), &expression.operator, "one of In, NotIn is expected");
        }
    }
    let expressions = target.label_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    for (index, expression) in expressions.enumerate() {
        let field = |name: &str| format!("{path}.labelSelector.matchExpressions[{index}].{name}");
        let has_values = expression.values.as_ref().is_some_and(|values| !values.is_empty());
        match expression.operator.as_str() {
            "In" | "NotIn" if !has_values => {
                required(causes, field("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if has_values => {
                invalid(
                    causes,
                    field("values"),
                    "",
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => invalid(causes, field("operator"), other, "not a valid selector operator"),
        }
        if expression.key.is_empty() {
            required(causes, field("key"), "a label's key");
        }
    }
}

fn check_selector(index: usize, selector: &ResourceSelector, causes: &mut Vec<StatusCause>) {
    let field = |name: &str| format!("spec.resourceSelectors[{index}].{name}");
    let api_version = selector.api_version.as_str();
    if api_version.is_empty() {
        required(causes, field("apiVersion"), "e.g. v1 or apps/v1");
    } else if api_version.split('/').count() > 2 || api_version.split('/').any(str::is_empty) {
        invalid(causes, field("apiVersion"), api_version, "v1 or group/version is expected");
    }
    if selector.kind.is_empty() {
        required(causes, field("kind"), "e.g. Deployment");
    }
    if !selector.namespace.is_empty() && !is_dns_label(&selector.namespace) {
        let why = "a namespace consists of lower case letters, digits and '-', and has at most 63 characters";
        invalid(causes, field("namespace"), &selector.namespace, why);
    }
}

fn check_open_search(config: &OpenSearchConfig, causes: &mut Vec<StatusCause>) {
    let path = "spec.backendStore.openSearch";
    if config.addresses.is_empty() {
        required(causes, format!("{path}.addresses"), "at least one URL, e.g. http://opensearch:9200");
    }
    for (index, address) in config.addresses.iter().enumerate() {
        let is_url = address.parse::<Uri>().is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
        });
        if !is_url {
            invalid(
                causes,
                format!("{path}.addresses[{index}]"),
                address,
                "an http or https URL with a host is expected",
            );
        }
    }
    if let Some(secret) = &config.secret_ref {
        for (name, value) in [("namespace", &secret.namespace), ("name", &secret.name)] {
            if value.is_empty() {
                required(causes, format!("{path}.secretRef.{name}"), "the Secret that holds the credentials");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(name: &str, spec: &Value) -> Value {
        json!({"apiVersion": GROUP_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec})
    }

    fn causes(name: &str, spec: &Value) -> Vec<String> {
        let registry = read(&document(name, spec)).unwrap();
        let Err(error) = validate(&registry) else { return Vec::new() };
        assert_eq!(error.code(), 422);
        let listed = error.to_json()["details"]["causes"].clone();
        listed.as_array().unwrap().iter().map(|cause| cause["field"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_the_drop_in_accepts_is_accepted() {
        assert!(causes("a.b-c", &json!({"targetCluster": {}, "resourceSelectors": []})).is_empty());
        let plain = json!({"backendStore": {"openSearch": {"addresses": ["http://os:9200", "https://10.0.0.1"]}}});
        assert!(causes("a", &plain).is_empty(), "addresses alone are enough");
    }

    #[test]
    fn each_wrong_field_is_named() {
        let spec = json!({
            "targetCluster": {
                "fieldSelector": {"matchExpressions": [{"key": "colour", "operator": "Gt"}]},
                "labelSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]},
            },
            "resourceSelectors": [{"apiVersion": "a/b/c", "kind": "", "namespace": "No"}],
            "backendStore": {"openSearch": {"addresses": ["ftp://x", "nothing"]}},
        });
        assert_eq!(
            causes("Bad_Name", &spec),
            [
                "metadata.name",
                "spec.targetCluster.fieldSelector.matchExpressions[0].key",
                "spec.targetCluster.fieldSelector.matchExpressions[0].operator",
                "spec.targetCluster.labelSelector.matchExpressions[0].values",
                "spec.resourceSelectors[0].apiVersion",
                "spec.resourceSelectors[0].kind",
                "spec.resourceSelectors[0].namespace",
                "spec.backendStore.openSearch.addresses[0]",
                "spec.backendStore.openSearch.addresses[1]",
            ]
        );
    }

    #[test]
    fn another_kind_or_a_wrong_type_is_a_bad_request() {
        let mut other = document("a", &json!({}));
        other["kind"] = json!("Pod");
        assert_eq!(read(&other).unwrap_err().code(), 400);
        let wrong = document("a", &json!({"resourceSelectors": "all"}));
        assert_eq!(read(&wrong).unwrap_err().code(), 400);
    }

    #[test]
    fn unknown_fields_are_found_at_any_depth() {
        let mut document = document("a", &json!({"foo": 1, "resourceSelectors": [{"kind": "Pod", "names": []}]}));
        document["metadata"]["labels"] = json!({"anything": "goes"});
        assert_eq!(unknown_fields(&document), ["spec.foo", "spec.resourceSelectors[0].names"]);
    }
}
