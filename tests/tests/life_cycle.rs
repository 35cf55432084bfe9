//! Registries and clusters come, change and go; answers follow within moments, and what stays is never blank.

mod shared;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use shared::{CACHE, on_stage, origins, run};
use tests::api_server::{ADMIN_TOKEN, Options};
use tests::eventually;
use tests::karmada::{NAMESPACE, registry};
use tests::kubectl::Kubectl;
use tests::stage::{Plan, Stage};

/// Long before this, every change shows in answers; on a busy machine it may take its time.
const SOON: Duration = Duration::from_secs(60);

async fn read(kubectl: &Kubectl, path: &str) -> Result<Vec<String>> {
    Ok(origins(&kubectl.raw(&format!("{CACHE}{path}")).await?))
}

/// Waits until a list has exactly these objects.
async fn shows(kubectl: &Kubectl, path: &str, expected: &[&str]) -> Result<()> {
    eventually(SOON, async || {
        let found = read(kubectl, path).await?;
        ensure!(found == expected, "{path} shows {found:?} instead of {expected:?}");
        Ok(())
    })
    .await
}

async fn ready_message(kubectl: &Kubectl, name: &str) -> Result<String> {
    let path = "jsonpath={.status.conditions[0].status} {.status.conditions[0].reason} {.status.conditions[0].message}";
    kubectl.run(&["get", "resourceregistry", name, "-o", path]).await
}

#[test]
fn a_registry_fills_narrows_and_empties_the_cache() -> Result<()> {
    on_stage(async |stage| {
        let kubectl = stage.kubectl()?;
        let path = "/api/v1/namespaces/team-000/services";
        kubectl.apply(&registry("services", &["member1", "member2"], &["v1/Service"]).to_string()).await?;
        let both = ["member1/app-000", "member2/app-000", "member1/app-002", "member2/app-002"];
        shows(&kubectl, path, &both).await?;
        kubectl.apply(&registry("services", &["member2"], &["v1/Service"]).to_string()).await?;
        shows(&kubectl, path, &["member2/app-000", "member2/app-002"]).await?;
        let mut narrowed = registry("services", &["member2"], &["v1/Service"]);
        narrowed["spec"]["resourceSelectors"][0]["namespace"] = json!("team-001");
        kubectl.apply(&narrowed.to_string()).await?;
        shows(&kubectl, path, &[]).await?;
        shows(&kubectl, "/api/v1/services", &["member2/app-001", "member2/app-003"]).await?;
        kubectl.run(&["delete", "resourceregistry", "services"]).await?;
        shows(&kubectl, "/api/v1/services", &[]).await
    })
}

#[test]
fn a_list_that_is_not_to_be_older_than_a_write_shows_the_write() -> Result<()> {
    on_stage(async |stage| {
        let kubectl = stage.kubectl()?;
        kubectl.apply(&registry("fresh", &["member2"], &["v1/ConfigMap"]).to_string()).await?;
        let path = "/api/v1/namespaces/team-001/configmaps?cluster=member2";
        shows(&kubectl, path, &["member2/app-001", "member2/app-003"]).await?;
        let member = stage.members.get(1).context("no second member")?.kubectl()?;
        let at_least = |version: &str| {
            let version = URL_SAFE_NO_PAD.encode(json!({ "member2": version }).to_string());
            format!("{path}&resourceVersionMatch=NotOlderThan&resourceVersion={version}")
        };
        for turn in 0..20 {
            let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": { "turn": turn.to_string() },
                "metadata": { "name": "fresh", "namespace": "team-001" } });
            member.apply(&map.to_string()).await?;
            let written = member.raw("/api/v1/namespaces/team-001/configmaps/fresh").await?;
            let version = written["metadata"]["resourceVersion"].as_str().context("no version")?;
            let list = kubectl.raw(&format!("{CACHE}{}", at_least(version))).await?;
            let shown = list["items"].as_array().context("no items")?.iter();
            let turns: Vec<&Value> = shown.filter_map(|item| item["data"].get("turn")).collect();
            assert_eq!(turns, [&json!(turn.to_string())]);
        }
        // What no cluster has come to is not waited for for ever.
        let refused = kubectl.run(&["get", "--raw", &format!("{CACHE}{}", at_least("999999999999"))]).await;
        let told = refused.err().context("a version that nobody has reached")?.to_string();
        ensure!(told.contains("Too large resource version: 999999999999"), "{told}");
        // client-go takes its cause as the reason to list again without a version.
        let url = format!("{}{CACHE}{}", stage.control_plane.url, at_least("999999999999"));
        let answer = stage.control_plane.client()?.get(url).bearer_auth(ADMIN_TOKEN).send().await?;
        assert_eq!(answer.status().as_u16(), 504);
        let status: Value = serde_json::from_str(&answer.text().await?)?;
        assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge", "{status}");
        member.run(&["delete", "configmap", "-n", "team-001", "fresh"]).await?;
        kubectl.run(&["delete", "resourceregistry", "fresh"]).await.map(drop)
    })
}

