//! Registries send their objects to a real OpenSearch node: whatever happens to either side, its documents come to be exactly
//! what the clusters have.

mod shared;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use shared::run;
use tempfile::TempDir;
use tests::api_server::ApiServer;
use tests::eventually;
use tests::karmada::registry;
use tests::kubectl::Kubectl;
use tests::opensearch::OpenSearch;
use tests::process::Sweeper;
use tests::stage::{Plan, Stage};
use tests::usage::Process;
use tests::workloads::{Application, Filler};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// Within this time documents follow.
const SOON: Duration = Duration::from_secs(90);
/// How long an outage lasts that is no moment's.
const MINUTES: Duration = Duration::from_secs(125);
const STATUS: &str = "/apis/search.karmada.io/v1alpha1/search/status";
/// Where the program keeps its documents.
const OBJECTS: &str = "fleetglass-objects";
/// What registries here select: kinds, and where members serve them.
const KINDS: [(&str, &str); 4] = [
    ("v1/Pod", "/api/v1/pods"),
    ("v1/ConfigMap", "/api/v1/configmaps"),
    ("v1/Secret", "/api/v1/secrets"),
    ("apps/v1/Deployment", "/apis/apps/v1/deployments"),
];

/// A stage and a node, one for nearly all tests: each has them for itself and leaves them as they were.
struct Scene {
    stage: Stage,
    node: OpenSearch,
    _sweeper: Sweeper,
    _folder: TempDir,
}

impl Scene {
    async fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("fleetglass-opensearch-").tempdir()?;
        let sweeper = Sweeper::start(folder.path())?;
        let plan = Plan::default();
        let (stage, node) = tokio::try_join!(Stage::start(&plan), OpenSearch::start(folder.path()))?;
        Ok(Self { stage, node, _sweeper: sweeper, _folder: folder })
    }

    fn kubectl(&self) -> Result<Kubectl> {
        self.stage.kubectl()
    }

    /// A registry over all kinds of these members, sent to the node.
    async fn send(&self, name: &str, members: &[&str]) -> Result<()> {
        self.kubectl()?.apply(&to(&self.node.url, name, members).to_string()).await
    }

    /// Waits until the documents are what these members have of the kinds, and nothing else.
    async fn converges(&self, members: &[&str]) -> Result<()> {
        self.converges_to(members, |_| true).await
    }

    async fn converges_to(&self, members: &[&str], is_meant: impl Fn(&str) -> bool) -> Result<()> {
        eventually(SOON, async || {
            let mut live = self.live(members).await?;
            live.retain(|id, _| is_meant(id));
            let found = self.node.documents(OBJECTS).await?;
            let missing: Vec<&String> = live.keys().filter(|id| !found.contains_key(*id)).collect();
            let too_many: Vec<&String> = found.keys().filter(|id| !live.contains_key(*id)).collect();
            ensure!(missing.is_empty() && too_many.is_empty(), "missing {missing:?}, too many {too_many:?}");
            for (id, object) in &live {
                let kept = stripped(&found[id]["object"]);
                ensure!(kept == *object, "{id} is {kept} and should be {object}");
            }
            Ok(())
        })
        .await
    }

    /// What the members have, by the ids that documents should have.
    async fn live(&self, members: &[&str]) -> Result<BTreeMap<String, Value>> {
        let mut live = BTreeMap::new();
        for name in members {
            let member = self.member(name)?;
            for (kind, path) in KINDS {
                let list = member.kubectl()?.raw(path).await?;
                let group = kind
                    .rsplit_once('/')
                    .and_then(|(version, _)| version.split_once('/'))
                    .map_or("", |(group, _)| group);
                let resource = path.rsplit('/').next().unwrap_or_default();
                for item in list["items"].as_array().context("a list without items")? {
                    let text = |field: &str| item["metadata"][field].as_str().unwrap_or_default();
                    let id = format!("{name}/{group}/{resource}/{}/{}", text("namespace"), text("name"));
                    live.insert(id, stripped(item));
                }
            }
        }
        Ok(live)
    }

    fn member(&self, name: &str) -> Result<&ApiServer> {
        self.stage.members.iter().find(|member| member.name == name).context("no such member")
    }

    async fn backend(&self) -> Result<Value> {
        Ok(self.kubectl()?.raw(STATUS).await?["backends"][0].clone())
    }

    /// Waits until the running process itself says that the backend has everything; a condition may be that of an earlier one.
    async fn follows(&self) -> Result<Value> {
        eventually(SOON, async || {
            let backend = self.backend().await?;
            ensure!(backend["state"] == "Following", "{backend}");
            Ok(())
        })
        .await?;
        self.backend().await
    }

    async fn condition(&self, registry: &str) -> Result<String> {
        let path =
            "jsonpath={.status.conditions[0].status} {.status.conditions[0].reason} {.status.conditions[0].message}";
        self.kubectl()?.run(&["get", "resourceregistry", registry, "-o", path]).await
    }

    async fn says(&self, registry: &str, expected: &[&str]) -> Result<()> {
        eventually(SOON, async || {
            let said = self.condition(registry).await?;
            ensure!(expected.iter().all(|part| said.contains(part)), "{registry} says {said:?} and not {expected:?}");
            Ok(())
        })
        .await
    }

    /// Deletes a registry, and waits until nothing is left of what it sent.
    async fn withdraw(&self, name: &str) -> Result<()> {
        self.kubectl()?.run(&["delete", "resourceregistry", name]).await?;
        eventually(SOON, async || {
            let left = self.node.documents(OBJECTS).await?;
            ensure!(left.is_empty(), "{} documents are left", left.len());
            Ok(())
        })
        .await
    }

    /// Writes and deletes ConfigMaps in a member, so that there is something to follow.
    async fn churn(&self, member: &str, rounds: usize) -> Result<()> {
        let kubectl = self.member(member)?.kubectl()?;
        for round in 0..rounds {
            let maps: Vec<Value> =
                (0..10).map(|number| config_map(&format!("churn-{}", round * 5 + number), round)).collect();
            kubectl.apply(&list(&maps)).await?;
            let names: Vec<String> = (0..5).map(|number| format!("churn-{}", round * 5 + number)).collect();
            let words = ["delete", "configmap", "-n", "team-000", "--wait=false"];
            let words: Vec<&str> = words.into_iter().chain(names.iter().map(String::as_str)).collect();
            kubectl.run(&words).await?;
        }
        Ok(())
    }

    async fn clean_up(&self, member: &str) -> Result<()> {
        let words = ["delete", "configmap", "-n", "team-000", "-l", "of=churn"];
        self.member(member)?.kubectl()?.run(&words).await.map(drop)
    }
}

