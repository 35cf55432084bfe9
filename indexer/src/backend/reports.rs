//! How well clusters are followed, kept in a backend beside their objects, for who reads those without following clusters.
//!
//! One document a cluster in an index of its own. Whoever follows a cluster writes it when something has changed, and now and
//! then when nothing has: a report that grows old tells that nobody follows the cluster any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use opensearch::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::BackendError;
use super::assignment::Assignment;
use super::bulk::{self, Lines, Outcome};
use super::client::{Client, Request};
use super::document::Collection;
use super::readers::Readers;
use crate::cache::Cache;
use crate::member::{Location, Member, MemberAccess, MemberHealth};
use crate::plan::{ResourceSelector, Scope, Unserved, UnservedReason, WatchKey, WatchPlan, WatchTarget};
use crate::resource::{ApiResource, ClusterName, GroupVersionResource};
use crate::source::MemberSet;
use crate::status::{Notice, SyncStatus, sync_statuses};
use crate::supervise::Overview;

/// How often a writer looks whether something has changed.
const LOOK: Duration = Duration::from_secs(2);
/// How long nothing is reported after that has failed.
const RETRY: Duration = Duration::from_secs(10);
/// How often a report is written though nothing has.
const RENEWED: Duration = Duration::from_secs(20);
/// A report older than this tells that nobody follows the cluster any more.
const STALE: Duration = Duration::from_secs(70);
/// How long a backend may take to tell.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often readers look.
const READ: Duration = Duration::from_secs(3);
/// Raised when reports look otherwise.
const FORM: u32 = 1;
/// Reports that are read at most.
const MOST: usize = 10_000;

/// How well one cluster is followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ClusterReport {
    cluster: ClusterName,
    heard: Timestamp,
    items: Vec<ResourceReport>,
}

/// How well one resource of a cluster is followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ResourceReport {
    status: SyncStatus,
    standing: Standing,
}

/// Whether a cluster has a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Standing {
    /// It is followed, as the cluster serves it.
    Followed { version: String, kind: String, namespaced: bool },
    /// The cluster doesn't have it; then the resource of the status is the kind.
    NotServed,
    /// The cluster has not told.
    Unknown,
}

/// The alias beside that of the objects.
pub(super) fn alias_of(objects: &str) -> String {
    format!("{}-status", objects.strip_suffix("-objects").unwrap_or(objects))
}

/// What a writer tells readers.
#[derive(Debug)]
pub(super) struct Reporter {
    cache: Arc<Cache>,
    overview: watch::Receiver<Arc<Overview>>,
    /// What was written last; none if it isn't known what is there.
    written: Option<Reported>,
    due: Instant,
    has_failed: bool,
}

type Reported = BTreeMap<ClusterName, ClusterReport>;

/// What came of a look.
pub(super) struct WrittenReports(Reported);

/// What is to be written.
pub(super) struct Report {
    now: Reported,
    written: Option<Reported>,
    assignment: Arc<Assignment>,
}

impl Reporter {
    pub(super) fn new(cache: Arc<Cache>, overview: watch::Receiver<Arc<Overview>>) -> Self {
        Self { cache, overview, written: None, due: Instant::now(), has_failed: false }
    }

    /// What is there has to be found out.
    pub(super) fn forget(&mut self) {
        (self.written, self.due) = (None, Instant::now());
    }

    /// What was to be written was not.
    pub(super) fn fail(&mut self) {
        (self.written, self.due, self.has_failed) = (None, Instant::now() + RETRY, true);
    }

    /// Whether that was the last time.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// When to look again.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Whether nothing is told of any cluster of ours.
    pub(super) fn is_empty(&self) -> bool {
        self.written.as_ref().is_some_and(BTreeMap::is_empty)
    }

    /// What is to be told now, if it is time for that and something has changed.
    pub(super) fn next(
        &mut self,
        assignment: &Arc<Assignment>,
        is_written: &dyn Fn(&Collection) -> bool,
    ) -> Option<Report> {
        let now = Instant::now();
        if self.due > now {
            return None;
        }
        self.due = now + LOOK;
        let overview = self.overview.borrow().clone();
        // An assignment follows the overview by moments.
        if !overview.loaded || overview.members.shards != assignment.shards {
            return None;
        }
        let mut reports = reports(&overview, &self.cache, assignment, is_written);
        let mut has_changed = self.written.as_ref().is_none_or(|written| !written.keys().eq(reports.keys()));
        for (cluster, report) in &mut reports {
            let known = self.written.as_ref().and_then(|written| written.get(cluster));
            match known.filter(|known| known.is_as(report) && known.age() < RENEWED) {
                Some(known) => report.clone_from(known),
                None => has_changed = true,
            }
        }
        let report = Report { now: reports, written: self.written.clone(), assignment: Arc::clone(assignment) };
        has_changed.then_some(report)
    }

