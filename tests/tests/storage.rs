//! Where registries are kept: the etcd that karmada-search used, in the form it used, through losses and with encryption.

mod shared;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use apiservice::storage::encryption::Encryption;
use apiservice::storage::etcd::{EtcdConfig, EtcdStorage};
use apiservice::storage::{Storage, StorageError, StorageEvent};
use futures::StreamExt as _;
use serde_json::{Value, json};
use shared::run;
use tests::api_server::{ADMIN_TOKEN, ApiServer, Options};
use tests::etcd::{Etcd, SecureCluster};
use tests::eventually;
use tests::fleetglass::{Fleetglass, program, serving_pair};
use tests::karmada::registry;
use tests::kubectl::Kubectl;
use tests::process::{Server, free_port};
use tests::stage::{Plan, Stage};

const KEY: &str = "/registry/search.karmada.io/resourceRegistries/deployments";

/// A registry in the bytes that the original writes, with a field of a later version of it.
const ORIGINAL: &str = r#"{"kind":"ResourceRegistry","apiVersion":"search.karmada.io/v1alpha1","metadata":{"name":"deployments","uid":"95a8b29a-a57d-4311-ac77-3e497240369f","creationTimestamp":"2026-11-21T01:33:24Z","labels":{"team":"lab"},"managedFields":[{"manager":"kubectl","operation":"Apply","apiVersion":"search.karmada.io/v1alpha1","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:labels":{"f:team":{}}},"f:spec":{"f:resourceSelectors":{},"f:targetCluster":{"f:clusterNames":{}}}}},{"manager":"lab","operation":"Update","apiVersion":"search.karmada.io/v1alpha1","time":"2026-11-21T01:33:31Z","fieldsType":"FieldsV1","fieldsV1":{"f:status":{"f:conditions":{}}},"subresource":"status"}]},"spec":{"targetCluster":{"clusterNames":["member1"]},"resourceSelectors":[{"apiVersion":"apps/v1","kind":"Deployment"}],"futureField":{"kept":[1,2]}},"status":{"conditions":[{"type":"T","status":"True","lastTransitionTime":"2026-11-21T00:00:00Z","reason":"R","message":"m"}]}}
"#;

/// Reads a document as Go's decoder would for the original's types: what has another type there is an error.
fn read_as_the_original(document: &Value) -> Result<()> {
    let text = |path: &str| -> Result<()> {
        let value = document.pointer(path).with_context(|| format!("{path} is missing"))?;
        ensure!(value.is_string(), "{path} is {value}");
        Ok(())
    };
    for path in ["/kind", "/apiVersion", "/metadata/name", "/metadata/uid", "/metadata/creationTimestamp"] {
        text(path)?;
    }
    ensure!(document["metadata"]["resourceVersion"].is_null(), "the version is etcd's own");
    ensure!(document["metadata"]["generation"].is_null() || document["metadata"]["generation"].is_i64());
    ensure!(document["spec"]["targetCluster"].is_object() && document["status"].is_object());
    for entry in document["metadata"]["managedFields"].as_array().into_iter().flatten() {
        ensure!(entry["fieldsV1"].is_object() && entry["manager"].is_string(), "{entry}");
    }
    for (at, _) in document["spec"]["resourceSelectors"].as_array().into_iter().flatten().enumerate() {
        text(&format!("/spec/resourceSelectors/{at}/apiVersion"))?;
        text(&format!("/spec/resourceSelectors/{at}/kind"))?;
    }
    for condition in document["status"]["conditions"].as_array().into_iter().flatten() {
        for field in ["type", "status", "reason", "message", "lastTransitionTime"] {
            ensure!(condition[field].is_string(), "{field} of {condition}");
        }
    }
    Ok(())
}

async fn stored(etcd: &Etcd) -> Result<Value> {
    let bytes = etcd.get(KEY).await?;
    ensure!(bytes.ends_with(b"\n"), "the original ends its documents with a line's end");
    Ok(serde_json::from_slice(&bytes)?)
}

