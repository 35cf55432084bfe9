//! Many members, sick members, and objects that change while they are read: simulated, because real ones can't be had by the
//! hundred or told to lie.

mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shared::run;
use tempfile::TempDir;
use tests::eventually;
use tests::karmada::registry;
use tests::kubectl::Kubectl;
use tests::simulated::{Fault, KINDS, SimulatedMembers};
use tests::standalone::Standalone;

/// Long before this, what is to come is there.
const SOON: Duration = Duration::from_secs(90);
const PODS: &str = "cache/api/v1/pods";

/// Simulated clusters and who follows them.
struct Fleet {
    members: SimulatedMembers,
    server: Standalone,
    _folder: TempDir,
}

/// What there is of a cluster: names and versions.
type Held = BTreeMap<String, String>;

impl Fleet {
    async fn start(simulated: &[&str], flags: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("fleetglass-storm-").tempdir()?;
        let members = SimulatedMembers::start(folder.path(), simulated).await?;
        let contexts = format!("--members=contexts:{}", members.contexts().join(","));
        let kubeconfig = format!("--kubeconfig={}", members.kubeconfig.display());
        let mut all = vec![contexts.as_str(), kubeconfig.as_str()];
        all.extend(flags);
        let server = Standalone::start(&folder.path().join("server"), &all).await?;
        Ok(Self { members, server, _folder: folder })
    }

    async fn follow(&self, kinds: &[&str]) -> Result<()> {
        self.server.kubectl.apply(&registry("all", &[], kinds).to_string()).await?;
        let parts = self.members.contexts().len() * kinds.len();
        eventually(SOON, async || {
            let status = self.server.ask("status", &[]).await?;
            let items = status["items"].as_array().context("no items")?;
            let synced = items.iter().filter(|item| item["synced"] == true).count();
            ensure!(synced == parts, "{synced} of {parts}: {status}");
            Ok(())
        })
        .await
    }

    /// What the cache has of a cluster.
    async fn held(&self, cluster: usize) -> Result<Held> {
        let name = format!("cluster-{cluster:04}");
        Ok(held(&self.server.ask(PODS, &[("cluster", &name)]).await?))
    }

    /// What the cluster has.
    async fn truth(&self, cluster: usize) -> Result<Held> {
        let context = format!("--context=cluster-{cluster:04}");
        let kubectl = Kubectl::new(&self.members.kubeconfig);
        let text = kubectl.run(&[&context, "get", "--raw", "/api/v1/pods"]).await?;
        Ok(held(&serde_json::from_str(&text)?))
    }

    async fn is_as_it_should_be(&self, cluster: usize) -> Result<()> {
        eventually(SOON, async || {
            let (held, truth) = (self.held(cluster).await?, self.truth(cluster).await?);
            let differ = truth.iter().find(|(name, version)| held.get(*name) != Some(version));
            ensure!(
                held.len() == truth.len() && differ.is_none(),
                "{} of {} pods, {differ:?}",
                held.len(),
                truth.len()
            );
            Ok(())
        })
        .await
    }

    /// What is said of a cluster in a list of it: the warnings.
    async fn warnings(&self, cluster: usize) -> Result<Vec<String>> {
        let name = format!("cluster-{cluster:04}");
        let answer = self.server.answer(PODS, &[("cluster", &name), ("limit", "1")]).await?;
        let warnings = answer.headers().get_all("warning").iter();
        Ok(warnings.filter_map(|value| Some(value.to_str().ok()?.to_owned())).collect())
    }

