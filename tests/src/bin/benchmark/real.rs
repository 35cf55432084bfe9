//! On one real API server: what it costs to follow it and to answer for it, beside the API server itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tests::api_server::{ADMIN_TOKEN, ApiServer};
use tests::eventually;
use tests::fleetglass::Fleetglass;
use tests::karmada::registry;
use tests::stage::{Plan, Stage};
use tests::usage::Process;
use tests::workloads::{Application, Filler};

use super::Other;
use super::measure::{self, Reader, Target};
use super::report::Report;

/// Pods of one application, which has a namespace of its own for every tenth.
const PODS_OF_APPLICATION: usize = 20;
const PODS_OF_NAMESPACE: usize = 200;
const MIB: f64 = 1_048_576.0;
/// Updates timed one by one.
const UPDATES: usize = 300;

/// Everything there is to measure with so many pods.
pub(crate) async fn measure(pods: usize, other: &Other) -> Result<Report> {
    let plan = Plan { members: 1, applications: 0, pods: 0, fleetglass: false, ..Plan::default() };
    let mut stage = Stage::start(&plan).await?;
    fill(stage.members.first().context("no member")?, pods).await?;
    let mut report = Report::new(pods);
    measure_cache(&mut stage, pods, &mut report).await?;
    join(&mut stage, &[]).await?;
    measure_sync(&stage, pods, "fleetglass", &mut report).await?;
    let (fleetglass, member) = (stage.fleetglass()?, stage.members.first().context("no member")?);
    let ours = target(fleetglass, "search/cache")?;
    let theirs = Target::new(&member.url, &member.authority, ADMIN_TOKEN, member.pid())?;
    tracing::info!("reading from Fleetglass");
    measure_reads(&ours, pods, "fleetglass", &mut report).await?;
    tracing::info!("reading from the API server itself");
    measure_reads(&theirs, pods, "kube-apiserver", &mut report).await?;
    if let (Some(url), Some(pid)) = (&other.url, other.pid) {
        let authority = other.ca.as_ref().map(std::fs::read_to_string).transpose()?.unwrap_or_default();
        let target = Target::new(url, &authority, &other.token, pid)?;
        wait_for(url, &target, &stage).await?;
        tracing::info!("reading from {url}");
        measure_reads(&target, pods, "other", &mut report).await?;
    }
    tracing::info!("timing small answers");
    measure_smallest(stage.fleetglass()?, &mut report).await?;
    tracing::info!("timing updates");
    measure_updates(&theirs, &theirs, pods, "kube-apiserver", &mut report).await?;
    measure_updates(&ours, &theirs, pods, "fleetglass", &mut report).await?;
    tracing::info!("searching while much is updated");
    let search = target(fleetglass, "search")?;
    measure_storm(&stage, &search, &theirs, &mut report).await?;
    tracing::info!("adding a kind");
    measure_adding(&stage, &ours, &mut report).await?;
    Ok(report)
}

/// Tells whoever runs the other server what it is to follow, and waits until it does.
async fn wait_for(url: &str, target: &Target, stage: &Stage) -> Result<()> {
    let member = stage.members.first().context("no member")?.kubectl()?;
    tracing::info!(
        member = %member.kubeconfig().display(),
        control_plane = %stage.kubectl()?.kubeconfig().display(),
        "let {url} follow the Pods of the member, which the control plane knows as member1; these are the kubeconfigs of both"
    );
    eventually(Duration::from_secs(900), async || {
        let found = Reader::new(target).objects("/api/v1/namespaces/space-000/pods").await?;
        ensure!(found == Some(PODS_OF_NAMESPACE), "{url} shows {found:?} of {PODS_OF_NAMESPACE} Pods of a namespace");
        Ok(())
    })
    .await
}

/// The cache alone, which is all that karmada-search has: Fleetglass without its search index.
async fn measure_cache(stage: &mut Stage, pods: usize, report: &mut Report) -> Result<()> {
    tracing::info!("following without the search index");
    let column = "fleetglass, no index";
    join(stage, &["--search-index=false"]).await?;
    measure_sync(stage, pods, column, report).await?;
    let fleetglass = stage.fleetglass()?;
    let ours = target(fleetglass, "search/cache")?;
    let member = stage.members.first().context("no member")?;
    let theirs = Target::new(&member.url, &member.authority, ADMIN_TOKEN, member.pid())?;
    measure_updates(&ours, &theirs, pods, column, report).await?;
    stage.kubectl()?.run(&["delete", "resourceregistry", "pods"]).await?;
    if let Some(fleetglass) = stage.fleetglass.take() {
        fleetglass.stop()?;
    }
    Ok(())
}

async fn join(stage: &mut Stage, flags: &[&str]) -> Result<()> {
    let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
    stage.fleetglass = Some(Fleetglass::join(&stage.control_plane, &stage.etcd.url, stage.folder(), &flags).await?);
    Ok(())
}

