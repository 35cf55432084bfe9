//! Health checks, under the names that probes of karmada-search use.
//!
//! Ready means that registries can be read. Nothing here waits for aggregation: the control plane reaches us only once we
//! are ready.

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
    for (name, limit) in [("etcd", timeouts.health), ("etcd-readiness", timeouts.ready)] {
        let storage = Arc::clone(&watched.storage);
        health.register(Probe::Ready, name, move || {
            let storage = Arc::clone(&storage);
            async move {
                match tokio::time::timeout(limit, storage.ping()).await {
                    Ok(answer) => answer.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("no answer within {limit:?}")),
                }
            }
        });
    }
    // Requests pass the part that limits them before they come here, so that answering is the proof.
    for name in ["max-in-flight-filter", "storage-object-count-tracker-hook"] {
        health.register(Probe::Live, format!("poststarthook/{name}"), || async { Ok(()) });
    }
    for name in ["start-karmada-search-informers", "start-karmada-informers", "start-karmada-proxy-controller"] {
        health.register(Probe::Live, format!("poststarthook/{name}"), running(&watched.supervisor));
    }
    health.register(Probe::Live, "poststarthook/start-karmada-search-controller", running(&watched.reporter));
    for name in ["informer-sync", "poststarthook/generic-apiserver-start-informers", STORED] {
        let registries = watched.registries.subscribe();
        health.register(Probe::Ready, name, move || {
            let loaded = registries.borrow().loaded;
            async move { if loaded { Ok(()) } else { Err("registries have not been read yet".to_owned()) } }
        });
    }
    health
}

const STORED: &str = "poststarthook/search-storage-cache-readiness";

/// Whether a task that runs as long as the program still does.
fn running(task: &AbortHandle) -> impl Fn() -> std::future::Ready<Result<(), String>> + Send + Sync + 'static {
    let task = task.clone();
    move || std::future::ready(if task.is_finished() { Err("its task has ended".to_owned()) } else { Ok(()) })
}