/// A registry over all kinds of these members, sent to a node.
fn to(url: &str, name: &str, members: &[&str]) -> Value {
    let mut registry = registry(name, members, &KINDS.map(|(kind, _)| kind));
    registry["spec"]["backendStore"] = json!({ "openSearch": { "addresses": [url] } });
    registry
}

fn config_map(name: &str, round: usize) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": { "round": round.to_string() },
        "metadata": { "name": name, "namespace": "team-000", "labels": { "of": "churn" } } })
}

fn list(items: &[Value]) -> String {
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

/// An object without what the program adds, what lists leave out, and what of a Secret is nobody's business.
fn stripped(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|name, _| !matches!(name.as_str(), "apiVersion" | "kind"));
    }
    let is_secret = object["type"].is_string();
    if let Some(fields) = object.as_object_mut().filter(|_| is_secret) {
        fields.remove("data");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("resource.karmada.io/cached-from-cluster");
            if is_secret {
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
            }
        }
        if metadata.get("annotations").and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
            metadata.remove("annotations");
        }
    }
    object
}

async fn scene() -> Result<MutexGuard<'static, Scene>> {
    static SCENE: OnceCell<Mutex<Scene>> = OnceCell::const_new();
    let started = SCENE.get_or_try_init(async || anyhow::Ok(Mutex::new(Scene::start().await?))).await?;
    let scene = started.lock().await;
    // What a test that failed has left is not the next one's business.
    scene.kubectl()?.run(&["delete", "resourceregistry", "--all"]).await?;
    Ok(scene)
}

/// The members of every scene.
const BOTH: [&str; 2] = ["member1", "member2"];

