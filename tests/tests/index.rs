//! The search index of a whole server: fresh, kept through kills, thrown away when it is damaged or too large.

mod shared;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shared::{origins, run};
use tests::api_server::ADMIN_TOKEN;
use tests::eventually;
use tests::karmada::registry;
use tests::stage::{Plan, Stage};

const QUERY: &str = "/apis/search.karmada.io/v1alpha1/search/query";
const STATUS: &str = "/apis/search.karmada.io/v1alpha1/search/status";
const APPLICATIONS: usize = 6;
const PODS: usize = 10;
const HELD: f64 = (APPLICATIONS * PODS + APPLICATIONS) as f64;

/// A stage whose Fleetglass holds pods and deployments of one member.
async fn stage(further: &[String]) -> Result<Stage> {
    let arguments = further.to_vec();
    let stage =
        Stage::start(&Plan { members: 1, applications: APPLICATIONS, pods: PODS, arguments, ..Plan::default() })
            .await?;
    let kubectl = stage.kubectl()?;
    kubectl.apply(&registry("all", &[], &["v1/Pod", "apps/v1/Deployment"]).to_string()).await?;
    kubectl.run(&["wait", "--for=condition=Ready", "resourceregistry/all", "--timeout=120s"]).await?;
    Ok(stage)
}

async fn metric(stage: &Stage, name: &str) -> Result<f64> {
    let fleetglass = stage.fleetglass()?;
    let request = fleetglass.client()?.get(format!("{}/metrics", fleetglass.url)).bearer_auth(ADMIN_TOKEN);
    let text = request.send().await?.text().await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).context("no such metric")?;
    Ok(line.parse()?)
}

async fn until_indexed(stage: &Stage, objects: f64) -> Result<()> {
    eventually(Duration::from_secs(60), async || {
        let (held, waiting) =
            (metric(stage, "fleetglass_index_objects").await?, metric(stage, "fleetglass_index_queue_length").await?);
        ensure!((held, waiting) == (objects, 0.0), "{held} objects in the index, {waiting} changes waiting");
        Ok(())
    })
    .await
}

async fn found(stage: &Stage, query: &str) -> Result<Vec<String>> {
    let query: String =
        form_urlencoded::Serializer::new(String::new()).append_pair("q", query).append_pair("limit", "1000").finish();
    Ok(origins(&stage.kubectl()?.raw(&format!("{QUERY}?{query}")).await?))
}

async fn index_state(stage: &Stage) -> Result<Value> {
    Ok(stage.kubectl()?.raw(STATUS).await?["index"].clone())
}

#[test]
fn what_is_asked_is_fresh_and_after_a_kill_only_what_differs_is_taken_in_again() -> Result<()> {
    run(async || {
        let folder = tempfile::tempdir()?;
        let mut stage = stage(&[format!("--search-index-dir={}", folder.path().display())]).await?;
        until_indexed(&stage, HELD).await?;
        assert_eq!(found(&stage, "label.app:app-003 kind:Pod").await?.len(), PODS);
        assert_eq!(found(&stage, "kind:Deployment image:*app-003*").await?, ["member1/app-003"]);
        let member = stage.members.first().context("no member")?.kubectl()?;
        let patch = r#"{"metadata":{"labels":{"owner-team":"blue"}}}"#;
        let change = ["patch", "deployment", "app-001", "-n", "team-001", "--type=merge", "--patch", patch];
        member.run(&change).await?;
        // Long before a commit of the index, and then from it.
        eventually(Duration::from_secs(60), async || {
            ensure!(found(&stage, "label.owner-team:blue").await? == ["member1/app-001"]);
            Ok(())
        })
        .await?;
        until_indexed(&stage, HELD).await?;
        assert_eq!(found(&stage, "label.owner-team:blue").await?, ["member1/app-001"]);

        stage.fleetglass_mut()?.kill()?;
        member.run(&["delete", "deployment", "app-002", "-n", "team-000"]).await?;
        member.run(&["label", "deployment", "app-004", "-n", "team-000", "owner-team=blue"]).await?;
        stage.fleetglass_mut()?.restart().await?;
        eventually(Duration::from_secs(60), async || {
            let blue = found(&stage, "label.owner-team:blue").await?;
            // In the order of namespaces.
            ensure!(blue == ["member1/app-004", "member1/app-001"], "{blue:?}");
            Ok(())
        })
        .await?;
        until_indexed(&stage, HELD - 1.0).await?;
        assert_eq!(found(&stage, "kind:Deployment").await?.len(), APPLICATIONS - 1);
        let taken_in = metric(&stage, "fleetglass_index_additions_total").await?;
        ensure!(taken_in < 5.0, "{taken_in} objects were taken in although nearly all were there");
        assert_eq!(index_state(&stage).await?["state"], "Following");
        Ok(())
    })
}

/// A file of the index that holds terms.
fn file_of_terms(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let mut folders = Vec::new();
    for path in entries {
        match path.extension() {
            Some(extension) if extension == "term" => return Some(path),
            _ if path.is_dir() => folders.push(path),
            _ => {}
        }
    }
    folders.iter().find_map(|folder| file_of_terms(folder))
}

#[test]
fn a_damaged_index_is_built_anew_while_queries_are_answered() -> Result<()> {
    run(async || {
        let folder = tempfile::tempdir()?;
        let mut stage = stage(&[format!("--search-index-dir={}", folder.path().display())]).await?;
        until_indexed(&stage, HELD).await?;
        stage.fleetglass_mut()?.kill()?;
        let path = file_of_terms(folder.path()).context("no terms")?;
        let mut bytes = std::fs::read(&path)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        std::fs::write(&path, bytes)?;
        stage.fleetglass_mut()?.restart().await?;
        eventually(Duration::from_secs(60), async || {
            let pods = found(&stage, "label.app:app-003 kind:Pod").await?;
            ensure!(pods.len() == PODS, "{pods:?}");
            Ok(())
        })
        .await?;
        until_indexed(&stage, HELD).await?;
        ensure!(metric(&stage, "fleetglass_index_rebuilds_total").await? >= 1.0, "nobody was told");
        ensure!(stage.fleetglass()?.log()?.contains("thrown away"), "the log says nothing");
        Ok(())
    })
}

#[test]
fn an_index_that_may_not_grow_is_given_up_loudly_and_queries_are_answered_without_it() -> Result<()> {
    run(async || {
        let stage = stage(&["--search-index-disk=2Ki".to_owned()]).await?;
        eventually(Duration::from_secs(60), async || {
            let state = index_state(&stage).await?;
            let message = state["message"].as_str().unwrap_or_default();
            ensure!(state["state"] == "Failed" && message.contains("more than the 2048"), "{state}");
            Ok(())
        })
        .await?;
        assert_eq!(metric(&stage, "fleetglass_index_usable").await?, 0.0);
        assert_eq!(found(&stage, "label.app:app-003 kind:Pod").await?.len(), PODS);
        let log = stage.fleetglass()?.log()?;
        assert_eq!(log.lines().filter(|line| line.contains("queries look at each object")).count(), 1, "{log}");
        Ok(())
    })
}

#[test]
fn without_an_index_by_flag_queries_have_the_same_answers() -> Result<()> {
    run(async || {
        let stage = stage(&["--search-index=false".to_owned()]).await?;
        assert_eq!(index_state(&stage).await?["state"], "Off");
        assert_eq!(found(&stage, "label.app:app-003 kind:Pod").await?.len(), PODS);
        assert_eq!(found(&stage, "kind:Deployment image:*app-003*").await?, ["member1/app-003"]);
        Ok(())
    })
}
