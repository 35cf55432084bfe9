//! Keeps one task for each (cluster, resource) of the plan, and nothing else.
//!
//! In: the members there are, the registries there are, and what each member serves. Out: running reflectors, and an
//! [`Overview`] of what is watched and why something is not. A member's trouble stays in its own tasks: nothing here waits
//! for a member.

mod cluster;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::cache::Cache;
use crate::connection::{ConnectionLimits, Discovery};
use crate::disk::Restored;
use crate::member::Member;
use crate::plan::{BackendReference, PlannedMember, Registry, WatchKey, WatchPlan, WatchTarget};
use crate::reflector::{LISTS_AT_ONCE, Reflector};
use crate::resource::{ApiResource, ClusterName, GroupVersionResource};
use crate::source::MemberSet;

use cluster::{ClusterTask, Report, Shared};

/// How long watchers may take to read of a cluster that left; so long its objects are held.
const DEPARTED_KEPT: Duration = Duration::from_secs(30);
/// How often is looked for what is no longer needed: while there is something, and while there is not.
const BETWEEN_TIDYING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// Changes that come in a row are planned once.
const SETTLE: Duration = Duration::from_millis(20);
/// Between two plans so many times as long as planning took, but no longer than this: with a thousand members it is work.
const BETWEEN_PLANS: (u32, Duration) = (4, Duration::from_secs(1));

/// What a registry list is made of, with the moment before the first load told apart from "none".
#[derive(Debug, Clone, Default)]
pub struct RegistrySet {
    /// The registries.
    pub registries: Vec<Registry>,
    /// Whether they have been read at all.
    pub loaded: bool,
    /// Backends that registries were sent to and no registry names any more: what they hold has to go.
    pub left: Vec<LeftBackend>,
}

/// A backend that registries have left.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftBackend {
    /// What they called it.
    pub reference: BackendReference,
    /// The id of the cluster that answered there: what another one holds is not ours.
    pub cluster: String,
}

/// What is watched, and why something is not.
#[derive(Debug, Clone, Default)]
pub struct Overview {
    /// The plan in force.
    pub plan: WatchPlan,
    /// The members it was made for.
    pub members: Arc<MemberSet>,
    /// What each selected member serves, where that is known.
    pub discoveries: BTreeMap<ClusterName, Arc<Discovery>>,
    /// Members that cannot be asked what they serve, and why.
    pub unreachable: BTreeMap<ClusterName, String>,
    /// Files of snapshot members that cannot be read.
    pub unreadable_files: BTreeMap<ClusterName, Vec<String>>,
    /// Whether members and registries have been read at all.
    pub loaded: bool,
}

/// Turns members and registries into running watches.
#[derive(Debug)]
pub struct Supervisor {
    cache: Arc<Cache>,
    limits: ConnectionLimits,
    members: watch::Receiver<Arc<MemberSet>>,
    registries: watch::Receiver<Arc<RegistrySet>>,
    overview: watch::Sender<Arc<Overview>>,
    reports: (mpsc::UnboundedSender<Report>, mpsc::UnboundedReceiver<Report>),
    clusters: BTreeMap<ClusterName, ClusterState>,
    watches: BTreeMap<WatchKey, RunningWatch>,
    /// Turns to list.
    listing: Arc<Semaphore>,
    /// What was followed before a restart, until it is again or is not selected any more.
    restored: Restored,
}

/// What is known of a member that some registry selects.
#[derive(Debug)]
struct ClusterState {
    task: ClusterTask,
    discovery: Option<Arc<Discovery>>,
    failure: Option<String>,
    unreadable_files: Vec<String>,
}

#[derive(Debug)]
struct RunningWatch {
    target: WatchTarget,
    /// Which connection it runs on; another one means that it has to be started anew.
    epoch: u64,
    task: JoinHandle<()>,
}

impl RunningWatch {
    /// Ends the task and waits until it no longer writes. It stops at its next await, which is never far.
    async fn stop(self) {
        self.task.abort();
        // The only outcomes are "cancelled" and, if it had just ended, "done"; a panic was already reported.
        let _ = self.task.await;
    }
}

