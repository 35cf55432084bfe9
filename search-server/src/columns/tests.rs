//! Tables as people see them: one object of a kind, and its row. Cells that only `-o wide` shows stand behind `//`.

use rstest::rstest;
use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2025-03-10T12:00:00Z".parse().unwrap()
}

/// The row of an object made a day and an hour ago, without cluster, name and age.
fn row(group: &str, kind: &str, mut object: Value) -> String {
    object["metadata"]["name"] = "it".into();
    object["metadata"]["creationTimestamp"] = "2025-03-09T11:00:00Z".into();
    let printer = Printer::for_kind(group, kind, &[]);
    let cells = printer.cells(object.to_string().as_bytes(), "east", now());
    let columns = printer.definitions();
    assert_eq!(cells.len(), columns.len());
    let text = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    let written = |wide: bool| {
        let chosen = columns.iter().zip(&cells).filter(|(column, _)| (column.priority > 0) == wide);
        let own = chosen.filter(|(column, _)| !["Cluster", "Name", "Age"].contains(&column.name.as_str()));
        own.map(|(_, cell)| text(cell)).collect::<Vec<_>>().join(" | ")
    };
    let (shown, wide) = (written(false), written(true));
    if wide.is_empty() { shown } else { format!("{shown} // {wide}") }
}

#[rstest]
#[case(json!({}), "0/0 |  | 0 // <none> | <none> | <none> | <none>")]
#[case(
    json!({
        "spec": {"containers": [{"name": "a"}, {"name": "b"}], "nodeName": "n1",
                 "readinessGates": [{"conditionType": "x"}, {"conditionType": "y"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "x", "status": "True"}],
                   "containerStatuses": [
                       {"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}},
                       {"name": "b", "ready": true, "restartCount": 3, "state": {"running": {}},
                        "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2025-03-10T11:55:00Z"}}}]},
    }),
    "2/2 | Running | 3 (5m ago) // 10.0.0.1 | n1 | <none> | 1/2"
)]
#[case(
    json!({
        "spec": {"containers": [{"name": "a"}]},
        "status": {"phase": "Running", "containerStatuses": [
            {"name": "a", "ready": false, "restartCount": 14, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
    }),
    "0/1 | CrashLoopBackOff | 14 // <none> | <none> | <none> | <none>"
)]
#[case(
    json!({"spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}}),
    "0/1 | SchedulingGated | 0 // <none> | <none> | <none> | <none>"
)]
#[case(
    json!({"spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Failed", "reason": "Evicted"}}),
    "0/1 | Evicted | 0 // <none> | <none> | <none> | <none>"
)]
#[case(
    json!({"metadata": {"deletionTimestamp": "2025-03-10T11:59:00Z"}, "spec": {"containers": [{"name": "a"}]},
           "status": {"phase": "Running", "containerStatuses": [{"ready": true, "state": {"running": {}}}]}}),
    "1/1 | Terminating | 0 // <none> | <none> | <none> | <none>"
)]
#[case(
    json!({"metadata": {"deletionTimestamp": "2025-03-10T11:59:00Z"}, "status": {"phase": "Running", "reason": "NodeLost"}}),
    "0/0 | Unknown | 0 // <none> | <none> | <none> | <none>"
)]
#[case(
    json!({"metadata": {"deletionTimestamp": "2025-03-10T11:59:00Z"}, "spec": {"containers": [{"name": "a"}]},
           "status": {"phase": "Succeeded", "containerStatuses": [
               {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}}),
    "0/1 | Completed | 0 // <none> | <none> | <none> | <none>"
)]
fn a_pod_says_what_is_going_on(#[case] pod: Value, #[case] expected: &str) {
    assert_eq!(row("", "Pod", pod), expected);
}

/// A pod with two containers and two init containers, the second of which is a sidecar.
fn beginning(init: &Value, conditions: &Value, containers: &Value) -> Value {
    json!({
        "spec": {"containers": [{"name": "a"}, {"name": "b"}],
                 "initContainers": [{"name": "first"}, {"name": "side", "restartPolicy": "Always"}]},
        "status": {"phase": "Pending", "initContainerStatuses": init, "conditions": conditions,
                   "containerStatuses": containers},
    })
}

