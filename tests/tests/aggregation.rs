//! Reading the cache with stock kubectl, through a real aggregating API server, over two real members.

mod shared;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shared::{CACHE, on_stage, origins};
use tests::api_server::{ADMIN_TOKEN, NOBODY_TOKEN};
use tests::eventually;
use tests::karmada::registry;
use tests::stage::Stage;
use tests::workloads::widget_definition;

const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";

/// The registry that most of these tests read through.
async fn registered(stage: &Stage) -> Result<()> {
    let kubectl = stage.kubectl()?;
    let kinds = ["apps/v1/Deployment", "v1/Pod", "v1/Node", "v1/Service", "v1/ConfigMap"];
    kubectl.apply(&registry("aggregation", &["member1", "member2"], &kinds).to_string()).await?;
    kubectl.run(&["wait", "--for=condition=Ready", "resourceregistry/aggregation", "--timeout=120s"]).await.map(drop)
}

async fn list(stage: &Stage, path: &str) -> Result<Value> {
    stage.kubectl()?.raw(&format!("{CACHE}{path}")).await
}

/// Status code and body of a request through the control plane, as `token`.
async fn answer(stage: &Stage, path: &str, token: &str) -> Result<(u16, Value)> {
    let url = format!("{}{path}", stage.control_plane.url);
    let answer = stage.control_plane.client()?.get(url).bearer_auth(token).send().await?;
    let status = answer.status().as_u16();
    let text = answer.text().await?;
    Ok((status, serde_json::from_str(&text).with_context(|| format!("{path}: {text}"))?))
}

#[test]
fn every_deployment_of_both_members_is_read_with_one_request() -> Result<()> {
    on_stage(async |stage| {
        registered(stage).await?;
        let deployments = list(stage, DEPLOYMENTS).await?;
        assert_eq!((&deployments["kind"], &deployments["apiVersion"]), (&json!("DeploymentList"), &json!("apps/v1")));
        let expected = ["app-000", "app-002", "app-001", "app-003"]
            .iter()
            .flat_map(|name| [format!("member1/{name}"), format!("member2/{name}")])
            .collect::<Vec<_>>();
        assert_eq!(origins(&deployments), expected, "ordered by namespace, name and cluster");
        ensure!(!deployments["metadata"]["resourceVersion"].as_str().unwrap_or_default().is_empty());
        Ok(())
    })
}

#[test]
fn an_object_is_the_members_own_but_for_the_annotation() -> Result<()> {
    on_stage(async |stage| {
        registered(stage).await?;
        let path = "/apis/apps/v1/namespaces/team-000/deployments/app-000";
        let cached = list(stage, &format!("{path}?cluster=member2")).await?;
        let mut own: Value = stage.members[1].kubectl()?.raw(path).await?;
        own["metadata"]["annotations"]["resource.karmada.io/cached-from-cluster"] = json!("member2");
        assert_eq!(cached["items"], json!([own]));
        Ok(())
    })
}

#[test]
fn namespaces_names_and_clusters_narrow_the_list() -> Result<()> {
    on_stage(async |stage| {
        registered(stage).await?;
        let in_namespace = list(stage, "/apis/apps/v1/namespaces/team-001/deployments?cluster=member1").await?;
        assert_eq!(origins(&in_namespace), ["member1/app-001", "member1/app-003"]);
        let named = list(stage, "/apis/apps/v1/namespaces/team-000/deployments/app-002").await?;
        assert_eq!(origins(&named), ["member1/app-002", "member2/app-002"]);
        for nothing in
            ["/apis/apps/v1/namespaces/none/deployments", "/apis/apps/v1/namespaces/team-000/deployments/nope"]
        {
            let empty = list(stage, nothing).await?;
            assert_eq!((&empty["kind"], &empty["items"]), (&json!("DeploymentList"), &json!([])));
        }
        assert_eq!(origins(&list(stage, "/api/v1/nodes").await?), ["member1/member1-node", "member2/member2-node"]);
        Ok(())
    })
}

#[test]
fn label_and_field_selectors_are_honoured() -> Result<()> {
    on_stage(async |stage| {
        registered(stage).await?;
        let read = async |query: &str| -> Result<Vec<String>> {
            Ok(origins(&list(stage, &format!("{DEPLOYMENTS}?cluster=member1&{query}")).await?))
        };
        assert_eq!(read("labelSelector=tier%3Dapi").await?, ["member1/app-001"]);
        assert_eq!(read("labelSelector=app%20in%20(app-000,app-001)").await?, ["member1/app-000", "member1/app-001"]);
        assert_eq!(read("labelSelector=shard%3E1").await?, ["member1/app-002", "member1/app-003"]);
        assert_eq!(read("fieldSelector=metadata.name%3Dapp-002").await?, ["member1/app-002"]);
        assert_eq!(read("fieldSelector=metadata.namespace!%3Dteam-000").await?, ["member1/app-001", "member1/app-003"]);
        let image = "fieldSelector=spec.template.spec.containers.image%3Dregistry.example/app-003:1.3";
        assert_eq!(read(image).await?, ["member1/app-003"]);
        Ok(())
    })
}

