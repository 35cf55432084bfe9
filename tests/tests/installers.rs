//! Fleetglass where operators put it: in each of Karmada's installers, and from its own manifests and chart.

mod shared;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shared::{CACHE, origins, run};
use tests::api_server::{ADMIN_TOKEN, NOBODY_TOKEN, SEARCH_TOKEN};
use tests::etcd::SecureCluster;
use tests::eventually;
use tests::fleetglass::{Fleetglass, program, serve_arguments, serving_pair};
use tests::installers::{Installer, Provided};
use tests::karmada::registry;
use tests::kubectl::Kubectl;
use tests::parts::{Part, find};
use tests::process::free_port;
use tests::stage::{Plan, Stage};

fn deploy() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace's folder")?.join("deploy"))
}

async fn stage() -> Result<Stage> {
    Stage::start(&Plan { members: 1, applications: 2, pods: 0, fleetglass: false, ..Plan::default() }).await
}

/// The program under the name that installers' command lines call it by.
fn drop_in(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("bin/karmada-search");
    std::fs::create_dir_all(folder.join("bin"))?;
    std::os::unix::fs::symlink(program()?, &path)?;
    Ok(path)
}

async fn shows_both_deployments(kubectl: &Kubectl) -> Result<()> {
    eventually(Duration::from_secs(60), async || {
        let list = kubectl.raw(&format!("{CACHE}/apis/apps/v1/deployments")).await?;
        ensure!(origins(&list) == ["member1/app-000", "member1/app-001"], "{list}");
        Ok(())
    })
    .await
}

#[test]
fn each_installers_argument_list_starts_it_on_the_registries_that_the_last_one_left() -> Result<()> {
    run(async || {
        let stage = stage().await?;
        let etcd = SecureCluster::start(stage.folder(), 1).await?;
        let (authority, serving) = serving_pair(stage.folder())?;
        let program = drop_in(stage.folder())?;
        let kubectl = stage.kubectl()?;
        for (number, installer) in Installer::ALL.into_iter().enumerate() {
            let root = stage.folder().join(format!("{installer:?}"));
            std::fs::create_dir_all(&root)?;
            let provided = Provided { kubeconfig: kubectl.kubeconfig(), serving: &serving, etcd: &etcd };
            let mut arguments = installer.lay_out(&root, &provided)?;
            let port = free_port()?;
            arguments.push(format!("--secure-port={port}"));
            // It is ready before the control plane has ever heard of it.
            let started = Fleetglass::start(&program, root, authority.clone(), port, arguments).await?;
            started.register(&stage.control_plane).await?;
            let client = started.client()?;
            for path in ["livez", "readyz", "healthz", "readyz/poststarthook/start-karmada-informers"] {
                let answer = client.get(format!("{}/{path}", started.url)).send().await?;
                ensure!(answer.status().is_success(), "{installer:?} {path}: {}", answer.status());
            }
            if number == 0 {
                kubectl.apply(&registry("kept", &[], &["apps/v1/Deployment"]).to_string()).await?;
            }
            shows_both_deployments(&kubectl).await.with_context(|| format!("{installer:?}"))?;
            let log = started.log()?;
            ensure!(!log.contains("ERROR") && log.contains("serving"), "{installer:?}: {log}");
            started.stop()?;
        }
        Ok(())
    })
}

