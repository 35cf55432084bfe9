//! A restart goes on from what is on disk: whatever ended the process, whatever happened meanwhile, whatever became of the files.

mod shared;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shared::{CACHE, origins, run};
use tests::api_server::ADMIN_TOKEN;
use tests::eventually;
use tests::karmada::registry;
use tests::kubectl::Kubectl;
use tests::stage::{Plan, Stage};

/// Long before this, what is to come is there.
const SOON: Duration = Duration::from_secs(60);
const STATUS: &str = "/apis/search.karmada.io/v1alpha1/search/status";
const CONFIG_MAPS: &str = "/api/v1/namespaces/team-000/configmaps";

/// A stage whose Fleetglass keeps its cache on disk.
struct Scene {
    stage: Stage,
    kubectl: Kubectl,
    _folder: tempfile::TempDir,
    cache: PathBuf,
}

impl Scene {
    async fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("fleetglass-warm-").tempdir()?;
        let cache = folder.path().join("cache");
        let arguments = vec![format!("--cache-dir={}", cache.display())];
        let stage = Stage::start(&Plan { arguments, ..Plan::default() }).await?;
        let kubectl = stage.kubectl()?;
        Ok(Self { stage, kubectl, _folder: folder, cache })
    }

    async fn follow(&self, kinds: &[&str]) -> Result<()> {
        self.kubectl.apply(&registry("all", &[], kinds).to_string()).await?;
        eventually(SOON, async || {
            let status = self.status().await?;
            let items = status["items"].as_array().context("no items")?;
            let synced = items.len() == 2 * kinds.len() && items.iter().all(|item| item["synced"] == true);
            ensure!(synced, "{status}");
            Ok(())
        })
        .await
    }

    async fn status(&self) -> Result<Value> {
        self.kubectl.raw(STATUS).await
    }

    /// Waits until what is there now is on disk, which is a matter of a second or two.
    async fn is_written(&self) -> Result<()> {
        let begun = jiff::Timestamp::now();
        let member = self.stage.members.first().context("no member")?.kubectl()?;
        let written = begun.as_second() + 1;
        eventually(SOON, async || {
            // Something must have changed for something to be written.
            let mark = json!({ "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": { "name": "mark", "namespace": "team-001" },
                "data": { "at": jiff::Timestamp::now().to_string() } });
            member.apply(&mark.to_string()).await?;
            let status = self.status().await?;
            let at: jiff::Timestamp = status["disk"]["written"].as_str().context("nothing written")?.parse()?;
            ensure!(at.as_second() > written, "{}", status["disk"]);
            Ok(())
        })
        .await
    }

    async fn shows(&self, path: &str, expected: &[&str]) -> Result<()> {
        eventually(SOON, async || {
            let found = origins(&self.kubectl.raw(&format!("{CACHE}{path}")).await?);
            ensure!(found == expected, "{path} shows {found:?} instead of {expected:?}");
            Ok(())
        })
        .await
    }

    fn kill(&mut self) -> Result<()> {
        self.stage.fleetglass_mut()?.kill()
    }

    async fn restart(&mut self) -> Result<()> {
        self.stage.fleetglass_mut()?.restart().await
    }

    async fn member(&self, number: usize, arguments: &[&str]) -> Result<String> {
        self.stage.members.get(number).context("no such member")?.kubectl()?.run(arguments).await
    }

    /// A metric of one cluster's resource.
    async fn metric(&self, name: &str, cluster: &str, resource: &str) -> Result<f64> {
        let fleetglass = self.stage.fleetglass()?;
        let request = fleetglass.client()?.get(format!("{}/metrics", fleetglass.url)).bearer_auth(ADMIN_TOKEN);
        let text = request.send().await?.text().await?;
        let is_it = |line: &&str| {
            line.starts_with(name)
                && line.contains(&format!("cluster=\"{cluster}\""))
                && line.contains(&format!("resource=\"{resource}\""))
        };
        let line = text.lines().find(is_it).with_context(|| format!("no {name} of {cluster}'s {resource}"))?;
        Ok(line.rsplit(' ').next().context("a number")?.parse()?)
    }

    /// Waits until the cache has of a member just what the member has, in the same versions.
    async fn is_as_member(&self, number: usize) -> Result<()> {
        let member = self.stage.members.get(number).context("no such member")?;
        let own = member.kubectl()?;
        let versions = |list: &Value| -> Vec<(String, String)> {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let items = list["items"].as_array().cloned().unwrap_or_default();
            items
                .iter()
                .map(|item| (text(&item["metadata"]["name"]), text(&item["metadata"]["resourceVersion"])))
                .collect()
        };
        eventually(SOON, async || {
            let expected = versions(&own.raw(CONFIG_MAPS).await?);
            let path = format!("{CACHE}{CONFIG_MAPS}?cluster={}", member.name);
            let found = versions(&self.kubectl.raw(&path).await?);
            ensure!(found == expected, "{found:?} instead of {expected:?}");
            Ok(())
        })
        .await
    }
}

