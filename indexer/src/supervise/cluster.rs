//! One task for each selected member: asks it what it serves, again and again, and tells the supervisor.
//!
//! It is also the member's prober: while the member does not answer it knocks every few seconds, and when it answers again
//! all of the member's reflectors are told to retry at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use crate::connection::{ConnectionLimits, Discovery, MemberConnection};
use crate::member::{ApiAccess, Member, MemberAccess, MemberHealth};
use crate::reflector::Signals;
use crate::resource::ClusterName;
use crate::source::snapshot_folder::{SnapshotContents, SnapshotFolder};

/// How often a member that answers is asked what it serves.
const REDISCOVER: Duration = Duration::from_secs(30);
/// How often one that does not answer is asked, at first and at most.
const PROBE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(3));

/// How long a member may take to tell what it serves.
const DISCOVERY: Duration = Duration::from_secs(30);

/// How long credentials of a plugin are used at least, before they are asked for anew because they are refused.
const SHORTEST_USE: Duration = Duration::from_secs(30);

static EPOCHS: AtomicU64 = AtomicU64::new(1);

/// What a member said of what it serves.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) cluster: ClusterName,
    pub(super) epoch: u64,
    pub(super) discovery: Result<Discovery, String>,
    pub(super) unreadable_files: Vec<String>,
}

/// A member's task; dropping it ends it.
#[derive(Debug)]
pub(super) enum ClusterTask {
    /// Reads an API server.
    Api(ApiTask),
    /// Reads a folder.
    Snapshot(SnapshotTask),
    /// Nothing can be read; why.
    Unusable { reason: String, epoch: u64 },
}

#[derive(Debug)]
pub(super) struct ApiTask {
    /// The cluster's address and the authority that vouches for it: with others it is another cluster.
    pub(super) origin: String,
    pub(super) connection: MemberConnection,
    pub(super) signals: Signals,
    fingerprint: u64,
    epoch: u64,
    health: Mutex<MemberHealth>,
    /// Whether the member refuses credentials that a plugin may have better ones of by now.
    is_refused: Arc<AtomicBool>,
    _stop: DropGuard,
}

#[derive(Debug)]
pub(super) struct SnapshotTask {
    pub(super) contents: watch::Receiver<Arc<SnapshotContents>>,
    path: PathBuf,
    epoch: u64,
    _stop: DropGuard,
}

/// What all members' tasks have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) limits: ConnectionLimits,
    pub(super) listing: &'a Arc<Semaphore>,
}

impl ClusterTask {
    pub(super) fn start(member: &Member, shared: Shared<'_>, reports: mpsc::UnboundedSender<Report>) -> Self {
        let epoch = EPOCHS.fetch_add(1, Ordering::Relaxed);
        match &member.access {
            MemberAccess::Api(access) => start_api(member, access, shared, epoch, reports),
            MemberAccess::Snapshot(path) => Self::Snapshot(start_snapshot(member, path, epoch, reports)),
            MemberAccess::Unusable(reason) => {
                warn!(cluster = %member.name, %reason, "the member cannot be read");
                Self::Unusable { reason: reason.clone(), epoch }
            }
        }
    }

    /// Grows with each new connection.
    pub(super) fn epoch(&self) -> u64 {
        match self {
            Self::Api(api) => api.epoch,
            Self::Snapshot(folder) => folder.epoch,
            Self::Unusable { epoch, .. } => *epoch,
        }
    }

    /// Why nothing can be read at all.
    pub(super) fn failure(&self) -> Option<&str> {
        match self {
            Self::Unusable { reason, .. } => Some(reason),
            Self::Api(_) | Self::Snapshot(_) => None,
        }
    }

    /// Whether its credentials have to be asked for anew.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self, Self::Api(api) if api.is_refused.load(Ordering::Relaxed))
    }

    /// Whether this task reads what `access` describes.
    pub(super) fn serves(&self, access: &MemberAccess) -> bool {
        match (self, access) {
            (Self::Api(api), MemberAccess::Api(access)) => api.fingerprint == access.fingerprint && !self.is_refused(),
            (Self::Snapshot(folder), MemberAccess::Snapshot(path)) => folder.path == *path,
            (Self::Unusable { reason, .. }, MemberAccess::Unusable(other)) => reason == other,
            _ => false,
        }
    }

    /// A member that its source calls ready again is retried at once.
    pub(super) fn note_health(&self, health: &MemberHealth) {
        if let Self::Api(api) = self {
            let mut known = api.health.lock();
            if *known != MemberHealth::Ready && *health == MemberHealth::Ready {
                api.signals.retry_now.notify_waiters();
                api.signals.rediscover.notify_one();
            }
            known.clone_from(health);
        }
    }
}