#[rstest]
#[case(json!([{"name": "first", "state": {"running": {}}, "restartCount": 2}]), "0/3 | Init:0/2 | 2")]
#[case(json!([{"name": "first", "state": {"waiting": {"reason": "PodInitializing"}}}]), "0/3 | Init:0/2 | 0")]
#[case(json!([{"name": "first", "state": {"waiting": {"reason": "ErrImagePull"}}}]), "0/3 | Init:ErrImagePull | 0")]
#[case(json!([{"name": "first", "state": {"terminated": {"exitCode": 2}}}]), "0/3 | Init:ExitCode:2 | 0")]
#[case(json!([{"name": "first", "state": {"terminated": {"exitCode": 137, "signal": 9}}}]), "0/3 | Init:Signal:9 | 0")]
#[case(json!([{"name": "first", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]), "0/3 | Init:Error | 0")]
#[case(
    json!([{"name": "first", "state": {"terminated": {"exitCode": 0}}, "restartCount": 1},
           {"name": "side", "state": {"running": {}}, "started": false}]),
    "0/3 | Init:1/2 | 1"
)]
#[case(
    json!([{"name": "first", "state": {"terminated": {"exitCode": 0}}, "restartCount": 1},
           {"name": "side", "state": {"running": {}}, "started": true, "ready": true, "restartCount": 5}]),
    "1/3 | Pending | 5"
)]
fn a_pod_that_begins_says_how_far_it_is(#[case] init: Value, #[case] expected: &str) {
    let shown = row("", "Pod", beginning(&init, &json!([]), &json!([])));
    assert_eq!(shown.split(" // ").next(), Some(expected));
}

#[rstest]
#[case("True", json!([{"ready": true, "state": {"running": {}}}, {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]), "Running")]
#[case("False", json!([{"ready": true, "state": {"running": {}}}, {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]), "NotReady")]
#[case("False", json!([{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}, {"ready": true, "state": {"running": {}}}]), "NotReady")]
#[case("False", json!([{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}, {"state": {"terminated": {"exitCode": 3, "reason": "Error"}}}]), "Error")]
#[case("False", json!([{"state": {"terminated": {"exitCode": 3}}}, {"state": {"waiting": {"reason": "ImagePullBackOff"}}}]), "ExitCode:3")]
#[case("False", json!([{"state": {"waiting": {"reason": "ContainerCreating"}}}, {"state": {"waiting": {}}}]), "ContainerCreating")]
fn of_several_containers_one_has_the_word(#[case] ready: &str, #[case] containers: Value, #[case] expected: &str) {
    let conditions = json!([{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": ready}]);
    let shown = row("", "Pod", beginning(&json!([]), &conditions, &containers));
    assert_eq!(shown.split(" | ").nth(1), Some(expected), "{shown}");
}

fn template() -> Value {
    json!({"spec": {"containers": [{"name": "web", "image": "nginx:1"}, {"name": "log", "image": "vector:2"}],
                    "nodeSelector": {"disk": "ssd", "arch": "arm"}}})
}

fn selector() -> Value {
    json!({"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": [
        {"key": "c", "operator": "In", "values": ["y", "x"]}, {"key": "aa", "operator": "Exists"},
        {"key": "d", "operator": "NotIn", "values": ["z"]}, {"key": "e", "operator": "DoesNotExist"}]})
}

const PODS: &str = "web,log | nginx:1,vector:2";
const SELECTED: &str = "a=1,aa,b=2,c in (x,y),d notin (z),!e";

#[rstest]
#[case("apps", "Deployment", json!({"replicas": 3}), json!({"readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2}),
    format!("2/3 | 1 | 2 // {PODS} | {SELECTED}"))]
#[case("apps", "Deployment", json!({}), json!(null), format!("0/1 | 0 | 0 // {PODS} | {SELECTED}"))]
#[case("apps", "ReplicaSet", json!({"replicas": 3}), json!({"replicas": 2, "readyReplicas": 1}),
    format!("3 | 2 | 1 // {PODS} | {SELECTED}"))]
