//! Pods: how many containers are ready, one word for what is going on, and how often it began anew.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::read::{Conditions, Count, Lenient, Object, Text, read};
use super::words::{AGE, Heading, NAME, text, wide};

pub(super) const POD: &[Heading] = &[
    NAME,
    text("Ready", "Containers that are ready, of how many."),
    text("Status", "What is going on with the pod, in a word."),
    text("Restarts", "How often its containers were started again, and how long ago the last time was."),
    AGE,
    wide("IP", "Address of the pod."),
    wide("Node", "Node that the pod runs on."),
    wide("Nominated Node", "Node on which room is being made for the pod."),
    wide("Readiness Gates", "Conditions from outside that hold, of how many."),
];

type Pod<'a> = Object<'a, PodSpec<'a>, PodStatus<'a>>;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec<'a> {
    #[serde(borrow)]
    containers: Lenient<Vec<Declared<'a>>>,
    init_containers: Lenient<Vec<Declared<'a>>>,
    node_name: Text<'a>,
    readiness_gates: Lenient<Vec<ReadinessGate<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Declared<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    restart_policy: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ReadinessGate<'a> {
    #[serde(borrow)]
    condition_type: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodStatus<'a> {
    #[serde(borrow)]
    phase: Text<'a>,
    reason: Text<'a>,
    conditions: Conditions<'a>,
    container_statuses: Lenient<Vec<ContainerStatus<'a>>>,
    init_container_statuses: Lenient<Vec<ContainerStatus<'a>>>,
    #[serde(rename = "podIP")]
    pod_ip: Text<'a>,
    #[serde(rename = "podIPs")]
    pod_ips: Lenient<Vec<PodIp<'a>>>,
    nominated_node_name: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp<'a> {
    #[serde(borrow)]
    ip: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerStatus<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    ready: Lenient<bool>,
    started: Lenient<bool>,
    restart_count: Count,
    state: Lenient<State<'a>>,
    last_state: Lenient<State<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct State<'a> {
    #[serde(borrow)]
    waiting: Lenient<Option<Waiting<'a>>>,
    running: Lenient<Option<Running>>,
    terminated: Lenient<Option<Terminated<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Waiting<'a> {
    #[serde(borrow)]
    reason: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
struct Running {}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Terminated<'a> {
    #[serde(borrow)]
    reason: Text<'a>,
    exit_code: Count,
    signal: Count,
    finished_at: Text<'a>,
}

impl Terminated<'_> {
    fn word(&self) -> String {
        match (&*self.reason, *self.signal) {
            ("", 0) => format!("ExitCode:{}", *self.exit_code),
            ("", signal) => format!("Signal:{signal}"),
            (reason, _) => reason.to_owned(),
        }
    }
}

/// How often, and when last.
#[derive(Debug, Default, Clone, Copy)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &ContainerStatus<'_>) {
        self.count += *container.restart_count;
        let ended = container.last_state.terminated.as_ref().and_then(|ended| ended.finished_at.parse().ok());
        self.last = self.last.max(ended);
    }

    fn written(self, now: Timestamp) -> String {
        match self.last {
            Some(last) if self.count != 0 => format!("{} ({} ago)", self.count, apiservice::table::age(last, now)),
            _ => self.count.to_string(),
        }
    }
}

/// What the init containers say.
#[derive(Debug, Default)]
struct Beginning {
    /// The word, if one of them is not done.
    word: Option<String>,
    ready_sidecars: usize,
    restarts: Restarts,
    sidecar_restarts: Restarts,
}

/// What the containers say.
#[derive(Debug, Default)]
struct Course {
    word: Option<String>,
    ready: usize,
    restarts: Restarts,
}

pub(super) fn pod(object: &[u8], now: Timestamp) -> Vec<Value> {
    let pod: Pod<'_> = read(object);
    let sidecars = sidecars(&pod.spec);
    let total = pod.spec.containers.len() + sidecars.len();
    let beginning = beginning(&pod, &sidecars);
    let began = beginning.word.is_none() || pod.status.conditions.is_true("Initialized");
    let course = if began { course(&pod.status, beginning.sidecar_restarts) } else { Course::default() };
    let restarts = if began { course.restarts } else { beginning.restarts };
    let word = course.word.or(beginning.word).unwrap_or_else(|| first_word(&pod.status).to_owned());
    let ready = beginning.ready_sidecars + course.ready;
    vec![
        (*pod.metadata.name).into(),
        format!("{ready}/{total}").into(),
        last_word(&pod, word).into(),
        restarts.written(now).into(),
        pod.metadata.age(now).into(),
        address(&pod.status).into(),
        pod.spec.node_name.or("<none>").into(),
        pod.status.nominated_node_name.or("<none>").into(),
        gates(&pod).into(),
    ]
}

