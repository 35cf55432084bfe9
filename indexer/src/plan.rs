//! Which (cluster, resource) to watch for the present registries: a pure function of registries, members and what each
//! member's discovery says.
//!
//! Overlapping registries share one watch. A kind is looked up in the member that is to be watched, never in the control
//! plane, so that a kind that exists in one member only works; a member that serves the kind in another version than the
//! registry names is watched in its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::affinity::ClusterAffinity;
use crate::connection::Discovery;
use crate::member::Member;
use crate::resource::{ApiResource, ClusterName, GroupVersionResource};

/// What a ResourceRegistry asks for.
#[derive(Debug, Clone)]
pub struct Registry {
    /// Its name.
    pub name: String,
    /// Of which clusters.
    pub clusters: ClusterAffinity,
    /// Which kinds.
    pub selectors: Vec<ResourceSelector>,
    /// Where the objects are sent, beside the cache.
    pub backend: Option<BackendReference>,
    /// What answers queries for them; what the server is set to, if that is not said.
    pub searched_in: Option<SearchedIn>,
}

/// What answers queries for the objects of a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchedIn {
    /// The index of this program.
    Index,
    /// The backend that the registry names.
    Backend,
}

impl Registry {
    /// Whether its backend is to answer queries.
    pub fn asks_backend(&self, by_default: SearchedIn) -> bool {
        self.backend.is_some() && self.searched_in.unwrap_or(by_default) == SearchedIn::Backend
    }
}

/// What a registry says of its backend.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendReference {
    /// URLs of its nodes.
    pub addresses: Vec<String>,
    /// The Secret with its credentials.
    pub secret: Option<SecretReference>,
}

impl fmt::Debug for BackendReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Addresses may carry passwords.
        formatter.debug_struct("BackendReference").field("secret", &self.secret).finish_non_exhaustive()
    }
}

/// A Secret of the control plane.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretReference {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for SecretReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// One entry of `spec.resourceSelectors`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceSelector {
    /// `v1` or `group/version`.
    pub api_version: String,
    /// Kind, e.g. `Deployment`.
    pub kind: String,
    /// Only this namespace; all if none.
    pub namespace: Option<String>,
}

impl ResourceSelector {
    pub(crate) fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    fn version(&self) -> &str {
        self.api_version.split_once('/').map_or(&self.api_version, |(_, version)| version)
    }
}

/// One watch: a cluster, and a resource in the version that registries name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchKey {
    /// Cluster to be watched.
    pub cluster: ClusterName,
    /// Resource as it is asked for.
    pub resource: GroupVersionResource,
}

/// How to watch it, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchTarget {
    /// The resource as the member serves it.
    pub served: ApiResource,
    /// Which namespaces.
    pub scope: Scope,
    /// The registries that asked for it.
    pub registries: BTreeSet<String>,
}

impl WatchTarget {
    /// Whether both are served by the same requests, whoever asked for them.
    pub fn is_same_watch(&self, other: &Self) -> bool {
        self.served == other.served && self.scope == other.scope
    }
}

/// Namespaces of a watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    /// All of them, or the resource has none.
    All,
    /// These.
    Namespaces(BTreeSet<String>),
}

impl Scope {
    /// The one namespace to ask the member for, if there is just one.
    pub fn only_namespace(&self) -> Option<&str> {
        match self {
            Self::Namespaces(names) if names.len() == 1 => names.first().map(String::as_str),
            _ => None,
        }
    }

    /// Whether objects of a namespace are wanted.
    pub fn contains(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(names) => names.contains(namespace),
        }
    }

    fn widen(&mut self, namespace: Option<&str>) {
        match (&mut *self, namespace) {
            (Self::Namespaces(names), Some(namespace)) => drop(names.insert(namespace.to_owned())),
            (Self::Namespaces(_), None) => *self = Self::All,
            (Self::All, _) => {}
        }
    }
}

