//! The root of an API server below `search/cache`, so that `kubectl --server=…/search/cache` finds its way: versions, groups,
//! resources and schemas of what is cached, and nothing else.

use std::collections::BTreeMap;

use apiservice::error::ApiError;
use axum::Json;
use axum::response::{IntoResponse, Response};
use indexer::resource::ApiResource;
use serde_json::{Value, json};

use super::cache_path::CachePath;
use super::{MOUNT, SearchState, known};

type Groups = BTreeMap<(String, String), Vec<ApiResource>>;

/// Answers a path that names no objects.
pub(super) fn answer(state: &SearchState, path: &CachePath) -> Result<Response, ApiError> {
    let groups = known::cached(state);
    let document = match path {
        CachePath::CoreVersions => core_versions(&groups),
        CachePath::Groups => json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": all_groups(&groups) }),
        CachePath::Group(name) => {
            all_groups(&groups).into_iter().find(|group| group["name"] == *name).ok_or_else(ApiError::unknown_path)?
        }
        CachePath::Resources { group, version } => resource_list(&groups, group, version)?,
        CachePath::Version => return Ok(apiservice::discovery::version()),
        CachePath::OpenApiV2 => open_api_v2(&groups),
        CachePath::OpenApiV3(None) => open_api_v3_index(&groups),
        CachePath::OpenApiV3(Some((group, version))) => open_api_v3(&groups, group, version)?,
        CachePath::Objects { .. } => return Err(ApiError::unknown_path()),
    };
    Ok(Json(document).into_response())
}

fn core_versions(groups: &Groups) -> Value {
    let versions: Vec<&str> =
        groups.keys().filter(|(group, _)| group.is_empty()).map(|(_, version)| version.as_str()).collect();
    json!({ "kind": "APIVersions", "versions": versions, "serverAddressByClientCIDRs": [] })
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn all_groups(groups: &Groups) -> Vec<Value> {
    let mut versions: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (group, version) in groups.keys().filter(|(group, _)| !group.is_empty()) {
        let entry = json!({ "groupVersion": group_version(group, version), "version": version });
        versions.entry(group).or_default().push(entry);
    }
    versions
        .into_iter()
        .map(|(name, versions)| {
            let preferred = versions.last().cloned().unwrap_or_default();
            json!({ "kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions, "preferredVersion": preferred })
        })
        .collect()
}

fn resources_of<'a>(groups: &'a Groups, group: &str, version: &str) -> Result<&'a [ApiResource], ApiError> {
    groups.get(&(group.to_owned(), version.to_owned())).map(Vec::as_slice).ok_or_else(ApiError::unknown_path)
}

fn resource_list(groups: &Groups, group: &str, version: &str) -> Result<Value, ApiError> {
    let resources: Vec<Value> = resources_of(groups, group, version)?
        .iter()
        .map(|resource| {
            json!({
                "name": resource.gvr.resource, "singularName": resource.kind.to_lowercase(),
                "namespaced": resource.namespaced, "kind": resource.kind, "verbs": ["get", "list", "watch"],
                "shortNames": short_names(resource),
            })
        })
        .collect();
    Ok(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(group, version), "resources": resources,
    }))
}

/// What people type for the kinds they type most.
fn short_names(resource: &ApiResource) -> &'static [&'static str] {
    match (&*resource.gvr.group, &*resource.gvr.resource) {
        ("", "pods") => &["po"],
        ("", "services") => &["svc"],
        ("", "configmaps") => &["cm"],
        ("", "namespaces") => &["ns"],
        ("", "nodes") => &["no"],
        ("", "events") => &["ev"],
        ("", "serviceaccounts") => &["sa"],
        ("", "persistentvolumes") => &["pv"],
        ("", "persistentvolumeclaims") => &["pvc"],
        ("apps", "deployments") => &["deploy"],
        ("apps", "replicasets") => &["rs"],
        ("apps", "statefulsets") => &["sts"],
        ("apps", "daemonsets") => &["ds"],
        ("batch", "cronjobs") => &["cj"],
        ("networking.k8s.io", "ingresses") => &["ing"],
        ("networking.k8s.io", "networkpolicies") => &["netpol"],
        ("autoscaling", "horizontalpodautoscalers") => &["hpa"],
        ("policy", "poddisruptionbudgets") => &["pdb"],
        ("apiextensions.k8s.io", "customresourcedefinitions") => &["crd", "crds"],
        _ => &[],
    }
}

