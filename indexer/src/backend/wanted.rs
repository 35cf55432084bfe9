//! Which backends registries name, as whom they are asked, and who they are.
//!
//! In: registries and the Secrets they name. Out: targets, each with its registries, and what stands in the way of others.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::client::Client;
use super::health::BackendHealth;
use super::layout;
use super::secrets::{SecretState, Secrets};
use super::target::{Target, TargetError};
use crate::plan::{BackendReference, Registry};
use crate::supervise::LeftBackend;

/// How often a backend that doesn't say who it is is asked again, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// What a backend is known by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BackendId {
    /// The id that its cluster gives itself.
    Cluster(String),
    /// Its nodes, where we may not ask for that: another name may mean the same.
    Nodes(String),
}

/// What registries ask for.
#[derive(Default)]
pub(super) struct Wanted {
    pub(super) targets: Vec<WantedTarget>,
    pub(super) problems: Vec<(Registry, TargetError)>,
}

/// A backend, and who asks for it.
pub(super) struct WantedTarget {
    pub(super) target: Target,
    pub(super) registries: Vec<Registry>,
    /// What registries called it that have left it: it is to be emptied, if no registry names it now.
    pub(super) left: Vec<LeftBackend>,
}

impl Wanted {
    pub(super) fn of(registries: &[Registry], secrets: &Secrets, may_be_plain: bool) -> Self {
        let mut wanted = Self::default();
        let mut registries: Vec<&Registry> = registries.iter().filter(|registry| registry.backend.is_some()).collect();
        registries.sort_by(|left, right| left.name.cmp(&right.name));
        for registry in registries {
            match target(registry, secrets, may_be_plain) {
                Ok(Some(target)) => wanted.of_target(target).registries.push(registry.clone()),
                Ok(None) => {}
                Err(problem) => wanted.problems.push((registry.clone(), problem)),
            }
        }
        wanted
    }

    /// Backends that registries have left. Those that can't be logged in to any more stay as they are.
    pub(super) fn and_left(mut self, left: &[LeftBackend], secrets: &Secrets, may_be_plain: bool) -> Self {
        for left in left {
            match target_of(&left.reference, secrets, may_be_plain) {
                Ok(target) => self.of_target(target).left.push(left.clone()),
                Err(problem) => tracing::debug!(%problem, "a backend that was left can't be emptied"),
            }
        }
        self
    }

    fn of_target(&mut self, target: Target) -> &mut WantedTarget {
        let known = self.targets.iter().position(|known| known.target.is_same(&target));
        let place = known.unwrap_or(self.targets.len());
        if known.is_none() {
            self.targets.push(WantedTarget { target, registries: Vec::new(), left: Vec::new() });
        }
        &mut self.targets[place]
    }
}

fn target(registry: &Registry, secrets: &Secrets, may_be_plain: bool) -> Result<Option<Target>, TargetError> {
    registry.backend.as_ref().map(|reference| target_of(reference, secrets, may_be_plain)).transpose()
}

fn target_of(reference: &BackendReference, secrets: &Secrets, may_be_plain: bool) -> Result<Target, TargetError> {
    let data = match &reference.secret {
        None => None,
        Some(name) => match secrets.get(name) {
            Some(SecretState::Found(data)) => Some(Arc::clone(data)),
            Some(SecretState::Missing) => return Err(TargetError::NoSecret(name.clone())),
            Some(SecretState::Unreadable(error)) => {
                return Err(TargetError::SecretUnreadable { secret: name.clone(), error: error.clone() });
            }
            Some(SecretState::Pending) | None => return Err(TargetError::SecretPending(name.clone())),
        },
    };
    Target::new(reference, data.as_deref(), may_be_plain)
}

/// The nodes that a registry names, without credentials.
pub(super) fn named_in(registry: &Registry) -> String {
    let Some(reference) = &registry.backend else { return String::new() };
    let anonymous = BackendReference { secret: None, ..reference.clone() };
    match Target::new(&anonymous, None, true) {
        Ok(target) => target.name(),
        Err(_) => "(no address that can be used)".to_owned(),
    }
}

/// Asks a backend for the id of its cluster until it answers; none if it may not be asked.
pub(super) async fn identify(target: Target, health: Arc<BackendHealth>) -> Option<BackendId> {
    let name = target.name();
    let mut pause = PAUSE.0;
    loop {
        let identified = async { layout::identify(&Client::new(&target)?).await };
        match identified.await {
            Ok(id) => {
                if health.recover() {
                    info!(backend = name, "the backend answers");
                }
                if id.is_none() {
                    warn!(
                        backend = name,
                        "the backend doesn't let us ask who it is (GET /): what registries no longer select stays there"
                    );
                }
                return id.map(BackendId::Cluster);
            }
            Err(error) => {
                if health.fail(&error) {
                    warn!(backend = name, %error, "the backend can't be used, retrying");
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}