fn target(fleetglass: &Fleetglass, below: &str) -> Result<Target> {
    let url = format!("{}/apis/search.karmada.io/v1alpha1/{below}", fleetglass.url);
    Target::new(&url, &fleetglass.authority, ADMIN_TOKEN, fleetglass.pid())
}

fn application(number: usize) -> Application {
    let per_namespace = PODS_OF_NAMESPACE / PODS_OF_APPLICATION;
    Application { number, namespace: format!("space-{:03}", number / per_namespace), pods: PODS_OF_APPLICATION }
}

async fn fill(member: &ApiServer, pods: usize) -> Result<()> {
    let filler = Arc::new(Filler::new(member)?);
    for namespace in 0..pods.div_ceil(PODS_OF_NAMESPACE) {
        filler.namespace(&format!("space-{namespace:03}")).await?;
    }
    let bar = ProgressBar::new(pods as u64);
    bar.set_style(ProgressStyle::with_template(
        "filling the member: {pos}/{len} pods, {elapsed}, {eta} left {wide_bar}",
    )?);
    let all = (0..pods).map(|index| application(index / PODS_OF_APPLICATION).pod(index % PODS_OF_APPLICATION));
    filler.pods(all.collect(), || bar.inc(1)).await?;
    bar.finish_and_clear();
    Ok(())
}

/// From the moment the registry is written to the moment everything is held.
async fn measure_sync(stage: &Stage, pods: usize, column: &str, report: &mut Report) -> Result<()> {
    let fleetglass = stage.fleetglass()?;
    let process = Process(fleetglass.pid());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (idle, idle_files) = (process.resident_bytes()?, process.file_bytes()?);
    let (cpu, begun) = (process.cpu()?, Instant::now());
    stage.kubectl()?.apply(&registry("pods", &[], &["v1/Pod"]).to_string()).await?;
    let client = fleetglass.client()?;
    let status = format!("{}/apis/search.karmada.io/v1alpha1/search/status", fleetglass.url);
    eventually(Duration::from_secs(300), async || {
        let answer: Value = client.get(&status).bearer_auth(ADMIN_TOKEN).send().await?.json().await?;
        let item = &answer["items"][0];
        ensure!(item["synced"] == true && item["objects"] == pods, "{item}");
        Ok(())
    })
    .await?;
    report.set(column, "first sync, s", begun.elapsed().as_secs_f64());
    // Training the dictionary goes on for a moment after the list is complete; it belongs to the price.
    tokio::time::sleep(Duration::from_secs(3)).await;
    report.set(column, "first sync, CPU s", (process.cpu()? - cpu).as_secs_f64());
    let held = process.resident_bytes()?;
    report.set(column, "resident idle, MiB", idle as f64 / MIB);
    report.set(column, "resident holding, MiB", held as f64 / MIB);
    report.set(column, "bytes an object above idle", held.saturating_sub(idle) as f64 / pods as f64);
    let files = process.file_bytes()?.saturating_sub(idle_files);
    report.set(column, "of it pages of files, bytes", files as f64 / pods as f64);
    Ok(())
}

async fn measure_reads(target: &Target, pods: usize, column: &str, report: &mut Report) -> Result<()> {
    let reader = Reader::new(target);
    let all = reader.repeat("/api/v1/pods", 5).await?;
    report.set(column, "list all, s", all.median.as_secs_f64());
    report.set(column, "list all, CPU s", all.cpu.as_secs_f64());
    report.set(column, "list all, MB/s", all.bytes as f64 / 1e6 / all.median.as_secs_f64());
    target.process.reset_peak()?;
    let before = target.process.resident_bytes()?;
    report.set(
        column,
        "list all, 8 readers, lists/s",
        reader.throughput("/api/v1/pods", 8, Duration::from_secs(6)).await?,
    );
    let peak = target.process.peak_bytes()?;
    report.set(column, "peak resident, 8 readers, MiB", peak as f64 / MIB);
    report.set(column, "of it for the readers, MiB", peak.saturating_sub(before) as f64 / MIB);
    let gzip = Reader::compressed(target)?.repeat("/api/v1/pods", 3).await?;
    report.set(column, "list all, gzip, s", gzip.median.as_secs_f64());
    report.set(column, "list all, gzip, MB", gzip.bytes as f64 / 1e6);
    report.set(column, "list all, gzip, CPU s", gzip.cpu.as_secs_f64());
    let page = reader.repeat("/api/v1/pods?limit=500", 50).await?;
    report.set(column, "page of 500, ms", page.median.as_secs_f64() * 1e3);
    let namespace = reader.repeat("/api/v1/namespaces/space-000/pods", 50).await?;
    report.set(column, "namespace of 200, ms", namespace.median.as_secs_f64() * 1e3);
    let number = pods / PODS_OF_APPLICATION / 2;
    let labelled = reader.repeat(&format!("/api/v1/pods?labelSelector=app%3Dapp-{number:03}"), 50).await?;
    report.set(column, "label selector, 20 of all, ms", labelled.median.as_secs_f64() * 1e3);
    let one = reader.repeat("/api/v1/namespaces/space-000/pods/app-000-00000", 1000).await?;
    report.set(column, "one object, ms", one.median.as_secs_f64() * 1e3);
    report.set(column, "one object, CPU ms", one.cpu.as_secs_f64() * 1e3);
    Ok(())
}

