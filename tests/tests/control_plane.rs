//! What being part of a control plane asks of an API service: nothing of the control plane's own work may suffer from it, and
//! it must live through the control plane's restarts.

mod shared;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shared::{CACHE, origins, run};
use tests::api_server::{ADMIN_TOKEN, Options};
use tests::controllers::Controllers;
use tests::eventually;
use tests::karmada::registry;
use tests::kubectl::Kubectl;
use tests::stage::{Plan, Stage};

async fn stage() -> Result<Stage> {
    Stage::start(&Plan { members: 1, applications: 1, pods: 0, ..Plan::default() }).await
}

async fn availability(kubectl: &Kubectl) -> Result<Value> {
    let service = kubectl.raw("/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.search.karmada.io").await?;
    let conditions = service["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == "Available").context("no condition")
}

#[test]
fn the_control_plane_shows_the_group_its_schemas_and_that_it_is_available() -> Result<()> {
    run(async || {
        let stage = stage().await?;
        let kubectl = stage.kubectl()?;
        let resources = kubectl.run(&["api-resources", "--api-group=search.karmada.io", "-o", "name"]).await?;
        assert_eq!(resources, "resourceregistries.search.karmada.io\nsearch.search.karmada.io\n");
        let everything = kubectl.try_run(&["api-resources"], "").await?;
        ensure!(everything.success && everything.stderr.is_empty(), "{}", everything.stderr);
        let client = stage.fleetglass()?.client()?;
        let answer = client.get(format!("{}/version", stage.fleetglass()?.url)).bearer_auth(ADMIN_TOKEN).send().await?;
        assert_eq!(answer.version(), reqwest::Version::HTTP_2);
        // The control plane asks a new server for its schemas when it comes to it.
        eventually(Duration::from_secs(90), async || {
            let v3 = kubectl.raw("/openapi/v3/apis/search.karmada.io/v1alpha1").await?;
            ensure!(v3["components"]["schemas"].to_string().contains("ResourceRegistrySpec"), "{v3}");
            let v2 = kubectl.raw("/openapi/v2").await?;
            ensure!(v2["definitions"].to_string().contains("v1alpha1.ResourceRegistrySpec"), "not in v2");
            Ok(())
        })
        .await?;
        // Looked at for longer than the control plane's own interval between looks.
        for _ in 0..35 {
            let available = availability(&kubectl).await?;
            ensure!(available["status"] == "True", "{available}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    })
}

#[test]
fn namespaces_end_and_garbage_is_collected_also_what_registries_own() -> Result<()> {
    run(async || {
        let stage = stage().await?;
        let kubectl = stage.kubectl()?;
        let _controllers = Controllers::start(&stage.control_plane, stage.folder())?;
        kubectl.run(&["create", "namespace", "doomed"]).await?;
        kubectl.run(&["create", "configmap", "inside", "-n", "doomed"]).await?;
        kubectl.run(&["delete", "namespace", "doomed", "--timeout=180s"]).await?;

        kubectl.apply(&registry("owner", &[], &["apps/v1/Deployment"]).to_string()).await?;
        let owner = kubectl.raw("/apis/search.karmada.io/v1alpha1/resourceregistries/owner").await?;
        let owned = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "owned", "namespace": "default",
                "ownerReferences": [{ "apiVersion": "search.karmada.io/v1alpha1", "kind": "ResourceRegistry",
                    "name": "owner", "uid": owner["metadata"]["uid"] }] },
        });
        kubectl.apply(&owned.to_string()).await?;
        // The collector first has to see that the owner is there: what has no owner is garbage at once.
        tokio::time::sleep(Duration::from_secs(5)).await;
        kubectl.run(&["get", "configmap", "owned"]).await?;
        kubectl.run(&["delete", "resourceregistry", "owner", "--cascade=background"]).await?;
        eventually(Duration::from_secs(180), async || {
            let gone = kubectl.try_run(&["get", "configmap", "owned"], "").await?;
            ensure!(gone.stderr.contains("(NotFound)"), "it is still there");
            Ok(())
        })
        .await
    })
}

#[test]
fn it_goes_on_following_after_the_control_plane_restarted() -> Result<()> {
    run(async || {
        let mut stage = stage().await?;
        let kubectl = stage.kubectl()?;
        kubectl.apply(&registry("lasting", &[], &["apps/v1/Deployment"]).to_string()).await?;
        let fleetglass = stage.fleetglass.take().context("no fleetglass")?;
        let url = format!("{}/apis/search.karmada.io/v1alpha1/resourceregistries?watch=true", fleetglass.url);
        let watch = fleetglass.client()?.get(url).timeout(Duration::from_secs(600)).bearer_auth(ADMIN_TOKEN);
        let mut watch = watch.send().await?;
        let further = stage.further_member("member2", Options::default()).await?;
        let Stage { control_plane, karmada, members, etcd: _etcd, .. } = &mut stage;
        let stopped = std::mem::replace(control_plane, members.pop().context("no member")?).kill();
        let read = async || -> Result<Vec<String>> {
            let list = fleetglass.client()?.get(format!("{}{CACHE}/apis/apps/v1/deployments", fleetglass.url));
            let list: Value = list.bearer_auth(ADMIN_TOKEN).send().await?.error_for_status()?.json().await?;
            Ok(origins(&list))
        };
        tokio::time::sleep(Duration::from_secs(3)).await;
        let restarted = stopped.restart().await?;
        karmada.join(&further).await?;
        further.kubectl()?.run(&["create", "deployment", "late", "--image=nginx"]).await?;
        eventually(Duration::from_secs(120), async || {
            let seen = read().await?;
            ensure!(seen == ["member2/late", "member1/app-000"], "{seen:?}");
            Ok(())
        })
        .await?;
        kubectl
            .run(&["wait", "--for=condition=Available", "apiservice/v1alpha1.search.karmada.io", "--timeout=120s"])
            .await?;
        kubectl.run(&["label", "resourceregistry", "lasting", "seen=yes"]).await?;
        let seen = async {
            let mut text = String::new();
            while let Some(chunk) = watch.chunk().await? {
                text += &String::from_utf8_lossy(&chunk);
                if text.contains("\"seen\":\"yes\"") {
                    return anyhow::Ok(());
                }
            }
            anyhow::bail!("the watch ended: {text}")
        };
        tokio::time::timeout(Duration::from_secs(60), seen).await??;
        drop(restarted);
        Ok(())
    })
}
