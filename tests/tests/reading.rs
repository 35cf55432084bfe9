//! Servers that answer out of OpenSearch: what they say is what the objects say, and what the index of this program says.

#[path = "../../indexer/src/index/tests/samples.rs"]
#[allow(dead_code, reason = "some of it is for the index alone")]
mod samples;
mod shared;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use reqwest::Method;
use samples::{FIELDS, KINDS, Written};
use serde_json::{Value, json};
use shared::run;
use tempfile::TempDir;
use tests::eventually;
use tests::opensearch::OpenSearch;
use tests::standalone::Standalone;

const SOON: Duration = Duration::from_secs(60);

fn registry(name: &str, node: Option<&OpenSearch>) -> String {
    let selectors: Vec<Value> = KINDS
        .iter()
        .map(|(group, version, kind)| {
            let api_version = if group.is_empty() { (*version).to_owned() } else { format!("{group}/{version}") };
            json!({ "apiVersion": api_version, "kind": kind })
        })
        .collect();
    let mut registry = json!({ "apiVersion": "search.karmada.io/v1alpha1", "kind": "ResourceRegistry",
        "metadata": { "name": name }, "spec": { "targetCluster": {}, "resourceSelectors": selectors } });
    if let Some(node) = node {
        registry["spec"]["backendStore"] = json!({ "openSearch": { "addresses": [node.url] } });
    }
    registry.to_string()
}

/// Generates one value; the same ones in every run.
fn drawn<T>(strategy: &impl Strategy<Value = T>, runner: &mut TestRunner) -> Result<T> {
    Ok(strategy.new_tree(runner).map_err(|reason| anyhow::anyhow!("{reason}"))?.current())
}