#[test]
fn a_registry_of_the_originals_lives_on_and_can_go_back() -> Result<()> {
    run(async || {
        let plan = Plan { members: 1, applications: 1, pods: 0, fleetglass: false, ..Plan::default() };
        let stage = Stage::start(&plan).await?;
        let kubectl = stage.kubectl()?;
        stage.etcd.put(KEY, ORIGINAL).await?;
        let prefix = ["--etcd-prefix=/registry".to_owned()];
        let _fleetglass = Fleetglass::join(&stage.control_plane, &stage.etcd.url, stage.folder(), &prefix).await?;
        eventually(Duration::from_secs(60), async || {
            let list = kubectl.raw(&format!("{}/apis/apps/v1/deployments", shared::CACHE)).await?;
            ensure!(shared::origins(&list) == ["member1/app-000"], "{list}");
            Ok(())
        })
        .await?;
        kubectl.run(&["label", "resourceregistry", "deployments", "by=hand"]).await?;
        let patch = r#"[{"op":"add","path":"/spec/resourceSelectors/-","value":{"apiVersion":"v1","kind":"Pod"}}]"#;
        kubectl.run(&["patch", "resourceregistry", "deployments", "--type=json", "--patch", patch]).await?;
        kubectl.run(&["wait", "--for=condition=Ready", "resourceregistry/deployments", "--timeout=120s"]).await?;
        let (before, after): (Value, Value) = (serde_json::from_str(ORIGINAL)?, stored(&stage.etcd).await?);
        read_as_the_original(&before)?;
        read_as_the_original(&after)?;
        for kept in ["/metadata/uid", "/metadata/creationTimestamp", "/spec/futureField", "/spec/targetCluster"] {
            assert_eq!(before.pointer(kept), after.pointer(kept), "{kept}");
        }
        assert_eq!(after["metadata"]["labels"], json!({ "team": "lab", "by": "hand" }));
        assert_eq!(after["spec"]["resourceSelectors"][1], json!({ "apiVersion": "v1", "kind": "Pod" }));
        let foreign = &after["status"]["conditions"][0];
        assert_eq!(*foreign, before["status"]["conditions"][0], "somebody else's condition stays");
        let managers: Vec<&str> = after["metadata"]["managedFields"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|entry| entry["manager"].as_str())
            .collect();
        // Conditions are one field; who wrote the list last owns it.
        ensure!(managers.contains(&"kubectl") && managers.contains(&"fleetglass"), "{managers:?}");
        // The original drops what it doesn't know of a registry it writes, our condition included; that is no fault of ours.
        stage.etcd.put(KEY, ORIGINAL).await?;
        kubectl.run(&["wait", "--for=condition=Ready", "resourceregistry/deployments", "--timeout=120s"]).await?;
        stage.etcd.key_values("deleterange", json!({ "key": base64(KEY) })).await?;
        eventually(Duration::from_secs(60), async || {
            let list = kubectl.raw(&format!("{}/apis/apps/v1/deployments", shared::CACHE)).await?;
            ensure!(shared::origins(&list).is_empty(), "{list}");
            Ok(())
        })
        .await
    })
}

fn base64(text: &str) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text)
}