/// Forgets what is no longer needed of clusters and resources that are gone. Ends only by being dropped.
async fn tidy(cache: &Cache) {
    loop {
        let pause = if cache.tidy(DEPARTED_KEPT) { BETWEEN_TIDYING.0 } else { BETWEEN_TIDYING.1 };
        tokio::time::sleep(pause).await;
    }
}

impl Supervisor {
    /// A supervisor over these sources; [`Supervisor::run`] starts it.
    pub fn new(
        cache: Arc<Cache>,
        limits: ConnectionLimits,
        members: watch::Receiver<Arc<MemberSet>>,
        registries: watch::Receiver<Arc<RegistrySet>>,
    ) -> (Self, watch::Receiver<Arc<Overview>>) {
        let (overview, receiver) = watch::channel(Arc::default());
        let reports = mpsc::unbounded_channel();
        let (clusters, watches) = (BTreeMap::new(), BTreeMap::new());
        let (restored, listing) = (Restored::default(), Arc::new(Semaphore::new(LISTS_AT_ONCE)));
        (Self { cache, limits, members, registries, overview, reports, clusters, watches, listing, restored }, receiver)
    }

    /// Goes on from what was followed before a restart: what is in the cache stays there if it is still selected.
    #[must_use]
    pub fn going_on_from(self, restored: Restored) -> Self {
        Self { restored, ..self }
    }

    /// Runs until cancelled, then ends every task.
    pub async fn run(mut self, cancelled: CancellationToken) {
        loop {
            let begun = Instant::now();
            self.reconcile().await;
            let planned = Instant::now();
            let next = planned + ((planned - begun) * BETWEEN_PLANS.0).min(BETWEEN_PLANS.1);
            if cancelled.run_until_cancelled(self.news(next)).await.is_none() {
                break;
            }
        }
        for (_, watch) in std::mem::take(&mut self.watches) {
            watch.stop().await;
        }
    }

    /// Waits until there is something to plan anew for, a little longer for what comes with it, and until it is time.
    async fn news(&mut self, next: Instant) {
        let cache = Arc::clone(&self.cache);
        let mut tidying = std::pin::pin!(tidy(&cache));
        loop {
            let is_news = tokio::select! {
                Ok(()) = self.members.changed() => true,
                Ok(()) = self.registries.changed() => true,
                Some(report) = self.reports.1.recv() => self.note(report),
                () = &mut tidying => false,
            };
            if is_news {
                break;
            }
        }
        tokio::time::sleep_until(next.max(Instant::now() + SETTLE).into()).await;
        while let Ok(report) = self.reports.1.try_recv() {
            self.note(report);
        }
    }

    /// Takes in what a member said; false if it is what is known.
    fn note(&mut self, report: Report) -> bool {
        let Some(state) = self.clusters.get_mut(&report.cluster).filter(|state| state.task.epoch() == report.epoch)
        else {
            return false;
        };
        let (discovery, failure) = match report.discovery {
            Ok(discovery) => (Some(discovery), None),
            Err(error) => (None, Some(error)),
        };
        let mut is_news =
            state.failure != failure || state.unreadable_files != report.unreadable_files || state.task.is_refused();
        if state.unreadable_files != report.unreadable_files
            && let Some(first) = report.unreadable_files.first()
        {
            let files = report.unreadable_files.len();
            tracing::warn!(cluster = %report.cluster, files, first, "files of the cluster can't be read, their objects are missing");
        }
        (state.failure, state.unreadable_files) = (failure, report.unreadable_files);
        let known = state.discovery.clone();
        if let Some(discovery) = discovery {
            let discovery = match &known {
                Some(earlier) => discovery.completed_by(earlier),
                None => discovery,
            };
            if known.as_deref() != Some(&discovery) {
                let discovery = self.shared(discovery);
                if let Some(state) = self.clusters.get_mut(&report.cluster) {
                    state.discovery = Some(discovery);
                }
                is_news = true;
            }
        }
        is_news
    }

    /// Most members serve the same.
    fn shared(&self, discovery: Discovery) -> Arc<Discovery> {
        let known = self.clusters.values().filter_map(|state| state.discovery.as_ref());
        let same = known.into_iter().find(|known| ***known == discovery).map(Arc::clone);
        same.unwrap_or_else(|| Arc::new(discovery))
    }

