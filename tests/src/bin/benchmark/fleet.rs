//! Fleetglass over many simulated clusters: what it takes to follow and to answer, at one size.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Response;
use serde_json::Value;
use tests::eventually;
use tests::karmada::registry;
use tests::simulated::{self, SimulatedMembers};
use tests::standalone::Standalone;
use tests::usage::Process;

use super::report::Figures;

/// Long enough for the largest fleet to be read.
const PATIENCE: Duration = Duration::from_secs(1200);
/// Updates a second, in all clusters together, while answers are timed.
const CHURN: f64 = 1000.0;
const CHURNING: Duration = Duration::from_secs(15);
/// Answers of a kind that are timed.
const TIMES: usize = 40;
/// Memory that falls by less than this in five seconds is not being given back any more.
const STEADY: f64 = 0.99;
const LONGEST_SETTLING: Duration = Duration::from_secs(60);
const MIB: f64 = 1_048_576.0;
const PODS: &str = "cache/api/v1/pods";

/// How large a fleet is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) clusters: usize,
    /// In all clusters together.
    pub(crate) pods: usize,
}

/// A fleet and who follows it.
pub(crate) struct Fleet {
    size: Size,
    pub(crate) members: SimulatedMembers,
    pub(crate) server: Standalone,
    _folder: tempfile::TempDir,
}

impl Fleet {
    /// Starts both; nothing is followed yet.
    pub(crate) async fn start(size: Size, further: &[String], flags: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("fleetglass-fleet-").tempdir()?;
        let (clusters, each) = (size.clusters.to_string(), (size.pods / size.clusters).to_string());
        let mut simulated = vec![format!("--clusters={clusters}"), format!("--pods={each}")];
        simulated.extend(further.iter().cloned());
        let simulated: Vec<&str> = simulated.iter().map(String::as_str).collect();
        let members = SimulatedMembers::start(&simulated::process::program()?, folder.path(), &simulated).await?;
        let server = serve(&folder.path().join("server"), &members, flags).await?;
        Ok(Self { size, members, server, _folder: folder })
    }

    pub(crate) fn process(&self) -> Process {
        Process(self.server.pid())
    }

    /// Asks for kinds to be followed, and waits until all of them are, in all clusters; returns the objects.
    pub(crate) async fn follow(&self, kinds: &[&str]) -> Result<u64> {
        self.server.kubectl.apply(&registry("all", &[], kinds).to_string()).await?;
        let parts = self.size.clusters * kinds.len();
        let bar = ProgressBar::new(self.size.pods as u64);
        bar.set_style(ProgressStyle::with_template("following: {pos}/{len} pods, {elapsed} {wide_bar}")?);
        let objects = eventually(PATIENCE, async || {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let status = self.server.ask("status", &[]).await?;
            let items = status["items"].as_array().context("no items")?;
            let objects = items.iter().filter_map(|item| item["objects"].as_u64()).sum();
            bar.set_position(objects);
            let lagging = items.iter().find(|item| item["synced"] != true);
            ensure!(items.len() == parts && lagging.is_none(), "{} of {parts}, {lagging:?}", items.len());
            Ok(objects)
        })
        .await?;
        bar.finish_and_clear();
        Ok(objects)
    }

    /// Waits until the index has everything and the disk too.
    async fn settle(&self) -> Result<()> {
        let status = async || self.server.ask("status", &[]).await;
        eventually(PATIENCE, async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let status = status().await?;
            let index = &status["index"];
            ensure!(index["queue"].as_u64().unwrap_or_default() == 0 && index["state"] != "Building", "{index}");
            Ok(())
        })
        .await?;
        // Segments are merged, and what is freed is given back, a little later.
        let begun = Instant::now();
        let mut before = f64::INFINITY;
        while self.resident()? < before * STEADY && begun.elapsed() < LONGEST_SETTLING {
            before = self.resident()?;
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        Ok(())
    }

    fn resident(&self) -> Result<f64> {
        Ok(self.process().resident_bytes()? as f64)
    }
}

async fn serve(folder: &Path, members: &SimulatedMembers, flags: &[&str]) -> Result<Standalone> {
    let contexts = format!("--members=contexts:{}", members.contexts().join(","));
    let kubeconfig = format!("--kubeconfig={}", members.kubeconfig.display());
    let mut all = vec![contexts.as_str(), kubeconfig.as_str()];
    all.extend(flags);
    Standalone::start(folder, &all).await
}

