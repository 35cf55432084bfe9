//! What dashboards count and draw: a few facts of an object as numbers, flags and names.

use serde::Serialize;
use serde_json_borrow::Value;

use crate::query::document::Document;
use crate::query::value::Quantity;

/// Facts; what an object doesn't have is left out.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    image: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    image_name: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    image_tag: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    registry: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    container: Vec<&'a str>,
    /// Whether all is as it should be; none of what has no such state.
    #[serde(skip_serializing_if = "Option::is_none")]
    healthy: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<&'a str>,
    /// Why containers wait or ended, why an event was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reason: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    /// What containers should have and some have not: limits, requests, probes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lacks: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restarts: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<Replicas>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<Resources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Resources>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Replicas {
    wanted: i64,
    ready: i64,
    updated: i64,
    available: i64,
}

/// Of all containers together.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Resources {
    /// Cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<f64>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<f64>,
}

impl<'a> Summary<'a> {
    pub(super) fn of(kind: &str, document: &'a Document) -> Self {
        let root = document.root();
        let image = document.images();
        let replicas = replicas(kind, root);
        let containers: Vec<&Value<'_>> = document
            .container_lists()
            .into_iter()
            .filter(|(path, _)| path.last() == Some(&"containers"))
            .flat_map(|(_, list)| list)
            .collect();
        Self {
            image_name: image.iter().map(|image| parts_of(image).0).collect(),
            image_tag: image.iter().filter_map(|image| parts_of(image).1).collect(),
            registry: image.iter().map(|image| registry(image)).collect(),
            image,
            container: document.container_names(),
            healthy: healthy(kind, root, replicas.as_ref()),
            phase: text(root, &["status", "phase"]),
            reason: reasons(root),
            node: text(root, &["spec", "nodeName"]),
            lacks: lacks(&containers),
            restarts: restarts(root),
            replicas,
            requests: resources(&containers, "requests"),
            limits: resources(&containers, "limits"),
        }
    }
}

fn at<'a>(value: &'a Value<'a>, path: &[&str]) -> Option<&'a Value<'a>> {
    path.iter().try_fold(value, |value, step| value.as_object()?.get(step))
}

fn text<'a>(value: &'a Value<'a>, path: &[&str]) -> Option<&'a str> {
    at(value, path)?.as_str()
}

fn number(value: &Value<'_>, path: &[&str]) -> Option<i64> {
    at(value, path)?.as_i64()
}

fn list<'a>(value: &'a Value<'a>, path: &[&str]) -> &'a [Value<'a>] {
    at(value, path).and_then(Value::as_array).unwrap_or_default()
}

/// An image without tag and digest, and its tag, else its digest.
fn parts_of(image: &str) -> (&str, Option<&str>) {
    let (named, digest) = image.split_once('@').map_or((image, None), |(named, digest)| (named, Some(digest)));
    let last = named.rfind('/').map_or(0, |slash| slash + 1);
    match named[last..].split_once(':') {
        Some((name, tag)) => (&named[..last + name.len()], Some(tag)),
        None => (named, digest),
    }
}

/// Where an image comes from: the first part of its name if that is a host.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

fn replicas(kind: &str, root: &Value<'_>) -> Option<Replicas> {
    let of = |name: &str| number(root, &["status", name]).unwrap_or_default();
    match kind {
        "Deployment" | "StatefulSet" | "ReplicaSet" | "ReplicationController" => Some(Replicas {
            wanted: number(root, &["spec", "replicas"]).unwrap_or(1),
            ready: of("readyReplicas"),
            updated: of("updatedReplicas"),
            available: of("availableReplicas"),
        }),
        "DaemonSet" => Some(Replicas {
            wanted: of("desiredNumberScheduled"),
            ready: of("numberReady"),
            updated: of("updatedNumberScheduled"),
            available: of("numberAvailable"),
        }),
        _ => None,
    }
}

fn condition<'a>(root: &'a Value<'a>, kind: &str) -> Option<&'a str> {
    let condition =
        list(root, &["status", "conditions"]).iter().find(|condition| text(condition, &["type"]) == Some(kind));
    text(condition?, &["status"])
}

fn healthy(kind: &str, root: &Value<'_>, replicas: Option<&Replicas>) -> Option<bool> {
    if let Some(replicas) = replicas {
        return Some(replicas.ready >= replicas.wanted);
    }
    let holds = |name: &str| condition(root, name).map(|status| status == "True");
    match kind {
        "Pod" => match text(root, &["status", "phase"])? {
            "Succeeded" => Some(true),
            "Running" => Some(holds("Ready").unwrap_or(true)),
            _ => Some(false),
        },
        "Job" => Some(holds("Failed") != Some(true)),
        "PersistentVolumeClaim" => text(root, &["status", "phase"]).map(|phase| phase == "Bound"),
        _ => holds("Ready").or_else(|| holds("Available")),
    }
}

fn statuses<'a>(root: &'a Value<'a>) -> impl Iterator<Item = &'a Value<'a>> {
    ["initContainerStatuses", "containerStatuses"].into_iter().flat_map(|name| list(root, &["status", name]))
}

