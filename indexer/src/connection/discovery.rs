//! What a member serves: from its aggregated discovery, or from the older documents where it has none.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::{ConnectionError, MemberConnection};
use crate::resource::{ApiResource, GroupVersionResource};

/// Aggregated discovery first; servers that do not know it answer with the older form.
const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// The resources a member serves. Of a group, the server's preferred version comes first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discovery {
    resources: Vec<ApiResource>,
    /// Group versions that the member names and could not describe just now, as `group/version`.
    incomplete: Vec<String>,
    /// It says nothing of what it doesn't name: it was put together from what was followed before a restart.
    is_remembered: bool,
}

/// A column that a CustomResourceDefinition asks to be printed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PrinterColumn {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    #[serde(rename = "type")]
    pub kind: String,
    /// OpenAPI format.
    #[serde(default)]
    pub format: String,
    /// What the column tells.
    #[serde(default)]
    pub description: String,
    /// Where the value stands, as Kubernetes' JSONPath without braces.
    pub json_path: String,
    /// 0 is always shown, higher only with `-o wide`.
    #[serde(default)]
    pub priority: i32,
}

impl Discovery {
    /// From resources that are known already, e.g. from a folder.
    pub fn new(resources: Vec<ApiResource>) -> Self {
        Self { resources, ..Self::default() }
    }

    /// From what was followed before a restart; the member serves this and maybe more.
    pub fn remembered(resources: Vec<ApiResource>) -> Self {
        Self { resources, is_remembered: true, ..Self::default() }
    }

    /// Whether what it doesn't name may be there all the same.
    pub fn is_remembered(&self) -> bool {
        self.is_remembered
    }

    /// The resource of a kind in exactly this `apiVersion`.
    pub fn find_kind(&self, api_version: &str, kind: &str) -> Option<&ApiResource> {
        self.resources.iter().find(|resource| &*resource.kind == kind && resource.gvr.api_version() == api_version)
    }

    /// The resource of a kind in the version that the member prefers.
    pub fn find_group_kind(&self, group: &str, kind: &str) -> Option<&ApiResource> {
        self.resources.iter().find(|resource| &*resource.kind == kind && &*resource.gvr.group == group)
    }

    /// All resources.
    pub fn all(&self) -> impl Iterator<Item = &ApiResource> {
        self.resources.iter()
    }

    /// Group versions that could not be described.
    pub fn incomplete(&self) -> &[String] {
        &self.incomplete
    }

    /// This discovery, with what an earlier one knew of the group versions that could not be described this time: an
    /// extension server that is down for a moment must not end the watches of its kinds.
    #[must_use]
    pub fn completed_by(mut self, earlier: &Self) -> Self {
        let kept = earlier.resources.iter().filter(|resource| {
            self.incomplete.contains(&resource.gvr.api_version()) && !self.resources.contains(resource)
        });
        let kept: Vec<ApiResource> = kept.cloned().collect();
        self.resources.extend(kept);
        self
    }

    fn add(&mut self, group: &str, version: &str, resource: Described) {
        if resource.name.contains('/') {
            return;
        }
        let has = |verb: &str| resource.verbs.iter().any(|known| known == verb);
        self.resources.push(ApiResource {
            gvr: GroupVersionResource::new(group, version, &resource.name),
            kind: resource.kind.into(),
            namespaced: resource.namespaced,
            watchable: has("list") && has("watch"),
        });
    }
}

/// Go's encoders write an empty list as null.
fn or_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

struct Described {
    name: String,
    kind: String,
    namespaced: bool,
    verbs: Vec<String>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    kind: String,
    #[serde(default, deserialize_with = "or_empty")]
    items: Vec<AggregatedGroup>,
    #[serde(default, deserialize_with = "or_empty")]
    versions: Vec<String>,
    #[serde(default, deserialize_with = "or_empty")]
    groups: Vec<LegacyGroup>,
}

#[derive(Deserialize)]
struct AggregatedGroup {
    #[serde(default)]
    metadata: GroupMetadata,
    #[serde(default, deserialize_with = "or_empty")]
    versions: Vec<AggregatedVersion>,
}

