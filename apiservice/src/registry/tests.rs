//! The verbs as a client sees them, on the embedded store.

use http::StatusCode;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::storage::embedded::EmbeddedStorage;

struct Client {
    router: Router,
    store: RegistryStore,
    _folder: tempfile::TempDir,
}

impl Client {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let storage = EmbeddedStorage::open(folder.path()).unwrap();
        let store = RegistryStore::start(std::sync::Arc::new(storage), CancellationToken::new());
        let api = RegistryApi { store: store.clone(), stopping: CancellationToken::new() };
        Self { router: router(api), store, _folder: folder }
    }

    async fn send(&self, method: &str, path: &str, content_type: &str, body: &str) -> (StatusCode, Value, HeaderMap) {
        let request = Request::builder()
            .method(method)
            .uri(format!("{GROUP_VERSION_PATH}/{path}"))
            .header("content-type", content_type)
            .header("user-agent", "tester/1.0")
            .body(axum::body::Body::from(body.to_owned()))
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, serde_json::from_slice(&body).unwrap_or(Value::Null), head.headers)
    }

    async fn get(&self, path: &str) -> Value {
        self.send("GET", path, "", "").await.1
    }

    async fn create(&self, name: &str) -> Value {
        let (status, created, _) =
            self.send("POST", "resourceregistries", "application/json", &registry(name).to_string()).await;
        assert_eq!(status, 201, "{created}");
        created
    }

    async fn merge(&self, path: &str, patch: Value) -> (StatusCode, Value) {
        let (status, answer, _) = self.send("PATCH", path, "application/merge-patch+json", &patch.to_string()).await;
        (status, answer)
    }
}

fn registry(name: &str) -> Value {
    json!({"apiVersion": "search.karmada.io/v1alpha1", "kind": "ResourceRegistry", "metadata": {"name": name},
        "spec": {"targetCluster": {"clusterNames": ["member1"]}, "resourceSelectors": [{"apiVersion": "apps/v1", "kind": "Deployment"}]}})
}

#[tokio::test]
async fn a_created_registry_is_read_back_with_identity_version_and_generation() {
    let client = Client::new();
    let created = client.create("a").await;
    assert_eq!(client.get("resourceregistries/a").await, created);
    let metadata = &created["metadata"];
    assert_eq!(metadata["generation"], 1);
    assert!(
        metadata["uid"].is_string()
            && metadata["creationTimestamp"].is_string()
            && metadata["resourceVersion"].is_string()
    );
    assert_eq!(metadata["managedFields"][0]["manager"], "tester");
    assert_eq!(created["status"], json!({}));
    let (status, again, _) =
        client.send("POST", "resourceregistries", "application/json", &registry("a").to_string()).await;
    assert_eq!((status, &again["reason"]), (StatusCode::CONFLICT, &json!("AlreadyExists")));
}

#[tokio::test]
async fn a_name_is_generated_where_only_its_beginning_is_given() {
    let client = Client::new();
    let mut body = registry("");
    body["metadata"] = json!({"generateName": "made-"});
    let (status, created, _) = client.send("POST", "resourceregistries", "application/json", &body.to_string()).await;
    assert_eq!(status, 201);
    assert!(created["metadata"]["name"].as_str().unwrap().starts_with("made-"));
}

#[tokio::test]
async fn a_write_from_an_old_version_is_refused_and_loses_nothing() {
    let client = Client::new();
    let first = client.create("a").await;
    client.merge("resourceregistries/a", json!({"metadata": {"labels": {"x": "y"}}})).await;
    let (status, error, _) = client.send("PUT", "resourceregistries/a", "application/json", &first.to_string()).await;
    assert_eq!(status, 409);
    assert_eq!(
        error["message"],
        "Operation cannot be fulfilled on resourceregistries.search.karmada.io \"a\": the object has been modified; \
         please apply your changes to the latest version and try again"
    );
    assert_eq!(client.get("resourceregistries/a").await["metadata"]["labels"], json!({"x": "y"}));
    let unconditional = registry("a");
    let (status, ..) = client.send("PUT", "resourceregistries/a", "application/json", &unconditional.to_string()).await;
    assert_eq!(status, 200, "without a version an update is unconditional");
}