fn start_api(
    member: &Member,
    access: &Arc<ApiAccess>,
    shared: Shared<'_>,
    epoch: u64,
    reports: mpsc::UnboundedSender<Report>,
) -> ClusterTask {
    let connection = MemberConnection::open(access, shared.limits);
    let (retry_now, rediscover) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let signals = Signals { retry_now, rediscover, listing: Arc::clone(shared.listing) };
    let cancelled = CancellationToken::new();
    let is_refused = Arc::new(AtomicBool::new(false));
    let prober = Prober {
        cluster: member.name.clone(),
        epoch,
        plugin_credentials: access.config.auth_info.exec.is_some().then(|| Arc::clone(&is_refused)),
        connection: connection.clone(),
        signals: signals.clone(),
        reports,
    };
    tokio::spawn({
        let cancelled = cancelled.clone();
        async move { cancelled.run_until_cancelled(prober.run()).await }
    });
    ClusterTask::Api(ApiTask {
        origin: access.origin(),
        connection,
        signals,
        fingerprint: access.fingerprint,
        epoch,
        health: Mutex::new(member.health.clone()),
        is_refused,
        _stop: cancelled.drop_guard(),
    })
}

struct Prober {
    cluster: ClusterName,
    epoch: u64,
    /// Where is told that they are refused; none if they are no plugin's.
    plugin_credentials: Option<Arc<AtomicBool>>,
    connection: MemberConnection,
    signals: Signals,
    reports: mpsc::UnboundedSender<Report>,
}

impl Prober {
    async fn run(self) {
        let mut delay = PROBE.0;
        let (mut failing, begun) = (false, Instant::now());
        loop {
            let asked = tokio::time::timeout(DISCOVERY, self.connection.discover()).await;
            if let Ok(Err(error)) = &asked
                && error.status_code() == Some(401)
                && begun.elapsed() > SHORTEST_USE
                && let Some(is_refused) = &self.plugin_credentials
            {
                is_refused.store(true, Ordering::Relaxed);
            }
            let discovery = match asked {
                Ok(answered) => answered.map_err(|error| error.to_string()),
                // A byte now and then keeps an answer alive and says nothing.
                Err(_) => Err(format!("the cluster did not say what it serves within {} seconds", DISCOVERY.as_secs())),
            };
            let wait = match &discovery {
                Ok(_) => {
                    if failing {
                        info!(cluster = %self.cluster, "the member answers again");
                        self.signals.retry_now.notify_waiters();
                    }
                    (failing, delay) = (false, PROBE.0);
                    REDISCOVER
                }
                Err(error) => {
                    if !failing {
                        warn!(cluster = %self.cluster, %error, "the member does not answer, retrying");
                    }
                    failing = true;
                    delay = (delay * 2).min(PROBE.1);
                    delay
                }
            };
            let report =
                Report { cluster: self.cluster.clone(), epoch: self.epoch, discovery, unreadable_files: Vec::new() };
            if self.reports.send(report).is_err() {
                return;
            }
            let jittered = wait.mul_f64(rand::rng().random_range(0.7..=1.0));
            tokio::select! {
                () = tokio::time::sleep(jittered) => {}
                () = self.signals.rediscover.notified() => tokio::time::sleep(PROBE.0).await,
            }
        }
    }
}

fn start_snapshot(
    member: &Member,
    path: &std::path::Path,
    epoch: u64,
    reports: mpsc::UnboundedSender<Report>,
) -> SnapshotTask {
    let cancelled = CancellationToken::new();
    let contents = SnapshotFolder::watch(path.to_path_buf(), cancelled.clone());
    let cluster = member.name.clone();
    tokio::spawn({
        let mut contents = contents.clone();
        let cancelled = cancelled.clone();
        async move {
            loop {
                let present = contents.borrow_and_update().clone();
                if present.generation > 0 && reports.send(describe(&cluster, epoch, &present)).is_err() {
                    return;
                }
                tokio::select! {
                    () = cancelled.cancelled() => return,
                    changed = contents.changed() => if changed.is_err() { return },
                }
            }
        }
    });
    SnapshotTask { contents, path: path.to_path_buf(), epoch, _stop: cancelled.drop_guard() }
}

fn describe(cluster: &ClusterName, epoch: u64, contents: &SnapshotContents) -> Report {
    Report {
        cluster: cluster.clone(),
        epoch,
        discovery: Ok(Discovery::new(contents.resources.values().map(|resource| resource.api.clone()).collect())),
        unreadable_files: contents.unreadable.iter().map(ToString::to_string).collect(),
    }
}
