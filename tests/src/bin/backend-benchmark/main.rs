//! Measures how fast objects come into an OpenSearch node: as Fleetglass writes them, and one request an object, as karmada-search
//! does. Both into the same real node, from this process, so that processor time can be told apart.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use indexer::affinity::ClusterAffinity;
use indexer::backend::{self, Backends, BackendsSettings, Inputs};
use indexer::cache::Cache;
use indexer::connection::Discovery;
use indexer::member::{Location, Member, MemberAccess, MemberHealth};
use indexer::plan::{BackendReference, Registry, ResourceSelector};
use indexer::source::MemberSet;
use indexer::supervise::{Overview, RegistrySet};
use reqwest::Method;
use serde_json::{Value, json};
use tests::crowd::{cluster, fill, resource};
use tests::opensearch::OpenSearch;
use tests::usage::Process;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// As in the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What is measured.
#[derive(Debug, Parser)]
struct Arguments {
    /// Pods in all
    #[arg(long, default_value_t = 100_000)]
    objects: usize,
    /// Clusters that they are spread over
    #[arg(long, default_value_t = 10)]
    clusters: usize,
    /// Pods written one by one, to compare
    #[arg(long, default_value_t = 3_000)]
    one_by_one: usize,
}

/// What it took to write objects.
struct Cost {
    objects: usize,
    time: Duration,
    /// Processor time of this process, and of the node.
    own: Duration,
    node: Duration,
}

impl Cost {
    fn rate(&self) -> f64 {
        self.objects as f64 / self.time.as_secs_f64()
    }

    fn each(&self, all: Duration) -> f64 {
        all.as_secs_f64() * 1e3 / self.objects as f64
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let folder = tempfile::Builder::new().prefix("fleetglass-backend-").tempdir()?;
    let node = OpenSearch::start_for_measuring(folder.path()).await?;
    let cache = Arc::new(Cache::default());
    let filling = (Arc::clone(&cache), arguments.objects, arguments.clusters);
    tokio::task::spawn_blocking(move || fill(&filling.0, filling.1, filling.2)).await??;
    tracing::info!("letting the node compile what it needs");
    write_one_by_one(&cache, &node, arguments.one_by_one).await?;
    tracing::info!("writing one by one");
    let one_by_one = write_one_by_one(&cache, &node, arguments.one_by_one).await?;
    tracing::info!("writing as Fleetglass does");
    let ours = write_all(&cache, &node, &arguments).await?;
    print(&ours, &one_by_one)
}

/// A document as karmada-search writes it, with one request.
fn original_document(object: &Value) -> Value {
    let metadata = &object["metadata"];
    json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"],
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "labels": metadata["labels"],
            "creationTimestamp": metadata["creationTimestamp"], "annotations": metadata["annotations"], "deletionTimestamp": null,
        },
        "spec": object["spec"].to_string(), "status": object["status"].to_string(),
    })
}

async fn write_one_by_one(cache: &Cache, node: &OpenSearch, objects: usize) -> Result<Cost> {
    let disabled = json!({ "type": "object", "enabled": false });
    let text = json!({ "type": "text", "fields": { "keyword": { "type": "keyword", "ignore_above": 256 } } });
    let mapping = json!({
        "settings": { "index": { "number_of_shards": 1, "number_of_replicas": 0 } },
        "mappings": { "properties": {
            "apiVersion": { "type": "text" }, "kind": { "type": "text" }, "spec": disabled, "status": disabled,
            "metadata": { "properties": { "name": text, "namespace": text, "annotations": disabled, "labels": disabled,
                "creationTimestamp": { "type": "text" }, "deletionTimestamp": { "type": "text" } } },
        } },
    });
    node.ask(Method::PUT, "kubernetes-pod", Some(mapping)).await?;
    let cached = cache.get(&resource().gvr).context("nothing is cached")?;
    let snapshot = cached.snapshot(None);
    let decoder = cached.codec().decoder();
    let client = reqwest::Client::new();
    let pid = node.pid().context("the node does not run")?;
    let (began, own, theirs) = (Instant::now(), Process(std::process::id()).cpu()?, Process(pid).cpu()?);
    let entries = snapshot.parts.values().flat_map(|part| part.objects.iter()).take(objects);
    let mut written = 0;
    for entry in entries {
        let mut raw = Vec::new();
        decoder.append(entry.frame(), &mut raw)?;
        let object: Value = serde_json::from_slice(&raw)?;
        let id = object["metadata"]["uid"].as_str().context("a pod without uid")?;
        let url = format!("{}/kubernetes-pod/_doc/{id}", node.url);
        let answer = client.put(url).json(&original_document(&object)).send().await?;
        ensure!(answer.status().is_success(), "{}", answer.text().await?);
        answer.bytes().await?;
        written += 1;
    }
    let cost = Cost {
        objects: written,
        time: began.elapsed(),
        own: Process(std::process::id()).cpu()? - own,
        node: Process(pid).cpu()? - theirs,
    };
    node.ask(Method::DELETE, "kubernetes-pod", None).await?;
    Ok(cost)
}