#[case("apps", "StatefulSet", json!({"replicas": 3}), json!({"readyReplicas": 2}), format!("2/3 // {PODS}"))]
#[case("apps", "DaemonSet", json!({}), json!({"desiredNumberScheduled": 5, "currentNumberScheduled": 4, "numberReady": 3,
    "updatedNumberScheduled": 2, "numberAvailable": 1}), format!("5 | 4 | 3 | 2 | 1 | arch=arm,disk=ssd // {PODS} | {SELECTED}"))]
#[case("batch", "Job", json!({"completions": 3}), json!({"succeeded": 1, "startTime": "2025-03-10T11:58:00Z"}),
    format!("Running | 1/3 | 2m // {PODS} | {SELECTED}"))]
#[case("batch", "Job", json!({"parallelism": 2}), json!({"succeeded": 1, "startTime": "2025-03-10T11:00:00Z",
    "completionTime": "2025-03-10T11:00:42Z", "conditions": [{"type": "Complete", "status": "True"}]}),
    format!("Complete | 1/1 of 2 | 42s // {PODS} | {SELECTED}"))]
#[case("batch", "Job", json!({}), json!({"conditions": [{"type": "Suspended", "status": "True"}]}),
    format!("Suspended | 0/1 |  // {PODS} | {SELECTED}"))]
fn a_workload_says_how_many_pods_it_has(
    #[case] group: &str,
    #[case] kind: &str,
    #[case] mut spec: Value,
    #[case] status: Value,
    #[case] expected: String,
) {
    spec["template"] = template();
    spec["selector"] = selector();
    assert_eq!(row(group, kind, json!({"spec": spec, "status": status})), expected);
}

#[rstest]
#[case("", "ReplicationController", json!({"spec": {"replicas": 2, "selector": {"a": "1"}, "template": template()},
    "status": {"replicas": 2}}), "2 | 2 | 0 // web,log | nginx:1,vector:2 | a=1")]
#[case("batch", "CronJob", json!({"spec": {"schedule": "*/5 * * * *", "suspend": false, "jobTemplate": {"spec": {"template": template()}}},
    "status": {"active": [{}, {}], "lastScheduleTime": "2025-03-10T11:55:00Z"}}),
    "*/5 * * * * | <none> | False | 2 | 5m // web,log | nginx:1,vector:2 | <none>")]
#[case("policy", "PodDisruptionBudget", json!({"spec": {"minAvailable": "50%"}, "status": {"disruptionsAllowed": 1}}), "50% | N/A | 1")]
#[case("policy", "PodDisruptionBudget", json!({"spec": {"maxUnavailable": 1}}), "N/A | 1 | 0")]
#[case("apps", "ControllerRevision", json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet",
    "name": "db", "controller": true}]}, "revision": 4}), "statefulset.apps/db | 4")]
#[case("autoscaling", "HorizontalPodAutoscaler", json!({
    "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "minReplicas": 2, "maxReplicas": 9, "metrics": [
        {"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}},
        {"type": "External", "external": {"target": {"averageValue": "30"}}},
        {"type": "Pods", "pods": {"target": {"averageValue": "1k"}}}]},
    "status": {"currentReplicas": 3, "currentMetrics": [
        {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 41}}}]}}),
    "Deployment/web | cpu: 41%/80%, <unknown>/30 (avg) + 1 more... | 2 | 9 | 3")]
#[case("autoscaling", "HorizontalPodAutoscaler", json!({"spec": {"maxReplicas": 2, "targetCPUUtilizationPercentage": 70},
    "status": {"currentCPUUtilizationPercentage": 12}}), "/ | cpu: 12%/70% | <unset> | 2 | 0")]
