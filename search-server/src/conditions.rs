//! The `Ready` condition of each ResourceRegistry: yes, or why not, with the clusters and kinds that lag.
//!
//! In: the supervisor's overview, the cache and the backends. Out: status writes through the registry store, only when something changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apiservice::registry::{ReadyCondition, RegistryStore};
use apiservice::types::ResourceRegistry;
use indexer::backend::reports::Reports;
use indexer::backend::{BackendState, Backends};
use indexer::cache::Cache;
use indexer::plan::UnservedReason;
use indexer::status::{SyncStatus, sync_statuses};
use indexer::supervise::Overview;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::reconcile::misread_annotation;

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
    pub(super) const BACKEND_REFUSED: &str = "BackendRefused";
    pub(super) const BACKEND_FAILING: &str = "BackendFailing";
    pub(super) const BACKEND_FILLING: &str = "BackendFilling";
    pub(super) const NO_BACKEND: &str = "NoBackend";
}

/// What conditions are made of.
pub(crate) struct Facts {
    pub(crate) backends: Arc<Backends>,
    pub(crate) looked_at: LookedAt,
}

/// Who tells how well clusters are followed.
pub(crate) enum LookedAt {
    /// This server follows all of them.
    Followed { cache: Arc<Cache>, overview: watch::Receiver<Arc<Overview>> },
    /// Several servers follow some of them each, and report to backends.
    Reported { reports: watch::Receiver<Arc<Reports>>, followed: watch::Receiver<Arc<Overview>> },
}

impl LookedAt {
    /// The facts of this moment; none if they are not known, or somebody else is to write them.
    fn look(&self) -> Option<Looked> {
        match self {
            Self::Followed { cache, overview } => {
                let overview = overview.borrow().clone();
                overview.loaded.then(|| Looked {
                    statuses: sync_statuses(&overview, cache),
                    overview,
                    needs_backend: false,
                })
            }
            Self::Reported { reports, followed } => {
                // Whoever has the first shard writes for all.
                let is_ours = {
                    let followed = followed.borrow();
                    followed.loaded && followed.members.shards.held.contains(&0)
                };
                let reports = reports.borrow().clone();
                (is_ours && reports.is_loaded && reports.problem.is_none()).then(|| Looked {
                    statuses: reports.statuses(),
                    overview: Arc::new(reports.overview()),
                    needs_backend: true,
                })
            }
        }
    }
}

/// Writes conditions until cancelled.
pub(crate) async fn report(store: RegistryStore, facts: Facts, cancelled: CancellationToken) {
    let mut written = BTreeMap::new();
    loop {
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if let Some(looked) = facts.looked_at.look() {
            write(&store, &looked, &facts.backends, &mut written).await;
        } else {
            // Whoever writes meanwhile may write something else.
            written.clear();
        }
    }
}

/// What was written last of a registry: of which one by that name, of which generation, and what.
type Written = (Option<String>, i64, ReadyCondition);

/// The facts of one moment.
struct Looked {
    overview: Arc<Overview>,
    statuses: Vec<SyncStatus>,
    /// Whether only what backends have can be read.
    needs_backend: bool,
}

async fn write(
    store: &RegistryStore,
    Looked { overview, statuses, needs_backend }: &Looked,
    backends: &Backends,
    written: &mut BTreeMap<String, Written>,
) {
    let registries = store.subscribe().borrow().clone();
    let names: BTreeSet<&str> = registries.registries.iter().map(ResourceRegistry::name).collect();
    written.retain(|name, _| names.contains(name.as_str()));
    for registry in &registries.registries {
        let is_readable = !needs_backend || has_backend(registry);
        // The plan lags the store by moments; a condition is only about a spec that has been planned.
        let selected = overview.plan.selected.get(registry.name());
        let Some(selected) = selected.map(BTreeSet::len).or_else(|| (!is_readable).then_some(0)) else { continue };
        let own: Vec<&SyncStatus> =
            statuses.iter().filter(|status| status.registries.contains(registry.name())).collect();
        let mut condition = match is_readable {
            true => condition(overview, registry.name(), selected, &own),
            false => no_backend(),
        };
        if has_backend(registry) {
            condition = with_backend(condition, backends, registry.name());
        }
        if let Some(misread) = misread_annotation(registry) {
            condition.message = format!("{}; {misread}", condition.message);
        }
        let knows_all = !needs_backend && !overview.members.is_partial;
        if let Some(unknown) = unknown_clusters(overview, registry).filter(|_| knows_all) {
            condition.message = format!("{}; {unknown}", condition.message);
        }
        let wanted = (registry.metadata.uid.clone(), registry.generation(), condition);
        if written.get(registry.name()) == Some(&wanted) {
            continue;
        }
        match store.set_ready(registry.name(), wanted.1, &wanted.2).await {
            Ok(()) => drop(written.insert(registry.name().to_owned(), wanted)),
            Err(error) => warn!(registry = registry.name(), %error, "the registry's status cannot be written"),
        }
    }
}

/// Clusters that a registry names and nobody knows.
fn unknown_clusters(overview: &Overview, registry: &ResourceRegistry) -> Option<String> {
    let named = registry.spec.target_cluster.cluster_names.iter();
    let unknown: Vec<String> =
        named.filter(|name| !overview.members.members.contains_key(name.as_str())).cloned().collect();
    (!unknown.is_empty()).then(|| format!("there is no cluster {}", list(unknown.into_iter())))
}

fn has_backend(registry: &ResourceRegistry) -> bool {
    registry.spec.backend_store.as_ref().is_some_and(|store| store.open_search.is_some())
}

/// Servers that hold nothing show nothing of it.
fn no_backend() -> ReadyCondition {
    ReadyCondition {
        ready: false,
        reason: reason::NO_BACKEND.to_owned(),
        message: "servers answer from backends here, and spec.backendStore names none".to_owned(),
    }
}

/// A registry is ready only if its backend has what the cache has.
fn with_backend(synced: ReadyCondition, backends: &Backends, registry: &str) -> ReadyCondition {
    let not_ready = |reason: &str, message: String| ReadyCondition { ready: false, reason: reason.to_owned(), message };
    let backend = backends.of_registry(registry);
    // What somebody has to mend comes before what mends itself.
    if let Some(problem) = backend.as_ref().and_then(|backend| backend.problem.clone()) {
        return not_ready(reason::BACKEND_REFUSED, problem);
    }
    if !synced.ready {
        return synced;
    }
    let Some(backend) = backend else {
        return not_ready(reason::BACKEND_FILLING, "the backend has not been asked yet".to_owned());
    };
    match backend.health.state() {
        BackendState::Connecting => {
            not_ready(reason::BACKEND_FILLING, format!("{} has not answered yet", backend.name))
        }
        BackendState::Filling { .. } => {
            // No figures: a condition is written whenever it changes.
            not_ready(
                reason::BACKEND_FILLING,
                format!("{} is being compared with what the clusters have", backend.name),
            )
        }
        BackendState::Failing { error, .. } => not_ready(reason::BACKEND_FAILING, error),
        BackendState::Following => {
            // Which ones changes too often for a condition.
            let has_refused = !backend.health.rejections().is_empty();
            let told = if has_refused { "; it refuses some of them, see search/status" } else { "" };
            ReadyCondition { message: format!("{}, written to {}{told}", synced.message, backend.name), ..synced }
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