const FIRST: [&str; 2] = ["member1/app-000", "member1/app-002"];

#[test]
fn after_a_kill_the_last_data_is_served_as_of_when_and_watches_go_on_where_they_were() -> Result<()> {
    run(async || {
        let mut scene = Scene::start().await?;
        scene.follow(&["v1/ConfigMap", "apps/v1/Deployment", "v1/Secret"]).await?;
        scene.is_written().await?;
        scene.kill()?;
        // Meanwhile one member goes on, and the other is away when we are back.
        scene.member(0, &["-n", "team-000", "create", "configmap", "later"]).await?;
        scene.member(0, &["-n", "team-000", "delete", "configmap", "app-002"]).await?;
        let away = scene.stage.members.pop().context("no member")?.kill();
        scene.restart().await?;
        let raw = format!("{CACHE}{CONFIG_MAPS}");
        // The control plane may have noticed that it was away; the first that it answers itself counts.
        let first = eventually(SOON, async || {
            let first = scene.kubectl.try_run(&["get", "--raw", &raw], "").await?;
            ensure!(first.success, "{}", first.stderr);
            Ok(first)
        })
        .await?;
        let found = origins(&serde_json::from_str(&first.stdout)?);
        ensure!(found.contains(&"member2/app-000".to_owned()), "the first answer has what was there: {found:?}");
        ensure!(first.stderr.contains("cluster member2 out of touch since 20"), "{}", first.stderr);
        ensure!(first.stderr.contains("objects as last seen"), "{}", first.stderr);
        scene.shows(CONFIG_MAPS, &["member1/app-000", "member2/app-000", "member2/app-002", "member1/later"]).await?;
        let status = scene.status().await?;
        ensure!(
            status["disk"]["state"] == "Keeping" && status["disk"]["restoredObjects"].as_u64() > Some(0),
            "{status}"
        );
        for resource in ["configmaps", "deployments"] {
            let lists = scene.metric("fleetglass_lists_total", "member1", resource).await?;
            ensure!(lists == 0.0, "{resource} were listed {lists} times instead of being watched on");
        }
        // What Secrets keep is never written; they are listed again.
        eventually(SOON, async || {
            let lists = scene.metric("fleetglass_lists_total", "member1", "secrets").await?;
            ensure!(lists > 0.0, "not listed yet");
            Ok(())
        })
        .await?;
        let kept: Vec<_> = std::fs::read_dir(scene.cache.join("fleetglass-cache"))?
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .collect();
        ensure!(kept.iter().all(|name| !name.to_string_lossy().contains("secrets")), "{kept:?}");
        let back = away.restart().await?;
        back.kubectl()?.run(&["-n", "team-000", "create", "configmap", "back"]).await?;
        scene.stage.members.push(back);
        let all = ["member1/app-000", "member2/app-000", "member2/app-002", "member2/back", "member1/later"];
        scene.shows(CONFIG_MAPS, &all).await?;
        eventually(SOON, async || {
            let answer = scene.kubectl.try_run(&["get", "--raw", &raw], "").await?;
            ensure!(!answer.stderr.contains("out of touch"), "{}", answer.stderr);
            Ok(())
        })
        .await
    })
}