#[case("autoscaling", "HorizontalPodAutoscaler", json!({}), "/ | <none> | <unset> | 0 | 0")]
#[case("", "Service", json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.5", "externalIPs": ["9.9.9.9"], "selector": {"a": "1"},
    "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]},
    "status": {"loadBalancer": {"ingress": [{"hostname": "lb.example"}, {"ip": "8.8.8.8"}]}}}),
    "LoadBalancer | 10.0.0.5 | 8.8.8.8,lb.example,9.9.9.9 | 80:30080/TCP,53/UDP // a=1")]
#[case("", "Service", json!({"spec": {"type": "LoadBalancer"}}), "LoadBalancer | <none> | <pending> | <none> // <none>")]
#[case("", "Service", json!({"spec": {"type": "ExternalName", "externalName": "x.example"}}), "ExternalName | <none> | x.example | <none> // <none>")]
#[case("", "Service", json!({"spec": {"type": "ClusterIP", "clusterIP": "None"}}), "ClusterIP | None | <none> | <none> // <none>")]
#[case("", "Endpoints", json!({"subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}, {"port": 443}]}]}),
    "1.1.1.1:80,[fd00::1]:80,1.1.1.1:443 + 1 more...")]
#[case("", "Endpoints", json!({"subsets": [{"addresses": [{"ip": "1.1.1.1"}]}]}), "1.1.1.1")]
#[case("", "Endpoints", json!({}), "<none>")]
#[case("discovery.k8s.io", "EndpointSlice", json!({"addressType": "IPv4", "ports": [{"port": 80}, {"name": "web"}, {}],
    "endpoints": [{"addresses": ["1.1.1.1"]}, {"addresses": ["2.2.2.2"]}]}), "IPv4 | 80,web,* | 1.1.1.1,2.2.2.2")]
#[case("discovery.k8s.io", "EndpointSlice", json!({}), " | <unset> | <unset>")]
#[case("networking.k8s.io", "Ingress", json!({"spec": {"ingressClassName": "public", "rules": [{"host": "a"}, {"host": "b"}, {"host": "c"}, {"host": "d"}], "tls": [{}]},
    "status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}}}), "public | a,b,c + 1 more... | 1.1.1.1 | 80, 443")]
#[case("networking.k8s.io", "Ingress", json!({"spec": {"rules": [{}]}}), "<none> | * |  | 80")]
#[case("networking.k8s.io", "IngressClass", json!({"spec": {"controller": "x/y", "parameters": {"apiGroup": "g.io", "kind": "K", "name": "n"}}}), "x/y | K.g.io/n")]
#[case("networking.k8s.io", "NetworkPolicy", json!({"spec": {"podSelector": {"matchLabels": {"a": "1"}}}}), "a=1")]
#[case("networking.k8s.io", "NetworkPolicy", json!({"spec": {"podSelector": {}}}), "<none>")]
#[case("", "ConfigMap", json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": ""}}), "3")]
#[case("", "Secret", json!({"type": "Opaque", "data": {"a": "MQ=="}}), "Opaque | 1")]
#[case("", "PersistentVolume", json!({"spec": {"capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
    "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "ns", "name": "c"}, "storageClassName": "fast", "volumeMode": "Block"},
    "status": {"phase": "Bound"}}), "10Gi | RWO,RWX | Retain | Bound | ns/c | fast | <unset> |  // Block")]
#[case("", "PersistentVolumeClaim", json!({"spec": {"volumeName": "pv", "storageClassName": "fast", "volumeMode": "Filesystem"},
    "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOncePod"]}}),
    "Bound | pv | 1Gi | RWOP | fast | <unset> // Filesystem")]
#[case("", "PersistentVolumeClaim", json!({"metadata": {"deletionTimestamp": "2025-03-10T11:59:00Z"}, "status": {"phase": "Pending"}}),
    "Terminating |  |  |  |  | <unset> // <unset>")]
