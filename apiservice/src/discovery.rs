//! What is served, told to clients that ask: `/apis`, the group, its version, `/version`, and `/`.
//!
//! In: which resources are switched on. Out: documents made once at start, each with the bytes and tag it is served
//! with; JSON, or YAML where a client wants it.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

use crate::encode::{self, Offer, choose_accept, joined_accept, negotiate};
use crate::error::ApiError;
use crate::{GROUP, GROUP_VERSION, VERSION};

/// The Kubernetes release whose behaviour is followed.
const MAJOR: &str = "1";
const MINOR: &str = "36";
/// The oldest release that clients may take this for.
const MIN_COMPATIBILITY_MINOR: &str = "35";

/// What discovery announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoverySettings {
    /// Whether the `search` resource is served.
    pub search: bool,
    /// `HOST:PORT` or `:PORT` as `/apis` tells it to clients.
    pub server_address: String,
}

impl Default for DiscoverySettings {
    fn default() -> Self {
        Self { search: true, server_address: ":443".to_owned() }
    }
}

struct Resource {
    name: &'static str,
    singular: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
    storage_version_hash: Option<&'static str>,
    subresources: &'static [(&'static str, &'static [&'static str])],
}

const REGISTRIES: Resource = Resource {
    name: "resourceregistries",
    singular: "resourceregistry",
    kind: "ResourceRegistry",
    verbs: &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
    storage_version_hash: Some("fCsl2+C1ckI="),
    subresources: &[("status", &["get", "patch", "update"])],
};

const SEARCH: Resource = Resource {
    name: "search",
    singular: "search",
    kind: "Search",
    verbs: &["get"],
    storage_version_hash: None,
    subresources: &[],
};

/// The documents of discovery.
#[derive(Debug)]
pub struct Discovery {
    groups: Value,
    group: Value,
    resources: Value,
    aggregated: [(&'static str, Tagged); 2],
    version: String,
}

#[derive(Debug)]
struct Tagged {
    body: String,
    tag: HeaderValue,
}

impl Tagged {
    fn new(body: String) -> Self {
        let tag = format!("\"{}\"", hash(body.as_bytes()));
        Self { tag: HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"\"")), body }
    }
}

/// The hash that tags documents: SHA-512 in upper-case hexadecimal digits, as API servers write it.
pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha512::digest(bytes).iter().map(|byte| format!("{byte:02X}")).collect()
}

impl Discovery {
    /// Writes the documents.
    pub fn new(settings: &DiscoverySettings) -> Self {
        let mut resources = vec![REGISTRIES];
        if settings.search {
            resources.push(SEARCH);
        }
        let version = json!({"groupVersion": GROUP_VERSION, "version": VERSION});
        let group = json!({"name": GROUP, "versions": [version], "preferredVersion": version});
        let mut listed = group.clone();
        listed["serverAddressByClientCIDRs"] =
            json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": settings.server_address}]);
        let aggregated = |version: &'static str| (version, Tagged::new(aggregated(version, &resources).to_string()));
        Self {
            groups: json!({"kind": "APIGroupList", "groups": [listed]}),
            group: merged(json!({"kind": "APIGroup", "apiVersion": "v1"}), group),
            resources: resource_list(&resources),
            aggregated: [aggregated("v2"), aggregated("v2beta1")],
            version: version_document(),
        }
    }

    /// `/apis`: all groups, in the old form or, when asked for, in the aggregated one.
    pub(crate) fn groups(&self, headers: &HeaderMap) -> Result<Response, ApiError> {
        enum Form {
            Aggregated(usize),
            Plain,
        }
        let chosen = choose_accept(&joined_accept(headers), |media_type, parameter| {
            if parameter("as") != "APIGroupDiscoveryList" || parameter("g") != "apidiscovery.k8s.io" {
                let plain = parameter("as").is_empty() && encode::is_plain(media_type);
                return plain.then_some(Form::Plain);
            }
            let wanted = parameter("v");
            let index = self.aggregated.iter().position(|(version, _)| *version == wanted)?;
            (media_type == "application/json").then_some(Form::Aggregated(index))
        });
        match chosen.and_then(|form| if let Form::Aggregated(index) = form { self.aggregated.get(index) } else { None })
        {
            Some((version, document)) => Ok(aggregated_response(version, document, headers)),
            None => object(headers, &self.groups),
        }
    }

