//! Measures the search index over many objects of many clusters: how fast it takes them in, what it takes, how soon it answers.
//!
//! In one process and without servers, because what is measured begins where an object has come in. The objects are pods as
//! API servers keep them, made from a seed, with what makes each differ: unique ids, container ids, addresses, times.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use indexer::cache::{Cache, PreparedChange};
use indexer::index::{Index, IndexSettings, IndexState, follow};
use indexer::query::evaluate::Evaluator;
use indexer::query::{Field, parse, parse_field};
use indexer::raw::ObjectReader;
use indexer::search::facets::count;
use indexer::search::order::Order;
use indexer::search::{Question, Scope, answer};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tests::crowd::{fill, resource};
use tokio_util::sync::CancellationToken;

/// As in the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What is measured.
#[derive(Debug, Parser)]
struct Arguments {
    /// Pods in all
    #[arg(long, default_value_t = 1_000_000)]
    objects: usize,
    /// Clusters that they are spread over
    #[arg(long, default_value_t = 1000)]
    clusters: usize,
    /// Where to write the figures as JSON
    #[arg(long)]
    output: Option<PathBuf>,
}

/// A figure: what, how much, what is aimed at.
type Figure = (&'static str, f64, &'static str);

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    let cache = Arc::new(Cache::default());
    let filling = (Arc::clone(&cache), arguments.objects, arguments.clusters);
    tokio::task::spawn_blocking(move || fill(&filling.0, filling.1, filling.2)).await??;
    let mut figures = vec![("resident, cache alone, MiB", resident()?, "")];
    let index = Arc::new(Index::default());
    let folder = tempfile::tempdir()?;
    let settings = IndexSettings { folder: Some(folder.path().to_path_buf()), memory: 64 << 20, disk: None };
    let stop = CancellationToken::new();
    let following = tokio::spawn(follow(Arc::clone(&cache), Arc::clone(&index), settings, stop.clone()));
    let seconds = until_built(&index, arguments.objects).await?;
    figures.push(("objects taken in a second", arguments.objects as f64 / seconds, ">= 20000"));
    // Merging goes on for a moment.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let bytes = walk(folder.path())?;
    figures.push(("bytes on the disk an object", bytes as f64 / arguments.objects as f64, "<= 600"));
    figures.push(("resident for the index, MiB", resident()? - figures[0].1, "<= 300"));
    let asking = (Arc::clone(&cache), Arc::clone(&index), arguments.objects);
    figures.extend(tokio::task::spawn_blocking(move || ask(&asking.0, &asking.1, asking.2)).await??);
    let churning = (Arc::clone(&cache), Arc::clone(&index));
    figures.extend(tokio::task::spawn_blocking(move || churn(&churning.0, &churning.1)).await??);
    figures.push(("resident at the end, MiB", resident()?, ""));
    stop.cancel();
    following.await?;
    print(&arguments, &figures)
}

fn print(arguments: &Arguments, figures: &[Figure]) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{} pods in {} clusters\n", arguments.objects, arguments.clusters)?;
    writeln!(output, "| {:44} | {:>10} | {:>8} |\n|-|-|-|", "work", "figure", "aim")?;
    for (what, figure, aim) in figures {
        writeln!(output, "| {what:44} | {figure:>10.2} | {aim:>8} |")?;
    }
    if let Some(path) = &arguments.output {
        let figures: serde_json::Map<String, Value> =
            figures.iter().map(|(what, figure, _)| ((*what).to_owned(), json!(figure))).collect();
        let report = json!({ "objects": arguments.objects, "clusters": arguments.clusters, "figures": figures });
        std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}

/// Resident memory that is the process's own; pages of the index's files can be had back at any time.
fn resident() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).context("no RssAnon")?;
    let kilobytes: f64 = line.split_whitespace().nth(1).context("no figure")?.parse()?;
    Ok(kilobytes / 1024.0)
}