/// Everything there is to measure at one size.
pub(crate) async fn measure(size: Size) -> Result<Figures> {
    let mut figures = Figures::default();
    let mut fleet = Fleet::start(size, &[], &[]).await?;
    sync(&fleet, &mut figures).await?;
    tracing::info!("reading");
    reads(&fleet, &mut figures).await?;
    readers(&fleet, &mut figures).await?;
    tracing::info!("updating");
    churn(&fleet, &mut figures).await?;
    tracing::info!("killing and restarting");
    restart(&mut fleet, &mut figures).await?;
    tracing::info!("holding without the search index");
    without_index(&mut fleet, &mut figures).await?;
    tracing::info!("letting go");
    let held = fleet.resident()?;
    fleet.server.kubectl.run(&["delete", "resourceregistry", "all"]).await?;
    tokio::time::sleep(Duration::from_secs(20)).await;
    figures.set("resident after all is deleted, MiB", fleet.resident()? / MIB);
    figures.set("given back by deleting, MiB", (held - fleet.resident()?) / MIB);
    fleet.server.stop()?;
    fleet.members.stop()?;
    Ok(figures)
}

async fn sync(fleet: &Fleet, figures: &mut Figures) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(3)).await;
    let process = fleet.process();
    let (idle, cpu, begun) = (fleet.resident()?, process.cpu()?, Instant::now());
    let objects = fleet.follow(&["v1/Pod"]).await?;
    figures.set("objects", objects as f64);
    figures.set("first sync, s", begun.elapsed().as_secs_f64());
    fleet.settle().await?;
    figures.set("until indexed, s", begun.elapsed().as_secs_f64());
    figures.set("first sync and index, CPU s", (process.cpu()? - cpu).as_secs_f64());
    figures.set("resident idle, MiB", idle / MIB);
    figures.set("peak resident while syncing, MiB", process.peak_bytes()? as f64 / MIB);
    figures.set("resident holding, MiB", fleet.resident()? / MIB);
    figures.set("bytes an object above idle", (fleet.resident()? - idle) / objects as f64);
    let counters = fleet.members.counters().await?;
    figures.set("connections to members", counters.connections_open as f64);
    let busiest = counters.most_requests_in_a_second_of_one_cluster;
    figures.set("most requests a second to one member", busiest as f64);
    let status = fleet.server.ask("status", &[]).await?;
    figures.set("index on disk, MiB", status["index"]["bytes"].as_f64().unwrap_or_default() / MIB);
    figures.set("cache on disk, MiB", status["disk"]["bytes"].as_f64().unwrap_or_default() / MIB);
    Ok(())
}

/// Reads an answer to its end; returns its length and when its first bytes came.
async fn drain(begun: Instant, mut answer: Response) -> Result<(usize, Duration)> {
    ensure!(answer.status().is_success(), "{}", answer.status());
    let (mut bytes, mut first) = (0, None);
    while let Some(chunk) = answer.chunk().await? {
        first.get_or_insert_with(|| begun.elapsed());
        bytes += chunk.len();
    }
    Ok((bytes, first.unwrap_or_default()))
}

/// Asks for something again and again, each time otherwise; returns the times it took, in order.
async fn times(
    fleet: &Fleet,
    what: &str,
    parameters: impl Fn(usize) -> Vec<(&'static str, String)>,
) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    for turn in 0..=TIMES {
        let parameters = parameters(turn);
        let parameters: Vec<(&str, &str)> = parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let begun = Instant::now();
        let (bytes, _) = drain(begun, fleet.server.answer(what, &parameters).await?).await?;
        ensure!(bytes > 0, "{what}: nothing");
        took.push(begun.elapsed());
    }
    // The first one warms up.
    took.remove(0);
    took.sort();
    Ok(took)
}

