//! Who holds which shard: one Kubernetes Lease a shard, and one a server that takes part.
//!
//! In: the control plane. Out: the shards that are ours, as they come and go. Each server takes its fair share and leaves the rest
//! to the others; what a server that died held is taken by the others when its leases have run out. A lease that can't be renewed
//! is given up before anybody else may take it. Clocks of different machines are not compared: a lease has run out when it has
//! not changed for as long as it lasts, by our own clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Shards;

/// How long a lease lasts that is not renewed.
const LASTS: Duration = Duration::from_secs(15);
/// How often leases are looked at and renewed.
const RENEWED: Duration = Duration::from_secs(3);
/// When a lease that could not be renewed is given up: before others may take it.
const GIVEN_UP: Duration = Duration::from_secs(10);
/// How long the control plane may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Tells our leases from others, and what each is for.
const LABEL: &str = "search.karmada.io/lease";

/// A server that takes part.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its name, different from all others'.
    pub name: String,
    /// Begins the names of leases: servers that share work share it.
    pub group: String,
    /// Where leases stand.
    pub namespace: String,
    /// How many shards there are.
    pub shards: u32,
}

/// Takes part until told to stop, and gives up what it holds then.
pub async fn take_part(candidate: Candidate, client: Client, held: watch::Sender<Shards>, stop: CancellationToken) {
    let leases = Api::namespaced(client, &candidate.namespace);
    let mut election =
        Election { candidate, leases, held, seen: BTreeMap::new(), renewed: BTreeMap::new(), problem: None };
    while !stop.is_cancelled() {
        let looked = election.look().await;
        election.note(looked);
        election.give_up_late();
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(RENEWED) => {}
        }
    }
    // Others need not wait then.
    let _ = tokio::time::timeout(PATIENCE * 2, election.leave()).await;
}

struct Election {
    candidate: Candidate,
    leases: Api<Lease>,
    held: watch::Sender<Shards>,
    /// Each lease's version, and when we first saw it so.
    seen: BTreeMap<String, (String, Instant)>,
    /// When ours were last renewed.
    renewed: BTreeMap<u32, Instant>,
    problem: Option<String>,
}

impl Election {
    async fn look(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        let selector = ListParams::default().labels(&format!("{LABEL}={}", self.candidate.group));
        self.give_up_late();
        let found = in_time(self.leases.list(&selector)).await?;
        self.observe(&found.items);
        let own = self.own_name();
        self.renew(found.items.iter().find(|lease| lease.name_any() == own), &own).await?;
        let by_name: BTreeMap<String, Lease> = found.items.into_iter().map(|lease| (lease.name_any(), lease)).collect();
        let fair = self.fair_share(&by_name);
        let mut count = 0;
        for shard in self.in_order() {
            let name = self.shard_name(shard);
            let lease = by_name.get(&name);
            let is_ours = lease.is_some_and(|lease| holder(lease) == self.candidate.name);
            let is_free = lease.is_none_or(|lease| holder(lease).is_empty() || self.has_run_out(lease));
            if is_ours && count >= fair {
                self.release(shard, lease).await;
            } else if is_ours || (is_free && count < fair) {
                match self.renew(lease, &name).await {
                    Ok(()) => {
                        self.renewed.insert(shard, begun);
                        count += 1;
                    }
                    // Somebody was faster, or the control plane failed: then it is given up in time.
                    Err(error) => tracing::debug!(shard, error, "a lease was not taken"),
                }
                self.give_up_late();
            } else {
                self.renewed.remove(&shard);
            }
        }
        self.publish();
        self.sweep(&by_name).await;
        Ok(())
    }

    /// Servers that ended without a word leave their leases.
    async fn sweep(&mut self, leases: &BTreeMap<String, Lease>) {
        let servers = format!("{}-server-", self.candidate.group);
        let has_long_run_out = |name: &str| self.seen.get(name).is_some_and(|(_, since)| since.elapsed() > LASTS * 4);
        let left = leases.keys().find(|name| name.starts_with(&servers) && has_long_run_out(name));
        if let Some(name) = left {
            let _ = in_time(self.leases.delete(name, &DeleteParams::default())).await;
        }
        self.seen.retain(|name, _| leases.contains_key(name));
    }

    fn own_name(&self) -> String {
        format!("{}-server-{}", self.candidate.group, self.candidate.name)
    }

    fn shard_name(&self, shard: u32) -> String {
        format!("{}-shard-{shard}", self.candidate.group)
    }

