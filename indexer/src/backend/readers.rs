//! Keeps one reader for each OpenSearch cluster that registries name.
//!
//! In: registries and the Secrets they name. Out: readers, and what stands in the way of others. Registries may write the same
//! nodes in other ways, so a backend is read once only when it has said who it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::health::{BackendHealth, BackendState};
use super::reading::Reader;
use super::secrets::Secrets;
use super::target::Target;
use super::wanted::{BackendId, Wanted, identify, named_in};
use crate::plan::{Registry, SearchedIn};
use crate::supervise::RegistrySet;

/// Backends that can be read.
#[derive(Debug, Clone, Default)]
pub struct Readers {
    /// One for each backend.
    pub readers: Arc<Vec<Arc<Reader>>>,
    /// What can't be read, and why.
    pub problems: Arc<Vec<(String, String)>>,
    /// Which of them a registry's objects are read from, and under which name its health is told.
    pub of_registries: Arc<BTreeMap<String, ReaderOf>>,
    /// Whether registries have been read.
    pub is_loaded: bool,
}

/// Where a registry's objects are read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderOf {
    /// The place of the reader among all.
    pub reader: usize,
    /// The nodes as the registry names them.
    pub target: String,
}

/// Which backends are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// All that registries name.
    All,
    /// Those of registries that want it.
    Chosen {
        /// What registries want that don't say so.
        by_default: SearchedIn,
    },
}

impl Asked {
    fn takes(self, registry: &Registry) -> bool {
        match self {
            Self::All => true,
            Self::Chosen { by_default } => registry.asks_backend(by_default),
        }
    }
}

/// What readers are made of.
#[derive(Debug)]
pub struct ReadersInputs {
    /// Registries.
    pub registries: watch::Receiver<Arc<RegistrySet>>,
    /// What the Secrets hold that registries name.
    pub secrets: watch::Receiver<Arc<Secrets>>,
    /// Begins the names of all indices.
    pub prefix: String,
    /// Whether credentials may go over http.
    pub may_be_plain: bool,
    /// Which backends are read.
    pub asked: Asked,
}

/// A backend as registries name it.
struct Named {
    target: Target,
    registries: Vec<String>,
    health: Arc<BackendHealth>,
    id: Option<BackendId>,
    reader: Option<Arc<Reader>>,
    identifying: AbortHandle,
}

impl Drop for Named {
    fn drop(&mut self) {
        self.identifying.abort();
    }
}

impl ReadersInputs {
    /// Keeps readers in step with registries until told to stop.
    pub async fn follow(self, readers: watch::Sender<Readers>, stop: CancellationToken) {
        let keeper = Keeper { inputs: self, named: Vec::new(), identities: JoinSet::new() };
        stop.run_until_cancelled_owned(keeper.run(readers)).await;
    }
}

struct Keeper {
    inputs: ReadersInputs,
    named: Vec<Named>,
    identities: JoinSet<Option<BackendId>>,
}

impl Keeper {
    async fn run(mut self, readers: watch::Sender<Readers>) {
        loop {
            let found = self.reconcile();
            readers.send_replace(found);
            tokio::select! {
                changed = self.inputs.registries.changed() => if changed.is_err() { return },
                changed = self.inputs.secrets.changed() => if changed.is_err() { return },
                Some(identified) = self.identities.join_next_with_id() => {
                    if let Ok((task, id)) = identified {
                        self.note_identity(task, id);
                    }
                }
                // A backend that doesn't answer says so in its health alone.
                () = tokio::time::sleep(LOOK), if self.named.iter().any(|named| named.id.is_none()) => {}
            }
        }
    }

    fn note_identity(&mut self, task: tokio::task::Id, id: Option<BackendId>) {
        if let Some(named) = self.named.iter_mut().find(|named| named.identifying.id() == task) {
            named.id = Some(id.unwrap_or_else(|| BackendId::Nodes(named.target.name())));
            // One with earlier credentials has served until now.
            named.reader = None;
        }
    }