/// What the backends' writer needs to know: members that have pods, and a registry over all of them.
fn inputs(cache: &Arc<Cache>, clusters: usize, url: &str) -> (Inputs, impl Send) {
    let named = |number: usize| indexer::resource::ClusterName::from(cluster(number));
    let member = |number: usize| Member {
        name: named(number),
        labels: BTreeMap::new(),
        location: Location::default(),
        health: MemberHealth::Ready,
        access: MemberAccess::Unusable("its objects are here already".to_owned()),
    };
    let overview = Overview {
        members: Arc::new(MemberSet {
            members: (0..clusters).map(|number| (named(number), member(number))).collect(),
            loaded: true,
            ..MemberSet::default()
        }),
        discoveries: (0..clusters).map(|number| (named(number), Arc::new(Discovery::new(vec![resource()])))).collect(),
        loaded: true,
        ..Overview::default()
    };
    let registry = Registry {
        name: "all".to_owned(),
        clusters: ClusterAffinity::default(),
        selectors: vec![ResourceSelector { api_version: "v1".to_owned(), kind: "Pod".to_owned(), namespace: None }],
        backend: Some(BackendReference { addresses: vec![url.to_owned()], secret: None }),
        searched_in: None,
    };
    let (overviews, overview) = watch::channel(Arc::new(overview));
    let (sets, registries) =
        watch::channel(Arc::new(RegistrySet { registries: vec![registry], loaded: true, left: Vec::new() }));
    let (told, secrets) = watch::channel(Arc::default());
    (Inputs { cache: Arc::clone(cache), overview, registries, secrets }, (overviews, sets, told))
}

async fn write_all(cache: &Arc<Cache>, node: &OpenSearch, arguments: &Arguments) -> Result<Cost> {
    let pid = node.pid().context("the node does not run")?;
    let (inputs, _kept) = inputs(cache, arguments.clusters, &node.url);
    let (backends, stop) = (Arc::new(Backends::default()), CancellationToken::new());
    let settings = BackendsSettings {
        prefix: "fleetglass".to_owned(),
        may_be_plain: false,
        in_original_layout: false,
        dead_letters: None,
    };
    let (began, own, theirs) = (Instant::now(), Process(std::process::id()).cpu()?, Process(pid).cpu()?);
    let following = tokio::spawn(backend::follow(inputs, Arc::clone(&backends), settings, stop.clone()));
    let objects = arguments.objects / arguments.clusters * arguments.clusters;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let written = backends
            .statuses()
            .first()
            .map_or(0, |status| status.health.counters.written.load(std::sync::atomic::Ordering::Relaxed));
        if written >= objects as u64 {
            break;
        }
        ensure!(began.elapsed() < Duration::from_secs(1200), "{written} of {objects} after 20 minutes");
    }
    let cost = Cost {
        objects,
        time: began.elapsed(),
        own: Process(std::process::id()).cpu()? - own,
        node: Process(pid).cpu()? - theirs,
    };
    let found = node.count("fleetglass-objects", json!({ "match_all": {} })).await?;
    ensure!(found == objects as u64, "{found} documents instead of {objects}");
    stop.cancel();
    following.await?;
    Ok(cost)
}

/// What, and how it is told from a cost.
type Row = (&'static str, fn(&Cost) -> f64);

/// Whose processor time, and how it is told from a cost.
type Part = (&'static str, fn(&Cost) -> Duration);

fn print(ours: &Cost, one_by_one: &Cost) -> Result<()> {
    let mut output = std::io::stdout().lock();
    let processors = std::thread::available_parallelism()?.get() as f64;
    let busy = |cost: &Cost, part: Duration| part.as_secs_f64() / cost.time.as_secs_f64() / processors * 100.0;
    writeln!(
        output,
        "| work | Fleetglass, {} objects | one request an object, {} objects |",
        ours.objects, one_by_one.objects
    )?;
    writeln!(output, "|-|-|-|")?;
    let rows: [Row; 4] = [
        ("objects a second", Cost::rate),
        ("seconds", |cost| cost.time.as_secs_f64()),
        ("CPU ms an object, ours", |cost| cost.each(cost.own)),
        ("CPU ms an object, the node's", |cost| cost.each(cost.node)),
    ];
    for (what, value) in rows {
        writeln!(output, "| {what} | {:.3} | {:.3} |", value(ours), value(one_by_one))?;
    }
    let parts: [Part; 2] = [("ours", |cost| cost.own), ("the node", |cost| cost.node)];
    for (whose, part) in parts {
        let (ours, single) = (busy(ours, part(ours)), busy(one_by_one, part(one_by_one)));
        writeln!(output, "| of all processors: {whose} | {ours:.0} % | {single:.0} % |")?;
    }
    writeln!(
        output,
        "\n{:.1} times as fast (aim 30), {:.2} of the processor time an object (aim 0.1)",
        ours.rate() / one_by_one.rate(),
        ours.each(ours.own) / one_by_one.each(one_by_one.own)
    )?;
    Ok(())
}
