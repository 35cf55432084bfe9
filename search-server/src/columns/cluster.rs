//! The cluster itself: Nodes, Namespaces, what happens (Events), quotas, leases and classes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::read::{Conditions, Count, Lenient, Map, Metadata, Object, Text, read, since};
use super::words::{AGE, Heading, NAME, flag, join, number, text, wide};

pub(super) const NODE: &[Heading] = &[
    NAME,
    text("Status", "Whether the node is ready, and takes new pods."),
    text("Roles", "What the node is for."),
    AGE,
    text("Version", "Version of its kubelet."),
    wide("Internal-IP", "Address within the cluster."),
    wide("External-IP", "Address from outside."),
    wide("OS-Image", "Operating system."),
    wide("Kernel-Version", "Version of its kernel."),
    wide("Container-Runtime", "What runs the containers, and its version."),
];

pub(super) const NAMESPACE: &[Heading] = &[NAME, text("Status", "Whether it is in use or going away."), AGE];

pub(super) const EVENT: &[Heading] = &[
    text("Last Seen", "How long ago it happened last."),
    text("Type", "Normal or Warning."),
    text("Reason", "What happened, in a word."),
    text("Object", "What it happened to."),
    wide("Subobject", "Which part of that."),
    wide("Source", "Who tells it."),
    text("Message", "What happened."),
    wide("First Seen", "How long ago it happened first."),
    wide("Count", "How often it happened."),
    Heading { wide: true, ..NAME },
];

pub(super) const QUOTA: &[Heading] = &[
    NAME,
    text("Request", "What is used of what may be asked for."),
    text("Limit", "What is used of what limits may add up to."),
    AGE,
];

pub(super) const LEASE: &[Heading] = &[NAME, text("Holder", "Who holds it."), AGE];

pub(super) const RUNTIME_CLASS: &[Heading] = &[NAME, text("Handler", "What runs pods of this class."), AGE];

pub(super) const PRIORITY_CLASS: &[Heading] = &[
    NAME,
    number("Value", "The priority; higher goes first."),
    flag("Global-Default", "Whether pods without a class get this one."),
    AGE,
    text("PreemptionPolicy", "Whether its pods may drive out others."),
];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    unschedulable: Lenient<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NodeStatus<'a> {
    #[serde(borrow)]
    conditions: Conditions<'a>,
    addresses: Lenient<Vec<NodeAddress<'a>>>,
    node_info: Lenient<NodeInfo<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeAddress<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    address: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NodeInfo<'a> {
    #[serde(borrow)]
    kubelet_version: Text<'a>,
    os_image: Text<'a>,
    kernel_version: Text<'a>,
    container_runtime_version: Text<'a>,
}

impl NodeStatus<'_> {
    fn address(&self, kind: &str) -> &str {
        self.addresses.iter().find(|address| *address.kind == *kind).map_or("<none>", |address| &address.address)
    }
}

pub(super) fn node(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Object<'_, NodeSpec, NodeStatus<'_>> = read(object);
    let ready = match it.status.conditions.status("Ready") {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let info = &it.status.node_info;
    vec![
        (*it.metadata.name).into(),
        if *it.spec.unschedulable { format!("{ready},SchedulingDisabled").into() } else { ready.into() },
        roles(it.metadata.labels).into(),
        it.metadata.age(now).into(),
        (*info.kubelet_version).into(),
        it.status.address("InternalIP").into(),
        it.status.address("ExternalIP").into(),
        info.os_image.or("<unknown>").into(),
        info.kernel_version.or("<unknown>").into(),
        info.container_runtime_version.or("<unknown>").into(),
    ]
}

fn roles(labels: Map<'_>) -> String {
    let labels = labels.entries();
    let roles: BTreeSet<&str> = labels
        .iter()
        .map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => role,
            None if **key == *"kubernetes.io/role" => value,
            None => "",
        })
        .filter(|role| !role.is_empty())
        .collect();
    if roles.is_empty() { "<none>".to_owned() } else { join(roles, ",") }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NamespaceStatus<'a> {
    #[serde(borrow)]
    phase: Text<'a>,
}

pub(super) fn namespace(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Object<'_, IgnoredAny, NamespaceStatus<'_>> = read(object);
    vec![(*it.metadata.name).into(), (*it.status.phase).into(), it.metadata.age(now).into()]
}