    pub(super) fn note(&mut self, WrittenReports(written): WrittenReports) {
        (self.written, self.has_failed) = (Some(written), false);
    }
}

impl Report {
    /// Writes what has changed, and removes what there is no reason for any more.
    pub(super) async fn write(self, client: &Client, objects: &str) -> Result<WrittenReports, BackendError> {
        let Self { now, written, assignment } = self;
        let alias = alias_of(objects);
        let present: BTreeSet<ClusterName> = match &written {
            Some(written) => written.keys().cloned().collect(),
            None => read(client, &alias).await?.into_iter().map(|report| report.cluster).collect(),
        };
        let (mut lines, mut count) = (Lines::new(), 0);
        for (cluster, report) in &now {
            if written.as_ref().and_then(|written| written.get(cluster)) != Some(report) {
                lines.add(json!({ "index": { "_id": cluster } }).to_string().as_bytes())?;
                lines.add(json!(report).to_string().as_bytes())?;
                count += 1;
            }
        }
        let is_gone = |cluster: &&ClusterName| {
            !now.contains_key(*cluster) && assignment.shards.is_ours(cluster) && !assignment.is_partial
        };
        for cluster in present.iter().filter(is_gone) {
            lines.add(json!({ "delete": { "_id": cluster } }).to_string().as_bytes())?;
            count += 1;
        }
        if count > 0 {
            if written.is_none() {
                create(client, &alias).await?;
            }
            for outcome in bulk::send(client, &alias, lines.finish()?, count).await? {
                if let Outcome::Again { reason, .. } | Outcome::Rejected(reason) = outcome {
                    return Err(BackendError::Unsuitable(format!("{alias}: {reason}")));
                }
            }
        }
        Ok(WrittenReports(now))
    }
}

impl ClusterReport {
    /// Whether both tell the same; how many objects there are, or were refused, alone is no news.
    fn is_as(&self, other: &Self) -> bool {
        let of = |report: &Self| -> Vec<ResourceReport> {
            let mut items = report.items.clone();
            for item in &mut items {
                item.status.objects = 0;
                // Of what is followed, it tells how many objects were refused so far.
                if item.status.synced && item.status.error.is_some() {
                    item.status.error = Some(String::new());
                }
            }
            items
        };
        of(self) == of(other)
    }

    /// How long ago it was made, by the clock of this machine.
    fn age(&self) -> Duration {
        Timestamp::now().duration_since(self.heard).unsigned_abs()
    }
}

/// Makes sure that the alias leads to an index.
async fn create(client: &Client, alias: &str) -> Result<(), BackendError> {
    let properties = json!({ "cluster": { "type": "keyword" }, "heard": { "type": "date" } });
    let body = json!({
        "settings": { "index.number_of_shards": 1, "index.auto_expand_replicas": "0-1" },
        "mappings": { "dynamic": false, "properties": properties },
        "aliases": { alias: { "is_write_index": true } },
    });
    match client.ask::<Value>(Request::new(Method::Put, &format!("{alias}-{FORM}")).json(&body)).await {
        Err(BackendError::Refused { status: 400, reason, .. })
            if reason.contains("resource_already_exists_exception") =>
        {
            Ok(())
        }
        other => other.map(drop),
    }
}