/// Writes objects as manifests; how many there are.
fn write_clusters(folder: &Path, written: &[Written]) -> Result<usize> {
    let mut present: BTreeMap<String, Value> = BTreeMap::new();
    for Written { cluster, kind, namespace, name, body } in written {
        let (group, version, kind) = KINDS[*kind];
        let path = format!("{cluster}/{kind}-{namespace}-{name}.json");
        let Some(mut object) = body.clone() else {
            present.remove(&path);
            continue;
        };
        object["apiVersion"] = json!(if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") });
        object["kind"] = json!(kind);
        object["metadata"]["name"] = json!(name);
        object["metadata"]["namespace"] = json!(namespace);
        present.insert(path, object);
    }
    for (path, object) in &present {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        std::fs::write(path, object.to_string())?;
    }
    Ok(present.len())
}

/// Servers over the same objects, each with its own way to answer, and the node that some of them ask.
struct World {
    node: OpenSearch,
    servers: BTreeMap<&'static str, Standalone>,
    folder: TempDir,
}

/// The one that looks at every object.
const REFERENCE: &str = "objects";

async fn world(written: &[Written]) -> Result<World> {
    let folder = tempfile::Builder::new().prefix("fleetglass-reading-").tempdir()?;
    let node = OpenSearch::start(folder.path()).await?;
    let clusters = folder.path().join("clusters");
    let objects = write_clusters(&clusters, written)?;
    let members = format!("--members=snapshot:{}", clusters.display());
    let mut servers = BTreeMap::new();
    for (name, flags) in [
        (REFERENCE, vec![&*members, "--search-index=false"]),
        ("index", vec![&*members]),
        ("opensearch beside a cache", vec![&*members, "--search-index=false", "--search-backend=opensearch"]),
        ("opensearch alone", vec![&*members, "--store=backend"]),
    ] {
        let own = folder.path().join(name.replace(' ', "-"));
        let server = Standalone::start(&own, &flags).await?;
        let sends = if name == REFERENCE { None } else { Some(&node) };
        server.kubectl.apply(&registry("all", sends)).await?;
        servers.insert(name, server);
    }
    for (name, server) in &servers {
        eventually(SOON, async || {
            let status = server.ask("status", &[]).await?;
            // A server without a cache is told by another, a moment later, what is followed.
            let items = status["items"].as_array().cloned().unwrap_or_default();
            let synced = !items.is_empty() && items.iter().all(|item| item["synced"] == true);
            ensure!(synced, "{name}: {status}");
            let of_backends = status["backends"].as_array().cloned().unwrap_or_default();
            ensure!(of_backends.iter().all(|backend| backend["state"] == "Following"), "{name}: {of_backends:?}");
            let found = server.ask("facets", &[("by", "kind")]).await?;
            ensure!(found["total"] == objects, "{name}: {found} of {objects}");
            Ok(())
        })
        .await?;
    }
    Ok(World { node, servers, folder })
}

/// What an answer shows, in its order, and what it says of the rest.
fn shown(answer: &Value) -> (Vec<String>, Value, bool) {
    let items = answer["items"].as_array().cloned().unwrap_or_default();
    let name = |item: &Value| {
        let metadata = &item["metadata"];
        let cluster = &metadata["annotations"]["resource.karmada.io/cached-from-cluster"];
        format!("{}/{}/{}/{}", cluster, item["kind"], metadata["namespace"], metadata["name"])
    };
    let has_next = answer["metadata"]["continue"].as_str().is_some_and(|token| !token.is_empty());
    (items.iter().map(name).collect(), answer["metadata"]["remainingItemCount"].clone(), has_next)
}

/// One question, and up to so many pages of its answer.
struct Asked {
    query: String,
    order: String,
    limit: usize,
    pages: usize,
}

impl Asked {
    async fn of(&self, server: &Standalone) -> Result<Vec<(Vec<String>, Value, bool)>> {
        let limit = self.limit.to_string();
        let mut pages = Vec::new();
        let mut token = String::new();
        for _ in 0..self.pages {
            let parameters = [
                ("q", &*self.query),
                ("orderBy", &*self.order),
                ("limit", &*limit),
                ("continue", &*token),
                ("count", "true"),
            ];
            let answer = server.ask("query", &parameters).await?;
            pages.push(shown(&answer));
            token = answer["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            if token.is_empty() {
                break;
            }
        }
        Ok(pages)
    }
}

#[test]
fn opensearch_answers_as_the_index_and_as_looking_at_every_object_do() -> Result<()> {
    run(async || {
        let mut runner = TestRunner::deterministic();
        let written = drawn(&prop::collection::vec(samples::written(), 220..260), &mut runner)?;
        let world = world(&written).await?;
        let reference = world.servers.get(REFERENCE).context("no reference")?;
        let others: Vec<_> = world.servers.iter().filter(|(name, _)| **name != REFERENCE).collect();
        let strategy = (
            samples::expression(),
            samples::order(),
            1usize..9,
            1usize..4,
            prop::sample::subsequence(FIELDS.to_vec(), 1..4),
        );
        let mut found = 0;
        for _ in 0..QUESTIONS {
            let (query, order, limit, pages, by) = drawn(&strategy, &mut runner)?;
            let asked = Asked { query, order, limit, pages };
            let by = by.join(",");
            let counted = [("q", &*asked.query), ("by", &*by), ("limit", "5")];
            let (expected, counts) = (asked.of(reference).await?, reference.ask("facets", &counted).await?);
            found += usize::from(counts["total"] != 0);
            for (name, server) in &others {
                assert_eq!(asked.of(server).await?, expected, "{name}: {} by {}", asked.query, asked.order);
                assert_eq!(server.ask("facets", &counted).await?, counts, "{name}: {} by {by}", asked.query);
            }
        }
        // A label that nothing has, behind all that something has.
        let nothing = [("by", "label.zzz"), ("limit", "5")];
        let counts = reference.ask("facets", &nothing).await?;
        for (name, server) in &others {
            assert_eq!(server.ask("facets", &nothing).await?, counts, "{name}");
        }
        ensure!(found > QUESTIONS / 4, "only {found} of {QUESTIONS} questions found anything");
        world.servers.into_values().try_for_each(Standalone::stop)
    })
}

/// How many questions are drawn.
const QUESTIONS: usize = 150;

#[test]
fn a_server_without_a_cache_shows_what_others_wrote_and_says_what_it_cannot_do() -> Result<()> {
    run(async || {
        let mut runner = TestRunner::deterministic();
        let written = drawn(&prop::collection::vec(samples::written(), 120..121), &mut runner)?;
        let world = world(&written).await?;
        let (reference, reader) = (&world.servers[REFERENCE], &world.servers["opensearch alone"]);
        for path in ["apis/apps/v1/deployments", "api/v1/namespaces/shop/pods", "api/v1/configmaps/web-a"] {
            let lists =
                (reference.ask(&format!("cache/{path}"), &[]).await?, reader.ask(&format!("cache/{path}"), &[]).await?);
            ensure!(!shown(&lists.0).0.is_empty(), "{path}: {}", lists.0);
            assert_eq!(shown(&lists.1).0, shown(&lists.0).0, "{path}");
            assert_eq!(lists.1["items"], lists.0["items"], "{path}: whole objects, byte for value");
        }
        // A page at a time, with selectors.
        let selected = [("labelSelector", "app"), ("limit", "2")];
        let all = shown(&reference.ask("cache/api/v1/pods", &selected[..1]).await?).0;
        let (mut paged, mut token) = (Vec::new(), String::new());
        loop {
            let parameters = [selected[0], selected[1], ("continue", &token)];
            let page = reader.ask("cache/api/v1/pods", &parameters).await?;
            paged.extend(shown(&page).0);
            token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(paged, all);
        let table = reader.kubectl.run(&["get", "--raw", "/apis/search.karmada.io/v1alpha1/search/cache/apis"]).await?;
        ensure!(table.contains("\"apps\""), "{table}");
        for (what, parameters) in [
            ("cache/api/v1/pods", vec![("watch", "true")]),
            ("query", vec![("q", "web"), ("watch", "true")]),
            ("query", vec![("q", "web"), ("explain", "true")]),
            ("differences", vec![]),
        ] {
            let refused = reader.answer(what, &parameters).await?;
            assert_eq!(refused.status().as_u16(), 400, "{what} {parameters:?}");
            let text = refused.text().await?;
            ensure!(text.contains("--store=cache"), "{text}");
        }
        let secrets = reader.answer("cache/api/v1/secrets", &[]).await?;
        let warnings: Vec<&str> =
            secrets.headers().get_all("warning").iter().filter_map(|value| value.to_str().ok()).collect();
        ensure!(warnings.iter().any(|warning| warning.contains("no data of Secrets")), "{warnings:?}");
        // A backend that is away is an error that names it, never an empty answer.
        let World { mut node, servers, folder: _folder } = world;
        node.kill();
        for what in ["query", "cache/api/v1/pods"] {
            let refused = servers["opensearch alone"].answer(what, &[]).await?;
            assert_eq!(refused.status().as_u16(), 503, "{what}");
            let text = refused.text().await?;
            ensure!(text.contains(&node.url), "{text}");
        }
        servers.into_values().try_for_each(Standalone::stop)
    })
}

/// A ConfigMap of a cluster.
fn map(world: &World, name: &str) -> std::path::PathBuf {
    world.folder.path().join(format!("clusters/paged/ConfigMap-shop-{name}.json"))
}

fn write_map(world: &World, name: &str) -> Result<()> {
    let metadata = json!({ "name": name, "namespace": "shop", "labels": { "of": "pages" } });
    let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata });
    std::fs::create_dir_all(map(world, name).parent().context("a folder")?)?;
    Ok(std::fs::write(map(world, name), object.to_string())?)
}