#[test]
fn addresses_alone_are_enough_and_documents_follow_objects() -> Result<()> {
    run(async || {
        let scene = scene().await?;
        let member = scene.member("member1")?.kubectl()?;
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "key", "namespace": "team-000" },
            "stringData": { "password": "swordfish" } });
        member.apply(&secret.to_string()).await?;
        scene.send("sent", &BOTH).await?;
        scene.converges(&BOTH).await?;
        scene.says("sent", &["True Synced", "2 clusters followed, written to http://127.0.0.1"]).await?;
        scene.churn("member1", 3).await?;
        scene.converges(&BOTH).await?;
        let all = serde_json::to_string(&scene.node.documents(OBJECTS).await?)?;
        ensure!(!all.contains("swordfish") && !all.contains("c3dvcmRmaXNo"), "a Secret's content left");
        let count = async |query: Value| scene.node.count(OBJECTS, query).await;
        assert_eq!(count(json!({ "term": { "labels.app.kubernetes.io/name": "app-001" } })).await?, 8);
        assert_eq!(count(json!({ "term": { "label": "app=app-001" } })).await?, 8);
        assert_eq!(
            count(json!({ "bool": { "filter": [
            { "term": { "kind": "Deployment" } }, { "term": { "registry": "registry.example" } },
            { "range": { "replicas.wanted": { "gt": 1 } } } ] } }))
            .await?,
            8
        );
        eventually(SOON, async || {
            let backend = scene.backend().await?;
            ensure!(backend["state"] == "Following" && backend["queue"] == 0, "{backend}");
            ensure!(backend["rejected"] == 0 && backend["registries"] == json!(["sent"]), "{backend}");
            Ok(())
        })
        .await?;
        scene.clean_up("member1").await?;
        scene.withdraw("sent").await
    })
}

#[test]
fn five_thousand_label_keys_are_found_and_make_no_field() -> Result<()> {
    run(async || {
        let scene = scene().await?;
        let member = scene.member("member2")?.kubectl()?;
        let maps: Vec<Value> = (0..100)
            .map(|map| {
                let labels: serde_json::Map<String, Value> =
                    (0..50).map(|key| (format!("team-{map}.example.com/key-{key}"), json!("x"))).collect();
                let mut object = config_map(&format!("churn-{map}"), 0);
                object["metadata"]["labels"] = Value::Object(labels);
                object["metadata"]["labels"]["of"] = json!("churn");
                object["metadata"]["labels"]["app"] = json!(format!("plain-{map}"));
                object["metadata"]["labels"]["app.name"] = json!(format!("dotted-{map}"));
                object
            })
            .collect();
        member.apply(&list(&maps)).await?;
        scene.send("labelled", &["member2"]).await?;
        scene.converges(&["member2"]).await?;
        let count = async |field: &str, value: &str| {
            scene.node.count(OBJECTS, json!({ "term": { (format!("labels.{field}")): value } })).await
        };
        assert_eq!(count("team-7.example.com/key-49", "x").await?, 1);
        assert_eq!((count("app", "plain-3").await?, count("app.name", "dotted-3").await?), (1, 1));
        assert_eq!((count("app", "dotted-3").await?, count("app.name", "plain-3").await?), (0, 0));
        let mapping = scene.node.ask(Method::GET, &format!("{OBJECTS}/_mapping"), None).await?.to_string();
        ensure!(!mapping.contains("example.com") && mapping.len() < 5000, "{mapping}");
        scene.clean_up("member2").await?;
        scene.withdraw("labelled").await
    })
}