async fn read(client: &Client, alias: &str) -> Result<Vec<ClusterReport>, BackendError> {
    #[derive(Deserialize)]
    struct Answer {
        hits: Hits,
    }
    #[derive(Deserialize)]
    struct Hits {
        hits: Vec<Hit>,
    }
    #[derive(Deserialize)]
    struct Hit {
        #[serde(rename = "_source")]
        report: Value,
    }
    let path = format!("{alias}/_search");
    let body = json!({ "size": MOST, "query": { "match_all": {} } });
    match client.ask::<Answer>(Request::new(Method::Post, &path).json(&body)).await {
        // What a newer version writes may not be understood.
        Ok(answer) => {
            Ok(answer.hits.hits.into_iter().filter_map(|hit| serde_json::from_value(hit.report).ok()).collect())
        }
        Err(error) if error.status() == Some(404) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// How well the clusters are followed whose objects a backend is to hold, and how far it has them.
fn reports(
    overview: &Overview,
    cache: &Cache,
    assignment: &Assignment,
    is_written: &dyn Fn(&Collection) -> bool,
) -> Reported {
    let heard = Timestamp::now();
    let selected = assignment.selected.values().flatten().filter(|cluster| assignment.shards.is_ours(cluster));
    let mut reports: Reported = selected
        .map(|cluster| (cluster.clone(), ClusterReport { cluster: cluster.clone(), heard, items: Vec::new() }))
        .collect();
    let undiscovered: BTreeSet<(&ClusterName, &str)> = overview
        .plan
        .unserved
        .iter()
        .filter(|unserved| unserved.reason == UnservedReason::NotDiscovered)
        .map(|unserved| (&unserved.cluster, unserved.selector.kind.as_str()))
        .collect();
    for mut status in sync_statuses(overview, cache) {
        status.registries.retain(|registry| assignment.selected.contains_key(registry));
        let Some(report) = reports.get_mut(&status.cluster).filter(|_| !status.registries.is_empty()) else { continue };
        let resource = GroupVersionResource::new(&status.group, &status.version, &status.resource);
        let standing = match overview.plan.watches.get(&WatchKey { cluster: status.cluster.clone(), resource }) {
            Some(target) => Standing::Followed {
                version: target.served.gvr.version.to_string(),
                kind: target.served.kind.to_string(),
                namespaced: target.served.namespaced,
            },
            None if undiscovered.contains(&(&status.cluster, status.resource.as_str())) => Standing::Unknown,
            None => Standing::NotServed,
        };
        if status.synced {
            // Who reads it asks when the report was written; this would change with every look.
            status.last_seen = None;
            let collection = Collection {
                cluster: status.cluster.clone(),
                group: status.group.as_str().into(),
                resource: status.resource.as_str().into(),
            };
            status.synced = is_written(&collection);
            if !status.synced {
                status.error = Some("it is still being written to the backend".to_owned());
            }
        }
        report.items.push(ResourceReport { status, standing });
    }
    reports
}

/// How well clusters are followed, as backends tell.
#[derive(Debug, Clone, Default)]
pub struct Reports {
    clusters: BTreeMap<ClusterName, Heard>,
    /// Why they can't be read.
    pub problem: Option<String>,
    /// Whether they have been read at all.
    pub is_loaded: bool,
}

/// A report, and when it was seen to be a new one: clocks of other machines tell nothing here.
#[derive(Debug, Clone)]
struct Heard {
    report: ClusterReport,
    seen: Instant,
}

impl Heard {
    fn is_stale(&self) -> bool {
        self.seen.elapsed() > STALE
    }
}

/// Keeps reports in step with backends until told to stop.
pub async fn follow(readers: watch::Receiver<Readers>, reports: watch::Sender<Arc<Reports>>, stop: CancellationToken) {
    let keep = async {
        loop {
            let (earlier, readers) = (reports.borrow().clone(), readers.borrow().clone());
            let found = look(&readers, &earlier).await;
            reports.send_replace(Arc::new(found));
            tokio::time::sleep(READ).await;
        }
    };
    stop.run_until_cancelled_owned(keep).await;
}

async fn look(readers: &Readers, earlier: &Reports) -> Reports {
    let reading = readers.readers.iter().map(|reader| async {
        let alias = alias_of(&reader.alias);
        tokio::time::timeout(PATIENCE, read(&reader.client, &alias)).await.unwrap_or_else(|_| {
            Err(BackendError::Unsuitable(format!("no answer within {} seconds", PATIENCE.as_secs())))
        })
    });
    let mut found = Reports::default();
    for read in futures::future::join_all(reading).await {
        match read {
            Ok(reports) => reports.into_iter().for_each(|report| found.add(report, earlier)),
            Err(error) => found.problem = Some(error.to_string()),
        }
    }
    let is_whole = found.problem.is_none() && readers.problems.is_empty();
    if !is_whole {
        // What was read before still says more than nothing.
        let before = earlier.clusters.iter().map(|(cluster, heard)| (cluster.clone(), heard.clone()));
        found.clusters = before.chain(std::mem::take(&mut found.clusters)).collect();
    }
    found.is_loaded = earlier.is_loaded || (readers.is_loaded && is_whole);
    found
}

impl Reports {
    /// Of two backends that hold a cluster's objects, each tells of its own.
    fn add(&mut self, report: ClusterReport, earlier: &Self) {
        match self.clusters.get_mut(&report.cluster) {
            Some(Heard { report: present, .. }) => {
                for item in report.items {
                    if !present.items.iter().any(|known| known.status.is_about_same(&item.status)) {
                        present.items.push(item);
                    }
                }
            }
            None => {
                let known = earlier.clusters.get(&report.cluster).filter(|known| known.report.heard == report.heard);
                let seen = known.map_or_else(Instant::now, |known| known.seen);
                self.clusters.insert(report.cluster.clone(), Heard { report, seen });
            }
        }
    }

    /// As `search/status` shows them.
    pub fn statuses(&self) -> Vec<SyncStatus> {
        let all = self.clusters.values().flat_map(|heard| heard.report.items.iter().map(move |item| (heard, item)));
        all.map(|(known, item)| {
            let mut status = item.status.clone();
            let heard = crate::status::seconds(known.report.heard);
            if status.synced {
                status.last_seen = Some(heard.clone());
            }
            if known.is_stale() {
                status.synced = false;
                status.error = Some(format!("no server has followed this cluster since {heard}"));
            }
            status
        })
        .collect()
    }

    /// What a reader must be told of the clusters that are asked for, a notice a cluster at most; of one resource or of all.
    pub fn notices(
        &self,
        clusters: Option<&BTreeSet<ClusterName>>,
        resource: Option<&GroupVersionResource>,
    ) -> Vec<Notice> {
        let is_wanted = |heard: &&Heard| clusters.is_none_or(|wanted| wanted.contains(&heard.report.cluster));
        self.clusters.values().filter(is_wanted).filter_map(|heard| heard.notice(resource)).collect()
    }

    /// What is followed, in the form that those have it who follow clusters themselves.
    pub fn overview(&self) -> Overview {
        let mut plan = WatchPlan::default();
        let mut members = BTreeMap::new();
        for Heard { report, .. } in self.clusters.values() {
            let member = Member {
                name: report.cluster.clone(),
                labels: BTreeMap::new(),
                location: Location::default(),
                health: MemberHealth::Ready,
                access: MemberAccess::Unusable("its objects are read from a backend".to_owned()),
            };
            members.insert(report.cluster.clone(), member);
            plan.watches.extend(report.items.iter().filter_map(|item| item.watch(&report.cluster)));
            for item in &report.items {
                plan.unserved.extend(item.unserved(&report.cluster));
                for registry in &item.status.registries {
                    plan.selected.entry(registry.clone()).or_default().insert(report.cluster.clone());
                }
            }
        }
        let members = Arc::new(MemberSet { members, loaded: self.is_loaded, ..MemberSet::default() });
        Overview { plan, members, loaded: self.is_loaded, ..Overview::default() }
    }
}

impl ResourceReport {
    fn watch(&self, cluster: &ClusterName) -> Option<(WatchKey, WatchTarget)> {
        let Standing::Followed { version: served, kind, namespaced } = &self.standing else { return None };
        let SyncStatus { group, version, resource, registries, .. } = &self.status;
        let target = WatchTarget {
            served: ApiResource {
                gvr: GroupVersionResource::new(group, served, resource),
                kind: kind.as_str().into(),
                namespaced: *namespaced,
                watchable: true,
            },
            scope: Scope::All,
            registries: registries.clone(),
        };
        let resource = GroupVersionResource::new(group, version, resource);
        Some((WatchKey { cluster: cluster.clone(), resource }, target))
    }

    fn unserved(&self, cluster: &ClusterName) -> Vec<Unserved> {
        if self.standing != Standing::NotServed {
            return Vec::new();
        }
        let SyncStatus { group, version, resource, registries, .. } = &self.status;
        let api_version = GroupVersionResource::new(group, version, resource).api_version();
        let selector = ResourceSelector { api_version, kind: resource.clone(), namespace: None };
        let of = |registry: &String| Unserved {
            cluster: cluster.clone(),
            selector: selector.clone(),
            registry: registry.clone(),
            reason: UnservedReason::NoSuchKind,
        };
        registries.iter().map(of).collect()
    }
}

impl Heard {
    fn notice(&self, resource: Option<&GroupVersionResource>) -> Option<Notice> {
        let ClusterReport { cluster, heard, items } = &self.report;
        let is_asked = |item: &&ResourceReport| {
            resource.is_none_or(|asked| {
                item.standing == Standing::Unknown
                    || (*item.status.group == *asked.group && *item.status.resource == *asked.resource)
            })
        };
        let asked: Vec<&ResourceReport> = items.iter().filter(is_asked).collect();
        let objects = asked.iter().map(|item| item.status.objects).sum();
        let cluster = cluster.clone();
        if self.is_stale() {
            return Some(Notice::OutOfTouch { cluster, since: *heard, objects });
        }
        let lacks = |item: &&&ResourceReport| !item.status.synced && item.standing != Standing::NotServed;
        if let Some(lacking) = asked.iter().find(lacks) {
            let SyncStatus { error, last_seen, .. } = &lacking.status;
            let since = last_seen.as_ref().and_then(|seen| seen.parse().ok());
            return Some(match (error, since, &lacking.standing) {
                (Some(_), Some(since), _) => Notice::OutOfTouch { cluster, since, objects },
                // Whoever follows it now has not reached it yet; what the one before has written is there.
                (Some(_), None, Standing::Unknown) => Notice::OutOfTouch { cluster, since: *heard, objects },
                _ => Notice::NotSynced { cluster, objects, reason: None },
            });
        }
        if let Some(told) = asked.iter().find_map(|item| item.status.error.clone().filter(|_| item.status.synced)) {
            return Some(Notice::Refused { cluster, told });
        }
        let asked_version = resource.map(|resource| &*resource.version)?;
        asked.iter().find_map(|item| match &item.standing {
            Standing::Followed { version, .. } if version != asked_version => Some(Notice::OtherVersion {
                cluster: cluster.clone(),
                api_version: GroupVersionResource::new(&item.status.group, version, "").api_version(),
            }),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(heard: Timestamp, synced: bool, error: Option<&str>) -> ClusterReport {
        let status = SyncStatus {
            cluster: "m1".into(),
            group: "apps".to_owned(),
            version: "v1".to_owned(),
            resource: "deployments".to_owned(),
            registries: BTreeSet::new(),
            synced,
            objects: 3,
            last_seen: error.map(|_| "2026-01-02T03:04:05Z".to_owned()),
            error: error.map(str::to_owned),
        };
        let standing = Standing::Followed { version: "v1".to_owned(), kind: "Deployment".to_owned(), namespaced: true };
        ClusterReport { cluster: "m1".into(), heard, items: vec![ResourceReport { status, standing }] }
    }

    fn texts(report: ClusterReport, resource: Option<&GroupVersionResource>) -> Vec<String> {
        let mut reports = Reports::default();
        reports.add(report, &Reports::default());
        reports.notices(None, resource).iter().map(Notice::text).collect()
    }

    #[test]
    fn a_report_that_is_renewed_no_more_tells_that_nobody_follows_the_cluster() {
        assert_eq!(texts(report(Timestamp::now(), true, None), None), Vec::<String>::new());
        let heard = "2026-01-02T03:04:05Z".parse().unwrap();
        let mut reports = Reports::default();
        reports.add(report(heard, true, None), &Reports::default());
        assert_eq!(reports.notices(None, None), [], "it was seen just now, whatever its clock says");
        let old = Heard { report: report(heard, true, None), seen: Instant::now().checked_sub(STALE * 2).unwrap() };
        reports.clusters.insert("m1".into(), old);
        let mut later = Reports::default();
        later.add(report(heard, true, None), &reports);
        let texts: Vec<String> = later.notices(None, None).iter().map(Notice::text).collect();
        assert_eq!(texts, ["cluster m1 out of touch since 2026-01-02T03:04:05Z; showing its 3 objects as last seen"]);
        assert!(!later.statuses()[0].synced);
    }

    #[test]
    fn a_resource_that_lags_is_told_to_who_asks_for_it() {
        let lagging = || report(Timestamp::now(), false, Some("gone"));
        assert_eq!(texts(lagging(), None).len(), 1);
        let pods = GroupVersionResource::new("", "v1", "pods");
        assert_eq!(texts(lagging(), Some(&pods)), Vec::<String>::new());
    }

    #[test]
    fn more_objects_alone_are_no_news() {
        let (one, mut other) = (report(Timestamp::now(), true, None), report(Timestamp::now(), true, None));
        other.items[0].status.objects += 1;
        assert!(one.is_as(&other));
        other.items[0].status.synced = false;
        assert!(!one.is_as(&other));
    }

    #[test]
    fn a_report_reads_as_it_was_written() {
        let written = report(Timestamp::now(), true, None);
        let read: ClusterReport = serde_json::from_value(json!(written)).unwrap();
        assert_eq!(read, written);
    }

    #[test]
    fn the_index_of_reports_stands_beside_that_of_objects() {
        assert_eq!(alias_of("fleetglass-objects"), "fleetglass-status");
    }
}
