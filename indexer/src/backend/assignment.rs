//! What of the cache a backend is to hold: a pure function of the registries that name it and of what members serve.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::document::{self, Collection};
use crate::plan::{PlannedMember, Registry, Scope, Unserved, UnservedReason, WatchPlan};
use crate::resource::{ClusterName, GroupVersionResource};
use crate::shard::Shards;
use crate::supervise::Overview;

/// What a backend is to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Assignment {
    /// Each collection, with the resource that the cache holds it as, and the namespaces that are wanted of it.
    pub(super) collections: BTreeMap<Arc<Collection>, Share>,
    /// Clusters of which is not known yet what they serve: what the backend has of them stays as it is.
    pub(super) undecided: BTreeSet<ClusterName>,
    /// Whether some registry may send more there than is known: what the backend has beside `collections` stays as it is.
    pub(super) is_partial: bool,
    /// Whose clusters these are: what the backend has of others stays as it is.
    pub(super) shards: Shards,
    /// The registries that want all this, each with the clusters that it selects.
    pub(super) selected: BTreeMap<String, BTreeSet<ClusterName>>,
    /// Whether objects are written in karmada-search's layout too.
    pub(super) in_original_layout: bool,
}

/// What of a collection is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) resource: GroupVersionResource,
    pub(super) scope: Scope,
}

impl Assignment {
    /// What these registries want.
    pub(super) fn of(registries: &[Registry], overview: &Overview) -> Self {
        let members: Vec<_> = overview
            .members
            .members
            .values()
            .map(|member| PlannedMember {
                member,
                discovery: overview.discoveries.get(&member.name).map(|known| &**known),
            })
            .collect();
        let plan = WatchPlan::new(registries, &members);
        // A group that a cluster could not tell of may have the kind.
        let may_be_served = |unserved: &Unserved| {
            let discovery = overview.discoveries.get(&unserved.cluster);
            let group = |version: &str| version.split_once('/').map_or(String::new(), |(group, _)| group.to_owned());
            discovery.is_none_or(|known| {
                known.incomplete().iter().any(|version| group(version) == unserved.selector.group())
            })
        };
        let unknown = plan
            .unserved
            .iter()
            .filter(|unserved| unserved.reason == UnservedReason::NotDiscovered || may_be_served(unserved));
        let mut assignment = Self {
            undecided: unknown.map(|unserved| unserved.cluster.clone()).collect(),
            shards: overview.members.shards.clone(),
            is_partial: overview.members.is_partial,
            selected: plan.selected.clone(),
            ..Self::default()
        };
        for (key, target) in plan.watches {
            let GroupVersionResource { group, resource, .. } = &key.resource;
            let collection =
                Collection { cluster: key.cluster, group: Arc::clone(group), resource: Arc::clone(resource) };
            let share = Share { resource: key.resource, scope: target.scope };
            assignment.add(collection, share);
        }
        assignment
    }

    /// A resource that registries name in two versions is sent in one: the one of which more is wanted, else the later one.
    fn add(&mut self, collection: Collection, share: Share) {
        let is_less = |present: &Share| present.scope != Scope::All && share.scope == Scope::All;
        match self.collections.get_mut(&collection) {
            Some(present) if is_less(present) => *present = share,
            Some(present) => {
                tracing::debug!(%collection, sent = %present.resource, not_sent = %share.resource, "named in two versions: sent in one");
            }
            None => drop(self.collections.insert(Arc::new(collection), share)),
        }
    }

    /// Which state of an object a document has: what is to be written otherwise is another one.
    pub(super) fn state_of(&self, fingerprint: u64) -> String {
        document::state(if self.in_original_layout { !fingerprint } else { fingerprint })
    }

    /// Whether an object is wanted.
    pub(super) fn wants(&self, collection: &Collection, namespace: &str) -> bool {
        self.collections.get(collection).is_some_and(|share| share.scope.contains(namespace))
    }
}