#[test]
fn a_restart_writes_only_what_changed_meanwhile_and_deletes_what_went() -> Result<()> {
    run(async || {
        let mut scene = scene().await?;
        let filler = Filler::new(scene.member("member1")?)?;
        filler.namespace("crowd").await?;
        let crowd = Application { number: 7, namespace: "crowd".into(), pods: 1000 };
        std::sync::Arc::new(filler).pods((0..1000).map(|index| crowd.pod(index)).collect(), || {}).await?;
        scene.send("kept", &BOTH).await?;
        scene.converges(&BOTH).await?;
        let fleetglass = scene.stage.fleetglass_mut()?;
        fleetglass.kill_and_restart().await?;
        assert_eq!(scene.follows().await?["written"], 0, "nothing had changed");
        scene.stage.fleetglass_mut()?.kill()?;
        let member = scene.member("member1")?.kubectl()?;
        member.run(&["delete", "pods", "-n", "crowd", "--all", "--grace-period=0", "--force", "--wait=false"]).await?;
        member.apply(&list(&[config_map("churn-1", 1)])).await?;
        scene.stage.fleetglass_mut()?.restart().await?;
        scene.converges(&BOTH).await?;
        eventually(SOON, async || {
            let backend = scene.follows().await?;
            ensure!(backend["written"] == 1 && backend["deleted"] == 1000, "{backend}");
            Ok(())
        })
        .await?;
        scene.clean_up("member1").await?;
        scene.withdraw("kept").await
    })
}

#[test]
fn killed_at_any_time_while_much_changes_it_comes_to_the_same() -> Result<()> {
    run(async || {
        let mut scene = scene().await?;
        scene.send("killed", &BOTH).await?;
        for _ in 0..4 {
            scene.churn("member1", 1).await?;
            scene.stage.fleetglass_mut()?.kill_and_restart().await?;
            scene.churn("member2", 1).await?;
        }
        scene.converges(&BOTH).await?;
        scene.clean_up("member1").await?;
        scene.clean_up("member2").await?;
        scene.withdraw("killed").await
    })
}

#[test]
fn a_node_that_is_away_is_told_of_and_made_up_for() -> Result<()> {
    run(async || {
        let mut scene = scene().await?;
        scene.send("away", &BOTH).await?;
        scene.converges(&BOTH).await?;
        scene.node.kill();
        scene.churn("member1", 4).await?;
        scene.says("away", &["False BackendFailing", "does not answer"]).await?;
        let backend = scene.backend().await?;
        ensure!(backend["state"] == "Failing" && backend["queue"].as_u64() > Some(0), "{backend}");
        ensure!(backend["lagSeconds"].as_f64() > Some(0.0), "{backend}");
        scene.node.restart().await?;
        scene.converges(&BOTH).await?;
        scene.says("away", &["True Synced"]).await?;
        scene.clean_up("member1").await?;
        scene.withdraw("away").await
    })
}

#[test]
fn an_outage_of_minutes_and_a_red_index_are_made_up_for() -> Result<()> {
    run(async || {
        // Of its own, so that the others need not wait.
        let mut scene = Scene::start().await?;
        scene.send("away", &BOTH).await?;
        scene.converges(&BOTH).await?;
        scene.node.kill();
        scene.node.hide_shards(true)?;
        let killed = Instant::now();
        scene.churn("member1", 4).await?;
        scene.says("away", &["False BackendFailing", "does not answer"]).await?;
        tokio::time::sleep(Duration::from_secs(60)).await;
        scene.node.restart_as_it_is().await?;
        scene.churn("member2", 4).await?;
        scene.says("away", &["False BackendFailing"]).await?;
        tokio::time::sleep(MINUTES.saturating_sub(killed.elapsed())).await;
        let health = scene.node.ask(Method::GET, "_cluster/health", None).await?;
        assert_eq!(health["status"], "red");
        scene.node.kill();
        scene.node.hide_shards(false)?;
        scene.node.restart().await?;
        scene.converges(&BOTH).await?;
        scene.says("away", &["True Synced"]).await
    })
}

#[test]
fn who_may_not_write_waits_and_does_not_turn_in_circles() -> Result<()> {
    run(async || {
        let scene = scene().await?;
        scene.send("blocked", &BOTH).await?;
        scene.converges(&BOTH).await?;
        let block = |is_blocked: bool| json!({ "index.blocks.write": is_blocked });
        let settings = format!("{OBJECTS}/_settings");
        scene.node.ask(Method::PUT, &settings, Some(block(true))).await?;
        scene.churn("member1", 2).await?;
        scene.says("blocked", &["False BackendFailing", "blocked"]).await?;
        let process = Process(scene.stage.fleetglass()?.pid());
        let (before, begun) = (process.cpu()?, Instant::now());
        tokio::time::sleep(Duration::from_secs(15)).await;
        let used = process.cpu()? - before;
        ensure!(used < begun.elapsed() / 2, "{used:?} of processor time while nothing can be done");
        scene.node.ask(Method::PUT, &settings, Some(block(false))).await?;
        scene.converges(&BOTH).await?;
        scene.clean_up("member1").await?;
        scene.withdraw("blocked").await
    })
}

