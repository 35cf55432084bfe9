//! Credentials of backends, troubled backends, several of them, and several writers: on real nodes behind gates that ask who comes.

mod shared;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Map, Value, json};
use shared::run;
use tests::api_server::{ADMIN_TOKEN, ApiServer, Options};
use tests::etcd::Etcd;
use tests::eventually;
use tests::fleetglass::{Fleetglass, program, serve_arguments, serving_pair};
use tests::gate::signature::Keys;
use tests::gate::{Gate, Lock, Trouble};
use tests::karmada::registry;
use tests::opensearch::OpenSearch;
use tests::process::free_port;
use tests::stage::{Plan, Stage};
use tests::workloads::Filler;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// Within this time documents and conditions follow.
const SOON: Duration = Duration::from_secs(120);
/// How many seconds a backend asks to be left alone.
const ASKED: u32 = 20;
const STATUS: &str = "/apis/search.karmada.io/v1alpha1/search/status";
const OBJECTS: &str = "fleetglass-objects";
/// ConfigMaps of the stage's member: four applications', and two of Kubernetes itself.
const MAPS: usize = 6;

/// A stage and a node, one for nearly all tests: each has them for itself, and finds them as new.
struct Scene {
    stage: Stage,
    node: OpenSearch,
}

async fn scene() -> Result<MutexGuard<'static, Scene>> {
    scene_with(&[]).await
}

async fn scene_with(arguments: &[&str]) -> Result<MutexGuard<'static, Scene>> {
    static SCENE: OnceCell<Mutex<Scene>> = OnceCell::const_new();
    let started = SCENE.get_or_try_init(async || anyhow::Ok(Mutex::new(Scene::start().await?))).await?;
    let mut scene = started.lock().await;
    scene.make_new(arguments).await?;
    Ok(scene)
}

impl Scene {
    async fn start() -> Result<Self> {
        let stage = Stage::start(&Plan { members: 1, pods: 0, ..Plan::default() }).await?;
        let node = OpenSearch::start(stage.folder()).await?;
        Ok(Self { stage, node })
    }

    /// What an earlier test has left, also one that failed, is not the next one's business.
    async fn make_new(&mut self, arguments: &[&str]) -> Result<()> {
        self.stage.fleetglass_mut()?.kill_and_restart().await?;
        let kubectl = self.stage.kubectl()?;
        kubectl.run(&["delete", "resourceregistry", "--all"]).await?;
        kubectl.run(&["delete", "secret", "opensearch", "--ignore-not-found"]).await?;
        self.member()?.kubectl()?.run(&["delete", "configmap", "-n", "team-000", "-l", "of=test"]).await?;
        self.stage.fleetglass_mut()?.kill()?;
        for indices in ["fleetglass-*", "kubernetes-*"] {
            self.node.ask(Method::DELETE, indices, None).await?;
        }
        self.stage.fleetglass_mut()?.kill_and_restart_with(arguments).await
    }

    /// A registry over the ConfigMaps, sent to an address, with the name of a Secret if there is one.
    async fn send(&self, name: &str, address: &str, secret: Option<&str>) -> Result<()> {
        let mut registry = registry(name, &[], &["v1/ConfigMap"]);
        registry["spec"]["backendStore"] = json!({ "openSearch": { "addresses": [address] } });
        if let Some(secret) = secret {
            let reference = json!({ "namespace": "default", "name": secret });
            registry["spec"]["backendStore"]["openSearch"]["secretRef"] = reference;
        }
        self.stage.kubectl()?.apply(&registry.to_string()).await
    }

