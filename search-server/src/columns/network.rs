//! How pods are reached: Services, their endpoints, Ingresses, network policies.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::read::{Count, Lenient, Map, Metadata, Object, Text, read};
use super::words::{AGE, Heading, LabelSelector, NAME, SELECTOR, first_of, join, labels, text};

/// Hosts and addresses that are shown before the rest is counted.
const SHOWN: usize = 3;

pub(super) const SERVICE: &[Heading] = &[
    NAME,
    text("Type", "How the service is reached."),
    text("Cluster-IP", "Address within the cluster."),
    text("External-IP", "Addresses from outside."),
    text("Port(s)", "Ports, with the nodes' ports behind colons."),
    AGE,
    SELECTOR,
];

pub(super) const ENDPOINTS: &[Heading] = &[NAME, text("Endpoints", "Addresses and ports behind the service."), AGE];

pub(super) const ENDPOINT_SLICE: &[Heading] = &[
    NAME,
    text("AddressType", "Kind of the addresses."),
    text("Ports", "Ports of all endpoints."),
    text("Endpoints", "Their addresses."),
    AGE,
];

pub(super) const INGRESS: &[Heading] = &[
    NAME,
    text("Class", "What serves it."),
    text("Hosts", "Names that requests must have."),
    text("Address", "Where it is reached."),
    text("Ports", "Ports that are open."),
    AGE,
];

pub(super) const INGRESS_CLASS: &[Heading] = &[
    NAME,
    text("Controller", "What serves ingresses of this class."),
    text("Parameters", "The object with more settings."),
    AGE,
];

pub(super) const NETWORK_POLICY: &[Heading] = &[NAME, text("Pod-Selector", "Labels of the pods it holds for."), AGE];

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServiceSpec<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Text<'a>,
    #[serde(rename = "externalIPs")]
    external_ips: Lenient<Vec<Text<'a>>>,
    external_name: Text<'a>,
    ports: Lenient<Vec<ServicePort<'a>>>,
    selector: Map<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServicePort<'a> {
    port: Count,
    node_port: Count,
    #[serde(borrow)]
    protocol: Text<'a>,
}

/// `status` of what a load balancer stands before.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BalancedStatus<'a> {
    #[serde(borrow)]
    load_balancer: Lenient<LoadBalancer<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer<'a> {
    #[serde(borrow)]
    ingress: Lenient<Vec<EntryPoint<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EntryPoint<'a> {
    #[serde(borrow)]
    ip: Text<'a>,
    hostname: Text<'a>,
}

impl BalancedStatus<'_> {
    fn addresses(&self) -> BTreeSet<&str> {
        let points = self.load_balancer.ingress.iter();
        points.map(|point| point.ip.or(&point.hostname)).filter(|address| !address.is_empty()).collect()
    }
}

pub(super) fn service(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Object<'_, ServiceSpec<'_>, BalancedStatus<'_>> = read(object);
    let ports: Vec<String> = it.spec.ports.iter().map(ServicePort::written).collect();
    vec![
        (*it.metadata.name).into(),
        it.spec.kind.or("ClusterIP").into(),
        it.spec.cluster_ip.or("<none>").into(),
        external(&it.spec, &it.status).into(),
        if ports.is_empty() { "<none>".into() } else { ports.join(",").into() },
        it.metadata.age(now).into(),
        labels(it.spec.selector).into(),
    ]
}

impl ServicePort<'_> {
    fn written(&self) -> String {
        let protocol = self.protocol.or("TCP");
        match *self.node_port {
            1.. => format!("{}:{}/{protocol}", *self.port, *self.node_port),
            _ => format!("{}/{protocol}", *self.port),
        }
    }
}

fn external(spec: &ServiceSpec<'_>, status: &BalancedStatus<'_>) -> String {
    let own = spec.external_ips.iter().map(|address| &**address);
    let (addresses, none) = match &*spec.kind {
        "ExternalName" => return spec.external_name.to_string(),
        "LoadBalancer" => (status.addresses().into_iter().chain(own).collect::<Vec<_>>(), "<pending>"),
        _ => (own.collect(), "<none>"),
    };
    if addresses.is_empty() { none.to_owned() } else { addresses.join(",") }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Endpoints<'a> {
    #[serde(borrow)]
    metadata: Lenient<Metadata<'a>>,
    subsets: Lenient<Vec<Subset<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Subset<'a> {
    #[serde(borrow)]
    addresses: Lenient<Vec<EntryPoint<'a>>>,
    ports: Lenient<Vec<EndpointPort<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointPort<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    port: Lenient<Option<i64>>,
}