/// Names on a page, and the token of the next one.
async fn page(server: &Standalone, what: &str, token: &str) -> Result<(Vec<String>, String)> {
    let parameters = [("q", "label.of:pages"), ("orderBy", "name"), ("limit", "3"), ("continue", token)];
    let listed = [("labelSelector", "of=pages"), ("limit", "3"), ("continue", token)];
    let parameters = if what == "query" { &parameters[..] } else { &listed[..] };
    let answer = server.ask(what, parameters).await?;
    let items = answer["items"].as_array().context("no items")?.iter();
    let names = items.map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect();
    Ok((names, answer["metadata"]["continue"].as_str().unwrap_or_default().to_owned()))
}

async fn further_pages(server: &Standalone, what: &str, mut token: String) -> Result<Vec<String>> {
    let mut all = Vec::new();
    while !token.is_empty() {
        let (names, next) = page(server, what, &token).await?;
        all.extend(names);
        token = next;
    }
    Ok(all)
}

async fn shows(server: &Standalone, expected: &[String]) -> Result<()> {
    eventually(SOON, async || {
        let (mut all, token) = page(server, "query", "").await?;
        all.extend(further_pages(server, "query", token).await?);
        ensure!(all == expected, "{all:?} instead of {expected:?}");
        Ok(())
    })
    .await
}

#[test]
fn further_pages_out_of_opensearch_show_what_there_was_when_the_first_one_was_given() -> Result<()> {
    run(async || {
        let mut runner = TestRunner::deterministic();
        let written = drawn(&prop::collection::vec(samples::written(), 20..21), &mut runner)?;
        let world = world(&written).await?;
        let reader = &world.servers["opensearch alone"];
        let named = |numbers: std::ops::Range<u32>| numbers.map(|number| format!("map-{number}")).collect::<Vec<_>>();
        let (before, after) = (named(10..20), [named(10..15), vec!["map-15b".to_owned()], named(16..20)].concat());
        for what in ["query", "cache/api/v1/namespaces/shop/configmaps"] {
            std::fs::remove_file(map(&world, "map-15b")).ok();
            before.iter().try_for_each(|name| write_map(&world, name))?;
            shows(reader, &before).await?;
            let (first, token) = page(reader, what, "").await?;
            let (_, other) = page(reader, what, "").await?;
            std::fs::remove_file(map(&world, "map-15"))?;
            write_map(&world, "map-15b")?;
            shows(reader, &after).await?;
            assert_eq!([first, further_pages(reader, what, token).await?].concat(), before, "{what}");
            // When OpenSearch has forgotten that moment, it goes on at the present one.
            world.node.ask(Method::DELETE, "_search/point_in_time/_all", None).await?;
            assert_eq!(further_pages(reader, what, other).await?, after[3..], "{what}");
        }
        // Nothing is kept of answers that were read to their end.
        eventually(SOON, async || {
            let open = world.node.open_points_in_time().await?;
            ensure!(open == 0, "{open} points in time are open");
            Ok(())
        })
        .await?;
        world.servers.into_values().try_for_each(Standalone::stop)
    })
}
