//! Many watches that nothing happens on, and one member that floods.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::eventually;
use tests::karmada::registry;
use tests::parts::{Part, find};
use tests::simulated::KINDS;
use tokio::process::{Child, Command};

use super::fleet::{Fleet, Size, delays, set_times};
use super::report::Figures;

const MIB: f64 = 1_048_576.0;
/// Updates a second of the member that floods.
const FLOOD: f64 = 10_000.0;
/// How often the same is measured, and how many updates each time: what else the machine does comes and goes.
const ROUNDS: u32 = 4;
const UPDATES: usize = 100;

/// Follows all kinds of so many clusters, each with hardly any objects.
pub(crate) async fn measure(clusters: usize) -> Result<Figures> {
    let mut figures = Figures::default();
    let size = Size { clusters, pods: clusters * 4 };
    let kinds = format!("--kinds={}", KINDS.len());
    let fleet = Fleet::start(size, &[kinds, "--others=1".to_owned()], &["--search-index=false"]).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (process, begun) = (fleet.process(), Instant::now());
    let (idle, cpu) = (process.resident_bytes()? as f64, process.cpu()?);
    let objects = fleet.follow(&KINDS).await?;
    figures.set("objects", objects as f64);
    figures.set("first sync, s", begun.elapsed().as_secs_f64());
    figures.set("first sync, CPU s", (process.cpu()? - cpu).as_secs_f64());
    // Connections that only lists needed are closed.
    tokio::time::sleep(Duration::from_secs(45)).await;
    let counters = fleet.members.counters().await?;
    figures.set("watches", counters.watches_open as f64);
    figures.set("connections to members", counters.connections_open as f64);
    figures.set("most requests a second to one member", counters.most_requests_in_a_second_of_one_cluster as f64);
    figures.set("most requests a second to all", counters.requests_of_busiest_second as f64);
    let held = process.resident_bytes()? as f64 - idle;
    figures.set("resident idle, MiB", idle / MIB);
    figures.set("resident watching, MiB", (held + idle) / MIB);
    figures.set("KiB a watch, its objects included", held / 1024.0 / counters.watches_open.max(1) as f64);
    let (cpu, begun) = (process.cpu()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(30)).await;
    let share = (process.cpu()? - cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
    figures.set("processors used while nothing happens", share);
    flood(&fleet, &mut figures).await?;
    fleet.server.stop()?;
    fleet.members.stop()?;
    Ok(figures)
}

/// One member floods; how much later are the updates of another one seen? On a small machine whoever floods takes processors too,
/// so that the same is asked when stock kubectl reads the flood and we don't.
async fn flood(fleet: &Fleet, figures: &mut Figures) -> Result<()> {
    let (mut calm, mut flooded, mut beside) = (Vec::new(), Vec::new(), Vec::new());
    let mut share = 0.0;
    for _ in 0..ROUNDS {
        follow_all_but(fleet, &[]).await?;
        calm.extend(delays(fleet, 1, UPDATES).await?);
        fleet.members.set_rate(0, FLOOD).await?;
        let (cpu, begun) = (fleet.process().cpu()?, Instant::now());
        flooded.extend(delays(fleet, 1, UPDATES).await?);
        share += (fleet.process().cpu()? - cpu).as_secs_f64() / begun.elapsed().as_secs_f64() / f64::from(ROUNDS);
        fleet.members.set_rate(0, 0.0).await?;
        let name = fleet.members.contexts().first().context("no clusters")?.clone();
        follow_all_but(fleet, &[&name]).await?;
        let reading = read_flood(fleet, &name)?;
        fleet.members.set_rate(0, FLOOD).await?;
        beside.extend(delays(fleet, 1, UPDATES).await?);
        fleet.members.set_rate(0, 0.0).await?;
        drop(reading);
    }
    for (what, worst, took) in [
        ("update of another member seen, median, ms", "the same, p99, ms", &mut calm),
        ("during a flood that we follow, median, ms", "during a flood that we follow, p99, ms", &mut flooded),
        ("during a flood that kubectl reads, median, ms", "during a flood that kubectl reads, p99, ms", &mut beside),
    ] {
        took.sort();
        set_times(figures, what, worst, took);
    }
    let later = share_of(&flooded, &beside);
    figures.set("updates of others later by our following a flood, %", later);
    figures.set("processors used during a flood", share);
    Ok(())
}

/// By how many hundredths the median of the first is above that of the second.
fn share_of(one: &[Duration], other: &[Duration]) -> f64 {
    let median = |took: &[Duration]| took.get(took.len() / 2).copied().unwrap_or_default().as_secs_f64();
    (median(one) / median(other) - 1.0) * 100.0
}

async fn follow_all_but(fleet: &Fleet, left_out: &[&str]) -> Result<()> {
    let mut registry = registry("all", &[], &KINDS);
    registry["spec"]["targetCluster"] = json!({ "exclude": left_out });
    fleet.server.kubectl.apply(&registry.to_string()).await?;
    eventually(Duration::from_secs(120), async || {
        let status = fleet.server.ask("status", &[]).await?;
        let items = status["items"].as_array().context("no items")?;
        let parts = (fleet.members.contexts().len() - left_out.len()) * KINDS.len();
        ensure!(items.len() == parts && items.iter().all(|item| item["synced"] == true), "{} of {parts}", items.len());
        Ok(())
    })
    .await
}

/// Reads the watch of a member's Pods until it is dropped.
fn read_flood(fleet: &Fleet, context: &str) -> Result<Child> {
    let kubectl = Command::new(find(Part::Kubectl)?)
        .env("KUBECONFIG", &fleet.members.kubeconfig)
        .args(["--context", context, "get", "--raw", "/api/v1/pods?watch=true&sendInitialEvents=false"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    Ok(kubectl)
}