pub(super) fn endpoints(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Endpoints<'_> = read(object);
    let mut all = it.subsets.iter().flat_map(|subset| {
        let ports: Vec<Option<i64>> = subset.ports.iter().map(|port| *port.port).collect();
        // A headless service may have addresses without ports.
        let ports = if ports.is_empty() { vec![None] } else { ports };
        let pairs = ports.into_iter().flat_map(|port| subset.addresses.iter().map(move |address| (&*address.ip, port)));
        pairs.map(|(ip, port)| port.map_or_else(|| ip.to_owned(), |port| host_and_port(ip, port))).collect::<Vec<_>>()
    });
    let shown: Vec<String> = all.by_ref().take(SHOWN).collect();
    let count = shown.len() + all.count();
    let written = if it.subsets.is_empty() { "<none>".to_owned() } else { first_of(&shown, count, ",") };
    vec![(*it.metadata.name).into(), written.into(), it.metadata.age(now).into()]
}

fn host_and_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct EndpointSlice<'a> {
    #[serde(borrow)]
    metadata: Lenient<Metadata<'a>>,
    address_type: Text<'a>,
    ports: Lenient<Vec<EndpointPort<'a>>>,
    endpoints: Lenient<Vec<Endpoint<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Endpoint<'a> {
    #[serde(borrow)]
    addresses: Lenient<Vec<Text<'a>>>,
}

pub(super) fn endpoint_slice(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: EndpointSlice<'_> = read(object);
    let ports =
        it.ports.iter().map(|port| port.port.map_or_else(|| port.name.or("*").to_owned(), |port| port.to_string()));
    let addresses =
        it.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().map(|address| address.to_string()));
    vec![
        (*it.metadata.name).into(),
        (*it.address_type).into(),
        few(ports).into(),
        few(addresses).into(),
        it.metadata.age(now).into(),
    ]
}

fn few(mut words: impl Iterator<Item = String>) -> String {
    let shown: Vec<String> = words.by_ref().take(SHOWN).collect();
    let count = shown.len() + words.count();
    if count == 0 { "<unset>".to_owned() } else { first_of(&shown, count, ",") }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct IngressSpec<'a> {
    #[serde(borrow)]
    ingress_class_name: Text<'a>,
    rules: Lenient<Vec<IngressRule<'a>>>,
    tls: Lenient<Vec<IgnoredAny>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct IngressRule<'a> {
    #[serde(borrow)]
    host: Text<'a>,
}

pub(super) fn ingress(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Object<'_, IngressSpec<'_>, BalancedStatus<'_>> = read(object);
    vec![
        (*it.metadata.name).into(),
        it.spec.ingress_class_name.or("<none>").into(),
        hosts(&it.spec.rules).into(),
        join(it.status.addresses(), ",").into(),
        if it.spec.tls.is_empty() { "80".into() } else { "80, 443".into() },
        it.metadata.age(now).into(),
    ]
}

fn hosts(rules: &[IngressRule<'_>]) -> String {
    let named: Vec<String> = rules.iter().map(|rule| rule.host.to_string()).filter(|host| !host.is_empty()).collect();
    if named.is_empty() {
        return "*".to_owned();
    }
    first_of(&named[..named.len().min(SHOWN)], if named.len() > SHOWN { rules.len() } else { named.len() }, ",")
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct IngressClassSpec<'a> {
    #[serde(borrow)]
    controller: Text<'a>,
    parameters: Lenient<Option<Parameters<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Parameters<'a> {
    #[serde(borrow)]
    api_group: Text<'a>,
    kind: Text<'a>,
    name: Text<'a>,
}

pub(super) fn ingress_class(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Object<'_, IngressClassSpec<'_>, IgnoredAny> = read(object);
    let parameters = it.spec.parameters.as_ref().map_or_else(
        || "<none>".to_owned(),
        |it| match &*it.api_group {
            "" => format!("{}/{}", &*it.kind, &*it.name),
            group => format!("{}.{group}/{}", &*it.kind, &*it.name),
        },
    );
    vec![(*it.metadata.name).into(), (*it.spec.controller).into(), parameters.into(), it.metadata.age(now).into()]
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PolicySpec<'a> {
    #[serde(borrow)]
    pod_selector: Lenient<LabelSelector<'a>>,
}

pub(super) fn network_policy(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Object<'_, PolicySpec<'_>, IgnoredAny> = read(object);
    vec![(*it.metadata.name).into(), it.spec.pod_selector.or_none().into(), it.metadata.age(now).into()]
}
