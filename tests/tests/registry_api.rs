//! ResourceRegistry objects as users handle them: stock kubectl, through aggregation, stored in etcd and in one file.

mod shared;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shared::{on_stage, run};
use tests::api_server::ADMIN_TOKEN;
use tests::etcd::Etcd;
use tests::eventually;
use tests::fleetglass::program;
use tests::karmada::registry;
use tests::kubectl::Kubectl;
use tests::process::{Server, free_port};
use tests::stage::{Plan, Stage};
use tokio::io::{AsyncBufReadExt, BufReader};

async fn json_of(kubectl: &Kubectl, name: &str) -> Result<Value> {
    Ok(serde_json::from_str(
        &kubectl.run(&["get", "resourceregistry", name, "-o", "json", "--show-managed-fields"]).await?,
    )?)
}

#[test]
fn kubectl_creates_changes_and_deletes_registries_in_every_way_it_knows() -> Result<()> {
    on_stage(async |stage| {
        let kubectl = stage.kubectl()?;
        let manifest = registry("handled", &["member1"], &["v1/Endpoints"]).to_string();
        kubectl.run_with(&["create", "-f", "-"], &manifest).await?;
        let again = kubectl.try_run(&["create", "-f", "-"], &manifest).await?;
        ensure!(!again.success && again.stderr.contains("AlreadyExists"), "{}", again.stderr);
        kubectl.run_with(&["apply", "-f", "-"], &manifest).await?;
        kubectl.run(&["label", "resourceregistry", "handled", "team=lab"]).await?;
        for (kind, patch) in [
            ("merge", r#"{"metadata":{"annotations":{"a":"1"}}}"#),
            ("json", r#"[{"op":"add","path":"/metadata/annotations/b","value":"2"}]"#),
        ] {
            kubectl.run(&["patch", "resourceregistry", "handled", "--type", kind, "--patch", patch]).await?;
        }
        let stored = json_of(&kubectl, "handled").await?;
        assert_eq!(stored["metadata"]["labels"], json!({ "team": "lab" }));
        assert_eq!(
            (&stored["metadata"]["annotations"]["a"], &stored["metadata"]["annotations"]["b"]),
            (&json!("1"), &json!("2"))
        );
        let by_label = kubectl.run(&["get", "resourceregistry", "-l", "team=lab", "-o", "name"]).await?;
        assert_eq!(by_label.trim(), "resourceregistry.search.karmada.io/handled");
        let table = kubectl.run(&["get", "resourceregistries", "-o", "wide"]).await?;
        ensure!(table.contains("CLUSTERS") && table.contains("READY") && table.contains("CREATED AT"), "{table}");
        kubectl.run(&["wait", "--for=condition=Ready", "resourceregistry/handled", "--timeout=120s"]).await?;
        kubectl.run(&["describe", "resourceregistry", "handled"]).await?;
        kubectl.run(&["delete", "resourceregistry", "handled"]).await?;
        let gone = kubectl.try_run(&["get", "resourceregistry", "handled"], "").await?;
        ensure!(gone.stderr.contains("(NotFound)"), "{}", gone.stderr);
        Ok(())
    })
}

#[test]
fn kubectl_compares_edits_replaces_and_explains_registries() -> Result<()> {
    on_stage(async |stage| {
        let kubectl = stage.kubectl()?;
        let mut manifest = registry("compared", &["member1"], &["v1/Endpoints"]);
        kubectl.apply(&manifest.to_string()).await?;
        // Its condition is written once it is followed; what is read before that is old at once.
        kubectl.run(&["wait", "--for=condition=Ready", "resourceregistry/compared", "--timeout=120s"]).await?;
        manifest["spec"]["targetCluster"]["clusterNames"] = json!(["member1", "member2"]);
        let difference = kubectl.try_run(&["diff", "-f", "-"], &manifest.to_string()).await?;
        ensure!(difference.stdout.contains("+    - member2"), "{}{}", difference.stdout, difference.stderr);
        let strategic = r#"{"metadata":{"labels":{"way":"strategic"}}}"#;
        kubectl.run(&["patch", "resourceregistry", "compared", "--patch", strategic]).await?;
        assert_eq!(json_of(&kubectl, "compared").await?["metadata"]["labels"]["way"], "strategic");

        let editor = stage.folder().join("editor.sh");
        std::fs::write(&editor, "#!/bin/sh\nsed -i 's/way: strategic/way: edited/' \"$1\"\n")?;
        let editor = format!("KUBE_EDITOR=sh {}", editor.display());
        let (variable, command) = editor.split_once('=').context("no variable")?;
        let edited = tokio::process::Command::new(tests::parts::find(tests::parts::Part::Kubectl)?)
            .env("KUBECONFIG", kubectl.kubeconfig())
            .env(variable, command)
            .args(["edit", "resourceregistry", "compared"])
            .output()
            .await?;
        ensure!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
        assert_eq!(json_of(&kubectl, "compared").await?["metadata"]["labels"]["way"], "edited");

        let mut whole = json_of(&kubectl, "compared").await?;
        whole["spec"]["targetCluster"] = json!({ "clusterNames": ["member2"] });
        kubectl.run_with(&["replace", "--field-manager=replacer", "-f", "-"], &whole.to_string()).await?;
        let replaced = json_of(&kubectl, "compared").await?;
        ensure!(replaced["metadata"]["managedFields"].to_string().contains("\"replacer\""), "{replaced}");
        // The version is that from before the first replacement.
        let stale = kubectl.try_run(&["replace", "-f", "-"], &whole.to_string()).await?;
        ensure!(stale.stderr.contains("(Conflict)"), "{}", stale.stderr);

        kubectl.run(&["delete", "--dry-run=server", "resourceregistry", "compared"]).await?;
        json_of(&kubectl, "compared").await?;
        let explained = eventually(Duration::from_secs(90), async || {
            kubectl.run(&["explain", "resourceregistry.spec", "--recursive"]).await
        })
        .await?;
        for field in ["targetCluster", "clusterNames", "resourceSelectors", "openSearch", "matchExpressions"] {
            ensure!(explained.contains(field), "{field} is not in {explained}");
        }
        kubectl.run(&["delete", "resourceregistry", "compared"]).await.map(drop)
    })
}

#[test]
fn server_side_apply_tells_who_owns_what() -> Result<()> {
    on_stage(async |stage| {
        let kubectl = stage.kubectl()?;
        let manifest = |clusters: &[&str]| registry("applied", clusters, &["v1/Endpoints"]).to_string();
        let apply = ["apply", "--server-side", "-f", "-", "--field-manager"];
        kubectl.run_with(&[&apply[..], &["one"]].concat(), &manifest(&["member1"])).await?;
        let conflict = kubectl.try_run(&[&apply[..], &["two"]].concat(), &manifest(&["member2"])).await?;
        ensure!(!conflict.success && conflict.stderr.contains("conflict with \"one\""), "{}", conflict.stderr);
        kubectl.run_with(&[&apply[..], &["two", "--force-conflicts"]].concat(), &manifest(&["member2"])).await?;
        let stored = json_of(&kubectl, "applied").await?;
        assert_eq!(stored["spec"]["targetCluster"]["clusterNames"], json!(["member2"]));
        assert_eq!(stored["metadata"]["generation"], 2);
        kubectl.run(&["delete", "resourceregistry", "applied"]).await.map(drop)
    })
}

#[test]
fn what_is_wrong_is_refused_with_the_field_and_nothing_is_stored() -> Result<()> {
    on_stage(async |stage| {
        let kubectl = stage.kubectl()?;
        let mut unknown = registry("wrong", &[], &["v1/Endpoints"]);
        unknown["spec"]["clusters"] = json!(["member1"]);
        let refused = kubectl.try_run(&["create", "--validate=strict", "-f", "-"], &unknown.to_string()).await?;
        ensure!(!refused.success && refused.stderr.contains("spec.clusters"), "{}", refused.stderr);
        let invalid =
            kubectl.try_run(&["create", "-f", "-"], &registry("wrong", &[], &["a/b/c/Kind"]).to_string()).await?;
        ensure!(invalid.stderr.contains("spec.resourceSelectors[0].apiVersion"), "{}", invalid.stderr);
        kubectl.run_with(&["create", "--dry-run=server", "-f", "-"], &registry("wrong", &[], &[]).to_string()).await?;
        let client = stage.control_plane.client()?;
        let url = format!("{}/apis/search.karmada.io/v1alpha1/resourceregistries", stage.control_plane.url);
        let post = async |body: String| -> Result<u16> {
            let request =
                client.post(&url).bearer_auth("admin-token").header("content-type", "application/json").body(body);
            Ok(request.send().await?.status().as_u16())
        };
        assert_eq!(post("{\"kind\":".to_owned()).await?, 400, "malformed JSON");
        assert_eq!(post(format!("\"{}\"", "x".repeat(4 << 20))).await?, 413, "an oversized body");
        let listed =
            kubectl.run(&["get", "resourceregistry", "--field-selector", "metadata.name=wrong", "-o", "name"]).await?;
        assert_eq!(listed, "");
        Ok(())
    })
}

#[test]
fn a_watch_by_kubectl_prints_what_happens() -> Result<()> {
    on_stage(async |stage| {
        let kubectl = stage.kubectl()?;
        let mut watch = tokio::process::Command::new(tests::parts::find(tests::parts::Part::Kubectl)?)
            .env("KUBECONFIG", kubectl.kubeconfig())
            .args(["get", "resourceregistries", "--watch", "--output-watch-events", "-o", "name"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(watch.stdout.take().context("no output")?).lines();
        tokio::time::sleep(Duration::from_secs(1)).await;
        kubectl.apply(&registry("watched", &["nowhere"], &["v1/Endpoints"]).to_string()).await?;
        let seen = async {
            while let Some(line) = lines.next_line().await? {
                if line.contains("watched") {
                    return anyhow::Ok(line);
                }
            }
            anyhow::bail!("the watch ended")
        };
        let line = tokio::time::timeout(Duration::from_secs(60), seen).await??;
        ensure!(line.contains("resourceregistry.search.karmada.io/watched"), "{line}");
        kubectl.run(&["delete", "resourceregistry", "watched"]).await.map(drop)
    })
}

/// Makes etcd forget everything before its present revision, as it does from time to time.
async fn compact(etcd: &Etcd) -> Result<()> {
    let revision = etcd.key_values("range", json!({ "key": "AA==" })).await?["header"]["revision"].clone();
    etcd.key_values("compaction", json!({ "revision": revision, "physical": true })).await.map(drop)
}

#[test]
fn after_a_compaction_old_watches_are_told_to_list_again_and_everything_goes_on() -> Result<()> {
    run(async || {
        let stage =
            Stage::start(&Plan { members: 1, applications: 1, pods: 0, fleetglass: true, ..Plan::default() }).await?;
        let kubectl = stage.kubectl()?;
        kubectl.apply(&registry("before", &[], &["v1/Node"]).to_string()).await?;
        compact(&stage.etcd).await?;
        let registries = "/apis/search.karmada.io/v1alpha1/resourceregistries";
        let url = format!("{}{registries}?watch=true&resourceVersion=1&timeoutSeconds=5", stage.control_plane.url);
        let answer = stage.control_plane.client()?.get(url).bearer_auth("admin-token").send().await?;
        let text = answer.text().await?;
        ensure!(text.contains("\"code\":410") && text.contains("Expired"), "{text}");
        kubectl.apply(&registry("after", &[], &["v1/ConfigMap"]).to_string()).await?;
        eventually(Duration::from_secs(60), async || {
            let maps = kubectl.raw(&format!("{}/api/v1/namespaces/team-000/configmaps", shared::CACHE)).await?;
            ensure!(shared::origins(&maps) == ["member1/app-000"], "{maps}");
            Ok(())
        })
        .await?;
        kubectl.run(&["label", "resourceregistry", "before", "team=lab"]).await?;
        let client = stage.control_plane.client()?;
        let collection = format!("{}{registries}?labelSelector=team%3Dlab", stage.control_plane.url);
        client.delete(collection).bearer_auth("admin-token").send().await?.error_for_status()?;
        let left = kubectl.run(&["get", "resourceregistries", "-o", "name"]).await?;
        assert_eq!(left.trim(), "resourceregistry.search.karmada.io/after");
        Ok(())
    })
}

#[test]
fn an_acknowledged_write_survives_a_kill_at_once_in_etcd() -> Result<()> {
    run(async || {
        let mut stage =
            Stage::start(&Plan { members: 0, applications: 0, pods: 0, fleetglass: true, ..Plan::default() }).await?;
        let kubectl = stage.kubectl()?;
        for round in 0..3 {
            let name = format!("kept-{round}");
            kubectl.apply(&registry(&name, &["nowhere"], &["v1/Pod"]).to_string()).await?;
            stage.fleetglass_mut()?.kill_and_restart().await?;
            eventually(Duration::from_secs(60), async || json_of(&kubectl, &name).await.map(drop)).await?;
        }
        Ok(())
    })
}

/// Starts a server without a control plane in `folder`; its kubeconfig is `folder/data/kubeconfig`.
async fn standalone(folder: &Path, flags: &[String]) -> Result<(Server, Kubectl)> {
    let data = folder.join("data");
    let own = [format!("--data-dir={}", data.display()), format!("--secure-port={}", free_port()?)];
    let arguments = std::iter::once("serve".to_owned()).chain(own).chain(flags.iter().cloned());
    let mut server = Server::start("standalone", &program()?, arguments, folder)?;
    let kubectl = Kubectl::new(&data.join("kubeconfig"));
    let ready = async || kubectl.run(&["get", "--raw", "/readyz"]).await.map(drop);
    server.until(Duration::from_secs(60), ready).await?;
    Ok((server, kubectl))
}

#[test]
fn an_acknowledged_write_survives_a_kill_at_once_without_etcd() -> Result<()> {
    run(async || {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("clusters"))?;
        let members = format!("--members=snapshot:{}", folder.path().join("clusters").display());
        for round in 0..4 {
            let (server, kubectl) = standalone(folder.path(), std::slice::from_ref(&members)).await?;
            for earlier in 0..round {
                json_of(&kubectl, &format!("kept-{earlier}")).await?;
            }
            kubectl.apply(&registry(&format!("kept-{round}"), &[], &["v1/Pod"]).to_string()).await?;
            // Dropping it is a kill -9.
            drop(server);
        }
        Ok(())
    })
}

#[test]
fn members_from_kubeconfig_contexts_need_no_control_plane() -> Result<()> {
    run(async || {
        let stage =
            Stage::start(&Plan { members: 1, applications: 1, pods: 1, fleetglass: false, ..Plan::default() }).await?;
        let member = stage.members.first().context("no member")?.kubectl()?;
        let folder = tempfile::tempdir()?;
        let (_server, kubectl) = standalone(folder.path(), &of_context(member.kubeconfig())).await?;
        kubectl.apply(&registry("pods", &[], &["v1/Pod"]).to_string()).await?;
        eventually(Duration::from_secs(60), async || {
            let pods = kubectl.raw(&format!("{}/api/v1/pods", shared::CACHE)).await?;
            ensure!(shared::origins(&pods) == ["member1/app-000-00000"], "{pods}");
            Ok(())
        })
        .await
    })
}

/// Flags for the member that a kubeconfig names.
fn of_context(kubeconfig: &Path) -> [String; 2] {
    ["--members=contexts:member1".to_owned(), format!("--kubeconfig={}", kubeconfig.display())]
}

/// A plugin that prints the token in a file, and a kubeconfig that names it.
fn with_plugin(kubeconfig: &Path, folder: &Path) -> Result<PathBuf> {
    let (token, plugin, path) = (folder.join("token"), folder.join("plugin"), folder.join("with-plugin"));
    let credential =
        r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%s"}}"#;
    let script = format!("#!/bin/sh\nprintf '{credential}' \"$(cat {})\"\n", token.display());
    std::fs::write(&plugin, script)?;
    std::fs::set_permissions(&plugin, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let mut config: Value = serde_yaml::from_str(&std::fs::read_to_string(kubeconfig)?)?;
    let exec =
        json!({ "apiVersion": "client.authentication.k8s.io/v1", "command": plugin, "interactiveMode": "Never" });
    config["users"][0]["user"] = json!({ "exec": exec });
    std::fs::write(&path, config.to_string())?;
    Ok(path)
}

#[test]
fn a_plugin_whose_credentials_are_refused_is_asked_for_new_ones() -> Result<()> {
    run(async || {
        let stage =
            Stage::start(&Plan { members: 1, applications: 1, pods: 1, fleetglass: false, ..Plan::default() }).await?;
        let member = stage.members.first().context("no member")?.kubectl()?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("token"), "expired")?;
        let kubeconfig = with_plugin(member.kubeconfig(), folder.path())?;
        let (_server, kubectl) = standalone(folder.path(), &of_context(&kubeconfig)).await?;
        kubectl.apply(&registry("pods", &[], &["v1/Pod"]).to_string()).await?;
        eventually(Duration::from_secs(60), async || {
            let status = kubectl.raw("/apis/search.karmada.io/v1alpha1/search/status").await?.to_string();
            ensure!(status.contains("401"), "{status}");
            Ok(())
        })
        .await?;
        std::fs::write(folder.path().join("token"), ADMIN_TOKEN)?;
        eventually(Duration::from_secs(120), async || {
            let pods = kubectl.raw(&format!("{}/api/v1/pods", shared::CACHE)).await?;
            ensure!(shared::origins(&pods) == ["member1/app-000-00000"], "{pods}");
            Ok(())
        })
        .await
    })
}

#[test]
fn both_stores_answer_alike() -> Result<()> {
    use apiservice::storage::{
        Storage, StorageError,
        embedded::EmbeddedStorage,
        etcd::{EtcdConfig, EtcdStorage},
    };
    run(async || {
        let folder = tempfile::tempdir()?;
        let etcd = Etcd::start(folder.path()).await?;
        let config =
            EtcdConfig { servers: vec![etcd.url.clone()], prefix: "/registry".into(), ..EtcdConfig::default() };
        let stores: [Box<dyn Storage>; 2] =
            [Box::new(EtcdStorage::open(&config)?), Box::new(EmbeddedStorage::open(folder.path())?)];
        for store in stores {
            let start = store.list().await?.revision;
            let mut changes = store.watch(start).await?;
            let first = store.create("a", "1".into()).await?;
            assert_eq!(store.create("a", "2".into()).await, Err(StorageError::Exists));
            let second = store.update("a", "2".into(), first).await?;
            assert_eq!(store.update("a", "3".into(), first).await, Err(StorageError::Conflict));
            assert_eq!(store.delete("a", first).await, Err(StorageError::Conflict));
            let listing = store.list().await?;
            assert_eq!((listing.items.len(), listing.items[0].revision, &*listing.items[0].name), (1, second, "a"));
            store.delete("a", second).await?;
            assert_eq!(store.get("a").await?, None);
            let mut seen = Vec::new();
            while seen.len() < 3 {
                match futures::StreamExt::next(&mut changes).await.context("the watch ended")?? {
                    apiservice::storage::StorageEvent::Written { object, previous } => {
                        seen.push(format!("{:?} from {:?}", object.value, previous));
                    }
                    apiservice::storage::StorageEvent::Deleted { object } => {
                        seen.push(format!("{:?} gone", object.value));
                    }
                    apiservice::storage::StorageEvent::Progress(_) => {}
                }
            }
            assert_eq!(seen, ["b\"1\" from None", "b\"2\" from Some(b\"1\")", "b\"2\" gone"], "{store:?}");
            store.ping().await?;
        }
        Ok(())
    })
}
