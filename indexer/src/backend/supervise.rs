//! Keeps one writer for each OpenSearch cluster that registries name.
//!
//! In: registries, the Secrets they name, and what the supervisor of watches knows of members. Out: running writers, each with
//! what it is to write, and a [`BackendStatus`] a backend.
//!
//! Registries may write the same nodes in other ways, so a backend is known by the id that its cluster gives itself. A backend that
//! no registry names any more is emptied. But nothing is deleted on a guess: as long as it is not known where some registry sends
//! to – its Secret is in disorder, its backend doesn't answer – whatever may be meant by it stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::assignment::Assignment;
use super::client::Client;
use super::dead_letters::DeadLetters;
use super::health::BackendHealth;
use super::layout::Layout;
use super::secrets::Secrets;
use super::target::{Target, TargetError};
use super::wanted::{BackendId, Wanted, WantedTarget, identify, named_in};
use super::writer::{self, End, Job, Order};
use crate::cache::Cache;
use crate::plan::{BackendReference, Registry};
use crate::supervise::{LeftBackend, Overview, RegistrySet};

/// Changes that come in a row are looked at once: each of many clusters tells every half minute what it serves.
const SETTLE: Duration = Duration::from_millis(300);

/// How long a backend that was left may give no answer, until it is taken for one that is there no longer.
const GIVEN_UP: Duration = Duration::from_secs(24 * 60 * 60);
/// How often it is looked for such backends.
const BETWEEN_LOOKS: Duration = Duration::from_secs(60 * 60);

/// How backends are written to.
#[derive(Debug, Clone)]
pub struct BackendsSettings {
    /// Begins the names of all indices.
    pub prefix: String,
    /// Whether credentials may go over http.
    pub may_be_plain: bool,
    /// Whether objects are written in karmada-search's layout too.
    pub in_original_layout: bool,
    /// Where documents are logged that a backend refuses.
    pub dead_letters: Option<PathBuf>,
}

/// A backend, as people see it.
#[derive(Debug, Clone)]
pub struct BackendStatus {
    /// Its nodes, without credentials.
    pub name: String,
    /// The registries that name it.
    pub registries: BTreeSet<String>,
    /// Why it is not even asked.
    pub problem: Option<String>,
    /// How it is doing.
    pub health: Arc<BackendHealth>,
}

/// All backends, for who looks at them.
#[derive(Debug, Default)]
pub struct Backends {
    statuses: RwLock<Arc<Vec<BackendStatus>>>,
    told: watch::Sender<Told>,
}

/// What is found out about backends, for whoever remembers them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The ids of the clusters that answer where registries send to.
    pub clusters: BTreeMap<BackendReference, String>,
    /// Backends that registries have left and that hold nothing of theirs any more, or are out of reach for good.
    pub emptied: BTreeSet<LeftBackend>,
}

impl Backends {
    /// How each of them is, in the order of their names.
    pub fn statuses(&self) -> Arc<Vec<BackendStatus>> {
        Arc::clone(&self.statuses.read())
    }

    /// What is found out, for whoever remembers where was sent to.
    pub fn told(&self) -> watch::Receiver<Told> {
        self.told.subscribe()
    }

    fn note_emptied(&self, left: impl Iterator<Item = LeftBackend>) {
        self.told.send_if_modified(|told| {
            let before = told.emptied.len();
            told.emptied.extend(left);
            told.emptied.len() != before
        });
    }

    /// The backend of a registry, if it names one.
    pub fn of_registry(&self, registry: &str) -> Option<BackendStatus> {
        self.statuses.read().iter().find(|status| status.registries.contains(registry)).cloned()
    }
}

/// What backends are made of.
#[derive(Debug)]
pub struct Inputs {
    /// The one copy of all objects.
    pub cache: Arc<Cache>,
    /// Members and what they serve.
    pub overview: watch::Receiver<Arc<Overview>>,
    /// Registries.
    pub registries: watch::Receiver<Arc<RegistrySet>>,
    /// What the Secrets hold that registries name.
    pub secrets: watch::Receiver<Arc<Secrets>>,
}

/// Keeps writers running until told to stop.
pub async fn follow(inputs: Inputs, backends: Arc<Backends>, settings: BackendsSettings, stop: CancellationToken) {
    let dead_letters = settings.dead_letters.as_deref().map(|path| Arc::new(DeadLetters::new(path)));
    let supervisor = Supervisor {
        inputs,
        backends,
        settings,
        dead_letters,
        named: Vec::new(),
        sent: BTreeMap::new(),
        writers: BTreeMap::new(),
        ending: BTreeMap::new(),
        suspended: BTreeMap::new(),
        identities: JoinSet::new(),
        tasks: JoinSet::new(),
    };
    stop.run_until_cancelled_owned(supervisor.run()).await;
}