pub(crate) fn set_times(figures: &mut Figures, what: &'static str, worst: &'static str, took: &[Duration]) {
    let at = |percent: usize| took.get((took.len() - 1) * percent / 100).copied().unwrap_or_default();
    figures.set(what, at(50).as_secs_f64() * 1e3);
    figures.set(worst, at(99).as_secs_f64() * 1e3);
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

async fn reads(fleet: &Fleet, figures: &mut Figures) -> Result<()> {
    let page = fleet.server.ask(PODS, &[("limit", "500")]).await?;
    let items = page["items"].as_array().context("no items")?;
    let sample = items.get(items.len() / 2).context("no pods")?;
    let (namespace, name) = (text(&sample["metadata"]["namespace"]), text(&sample["metadata"]["name"]));
    let cluster = text(&sample["metadata"]["annotations"]["resource.karmada.io/cached-from-cluster"]);
    let applications: Vec<String> = items.iter().map(|item| text(&item["metadata"]["labels"]["app"])).collect();
    let application = |turn: usize| applications.get(turn * 7 % applications.len()).cloned().unwrap_or_default();
    let limit = || ("limit", "500".to_owned());
    let took = times(fleet, PODS, |_| vec![limit()]).await?;
    set_times(figures, "page of 500, median, ms", "page of 500, p99, ms", &took);
    let took =
        times(fleet, PODS, |turn| vec![limit(), ("labelSelector", format!("app={}", application(turn)))]).await?;
    set_times(figures, "filtered page of 500, median, ms", "filtered page of 500, p99, ms", &took);
    let took = times(fleet, &format!("cache/api/v1/namespaces/{namespace}/pods"), |_| {
        vec![("cluster", cluster.clone()), ("limit", "200".to_owned())]
    })
    .await?;
    set_times(figures, "namespace of a cluster, median, ms", "namespace of a cluster, p99, ms", &took);
    let took = times(fleet, &format!("cache/api/v1/namespaces/{namespace}/pods/{name}"), |_| Vec::new()).await?;
    set_times(figures, "one object, median, ms", "one object, p99, ms", &took);
    let took = times(fleet, "query", |turn| vec![("q", format!("kind:Pod label.app:{}", application(turn)))]).await?;
    set_times(figures, "query with a page of 50, median, ms", "query with a page of 50, p99, ms", &took);
    let begun = Instant::now();
    drain(begun, fleet.server.answer("facets", &[("by", "image"), ("limit", "20")]).await?).await?;
    figures.set("images counted over all, ms", begun.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// Whole lists: how soon they begin, and what readers cost who stop in the middle.
async fn readers(fleet: &Fleet, figures: &mut Figures) -> Result<()> {
    let mut firsts = Vec::new();
    for _ in 0..5 {
        firsts.push(fleet.server.first_byte(PODS).await?);
        // What is under way must not stand in the way of the next one.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    firsts.sort();
    figures.set("first byte of a list of all, ms", firsts.get(2).copied().unwrap_or_default().as_secs_f64() * 1e3);
    let process = fleet.process();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = fleet.resident()?;
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let mut answer = fleet.server.answer_apart(PODS, &[]).await?;
        answer.chunk().await?.context("an empty list")?;
        waiting.push(answer);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    figures.set("memory of a reader that waits, MiB", (fleet.resident()? - before) / 8.0 / MIB);
    drop(waiting);
    process.reset_peak()?;
    let (before, cpu, begun) = (fleet.resident()?, process.cpu()?, Instant::now());
    let (bytes, _) = drain(begun, fleet.server.answer(PODS, &[]).await?).await?;
    figures.set("list all, s", begun.elapsed().as_secs_f64());
    figures.set("list all, CPU s", (process.cpu()? - cpu).as_secs_f64());
    figures.set("list all, MB/s", bytes as f64 / 1e6 / begun.elapsed().as_secs_f64());
    figures.set("memory of its reader, MiB", (process.peak_bytes()? as f64 - before).max(0.0) / MIB);
    Ok(())
}

/// Reads a watch until an object of a version comes; returns when.
async fn seen(watch: &mut Response, line: &mut Vec<u8>, version: &str) -> Result<Instant> {
    let mark = format!("\"resourceVersion\":\"{version}\"");
    loop {
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let event: Vec<u8> = line.drain(..=end).collect();
            if String::from_utf8_lossy(&event).contains(&mark) {
                return Ok(Instant::now());
            }
        }
        let chunk = tokio::time::timeout(Duration::from_secs(20), watch.chunk()).await.context("not seen")??;
        line.extend_from_slice(&chunk.context("the watch ended")?);
    }
}

/// How long updates of one cluster take to be seen, in order.
pub(crate) async fn delays(fleet: &Fleet, cluster: usize, updates: usize) -> Result<Vec<Duration>> {
    let name = fleet.members.contexts().get(cluster).context("no such cluster")?.clone();
    let list = fleet.server.ask(PODS, &[("cluster", &name), ("limit", "1")]).await?;
    let version = text(&list["metadata"]["resourceVersion"]);
    let parameters = [("watch", "true"), ("cluster", &*name), ("resourceVersion", &*version)];
    let mut watch = fleet.server.answer_apart(PODS, &parameters).await?;
    ensure!(watch.status().is_success(), "the watch is answered with {}", watch.status());
    let (mut took, mut line) = (Vec::new(), Vec::new());
    for _ in 0..updates {
        let begun = Instant::now();
        let version = fleet.members.update(cluster, 1).await?;
        let committed = begun.elapsed();
        let at = seen(&mut watch, &mut line, &version.to_string()).await?;
        // The answer to the update may come after the event.
        took.push((at - begun).saturating_sub(committed));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    took.sort();
    Ok(took)
}

async fn churn(fleet: &Fleet, figures: &mut Figures) -> Result<()> {
    let took = delays(fleet, 0, 150).await?;
    set_times(figures, "update seen, median, ms", "update seen, p99, ms", &took);
    let others = fleet.size.clusters.saturating_sub(1).max(1);
    let each = CHURN / others as f64;
    let process = fleet.process();
    let changes = async || -> Result<u64> {
        let counters = fleet.members.counters().await?;
        Ok(counters.bytes_sent as u64)
    };
    for cluster in (1..fleet.size.clusters).chain((fleet.size.clusters == 1).then_some(0)) {
        fleet.members.set_rate(cluster, each).await?;
    }
    let (cpu, begun, sent) = (process.cpu()?, Instant::now(), changes().await?);
    tokio::time::sleep(CHURNING).await;
    let updates = CHURN * begun.elapsed().as_secs_f64();
    figures.set("CPU for one of 1,000 updates a second, ms", (process.cpu()? - cpu).as_secs_f64() * 1e3 / updates);
    figures.set("sent by members meanwhile, MB", (changes().await? - sent) as f64 / 1e6);
    if fleet.size.clusters > 1 {
        let took = delays(fleet, 0, 100).await?;
        set_times(figures, "update seen while 1,000 a second come, median, ms", "the same, p99, ms", &took);
    }
    let took = times(fleet, PODS, |_| vec![("limit", "500".to_owned())]).await?;
    set_times(figures, "page of 500 meanwhile, median, ms", "page of 500 meanwhile, p99, ms", &took);
    for cluster in 0..fleet.size.clusters {
        fleet.members.set_rate(cluster, 0.0).await?;
    }
    fleet.settle().await?;
    figures.set("resident after updates, MiB", fleet.resident()? / MIB);
    Ok(())
}

/// The cache alone, which is all that karmada-search has: started again without the search index.
async fn without_index(fleet: &mut Fleet, figures: &mut Figures) -> Result<()> {
    fleet.server.kill_and_restart_with("--search-index=false").await?;
    let fleet = &*fleet;
    eventually(PATIENCE, async || {
        let status = fleet.server.ask("status", &[]).await?;
        let items = status["items"].as_array().context("no items")?;
        let is_held = !items.is_empty() && items.iter().all(|item| item["synced"] == true);
        ensure!(is_held, "not all are followed again");
        Ok(())
    })
    .await?;
    fleet.settle().await?;
    let idle = figures.get("resident idle, MiB").context("idle was not measured")? * MIB;
    let objects = figures.get("objects").context("objects were not counted")?;
    let held = fleet.resident()?;
    figures.set("resident holding without the index, MiB", held / MIB);
    figures.set("bytes an object above idle, without the index", (held - idle) / objects);
    Ok(())
}

async fn restart(fleet: &mut Fleet, figures: &mut Figures) -> Result<()> {
    // What has just changed is on disk after a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let objects = async |fleet: &Fleet| -> Result<u64> {
        let page = fleet.server.ask(PODS, &[("limit", "1")]).await?;
        Ok(page["metadata"]["remainingItemCount"].as_u64().unwrap_or_default() + 1)
    };
    let (before, lists) = (objects(fleet).await?, fleet.members.counters().await?.lists);
    let begun = Instant::now();
    fleet.server.kill_and_restart().await?;
    let fleet = &*fleet;
    eventually(Duration::from_secs(120), async || {
        let found = objects(fleet).await?;
        ensure!(found == before, "{found} of {before} objects");
        Ok(())
    })
    .await?;
    figures.set("killed to serving everything, s", begun.elapsed().as_secs_f64());
    let synced = eventually(PATIENCE, async || {
        let status = fleet.server.ask("status", &[]).await?;
        let items = status["items"].as_array().context("no items")?;
        ensure!(items.iter().all(|item| item["synced"] == true), "not all are followed again");
        Ok(begun.elapsed())
    })
    .await?;
    figures.set("killed to following everything, s", synced.as_secs_f64());
    let listed = fleet.members.counters().await?.lists - lists;
    figures.set("lists that this took", listed as f64);
    figures.set("peak resident of the restart, MiB", fleet.process().peak_bytes()? as f64 / MIB);
    fleet.settle().await?;
    figures.set("resident after the restart, MiB", fleet.resident()? / MIB);
    Ok(())
}