#[test]
fn what_a_member_no_longer_remembers_is_listed_again_by_difference() -> Result<()> {
    run(async || {
        let mut scene = Scene::start().await?;
        scene.follow(&["v1/ConfigMap"]).await?;
        scene.is_written().await?;
        scene.kill()?;
        scene.member(0, &["-n", "team-000", "delete", "configmap", "app-002"]).await?;
        scene.member(0, &["-n", "team-000", "create", "configmap", "later"]).await?;
        // Of what was before it compacts, a member can't tell.
        scene.stage.etcd.compact().await?;
        let member = scene.stage.members.remove(0).kill().restart().await?;
        scene.stage.members.insert(0, member);
        scene.restart().await?;
        scene.shows(CONFIG_MAPS, &["member1/app-000", "member2/app-000", "member2/app-002", "member1/later"]).await?;
        ensure!(scene.metric("fleetglass_lists_total", "member1", "configmaps").await? > 0.0, "it was listed");
        let changes = scene.metric("fleetglass_changes_total", "member1", "configmaps").await?;
        ensure!(changes < 4.0, "{changes} changes: what is the same was not taken in again");
        Ok(())
    })
}

#[test]
fn killed_at_any_moment_under_churn_it_never_keeps_anything_wrong() -> Result<()> {
    run(async || {
        let mut scene = Scene::start().await?;
        scene.follow(&["v1/ConfigMap"]).await?;
        for round in 0..8_u64 {
            for number in 0..12 {
                let name = format!("churn-{}", number % 5);
                let object = json!({ "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": { "name": name, "namespace": "team-000" }, "data": { "round": format!("{round}-{number}") } });
                let own = scene.stage.members.first().context("no member")?.kubectl()?;
                match (round + number) % 4 {
                    3 => drop(own.run(&["-n", "team-000", "delete", "configmap", &name, "--ignore-not-found"]).await?),
                    _ => own.apply(&object.to_string()).await?,
                }
                // The moment of the kill wanders through the writes, one of which is every second.
                if number == round {
                    scene.kill()?;
                }
            }
            scene.restart().await?;
            scene.is_as_member(0).await?;
            tokio::time::sleep(Duration::from_millis(130 * round)).await;
        }
        let disk = scene.status().await?["disk"].clone();
        ensure!(disk["damagedFiles"] == 0 && disk["state"] == "Keeping", "{disk}");
        scene.is_as_member(1).await
    })
}

#[test]
fn what_is_no_longer_selected_or_was_damaged_meanwhile_is_not_believed() -> Result<()> {
    run(async || {
        let mut scene = Scene::start().await?;
        scene.follow(&["v1/ConfigMap", "apps/v1/Deployment"]).await?;
        scene.is_written().await?;
        scene.kill()?;
        let mut damaged = 0;
        for entry in std::fs::read_dir(scene.cache.join("fleetglass-cache"))?.filter_map(Result::ok) {
            let path = entry.path().join("member1.part");
            if entry.file_name().to_string_lossy().contains("configmaps") && path.exists() {
                let mut bytes = std::fs::read(&path)?;
                let middle = bytes.len() / 3;
                *bytes.get_mut(middle).context("a byte")? ^= 0x20;
                std::fs::write(&path, bytes)?;
                damaged += 1;
            }
        }
        ensure!(damaged == 1, "{damaged} files");
        scene.stage.karmada.unjoin("member2").await?;
        scene.restart().await?;
        scene.shows(CONFIG_MAPS, &FIRST).await?;
        let deployments = ["member1/app-000", "member1/app-002"];
        scene.shows("/apis/apps/v1/namespaces/team-000/deployments", &deployments).await?;
        let disk = scene.status().await?["disk"].clone();
        ensure!(disk["damagedFiles"] == 1, "{disk}");
        let log = scene.stage.fleetglass()?.log()?;
        ensure!(log.contains("a file of the cache on disk is damaged"), "{log}");
        ensure!(scene.cache.join("set-aside").read_dir()?.count() == 1, "it can be looked at");
        // A folder that can't be used is said, and all is served from memory.
        scene.kill()?;
        std::fs::remove_dir_all(&scene.cache)?;
        std::fs::write(&scene.cache, "not a folder")?;
        scene.restart().await?;
        scene.shows(CONFIG_MAPS, &FIRST).await?;
        let disk = scene.status().await?["disk"].clone();
        ensure!(
            disk["state"] == "Failed" && disk["message"].as_str().is_some_and(|text| text.contains("/cache")),
            "{disk}"
        );
        Ok(())
    })
}