#[test]
fn an_index_that_was_deleted_is_made_and_filled_anew() -> Result<()> {
    run(async || {
        let scene = scene().await?;
        scene.send("lost", &BOTH).await?;
        scene.converges(&BOTH).await?;
        scene.node.ask(Method::DELETE, "fleetglass-objects-2", None).await?;
        scene.churn("member1", 1).await?;
        scene.converges(&BOTH).await?;
        scene.clean_up("member1").await?;
        scene.withdraw("lost").await
    })
}

#[test]
fn an_index_of_an_earlier_form_gives_way_to_one_of_the_present_form() -> Result<()> {
    run(async || {
        let mut scene = scene().await?;
        scene.send("formed", &BOTH).await?;
        scene.converges(&BOTH).await?;
        let fleetglass = scene.stage.fleetglass_mut()?;
        fleetglass.kill()?;
        // As an earlier version would have left it: an index of its own form behind the alias.
        let copy =
            json!({ "source": { "index": "fleetglass-objects-2" }, "dest": { "index": "fleetglass-objects-0" } });
        scene.node.ask(Method::POST, "_reindex?refresh=true", Some(copy)).await?;
        let aliases = json!({ "actions": [
            { "remove_index": { "index": "fleetglass-objects-2" } },
            { "add": { "index": "fleetglass-objects-0", "alias": OBJECTS } } ] });
        scene.node.ask(Method::POST, "_aliases", Some(aliases)).await?;
        scene.churn("member1", 1).await?;
        scene.stage.fleetglass_mut()?.restart().await?;
        scene.converges(&BOTH).await?;
        let behind = scene.node.ask(Method::GET, &format!("_alias/{OBJECTS}"), None).await?;
        ensure!(behind.as_object().is_some_and(|indices| indices.keys().eq(["fleetglass-objects-2"])), "{behind}");
        // What a newer version writes is not touched.
        let newer = json!({ "actions": [{ "add": { "index": "fleetglass-objects-9", "alias": OBJECTS } }] });
        scene.node.ask(Method::PUT, "fleetglass-objects-9", None).await?;
        scene.node.ask(Method::POST, "_aliases", Some(newer)).await?;
        scene.stage.fleetglass_mut()?.kill_and_restart().await?;
        scene.says("formed", &["False BackendFailing", "a newer version of this program writes"]).await?;
        scene.node.ask(Method::DELETE, "fleetglass-objects-9", None).await?;
        scene.says("formed", &["True Synced"]).await?;
        scene.clean_up("member1").await?;
        scene.withdraw("formed").await
    })
}

#[test]
fn what_is_no_longer_selected_goes_also_if_that_happened_meanwhile() -> Result<()> {
    run(async || {
        let mut scene = scene().await?;
        scene.send("narrowed", &BOTH).await?;
        scene.converges(&BOTH).await?;
        scene.send("narrowed", &["member2"]).await?;
        scene.converges(&["member2"]).await?;
        let mut one_namespace = to(&scene.node.url, "narrowed", &BOTH);
        for selector in one_namespace["spec"]["resourceSelectors"].as_array_mut().context("no selectors")? {
            selector["namespace"] = json!("team-001");
        }
        scene.kubectl()?.apply(&one_namespace.to_string()).await?;
        scene.converges_to(&BOTH, |id| id.contains("/team-001/")).await?;
        scene.send("narrowed", &BOTH).await?;
        scene.converges(&BOTH).await?;
        scene.stage.fleetglass_mut()?.kill()?;
        scene.stage.karmada.unjoin("member1").await?;
        scene.stage.fleetglass_mut()?.restart().await?;
        scene.converges(&["member2"]).await?;
        scene.stage.karmada.join(scene.member("member1")?).await?;
        scene.converges(&BOTH).await?;
        scene.withdraw("narrowed").await
    })
}

