//! ResourceRegistry objects over a store: documents with versions, and a snapshot of all that is always kept live.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::{ApiError, Subject};
use crate::managed_fields::{self, Manager};
use crate::storage::{Storage, StorageError, StorageEvent, Stored};
use crate::types::ResourceRegistry;
use crate::{GROUP, GROUP_VERSION};

/// The resource's plural name.
pub const RESOURCE: &str = "resourceregistries";
/// Attempts of a read-change-write before giving up; each failure means that somebody else succeeded.
pub(super) const ATTEMPTS: usize = 8;
/// Waits between attempts to read the store again.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
/// Who writes conditions.
const FIELD_MANAGER: &str = "fleetglass";

/// All registries at one moment.
#[derive(Debug, Clone, Default)]
pub struct RegistrySnapshot {
    /// In order of their names.
    pub registries: Vec<ResourceRegistry>,
    /// Whether the store has been read at all.
    pub loaded: bool,
    /// Whether some of what is stored can't be read, and is not among them.
    pub has_unreadable: bool,
}

/// Whether a registry is ready, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyCondition {
    /// `status`
    pub ready: bool,
    /// `reason`, one word.
    pub reason: String,
    /// `message`, for people.
    pub message: String,
}

/// The registries.
#[derive(Debug, Clone)]
pub struct RegistryStore {
    storage: Arc<dyn Storage>,
    snapshot: Arc<watch::Sender<Arc<RegistrySnapshot>>>,
}

/// The subject of errors about one registry.
pub(super) fn subject(name: &str) -> Subject<'_> {
    Subject { group: GROUP, resource: RESOURCE, name }
}

/// A store's failure as a caller sees it.
pub(super) fn api_error(error: &StorageError, name: &str) -> ApiError {
    match error {
        StorageError::Exists => ApiError::already_exists(subject(name)),
        StorageError::Conflict => ApiError::conflict(
            subject(name),
            "the object has been modified; please apply your changes to the latest version and try again",
        ),
        StorageError::Compacted => ApiError::expired("too old resource version"),
        StorageError::Unavailable(_) => ApiError::unavailable(error.to_string()),
        StorageError::Corrupt(_) => ApiError::internal(error.to_string()),
    }
}

/// A stored object as a document with its version.
pub(super) fn document(stored: &Stored) -> Result<Value, ApiError> {
    let mut document = parse(&stored.value, &stored.name)?;
    document["metadata"]["resourceVersion"] = json!(stored.revision.to_string());
    Ok(document)
}

/// Stored JSON as a document, with the fields that every answer has.
pub(super) fn parse(value: &[u8], name: &str) -> Result<Value, ApiError> {
    let mut document: Value = serde_json::from_slice(value)
        .ok()
        .filter(|document: &Value| document["metadata"].is_object())
        .ok_or_else(|| ApiError::internal(format!("what is stored of {RESOURCE} {name:?} is no object")))?;
    document["kind"] = json!(crate::validation::KIND);
    document["apiVersion"] = json!(GROUP_VERSION);
    if !document["status"].is_object() {
        document["status"] = json!({});
    }
    Ok(document)
}