/// Lists of a kind that is held while another one is added: how many of them look as if there was nothing, and how soon the other
/// one is there.
async fn measure_adding(stage: &Stage, ours: &Target, report: &mut Report) -> Result<()> {
    let reader = Reader::new(ours);
    let adding = registry("pods", &[], &["v1/Pod", "v1/Namespace"]);
    stage.kubectl()?.apply(&adding.to_string()).await?;
    let (begun, mut empty, mut is_there) = (Instant::now(), 0_u32, false);
    while !is_there {
        let held = reader.objects("/api/v1/pods?limit=5").await?;
        empty += u32::from(held.is_none_or(|objects| objects == 0));
        is_there = reader.objects("/api/v1/namespaces?limit=5").await?.is_some_and(|objects| objects > 0);
        ensure!(begun.elapsed() < Duration::from_secs(60), "the kind does not come");
    }
    report.set("fleetglass", "empty answers while a kind is added", f64::from(empty));
    report.set("fleetglass", "a kind that was added is shown, ms", begun.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// What any answer costs: TLS, HTTP/2, and who asks. "ok" is all it says.
async fn measure_smallest(fleetglass: &Fleetglass, report: &mut Report) -> Result<()> {
    let target = Target::new(&fleetglass.url, &fleetglass.authority, ADMIN_TOKEN, fleetglass.pid())?;
    let smallest = Reader::new(&target).repeat("/livez", 1000).await?;
    report.set("fleetglass", "an answer of two bytes, ms", smallest.median.as_secs_f64() * 1e3);
    report.set("fleetglass", "an answer of two bytes, CPU ms", smallest.cpu.as_secs_f64() * 1e3);
    Ok(())
}

/// Every so-manieth pod, spread over all of them.
fn spread(pods: usize, many: usize) -> Vec<(String, String)> {
    let named = |index: usize| {
        let pod = index * (pods / many).max(1) % pods;
        let application = application(pod / PODS_OF_APPLICATION);
        let name = format!("{}-{:05}", application.name(), pod % PODS_OF_APPLICATION);
        (application.namespace, name)
    };
    (0..many).map(named).collect()
}

/// Updates in a second that are aimed at; the API server may bring fewer.
const STORM: f64 = 1000.0;

async fn measure_storm(stage: &Stage, search: &Target, theirs: &Target, report: &mut Report) -> Result<()> {
    let kubectl = stage.kubectl()?;
    kubectl.apply(&registry("light", &[], &["v1/ConfigMap"]).to_string()).await?;
    kubectl.run(&["wait", "--for=condition=Ready", "resourceregistry/light", "--timeout=30s"]).await?;
    let time = Duration::from_secs(10);
    let mut storm = measure::storm(search, theirs, STORM, time).await?;
    storm.delays.sort();
    let last = storm.delays.len().saturating_sub(1);
    let at = |percent: usize| storm.delays.get(last * percent / 100).copied().unwrap_or_default();
    report.set("fleetglass", "updates a second while searching", storm.rate);
    report.set("fleetglass", "update found by a query, p99, ms", at(99).as_secs_f64() * 1e3);
    Ok(())
}

async fn measure_updates(ours: &Target, theirs: &Target, pods: usize, column: &str, report: &mut Report) -> Result<()> {
    let cpu = ours.process.cpu()?;
    let mut delays = measure::update_delays(ours, theirs, spread(pods, UPDATES)).await?;
    delays.sort();
    let at = |percent: usize| delays.get((delays.len() - 1) * percent / 100).copied().unwrap_or_default();
    report.set(column, "update seen after commit, median, ms", at(50).as_secs_f64() * 1e3);
    report.set(column, "update seen after commit, p99, ms", at(99).as_secs_f64() * 1e3);
    // What the updates leave to be done is part of their price.
    tokio::time::sleep(Duration::from_secs(3)).await;
    report.set(column, "CPU for one update, ms", (ours.process.cpu()? - cpu).as_secs_f64() * 1e3 / UPDATES as f64);
    let held = ours.process.resident_bytes()? as f64 / MIB;
    report.set(column, "resident at the end, MiB", held);
    if let Some(idle) = report.value(column, "resident idle, MiB") {
        report.set(column, "bytes an object above idle after updates", (held - idle) * MIB / pods as f64);
    }
    Ok(())
}