/// An event of either group: the newer one has other names for the same facts.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Event<'a> {
    #[serde(borrow)]
    metadata: Lenient<Metadata<'a>>,
    #[serde(alias = "deprecatedFirstTimestamp")]
    first_timestamp: Text<'a>,
    #[serde(alias = "deprecatedLastTimestamp")]
    last_timestamp: Text<'a>,
    event_time: Text<'a>,
    series: Lenient<Option<Series<'a>>>,
    #[serde(alias = "deprecatedCount")]
    count: Count,
    #[serde(rename = "type")]
    kind: Text<'a>,
    reason: Text<'a>,
    #[serde(alias = "regarding")]
    involved_object: Lenient<Involved<'a>>,
    #[serde(alias = "deprecatedSource")]
    source: Lenient<Source<'a>>,
    #[serde(alias = "reportingController")]
    reporting_component: Text<'a>,
    reporting_instance: Text<'a>,
    #[serde(alias = "note")]
    message: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Series<'a> {
    count: Count,
    #[serde(borrow)]
    last_observed_time: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Involved<'a> {
    #[serde(borrow)]
    kind: Text<'a>,
    name: Text<'a>,
    field_path: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Source<'a> {
    #[serde(borrow)]
    component: Text<'a>,
    host: Text<'a>,
}

pub(super) fn event(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Event<'_> = read(object);
    let first = it.first_timestamp.or(&it.event_time);
    let (last, count) = match it.series.as_ref() {
        Some(series) => (&*series.last_observed_time, *series.count),
        None => (it.last_timestamp.or(first), (*it.count).max(1)),
    };
    let kind = it.involved_object.kind.to_lowercase();
    let name = &*it.involved_object.name;
    let source = it.source.component.or(&it.reporting_component);
    let host = it.source.host.or(&it.reporting_instance);
    vec![
        since(last, now).into(),
        (*it.kind).into(),
        (*it.reason).into(),
        if name.is_empty() { kind.into() } else { format!("{kind}/{name}").into() },
        (*it.involved_object.field_path).into(),
        if host.is_empty() { source.into() } else { format!("{source}, {host}").into() },
        it.message.trim().into(),
        since(first, now).into(),
        count.into(),
        (*it.metadata.name).into(),
    ]
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct QuotaStatus<'a> {
    #[serde(borrow)]
    hard: Map<'a>,
    used: Map<'a>,
}

pub(super) fn quota(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Object<'_, IgnoredAny, QuotaStatus<'_>> = read(object);
    let (hard, used) = (it.status.hard.entries(), it.status.used.entries());
    let (limits, requests): (BTreeMap<_, _>, BTreeMap<_, _>) =
        hard.iter().partition(|(resource, _)| resource.starts_with("limits."));
    let written = |resources: BTreeMap<&Text<'_>, &Text<'_>>| {
        let each = |(resource, hard): (&Text<'_>, &Text<'_>)| {
            let used = used.get(resource).map_or("0", |used| used.or("0"));
            format!("{}: {used}/{}", &**resource, &**hard)
        };
        resources.into_iter().map(each).collect::<Vec<_>>().join(", ")
    };
    vec![(*it.metadata.name).into(), written(requests).into(), written(limits).into(), it.metadata.age(now).into()]
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LeaseSpec<'a> {
    #[serde(borrow)]
    holder_identity: Text<'a>,
}

pub(super) fn lease(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Object<'_, LeaseSpec<'_>, IgnoredAny> = read(object);
    vec![(*it.metadata.name).into(), (*it.spec.holder_identity).into(), it.metadata.age(now).into()]
}

/// A class, whose fields stand beside its metadata.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Class<'a> {
    #[serde(borrow)]
    metadata: Lenient<Metadata<'a>>,
    handler: Text<'a>,
    value: Count,
    global_default: Lenient<bool>,
    preemption_policy: Text<'a>,
}

pub(super) fn runtime_class(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Class<'_> = read(object);
    vec![(*it.metadata.name).into(), (*it.handler).into(), it.metadata.age(now).into()]
}

pub(super) fn priority_class(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Class<'_> = read(object);
    vec![
        (*it.metadata.name).into(),
        (*it.value).into(),
        (*it.global_default).into(),
        it.metadata.age(now).into(),
        (*it.preemption_policy).into(),
    ]
}