async fn next_written(changes: &mut apiservice::storage::Changes) -> Result<String> {
    let wait = async {
        loop {
            match changes.next().await.context("the watch ended")?? {
                StorageEvent::Written { object, .. } => return anyhow::Ok(object.name),
                StorageEvent::Deleted { .. } | StorageEvent::Progress(_) => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), wait).await?
}

#[test]
fn of_three_etcd_members_each_may_be_lost_and_come_back() -> Result<()> {
    run(async || {
        let folder = tempfile::tempdir()?;
        let mut etcd = SecureCluster::start(folder.path(), 3).await?;
        let config = EtcdConfig {
            servers: etcd.urls.clone(),
            prefix: "/registry".to_owned(),
            ca_file: Some(etcd.authority.clone()),
            client_certificate: Some((etcd.client.certificate.clone(), etcd.client.key.clone())),
        };
        let store = EtcdStorage::open(&config)?;
        eventually(Duration::from_secs(60), async || Ok(store.ping().await?)).await?;
        let mut changes = store.watch(store.list().await?.revision).await?;
        for member in 0..3 {
            let before = format!("before-{member}");
            // A write whose answer was lost with a member is there when it is tried again.
            eventually(Duration::from_secs(60), async || match store.create(&before, "{}".into()).await {
                Ok(_) | Err(StorageError::Exists) => Ok(()),
                Err(error) => Err(error.into()),
            })
            .await?;
            assert_eq!(next_written(&mut changes).await?, before);
            let flags = etcd.kill(member)?;
            let after = format!("after-{member}");
            // The others may have to choose a new leader first. A write that was lost with its member may have been carried
            // out: then the next try says so.
            eventually(Duration::from_secs(60), async || match store.create(&after, "{}".into()).await {
                Ok(_) | Err(StorageError::Exists) => Ok(()),
                Err(error) => Err(error.into()),
            })
            .await?;
            for _ in 0..20 {
                store.get(&after).await?.context("a read finds it")?;
            }
            assert_eq!(next_written(&mut changes).await?, after, "the watch goes on");
            etcd.restart(member, flags)?;
        }
        eventually(Duration::from_secs(60), async || {
            let names = store.list().await?.items.into_iter().map(|item| item.name).collect::<Vec<_>>();
            ensure!(names.len() == 6, "{names:?}");
            Ok(())
        })
        .await
    })
}

/// Reads events of a watch until one names the object.
async fn sees(watch: &mut reqwest::Response, seen: &mut String, kind: &str, name: &str) -> Result<()> {
    let is_seen = |seen: &str| {
        let events = seen.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.into_iter().any(|event| event["type"] == kind && event["object"]["metadata"]["name"] == name)
    };
    let reading = async {
        while !is_seen(seen) {
            let chunk = watch.chunk().await?.context("the watch ended")?;
            seen.push_str(&String::from_utf8_lossy(&chunk));
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(120), reading).await.with_context(|| format!("no {kind} of {name}"))?
}

const REGISTRIES: &str = "/apis/search.karmada.io/v1alpha1/resourceregistries";

async fn watch(fleetglass: &Fleetglass) -> Result<reqwest::Response> {
    let url = format!("{}{REGISTRIES}?watch=true", fleetglass.url);
    let request = fleetglass.client()?.get(url).timeout(Duration::from_secs(600)).bearer_auth(ADMIN_TOKEN);
    Ok(request.send().await?.error_for_status()?)
}

#[test]
fn a_whole_server_goes_on_while_etcd_members_are_lost_one_after_the_other() -> Result<()> {
    run(async || {
        let plan = Plan { members: 1, applications: 1, pods: 0, fleetglass: false, ..Plan::default() };
        let stage = Stage::start(&plan).await?;
        let kubectl = stage.kubectl()?;
        let mut etcd = SecureCluster::start(stage.folder(), 3).await?;
        let (servers, flags) = (etcd.urls.join(","), etcd.client_flags());
        let fleetglass = Fleetglass::join(&stage.control_plane, &servers, stage.folder(), &flags).await?;
        let mut watch = watch(&fleetglass).await?;
        let mut seen = String::new();
        for member in 0..3 {
            let (before, after) = (format!("before-{member}"), format!("after-{member}"));
            let apply =
                async |name: &str| kubectl.apply(&registry(name, &[], &["apps/v1/Deployment"]).to_string()).await;
            eventually(Duration::from_secs(60), async || apply(&before).await).await?;
            sees(&mut watch, &mut seen, "ADDED", &before).await?;
            let flags = etcd.kill(member)?;
            eventually(Duration::from_secs(60), async || apply(&after).await).await?;
            sees(&mut watch, &mut seen, "ADDED", &after).await?;
            for name in [&before, &after] {
                kubectl.run(&["get", "resourceregistry", name]).await?;
            }
            etcd.restart(member, flags)?;
        }
        let list = kubectl.raw(&format!("{}/apis/apps/v1/deployments", shared::CACHE)).await?;
        assert_eq!(shared::origins(&list), ["member1/app-000"]);
        let names = kubectl.run(&["get", "resourceregistries", "-o", "name"]).await?;
        assert_eq!(names.lines().count(), 6, "{names}");
        Ok(())
    })
}

#[test]
fn a_registry_whose_lease_runs_out_is_gone_for_readers_watchers_and_the_cache() -> Result<()> {
    run(async || {
        let arguments = vec!["--etcd-prefix=/registry".to_owned()];
        let stage = Stage::start(&Plan { members: 1, applications: 1, pods: 0, arguments, ..Plan::default() }).await?;
        let kubectl = stage.kubectl()?;
        let mut watch = watch(stage.fleetglass()?).await?;
        let mut seen = String::new();
        stage.etcd.put(KEY, ORIGINAL).await?;
        sees(&mut watch, &mut seen, "ADDED", "deployments").await?;
        kubectl.run(&["wait", "--for=condition=Ready", "resourceregistry/deployments", "--timeout=120s"]).await?;
        // Only now: a write takes the lease from a key, and the server writes its condition.
        stage.etcd.put_for(KEY, &format!("{}\n", stored(&stage.etcd).await?), 10).await?;
        sees(&mut watch, &mut seen, "DELETED", "deployments").await?;
        let list = kubectl.raw(REGISTRIES).await?;
        assert_eq!(list["items"], json!([]), "{list}");
        eventually(Duration::from_secs(60), async || {
            let list = kubectl.raw(&format!("{}/apis/apps/v1/deployments", shared::CACHE)).await?;
            ensure!(shared::origins(&list).is_empty(), "{list}");
            Ok(())
        })
        .await
    })
}

#[test]
fn an_etcd_that_doesnt_know_us_says_so_in_readyz_and_nowhere_else() -> Result<()> {
    run(async || {
        let stage = Stage::start(&Plan { members: 0, fleetglass: false, ..Plan::default() }).await?;
        let etcd = SecureCluster::start(stage.folder(), 1).await?;
        let (_, serving) = serving_pair(stage.folder())?;
        let kubeconfig = stage.kubectl()?.kubeconfig().display().to_string();
        let port = free_port()?;
        let arguments = [
            "serve".to_owned(),
            format!("--kubeconfig={kubeconfig}"),
            format!("--etcd-servers={}", etcd.urls.join(",")),
            format!("--etcd-cafile={}", etcd.authority.display()),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            format!("--tls-cert-file={}", serving.certificate.display()),
            format!("--tls-private-key-file={}", serving.key.display()),
        ];
        let mut server = Server::start("unknown-to-etcd", &program()?, arguments, stage.folder())?;
        let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build()?;
        let ask = async |path: &str| -> Result<(u16, String)> {
            let answer = client.get(format!("https://127.0.0.1:{port}{path}")).send().await?;
            Ok((answer.status().as_u16(), answer.text().await?))
        };
        server.until(Duration::from_secs(60), async || ask("/livez").await.map(drop)).await?;
        assert_eq!(ask("/livez").await?.0, 200);
        let (code, text) = ask("/readyz").await?;
        ensure!(code == 500 && text.contains("[-]etcd failed"), "{text}");
        let (code, text) = ask("/readyz/etcd").await?;
        ensure!(code == 500 && text.contains("etcd"), "{text}");
        Ok(())
    })
}

/// Writes an encryption configuration of these providers, in their order.
fn encryption(folder: &Path, resources: &str, providers: &[&str]) -> Result<PathBuf> {
    let path = folder.join("encryption.yaml");
    let entries: String = providers.iter().map(|provider| format!("  - {provider}\n")).collect();
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n";
    std::fs::write(&path, format!("{head}- resources: ['{resources}']\n  providers:\n{entries}"))?;
    Ok(path)
}

const AESCBC: &str = "aescbc: {keys: [{name: one, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}";
const AESGCM: &str = "aesgcm: {keys: [{name: two, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}";
const SECRETBOX: &str = "secretbox: {keys: [{name: three, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}";

#[test]
fn what_a_real_api_server_encrypted_is_read_with_the_same_file() -> Result<()> {
    run(async || {
        let folder = tempfile::tempdir()?;
        let etcd = Etcd::start(folder.path()).await?;
        for (number, provider) in [AESCBC, AESGCM, SECRETBOX].into_iter().enumerate() {
            let name = format!("server-{number}");
            let path = encryption(folder.path(), "*.*", &[provider])?;
            let flag = format!("--encryption-provider-config={}", path.display());
            let options = Options { arguments: vec![flag], ..Options::default() };
            let server = ApiServer::start(&name, &etcd.url, folder.path(), options).await?;
            server.kubectl()?.run(&["create", "configmap", "read-me", "--from-literal=word=hidden"]).await?;
            let key = format!("/{name}/configmaps/default/read-me");
            let raw = etcd.get(&key).await?;
            ensure!(raw.starts_with(b"k8s:enc:"), "the API server did not encrypt");
            let encryption = Encryption::from_file(path)?.context("*.* speaks of registries too")?;
            let opened = encryption.open(&raw.into(), &key)?;
            ensure!(String::from_utf8_lossy(&opened.value).contains("hidden"), "{provider}");
        }
        Ok(())
    })
}

async fn raw_text(stage: &Stage) -> Result<String> {
    Ok(String::from_utf8_lossy(&stage.etcd.get(KEY).await?).into_owned())
}

async fn rewrite(kubectl: &Kubectl) -> Result<()> {
    let whole = kubectl.run(&["get", "resourceregistry", "deployments", "-o", "json"]).await?;
    // The field of a later version is none that kubectl finds in the schema.
    kubectl.run_with(&["replace", "--validate=ignore", "-f", "-"], &whole).await.map(drop)
}

#[test]
fn registries_are_encrypted_once_asked_for_and_keys_can_be_rotated() -> Result<()> {
    run(async || {
        let folder = tempfile::tempdir()?;
        let path = encryption(folder.path(), "resourceregistries.search.karmada.io", &[AESCBC, "identity: {}"])?;
        let arguments =
            vec!["--etcd-prefix=/registry".to_owned(), format!("--encryption-provider-config={}", path.display())];
        let plan = Plan { members: 0, applications: 0, pods: 0, arguments, ..Plan::default() };
        let mut stage = Stage::start(&plan).await?;
        let kubectl = stage.kubectl()?;
        stage.etcd.put(KEY, ORIGINAL).await?;
        // What was plain before is read, and encrypted with its next write, also by one that changes nothing.
        eventually(Duration::from_secs(60), async || {
            kubectl.run(&["get", "resourceregistry", "deployments"]).await.map(drop)
        })
        .await?;
        // The server writes its condition meanwhile, which may come between reading and replacing.
        eventually(Duration::from_secs(60), async || rewrite(&kubectl).await).await?;
        let raw = raw_text(&stage).await?;
        ensure!(raw.starts_with("k8s:enc:aescbc:v1:one:") && !raw.contains("apps/v1"), "{raw}");

        encryption(folder.path(), "resourceregistries.search.karmada.io", &[SECRETBOX, AESCBC])?;
        stage.fleetglass_mut()?.kill_and_restart().await?;
        eventually(Duration::from_secs(60), async || rewrite(&kubectl).await).await?;
        let raw = raw_text(&stage).await?;
        ensure!(raw.starts_with("k8s:enc:secretbox:v1:three:"), "{raw}");
        kubectl.apply(&registry("another", &[], &["v1/Pod"]).to_string()).await?;
        let names = kubectl.run(&["get", "resourceregistries", "-o", "name"]).await?;
        assert_eq!(names.lines().count(), 2, "{names}");
        Ok(())
    })
}

#[test]
fn a_provider_that_is_not_there_ends_the_start_with_its_name() -> Result<()> {
    run(async || {
        let folder = tempfile::tempdir()?;
        let kms = "kms: {apiVersion: v2, name: vault, endpoint: 'unix:///tmp/kms.sock'}";
        let path = encryption(folder.path(), "*.search.karmada.io", &[kms])?;
        std::fs::create_dir(folder.path().join("clusters"))?;
        let arguments = vec![
            "serve".to_owned(),
            format!("--members=snapshot:{}", folder.path().join("clusters").display()),
            format!("--data-dir={}", folder.path().display()),
            format!("--secure-port={}", free_port()?),
            format!("--encryption-provider-config={}", path.display()),
        ];
        let authority = serving_pair(folder.path())?.0;
        let started = Fleetglass::start(&program()?, folder.path().to_path_buf(), authority, 1, arguments).await;
        let error = format!("{:#}", started.err().context("it started")?);
        ensure!(error.contains("kms is not supported") && error.contains("providers[0]"), "{error}");
        Ok(())
    })
}