/// A document as it is stored: the version is the store's.
pub(super) fn stored_form(mut document: Value) -> Bytes {
    if let Some(metadata) = document["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    // The original's encoder ends every document with a line's end.
    Bytes::from(format!("{document}\n"))
}

impl RegistryStore {
    /// Starts keeping the snapshot live until cancelled.
    pub fn start(storage: Arc<dyn Storage>, cancelled: CancellationToken) -> Self {
        let snapshot = Arc::new(watch::Sender::new(Arc::default()));
        let follower = Follower { storage: Arc::clone(&storage), snapshot: Arc::clone(&snapshot) };
        tokio::spawn(cancelled.run_until_cancelled_owned(follower.run()));
        Self { storage, snapshot }
    }

    /// The store below.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The present registries, and every later state.
    pub fn subscribe(&self) -> watch::Receiver<Arc<RegistrySnapshot>> {
        self.snapshot.subscribe()
    }

    /// Sets the `Ready` condition if it says something else than what is stored. A registry that is gone needs none.
    ///
    /// # Errors
    /// If the store does not answer, or others keep writing the object.
    pub async fn set_ready(&self, name: &str, generation: i64, ready: &ReadyCondition) -> Result<(), ApiError> {
        for _ in 0..ATTEMPTS {
            let Some(stored) = self.storage.get(name).await.map_err(|error| api_error(&error, name))? else {
                return Ok(());
            };
            let old = document(&stored)?;
            let Some(mut new) = with_ready(&old, generation, ready) else { return Ok(()) };
            let manager = Manager { name: FIELD_MANAGER.to_owned(), subresource: "status", time: now() };
            managed_fields::updated(&old, &mut new, &manager);
            match self.storage.update(name, stored_form(new), stored.revision).await {
                Ok(_) => return Ok(()),
                Err(StorageError::Conflict) => {}
                Err(error) => return Err(api_error(&error, name)),
            }
        }
        Err(api_error(&StorageError::Conflict, name))
    }
}

/// The present time as Kubernetes writes it: whole seconds.
pub(super) fn now() -> String {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default().to_string()
}

/// The document with the condition; none if it says the same already.
fn with_ready(old: &Value, generation: i64, ready: &ReadyCondition) -> Option<Value> {
    let mut conditions: Vec<Condition> =
        serde_json::from_value(old["status"]["conditions"].clone()).unwrap_or_default();
    let status = if ready.ready { "True" } else { "False" };
    let at = conditions.iter().position(|condition| condition.type_ == "Ready");
    let changed_at = match at.map(|at| &conditions[at]) {
        Some(present) if present.status == status => {
            let is_same = present.reason == ready.reason
                && present.message == ready.message
                && present.observed_generation == Some(generation);
            if is_same {
                return None;
            }
            present.last_transition_time.clone()
        }
        _ => Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()),
    };
    let condition = Condition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        reason: ready.reason.clone(),
        message: ready.message.clone(),
        observed_generation: Some(generation),
        last_transition_time: changed_at,
    };
    match at {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
    let mut new = old.clone();
    new["status"]["conditions"] = json!(conditions);
    Some(new)
}

/// Keeps the snapshot in step with the store.
struct Follower {
    storage: Arc<dyn Storage>,
    snapshot: Arc<watch::Sender<Arc<RegistrySnapshot>>>,
}

impl Follower {
    async fn run(self) {
        let mut delay = RETRY.0;
        let mut failing = false;
        loop {
            let begun = Instant::now();
            match self.follow(&mut failing).await {
                Ok(()) | Err(StorageError::Compacted) => delay = RETRY.0,
                Err(error) => {
                    // What was followed for a while and then broke off begins anew.
                    let was_followed = begun.elapsed() > RETRY.1;
                    delay = if was_followed { RETRY.0 } else { (delay * 2).min(RETRY.1) };
                    if !failing {
                        warn!(%error, "the registries cannot be read, retrying");
                    }
                    failing = true;
                }
            }
            tokio::time::sleep(delay).await;
        }
    }

    async fn follow(&self, failing: &mut bool) -> Result<(), StorageError> {
        let listing = self.storage.list().await?;
        if std::mem::take(failing) {
            info!("the registries can be read again");
        }
        let mut registries: BTreeMap<String, Read> =
            listing.items.iter().map(|stored| (stored.name.clone(), read(stored))).collect();
        self.publish(&registries);
        let mut changes = self.storage.watch(listing.revision).await?;
        while let Some(change) = changes.next().await {
            match change? {
                StorageEvent::Written { object, .. } => {
                    let read = read(&object);
                    registries.insert(object.name, read);
                }
                StorageEvent::Deleted { object } => drop(registries.remove(&object.name)),
                StorageEvent::Progress(_) => continue,
            }
            self.publish(&registries);
        }
        Ok(())
    }

    fn publish(&self, read: &BTreeMap<String, Read>) {
        let registry =
            |read: &Read| if let Read::Registry(registry) = read { Some((**registry).clone()) } else { None };
        let has_unreadable = read.values().any(|read| matches!(read, Read::Unreadable));
        let registries = read.values().filter_map(registry).collect();
        self.snapshot.send_replace(Arc::new(RegistrySnapshot { registries, loaded: true, has_unreadable }));
    }
}

/// What is stored under a name.
enum Read {
    Registry(Box<ResourceRegistry>),
    /// One that is being deleted.
    Leaving,
    Unreadable,
}

/// One that cannot be read is left out, and named in the log: the others go on.
fn read(stored: &Stored) -> Read {
    let read = document(stored)
        .map_err(|error| error.to_string())
        .and_then(|document| serde_json::from_value::<ResourceRegistry>(document).map_err(|error| error.to_string()));
    match read {
        Ok(registry) if registry.metadata.deletion_timestamp.is_some() => Read::Leaving,
        Ok(registry) => Read::Registry(Box::new(registry)),
        Err(error) => {
            warn!(name = %stored.name, %error, "a stored ResourceRegistry cannot be read and is left out");
            Read::Unreadable
        }
    }
}