fn reasons<'a>(root: &'a Value<'a>) -> Vec<&'a str> {
    let states = statuses(root).flat_map(|status| {
        ["waiting", "terminated"].into_iter().filter_map(|state| text(status, &["state", state, "reason"]))
    });
    let mut reasons: Vec<&str> =
        states.chain(text(root, &["status", "reason"])).chain(text(root, &["reason"])).collect();
    reasons.sort_unstable();
    reasons.dedup();
    reasons
}

fn restarts(root: &Value<'_>) -> Option<i64> {
    statuses(root).map(|status| number(status, &["restartCount"])).fold(None, |sum, count| match (sum, count) {
        (None, count) => count,
        (Some(sum), count) => Some(sum.saturating_add(count.unwrap_or_default())),
    })
}

/// What a container should have: where it stands in it, and what it is called.
const WANTED: [(&[&str], &str); 6] = [
    (&["resources", "limits", "cpu"], "cpu limit"),
    (&["resources", "limits", "memory"], "memory limit"),
    (&["resources", "requests", "cpu"], "cpu request"),
    (&["resources", "requests", "memory"], "memory request"),
    (&["livenessProbe"], "liveness probe"),
    (&["readinessProbe"], "readiness probe"),
];

fn lacks(containers: &[&Value<'_>]) -> Vec<&'static str> {
    let lacking = |path: &[&str]| containers.iter().any(|container| at(container, path).is_none());
    WANTED.iter().filter(|(path, _)| lacking(path)).map(|(_, name)| *name).collect()
}

fn resources(containers: &[&Value<'_>], which: &str) -> Option<Resources> {
    let sum = |name: &str| {
        let amounts = containers.iter().filter_map(|container| {
            let amount = at(container, &["resources", which, name])?;
            let written =
                amount.as_str().map(str::to_owned).or_else(|| amount.as_i64().map(|number| number.to_string()));
            Quantity::parse(&written?).map(as_float)
        });
        amounts.fold(None, |sum: Option<f64>, amount| Some(sum.unwrap_or_default() + amount))
    };
    let resources = Resources { cpu: sum("cpu"), memory: sum("memory") };
    (resources != Resources::default()).then_some(resources)
}

#[expect(clippy::cast_precision_loss, reason = "drawn, not compared")]
fn as_float(quantity: Quantity) -> f64 {
    quantity.billionths() as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn summary(object: &Value) -> Value {
        let document = Document::read(object.to_string().as_bytes()).unwrap();
        serde_json::to_value(Summary::of(object["kind"].as_str().unwrap(), &document)).unwrap()
    }

    #[test]
    fn a_deployment_tells_images_replicas_and_what_its_containers_lack() {
        let deployment = json!({ "kind": "Deployment", "spec": { "replicas": 3, "template": { "spec": { "containers": [
            { "name": "web", "image": "registry.example.com:5000/team/web:1.2@sha256:ab",
              "resources": { "limits": { "cpu": "500m", "memory": "1Gi" }, "requests": { "cpu": 1, "memory": "64Mi" } },
              "livenessProbe": {} },
            { "name": "log", "image": "fluent/bit", "resources": { "limits": { "cpu": "250m" } }, "livenessProbe": {} },
        ] } } }, "status": { "readyReplicas": 2 } });
        assert_eq!(
            summary(&deployment),
            json!({
                "image": ["registry.example.com:5000/team/web:1.2@sha256:ab", "fluent/bit"],
                "imageName": ["registry.example.com:5000/team/web", "fluent/bit"],
                "imageTag": ["1.2"],
                "registry": ["registry.example.com:5000", "docker.io"],
                "container": ["web", "log"],
                "healthy": false,
                "lacks": ["memory limit", "cpu request", "memory request", "readiness probe"],
                "replicas": { "wanted": 3, "ready": 2, "updated": 0, "available": 0 },
                "requests": { "cpu": 1.0, "memory": 67_108_864.0 },
                "limits": { "cpu": 0.75, "memory": 1_073_741_824.0 },
            })
        );
    }

    #[test]
    fn a_pod_that_crashes_tells_so() {
        let pod = json!({ "kind": "Pod", "spec": { "nodeName": "n1" }, "status": { "phase": "Running",
            "conditions": [{ "type": "Ready", "status": "False" }],
            "containerStatuses": [
                { "restartCount": 4, "state": { "waiting": { "reason": "CrashLoopBackOff" } } },
                { "restartCount": 1, "state": { "running": {} } } ] } });
        let told = json!({ "healthy": false, "phase": "Running", "reason": ["CrashLoopBackOff"], "node": "n1", "restarts": 5 });
        assert_eq!(summary(&pod), told);
    }

    #[test]
    fn what_has_no_state_is_neither_healthy_nor_not() {
        assert_eq!(summary(&json!({ "kind": "ConfigMap", "data": { "a": "b" } })), json!({}));
    }
}