struct Supervisor {
    inputs: Inputs,
    backends: Arc<Backends>,
    settings: BackendsSettings,
    dead_letters: Option<Arc<DeadLetters>>,
    /// Backends as registries name them.
    named: Vec<Named>,
    /// Where each registry's objects were last sent.
    sent: BTreeMap<String, Sent>,
    writers: BTreeMap<BackendId, Running>,
    /// Writers that were told to stop and have not ended: nobody else writes there before.
    ending: BTreeMap<tokio::task::Id, BackendId>,
    /// Backends that are left as they are because of a Secret in disorder: they may have to be emptied later.
    suspended: BTreeMap<BackendId, Stopped>,
    identities: JoinSet<Option<BackendId>>,
    tasks: JoinSet<End>,
}

struct Sent {
    addresses: Vec<String>,
    id: BackendId,
}

/// A backend as registries name it: nodes and credentials.
struct Named {
    target: Target,
    registries: Vec<Registry>,
    /// What registries called it that have left it.
    left: Vec<LeftBackend>,
    /// Since when no registry names it any more.
    since: Instant,
    /// How asking for its id is doing.
    health: Arc<BackendHealth>,
    id: Option<BackendId>,
    identifying: AbortHandle,
}

impl Named {
    /// The id of its cluster, if it tells that, under all that registries call it.
    fn clusters(&self) -> Vec<(BackendReference, String)> {
        let Some(BackendId::Cluster(cluster)) = &self.id else { return Vec::new() };
        let references = self.registries.iter().filter_map(|registry| registry.backend.clone());
        references.map(|reference| (reference, cluster.clone())).collect()
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.identifying.abort();
    }
}

struct Running {
    // First, so that a writer that goes is stopped before anything else of it is gone.
    _stop: DropGuard,
    task: tokio::task::Id,
    target: Target,
    orders: watch::Sender<Order>,
    health: Arc<BackendHealth>,
}

/// A writer that was told to stop.
struct Stopped {
    target: Target,
    health: Arc<BackendHealth>,
}

/// Registries of which is not known where they send to; true for those whose Secret or addresses are in disorder.
type Unresolved<'a> = Vec<(&'a Registry, bool)>;

impl Supervisor {
    async fn run(mut self) {
        loop {
            self.reconcile();
            tokio::select! {
                changed = self.inputs.overview.changed() => if changed.is_err() { return },
                changed = self.inputs.registries.changed() => if changed.is_err() { return },
                changed = self.inputs.secrets.changed() => if changed.is_err() { return },
                Some(identified) = self.identities.join_next_with_id() => self.note_identity(identified),
                Some(ended) = self.tasks.join_next_with_id() => self.note_end(ended),
                () = tokio::time::sleep(BETWEEN_LOOKS) => {}
            }
            tokio::time::sleep(SETTLE).await;
        }
    }