#[case("storage.k8s.io", "StorageClass", json!({"provisioner": "p.io"}), "p.io | Delete | Immediate | false")]
#[case("", "Node", json!({"metadata": {"labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/gpu": "", "kubernetes.io/role": "edge"}},
    "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}], "addresses": [
        {"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.1"}],
        "nodeInfo": {"kubeletVersion": "v1.33.1", "osImage": "Debian 13", "kernelVersion": "6.12", "containerRuntimeVersion": "containerd://2"}}}),
    "NotReady,SchedulingDisabled | edge,gpu,worker | v1.33.1 // 10.0.0.1 | <none> | Debian 13 | 6.12 | containerd://2")]
#[case("", "Node", json!({}), "Unknown | <none> |  // <none> | <none> | <unknown> | <unknown> | <unknown>")]
#[case("", "Namespace", json!({"status": {"phase": "Active"}}), "Active")]
#[case("", "Event", json!({"lastTimestamp": "2025-03-10T11:59:30Z", "firstTimestamp": "2025-03-10T11:00:00Z", "count": 4, "type": "Warning",
    "reason": "BackOff", "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.x"}, "source": {"component": "kubelet", "host": "n1"},
    "message": " again \n"}), "30s | Warning | BackOff | pod/p | again // spec.x | kubelet, n1 | 60m | 4")]
#[case("events.k8s.io", "Event", json!({"eventTime": "2025-03-10T11:00:00.000000Z", "series": {"count": 7, "lastObservedTime": "2025-03-10T11:59:00.000000Z"},
    "type": "Normal", "reason": "R", "regarding": {"kind": "Node", "name": "n"}, "reportingController": "c", "note": "text"}),
    "60s | Normal | R | node/n | text //  | c | 60m | 7")]
#[case("", "ResourceQuota", json!({"status": {"hard": {"pods": "10", "limits.cpu": "4", "requests.cpu": "2"}, "used": {"pods": "3", "limits.cpu": "1"}}}),
    "pods: 3/10, requests.cpu: 0/2 | limits.cpu: 1/4")]
#[case("coordination.k8s.io", "Lease", json!({"spec": {"holderIdentity": "me"}}), "me")]
#[case("node.k8s.io", "RuntimeClass", json!({"handler": "gvisor"}), "gvisor")]
#[case("scheduling.k8s.io", "PriorityClass", json!({"value": 1000, "globalDefault": true, "preemptionPolicy": "Never"}), "1000 | true | Never")]
#[case("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", json!({"webhooks": [{}, {}]}), "2")]
#[case("certificates.k8s.io", "CertificateSigningRequest", json!({"spec": {"signerName": "s", "username": "u", "expirationSeconds": 3600},
    "status": {"conditions": [{"type": "Approved"}], "certificate": "eA=="}}), "s | u | 60m | Approved,Issued")]
#[case("rbac.authorization.k8s.io", "RoleBinding", json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [
    {"kind": "User", "name": "u"}, {"kind": "User", "name": "v"}, {"kind": "Group", "name": "g"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]}),
    "Role/r // u, v | g | n/s")]
#[case("rbac.authorization.k8s.io", "ClusterRole", json!({}), "2025-03-09T11:00:00Z")]
#[case("unheard.of", "Thing", json!({"spec": {"x": 1}}), "")]
fn each_kind_shows_what_kubectl_shows(
    #[case] group: &str,
    #[case] kind: &str,
    #[case] object: Value,
    #[case] expected: &str,
) {
    assert_eq!(row(group, kind, object), expected);
}