    fn reconcile(&mut self) -> Readers {
        let registries = self.inputs.registries.borrow_and_update().clone();
        let secrets = self.inputs.secrets.borrow_and_update().clone();
        if !registries.loaded {
            return Readers::default();
        }
        let asked = self.inputs.asked;
        let chosen: Vec<Registry> =
            registries.registries.iter().filter(|registry| asked.takes(registry)).cloned().collect();
        let Wanted { targets, problems } = Wanted::of(&chosen, &secrets, self.inputs.may_be_plain);
        let mut problems: Vec<(String, String)> =
            problems.iter().map(|(registry, problem)| (named_in(registry), problem.to_string())).collect();
        let names = |registries: Vec<Registry>| registries.into_iter().map(|registry| registry.name).collect();
        self.name(targets.into_iter().map(|wanted| (wanted.target, names(wanted.registries))));
        let mut found = BTreeMap::new();
        for named in &mut self.named {
            match &named.id {
                None => problems.push((named.target.name(), waiting_for(&named.health))),
                Some(id) => {
                    if named.reader.is_none() {
                        match Reader::new(&named.target, &self.inputs.prefix) {
                            Ok(reader) => named.reader = Some(Arc::new(reader)),
                            Err(error) => problems.push((named.target.name(), error.to_string())),
                        }
                    }
                    if let Some(reader) = &named.reader {
                        found.entry(id.clone()).or_insert_with(|| Arc::clone(reader));
                    }
                }
            }
        }
        Readers {
            of_registries: Arc::new(self.of_registries(&found)),
            readers: Arc::new(found.into_values().collect()),
            problems: Arc::new(problems),
            is_loaded: true,
        }
    }

    fn of_registries(&self, found: &BTreeMap<BackendId, Arc<Reader>>) -> BTreeMap<String, ReaderOf> {
        let mut of_registries = BTreeMap::new();
        for named in &self.named {
            let Some(reader) = found.keys().position(|id| named.id.as_ref() == Some(id)) else { continue };
            let of = ReaderOf { reader, target: named.target.name() };
            of_registries.extend(named.registries.iter().map(|registry| (registry.clone(), of.clone())));
        }
        of_registries
    }

    fn name(&mut self, targets: impl Iterator<Item = (Target, Vec<String>)>) {
        let mut earlier = std::mem::take(&mut self.named);
        for (target, registries) in targets {
            let known = earlier.iter().position(|named| named.target.is_same(&target));
            let mut named = known.map(|place| earlier.swap_remove(place)).unwrap_or_else(|| {
                let health = Arc::default();
                let identifying = self.identities.spawn(identify(target.clone(), Arc::clone(&health)));
                // With other credentials it is most likely the same; until it says so, it is read as before.
                let before = earlier.iter().find(|named| named.target.nodes == target.nodes);
                let (id, reader) = before.map(|named| (named.id.clone(), named.reader.clone())).unwrap_or_default();
                Named { target, registries: Vec::new(), health, id, reader, identifying }
            });
            named.registries = registries;
            self.named.push(named);
        }
    }
}

/// How often a backend that has not said who it is is looked at.
const LOOK: std::time::Duration = std::time::Duration::from_secs(1);

fn waiting_for(health: &BackendHealth) -> String {
    match health.state() {
        BackendState::Failing { since, error } => format!("since {since}: {error}"),
        _ => "it has not answered yet".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_has_no_registries_to_follow_any_more_ends() {
        let (registries, secrets) = (watch::channel(Arc::default()).1, watch::channel(Arc::default()).1);
        let inputs = ReadersInputs {
            registries,
            secrets,
            prefix: "fleetglass".to_owned(),
            may_be_plain: false,
            asked: Asked::All,
        };
        let readers = watch::channel(Readers::default()).0;
        inputs.follow(readers, CancellationToken::new()).await;
    }
}
