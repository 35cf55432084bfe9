//! Many members, sick members, and objects that change while they are read: simulated, because real ones can't be had by the
//! hundred or told to lie.

mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
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
use tests::usage::Process;

/// Long before this, what is to come is there.
const SOON: Duration = Duration::from_secs(90);
const SIMULATED_MEMBERS: &str = env!("CARGO_BIN_EXE_simulated-members");
const PODS: &str = "cache/api/v1/pods";

/// Simulated clusters and who follows them.
struct Fleet {
    members: SimulatedMembers,
    server: Standalone,
    _folder: TempDir,
}

/// All pages of an answer.
struct Pages {
    /// Cluster, namespace and name of each object, in the order in which they came.
    shown: Vec<String>,
    versions: BTreeSet<String>,
    pages: usize,
}

/// What there is of a cluster: names and versions.
type Held = BTreeMap<String, String>;

impl Fleet {
    async fn start(simulated: &[&str], flags: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("fleetglass-storm-").tempdir()?;
        let members = SimulatedMembers::start(Path::new(SIMULATED_MEMBERS), folder.path(), simulated).await?;
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

    /// Asks for page after page.
    async fn pages(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Pages> {
        let (mut all, mut token) = (Pages { shown: Vec::new(), versions: BTreeSet::new(), pages: 0 }, String::new());
        loop {
            let page = self.server.ask(path, &[parameters, &[("continue", &token)]].concat()).await?;
            all.versions.insert(text(&page["metadata"]["resourceVersion"]));
            for item in page["items"].as_array().context("items")? {
                let metadata = &item["metadata"];
                let cluster = text(&metadata["annotations"]["resource.karmada.io/cached-from-cluster"]);
                all.shown.push(format!("{cluster}/{}/{}", text(&metadata["namespace"]), text(&metadata["name"])));
            }
            all.pages += 1;
            token = text(&page["metadata"]["continue"]);
            if token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// What is said of a cluster in a list of it: the warnings.
    async fn warnings(&self, cluster: usize) -> Result<Vec<String>> {
        let name = format!("cluster-{cluster:04}");
        let answer = self.server.answer(PODS, &[("cluster", &name), ("limit", "1")]).await?;
        let warnings = answer.headers().get_all("warning").iter();
        Ok(warnings.filter_map(|value| Some(value.to_str().ok()?.to_owned())).collect())
    }

    /// Whatever is told of what is wrong: in the status, and in the log.
    async fn told(&self) -> Result<Vec<String>> {
        let status = self.server.ask("status", &[]).await?;
        let items = status["items"].as_array().context("no items")?;
        let wrong = items.iter().filter(|item| item["error"].is_string());
        let log = self.server.log()?;
        let logged = log.lines().filter(|line| line.contains("WARN")).map(str::to_owned);
        Ok(wrong.map(|item| format!("{} {}", text(&item["cluster"]), text(&item["error"]))).chain(logged).collect())
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

/// Words by which each fault is told of, in the status or in a warning.
const TOLD: [(Fault, &str); 10] = [
    (Fault::Trickle, "within 30 seconds"),
    (Fault::Reset, "error"),
    (Fault::HalfFrame, "cut off in the middle of an event"),
    (Fault::InvalidUtf8, "unreadable"),
    (Fault::Huge, "larger than 16777216 bytes"),
    (Fault::OtherCluster, "went back to earlier versions"),
    (Fault::WrongKind, "and not of v1 Pod"),
    (Fault::Empty, "cannot be read"),
    (Fault::Nonsense, "cannot be read"),
    (Fault::Expired, "no longer has the version"),
];

#[test]
fn sick_members_are_told_of_each_by_what_ails_it_harm_no_other_and_recover() -> Result<()> {
    run(async || {
        let clusters = format!("--clusters={}", TOLD.len() + 1);
        let fleet = Fleet::start(&[&clusters, "--pods=150"], &[]).await?;
        fleet.follow(&["v1/Pod"]).await?;
        let well = TOLD.len();
        for (cluster, (fault, _)) in TOLD.iter().enumerate() {
            fleet.members.set(cluster, *fault).await?;
        }
        let mut untold: BTreeMap<usize, (Fault, &str)> = TOLD.into_iter().enumerate().collect();
        // What shows only now and then counts when it was seen once.
        eventually(2 * SOON, async || {
            let told = fleet.told().await?;
            untold.retain(|cluster, (_, words)| {
                let mut lines = told.iter().filter(|line| line.contains(&format!("cluster-{cluster:04}")));
                !lines.any(|line| line.contains(*words))
            });
            ensure!(untold.is_empty(), "nothing is told of {untold:?} in {told:#?}");
            Ok(())
        })
        .await?;
        // The one that has to be listed again and again becomes another one: what can't be read is not taken for gone.
        let listed_anew = TOLD.iter().position(|(fault, _)| *fault == Fault::Expired).context("no such fault")?;
        fleet.members.set(listed_anew, Fault::WrongKind).await?;
        eventually(SOON, async || {
            let told = fleet.told().await?;
            let name = format!("cluster-{listed_anew:04}");
            ensure!(told.iter().any(|line| line.contains(&name) && line.contains("and not of v1 Pod")), "{told:#?}");
            Ok(())
        })
        .await?;
        ensure!(fleet.held(listed_anew).await?.len() == 150, "its pods were taken for gone");
        let version = fleet.members.update(well, 1).await?.to_string();
        eventually(SOON, async || {
            ensure!(fleet.held(well).await?.values().any(|held| *held == version), "the one that is well lags");
            Ok(())
        })
        .await?;
        ensure!(fleet.warnings(well).await?.is_empty(), "nothing ails the one that is well");
        let peak = Process(fleet.server.pid()).peak_bytes()?;
        ensure!(peak < 600 << 20, "{} MiB for eleven small members", peak >> 20);

        for cluster in 0..well {
            fleet.members.set(cluster, Fault::None).await?;
            fleet.members.update(cluster, 3).await?;
        }
        for cluster in 0..=well {
            fleet.is_as_it_should_be(cluster).await?;
        }
        eventually(SOON, async || {
            for cluster in 0..=well {
                let warnings = fleet.warnings(cluster).await?;
                ensure!(warnings.is_empty(), "{warnings:?}");
            }
            Ok(())
        })
        .await?;
        fleet.stop()
    })
}

#[test]
fn who_stops_reading_a_list_is_cut_and_is_not_led_to_believe_that_it_was_whole() -> Result<()> {
    run(async || {
        let fleet = Fleet::start(&["--clusters=4", "--pods=5000"], &["--search-index=false"]).await?;
        fleet.follow(&["v1/Pod"]).await?;
        let mut answer = fleet.server.answer_apart(PODS, &[]).await?;
        let mut read = answer.chunk().await?.context("nothing at all")?.len();
        // Longer than the server waits.
        tokio::time::sleep(Duration::from_secs(75)).await;
        let ended = loop {
            match answer.chunk().await {
                Ok(Some(chunk)) => read += chunk.len(),
                other => break other,
            }
        };
        ensure!(ended.is_err(), "after {read} bytes the list seems to be whole");
        ensure!(read < 100 << 20, "{read} bytes had been sent to someone who didn't read");
        fleet.stop()
    })
}

#[test]
fn a_hundred_members_are_followed_over_few_connections_and_never_stampeded() -> Result<()> {
    run(async || {
        let flags = ["--cluster-api-qps=2", "--cluster-api-burst=3", "--search-index=false"];
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
        eventually(SOON, async || {
            let counters = fleet.members.counters().await?;
            ensure!(counters.connections_open == 100, "one of each is enough when the lists are done: {counters:?}");
            Ok(())
        })
        .await?;
        // What was saved up, what some seconds bring that wait for a connection together, and what that is made by.
        ensure!(counters.most_requests_in_a_second_of_one_cluster <= 3 + 8 + 1, "{counters:?}");
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
        let query = |order| ("query", vec![("q", "kind:Pod"), ("limit", "97"), ("orderBy", order)]);
        let lists = ["500", "97"].map(|limit| (PODS, vec![("limit", limit)]));
        for (path, parameters) in lists.into_iter().chain(["cluster", "-created", "spec.nodeName"].map(query)) {
            let Pages { shown, versions, pages } = fleet.pages(path, &parameters).await?;
            ensure!(pages > 10, "{pages} pages");
            if path == PODS {
                assert_eq!(versions.len(), 1, "all pages tell one version");
                let once: BTreeSet<&String> = shown.iter().collect();
                assert_eq!(once.len(), shown.len(), "nothing is shown twice");
            }
            let unchanged = shown.iter().filter_map(|name| name.strip_prefix("cluster-0002/").map(str::to_owned));
            let unchanged: Vec<String> = unchanged.collect();
            assert_eq!(unchanged.len(), before.len(), "{parameters:?} shows what doesn't change once");
            assert_eq!(unchanged.into_iter().collect::<BTreeSet<_>>(), before, "and all of it");
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