    async fn secret(&self, name: &str, pairs: &[(&str, &str)]) -> Result<()> {
        let data: Map<String, Value> =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(STANDARD.encode(value)))).collect();
        let metadata = json!({ "name": name, "namespace": "default" });
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data });
        // What an earlier one had is not to stay.
        self.stage.kubectl()?.run(&["delete", "secret", name, "--ignore-not-found"]).await?;
        self.stage.kubectl()?.apply(&secret.to_string()).await
    }

    async fn says(&self, registry: &str, expected: &[&str]) -> Result<()> {
        let path =
            "jsonpath={.status.conditions[0].status} {.status.conditions[0].reason} {.status.conditions[0].message}";
        let words = ["get", "resourceregistry", registry, "-o", path];
        eventually(SOON, async || {
            let said = self.stage.kubectl()?.run(&words).await?;
            ensure!(expected.iter().all(|part| said.contains(part)), "{registry} says {said:?} and not {expected:?}");
            Ok(())
        })
        .await
    }

    async fn has(&self, node: &OpenSearch, documents: usize) -> Result<()> {
        eventually(SOON, async || {
            let found = node.documents(OBJECTS).await?.len();
            ensure!(found == documents, "{found} documents instead of {documents}");
            Ok(())
        })
        .await
    }

    async fn has_in_original_layout(&self, documents: usize) -> Result<BTreeMap<String, Value>> {
        eventually(SOON, async || {
            let found = self.node.documents("kubernetes-configmap").await?;
            ensure!(found.len() == documents, "{} documents instead of {documents}", found.len());
            Ok(found)
        })
        .await
    }

    async fn withdraw(&self, name: &str) -> Result<()> {
        self.stage.kubectl()?.run(&["delete", "resourceregistry", name]).await?;
        self.has(&self.node, 0).await
    }

    fn member(&self) -> Result<&ApiServer> {
        self.stage.members.first().context("no member")
    }

    async fn map(&self, name: &str, value: &str) -> Result<()> {
        let map = config_map(name, value);
        self.member()?.kubectl()?.apply(&map.to_string()).await
    }

    async fn backends(&self) -> Result<Vec<Value>> {
        Ok(self.backends_and_left().await?.into_iter().filter(|backend| backend["registries"] != json!([])).collect())
    }

    /// Those too that registries have left.
    async fn backends_and_left(&self) -> Result<Vec<Value>> {
        let status = self.stage.kubectl()?.raw(STATUS).await?;
        Ok(status["backends"].as_array().cloned().unwrap_or_default())
    }
}

fn config_map(name: &str, value: &str) -> Value {
    let metadata = json!({ "name": name, "namespace": "team-000", "labels": { "of": "test" } });
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { "value": value } })
}

fn basic(password: &str) -> Lock {
    Lock::Basic("writer".into(), password.into())
}

#[test]
fn every_kind_of_credentials_opens_what_it_is_for() -> Result<()> {
    run(async || {
        let scene = scene().await?;
        let folder = scene.stage.folder();
        let certificate = Gate::open(&scene.node.url, folder, Lock::Certificate).await?;
        let pem = |path| std::fs::read_to_string(path);
        let (shown, key) = (pem(&certificate.client.certificate)?, pem(&certificate.client.key)?);
        let basic_gate = Gate::open(&scene.node.url, folder, basic("p@ss:word")).await?;
        let bearer = Gate::open(&scene.node.url, folder, Lock::Bearer("t0ken".into())).await?;
        let keys = Keys {
            id: "AKEXAMPLE".into(),
            key: "s1gned/secret".into(),
            region: "eu-west-1".into(),
            service: "es".into(),
        };
        let signed = Gate::open(&scene.node.url, folder, Lock::Signature(keys)).await?;
        let cases: [(&Gate, Vec<(&str, &str)>); 5] = [
            (&basic_gate, vec![("username", "writer"), ("password", "p@ss:word")]),
            (&basic_gate, vec![("userName", "writer"), ("password", "p@ss:word")]),
            (&bearer, vec![("token", "t0ken")]),
            (&certificate, vec![("tls.crt", &shown), ("tls.key", &key)]),
            (
                &signed,
                vec![
                    ("awsRegion", "eu-west-1"),
                    ("awsAccessKeyID", "AKEXAMPLE"),
                    ("awsSecretAccessKey", "s1gned/secret"),
                ],
            ),
        ];
        for (gate, mut pairs) in cases {
            pairs.push(("ca.crt", &gate.authority));
            scene.secret("opensearch", &pairs).await?;
            scene.send("sent", &gate.url, Some("opensearch")).await?;
            scene.says("sent", &["True Synced", "written to https://127.0.0.1"]).await?;
            scene.has(&scene.node, MAPS).await?;
            assert_eq!((gate.anonymous(), gate.refused()), (0, 0));
            scene.withdraw("sent").await?;
        }
        let log = scene.stage.fleetglass()?.log()?;
        ensure!(!["p@ss:word", "t0ken", "PRIVATE KEY", "s1gned"].iter().any(|secret| log.contains(secret)), "{log}");
        Ok(())
    })
}

