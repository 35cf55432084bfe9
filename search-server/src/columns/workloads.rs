//! What makes pods, and what protects them: Deployments, sets, Jobs, disruption budgets.

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::read::{Conditions, Count, Lenient, Map, Metadata, Object, Text, read, since};
use super::words::{
    AGE, CONTAINERS, Heading, IMAGES, LabelSelector, NAME, PodTemplate, SELECTOR, flag, labels, number, text,
};

pub(super) const DEPLOYMENT: &[Heading] = &[
    NAME,
    text("Ready", "Pods that are ready, of how many wanted."),
    text("Up-to-date", "Pods of the newest template."),
    text("Available", "Pods that have been ready for long enough."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const REPLICA_SET: &[Heading] = &[
    NAME,
    number("Desired", "Pods that are wanted."),
    number("Current", "Pods that there are."),
    number("Ready", "Pods that are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const STATEFUL_SET: &[Heading] =
    &[NAME, text("Ready", "Pods that are ready, of how many wanted."), AGE, CONTAINERS, IMAGES];

pub(super) const DAEMON_SET: &[Heading] = &[
    NAME,
    number("Desired", "Nodes that should run a pod of it."),
    number("Current", "Nodes that do, as they should."),
    number("Ready", "Nodes on which the pod is ready."),
    number("Up-to-date", "Nodes with a pod of the newest template."),
    number("Available", "Nodes on which the pod has been ready for long enough."),
    text("Node Selector", "Labels that a node must have."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const JOB: &[Heading] = &[
    NAME,
    text("Status", "How the job stands."),
    text("Completions", "Pods that ended well, of how many wanted."),
    text("Duration", "How long it took, or has taken until now."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const CRON_JOB: &[Heading] = &[
    NAME,
    text("Schedule", "When it runs, as in cron."),
    text("Timezone", "Time zone of the schedule."),
    flag("Suspend", "Whether it is held back."),
    number("Active", "Jobs that run now."),
    text("Last Schedule", "How long ago it last began a job."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const DISRUPTION_BUDGET: &[Heading] = &[
    NAME,
    text("Min Available", "Pods that must stay."),
    text("Max Unavailable", "Pods that may be missing."),
    number("Allowed Disruptions", "Pods that may be evicted now."),
    AGE,
];

pub(super) const CONTROLLER_REVISION: &[Heading] =
    &[NAME, text("Controller", "What it is a revision of."), text("Revision", "Number of the revision."), AGE];

/// Fields that the kinds of this module share; each uses a part.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec<'a> {
    replicas: Lenient<Option<i64>>,
    #[serde(borrow)]
    template: Lenient<PodTemplate<'a>>,
    selector: Lenient<LabelSelector<'a>>,
    completions: Lenient<Option<i64>>,
    parallelism: Count,
}

impl Spec<'_> {
    /// What is wanted; one, if it isn't said.
    fn wanted(&self) -> i64 {
        self.replicas.unwrap_or(1)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status<'a> {
    replicas: Count,
    ready_replicas: Count,
    updated_replicas: Count,
    available_replicas: Count,
    desired_number_scheduled: Count,
    current_number_scheduled: Count,
    number_ready: Count,
    updated_number_scheduled: Count,
    number_available: Count,
    succeeded: Count,
    disruptions_allowed: Count,
    #[serde(borrow)]
    start_time: Text<'a>,
    completion_time: Text<'a>,
    conditions: Conditions<'a>,
}

type Workload<'a> = Object<'a, Spec<'a>, Status<'a>>;

pub(super) fn deployment(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Workload<'_> = read(object);
    vec![
        (*it.metadata.name).into(),
        format!("{}/{}", *it.status.ready_replicas, it.spec.wanted()).into(),
        (*it.status.updated_replicas).into(),
        (*it.status.available_replicas).into(),
        it.metadata.age(now).into(),
        it.spec.template.names().into(),
        it.spec.template.images().into(),
        it.spec.selector.written().into(),
    ]
}

pub(super) fn replica_set(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Workload<'_> = read(object);
    let selector = it.spec.selector.or_none();
    replicas(&it.metadata, it.spec.wanted(), &it.status, &it.spec.template, selector, now)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ReplicationSpec<'a> {
    replicas: Lenient<Option<i64>>,
    #[serde(borrow)]
    template: Lenient<PodTemplate<'a>>,
    selector: Map<'a>,
}

pub(super) fn replication_controller(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Object<'_, ReplicationSpec<'_>, Status<'_>> = read(object);
    let (wanted, selector) = (it.spec.replicas.unwrap_or(1), labels(it.spec.selector));
    replicas(&it.metadata, wanted, &it.status, &it.spec.template, selector, now)
}

fn replicas(
    metadata: &Metadata<'_>,
    wanted: i64,
    status: &Status<'_>,
    template: &PodTemplate<'_>,
    selector: String,
    now: Timestamp,
) -> Vec<Value> {
    vec![
        (*metadata.name).into(),
        wanted.into(),
        (*status.replicas).into(),
        (*status.ready_replicas).into(),
        metadata.age(now).into(),
        template.names().into(),
        template.images().into(),
        selector.into(),
    ]
}

pub(super) fn stateful_set(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Workload<'_> = read(object);
    vec![
        (*it.metadata.name).into(),
        format!("{}/{}", *it.status.ready_replicas, it.spec.wanted()).into(),
        it.metadata.age(now).into(),
        it.spec.template.names().into(),
        it.spec.template.images().into(),
    ]
}

pub(super) fn daemon_set(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Workload<'_> = read(object);
    vec![
        (*it.metadata.name).into(),
        (*it.status.desired_number_scheduled).into(),
        (*it.status.current_number_scheduled).into(),
        (*it.status.number_ready).into(),
        (*it.status.updated_number_scheduled).into(),
        (*it.status.number_available).into(),
        labels(it.spec.template.spec.node_selector).into(),
        it.metadata.age(now).into(),
        it.spec.template.names().into(),
        it.spec.template.images().into(),
        it.spec.selector.or_none().into(),
    ]
}

pub(super) fn job(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Workload<'_> = read(object);
    let succeeded = *it.status.succeeded;
    let completions = match (*it.spec.completions, *it.spec.parallelism) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallel @ 2..) => format!("{succeeded}/1 of {parallel}"),
        (None, _) => format!("{succeeded}/1"),
    };
    vec![
        (*it.metadata.name).into(),
        job_status(&it).into(),
        completions.into(),
        took(&it.status, now).into(),
        it.metadata.age(now).into(),
        it.spec.template.names().into(),
        it.spec.template.images().into(),
        it.spec.selector.or_none().into(),
    ]
}

fn job_status(job: &Workload<'_>) -> &'static str {
    let has = |kind| job.status.conditions.is_true(kind);
    if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if job.metadata.is_being_deleted() {
        "Terminating"
    } else {
        ["Suspended", "FailureTarget", "SuccessCriteriaMet"].into_iter().find(|kind| has(kind)).unwrap_or("Running")
    }
}

fn took(status: &Status<'_>, now: Timestamp) -> String {
    let Ok(start) = status.start_time.parse::<Timestamp>() else { return String::new() };
    apiservice::table::age(start, status.completion_time.parse().unwrap_or(now))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct CronSpec<'a> {
    #[serde(borrow)]
    schedule: Text<'a>,
    time_zone: Text<'a>,
    suspend: Lenient<Option<bool>>,
    job_template: Lenient<JobTemplate<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct JobTemplate<'a> {
    #[serde(borrow)]
    spec: Lenient<Spec<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct CronStatus<'a> {
    active: Lenient<Vec<IgnoredAny>>,
    #[serde(borrow)]
    last_schedule_time: Text<'a>,
}

pub(super) fn cron_job(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Object<'_, CronSpec<'_>, CronStatus<'_>> = read(object);
    let job = &it.spec.job_template.spec;
    let last = &*it.status.last_schedule_time;
    let last = if last.is_empty() { "<none>".to_owned() } else { since(last, now) };
    vec![
        (*it.metadata.name).into(),
        (*it.spec.schedule).into(),
        it.spec.time_zone.or("<none>").into(),
        it.spec.suspend.map_or_else(|| "<unset>".into(), truth),
        it.status.active.len().into(),
        last.into(),
        it.metadata.age(now).into(),
        job.template.names().into(),
        job.template.images().into(),
        job.selector.or_none().into(),
    ]
}

/// kubectl writes this column's truth values as Go does in text.
fn truth(value: bool) -> Value {
    if value { "True".into() } else { "False".into() }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BudgetSpec<'a> {
    #[serde(borrow)]
    min_available: Text<'a>,
    max_unavailable: Text<'a>,
}

pub(super) fn disruption_budget(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Object<'_, BudgetSpec<'_>, Status<'_>> = read(object);
    vec![
        (*it.metadata.name).into(),
        it.spec.min_available.or("N/A").into(),
        it.spec.max_unavailable.or("N/A").into(),
        (*it.status.disruptions_allowed).into(),
        it.metadata.age(now).into(),
    ]
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ControllerRevision<'a> {
    #[serde(borrow)]
    metadata: Lenient<Owned<'a>>,
    revision: Count,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Owned<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    creation_timestamp: Text<'a>,
    owner_references: Lenient<Vec<Owner<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Owner<'a> {
    #[serde(borrow)]
    api_version: Text<'a>,
    kind: Text<'a>,
    name: Text<'a>,
    controller: Lenient<bool>,
}

pub(super) fn controller_revision(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: ControllerRevision<'_> = read(object);
    let controller = it.metadata.owner_references.iter().find(|owner| *owner.controller);
    let controller = controller.map_or_else(
        || "<none>".to_owned(),
        |owner| {
            let group = owner.api_version.split_once('/').map(|(group, _)| format!(".{group}")).unwrap_or_default();
            format!("{}{group}/{}", owner.kind.to_lowercase(), &*owner.name)
        },
    );
    vec![
        (*it.metadata.name).into(),
        controller.into(),
        (*it.revision).into(),
        since(&it.metadata.creation_timestamp, now).into(),
    ]
}