    /// `/apis/GROUP`.
    pub(crate) fn group(&self, headers: &HeaderMap) -> Result<Response, ApiError> {
        object(headers, &self.group)
    }

    /// `/apis/GROUP/VERSION`.
    pub(crate) fn resources(&self, headers: &HeaderMap) -> Result<Response, ApiError> {
        object(headers, &self.resources)
    }

    /// `/version`.
    pub(crate) fn version(&self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.version.clone()).into_response()
    }
}

/// What `/version` says, also for roots of API servers below other paths.
pub fn version() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], version_document()).into_response()
}

/// `/`: the paths that are served.
pub(crate) fn paths(health: Vec<String>) -> Response {
    let fixed = ["/apis", "/metrics", "/openapi/v2", "/openapi/v3", "/version"].map(str::to_owned);
    let mut paths: Vec<String> = fixed.into_iter().chain(health).collect();
    paths.extend([format!("/apis/{GROUP}"), format!("/apis/{GROUP_VERSION}")]);
    paths.sort_unstable();
    let body = serde_json::to_string_pretty(&json!({ "paths": paths })).unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn object(headers: &HeaderMap, document: &Value) -> Result<Response, ApiError> {
    encode::object(negotiate(headers, Offer::Plain)?, StatusCode::OK, document)
}

fn aggregated_response(version: &str, document: &Tagged, headers: &HeaderMap) -> Response {
    let content_type = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let known = tagged_headers(&document.tag, &content_type);
    if has_tag(headers, &document.tag) {
        return (StatusCode::NOT_MODIFIED, known).into_response();
    }
    (known, document.body.clone()).into_response()
}

fn tagged_headers(tag: &HeaderValue, content_type: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ETAG, tag.clone());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(content_type) = HeaderValue::try_from(content_type) {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    headers
}

/// Whether the client already holds what `tag` names.
pub(crate) fn has_tag(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let held = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let Ok(tag) = tag.to_str() else { return false };
    held.flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|value| value == "*" || value.strip_prefix("W/").unwrap_or(value) == tag)
}

fn merged(mut base: Value, more: Value) -> Value {
    if let (Some(base), Value::Object(more)) = (base.as_object_mut(), more) {
        base.extend(more);
    }
    base
}

fn resource_list(resources: &[Resource]) -> Value {
    let mut listed = Vec::new();
    for resource in resources {
        let mut entry = json!({
            "name": resource.name, "singularName": resource.singular, "namespaced": false,
            "kind": resource.kind, "verbs": resource.verbs,
        });
        if let Some(hash) = resource.storage_version_hash {
            entry["storageVersionHash"] = json!(hash);
        }
        listed.push(entry);
        listed.extend(resource.subresources.iter().map(|(name, verbs)| {
            json!({
                "name": format!("{}/{name}", resource.name), "singularName": "", "namespaced": false,
                "kind": resource.kind, "verbs": verbs,
            })
        }));
    }
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP_VERSION, "resources": listed})
}

fn aggregated(version: &str, resources: &[Resource]) -> Value {
    let kind = |resource: &Resource| json!({"group": "", "version": "", "kind": resource.kind});
    let listed: Vec<Value> = resources
        .iter()
        .map(|resource| {
            let mut entry = json!({
                "resource": resource.name, "responseKind": kind(resource), "scope": "Cluster",
                "singularResource": resource.singular, "verbs": resource.verbs,
            });
            let subresources: Vec<Value> = resource
                .subresources
                .iter()
                .map(|(name, verbs)| json!({"subresource": name, "responseKind": kind(resource), "verbs": verbs}))
                .collect();
            if !subresources.is_empty() {
                entry["subresources"] = json!(subresources);
            }
            entry
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": [{
            "metadata": {"name": GROUP},
            "versions": [{"version": VERSION, "resources": listed, "freshness": "Current"}],
        }],
    })
}