#[test]
fn the_default_storage_class_is_marked() {
    let object =
        json!({"metadata": {"name": "fast", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
    let cells =
        Printer::for_kind("storage.k8s.io", "StorageClass", &[]).cells(object.to_string().as_bytes(), "east", now());
    assert_eq!(cells[1], "fast (default)");
}

fn headings(printer: &Printer) -> String {
    printer.definitions().iter().map(|column| column.name.to_uppercase()).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_cluster_comes_first_and_the_namespace_only_if_wanted() {
    let object = br#"{"metadata":{"name":"web","namespace":"shop","creationTimestamp":"2025-03-10T11:58:30Z"}}"#;
    let printer = Printer::for_kind("", "ConfigMap", &[]);
    assert_eq!(headings(&printer), "CLUSTER NAME DATA AGE");
    assert_eq!(printer.cells(object, "east", now()), [json!("east"), json!("web"), json!(0), json!("90s")]);
    let printer = printer.with_namespace(true);
    assert_eq!(headings(&printer), "CLUSTER NAMESPACE NAME DATA AGE");
    assert_eq!(printer.cells(object, "east", now())[..3], [json!("east"), json!("shop"), json!("web")]);
}

#[test]
fn kubectl_gets_no_namespace_column_because_it_adds_one() {
    assert!(!namespace_is_wanted("kubectl/v1.35.4 (linux/amd64) kubernetes/abc", true, false));
    assert!(namespace_is_wanted("curl/8.5.0", true, false));
    assert!(!namespace_is_wanted("curl/8.5.0", true, true));
    assert!(!namespace_is_wanted("curl/8.5.0", false, false));
}

#[test]
fn exactly_one_column_is_the_name() {
    for known in KINDS.iter().chain([&PLAIN]) {
        let columns = Printer { shows: Shows::Known(known), namespace: true }.definitions();
        let names = columns.iter().filter(|column| column.format == "name" && column.kind == "string").count();
        assert_eq!(names, 1, "{}", known.kind);
        assert!(columns.iter().all(|column| !column.description.is_empty()), "{}", known.kind);
    }
}

#[test]
fn an_object_that_makes_no_sense_has_a_row_of_the_right_length() {
    let odd = [
        "",
        "null",
        "7",
        "[]",
        "{",
        "{}",
        r#"{"metadata":5,"spec":[],"status":"x"}"#,
        "\u{feff}{}",
        r#"{"metadata":{"name":{}},"spec":{"containers":{},"template":[],"selector":3,"ports":[1,null,{}],"rules":[[]]},
            "status":{"conditions":[1,{}],"containerStatuses":[{"state":[]}],"addresses":[7]},"subsets":[0],"data":[]}"#,
    ];
    for known in KINDS.iter().chain([&PLAIN]) {
        for object in odd {
            let printer = Printer { shows: Shows::Known(known), namespace: true };
            let cells = printer.cells(object.as_bytes(), "east", now());
            assert_eq!(cells.len(), printer.definitions().len(), "{} of {object}", known.kind);
        }
    }
}

#[test]
fn a_custom_kind_shows_the_columns_of_its_definition() {
    let column = |name: &str, kind: &str, json_path: &str, priority: i32| CustomColumn {
        name: name.to_owned(),
        kind: kind.to_owned(),
        format: String::new(),
        description: String::new(),
        json_path: json_path.to_owned(),
        priority,
    };
    let columns = [
        column("Sync Status", "string", ".status.sync.status", 0),
        column("Missing", "string", ".status.nothing.here", 0),
        column("Broken", "string", "no path", 0),
        column("Revision", "string", ".status.sync.revision", 10),
        column("Age", "date", ".metadata.creationTimestamp", 0),
    ];
    let printer = Printer::for_kind("argoproj.io", "Application", &columns);
    assert_eq!(headings(&printer), "CLUSTER NAME SYNC STATUS MISSING BROKEN REVISION AGE");
    assert_eq!(printer.definitions()[5].priority, 10);
    let object = br#"{"metadata":{"name":"redis","creationTimestamp":"2025-03-10T11:00:00Z"},
        "status":{"sync":{"status":"Synced","revision":"6c1f0a9"}}}"#;
    let expected = json!(["east", "redis", "Synced", null, null, "6c1f0a9", "60m"]);
    assert_eq!(Value::from(printer.cells(object, "east", now())), expected);
    assert_eq!(headings(&Printer::for_kind("argoproj.io", "Application", &[])), "CLUSTER NAME AGE");
}
