//! What a cluster serves, as aggregated discovery tells it.

use serde_json::{Value, json};

use super::kinds::{ALL, Description};

/// The form in which it is told.
pub(crate) const CONTENT_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The core group's kinds, for `/api`, or those of all others, for `/apis`; of the first so many kinds.
pub(crate) fn document(kinds: usize, core: bool) -> Value {
    let served = || ALL.iter().take(kinds).filter(|description| description.group.is_empty() == core);
    let mut groups: Vec<&str> = served().map(|description| description.group).collect();
    groups.sort_unstable();
    groups.dedup();
    let items: Vec<Value> = groups
        .iter()
        .map(|group| {
            let resources: Vec<Value> =
                served().filter(|description| description.group == *group).map(resource).collect();
            json!({
                "metadata": { "name": group, "creationTimestamp": null },
                "versions": [{ "version": "v1", "freshness": "Current", "resources": resources }],
            })
        })
        .collect();
    json!({ "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items })
}

fn resource(description: &Description) -> Value {
    json!({
        "resource": description.resource,
        "responseKind": { "group": description.group, "version": description.version, "kind": description.kind },
        "scope": if description.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": description.singular,
        "verbs": ["get", "list", "watch"],
    })
}

/// What `/version` answers.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "35", "gitVersion": "v1.35.4", "gitCommit": "0000000000000000000000000000000000000000",
        "gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.25.1", "compiler": "gc",
        "platform": "linux/amd64",
    })
}