    fn note_identity(&mut self, identified: Result<(tokio::task::Id, Option<BackendId>), JoinError>) {
        match identified {
            Ok((task, id)) => {
                if let Some(named) = self.named.iter_mut().find(|named| named.identifying.id() == task) {
                    let nodes = || BackendId::Nodes(named.target.name());
                    named.id = Some(id.unwrap_or_else(nodes));
                }
            }
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                warn!(%error, "asking a backend for its id ended unexpectedly");
                // Named anew, it is asked anew.
                self.named.retain(|named| named.identifying.id() != error.id());
            }
        }
    }

    fn note_end(&mut self, ended: Result<(tokio::task::Id, End), JoinError>) {
        let task = match &ended {
            Ok((task, _)) => *task,
            Err(error) => error.id(),
        };
        if self.ending.remove(&task).is_some() {
            return;
        }
        let Some(id) = self.writers.iter().find(|(_, running)| running.task == task).map(|(id, _)| id.clone()) else {
            return;
        };
        let Some(running) = self.writers.remove(&id) else { return };
        let name = running.target.name();
        match ended {
            Ok((_, End::Stopped)) => return,
            Ok((_, End::Emptied)) => {
                self.note_emptied(&id);
                return;
            }
            // What was there can't be reached any more.
            Ok((_, End::OtherCluster)) => {
                warn!(backend = name, "the nodes belong to another cluster than before");
                self.note_emptied(&id);
            }
            Err(error) => {
                warn!(backend = name, %error, "a writer ended unexpectedly");
                let stopped = Stopped { target: running.target.clone(), health: Arc::clone(&running.health) };
                self.suspended.insert(id.clone(), stopped);
            }
        }
        // Its nodes are asked anew who they are, and until then they may be anybody.
        self.named.retain(|named| named.id.as_ref() != Some(&id));
        self.sent.retain(|_, sent| sent.id != id);
    }

    /// Whoever remembers what was sent where may forget a backend.
    fn note_emptied(&self, id: &BackendId) {
        let named = self.named.iter().filter(|named| named.id.as_ref() == Some(id));
        self.backends.note_emptied(named.flat_map(|named| named.left.clone()));
    }

    /// What a backend is to hold that no registry names. Clusters are ours as the overview has it: what it knows nothing of is not
    /// ours yet.
    fn nothing(&self) -> Arc<Assignment> {
        Arc::new(Assignment {
            shards: self.inputs.overview.borrow().members.shards.clone(),
            is_partial: self.inputs.overview.borrow().members.is_partial,
            in_original_layout: self.settings.in_original_layout,
            ..Assignment::default()
        })
    }

    fn reconcile(&mut self) {
        let overview = self.inputs.overview.borrow_and_update().clone();
        let registries = self.inputs.registries.borrow_and_update().clone();
        let secrets = self.inputs.secrets.borrow_and_update().clone();
        if !overview.loaded || !registries.loaded {
            return;
        }
        let may_be_plain = self.settings.may_be_plain;
        let wanted = Wanted::of(&registries.registries, &secrets, may_be_plain);
        let left = self.still_left(&registries.left);
        let Wanted { targets, problems } = wanted.and_left(&left, &secrets, may_be_plain);
        self.name(targets);
        self.note_sent(&registries.registries);
        self.write(&overview, &problems);
        self.publish(&problems);
    }

    /// Those of the backends that were left that are not known to be empty.
    fn still_left(&self, left: &[LeftBackend]) -> Vec<LeftBackend> {
        self.backends.told.send_if_modified(|told| {
            let before = told.emptied.len();
            told.emptied.retain(|emptied| left.contains(emptied));
            told.emptied.len() != before
        });
        let told = self.backends.told.borrow();
        left.iter().filter(|left| !told.emptied.contains(*left)).cloned().collect()
    }

    /// Keeps what is named in step with what registries say; what is new or has other credentials is asked who it is.
    fn name(&mut self, targets: Vec<WantedTarget>) {
        let mut earlier = std::mem::take(&mut self.named);
        for WantedTarget { target, registries, left } in targets {
            let known = earlier.iter().position(|named| named.target.is_same(&target));
            self.named.push(match known {
                Some(place) => {
                    let mut named = earlier.swap_remove(place);
                    if registries.is_empty() && !named.registries.is_empty() {
                        named.since = Instant::now();
                    }
                    (named.registries, named.left) = (registries, left);
                    named
                }
                None => {
                    let health = Arc::default();
                    let identifying = self.identities.spawn(identify(target.clone(), Arc::clone(&health)));
                    Named { target, registries, left, since: Instant::now(), health, id: None, identifying }
                }
            });
        }
    }

    fn note_sent(&mut self, registries: &[Registry]) {
        let is_sent =
            |name: &String| registries.iter().any(|registry| registry.name == *name && registry.backend.is_some());
        self.sent.retain(|name, _| is_sent(name));
        for named in &self.named {
            let Some(id) = &named.id else { continue };
            for registry in &named.registries {
                let addresses = registry.backend.as_ref().map(|backend| backend.addresses.clone()).unwrap_or_default();
                self.sent.insert(registry.name.clone(), Sent { addresses, id: id.clone() });
            }
        }
        let clusters: BTreeMap<BackendReference, String> = self.named.iter().flat_map(Named::clusters).collect();
        self.backends.told.send_if_modified(|told| {
            let is_other = told.clusters != clusters;
            told.clusters = clusters;
            is_other
        });
    }

    /// Whether a registry of which is not known where it sends to may mean this backend.
    fn may_mean(&self, registry: &Registry, id: &BackendId) -> bool {
        match (self.sent.get(&registry.name), &registry.backend) {
            (Some(Sent { addresses, id: known @ BackendId::Cluster(_) }), Some(backend))
                if *addresses == backend.addresses =>
            {
                known == id
            }
            // Nodes that don't tell who they are may be anybody's.
            _ => true,
        }
    }

    fn write(&mut self, overview: &Overview, problems: &[(Registry, TargetError)]) {
        let mut groups: BTreeMap<BackendId, (Vec<Target>, Vec<Registry>)> = BTreeMap::new();
        let mut unidentified = Vec::new();
        for named in &self.named {
            if !matches!(named.id, Some(BackendId::Cluster(_))) {
                unidentified.extend(named.registries.iter().cloned());
            }
            if let Some(id) = &named.id {
                let (targets, registries) = groups.entry(id.clone()).or_default();
                targets.push(named.target.clone());
                registries.extend(named.registries.iter().cloned());
            }
        }
        let left: BTreeMap<BackendId, Vec<Target>> = groups
            .extract_if(.., |_, (_, registries)| registries.is_empty())
            .map(|(id, (targets, _))| (id, targets))
            .collect();
        let unresolved: Unresolved<'_> = unidentified
            .iter()
            .map(|registry| (registry, false))
            .chain(problems.iter().map(|(registry, _)| (registry, true)))
            .collect();
        for (id, (targets, registries)) in &groups {
            let may_be_more = unresolved.iter().any(|(registry, _)| self.may_mean(registry, id));
            let is_partial = may_be_more || matches!(id, BackendId::Nodes(_));
            let in_original_layout = self.settings.in_original_layout;
            let assignment = Assignment::of(registries, overview);
            let is_partial = is_partial || assignment.is_partial;
            let assignment = Assignment { is_partial, in_original_layout, ..assignment };
            self.keep(id, targets, assignment);
        }
        self.take_up_left(left);
        // Another name of what is sent to is nothing to be emptied.
        groups.keys().for_each(|id| self.note_emptied(id));
        let unnamed: Vec<BackendId> = self.writers.keys().filter(|id| !groups.contains_key(*id)).cloned().collect();
        for id in unnamed {
            self.leave(&id, &unresolved);
        }
        let named: BTreeSet<BackendId> = groups.into_keys().collect();
        self.empty_suspended(&named, &unresolved);
    }

    /// Backends that registries have left are emptied as those are that were suspended: once it is known that nobody means them.
    fn take_up_left(&mut self, left: BTreeMap<BackendId, Vec<Target>>) {
        let is_gone = |named: &&Named| named.id.is_none() && named.since.elapsed() >= GIVEN_UP;
        for named in self.named.iter().filter(is_gone).filter(|named| !named.left.is_empty()) {
            warn!(
                backend = named.target.name(),
                "a backend that was left gives no answer and is not looked for any more"
            );
            self.backends.note_emptied(named.left.iter().cloned());
        }
        for named in &self.named {
            let Some(id) = &named.id else { continue };
            // Where another cluster answers, what was sent is out of reach; and nothing is deleted where nobody says who it is.
            let is_elsewhere = |left: &&LeftBackend| *id != BackendId::Cluster(left.cluster.clone());
            self.backends.note_emptied(named.left.iter().filter(is_elsewhere).cloned());
        }
        for (id, targets) in left {
            let is_meant = self.named.iter().any(|named| {
                let is_left = |left: &LeftBackend| id == BackendId::Cluster(left.cluster.clone());
                named.id.as_ref() == Some(&id) && named.left.iter().any(is_left)
            });
            let is_known = self.writers.contains_key(&id) || self.suspended.contains_key(&id) || self.is_ending(&id);
            if let Some(target) = targets.into_iter().next().filter(|_| is_meant && !is_known) {
                self.suspended.insert(id, Stopped { target, health: Arc::default() });
            }
        }
    }

    /// Keeps a writer at work with what it is to write.
    fn keep(&mut self, id: &BackendId, targets: &[Target], assignment: Assignment) {
        let order = Order::Hold(Arc::new(assignment));
        match self.writers.get(id) {
            Some(running) if targets.iter().any(|target| target.is_same(&running.target)) => running.order(order),
            _ => {
                // One with other credentials ends before another one begins; until then it is not forgotten.
                if let Some(stopped) = self.stop(id) {
                    self.suspended.insert(id.clone(), stopped);
                }
                if let Some(target) = targets.first().filter(|_| !self.is_ending(id)) {
                    self.suspended.remove(id);
                    self.start(id, target.clone(), Arc::default(), order);
                }
            }
        }
    }

    fn stop(&mut self, id: &BackendId) -> Option<Stopped> {
        let running = self.writers.remove(id)?;
        self.ending.insert(running.task, id.clone());
        Some(Stopped { target: running.target.clone(), health: Arc::clone(&running.health) })
    }

    fn is_ending(&self, id: &BackendId) -> bool {
        self.ending.values().any(|ending| ending == id)
    }

    fn start(&mut self, id: &BackendId, target: Target, health: Arc<BackendHealth>, order: Order) {
        let client = match Client::new(&target) {
            Ok(client) => client,
            Err(error) => {
                health.fail(&error);
                return;
            }
        };
        let name = target.name();
        info!(backend = name, "writing to a backend");
        let (orders, receiver) = watch::channel(order);
        let cancelled = CancellationToken::new();
        let job = Job {
            name,
            client,
            layout: Layout::new(&self.settings.prefix),
            cache: Arc::clone(&self.inputs.cache),
            health: Arc::clone(&health),
            dead_letters: self.dead_letters.clone(),
            orders: receiver,
            overview: self.inputs.overview.clone(),
            cluster: match id {
                BackendId::Cluster(cluster) => Some(cluster.clone()),
                BackendId::Nodes(_) => None,
            },
        };
        let task = self.tasks.spawn(writer::run(job, cancelled.clone())).id();
        self.writers.insert(id.clone(), Running { _stop: cancelled.drop_guard(), task, target, orders, health });
    }

    /// Writers of backends that no registry names any more empty them, unless some registry may mean them.
    fn leave(&mut self, id: &BackendId, unresolved: &Unresolved<'_>) {
        let meant: Vec<bool> = unresolved
            .iter()
            .filter(|(registry, _)| self.may_mean(registry, id))
            .map(|(_, is_disorder)| *is_disorder)
            .collect();
        if meant.is_empty() && matches!(id, BackendId::Cluster(_)) {
            if let Some(running) = self.writers.get(id) {
                running.order(Order::Leave(self.nothing()));
            }
            return;
        }
        // New credentials that are tried out leave the writer as it is; without any, it has to end.
        let is_leaving =
            self.writers.get(id).is_some_and(|running| matches!(*running.orders.borrow(), Order::Leave(_)));
        let has_to_end = is_leaving || meant.is_empty() || meant.iter().any(|is_disorder| *is_disorder);
        if has_to_end && let Some(stopped) = self.stop(id) {
            warn!(backend = stopped.target.name(), "the backend is left as it is");
            self.suspended.insert(id.clone(), stopped);
        }
    }

    /// What was left as it was is emptied once it is known that nobody means it.
    fn empty_suspended(&mut self, named: &BTreeSet<BackendId>, unresolved: &Unresolved<'_>) {
        let is_meant =
            |id: &BackendId| named.contains(id) || unresolved.iter().any(|(registry, _)| self.may_mean(registry, id));
        let free: Vec<BackendId> = self
            .suspended
            .keys()
            .filter(|id| matches!(id, BackendId::Cluster(_)) && !is_meant(id) && !self.is_ending(id))
            .cloned()
            .collect();
        for id in free {
            if let Some(Stopped { target, health }) = self.suspended.remove(&id) {
                self.start(&id, target, health, Order::Leave(self.nothing()));
            }
        }
    }

    fn publish(&self, problems: &[(Registry, TargetError)]) {
        let names = |registries: &[Registry]| registries.iter().map(|registry| registry.name.clone()).collect();
        let mut statuses: Vec<BackendStatus> = self
            .named
            .iter()
            .map(|named| {
                let running = named.id.as_ref().and_then(|id| self.writers.get(id));
                BackendStatus {
                    name: named.target.name(),
                    registries: names(&named.registries),
                    problem: None,
                    health: Arc::clone(running.map_or(&named.health, |running| &running.health)),
                }
            })
            .collect();
        statuses.extend(problems.iter().map(|(registry, problem)| BackendStatus {
            name: named_in(registry),
            registries: [registry.name.clone()].into(),
            problem: Some(problem.to_string()),
            health: Arc::default(),
        }));
        statuses.sort_by(|left, right| left.name.cmp(&right.name));
        *self.backends.statuses.write() = Arc::new(statuses);
    }
}

impl Running {
    fn order(&self, order: Order) {
        self.orders.send_if_modified(|present| {
            let is_other = *present != order;
            if is_other {
                *present = order;
            }
            is_other
        });
    }
}
