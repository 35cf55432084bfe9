//! The `Ready` condition of each ResourceRegistry: yes, or why not, with the clusters and kinds that lag.
//!
//! In: the supervisor's overview and the cache. Out: status writes through the registry store, only when something changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apiservice::registry::{ReadyCondition, RegistryStore};
use indexer::cache::Cache;
use indexer::plan::UnservedReason;
use indexer::status::{SyncStatus, sync_statuses};
use indexer::supervise::Overview;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How often the facts are looked at. They change without notice, object by object.
const EVERY: Duration = Duration::from_secs(1);
/// Laggards named in a message; the rest are counted.
const NAMED: usize = 10;

/// Why a registry is or is not ready, as `reason` carries it.
mod reason {
    pub(super) const SYNCED: &str = "Synced";
    pub(super) const SYNCING: &str = "Syncing";
    pub(super) const OUT_OF_TOUCH: &str = "OutOfTouch";
    pub(super) const KIND_NOT_SERVED: &str = "KindNotServed";
    pub(super) const NO_CLUSTER: &str = "NoClusterSelected";
    pub(super) const NO_RESOURCE: &str = "NoResourceSelected";
}

/// Writes conditions until cancelled.
pub(crate) async fn report(
    store: RegistryStore,
    cache: Arc<Cache>,
    overview: watch::Receiver<Arc<Overview>>,
    cancelled: CancellationToken,
) {
    let mut written: BTreeMap<String, (i64, ReadyCondition)> = BTreeMap::new();
    loop {
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let present = overview.borrow().clone();
        if present.loaded {
            write(&store, &present, &sync_statuses(&present, &cache), &mut written).await;
        }
    }
}

async fn write(
    store: &RegistryStore,
    overview: &Overview,
    statuses: &[SyncStatus],
    written: &mut BTreeMap<String, (i64, ReadyCondition)>,
) {
    let registries = store.subscribe().borrow().clone();
    let names: BTreeSet<&str> = registries.registries.iter().map(apiservice::types::ResourceRegistry::name).collect();
    written.retain(|name, _| names.contains(name.as_str()));
    for registry in &registries.registries {
        // The plan lags the store by moments; a condition is only about a spec that has been planned.
        let Some(selected) = overview.plan.selected.get(registry.name()) else { continue };
        let own: Vec<&SyncStatus> =
            statuses.iter().filter(|status| status.registries.contains(registry.name())).collect();
        let mut condition = condition(overview, registry.name(), selected.len(), &own);
        if registry.spec.backend_store.is_some() {
            condition.message.push_str("; spec.backendStore has no effect yet: objects are cached and sent nowhere");
        }
        let wanted = (registry.generation(), condition);
        if written.get(registry.name()) == Some(&wanted) {
            continue;
        }
        match store.set_ready(registry.name(), wanted.0, &wanted.1).await {
            Ok(()) => drop(written.insert(registry.name().to_owned(), wanted)),
            Err(error) => warn!(registry = registry.name(), %error, "the registry's status cannot be written"),
        }
    }
}

fn condition(overview: &Overview, registry: &str, selected: usize, statuses: &[&SyncStatus]) -> ReadyCondition {
    let condition = |ready, reason: &str, message: String| ReadyCondition { ready, reason: reason.to_owned(), message };
    if selected == 0 {
        let known = overview.members.members.len();
        let message = format!("targetCluster selects none of the {known} clusters there are");
        return condition(false, reason::NO_CLUSTER, message);
    }
    if statuses.is_empty() {
        return condition(false, reason::NO_RESOURCE, "resourceSelectors selects nothing".to_owned());
    }
    let unserved = unserved_kinds(overview, registry);
    let lagging: Vec<&&SyncStatus> =
        statuses.iter().filter(|status| !status.synced && !unserved.is_of(status)).collect();
    if !lagging.is_empty() {
        let reason =
            if lagging.iter().any(|status| status.error.is_some()) { reason::OUT_OF_TOUCH } else { reason::SYNCING };
        return condition(false, reason, list(lagging.into_iter().map(|status| laggard(status))));
    }
    if !unserved.nowhere.is_empty() {
        let message = format!("no selected cluster serves {}", list(unserved.nowhere.iter().cloned()));
        return condition(false, reason::KIND_NOT_SERVED, message);
    }
    let mut message = format!("{selected} clusters followed");
    if !unserved.somewhere.is_empty() {
        message = format!("{message}; not served by all: {}", list(unserved.somewhere.iter().cloned()));
    }
    condition(true, reason::SYNCED, message)
}

fn laggard(status: &SyncStatus) -> String {
    let resource =
        if status.group.is_empty() { status.resource.clone() } else { format!("{}.{}", status.resource, status.group) };
    match &status.error {
        Some(error) => format!("{resource} in {}: {error}", status.cluster),
        None => format!("{resource} in {}: being read", status.cluster),
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    let named = items.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if items.len() > NAMED { format!("{named}; and {} more", items.len() - NAMED) } else { named }
}

/// The kinds that clusters in reach do not serve.
struct UnservedKinds {
    nowhere: BTreeSet<String>,
    somewhere: BTreeSet<String>,
    kinds: BTreeSet<(String, String)>,
}

impl UnservedKinds {
    fn is_of(&self, status: &SyncStatus) -> bool {
        self.kinds.contains(&(status.cluster.to_string(), status.resource.clone()))
    }
}

fn unserved_kinds(overview: &Overview, registry: &str) -> UnservedKinds {
    let selected = overview.plan.selected.get(registry).map_or(0, BTreeSet::len);
    let mut missing: BTreeMap<String, usize> = BTreeMap::new();
    let mut kinds = BTreeSet::new();
    let of_registry = overview.plan.unserved.iter().filter(|unserved| unserved.registry == registry);
    for unserved in of_registry.filter(|unserved| unserved.reason != UnservedReason::NotDiscovered) {
        *missing.entry(format!("{} {}", unserved.selector.api_version, unserved.selector.kind)).or_default() += 1;
        kinds.insert((unserved.cluster.to_string(), unserved.selector.kind.clone()));
    }
    let (nowhere, somewhere): (Vec<_>, Vec<_>) = missing.into_iter().partition(|(_, count)| *count >= selected);
    let names = |counted: Vec<(String, usize)>| counted.into_iter().map(|(name, _)| name).collect();
    UnservedKinds { nowhere: names(nowhere), somewhere: names(somewhere), kinds }
}