    async fn reconcile(&mut self) {
        let members = self.members.borrow_and_update().clone();
        let registries = self.registries.borrow_and_update().clone();
        let loaded = members.loaded && registries.loaded;
        if loaded {
            self.reconcile_clusters(&members, &registries.registries);
            let plan = self.plan(&members, &registries.registries);
            self.reconcile_watches(&plan, members.is_partial).await;
            self.publish(plan, members);
        }
    }

    /// One task for each member that a registry selects, on the connection that its source describes now.
    fn reconcile_clusters(&mut self, members: &MemberSet, registries: &[Registry]) {
        let selected = |member: &Member| registries.iter().any(|registry| registry.clusters.matches(member));
        let shared = Shared { limits: self.limits, listing: &self.listing };
        self.clusters.retain(|name, _| members.members.get(name).is_some_and(selected));
        for member in members.members.values().filter(|member| selected(member)) {
            match self.clusters.get_mut(&member.name) {
                Some(state) if state.task.serves(&member.access) => state.task.note_health(&member.health),
                Some(state) => {
                    info!(cluster = %member.name, "endpoint or credentials changed, reconnecting");
                    state.task = ClusterTask::start(member, shared, self.reports.0.clone());
                    state.failure = state.task.failure().map(str::to_owned);
                }
                None => {
                    let task = ClusterTask::start(member, shared, self.reports.0.clone());
                    let failure = task.failure().map(str::to_owned);
                    let discovery = self.restored.discoveries.remove(&member.name).map(Arc::new);
                    let state = ClusterState { task, discovery, failure, unreadable_files: Vec::new() };
                    self.clusters.insert(member.name.clone(), state);
                }
            }
        }
    }

    fn plan(&self, members: &MemberSet, registries: &[Registry]) -> WatchPlan {
        let discovery = |name: &ClusterName| self.clusters.get(name).and_then(|state| state.discovery.as_deref());
        let planned: Vec<_> = members
            .members
            .values()
            .map(|member| PlannedMember { member, discovery: discovery(&member.name) })
            .collect();
        WatchPlan::new(registries, &planned)
    }

    async fn reconcile_watches(&mut self, plan: &WatchPlan, is_partial: bool) {
        let gone: Vec<WatchKey> = self.watches.keys().filter(|key| !plan.watches.contains_key(key)).cloned().collect();
        for key in gone {
            if let Some(watch) = self.watches.remove(&key) {
                watch.stop().await;
            }
            if let Some(cache) = self.cache.get(&key.resource) {
                cache.remove(&key.cluster);
            }
            info!(cluster = %key.cluster, resource = %key.resource, "no longer selected");
        }
        // While some source has not told its members, what seems not to be selected may be.
        let restored = if is_partial { BTreeSet::new() } else { std::mem::take(&mut self.restored.watches) };
        for key in restored {
            if !plan.watches.contains_key(&key)
                && let Some(cache) = self.cache.get(&key.resource)
            {
                cache.remove(&key.cluster);
                info!(cluster = %key.cluster, resource = %key.resource, "no longer selected since the restart");
            }
        }
        for (key, target) in &plan.watches {
            self.reconcile_watch(key, target).await;
        }
    }

    async fn reconcile_watch(&mut self, key: &WatchKey, target: &WatchTarget) {
        let Some(state) = self.clusters.get(&key.cluster) else { return };
        let epoch = state.task.epoch();
        if let Some(running) = self.watches.get_mut(key)
            && running.epoch == epoch
            && running.target.is_same_watch(target)
        {
            running.target = target.clone();
            return;
        }
        if let Some(running) = self.watches.remove(key) {
            running.stop().await;
        }
        let Some(task) = self.start_watch(key, target) else { return };
        self.watches.insert(key.clone(), RunningWatch { target: target.clone(), epoch, task });
    }