/// Init containers that go on running beside the containers.
fn sidecars<'a>(spec: &'a PodSpec<'_>) -> BTreeSet<&'a str> {
    let goes_on = |declared: &&Declared<'_>| *declared.restart_policy == *"Always";
    spec.init_containers.iter().filter(goes_on).map(|declared| &*declared.name).collect()
}

/// What holds if no container says anything else.
fn first_word<'a>(status: &'a PodStatus<'_>) -> &'a str {
    let gated = |condition: &super::read::Condition<'_>| {
        *condition.kind == *"PodScheduled" && *condition.reason == *"SchedulingGated"
    };
    if status.conditions.iter().any(gated) { "SchedulingGated" } else { status.reason.or(&status.phase) }
}

/// A pod that goes away says so, unless it is over already.
fn last_word(pod: &Pod<'_>, word: String) -> String {
    if !pod.metadata.is_being_deleted() {
        word
    } else if *pod.status.reason == *"NodeLost" {
        "Unknown".to_owned()
    } else if matches!(&*pod.status.phase, "Succeeded" | "Failed") {
        word
    } else {
        "Terminating".to_owned()
    }
}

fn beginning(pod: &Pod<'_>, sidecars: &BTreeSet<&str>) -> Beginning {
    let mut seen = Beginning::default();
    for (position, container) in pod.status.init_container_statuses.iter().enumerate() {
        let is_sidecar = sidecars.contains(&*container.name);
        seen.restarts.add(container);
        if is_sidecar {
            seen.sidecar_restarts.add(container);
        }
        let state = &container.state;
        if state.terminated.as_ref().is_some_and(|ended| *ended.exit_code == 0) {
            continue;
        }
        if is_sidecar && *container.started {
            seen.ready_sidecars += usize::from(*container.ready);
            continue;
        }
        let waits_for = state.waiting.as_ref().map_or("", |waiting| &*waiting.reason);
        seen.word = Some(match (state.terminated.as_ref(), waits_for) {
            (Some(failed), _) => format!("Init:{}", failed.word()),
            (None, "" | "PodInitializing") => format!("Init:{position}/{}", pod.spec.init_containers.len()),
            (None, reason) => format!("Init:{reason}"),
        });
        break;
    }
    seen
}

fn course(status: &PodStatus<'_>, restarts: Restarts) -> Course {
    let mut seen = Course { restarts, ..Course::default() };
    let mut failure = None;
    // The first container has the last word.
    for container in status.container_statuses.iter().rev() {
        seen.restarts.add(container);
        let state = &container.state;
        let waits_for = state.waiting.as_ref().map_or("", |waiting| &*waiting.reason);
        if !waits_for.is_empty() {
            seen.word = Some(waits_for.to_owned());
        } else if let Some(ended) = state.terminated.as_ref() {
            seen.word = Some(ended.word());
            if *ended.exit_code != 0 {
                failure.clone_from(&seen.word);
            }
        } else if *container.ready && state.running.is_some() {
            seen.ready += 1;
        }
    }
    // One container that is done does not make a pod done while others run or have failed.
    if seen.word.as_deref().unwrap_or_else(|| first_word(status)) == "Completed" {
        let runs = seen.ready > 0;
        if runs && status.conditions.is_true("Ready") {
            seen.word = Some("Running".to_owned());
        } else if failure.is_some() {
            seen.word = failure;
        } else if runs {
            seen.word = Some("NotReady".to_owned());
        }
    }
    seen
}

fn address<'a>(status: &'a PodStatus<'_>) -> &'a str {
    let first = status.pod_ips.first().map_or("", |address| &*address.ip);
    if first.is_empty() { status.pod_ip.or("<none>") } else { first }
}

fn gates(pod: &Pod<'_>) -> String {
    let gates = &pod.spec.readiness_gates;
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|gate| pod.status.conditions.is_true(&gate.condition_type)).count();
    format!("{open}/{}", gates.len())
}