#[test]
fn pages_give_every_object_once() -> Result<()> {
    on_stage(async |stage| {
        registered(stage).await?;
        let (mut seen, mut token, mut remaining) = (Vec::new(), String::new(), Vec::new());
        loop {
            let page = list(stage, &format!("{DEPLOYMENTS}?limit=3&continue={token}")).await?;
            seen.extend(origins(&page));
            remaining.push(page["metadata"]["remainingItemCount"].as_u64());
            match page["metadata"]["continue"].as_str() {
                Some(next) => token = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(seen, origins(&list(stage, DEPLOYMENTS).await?));
        assert_eq!(remaining, [Some(5), Some(2), None]);
        Ok(())
    })
}

#[test]
fn what_cannot_be_answered_is_refused_in_known_words() -> Result<()> {
    on_stage(async |stage| {
        registered(stage).await?;
        let refused = async |path: &str| answer(stage, &format!("{CACHE}{path}"), ADMIN_TOKEN).await;
        let error = |code: u16, message: &str| (code, json!({ "error": message }));
        assert_eq!(refused("/apis/apps/v1/nosuch").await?, error(500, "no matches for apps/v1, Resource=nosuch"));
        let bad_labels = "/apis/apps/v1/deployments?labelSelector=%3D%3D%3Dbad";
        assert_eq!(refused(bad_labels).await?, error(400, "found '==', expected: !, identifier, or 'end of string'"));
        let bad_fields = "/apis/apps/v1/deployments?fieldSelector=bogus";
        assert_eq!(refused(bad_fields).await?, error(400, "invalid selector: 'bogus'; can't understand 'bogus'"));
        let bad_limit = "/apis/apps/v1/deployments?limit=abc";
        assert_eq!(refused(bad_limit).await?, error(400, "strconv.ParseInt: parsing \"abc\": invalid syntax"));
        let (code, status) = refused("/apis/apps/v1/namespaces/team-000/deployments/app-000/status").await?;
        assert_eq!(code, 500);
        let words = "invalid request parts([deployments app-000 status]) for k8s native request URL";
        assert_eq!(
            status,
            json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": words, "code": 500 })
        );
        let (code, empty) = refused("/api/v1/secrets").await?;
        assert_eq!(
            (code, &empty["kind"], &empty["items"]),
            (200, &json!("SecretList"), &json!([])),
            "known, not registered"
        );
        assert_eq!(refused("/apis/apps/v1/deployments?cluster=nowhere").await?.0, 404);
        Ok(())
    })
}

#[test]
fn who_may_not_read_is_told_what_is_missing() -> Result<()> {
    on_stage(async |stage| {
        registered(stage).await?;
        let (code, status) = answer(stage, &format!("{CACHE}{DEPLOYMENTS}"), NOBODY_TOKEN).await?;
        assert_eq!(code, 403);
        let words = "search.search.karmada.io \"cache\" is forbidden: User \"nobody\" cannot get resource \"search/apis\" \
                     in API group \"search.karmada.io\" at the cluster scope";
        assert_eq!(status["message"], words);
        let grant = json!({ "apiVersion": "v1", "kind": "List", "items": [
            { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "cache-reader" },
              "rules": [{ "apiGroups": ["search.karmada.io"], "resources": ["search/apis"], "verbs": ["get"] }] },
            { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "cache-reader" },
              "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cache-reader" },
              "subjects": [{ "kind": "User", "name": "reader", "apiGroup": "rbac.authorization.k8s.io" }] },
        ] });
        let kubectl = stage.kubectl()?;
        kubectl.apply(&grant.to_string()).await?;
        eventually(Duration::from_secs(60), async || {
            let path = format!("{CACHE}{DEPLOYMENTS}");
            let output = kubectl.try_run(&["--as=reader", "get", "--raw", &path], "").await?;
            ensure!(output.success, "{}", output.stderr);
            Ok(())
        })
        .await?;
        let core = kubectl.try_run(&["--as=reader", "get", "--raw", &format!("{CACHE}/api/v1/pods")], "").await?;
        ensure!(!core.success && core.stderr.contains("search/api"), "{}", core.stderr);
        Ok(())
    })
}