#[derive(Default, Deserialize)]
struct GroupMetadata {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct AggregatedVersion {
    version: String,
    #[serde(default, deserialize_with = "or_empty")]
    resources: Vec<AggregatedResource>,
    #[serde(default)]
    freshness: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AggregatedResource {
    resource: String,
    #[serde(default, deserialize_with = "or_empty")]
    response_kind: ResponseKind,
    #[serde(default)]
    scope: String,
    #[serde(default, deserialize_with = "or_empty")]
    verbs: Vec<String>,
}

#[derive(Default, Deserialize)]
struct ResponseKind {
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LegacyGroup {
    #[serde(default, deserialize_with = "or_empty")]
    versions: Vec<LegacyVersion>,
    #[serde(default)]
    preferred_version: Option<LegacyVersion>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LegacyVersion {
    group_version: String,
}

#[derive(Deserialize)]
struct LegacyResources {
    #[serde(default, deserialize_with = "or_empty")]
    resources: Vec<LegacyResource>,
}

#[derive(Deserialize)]
struct LegacyResource {
    name: String,
    kind: String,
    namespaced: bool,
    #[serde(default, deserialize_with = "or_empty")]
    verbs: Vec<String>,
}

impl Discovery {
    fn add_aggregated(&mut self, groups: Vec<AggregatedGroup>) {
        for group in groups {
            for version in group.versions {
                let name = &group.metadata.name;
                if version.freshness == "Stale" {
                    self.incomplete.push(GroupVersionResource::new(name, &version.version, "").api_version());
                }
                for resource in version.resources {
                    let described = Described {
                        name: resource.resource,
                        kind: resource.response_kind.kind,
                        namespaced: resource.scope == "Namespaced",
                        verbs: resource.verbs,
                    };
                    self.add(name, &version.version, described);
                }
            }
        }
    }

    fn add_legacy(&mut self, group_version: &str, document: LegacyResources) {
        let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
        for LegacyResource { name, kind, namespaced, verbs } in document.resources {
            self.add(group, version, Described { name, kind, namespaced, verbs });
        }
    }
}

/// The group versions of the older documents, preferred ones first within their group.
fn legacy_group_versions(document: Document) -> Vec<String> {
    let mut found = document.versions;
    for group in document.groups {
        let preferred = group.preferred_version.map(|version| version.group_version);
        let others = group.versions.into_iter().map(|version| version.group_version);
        found.extend(preferred.clone());
        found.extend(others.filter(|version| Some(version) != preferred.as_ref()));
    }
    found
}

impl MemberConnection {
    /// Asks the member what it serves.
    ///
    /// # Errors
    /// If the member does not answer; a single group that fails is left out and named in [`Discovery::incomplete`].
    pub async fn discover(&self) -> Result<Discovery, ConnectionError> {
        let mut discovery = Discovery::default();
        for root in ["/api", "/apis"] {
            let body = self.get_small(root, ACCEPT).await?;
            let document: Document = serde_json::from_slice(&body)?;
            if document.kind == "APIGroupDiscoveryList" {
                discovery.add_aggregated(document.items);
                continue;
            }
            for group_version in legacy_group_versions(document) {
                let path = format!("{root}/{group_version}");
                match self.get_small(&path, "application/json").await {
                    Ok(body) => match serde_json::from_slice(&body) {
                        Ok(resources) => discovery.add_legacy(&group_version, resources),
                        Err(_) => discovery.incomplete.push(group_version),
                    },
                    Err(error) if error.status_code().is_some() => discovery.incomplete.push(group_version),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(discovery)
    }

    /// The columns that the CustomResourceDefinition of a resource asks for; none where there is no such definition.
    ///
    /// # Errors
    /// If the member does not answer or does not allow it.
    pub async fn printer_columns(&self, resource: &ApiResource) -> Result<Vec<PrinterColumn>, ConnectionError> {
        let name = format!("{}.{}", resource.gvr.resource, resource.gvr.group);
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        match self.get_small(&path, "application/json").await {
            Ok(body) => Ok(columns_of(&body, &resource.gvr.version)?),
            Err(error) if error.status_code() == Some(404) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

#[derive(Deserialize)]
struct Definition {
    spec: DefinitionSpec,
}

#[derive(Deserialize)]
struct DefinitionSpec {
    #[serde(default, deserialize_with = "or_empty")]
    versions: Vec<DefinitionVersion>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DefinitionVersion {
    name: String,
    #[serde(default)]
    additional_printer_columns: Vec<PrinterColumn>,
}

/// The columns for one version in the JSON of a CustomResourceDefinition.
pub(crate) fn columns_of(definition: &[u8], version: &str) -> Result<Vec<PrinterColumn>, serde_json::Error> {
    let definition: Definition = serde_json::from_slice(definition)?;
    let columns: BTreeMap<String, Vec<PrinterColumn>> = definition
        .spec
        .versions
        .into_iter()
        .map(|version| (version.name, version.additional_printer_columns))
        .collect();
    Ok(columns.get(version).cloned().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGGREGATED: &str = r#"{"kind":"APIGroupDiscoveryList","items":[{"metadata":{"name":"apps"},"versions":[
        {"version":"v1","freshness":"Current","resources":[{"resource":"deployments","scope":"Namespaced","responseKind":{"group":"","version":"","kind":"Deployment"},
          "verbs":["list","watch","get"],"subresources":[{"subresource":"scale","verbs":["get"]}]}]},
        {"version":"v1beta1","freshness":"Stale","resources":[]}]}]}"#;

    #[test]
    fn aggregated_discovery_tells_kinds_scopes_and_what_can_be_watched() {
        let mut discovery = Discovery::default();
        let document: Document = serde_json::from_str(AGGREGATED).unwrap();
        discovery.add_aggregated(document.items);
        let deployments = discovery.find_kind("apps/v1", "Deployment").unwrap();
        assert!(deployments.namespaced && deployments.watchable);
        assert_eq!(discovery.incomplete(), ["apps/v1beta1"]);
        assert!(discovery.find_kind("apps/v2", "Deployment").is_none());
        assert!(discovery.find_group_kind("apps", "Deployment").is_some());
    }

    #[test]
    fn the_older_documents_are_read_with_the_preferred_version_first() {
        let groups = r#"{"kind":"APIGroupList","groups":[{"versions":[{"groupVersion":"a.io/v1beta1"},{"groupVersion":"a.io/v1"}],
            "preferredVersion":{"groupVersion":"a.io/v1"}}]}"#;
        assert_eq!(legacy_group_versions(serde_json::from_str(groups).unwrap()), ["a.io/v1", "a.io/v1beta1"]);
        let core = r#"{"kind":"APIVersions","versions":["v1"]}"#;
        assert_eq!(legacy_group_versions(serde_json::from_str(core).unwrap()), ["v1"]);
        let mut discovery = Discovery::default();
        let resources = r#"{"resources":[{"name":"pods","kind":"Pod","namespaced":true,"verbs":["list","watch"]},
            {"name":"pods/log","kind":"Pod","namespaced":true,"verbs":["get"]}]}"#;
        discovery.add_legacy("v1", serde_json::from_str(resources).unwrap());
        assert_eq!(discovery.all().count(), 1);
        assert!(discovery.find_kind("v1", "Pod").is_some());
    }

    #[test]
    fn a_group_that_is_down_for_a_moment_keeps_its_kinds() {
        let resource = |group: &str| ApiResource {
            gvr: GroupVersionResource::new(group, "v1", "things"),
            kind: "Thing".into(),
            namespaced: false,
            watchable: true,
        };
        let earlier = Discovery::new(vec![resource("a.io"), resource("b.io")]);
        let now = Discovery { incomplete: vec!["a.io/v1".into()], ..Discovery::default() };
        let completed = now.clone().completed_by(&earlier);
        assert_eq!(now.completed_by(&completed).all().count(), 1, "again and again adds nothing");
        assert!(completed.find_kind("a.io/v1", "Thing").is_some());
        assert!(completed.find_kind("b.io/v1", "Thing").is_none(), "what is gone is gone");
    }

    #[test]
    fn null_is_an_empty_list() {
        let text = r#"{"kind":"APIGroupDiscoveryList","items":[{"metadata":{"name":"m.io"},"versions":[{"version":"v1","resources":[
            {"resource":"things","scope":"Namespaced","responseKind":null,"verbs":null}]},{"version":"v2","resources":null}]}]}"#;
        let mut discovery = Discovery::default();
        discovery.add_aggregated(serde_json::from_str::<Document>(text).unwrap().items);
        assert!(!discovery.all().next().unwrap().watchable);
        assert!(serde_json::from_str::<LegacyResources>(r#"{"resources":null}"#).unwrap().resources.is_empty());
    }

    #[test]
    fn columns_are_those_of_the_version_that_is_watched() {
        let definition = br#"{"spec":{"versions":[{"name":"v1","additionalPrinterColumns":[{"name":"Size","type":"integer","jsonPath":".spec.size"}]},{"name":"v2"}]}}"#;
        assert_eq!(columns_of(definition, "v1").unwrap()[0].json_path, ".spec.size");
        assert!(columns_of(definition, "v2").unwrap().is_empty());
    }
}