    fn stop(self) -> Result<()> {
        self.server.stop()?;
        self.members.stop()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn held(list: &Value) -> Held {
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let named = |item: &Value| {
        let metadata = &item["metadata"];
        let name = format!("{}/{}", text(&metadata["namespace"]), text(&metadata["name"]));
        (name, text(&metadata["resourceVersion"]))
    };
    items.iter().map(named).collect()
}

#[test]
fn a_member_that_hangs_is_told_of_delays_no_other_and_recovers() -> Result<()> {
    run(async || {
        let fleet = Fleet::start(&["--clusters=2", "--pods=150"], &[]).await?;
        fleet.follow(&["v1/Pod"]).await?;
        fleet.members.set(0, Fault::Hang).await?;
        fleet.members.update(0, 5).await?;
        eventually(SOON, async || {
            let warnings = fleet.warnings(0).await?;
            let is_told = warnings.iter().any(|warning| warning.contains("cluster-0000 out of touch since"));
            ensure!(is_told, "{warnings:?}");
            Ok(())
        })
        .await?;
        let status = fleet.server.ask("status", &[]).await?;
        let items = status["items"].as_array().context("items")?;
        let item = items.iter().find(|item| item["cluster"] == "cluster-0000");
        ensure!(item.is_some_and(|item| item["error"].is_string()), "{status}");
        let version = fleet.members.update(1, 1).await?.to_string();
        eventually(SOON, async || {
            ensure!(fleet.held(1).await?.values().any(|held| *held == version), "the other member lags");
            Ok(())
        })
        .await?;
        ensure!(fleet.warnings(1).await?.is_empty(), "nothing ails the other member");
        fleet.members.set(0, Fault::None).await?;
        fleet.members.update(0, 3).await?;
        fleet.is_as_it_should_be(0).await?;
        eventually(SOON, async || {
            let warnings = fleet.warnings(0).await?;
            ensure!(warnings.is_empty(), "{warnings:?}");
            Ok(())
        })
        .await?;
        fleet.stop()
    })
}

#[test]
fn a_hundred_members_are_followed_over_few_connections_and_never_stampeded() -> Result<()> {
    run(async || {
        let flags = ["--cluster-api-qps=4", "--cluster-api-burst=6", "--search-index=false"];
        let fleet = Fleet::start(&["--clusters=100", "--pods=4", "--kinds=10", "--others=2"], &flags).await?;
        fleet.follow(&KINDS).await?;
        eventually(SOON, async || {
            let counters = fleet.members.counters().await?;
            ensure!(counters.watches_open == 1000, "{counters:?}");
            Ok(())
        })
        .await?;
        let counters = fleet.members.counters().await?;
        ensure!(counters.connections_open <= 200, "watches share connections: {counters:?}");
        // What was saved up at first, what a second brings, and what a connection is made by.
        ensure!(counters.most_requests_in_a_second_of_one_cluster <= 6 + 4 + 1, "{counters:?}");
        fleet.stop()
    })
}

#[test]
fn pages_show_each_object_once_while_a_thousand_a_second_change() -> Result<()> {
    run(async || {
        let fleet = Fleet::start(&["--clusters=3", "--pods=2000"], &[]).await?;
        fleet.follow(&["v1/Pod"]).await?;
        let before: BTreeSet<String> = fleet.held(2).await?.into_keys().collect();
        for cluster in [0, 1] {
            fleet.members.set_rate(cluster, 500.0).await?;
        }
        for limit in ["500", "97"] {
            let (mut shown, mut token) = (Vec::new(), String::new());
            let (mut first, mut pages) = (None, 0);
            loop {
                let page = fleet.server.ask(PODS, &[("limit", limit), ("continue", &token)]).await?;
                let version = text(&page["metadata"]["resourceVersion"]);
                ensure!(*first.get_or_insert(version.clone()) == version, "all pages tell one version");
                for item in page["items"].as_array().context("items")? {
                    let cluster = &item["metadata"]["annotations"]["resource.karmada.io/cached-from-cluster"];
                    shown.push(format!(
                        "{}/{}/{}",
                        text(cluster),
                        text(&item["metadata"]["namespace"]),
                        text(&item["metadata"]["name"])
                    ));
                }
                pages += 1;
                token = text(&page["metadata"]["continue"]);
                if token.is_empty() {
                    break;
                }
            }
            ensure!(pages > 10, "{pages} pages");
            let once: BTreeSet<&String> = shown.iter().collect();
            assert_eq!(once.len(), shown.len(), "nothing is shown twice");
            let unchanged = shown.iter().filter_map(|name| name.strip_prefix("cluster-0002/").map(str::to_owned));
            assert_eq!(unchanged.collect::<BTreeSet<_>>(), before, "and all that was there throughout is shown");
        }
        for cluster in [0, 1] {
            fleet.members.set_rate(cluster, 0.0).await?;
        }
        for cluster in 0..3 {
            fleet.is_as_it_should_be(cluster).await?;
        }
        fleet.stop()
    })
}