/// `helm template` of the chart with these settings.
fn render(settings: &[&str]) -> Result<String> {
    let mut command = Command::new(find(Part::Helm)?);
    command.args(["template", "fleetglass"]).arg(deploy()?.join("chart"));
    for setting in settings {
        command.args(["--set", setting]);
    }
    let output = command.output()?;
    ensure!(output.status.success(), "helm: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

const CONTROL_PLANE: [&str; 3] = ["parts.host=false", "parts.controlPlane=true", "controlPlane.caBundle=${CA_BUNDLE}"];

#[test]
fn the_plain_manifests_are_what_the_chart_renders() -> Result<()> {
    for (file, settings) in [("host.yaml", &[][..]), ("control-plane.yaml", &CONTROL_PLANE)] {
        let path = deploy()?.join("manifests").join(file);
        let kept = std::fs::read_to_string(&path)?;
        let rendered = render(settings)?;
        let hint = "run `helm template` as deploy/README.md says";
        ensure!(kept == rendered, "{} is not what the chart renders: {hint}", path.display());
    }
    Ok(())
}

#[test]
fn a_real_api_server_takes_every_form_of_the_chart() -> Result<()> {
    run(async || {
        let stage = stage().await?;
        let kubectl = stage.kubectl()?;
        kubectl.run(&["create", "namespace", "karmada-system"]).await?;
        let forms: [&[&str]; 5] = [
            &[],
            &["search.replicaCount=1"],
            &["etcd.mode=external", "etcd.external.servers=https://etcd:2379", "search.image.registry=example.org"],
            &["search.extraArgs={--v=4,--otlp-endpoint=http://collector:4317}", "search.nodeSelector.disk=fast"],
            &[
                "parts.host=false",
                "parts.controlPlane=true",
                "controlPlane.caBundle=Cg==",
                "controlPlane.readers={a,b}",
                "controlPlane.backendSecrets[0].namespace=karmada-system",
                "controlPlane.backendSecrets[0].name=opensearch",
            ],
        ];
        for form in forms {
            let manifests = render(form)?;
            let dry_run = ["create", "--dry-run=server", "--validate=strict", "-o", "name", "-f", "-"];
            let taken = kubectl.run_with(&dry_run, &manifests).await.with_context(|| format!("{form:?}"))?;
            let has_budget = taken.contains("poddisruptionbudget.policy/karmada-search");
            assert_eq!(has_budget, !form.contains(&"search.replicaCount=1") && !form.contains(&CONTROL_PLANE[0]));
        }
        let refused = render(&["parts.controlPlane=true"]).unwrap_err().to_string();
        ensure!(refused.contains("controlPlane.caBundle is needed"), "{refused}");
        Ok(())
    })
}

#[test]
fn the_permissions_that_the_manifests_give_are_enough() -> Result<()> {
    run(async || {
        let stage = stage().await?;
        let kubectl = stage.kubectl()?;
        let (authority, serving) = serving_pair(stage.folder())?;
        let port = free_port()?;
        let bundle = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &authority);
        let manifests = std::fs::read_to_string(deploy()?.join("manifests/control-plane.yaml"))?;
        kubectl.run(&["create", "namespace", "karmada-system"]).await?;
        kubectl.apply(&manifests.replace("${CA_BUNDLE}", &bundle)).await?;
        // The only things that differ between a cluster's network and loopback.
        let service = format!(r#"{{"spec":{{"externalName":"localhost","ports":[{{"port":{port}}}]}}}}"#);
        kubectl
            .run(&["patch", "service", "karmada-search", "-n", "karmada-system", "--type=merge", "--patch", &service])
            .await?;
        let api_service = format!(r#"{{"spec":{{"service":{{"port":{port}}}}}}}"#);
        kubectl
            .run(&["patch", "apiservice", "v1alpha1.search.karmada.io", "--type=merge", "--patch", &api_service])
            .await?;
        let member = stage.members.first().context("no member")?;
        member.kubectl()?.apply(&std::fs::read_to_string(deploy()?.join("manifests/member.yaml"))?).await?;
        let bind = ["create", "clusterrolebinding", "fleetglass", "--clusterrole=fleetglass", "--user=nobody"];
        member.kubectl()?.run(&bind).await?;
        stage.karmada.set_secret("member1", NOBODY_TOKEN, Some(&member.authority)).await?;

        let own = stage.control_plane.kubectl_as("karmada-search", SEARCH_TOKEN)?;
        let arguments = serve_arguments(own.kubeconfig(), &stage.etcd.url, "registry", port, &serving);
        let folder = stage.folder().join("few-permissions");
        std::fs::create_dir_all(&folder)?;
        let started = Fleetglass::start(&program()?, folder, authority, port, arguments).await?;
        let wait = ["wait", "--for=condition=Available", "apiservice/v1alpha1.search.karmada.io", "--timeout=120s"];
        kubectl.run(&wait).await?;
        kubectl.apply(&registry("few", &[], &["apps/v1/Deployment"]).to_string()).await?;
        shows_both_deployments(&kubectl).await?;
        kubectl.run(&["wait", "--for=condition=Ready", "resourceregistry/few", "--timeout=120s"]).await?;

        let nobody = stage.control_plane.kubectl_as("nobody", NOBODY_TOKEN)?;
        let path = format!("{CACHE}/apis/apps/v1/deployments");
        let refused = nobody.try_run(&["get", "--raw", &path], "").await?;
        ensure!(refused.stderr.contains("(Forbidden)"), "{}", refused.stderr);
        kubectl
            .run(&["create", "clusterrolebinding", "reader", "--clusterrole=fleetglass:reader", "--user=nobody"])
            .await?;
        shows_both_deployments(&nobody).await?;
        nobody.raw("/apis/search.karmada.io/v1alpha1/search/status").await?;
        let log = started.log()?;
        ensure!(!log.to_lowercase().contains("forbidden"), "{log}");
        Ok(())
    })
}

#[test]
fn two_replicas_answer_alike_and_do_not_quarrel_over_conditions() -> Result<()> {
    run(async || {
        let stage = Stage::start(&Plan { members: 1, applications: 2, pods: 0, ..Plan::default() }).await?;
        let (authority, serving) = serving_pair(stage.folder())?;
        let kubectl = stage.kubectl()?;
        let port = free_port()?;
        let prefix = &stage.control_plane.name;
        let arguments = serve_arguments(kubectl.kubeconfig(), &stage.etcd.url, prefix, port, &serving);
        let folder = stage.folder().join("second-replica");
        std::fs::create_dir_all(&folder)?;
        let second = Fleetglass::start(&program()?, folder, authority, port, arguments).await?;
        kubectl.apply(&registry("shared", &[], &["apps/v1/Deployment", "v1/Node"]).to_string()).await?;
        kubectl.run(&["wait", "--for=condition=Ready", "resourceregistry/shared", "--timeout=120s"]).await?;
        shows_both_deployments(&kubectl).await?;
        let replicas = [stage.fleetglass()?, &second];
        eventually(Duration::from_secs(120), async || {
            let lists = futures::future::try_join_all(replicas.map(async |replica| -> Result<_> {
                let url = format!("{}{CACHE}/apis/apps/v1/deployments", replica.url);
                let answer = replica.client()?.get(url).bearer_auth(ADMIN_TOKEN).send().await?.error_for_status()?;
                Ok(answer.json::<serde_json::Value>().await?)
            }))
            .await?;
            ensure!(lists[0]["items"] == lists[1]["items"] && origins(&lists[1]).len() == 2, "{lists:?}");
            Ok(())
        })
        .await?;
        let version = || async {
            kubectl.run(&["get", "resourceregistry", "shared", "-o", "jsonpath={.metadata.resourceVersion}"]).await
        };
        // Replicas that quarrel never come to rest.
        eventually(Duration::from_secs(60), async || {
            let before = version().await?;
            tokio::time::sleep(Duration::from_secs(5)).await;
            let after = version().await?;
            ensure!(before == after, "written although nothing changed: {before}, {after}");
            Ok(())
        })
        .await
    })
}