    fn start_watch(&self, key: &WatchKey, target: &WatchTarget) -> Option<JoinHandle<()>> {
        let state = self.clusters.get(&key.cluster)?;
        let writer = self.cache.open(&key.resource).writer(&key.cluster, &target.served);
        let origin = match &state.task {
            ClusterTask::Api(api) => api.origin.as_str(),
            ClusterTask::Snapshot(_) | ClusterTask::Unusable { .. } => "",
        };
        if !matches!(state.task, ClusterTask::Unusable { .. }) {
            writer.follow(&target.scope, origin);
        }
        writer.set_volatile(matches!(state.task, ClusterTask::Snapshot(_)));
        match &state.task {
            ClusterTask::Api(api) => {
                let reflector = Reflector::new(key, target, api.connection.clone(), writer, api.signals.clone());
                // The task is ended by aborting it, so the token given here is never used.
                Some(tokio::spawn(reflector.run(CancellationToken::new())))
            }
            ClusterTask::Snapshot(folder) => {
                Some(tokio::spawn(snapshot::follow(key.clone(), target.clone(), folder.contents.clone(), writer)))
            }
            ClusterTask::Unusable { reason, .. } => {
                writer.failed(reason.clone());
                Some(tokio::spawn(std::future::ready(())))
            }
        }
    }

    fn publish(&self, plan: WatchPlan, members: Arc<MemberSet>) {
        let failures = self.clusters.iter().filter_map(|(name, state)| Some((name.clone(), state.failure.clone()?)));
        let discoveries =
            self.clusters.iter().filter_map(|(name, state)| Some((name.clone(), state.discovery.clone()?)));
        let files = self.clusters.iter().filter(|(_, state)| !state.unreadable_files.is_empty());
        self.overview.send_replace(Arc::new(Overview {
            plan,
            members,
            discoveries: discoveries.collect(),
            unreachable: failures.collect(),
            unreadable_files: files.map(|(name, state)| (name.clone(), state.unreadable_files.clone())).collect(),
            loaded: true,
        }));
    }
}

impl Overview {
    /// A resource as some member serves it, whether or not a registry selects it.
    pub fn served(&self, resource: &GroupVersionResource) -> Option<&ApiResource> {
        self.discoveries.values().flat_map(|discovery| discovery.all()).find(|served| served.gvr == *resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervisor() -> Supervisor {
        let (members, registries) = (watch::channel(Arc::default()).1, watch::channel(Arc::default()).1);
        let limits = ConnectionLimits { qps: 0.0, burst: 0, streamed_lists: false };
        let mut supervisor = Supervisor::new(Arc::default(), limits, members, registries).0;
        for name in ["m1", "m2"] {
            let task = ClusterTask::Unusable { reason: "not asked in this test".to_owned(), epoch: 1 };
            let state = ClusterState { task, discovery: None, failure: None, unreadable_files: Vec::new() };
            supervisor.clusters.insert(name.into(), state);
        }
        supervisor
    }

    fn report(cluster: &str, discovery: Result<&[&str], &str>) -> Report {
        let served = |resource: &&str| ApiResource {
            gvr: GroupVersionResource::new("", "v1", resource),
            kind: "Kind".into(),
            namespaced: true,
            watchable: true,
        };
        let discovery = discovery.map(|resources| Discovery::new(resources.iter().map(served).collect()));
        let discovery = discovery.map_err(str::to_owned);
        Report { cluster: cluster.into(), epoch: 1, discovery, unreadable_files: Vec::new() }
    }

    #[test]
    fn what_a_member_says_again_is_not_planned_for_again() {
        let mut supervisor = supervisor();
        assert!(supervisor.note(report("m1", Ok(&["pods"]))));
        assert!(!supervisor.note(report("m1", Ok(&["pods"]))));
        assert!(supervisor.note(report("m1", Err("away"))));
        assert!(!supervisor.note(report("m1", Err("away"))));
        assert!(supervisor.note(report("m1", Ok(&["pods"]))), "it is there again");
        assert!(supervisor.note(report("m1", Ok(&["pods", "nodes"]))));
        assert!(!supervisor.note(Report { epoch: 2, ..report("m1", Ok(&[])) }), "of another connection");
    }

    #[test]
    fn members_that_serve_the_same_share_one_copy_of_it() {
        let mut supervisor = supervisor();
        assert!(supervisor.note(report("m1", Ok(&["pods"]))) && supervisor.note(report("m2", Ok(&["pods"]))));
        let known = |name: &str| supervisor.clusters[name].discovery.clone().unwrap();
        assert!(Arc::ptr_eq(&known("m1"), &known("m2")));
    }
}
