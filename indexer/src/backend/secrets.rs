//! The Secrets that registries name for their backends, or named for those that are being emptied, each watched by its name.
//!
//! In: registries. Out: what each Secret holds, or why that isn't known. What was read once stays while the control plane can't
//! be asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::target::SecretData;
use crate::plan::SecretReference;
use crate::supervise::RegistrySet;

/// What is known of each Secret that some registry names.
pub type Secrets = BTreeMap<SecretReference, SecretState>;

/// What is known of a Secret.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretState {
    /// It has not been read yet.
    Pending,
    /// There is none of this name.
    Missing,
    /// It can't be read, and why.
    Unreadable(String),
    /// What it holds.
    Found(Arc<SecretData>),
}

impl fmt::Debug for SecretState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending => formatter.write_str("Pending"),
            Self::Missing => formatter.write_str("Missing"),
            Self::Unreadable(error) => write!(formatter, "Unreadable({error:?})"),
            Self::Found(data) => write!(formatter, "Found({:?})", data.keys().collect::<Vec<_>>()),
        }
    }
}

/// Starts following the Secrets that registries name; without a control plane there are none.
pub fn follow(
    client: Option<Client>,
    registries: watch::Receiver<Arc<RegistrySet>>,
    stop: CancellationToken,
) -> watch::Receiver<Arc<Secrets>> {
    let (secrets, receiver) = watch::channel(Arc::default());
    tokio::spawn(stop.run_until_cancelled_owned(run(client, registries, secrets)));
    receiver
}

async fn run(
    client: Option<Client>,
    mut registries: watch::Receiver<Arc<RegistrySet>>,
    secrets: watch::Sender<Arc<Secrets>>,
) {
    let (changes, mut changed) = mpsc::unbounded_channel();
    let mut watches: BTreeMap<SecretReference, DropGuard> = BTreeMap::new();
    loop {
        let named = named(&registries.borrow_and_update());
        watches.retain(|reference, _| named.contains(reference));
        for reference in &named {
            watches.entry(reference.clone()).or_insert_with(|| start(client.as_ref(), reference, &changes));
        }
        let first = if client.is_some() { SecretState::Pending } else { no_control_plane() };
        secrets.send_modify(|states| {
            let states = Arc::make_mut(states);
            states.retain(|reference, _| named.contains(reference));
            for reference in named {
                states.entry(reference).or_insert_with(|| first.clone());
            }
        });
        tokio::select! {
            news = registries.changed() => if news.is_err() { return },
            Some((reference, state)) = changed.recv() => note(&secrets, &reference, state),
        }
    }
}

fn no_control_plane() -> SecretState {
    SecretState::Unreadable("this server has no control plane to read Secrets from".to_owned())
}

fn named(registries: &RegistrySet) -> BTreeSet<SecretReference> {
    let backends = registries.registries.iter().filter_map(|registry| registry.backend.as_ref());
    let backends = backends.chain(registries.left.iter().map(|left| &left.reference));
    backends.filter_map(|backend| backend.secret.clone()).collect()
}

fn note(secrets: &watch::Sender<Arc<Secrets>>, reference: &SecretReference, state: SecretState) {
    secrets.send_if_modified(|states| {
        let Some(present) = states.get(reference) else { return false };
        let is_kept = matches!((present, &state), (SecretState::Found(_), SecretState::Unreadable(_)));
        if is_kept || *present == state {
            return false;
        }
        if matches!((present, &state), (SecretState::Found(_), SecretState::Found(_))) {
            info!(secret = %reference, "the Secret of a backend has changed");
        }
        Arc::make_mut(states).insert(reference.clone(), state);
        true
    });
}

type Changes = mpsc::UnboundedSender<(SecretReference, SecretState)>;

fn start(client: Option<&Client>, reference: &SecretReference, changes: &Changes) -> DropGuard {
    let cancelled = CancellationToken::new();
    if let Some(client) = client {
        let api: Api<Secret> = Api::namespaced(client.clone(), &reference.namespace);
        let watching = watch_secret(api, reference.clone(), changes.clone());
        tokio::spawn(cancelled.clone().run_until_cancelled_owned(watching));
    }
    cancelled.drop_guard()
}

async fn watch_secret(api: Api<Secret>, reference: SecretReference, changes: Changes) {
    let mut states = watcher::watch_object(api, &reference.name).default_backoff().boxed();
    let mut is_failing = false;
    while let Some(state) = states.next().await {
        let state = match state {
            Ok(Some(secret)) => SecretState::Found(Arc::new(data(secret))),
            Ok(None) => SecretState::Missing,
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    warn!(secret = %reference, %error, "the Secret of a backend can't be read, retrying");
                }
                SecretState::Unreadable(error.to_string())
            }
        };
        is_failing &= matches!(state, SecretState::Unreadable(_));
        if changes.send((reference.clone(), state)).is_err() {
            return;
        }
    }
}

fn data(secret: Secret) -> SecretData {
    let text = secret.string_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
    secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).chain(text).collect()
}