fn version_document() -> String {
    let document = json!({
        "major": MAJOR,
        "minor": MINOR,
        "emulationMajor": MAJOR,
        "emulationMinor": MINOR,
        "minCompatibilityMajor": MAJOR,
        "minCompatibilityMinor": MIN_COMPATIBILITY_MINOR,
        "gitVersion": format!("v{MAJOR}.{MINOR}.0+fleetglass-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, platform()),
    });
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

/// The processor by the name that Go, and with it every Kubernetes client, uses.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use rstest::rstest;

    use super::*;

    const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

    async fn body(response: Response) -> Value {
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    fn accept(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, value.parse().unwrap())])
    }

    fn recorded_registries() -> [Value; 2] {
        [
            json!({"name":"resourceregistries","singularName":"resourceregistry","namespaced":false,"kind":"ResourceRegistry","verbs":["create","delete","deletecollection","get","list","patch","update","watch"],"storageVersionHash":"fCsl2+C1ckI="}),
            json!({"name":"resourceregistries/status","singularName":"","namespaced":false,"kind":"ResourceRegistry","verbs":["get","patch","update"]}),
        ]
    }

    #[tokio::test]
    async fn the_group_is_announced_as_recorded() {
        let discovery = Discovery::new(&DiscoverySettings::default());
        let [registries, status] = recorded_registries();
        let search =
            json!({"name":"search","singularName":"search","namespaced":false,"kind":"Search","verbs":["get"]});
        assert_eq!(
            body(discovery.resources(&HeaderMap::new()).unwrap()).await,
            json!({"kind":"APIResourceList","apiVersion":"v1","groupVersion":"search.karmada.io/v1alpha1","resources":[registries, status, search]})
        );
        assert_eq!(
            body(discovery.group(&HeaderMap::new()).unwrap()).await,
            json!({"kind":"APIGroup","apiVersion":"v1","name":"search.karmada.io","versions":[{"groupVersion":"search.karmada.io/v1alpha1","version":"v1alpha1"}],"preferredVersion":{"groupVersion":"search.karmada.io/v1alpha1","version":"v1alpha1"}})
        );
    }

    #[tokio::test]
    async fn search_is_announced_only_when_it_is_served() {
        let discovery = Discovery::new(&DiscoverySettings { search: false, ..DiscoverySettings::default() });
        let resources = body(discovery.resources(&HeaderMap::new()).unwrap()).await;
        assert_eq!(resources["resources"].as_array().unwrap().len(), 2);
    }

    #[rstest]
    #[case(AGGREGATED, "apidiscovery.k8s.io/v2")]
    #[case("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList", "apidiscovery.k8s.io/v2beta1")]
    #[case(
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList;profile=nopeer,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
        "apidiscovery.k8s.io/v2"
    )]
    #[tokio::test]
    async fn apis_answers_in_the_form_that_was_asked_for(#[case] wanted: &str, #[case] version: &str) {
        let discovery = Discovery::new(&DiscoverySettings::default());
        assert_eq!(body(discovery.groups(&accept(wanted)).unwrap()).await["apiVersion"], version);
    }

    #[rstest]
    #[case("application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,application/json")]
    #[case("")]
    #[tokio::test]
    async fn apis_is_a_plain_list_for_who_asks_for_nothing_newer(#[case] wanted: &str) {
        let discovery = Discovery::new(&DiscoverySettings::default());
        assert_eq!(body(discovery.groups(&accept(wanted)).unwrap()).await["kind"], "APIGroupList");
    }

    #[tokio::test]
    async fn a_client_that_holds_the_document_is_not_sent_it_again() {
        let discovery = Discovery::new(&DiscoverySettings::default());
        let mut headers = accept(AGGREGATED);
        let first = discovery.groups(&headers).unwrap();
        assert_eq!(first.headers()[header::CONTENT_TYPE], AGGREGATED);
        headers.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        assert_eq!(discovery.groups(&headers).unwrap().status(), StatusCode::NOT_MODIFIED);
    }

    #[tokio::test]
    async fn version_is_one_that_clients_can_compare() {
        let version = body(Discovery::new(&DiscoverySettings::default()).version()).await;
        assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("36")));
        assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.36.0+fleetglass"));
    }
}
