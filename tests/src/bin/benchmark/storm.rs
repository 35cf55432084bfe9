//! Many watches that nothing happens on, and one member that floods.

use std::time::{Duration, Instant};

use anyhow::Result;
use tests::simulated::KINDS;

use super::fleet::{Fleet, Size, delays};
use super::report::Figures;

const MIB: f64 = 1_048_576.0;
/// Updates a second of the member that floods.
const FLOOD: f64 = 10_000.0;

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

/// One member floods; how much later are the updates of another one seen?
async fn flood(fleet: &Fleet, figures: &mut Figures) -> Result<()> {
    let at = |took: &[Duration], percent: usize| {
        took.get((took.len() - 1) * percent / 100).copied().unwrap_or_default().as_secs_f64() * 1e3
    };
    let calm = delays(fleet, 1, 200).await?;
    fleet.members.set_rate(0, FLOOD).await?;
    let (cpu, begun) = (fleet.process().cpu()?, Instant::now());
    let flooded = delays(fleet, 1, 200).await?;
    let share = (fleet.process().cpu()? - cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
    fleet.members.set_rate(0, 0.0).await?;
    figures.set("update of another member seen, median, ms", at(&calm, 50));
    figures.set("the same, p99, ms", at(&calm, 99));
    figures.set("update of another member seen during a flood, median, ms", at(&flooded, 50));
    figures.set("during a flood, p99, ms", at(&flooded, 99));
    figures.set("processors used during a flood", share);
    Ok(())
}