#[tokio::test]
async fn the_generation_rises_with_the_spec_only_and_status_has_its_own_path() {
    let client = Client::new();
    client.create("a").await;
    let (_, labelled) = client.merge("resourceregistries/a", json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!(labelled["metadata"]["generation"], 1);
    let (_, changed) = client
        .merge(
            "resourceregistries/a",
            json!({"spec": {"targetCluster": {"clusterNames": []}}, "status": {"conditions": []}}),
        )
        .await;
    assert_eq!((&changed["metadata"]["generation"], &changed["status"]), (&json!(2), &json!({})));
    let condition = json!({"type": "T", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-11-21T00:00:00Z"});
    let patch = json!({"spec": {"resourceSelectors": []}, "status": {"conditions": [condition]}});
    let (status, with_status) = client.merge("resourceregistries/a/status", patch).await;
    assert_eq!(status, 200, "{with_status}");
    assert_eq!(
        with_status["spec"]["resourceSelectors"].as_array().unwrap().len(),
        1,
        "the spec is not written through status"
    );
    assert_eq!(with_status["status"]["conditions"][0]["reason"], "R");
    assert_eq!(with_status["metadata"]["managedFields"][1]["subresource"], "status");
}

#[tokio::test]
async fn bad_bodies_get_a_clear_4xx() {
    let client = Client::new();
    let post = async |content_type: &str, query: &str, body: &str| {
        let (status, answer, headers) =
            client.send("POST", &format!("resourceregistries{query}"), content_type, body).await;
        (status.as_u16(), answer["message"].as_str().unwrap_or_default().to_owned(), headers)
    };
    assert_eq!(post("application/json", "", "{").await.0, 400);
    assert_eq!(post("application/json", "", "[]").await.0, 400);
    assert_eq!(post("text/plain", "", "{}").await.0, 415);
    let mut unknown = registry("a");
    unknown["spec"]["foo"] = json!(1);
    let (code, message, _) = post("application/json", "?fieldValidation=Strict", &unknown.to_string()).await;
    assert_eq!(
        (code, message.as_str()),
        (
            400,
            "ResourceRegistry in version \"v1alpha1\" cannot be handled as a ResourceRegistry: strict decoding error: unknown field \"spec.foo\""
        )
    );
    let (code, _, headers) = post("application/json", "?dryRun=All", &unknown.to_string()).await;
    assert_eq!((code, headers["warning"].to_str().unwrap()), (201, "299 - \"unknown field \\\"spec.foo\\\"\""));
    assert_eq!(client.get("resourceregistries/a").await["code"], 404, "a dry run stores nothing");
    assert_eq!(post("application/json", "", &registry("Bad_Name").to_string()).await.0, 422);
    assert_eq!(post("application/json", "?dryRun=Some", &registry("a").to_string()).await.0, 400);
    assert_eq!(
        post(
            "application/yaml",
            "",
            "kind: ResourceRegistry\napiVersion: search.karmada.io/v1alpha1\nmetadata: {name: y}\n"
        )
        .await
        .0,
        201
    );
}

#[tokio::test]
async fn lists_are_selected_and_paged() {
    let client = Client::new();
    for name in ["a", "b", "c"] {
        client.create(name).await;
    }
    client.merge("resourceregistries/b", json!({"metadata": {"labels": {"team": "lab"}}})).await;
    let names = |list: &Value| {
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&client.get("resourceregistries?labelSelector=team%3Dlab").await), ["b"]);
    assert_eq!(names(&client.get("resourceregistries?fieldSelector=metadata.name%3Dc").await), ["c"]);
    let first = client.get("resourceregistries?limit=2").await;
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a".into(), "b".into()], &json!(1)));
    let token = first["metadata"]["continue"].as_str().unwrap();
    assert_eq!(names(&client.get(&format!("resourceregistries?limit=2&continue={token}")).await), ["c"]);
    let refused = client.get("resourceregistries?fieldSelector=spec.foo%3Dx").await;
    assert!(refused["message"].as_str().unwrap().contains("\"spec.foo\" is not a known field selector"));
    assert_eq!(client.get("resourceregistries?continue=nonsense").await["code"], 400);
}

#[tokio::test]
async fn a_deletion_waits_for_finalizers_and_respects_preconditions() {
    let client = Client::new();
    client.create("a").await;
    client.merge("resourceregistries/a", json!({"metadata": {"finalizers": ["x.io/hold"]}})).await;
    let wrong = json!({"preconditions": {"uid": "other"}}).to_string();
    assert_eq!(client.send("DELETE", "resourceregistries/a", "application/json", &wrong).await.0, 409);
    let (_, marked, _) = client.send("DELETE", "resourceregistries/a", "", "").await;
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    client.merge("resourceregistries/a", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(client.get("resourceregistries/a").await["code"], 404);
    client.create("b").await;
    let (status, answer, _) = client.send("DELETE", "resourceregistries/b", "", "").await;
    assert_eq!((status.as_u16(), &answer["status"], &answer["details"]["name"]), (200, &json!("Success"), &json!("b")));
}

#[tokio::test]
async fn a_collection_is_deleted_as_its_selector_says() {
    let client = Client::new();
    for name in ["a", "b"] {
        client.create(name).await;
    }
    client.merge("resourceregistries/b", json!({"metadata": {"labels": {"team": "lab"}}})).await;
    client.send("DELETE", "resourceregistries?labelSelector=team%3Dlab", "", "").await;
    assert_eq!(client.get("resourceregistries").await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn server_side_apply_creates_updates_and_reports_conflicts() {
    let client = Client::new();
    let apply = async |manager: &str, more: &str, body: &Value| {
        let path = format!("resourceregistries/a?fieldManager={manager}{more}");
        let (status, answer, _) = client.send("PATCH", &path, "application/apply-patch+yaml", &body.to_string()).await;
        (status.as_u16(), answer)
    };
    assert_eq!(apply("one", "", &registry("a")).await.0, 201);
    assert_eq!(apply("one", "", &registry("a")).await.0, 200);
    let mut other = registry("a");
    other["spec"]["targetCluster"]["clusterNames"] = json!(["member2"]);
    let (code, conflict) = apply("two", "", &other).await;
    assert_eq!((code, &conflict["details"]["causes"][0]["reason"]), (409, &json!("FieldManagerConflict")));
    let (code, forced) = apply("two", "&force=true", &other).await;
    assert_eq!((code, &forced["spec"]["targetCluster"]["clusterNames"]), (200, &json!(["member2"])));
    assert_eq!(forced["metadata"]["generation"], 2);
}

#[tokio::test]
async fn a_watch_shows_what_is_there_and_what_happens() {
    let client = Client::new();
    client.create("a").await;
    let request = Request::get(format!("{GROUP_VERSION_PATH}/resourceregistries?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"))
        .body(axum::body::Body::empty()).unwrap();
    let mut body = client.router.clone().oneshot(request).await.unwrap().into_body();
    let mut next = async || -> Value {
        serde_json::from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap()).unwrap()
    };
    assert_eq!(next().await["type"], "ADDED");
    let bookmark = next().await;
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    client.merge("resourceregistries/a", json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!(next().await["type"], "MODIFIED");
    client.send("DELETE", "resourceregistries/a", "", "").await;
    let deleted = next().await;
    assert_eq!((&deleted["type"], &deleted["object"]["metadata"]["name"]), (&json!("DELETED"), &json!("a")));
}

#[tokio::test]
async fn a_watch_from_a_forgotten_version_says_410() {
    let client = Client::new();
    assert_eq!(client.get("resourceregistries?watch=true&resourceVersion=0&timeoutSeconds=1").await, Value::Null);
    let (status, answer, _) =
        client.send("GET", "resourceregistries?watch=true&resourceVersion=notaversion", "", "").await;
    assert_eq!((status.as_u16(), &answer["reason"]), (400, &json!("BadRequest")));
}

#[tokio::test]
async fn the_ready_condition_is_written_once_and_keeps_its_time() {
    let client = Client::new();
    client.create("a").await;
    let ready = |reason: &str| ReadyCondition { ready: true, reason: reason.into(), message: "m".into() };
    client.store.set_ready("a", 1, &ready("Synced")).await.unwrap();
    let first = client.get("resourceregistries/a").await;
    client.store.set_ready("a", 1, &ready("Synced")).await.unwrap();
    assert_eq!(client.get("resourceregistries/a").await, first, "saying the same again writes nothing");
    assert_eq!(first["status"]["conditions"][0]["status"], "True");
    assert_eq!(first["status"]["conditions"][0]["observedGeneration"], 1);
    client.store.set_ready("gone", 1, &ready("Synced")).await.unwrap();
}

#[tokio::test]
async fn the_snapshot_follows_the_store() {
    let client = Client::new();
    let mut snapshots = client.store.subscribe();
    client.create("a").await;
    snapshots.wait_for(|snapshot| snapshot.loaded && snapshot.registries.len() == 1).await.unwrap();
    client.send("DELETE", "resourceregistries/a", "", "").await;
    snapshots.wait_for(|snapshot| snapshot.registries.is_empty()).await.unwrap();
}