#[test]
fn a_cluster_that_is_out_of_touch_keeps_its_documents() -> Result<()> {
    run(async || {
        let mut scene = scene().await?;
        scene.send("patient", &BOTH).await?;
        scene.converges(&BOTH).await?;
        let before = scene.node.documents(OBJECTS).await?;
        let place = scene.stage.members.iter().position(|member| member.name == "member2").context("no member")?;
        let stopped = scene.stage.members.remove(place).kill();
        scene.stage.fleetglass_mut()?.kill_and_restart().await?;
        scene.says("patient", &["False OutOfTouch", "member2"]).await?;
        scene.churn("member1", 1).await?;
        scene.clean_up("member1").await?;
        eventually(SOON, async || {
            let now = scene.node.documents(OBJECTS).await?;
            ensure!(now.keys().eq(before.keys()), "{} documents instead of {}", now.len(), before.len());
            Ok(())
        })
        .await?;
        let member = stopped.restart().await?;
        scene.stage.members.insert(place, member);
        scene.converges(&BOTH).await?;
        scene.withdraw("patient").await
    })
}

/// What a question found, and whether the node was asked.
async fn asked(scene: &Scene, query: &str) -> Result<(usize, bool)> {
    let before = scene.node.points_in_time().await?;
    let path = format!("/apis/search.karmada.io/v1alpha1/search/query?q={query}&limit=1000");
    let found = scene.kubectl()?.raw(&path).await?["items"].as_array().context("items")?.len();
    // A point in time counts once it is closed.
    for _ in 0..20 {
        if scene.node.points_in_time().await? > before {
            return Ok((found, true));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok((found, false))
}

/// Waits until a question finds so many objects, and is answered by whom it should be.
async fn comes_to(scene: &Scene, query: &str, expected: (usize, bool)) -> Result<()> {
    eventually(SOON, async || {
        let answered = asked(scene, query).await?;
        ensure!(answered == expected, "{query:?}: {answered:?} instead of {expected:?}");
        Ok(())
    })
    .await
}

#[test]
fn registries_say_whether_their_backend_answers_queries() -> Result<()> {
    run(async || {
        let mut scene = scene().await?;
        let kubectl = scene.kubectl()?;
        let mut sent = registry("sent", &BOTH, &["v1/Pod"]);
        sent["spec"]["backendStore"] = json!({ "openSearch": { "addresses": [scene.node.url] } });
        sent["metadata"]["annotations"] = json!({ "search.fleetglass.io/search-backend": "opensearch" });
        kubectl.apply(&sent.to_string()).await?;
        kubectl.apply(&registry("kept", &BOTH, &["apps/v1/Deployment"]).to_string()).await?;
        scene.says("sent", &["True Synced", "written to"]).await?;
        scene.says("kept", &["True Synced"]).await?;
        scene.follows().await?;
        comes_to(&scene, "kind:Pod", (16, true)).await?;
        assert_eq!(asked(&scene, "kind:Deployment").await?, (8, false), "a registry that is sent nowhere");
        assert_eq!(asked(&scene, "").await?, (24, false), "what reaches beyond the registry");
        // Another registry over some of the same objects does not want it.
        kubectl.apply(&registry("too", &["member1"], &["v1/Pod"]).to_string()).await?;
        scene.says("too", &["True Synced"]).await?;
        comes_to(&scene, "kind:Pod", (16, false)).await?;
        assert_eq!(asked(&scene, "kind:Pod%20cluster:member2").await?, (8, true), "those it has nothing of");
        // A node that dies is not waited for.
        scene.node.kill();
        let answer =
            kubectl.raw("/apis/search.karmada.io/v1alpha1/search/facets?q=kind:Pod%20cluster:member2&by=kind").await?;
        assert_eq!(answer["total"], 8, "the cache answers in its place: {answer}");
        scene.node.restart().await?;
        comes_to(&scene, "kind:Pod%20cluster:member2", (8, true)).await?;
        kubectl.run(&["annotate", "resourceregistry", "sent", "search.fleetglass.io/search-backend-"]).await?;
        comes_to(&scene, "kind:Pod%20cluster:member2", (8, false)).await?;
        kubectl.run(&["delete", "resourceregistry", "kept", "too"]).await?;
        scene.withdraw("sent").await
    })
}