#[test]
fn a_node_whose_certificate_bears_another_name_is_trusted_by_that_name_only() -> Result<()> {
    run(async || {
        let scene = scene().await?;
        let folder = scene.stage.folder();
        let gate = Gate::open_as(&["search.example"], &scene.node.url, folder, basic("named")).await?;
        let login = [("username", "writer"), ("password", "named"), ("ca.crt", &*gate.authority)];
        let with = |name| login.into_iter().chain([("tlsServerName", name)]).collect::<Vec<_>>();
        scene.secret("opensearch", &login).await?;
        scene.send("sent", &gate.url, Some("opensearch")).await?;
        scene.says("sent", &["False BackendFailing", "certificate"]).await?;
        scene.secret("opensearch", &with("other.example")).await?;
        scene.says("sent", &["False BackendFailing", "other.example"]).await?;
        scene.secret("opensearch", &with("search.example")).await?;
        scene.says("sent", &["True Synced", "written to https://127.0.0.1"]).await?;
        scene.has(&scene.node, MAPS).await?;
        scene.map("named", "yes").await?;
        scene.has(&scene.node, MAPS + 1).await?;
        assert_eq!(gate.refused(), 0);
        let away = format!("https://127.0.0.1:{}", free_port()?);
        scene.send("sent", &away, Some("opensearch")).await?;
        scene.says("sent", &["False BackendFailing", "refused"]).await
    })
}

#[test]
fn a_secret_in_disorder_is_told_and_nobody_is_asked_without_credentials() -> Result<()> {
    run(async || {
        let scene = scene().await?;
        let gate = Gate::open(&scene.node.url, scene.stage.folder(), basic("first")).await?;
        scene.send("sent", &gate.url, Some("opensearch")).await?;
        scene.says("sent", &["False BackendRefused", "Secret default/opensearch", "is not there"]).await?;
        scene.secret("opensearch", &[("username", "writer"), ("ca.crt", &gate.authority)]).await?;
        scene.says("sent", &["False BackendRefused", "username but no password"]).await?;
        ensure!(gate.anonymous() + gate.refused() == 0, "it was asked");
        let with = |password| [("username", "writer"), ("password", password), ("ca.crt", gate.authority.as_str())];
        scene.secret("opensearch", &with("wrong")).await?;
        scene.says("sent", &["False BackendFailing", "401"]).await?;
        ensure!(gate.refused() > 0);
        scene.secret("opensearch", &with("first")).await?;
        scene.says("sent", &["True Synced"]).await?;
        scene.has(&scene.node, MAPS).await?;
        // The password is changed behind our back, then in the Secret.
        gate.change_lock(basic("second"));
        scene.map("rotated", "yes").await?;
        scene.says("sent", &["False BackendFailing", "401"]).await?;
        scene.secret("opensearch", &with("second")).await?;
        scene.has(&scene.node, MAPS + 1).await?;
        scene.says("sent", &["True Synced"]).await?;
        scene.stage.kubectl()?.run(&["delete", "secret", "opensearch"]).await?;
        scene.says("sent", &["False BackendRefused", "is not there"]).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        scene.has(&scene.node, MAPS + 1).await?;
        assert_eq!(gate.anonymous(), 0);
        Ok(())
    })
}

#[test]
fn credentials_go_over_http_only_where_the_operator_allows_it() -> Result<()> {
    run(async || {
        let mut scene = scene().await?;
        let gate = Gate::open_plain(&scene.node.url, scene.stage.folder(), basic("open")).await?;
        scene.secret("opensearch", &[("username", "writer"), ("password", "open")]).await?;
        scene.send("sent", &gate.url, Some("opensearch")).await?;
        scene.says("sent", &["False BackendRefused", "--opensearch-plaintext-credentials"]).await?;
        ensure!(gate.passed() + gate.anonymous() + gate.refused() == 0, "it was asked");
        let allowed = ["--opensearch-plaintext-credentials"];
        scene.stage.fleetglass_mut()?.kill_and_restart_with(&allowed).await?;
        scene.says("sent", &["True Synced"]).await?;
        assert_eq!((gate.anonymous(), gate.refused()), (0, 0));
        Ok(())
    })
}