#[test]
fn editing_a_registry_never_blanks_what_stays_selected() -> Result<()> {
    on_stage(async |stage| {
        let kubectl = stage.kubectl()?;
        let manifest = |kinds: &[&str]| registry("edited", &["member1"], kinds).to_string();
        kubectl.apply(&manifest(&["v1/ConfigMap"])).await?;
        let path = "/api/v1/namespaces/team-000/configmaps?cluster=member1";
        let expected = ["member1/app-000", "member1/app-002"];
        shows(&kubectl, path, &expected).await?;
        let url = format!("{}{CACHE}{path}", stage.control_plane.url);
        let client = stage.control_plane.client()?;
        let edits = async {
            for kinds in [&["v1/ConfigMap", "v1/Node"][..], &["v1/ConfigMap", "apps/v1/ReplicaSet"], &["v1/ConfigMap"]]
            {
                kubectl.apply(&manifest(kinds)).await?;
                tokio::time::sleep(Duration::from_millis(700)).await;
            }
            anyhow::Ok(())
        };
        let reading = async {
            let mut answers = 0_usize;
            loop {
                let list: Value = client.get(&url).bearer_auth(ADMIN_TOKEN).send().await?.json().await?;
                ensure!(origins(&list) == expected, "answer {answers} was {list}");
                answers += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            #[expect(unreachable_code, reason = "gives the endless loop its type")]
            anyhow::Ok(())
        };
        tokio::select! {
            edited = edits => edited,
            failed = reading => failed,
        }
    })
}

#[test]
fn a_cluster_is_selected_by_its_labels_and_comes_and_goes_with_them() -> Result<()> {
    on_stage(async |stage| {
        let kubectl = stage.kubectl()?;
        let mut selecting = registry("labelled", &[], &["v1/ReplicationController", "v1/Namespace"]);
        selecting["spec"]["targetCluster"] = json!({ "labelSelector": { "matchLabels": { "fleet": "north" } } });
        kubectl.apply(&selecting.to_string()).await?;
        let path = "/api/v1/namespaces/team-000";
        shows(&kubectl, path, &[]).await?;
        eventually(SOON, async || {
            let message = ready_message(&kubectl, "labelled").await?;
            ensure!(message.starts_with("False NoClusterSelected"), "{message}");
            Ok(())
        })
        .await?;
        stage.karmada.label("member2", "fleet=north").await?;
        shows(&kubectl, path, &["member2/team-000"]).await?;
        stage.karmada.label("member2", "fleet-").await?;
        shows(&kubectl, path, &[]).await
    })
}

#[test]
fn a_member_that_is_not_ready_keeps_its_data_with_a_warning_that_names_it() -> Result<()> {
    on_stage(async |stage| {
        let kubectl = stage.kubectl()?;
        kubectl.apply(&registry("health", &["member2"], &["apps/v1/Deployment"]).to_string()).await?;
        let path = "/apis/apps/v1/namespaces/team-000/deployments?cluster=member2";
        shows(&kubectl, path, &["member2/app-000", "member2/app-002"]).await?;
        stage.karmada.set_ready("member2", false).await?;
        let raw = format!("{CACHE}{path}");
        let warned = eventually(SOON, async || {
            let output = kubectl.try_run(&["get", "--raw", &raw], "").await?;
            ensure!(output.stderr.contains("cluster member2 out of touch since 20"), "{}", output.stderr);
            Ok(output)
        })
        .await?;
        assert_eq!(origins(&serde_json::from_str(&warned.stdout)?), ["member2/app-000", "member2/app-002"]);
        ensure!(warned.stderr.contains("showing its 4 objects as last seen"), "{}", warned.stderr);
        eventually(SOON, async || {
            let message = ready_message(&kubectl, "health").await?;
            ensure!(message.starts_with("False OutOfTouch") && message.contains("member2"), "{message}");
            Ok(())
        })
        .await?;
        stage.karmada.set_ready("member2", true).await?;
        eventually(SOON, async || {
            let output = kubectl.try_run(&["get", "--raw", &raw], "").await?;
            ensure!(output.success && !output.stderr.contains("member2"), "{}", output.stderr);
            let message = ready_message(&kubectl, "health").await?;
            ensure!(message.starts_with("True Synced"), "{message}");
            Ok(())
        })
        .await
    })
}

#[test]
fn a_member_that_dies_is_shown_as_last_seen_and_catches_up_when_it_is_back() -> Result<()> {
    run(async || {
        let mut stage =
            Stage::start(&Plan { members: 1, applications: 1, pods: 0, fleetglass: true, ..Plan::default() }).await?;
        let kubectl = stage.kubectl()?;
        kubectl.apply(&registry("all", &[], &["v1/ConfigMap"]).to_string()).await?;
        let path = "/api/v1/namespaces/team-000/configmaps";
        shows(&kubectl, path, &["member1/app-000"]).await?;
        let dead = stage.members.pop().context("no member")?.kill();
        let raw = format!("{CACHE}{path}");
        eventually(Duration::from_secs(60), async || {
            let output = kubectl.try_run(&["get", "--raw", &raw], "").await?;
            ensure!(output.stderr.contains("cluster member1 out of touch since 20"), "{}", output.stderr);
            ensure!(origins(&serde_json::from_str(&output.stdout)?) == ["member1/app-000"]);
            Ok(())
        })
        .await?;
        let query = "/apis/search.karmada.io/v1alpha1/search/query?q=kind:ConfigMap";
        let told = kubectl.raw(&format!("{query}&explain=member1/team-000/ConfigMap/later")).await?;
        let reason = told["reasons"][0].as_str().unwrap_or_default();
        ensure!(told["matches"] == false && reason.contains("is out of touch"), "{told}");
        let member = dead.restart().await?;
        member.kubectl()?.run(&["-n", "team-000", "create", "configmap", "later"]).await?;
        shows(&kubectl, path, &["member1/app-000", "member1/later"]).await
    })
}

#[test]
fn a_cluster_joins_rotates_its_token_and_leaves() -> Result<()> {
    on_stage(async |stage| {
        let kubectl = stage.kubectl()?;
        kubectl.apply(&registry("joiners", &["joiner"], &["v1/Secret"]).to_string()).await?;
        let member = stage.further_member("joiner", Options::default()).await?;
        let own = member.kubectl()?;
        let secret = |name: &str| json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": "default" } });
        own.apply(&secret("one").to_string()).await?;
        stage.karmada.join(&member).await?;
        let path = "/api/v1/namespaces/default/secrets?labelSelector=!none";
        shows(&kubectl, path, &["joiner/one"]).await?;
        stage.karmada.set_secret("joiner", "wrong-token", Some(&member.authority)).await?;
        eventually(SOON, async || {
            let output = kubectl.try_run(&["get", "--raw", &format!("{CACHE}{path}")], "").await?;
            ensure!(output.stderr.contains("joiner out of touch"), "{}", output.stderr);
            Ok(())
        })
        .await?;
        own.apply(&secret("two").to_string()).await?;
        stage.karmada.set_secret("joiner", ADMIN_TOKEN, Some(&member.authority)).await?;
        shows(&kubectl, path, &["joiner/one", "joiner/two"]).await?;
        stage.karmada.unjoin("joiner").await?;
        shows(&kubectl, path, &[]).await?;
        kubectl.run(&["delete", "resourceregistry", "joiners"]).await.map(drop)
    })
}

#[test]
fn members_that_hang_or_lie_delay_no_other() -> Result<()> {
    on_stage(async |stage| {
        let kubectl = stage.kubectl()?;
        let mute = mute_server().await?;
        stage.karmada.join_as("mute", &format!("https://127.0.0.1:{mute}"), ADMIN_TOKEN, None).await?;
        stage.karmada.join_as("nobody-there", "https://127.0.0.1:1", ADMIN_TOKEN, None).await?;
        stage.karmada.join_as("no-url", "://", ADMIN_TOKEN, None).await?;
        kubectl.run(&["-n", NAMESPACE, "delete", "secret", "no-url"]).await?;
        let clusters = ["member1", "mute", "nobody-there", "no-url"];
        kubectl.apply(&registry("sick", &clusters, &["v1/Endpoints", "v1/Service"]).to_string()).await?;
        shows(
            &kubectl,
            "/api/v1/namespaces/team-000/services?cluster=member1",
            &["member1/app-000", "member1/app-002"],
        )
        .await?;
        let path = format!("{CACHE}/api/v1/services");
        eventually(SOON, async || {
            let output = kubectl.try_run(&["get", "--raw", &path], "").await?;
            for cluster in ["mute", "nobody-there", "no-url"] {
                ensure!(output.stderr.contains(&format!("cluster {cluster} ")), "{cluster}: {}", output.stderr);
            }
            let message = ready_message(&kubectl, "sick").await?;
            ensure!(message.starts_with("False OutOfTouch") && message.contains("nobody-there"), "{message}");
            Ok(())
        })
        .await?;
        let status = kubectl.raw("/apis/search.karmada.io/v1alpha1/search/status").await?;
        let errors = status["items"].as_array().context("no items")?.iter().filter(|item| item["cluster"] == "no-url");
        ensure!(errors.clone().count() > 0 && errors.clone().all(|item| !item["error"].is_null()), "{status}");
        kubectl.run(&["delete", "resourceregistry", "sick"]).await?;
        for cluster in ["mute", "nobody-there", "no-url"] {
            stage.karmada.unjoin(cluster).await?;
        }
        Ok(())
    })
}

/// A port that accepts connections and never says a word.
async fn mute_server() -> Result<u16> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            held.push(socket);
        }
    });
    Ok(port)
}