    /// Those that we hold first, so that nothing is released for something else.
    fn in_order(&self) -> Vec<u32> {
        let mut shards: Vec<u32> = (0..self.candidate.shards).collect();
        shards.sort_by_key(|shard| !self.renewed.contains_key(shard));
        shards
    }

    fn observe(&mut self, leases: &[Lease]) {
        let now = Instant::now();
        for lease in leases {
            let version = lease.resource_version().unwrap_or_default();
            match self.seen.get(&lease.name_any()) {
                Some((known, _)) if *known == version => {}
                _ => drop(self.seen.insert(lease.name_any(), (version, now))),
            }
        }
    }

    fn has_run_out(&self, lease: &Lease) -> bool {
        self.seen.get(&lease.name_any()).is_some_and(|(_, since)| since.elapsed() > LASTS)
    }

    /// How many shards each of the servers that are there takes at most.
    fn fair_share(&self, leases: &BTreeMap<String, Lease>) -> usize {
        let servers = format!("{}-server-", self.candidate.group);
        let alive = leases.iter().filter(|(name, lease)| name.starts_with(&servers) && !self.has_run_out(lease));
        let mut names: BTreeSet<&str> = alive.map(|(name, _)| name.as_str()).collect();
        let own = self.own_name();
        names.insert(&own);
        (self.candidate.shards as usize).div_ceil(names.len())
    }

    /// Takes a lease or renews it; fails if somebody else has changed it meanwhile.
    async fn renew(&self, lease: Option<&Lease>, name: &str) -> Result<(), String> {
        let parameters = PostParams::default();
        let mut lease = match lease {
            None => return in_time(self.leases.create(&parameters, &self.lease(name))).await.map(drop),
            Some(lease) => lease.clone(),
        };
        let earlier = lease.spec.take().unwrap_or_default();
        let is_new = earlier.holder_identity.as_deref() != Some(self.candidate.name.as_str());
        let ours = self.spec();
        lease.spec = Some(LeaseSpec {
            acquire_time: if is_new { ours.acquire_time.clone() } else { earlier.acquire_time },
            lease_transitions: Some(earlier.lease_transitions.unwrap_or_default() + i32::from(is_new)),
            ..ours
        });
        in_time(self.leases.replace(name, &parameters, &lease)).await.map(drop)
    }

    fn spec(&self) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.candidate.name.clone()),
            lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }

    fn lease(&self, name: &str) -> Lease {
        let labels = [(LABEL.to_owned(), self.candidate.group.clone())].into();
        let metadata = ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() };
        Lease { metadata, spec: Some(self.spec()) }
    }

    /// Stops using a shard, then lets others have it.
    async fn release(&mut self, shard: u32, lease: Option<&Lease>) {
        self.renewed.remove(&shard);
        self.publish();
        let Some(mut lease) = lease.cloned() else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
        }
        let name = self.shard_name(shard);
        if let Err(error) = in_time(self.leases.replace(&name, &PostParams::default(), &lease)).await {
            tracing::debug!(shard, error, "a lease was not given back; it runs out");
        }
    }

    fn give_up_late(&mut self) {
        self.renewed.retain(|_, renewed| renewed.elapsed() < GIVEN_UP);
        self.publish();
    }

    fn publish(&self) {
        let now = Shards { of: self.candidate.shards, held: self.renewed.keys().copied().collect() };
        self.held.send_if_modified(|held| {
            if *held == now {
                return false;
            }
            info!(shards = ?now.held, of = now.of, "these shards of the clusters are ours");
            *held = now;
            true
        });
    }

    fn note(&mut self, looked: Result<(), String>) {
        match (looked, &self.problem) {
            (Ok(()), Some(_)) => {
                info!("leases can be renewed again");
                self.problem = None;
            }
            (Err(error), None) => {
                warn!(error, "leases can't be renewed; shards are given up if that goes on");
                self.problem = Some(error);
            }
            _ => {}
        }
    }

    async fn leave(&mut self) {
        // One that stays runs out.
        let _ = in_time(self.leases.delete(&self.own_name(), &DeleteParams::default())).await;
        let shards: Vec<u32> = self.renewed.keys().copied().collect();
        for shard in shards {
            let lease = in_time(self.leases.get(&self.shard_name(shard))).await.ok();
            self.release(shard, lease.filter(|lease| holder(lease) == self.candidate.name).as_ref()).await;
        }
    }
}

/// What the control plane answers, if it does so soon.
async fn in_time<T>(asked: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("the control plane does not answer".to_owned()),
    }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}
