//! Which resources there are, and the kind of each: what registries select, what members serve, and what every Kubernetes
//! has. A resource that is known and not cached is answered with an empty list; an unknown one is refused.

use std::collections::BTreeMap;

use indexer::resource::{ApiResource, GroupVersionResource};
use indexer::source::builtin::built_in_resource;

use super::SearchState;

/// The kind of a resource's objects, if anybody knows it.
pub(super) fn kind(state: &SearchState, resource: &GroupVersionResource) -> Option<String> {
    let overview = state.overview();
    let watched = overview.plan.watches.iter().find(|(key, _)| key.resource == *resource);
    watched
        .map(|(_, target)| target.served.kind.to_string())
        .or_else(|| built_in_resource(resource).map(|known| known.kind.to_string()))
        .or_else(|| overview.served(resource).map(|served| served.kind.to_string()))
}

/// The resources that are cached, as discovery describes them, by group and version.
pub(super) fn cached(state: &SearchState) -> BTreeMap<(String, String), Vec<ApiResource>> {
    let overview = state.overview();
    let mut groups: BTreeMap<(String, String), Vec<ApiResource>> = BTreeMap::new();
    for (key, target) in &overview.plan.watches {
        let resources = groups.entry((key.resource.group.to_string(), key.resource.version.to_string())).or_default();
        if !resources.iter().any(|known| known.gvr == key.resource) {
            resources.push(ApiResource { gvr: key.resource.clone(), ..target.served.clone() });
        }
    }
    for resources in groups.values_mut() {
        resources.sort_by(|left, right| left.gvr.cmp(&right.gvr));
    }
    groups
}