/// A kind that a registry asks of a cluster and that the cluster does not offer (now).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unserved {
    /// The cluster.
    pub cluster: ClusterName,
    /// What was asked.
    pub selector: ResourceSelector,
    /// By which registry.
    pub registry: String,
    /// Why it is not watched.
    pub reason: UnservedReason,
}

/// Why a kind is not watched in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnservedReason {
    /// The cluster has no such kind.
    NoSuchKind,
    /// The kind can't be listed and watched.
    NotWatchable,
    /// The cluster has not told yet what it serves.
    NotDiscovered,
}

/// What to watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchPlan {
    /// Each watch and its target.
    pub watches: BTreeMap<WatchKey, WatchTarget>,
    /// What was asked and cannot be watched.
    pub unserved: Vec<Unserved>,
    /// For each registry the clusters it selects.
    pub selected: BTreeMap<String, BTreeSet<ClusterName>>,
}

/// What the plan needs to know of a member.
#[derive(Debug, Clone, Copy)]
pub struct PlannedMember<'a> {
    /// The member.
    pub member: &'a Member,
    /// What it serves, once that is known.
    pub discovery: Option<&'a Discovery>,
}

impl WatchPlan {
    /// The plan for these registries and members.
    pub fn new(registries: &[Registry], members: &[PlannedMember<'_>]) -> Self {
        let mut plan = Self::default();
        for registry in registries {
            let selected = plan.selected.entry(registry.name.clone()).or_default();
            let matching: Vec<_> = members.iter().filter(|planned| registry.clusters.matches(planned.member)).collect();
            selected.extend(matching.iter().map(|planned| planned.member.name.clone()));
            for planned in matching {
                for selector in &registry.selectors {
                    plan.add(registry, selector, planned);
                }
            }
        }
        plan
    }

    fn add(&mut self, registry: &Registry, selector: &ResourceSelector, planned: &PlannedMember<'_>) {
        let cluster = planned.member.name.clone();
        match resolve(selector, planned.discovery) {
            Ok(served) => {
                let resource = GroupVersionResource::new(selector.group(), selector.version(), &served.gvr.resource);
                let namespace = selector.namespace.as_deref().filter(|_| served.namespaced);
                self.watches
                    .entry(WatchKey { cluster, resource })
                    .and_modify(|target| {
                        target.scope.widen(namespace);
                        target.registries.insert(registry.name.clone());
                    })
                    .or_insert_with(|| WatchTarget {
                        served: served.clone(),
                        scope: namespace.map_or(Scope::All, |name| Scope::Namespaces([name.to_owned()].into())),
                        registries: [registry.name.clone()].into(),
                    });
            }
            Err(reason) => {
                let registry = registry.name.clone();
                self.unserved.push(Unserved { cluster, selector: selector.clone(), registry, reason });
            }
        }
    }
}

fn resolve<'a>(
    selector: &ResourceSelector,
    discovery: Option<&'a Discovery>,
) -> Result<&'a ApiResource, UnservedReason> {
    let discovery = discovery.ok_or(UnservedReason::NotDiscovered)?;
    let served = discovery
        .find_kind(&selector.api_version, &selector.kind)
        .or_else(|| discovery.find_group_kind(selector.group(), &selector.kind))
        .ok_or(if discovery.is_remembered() { UnservedReason::NotDiscovered } else { UnservedReason::NoSuchKind })?;
    if served.watchable { Ok(served) } else { Err(UnservedReason::NotWatchable) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affinity::tests::member;

    fn served(group: &str, version: &str, resource: &str, kind: &str, namespaced: bool) -> ApiResource {
        let gvr = GroupVersionResource::new(group, version, resource);
        ApiResource { gvr, kind: kind.into(), namespaced, watchable: true }
    }

    fn discovery() -> Discovery {
        Discovery::new(vec![
            served("apps", "v1", "deployments", "Deployment", true),
            served("", "v1", "nodes", "Node", false),
            ApiResource { watchable: false, ..served("", "v1", "bindings", "Binding", true) },
        ])
    }

    fn registry(name: &str, clusters: &[&str], selectors: &[(&str, &str, Option<&str>)]) -> Registry {
        Registry {
            name: name.into(),
            clusters: ClusterAffinity {
                cluster_names: clusters.iter().map(|name| (*name).to_owned()).collect(),
                ..Default::default()
            },
            backend: None,
            searched_in: None,
            selectors: selectors
                .iter()
                .map(|(api_version, kind, namespace)| ResourceSelector {
                    api_version: (*api_version).into(),
                    kind: (*kind).into(),
                    namespace: namespace.map(str::to_owned),
                })
                .collect(),
        }
    }

    fn plan(registries: &[Registry], discoveries: &[(&str, &Discovery)]) -> WatchPlan {
        let members: Vec<_> = discoveries.iter().map(|(name, discovery)| (member(name, &[]), *discovery)).collect();
        let planned: Vec<_> =
            members.iter().map(|(member, discovery)| PlannedMember { member, discovery: Some(discovery) }).collect();
        WatchPlan::new(registries, &planned)
    }

    #[test]
    fn overlapping_registries_share_one_watch_and_widen_it() {
        let discovery = discovery();
        let narrow = registry("narrow", &[], &[("apps/v1", "Deployment", Some("a"))]);
        let other = registry("other", &["m1"], &[("apps/v1", "Deployment", Some("b"))]);
        let both = plan(&[narrow.clone(), other], &[("m1", &discovery), ("m2", &discovery)]);
        let scopes: Vec<_> = both.watches.values().map(|target| target.scope.clone()).collect();
        let names = |names: &[&str]| Scope::Namespaces(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(scopes, [names(&["a", "b"]), names(&["a"])], "one cluster's namespaces do not leak into another's");
        let wide = registry("wide", &[], &[("apps/v1", "Deployment", None)]);
        let all = plan(&[narrow, wide], &[("m1", &discovery)]);
        let target = all.watches.values().next().unwrap();
        assert_eq!((all.watches.len(), &target.scope, target.registries.len()), (1, &Scope::All, 2));
    }

    #[test]
    fn a_namespace_means_nothing_for_a_kind_without_namespaces() {
        let plan = plan(&[registry("r", &[], &[("v1", "Node", Some("a"))])], &[("m1", &discovery())]);
        assert_eq!(plan.watches.values().next().unwrap().scope, Scope::All);
    }

    #[test]
    fn a_kind_is_looked_up_in_each_member_and_watched_in_that_members_version() {
        let old = Discovery::new(vec![served("example.io", "v1beta1", "widgets", "Widget", true)]);
        let new = Discovery::new(vec![served("example.io", "v1", "widgets", "Widget", true)]);
        let none = Discovery::new(Vec::new());
        let registries = [registry("r", &[], &[("example.io/v1", "Widget", None)])];
        let plan = plan(&registries, &[("m1", &old), ("m2", &new), ("m3", &none)]);
        let versions: Vec<_> = plan
            .watches
            .iter()
            .map(|(key, target)| (key.resource.version.to_string(), target.served.gvr.version.to_string()))
            .collect();
        assert_eq!(versions, [("v1".into(), "v1beta1".into()), ("v1".into(), "v1".into())]);
        assert_eq!((plan.unserved.len(), plan.unserved[0].reason), (1, UnservedReason::NoSuchKind));
    }

    #[test]
    fn what_cannot_be_watched_is_named_with_the_reason() {
        let registries = [registry("r", &[], &[("v1", "Binding", None), ("v1", "Node", None)])];
        let watchable = plan(&registries, &[("m1", &discovery())]);
        assert_eq!(watchable.unserved[0].reason, UnservedReason::NotWatchable);
        let unknown = member("m2", &[]);
        let undiscovered = WatchPlan::new(&registries, &[PlannedMember { member: &unknown, discovery: None }]);
        assert!(undiscovered.unserved.iter().all(|unserved| unserved.reason == UnservedReason::NotDiscovered));
        assert_eq!(undiscovered.selected["r"].len(), 1);
    }
}