fn walk(folder: &std::path::Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { walk(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

async fn until_built(index: &Index, objects: usize) -> Result<f64> {
    let begun = Instant::now();
    let bar = ProgressBar::new(objects as u64);
    bar.set_style(ProgressStyle::with_template("indexing: {pos}/{len}, {elapsed}, {eta} left {wide_bar}")?);
    while index.counters.documents.load(Ordering::Relaxed) < objects as u64 {
        if let IndexState::Failed(error) = index.state() {
            anyhow::bail!("the index failed: {error}");
        }
        bar.set_position(index.counters.indexed.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bar.finish_and_clear();
    Ok(begun.elapsed().as_secs_f64())
}

fn scope(query: &str) -> Result<Scope> {
    let evaluator = Evaluator::new(parse(query)?, Timestamp::now());
    Ok(Scope { evaluator, clusters: None, deadline: Instant::now() + Duration::from_secs(60) })
}

/// Milliseconds for the first page of 50, and objects that were found.
fn page(cache: &Cache, index: &Index, query: &str, order: &str) -> Result<(f64, u64)> {
    let scope = scope(query)?;
    let order = Order::parse(order, scope.evaluator.expression())?;
    let question = Question::new(scope, order, 50);
    let begun = Instant::now();
    let page = answer(cache, index, &question);
    anyhow::ensure!(!page.is_partial, "{query}: partial");
    Ok((begun.elapsed().as_secs_f64() * 1e3, page.remaining + page.hits.len() as u64))
}

/// Changes in a second while it is measured how soon they are found.
const CHANGES: usize = 1000;
const CHURN: Duration = Duration::from_secs(10);

/// Changes pods of one cluster all the time, and asks for one of them as soon as it is changed.
fn churn(cache: &Arc<Cache>, index: &Index) -> Result<Vec<Figure>> {
    let resource = cache.open(&resource().gvr);
    let (cluster, part) = resource.snapshot(None).parts.into_iter().next().context("no cluster")?;
    let mut writer = resource.writer(&cluster, &part.served);
    let reader = ObjectReader::new(&cluster, "v1", "Pod");
    let names: Vec<(String, String)> =
        part.objects.iter().map(|entry| (entry.namespace().to_owned(), entry.name().to_owned())).collect();
    let (mut times, mut waiting) = (Vec::new(), 0);
    let begun = Instant::now();
    let mut changed: usize = 0;
    while begun.elapsed() < CHURN {
        let (namespace, name) = names.get(changed % names.len()).context("no pods")?;
        let version = 1_000_000_000 + changed;
        let pod = json!({ "metadata": { "namespace": namespace, "name": name, "resourceVersion": version.to_string(),
            "labels": { "turn": format!("turn-{changed}") } }, "spec": { "nodeName": "node-001" } });
        let entry = writer.prepare(reader.read(&pod.to_string())?)?;
        let written = Instant::now();
        writer.apply([PreparedChange::Upsert(entry)]);
        if changed.is_multiple_of(CHANGES / 10) {
            let (_, found) = page(cache, index, &format!("label.turn:turn-{changed} name:{name}"), "")?;
            anyhow::ensure!(found == 1, "what was changed was not found: {found}");
            times.push(written.elapsed().as_secs_f64() * 1e3);
            waiting = waiting.max(index.queue(cache));
        }
        changed += 1;
        let due = Duration::from_secs_f64(changed as f64 / CHANGES as f64);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    let rate = changed as f64 / begun.elapsed().as_secs_f64();
    Ok(vec![
        ("changes a second while asking", rate, ""),
        ("a change is found within, p50, ms", percentiles(times.clone()).0, ""),
        ("a change is found within, p99, ms", percentiles(times).1, "<= 1000"),
        ("changes that waited for the index, at most", waiting as f64, ""),
    ])
}

fn percentiles(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times.get((times.len().saturating_sub(1)) * percent / 100).copied().unwrap_or_default();
    (at(50), at(99))
}

fn ask(cache: &Cache, index: &Index, objects: usize) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut random = StdRng::seed_from_u64(11);
    let mut time = |what: &'static str, order: &str, repeat: usize, query: &mut dyn FnMut(&mut StdRng) -> String| {
        let (mut times, mut found) = (Vec::new(), BTreeSet::new());
        for _ in 0..repeat {
            let (milliseconds, hits) = page(cache, index, &query(&mut random), order)?;
            times.push(milliseconds);
            found.insert(hits);
        }
        let largest = found.last().copied().unwrap_or_default();
        tracing::info!(what, largest, "found");
        anyhow::Ok(percentiles(times))
    };
    let number = |random: &mut StdRng| random.random_range(0..997);
    let term = time("term", "", 300, &mut |random| format!("label.app:app-{:03}", number(random)))?;
    figures.push(("term, page of 50, p50, ms", term.0, "<= 3"));
    figures.push(("term, page of 50, p99, ms", term.1, "<= 15"));
    let word = time("word", "", 100, &mut |random| format!("app-{:03}", number(random)))?;
    figures.push(("words by relevance, p50, ms", word.0, ""));
    let path = time("path", "", 100, &mut |random| format!("spec.nodeName:node-{:03}", random.random_range(0..50)))?;
    figures.push(("path, p50, ms", path.0, ""));
    let wildcard = time("wildcard", "", 20, &mut |random| format!("name:*{:03}-00*", number(random)))?;
    figures.push(("wildcard in the middle of a name, p50, ms", wildcard.0, "<= 200"));
    let wildcard = time("image", "", 20, &mut |_| "image:*proxy*".to_owned())?;
    figures.push(("image:*proxy*, every pod, p50, ms", wildcard.0, "<= 200"));
    let all = time("all", "", 20, &mut |_| "kind:Pod".to_owned())?;
    figures.push(("every pod, first page, p50, ms", all.0, ""));
    let recent = time("recent", "-created", 10, &mut |_| "created:>2026-01-20".to_owned())?;
    figures.push(("newest first of a time range, p50, ms", recent.0, ""));
    let both = time("both", "", 100, &mut |random| {
        format!("cluster:cluster-0{:03} label.tier:web -image:*app-1*", number(random))
    })?;
    figures.push(("three clauses in one cluster, p50, ms", both.0, ""));
    for (what, by, aim) in [
        ("facet by image, every pod, ms", "image", "<= 100"),
        ("facet by cluster and namespace, ms", "cluster,namespace", ""),
    ] {
        let fields: Result<Vec<Field>, _> = by.split(',').map(parse_field).collect();
        let fields = fields?;
        let mut times = Vec::new();
        for _ in 0..10 {
            let begun = Instant::now();
            let counted = count(cache, index, &scope("kind:Pod")?, &fields, 10)?;
            anyhow::ensure!(counted.total == objects as u64, "{} counted", counted.total);
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        figures.push((what, percentiles(times).0, aim));
    }
    Ok(figures)
}