/// The schema of an object whose fields are its cluster's business.
fn schema(group: &str, version: &str, resource: &ApiResource) -> Value {
    json!({
        "type": "object",
        "description": format!("{} as its cluster holds it, with the cluster's name in an annotation.", resource.kind),
        "x-kubernetes-group-version-kind": [{ "group": group, "version": version, "kind": resource.kind }],
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

fn schemas(groups: &Groups, wanted: impl Fn(&str, &str) -> bool) -> Value {
    let mut schemas = serde_json::Map::new();
    for ((group, version), resources) in groups.iter().filter(|((group, version), _)| wanted(group, version)) {
        for resource in resources {
            let name = if group.is_empty() { "core" } else { group };
            schemas.insert(format!("{name}.{version}.{}", resource.kind), schema(group, version, resource));
        }
    }
    Value::Object(schemas)
}

/// By these kubectl finds the kind of a resource.
fn list_operation(group: &str, version: &str, resource: &ApiResource) -> Value {
    json!({ "get": {
        "x-kubernetes-action": "list",
        "x-kubernetes-group-version-kind": { "group": group, "version": version, "kind": resource.kind },
        "responses": { "200": { "description": "OK" } },
    } })
}

fn information() -> Value {
    json!({ "title": "Fleetglass cache", "version": env!("CARGO_PKG_VERSION") })
}

fn open_api_v2(groups: &Groups) -> Value {
    json!({ "swagger": "2.0", "info": information(), "paths": {}, "definitions": schemas(groups, |_, _| true) })
}

fn open_api_v3_index(groups: &Groups) -> Value {
    let paths: serde_json::Map<String, Value> = groups
        .keys()
        .map(|(group, version)| {
            let prefix = if group.is_empty() { "api" } else { "apis" };
            let path = format!("{prefix}/{}", group_version(group, version));
            let url = format!("{MOUNT}/cache/openapi/v3/{path}");
            (path, json!({ "serverRelativeURL": url }))
        })
        .collect();
    json!({ "paths": paths })
}

fn open_api_v3(groups: &Groups, group: &str, version: &str) -> Result<Value, ApiError> {
    resources_of(groups, group, version)?;
    let schemas = schemas(groups, |other_group, other_version| other_group == group && other_version == version);
    let paths: serde_json::Map<String, Value> = resources_of(groups, group, version)?
        .iter()
        .map(|resource| (resource.gvr.collection_path(None), list_operation(group, version, resource)))
        .collect();
    Ok(json!({ "openapi": "3.0.0", "info": information(), "paths": paths, "components": { "schemas": schemas } }))
}

#[cfg(test)]
mod tests {
    use indexer::resource::GroupVersionResource;

    use super::*;

    fn groups() -> Groups {
        let resource = |group: &str, resource: &str, kind: &str| ApiResource {
            gvr: GroupVersionResource::new(group, "v1", resource),
            kind: kind.into(),
            namespaced: true,
            watchable: true,
        };
        BTreeMap::from([
            ((String::new(), "v1".to_owned()), vec![resource("", "pods", "Pod")]),
            (("apps".to_owned(), "v1".to_owned()), vec![resource("apps", "deployments", "Deployment")]),
        ])
    }

    #[test]
    fn discovery_lists_what_is_cached_with_the_names_people_type() {
        assert_eq!(core_versions(&groups())["versions"], json!(["v1"]));
        assert_eq!(all_groups(&groups())[0]["name"], "apps");
        let list = resource_list(&groups(), "apps", "v1").unwrap();
        assert_eq!(list["resources"][0]["shortNames"], json!(["deploy"]));
        assert_eq!(resource_list(&groups(), "apps", "v2").unwrap_err().code(), 404);
    }

    #[test]
    fn each_group_has_a_schema_document_that_its_index_leads_to() {
        let index = open_api_v3_index(&groups());
        assert_eq!(
            index["paths"]["apis/apps/v1"]["serverRelativeURL"],
            "/apis/search.karmada.io/v1alpha1/search/cache/openapi/v3/apis/apps/v1"
        );
        let document = open_api_v3(&groups(), "apps", "v1").unwrap();
        assert!(document["components"]["schemas"]["apps.v1.Deployment"].is_object());
    }
}
