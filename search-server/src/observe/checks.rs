//! Health checks, under the names that probes of karmada-search use.
//!
//! Ready means that registries can be read. Nothing here waits for aggregation: the control plane reaches us only once we
//! are ready.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use apiservice::health::{Health, Probe};
use apiservice::registry::RegistryStore;
use apiservice::storage::Storage;
use tokio::task::AbortHandle;

/// How long the store may take to answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreTimeouts {
    /// `--etcd-healthcheck-timeout`
    pub(crate) health: Duration,
    /// `--etcd-readycheck-timeout`
    pub(crate) ready: Duration,
}

impl Default for StoreTimeouts {
    fn default() -> Self {
        Self { health: Duration::from_secs(2), ready: Duration::from_secs(2) }
    }
}

/// The parts whose life is checked.
pub(crate) struct Watched {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) registries: RegistryStore,
    /// Starts and ends what follows the clusters.
    pub(crate) supervisor: AbortHandle,
    /// Writes the registries' conditions.
    pub(crate) reporter: AbortHandle,
}

/// The checks of this program.
pub(crate) fn health(watched: &Watched, timeouts: StoreTimeouts) -> Health {
    let health = Health::new();
    health.register(Probe::Serving, "etcd", answers(&watched.storage, timeouts.health));
    health.register(Probe::Ready, "etcd-readiness", answers(&watched.storage, timeouts.ready));
    health.register(Probe::Serving, "poststarthook/generic-apiserver-start-informers", loaded(&watched.registries));
    health.register(Probe::Ready, "informer-sync", loaded(&watched.registries));
    // Requests pass the part that limits them before they come here, so that answering is the proof.
    for name in ["max-in-flight-filter", "storage-object-count-tracker-hook"] {
        health.register(Probe::Live, format!("poststarthook/{name}"), || async { Ok(()) });
    }
    for name in ["start-karmada-search-informers", "start-karmada-informers"] {
        health.register(Probe::Live, format!("poststarthook/{name}"), running(&watched.supervisor));
    }
    let stored = loaded(&watched.registries);
    health.register(Probe::Serving, "poststarthook/search-storage-cache-readiness", stored);
    health.register(Probe::Live, "poststarthook/start-karmada-search-controller", running(&watched.reporter));
    health.register(Probe::Live, "poststarthook/start-karmada-proxy-controller", running(&watched.supervisor));
    health
}

type Outcome = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Whether the store answers in time.
fn answers(storage: &Arc<dyn Storage>, limit: Duration) -> impl Fn() -> Outcome + Send + Sync + 'static {
    let storage = Arc::clone(storage);
    move || {
        let storage = Arc::clone(&storage);
        Box::pin(async move {
            match tokio::time::timeout(limit, storage.ping()).await {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {limit:?}")),
            }
        })
    }
}

/// Whether the registries were read at least once.
fn loaded(registries: &RegistryStore) -> impl Fn() -> Outcome + Send + Sync + 'static {
    let registries = registries.subscribe();
    move || {
        let loaded = registries.borrow().loaded;
        Box::pin(async move { if loaded { Ok(()) } else { Err("registries have not been read yet".to_owned()) } })
    }
}

/// Whether a task that runs as long as the program still does.
fn running(task: &AbortHandle) -> impl Fn() -> std::future::Ready<Result<(), String>> + Send + Sync + 'static {
    let task = task.clone();
    move || std::future::ready(if task.is_finished() { Err("its task has ended".to_owned()) } else { Ok(()) })
}