#[test]
fn a_backend_that_refuses_or_loses_answers_is_left_alone_as_long_as_it_asks() -> Result<()> {
    run(async || {
        let scene = scene().await?;
        let gate = Gate::open_plain(&scene.node.url, scene.stage.folder(), Lock::Open).await?;
        scene.send("sent", &gate.url, None).await?;
        scene.says("sent", &["True Synced"]).await?;
        // Much longer than it takes to be told of.
        gate.trouble([Trouble::Refuse(429, Some(ASKED))]);
        let asked = Instant::now();
        scene.map("patient", "yes").await?;
        scene.says("sent", &["False BackendFailing", "429"]).await?;
        // What was under way when it refused has been answered by now.
        let passed = gate.passed();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (later, waited) = (gate.passed(), asked.elapsed());
        ensure!(later == passed || waited.as_secs() >= u64::from(ASKED), "it asked again before it was time");
        scene.has(&scene.node, MAPS + 1).await?;
        ensure!(asked.elapsed().as_secs() >= u64::from(ASKED), "{:?}", asked.elapsed());
        scene.says("sent", &["True Synced"]).await?;
        // Whatever was done and not told, and whatever was refused, comes to the same.
        for round in 0..8 {
            let trouble = if round % 2 == 0 { Trouble::LoseAnswer } else { Trouble::Refuse(503, None) };
            gate.trouble([trouble]);
            scene.map("troubled", &round.to_string()).await?;
            scene.map(&format!("troubled-{round}"), "new").await?;
            scene
                .member()?
                .kubectl()?
                .run(&["delete", "configmap", "-n", "team-000", "patient", "--ignore-not-found"])
                .await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        scene.has(&scene.node, MAPS + 9).await?;
        eventually(SOON, async || {
            let documents = scene.node.documents(OBJECTS).await?;
            let written = documents.iter().find(|(id, _)| id.ends_with("/troubled")).context("no document")?.1;
            ensure!(written["object"]["data"]["value"] == "7", "{written}");
            Ok(())
        })
        .await?;
        let backend = scene.backends().await?.pop().context("no backend")?;
        ensure!(backend["retries"].as_u64() > Some(0) && backend["rejected"] == 0, "{backend}");
        Ok(())
    })
}

#[test]
fn who_is_killed_in_the_middle_of_a_bulk_request_comes_to_the_same_and_nothing_gone_comes_back() -> Result<()> {
    run(async || {
        let mut scene = scene().await?;
        let gate = Gate::open_plain(&scene.node.url, scene.stage.folder(), Lock::Open).await?;
        scene.send("sent", &gate.url, None).await?;
        for name in ["kept", "going"] {
            scene.map(name, "before").await?;
        }
        scene.has(&scene.node, MAPS + 2).await?;
        let last = scene.node.documents(OBJECTS).await?;
        let (id, gone) = last.iter().find(|(id, _)| id.ends_with("/going")).context("no document")?;
        for (round, is_done) in [true, false].into_iter().enumerate() {
            gate.trouble([Trouble::HoldBulk { is_done }]);
            scene.map("kept", &round.to_string()).await?;
            scene.map(&format!("new-{round}"), "yes").await?;
            let words = ["delete", "configmap", "-n", "team-000", "going", "--ignore-not-found"];
            scene.member()?.kubectl()?.run(&words).await?;
            eventually(SOON, async || {
                ensure!(gate.held() == round + 1, "no bulk request is under way");
                Ok(())
            })
            .await?;
            scene.stage.fleetglass_mut()?.kill_and_restart().await?;
            scene.has(&scene.node, MAPS + 2 + round).await?;
            scene.says("sent", &["True Synced"]).await?;
        }
        let documents = scene.node.documents(OBJECTS).await?;
        let kept = documents.iter().find(|(id, _)| id.ends_with("/kept")).context("no document")?.1;
        assert_eq!(kept["object"]["data"]["value"], "1");
        // What an earlier writer still had to say comes too late.
        let version = gone["object"]["metadata"]["resourceVersion"].as_str().context("no version")?;
        let path = format!("{OBJECTS}/_doc/{}?version={version}&version_type=external_gte", id.replace('/', "%2F"));
        let refused = scene.node.ask(Method::PUT, &path, Some(gone.clone())).await;
        let told = refused.map_or_else(|error| error.to_string(), |done| done.to_string());
        ensure!(told.contains("409 Conflict"), "{told}");
        scene.has(&scene.node, MAPS + 3).await
    })
}

#[test]
fn several_addresses_are_one_backend_and_any_of_them_will_do() -> Result<()> {
    run(async || {
        let scene = scene().await?;
        let mut gates = Vec::new();
        for _ in 0..2 {
            gates.push(Gate::open_plain(&scene.node.url, scene.stage.folder(), Lock::Open).await?);
        }
        let mut both = registry("both", &[], &["v1/ConfigMap"]);
        let addresses: Vec<&str> = gates.iter().map(|gate| gate.url.as_str()).collect();
        both["spec"]["backendStore"] = json!({ "openSearch": { "addresses": addresses } });
        scene.stage.kubectl()?.apply(&both.to_string()).await?;
        scene.has(&scene.node, MAPS).await?;
        ensure!(gates.iter().all(|gate| gate.passed() > 0), "both are asked");
        for round in 0..6 {
            // What it was asked may be done or not.
            gates[round % 2].trouble([Trouble::LoseAnswer, Trouble::LoseAnswer]);
            scene.map(&format!("of-{round}"), "either").await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        scene.has(&scene.node, MAPS + 6).await?;
        assert_eq!(scene.backends().await?.len(), 1);
        Ok(())
    })
}

#[test]
fn a_document_that_is_refused_is_told_logged_and_sent_once_more_out_of_the_log() -> Result<()> {
    run(async || {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("refused.ndjson").display().to_string();
        let scene = scene_with(&[&format!("--opensearch-dead-letters={log}")]).await?;
        scene.send("sent", &scene.node.url, None).await?;
        scene.has(&scene.node, MAPS).await?;
        // Somebody wants names to be numbers.
        let number = |lenient: bool| {
            let number = json!({ "type": "long", "ignore_malformed": lenient });
            json!({ "properties": { "name": { "type": "keyword", "fields": { "number": number } } } })
        };
        let mapping = format!("{OBJECTS}/_mapping");
        scene.node.ask(Method::PUT, &mapping, Some(number(false))).await?;
        scene.map("4711", "taken").await?;
        scene.map("refused", "not taken").await?;
        scene.has(&scene.node, MAPS + 1).await?;
        eventually(SOON, async || {
            let backend = scene.backends().await?.pop().context("no backend")?;
            ensure!(backend["rejected"].as_u64() > Some(0), "{backend}");
            let letters = std::fs::read_to_string(&log)?;
            ensure!(letters.contains("/team-000/refused") && letters.contains("mapper_parsing"), "{letters}");
            Ok(())
        })
        .await?;
        scene.node.ask(Method::PUT, &mapping, Some(number(true))).await?;
        let words = ["backend", "replay", "--file", &log, &scene.node.url];
        let replayed = std::process::Command::new(program()?).args(words).output()?;
        let told = String::from_utf8(replayed.stdout)?;
        ensure!(replayed.status.success() && told.starts_with("1 taken"), "{told}");
        scene.has(&scene.node, MAPS + 2).await
    })
}

#[test]
fn a_registry_that_names_another_backend_moves_there() -> Result<()> {
    run(async || {
        let scene = scene().await?;
        let other = OpenSearch::start(scene.stage.folder()).await?;
        scene.send("moving", &scene.node.url, None).await?;
        scene.has(&scene.node, MAPS).await?;
        scene.send("moving", &other.url, None).await?;
        scene.has(&other, MAPS).await?;
        scene.has(&scene.node, 0).await?;
        // The same node by another name is the same backend: nothing is written anew.
        let by_name = other.url.replace("127.0.0.1", "localhost");
        scene.send("moving", &by_name, None).await?;
        scene.says("moving", &["True Synced", "localhost"]).await?;
        scene.send("beside", &scene.node.url, None).await?;
        scene.has(&scene.node, MAPS).await?;
        scene.has(&other, MAPS).await?;
        assert_eq!(scene.backends().await?.len(), 2);
        Ok(())
    })
}

#[test]
fn a_backend_that_was_left_is_emptied_by_whoever_comes_next() -> Result<()> {
    run(async || {
        let mut scene = scene().await?;
        let gate = Gate::open_plain(&scene.node.url, scene.stage.folder(), Lock::Open).await?;
        scene.send("leaving", &gate.url, None).await?;
        scene.has(&scene.node, MAPS).await?;
        // Whoever is to empty it can't, and dies.
        gate.change_lock(Lock::Bearer("other".into()));
        scene.stage.kubectl()?.run(&["delete", "resourceregistry", "leaving"]).await?;
        scene.stage.fleetglass_mut()?.kill_and_restart().await?;
        let left = async || {
            let all = scene.backends_and_left().await?;
            let name = gate.url.trim_start_matches("http://").to_owned();
            anyhow::Ok(all.into_iter().find(|backend| backend["backend"].to_string().contains(&name)))
        };
        eventually(SOON, async || {
            let told = left().await?.context("what is to be emptied is not told of")?;
            ensure!(told["registries"] == json!([]) && told["state"] == "Failing", "{told}");
            Ok(())
        })
        .await?;
        scene.has(&scene.node, MAPS).await?;
        gate.change_lock(Lock::Open);
        scene.has(&scene.node, 0).await?;
        eventually(SOON, async || {
            ensure!(left().await?.is_none(), "it is empty, and still told of");
            Ok(())
        })
        .await
    })
}

#[test]
fn nothing_is_deleted_while_nobody_knows_where_some_registry_sends_to() -> Result<()> {
    run(async || {
        let mut scene = scene().await?;
        let gate = Gate::open_plain(&scene.node.url, scene.stage.folder(), Lock::Open).await?;
        scene.send("maps", &scene.node.url, None).await?;
        // The same node, seen through a gate.
        let mut others = registry("others", &[], &["apps/v1/Deployment"]);
        others["spec"]["backendStore"] = json!({ "openSearch": { "addresses": [gate.url] } });
        scene.stage.kubectl()?.apply(&others.to_string()).await?;
        let both = MAPS + 4;
        scene.has(&scene.node, both).await?;
        // When the program starts again, the gate lets nobody through.
        scene.stage.fleetglass_mut()?.kill()?;
        gate.change_lock(Lock::Bearer("other".into()));
        scene.stage.fleetglass_mut()?.restart().await?;
        scene.says("maps", &["True Synced"]).await?;
        scene.says("others", &["False BackendFailing", "401"]).await?;
        scene.map("new", "yes").await?;
        scene.has(&scene.node, both + 1).await?;
        // Nor does it matter that the registry that is known leaves.
        scene.stage.kubectl()?.run(&["delete", "resourceregistry", "maps"]).await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        scene.has(&scene.node, both + 1).await?;
        gate.change_lock(Lock::Open);
        scene.says("others", &["True Synced"]).await?;
        scene.has(&scene.node, 4).await?;
        scene.withdraw("others").await
    })
}

#[test]
fn two_replicas_write_the_same() -> Result<()> {
    run(async || {
        let scene = scene().await?;
        let (authority, serving) = serving_pair(scene.stage.folder())?;
        let (kubectl, port) = (scene.stage.kubectl()?, free_port()?);
        let prefix = &scene.stage.control_plane.name;
        let arguments = serve_arguments(kubectl.kubeconfig(), &scene.stage.etcd.url, prefix, port, &serving);
        let folder = scene.stage.folder().join("second-replica");
        std::fs::create_dir_all(&folder)?;
        let mut second = Fleetglass::start(&program()?, folder, authority, port, arguments).await?;
        scene.send("shared", &scene.node.url, None).await?;
        for round in 0..10 {
            scene.map(&format!("shared-{}", round % 4), &round.to_string()).await?;
            if round % 3 == 0 {
                let words = ["delete", "configmap", "-n", "team-000", "shared-1", "--ignore-not-found"];
                scene.member()?.kubectl()?.run(&words).await?;
            }
            if round == 5 {
                second.kill_and_restart().await?;
            }
        }
        scene.has(&scene.node, MAPS + 3).await?;
        second.stop()?;
        scene.map("shared-1", "again").await?;
        scene.has(&scene.node, MAPS + 4).await?;
        scene.withdraw("shared").await
    })
}

#[test]
fn a_cluster_whose_versions_went_back_is_written_over() -> Result<()> {
    run(async || {
        let scene = Scene::start().await?;
        for round in 0..20 {
            scene.map("counted", &round.to_string()).await?;
        }
        scene.send("restored", &scene.node.url, None).await?;
        scene.has(&scene.node, MAPS + 1).await?;
        // Another cluster takes over the name, and counts from the beginning.
        let folder = scene.stage.folder().join("young");
        std::fs::create_dir_all(&folder)?;
        let young = Etcd::start(&folder).await?;
        let restored = ApiServer::start("member1", &young.url, &folder, Options::default()).await?;
        Filler::new(&restored)?.namespace("team-000").await?;
        restored.kubectl()?.apply(&config_map("app-000", "restored").to_string()).await?;
        scene.stage.karmada.join_as("member1", &restored.url, ADMIN_TOKEN, Some(&restored.authority)).await?;
        let shows = async |name: &str, value: &str| {
            eventually(SOON, async || {
                let documents = scene.node.documents(OBJECTS).await?;
                let id = format!("member1//configmaps/team-000/{name}");
                let document = documents.get(&id).with_context(|| format!("no {id} in {:?}", documents.keys()))?;
                ensure!(document["object"]["data"]["value"] == value, "{document}");
                Ok(())
            })
            .await
        };
        shows("app-000", "restored").await?;
        // From then on, its changes come at once.
        restored.kubectl()?.apply(&config_map("app-000", "changed").to_string()).await?;
        shows("app-000", "changed").await?;
        eventually(SOON, async || {
            let documents = scene.node.documents(OBJECTS).await?;
            ensure!(!documents.contains_key("member1//configmaps/team-000/counted"), "what is gone is still there");
            Ok(())
        })
        .await
    })
}

#[test]
fn dashboards_made_for_the_original_find_its_layout_and_nothing_that_is_gone() -> Result<()> {
    run(async || {
        let mut scene = scene_with(&["--opensearch-original-layout"]).await?;
        // As karmada-search has left it: its index, without fields of ours.
        let closed = json!({ "type": "object", "enabled": false });
        let metadata = json!({ "properties": { "labels": closed, "annotations": closed, "name": { "type": "text" } } });
        let mapping = json!({ "mappings": { "properties": { "kind": { "type": "text" }, "metadata": metadata } } });
        scene.node.ask(Method::PUT, "kubernetes-configmap", Some(mapping)).await?;
        scene.send("both", &scene.node.url, None).await?;
        scene.map("seen", "1").await?;
        scene.map("again", "1").await?;
        scene.has(&scene.node, MAPS + 2).await?;
        let found = scene.has_in_original_layout(MAPS + 2).await?;
        let live = scene.member()?.kubectl()?.raw("/api/v1/namespaces/team-000/configmaps/seen").await?;
        let document = found.get(live["metadata"]["uid"].as_str().context("no uid")?).context("not under its uid")?;
        assert_eq!((&document["kind"], &document["metadata"]["name"]), (&json!("ConfigMap"), &json!("seen")));
        assert_eq!(document["spec"], "null", "what it has no place for is not there");
        ensure!(
            document["metadata"]["annotations"]["resource.karmada.io/cached-from-cluster"] == "member1",
            "{document}"
        );
        // What goes while nobody looks goes there too, also where another object of the same name has come.
        scene.stage.fleetglass_mut()?.kill()?;
        scene.member()?.kubectl()?.run(&["delete", "configmap", "-n", "team-000", "seen", "again"]).await?;
        scene.map("again", "2").await?;
        scene.stage.fleetglass_mut()?.restart().await?;
        scene.has(&scene.node, MAPS + 1).await?;
        let left = scene.has_in_original_layout(MAPS + 1).await?;
        ensure!(!left.contains_key(live["metadata"]["uid"].as_str().unwrap_or_default()));
        let again = scene.member()?.kubectl()?.raw("/api/v1/namespaces/team-000/configmaps/again").await?;
        ensure!(left.contains_key(again["metadata"]["uid"].as_str().unwrap_or_default()), "{left:?}");
        scene.withdraw("both").await?;
        scene.has_in_original_layout(0).await.map(drop)
    })
}