#[test]
fn kubectl_takes_the_cache_for_a_server() -> Result<()> {
    on_stage(async |stage| {
        registered(stage).await?;
        let server = format!("--server={}{CACHE}", stage.control_plane.url);
        let kubectl = stage.kubectl()?;
        let table = kubectl.run(&[&server, "get", "deploy", "-A"]).await?;
        let mut lines = table.lines();
        let head: Vec<&str> = lines.next().context("no table")?.split_whitespace().collect();
        for column in ["NAMESPACE", "CLUSTER", "NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"] {
            ensure!(head.contains(&column), "{column} is missing in {head:?}");
        }
        assert_eq!(lines.count(), 8, "{table}");
        let pods = kubectl.run(&[&server, "get", "pods", "-n", "team-000", "-l", "app=app-000"]).await?;
        ensure!(pods.contains("STATUS") && pods.contains("RESTARTS") && pods.contains("Running"), "{pods}");
        let yaml = kubectl.run(&[&server, "get", "nodes", "-o", "yaml"]).await?;
        ensure!(yaml.contains("resource.karmada.io/cached-from-cluster: member1"), "{yaml}");
        let resources = kubectl.run(&[&server, "api-resources"]).await?;
        ensure!(resources.contains("deployments") && !resources.contains("secrets"), "{resources}");
        Ok(())
    })
}

#[test]
fn a_watch_through_the_aggregator_shows_changes_of_any_member() -> Result<()> {
    on_stage(async |stage| {
        registered(stage).await?;
        let version = list(stage, "/api/v1/configmaps").await?["metadata"]["resourceVersion"].clone();
        let version = version.as_str().context("no version")?.to_owned();
        let url = format!(
            "{}{CACHE}/api/v1/configmaps?watch=true&resourceVersion={version}&timeoutSeconds=30",
            stage.control_plane.url
        );
        let mut answer = stage.control_plane.client()?.get(url).bearer_auth(ADMIN_TOKEN).send().await?;
        let member = stage.members[1].kubectl()?;
        member.run(&["create", "configmap", "watched", "--from-literal=a=b"]).await?;
        member.run(&["delete", "configmap", "watched"]).await?;
        let mut text = String::new();
        while text.lines().count() < 2 || !text.ends_with('\n') {
            let chunk = answer.chunk().await?.context("the watch ended")?;
            text.push_str(str::from_utf8(&chunk)?);
        }
        let events = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        let seen: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap_or_default()).collect();
        assert_eq!(seen, ["ADDED", "DELETED"], "{text}");
        let cluster = &events[0]["object"]["metadata"]["annotations"]["resource.karmada.io/cached-from-cluster"];
        assert_eq!(cluster, "member2");
        let old = format!("{}{CACHE}/api/v1/configmaps?watch=true&resourceVersion=12345", stage.control_plane.url);
        let expired = stage.control_plane.client()?.get(old).bearer_auth(ADMIN_TOKEN).send().await?;
        assert_eq!(expired.status(), 410, "a member's own version makes the client list again");
        Ok(())
    })
}

#[test]
fn a_kind_that_exists_in_one_member_only_is_read_with_its_own_columns() -> Result<()> {
    on_stage(async |stage| {
        let member = stage.members[0].kubectl()?;
        member.apply(&widget_definition().to_string()).await?;
        member.run(&["wait", "--for=condition=Established", "crd/widgets.example.io", "--timeout=120s"]).await?;
        let widget = json!({ "apiVersion": "example.io/v1", "kind": "Widget",
            "metadata": { "name": "w1", "namespace": "team-000" }, "spec": { "size": 7 } });
        eventually(Duration::from_secs(60), async || member.apply(&widget.to_string()).await).await?;
        let kubectl = stage.kubectl()?;
        kubectl.apply(&registry("widgets", &[], &["example.io/v1/Widget"]).to_string()).await?;
        let server = format!("--server={}{CACHE}", stage.control_plane.url);
        // A kind that is new in a member is found when the member is asked again what it serves.
        eventually(Duration::from_secs(120), async || {
            let table = kubectl.run(&[&server, "get", "widgets", "-A"]).await?;
            ensure!(table.contains("SIZE") && table.contains("w1") && table.contains('7'), "{table}");
            Ok(())
        })
        .await?;
        eventually(Duration::from_secs(120), async || {
            let path = "jsonpath={.status.conditions[0].status} {.status.conditions[0].message}";
            let ready = kubectl.run(&["get", "resourceregistry", "widgets", "-o", path]).await?;
            ensure!(ready.starts_with("True") && ready.contains("not served by all: example.io/v1 Widget"), "{ready}");
            Ok(())
        })
        .await
    })
}

#[test]
fn the_aggregation_layer_finds_nothing_wrong_with_us() -> Result<()> {
    on_stage(async |stage| {
        let kubectl = stage.kubectl()?;
        let available = kubectl
            .run(&["get", "apiservice", "v1alpha1.search.karmada.io", "-o", "jsonpath={.status.conditions[0].status}"])
            .await?;
        assert_eq!(available, "True");
        let resources = kubectl.run(&["api-resources", "--api-group=search.karmada.io", "-o", "name"]).await?;
        assert_eq!(resources.trim(), "resourceregistries.search.karmada.io\nsearch.search.karmada.io");
        let fields = kubectl.run(&["explain", "resourceregistry.spec", "--recursive"]).await?;
        ensure!(fields.contains("targetCluster") && fields.contains("clusterNames"), "{fields}");
        kubectl.run(&["create", "namespace", "short-lived"]).await?;
        Ok(())
    })
}
