//! What readers see of a simulated cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use indexer::raw::{ObjectReader, RawEvent, RawList};
use proptest::prelude::*;
use reqwest::{Client, Response};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::collection::{Chunks, Collection};
use super::counters::{Counting, OpenWatch};
use super::kinds::Kind;
use super::list::{Page, page_of, write};
use super::schedule::version_after;
use super::state::State;
use super::watch::{Terms, Watch};
use super::world::World;
use super::{Fault, Members, Settings};

/// Objects by namespace and name, with their versions.
type Held = BTreeMap<(String, String), u64>;

fn world(pods: usize) -> Arc<World> {
    Arc::new(World::new(&Settings { pods, ..Settings::default() }).unwrap())
}

fn text(chunks: impl Iterator<Item = Bytes>) -> String {
    String::from_utf8(chunks.collect::<Vec<_>>().concat()).unwrap()
}

/// An object's place and its version.
type Read = ((String, String), u64);

fn read(object: &str) -> Read {
    let read = ObjectReader::new(&"one".into(), "v1", "Pod").read(object).unwrap();
    ((read.namespace, read.name), read.resource_version)
}

/// A page's objects in their order, and the token of the next.
fn page(chunks: Chunks) -> (Vec<Read>, Option<String>) {
    let text = text(chunks);
    let list: RawList<'_> = serde_json::from_str(&text).unwrap();
    let items = list.items.unwrap().into_iter().map(|item| read(item.get())).collect();
    (items, list.metadata.continue_token)
}

fn listed(collection: &Collection, updates: usize) -> Held {
    page(write(collection, Page { from: collection.range.start, limit: 0, updates })).0.into_iter().collect()
}

fn apply(held: &mut Held, frames: &str) -> u64 {
    let mut last = 0;
    for line in frames.lines() {
        let event: RawEvent<'_> = serde_json::from_str(line).unwrap();
        let (key, version) = read(event.object.get());
        assert!(version > last, "versions go up");
        last = version;
        let before = match &*event.kind {
            "DELETED" => held.remove(&key),
            _ => held.insert(key, version),
        };
        assert_eq!(before.is_none(), event.kind == "ADDED", "{}", event.kind);
    }
    last
}

/// What a watch from a version tells up to so many updates.
fn watched(collection: &Collection, version: usize, updates: usize) -> String {
    let mut state = State::new(Instant::now(), 0.0, 0.0);
    state.add(updates);
    let (_sender, states) = tokio::sync::watch::channel(state);
    let terms = Terms { version, ends: Instant::now(), bookmarks: false, restored: 0 };
    let open = OpenWatch::new(&Arc::new(Counting::new()));
    let watch = Watch::new(collection.clone(), terms, states, open, None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    text(runtime.block_on(watch.stream().collect::<Vec<_>>()).into_iter())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_watch_from_any_list_comes_to_what_a_later_list_shows(
        pods in 1_usize..60, earlier in 0_usize..2000, more in 0_usize..200,
    ) {
        let collection = Collection::new(&world(pods), 3, Kind::PODS, None);
        let mut held = listed(&collection, earlier);
        let last = apply(&mut held, &watched(&collection, version_after(earlier), earlier + more));
        prop_assert!(last <= version_after(earlier + more) as u64);
        prop_assert_eq!(held, listed(&collection, earlier + more));
    }

    #[test]
    fn a_watch_of_a_namespace_tells_of_it_alone(earlier in 0_usize..9000, more in 0_usize..600) {
        let collection = Collection::new(&world(450), 3, Kind::PODS, Some("space-001"));
        let mut held = listed(&collection, earlier);
        apply(&mut held, &watched(&collection, version_after(earlier), earlier + more));
        prop_assert!(held.keys().all(|(namespace, _)| namespace == "space-001"));
        prop_assert_eq!(held, listed(&collection, earlier + more));
    }

    #[test]
    fn pages_of_any_size_have_each_object_once_and_in_order(limit in 1_usize..80, updates in 0_usize..5000) {
        let collection = Collection::new(&world(237), 3, Kind::PODS, None);
        let mut next = Page { from: 0, limit, updates };
        let mut seen = Vec::new();
        loop {
            let (items, token) = page(write(&collection, next));
            prop_assert!(items.len() <= limit);
            seen.extend(items);
            let Some(token) = token else { break };
            next = page_of(&token, limit).unwrap();
        }
        prop_assert_eq!(seen.len(), 237);
        prop_assert!(seen.is_sorted_by(|one, next| one.0 < next.0));
        prop_assert_eq!(seen.into_iter().collect::<Held>(), listed(&collection, updates));
    }
}

#[test]
fn a_watch_that_begins_between_a_deletion_and_its_creation_tells_the_creation() {
    let collection = Collection::new(&world(37), 3, Kind::PODS, None);
    let whole = watched(&collection, version_after(0), 37 * 20);
    let lines: Vec<&str> = whole.lines().collect();
    let at = lines.iter().position(|line| line.contains("\"DELETED\"")).unwrap();
    let deleted: RawEvent<'_> = serde_json::from_str(lines[at]).unwrap();
    let version = usize::try_from(read(deleted.object.get()).1).unwrap();
    assert_eq!(watched(&collection, version, 37 * 20).lines().collect::<Vec<_>>(), lines[at + 1..]);
}

/// Clusters that are served by this process, for as long as this is held.
struct Served {
    _folder: tempfile::TempDir,
    client: Client,
    url: String,
    token: String,
}

impl Served {
    async fn start(settings: Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let members = Members::open(&settings, 0, folder.path()).await.unwrap();
        let url = format!("https://{}", members.address().unwrap());
        tokio::spawn(members.serve());
        let config: Value =
            serde_yaml::from_str(&std::fs::read_to_string(folder.path().join("kubeconfig")).unwrap()).unwrap();
        let token = config["users"][0]["user"]["token"].as_str().unwrap().to_owned();
        let client = Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
        Self { _folder: folder, client, url, token }
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}/{path}", self.url)).bearer_auth(&self.token).send().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        self.get(path).await.json().await.unwrap()
    }

    async fn pods(&self, query: &str) -> Response {
        self.get(&format!("clusters/0001/api/v1/pods?{query}")).await
    }

    async fn post(&self, path: &str) -> Value {
        let request = self.client.post(format!("{}/control/{path}", self.url)).bearer_auth(&self.token);
        request.send().await.unwrap().json().await.unwrap()
    }

    async fn fault(&self, fault: Fault) {
        self.post(&format!("clusters/1/fault?kind={fault}")).await;
    }
}

fn small() -> Settings {
    Settings { clusters: 3, pods: 37, kinds: 10, ..Settings::default() }
}

/// The next line of a watch, read in pieces as they come.
async fn line(answer: &mut Response, pending: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut searched = 0;
    loop {
        if let Some(end) = pending[searched..].iter().position(|byte| *byte == b'\n') {
            return Some(pending.drain(..=searched + end).collect());
        }
        searched = pending.len();
        let chunk = timeout(Duration::from_secs(20), answer.chunk()).await.unwrap().ok()??;
        pending.extend_from_slice(&chunk);
    }
}

async fn event(answer: &mut Response, pending: &mut Vec<u8>) -> Value {
    serde_json::from_slice(&line(answer, pending).await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_cluster_says_what_it_serves_and_refuses_as_api_servers_do() {
    let served = Served::start(small()).await;
    assert_eq!(served.json("clusters/0001/version").await["major"], "1");
    let groups = served.json("clusters/0001/apis").await;
    assert_eq!(groups["kind"], "APIGroupDiscoveryList");
    let names: Vec<&Value> =
        groups["items"].as_array().unwrap().iter().map(|group| &group["metadata"]["name"]).collect();
    assert_eq!(names, ["apps", "batch", "networking.k8s.io"]);
    let name = served.json("clusters/0001/api/v1/pods?limit=1").await["items"][0]["metadata"]["name"].clone();
    let pod = served.json(&format!("clusters/0001/api/v1/namespaces/space-000/pods/{}", name.as_str().unwrap())).await;
    assert_eq!((&pod["kind"], &pod["metadata"]["name"]), (&"Pod".into(), &name));
    for (path, code) in [
        ("clusters/0001/api/v1/namespaces/space-000/pods/none", 404),
        ("clusters/0001/apis/none/v1/things", 404),
        ("clusters/0003/version", 404),
        ("clusters/0001/api/v1/pods?continue=none", 400),
        ("clusters/0001/api/v1/pods?resourceVersion=1000002", 504),
    ] {
        let answer = served.get(path).await;
        assert_eq!(answer.status().as_u16(), code, "{path}");
        assert_eq!(answer.json::<Value>().await.unwrap()["code"], code, "{path}");
    }
    let stranger = served.client.get(format!("{}/clusters/0001/version", served.url)).send().await.unwrap();
    assert_eq!(stranger.status(), 401);
}

#[tokio::test]
async fn a_streamed_list_ends_with_its_bookmark_and_goes_on_as_a_watch() {
    let served = Served::start(small()).await;
    let query = "watch=1&allowWatchBookmarks=1&sendInitialEvents=1&resourceVersionMatch=NotOlderThan&timeoutSeconds=30";
    let (mut watch, mut pending) = (served.pods(query).await, Vec::new());
    for _ in 0..37 {
        assert_eq!(event(&mut watch, &mut pending).await["type"], "ADDED");
    }
    let end = event(&mut watch, &mut pending).await;
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let version = served.post("clusters/1/update?count=1").await["resourceVersion"].clone();
    assert_eq!(event(&mut watch, &mut pending).await["object"]["metadata"]["resourceVersion"], version);
    let counters = served.json("control/counters").await;
    assert_eq!(
        (&counters["watches_open"], &counters["lists"], &counters["requests"]),
        (&1.into(), &1.into(), &1.into())
    );
}

#[tokio::test]
async fn what_is_older_than_the_history_is_gone() {
    let served = Served::start(Settings { history: 10, ..small() }).await;
    let first = served.json("clusters/0001/api/v1/pods?limit=5").await;
    assert_eq!(first["metadata"]["remainingItemCount"], 32);
    served.post("clusters/1/update?count=11").await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    assert_eq!(served.pods(&format!("limit=5&continue={token}")).await.status(), 410);
    let mut watch = served.pods("watch=1&resourceVersion=1000000").await;
    let error = event(&mut watch, &mut Vec::new()).await;
    assert_eq!((&error["type"], &error["object"]["code"]), (&"ERROR".into(), &410.into()));
    let last = served.pods("watch=1&allowWatchBookmarks=1&timeoutSeconds=0&resourceVersion=1000002").await;
    let text = last.text().await.unwrap();
    assert_eq!((text.lines().count(), text.matches("BOOKMARK").count()), (11, 1), "ten updates, one bookmark");
}

#[tokio::test]
async fn sick_clusters_answer_as_they_are_told() {
    let served = Served::start(small()).await;
    served.fault(Fault::OtherCluster).await;
    let stranger = served.json("clusters/0001/api/v1/pods").await;
    assert_eq!(stranger["metadata"]["resourceVersion"], "500000");
    served.fault(Fault::WrongKind).await;
    assert_eq!(served.json("clusters/0001/api/v1/pods").await["kind"], "DeploymentList");
    served.fault(Fault::InvalidUtf8).await;
    assert!(String::from_utf8(served.pods("").await.bytes().await.unwrap().to_vec()).is_err());
    served.fault(Fault::Huge).await;
    let list = served.pods("").await.bytes().await.unwrap();
    assert!((50_000_000..51_000_000).contains(&list.len()));
    assert_eq!(serde_json::from_slice::<Value>(&list).unwrap()["items"].as_array().unwrap().len(), 38);
    served.fault(Fault::Reset).await;
    assert!(served.pods("").await.bytes().await.is_err());
    let silent = served.pods("watch=1&resourceVersion=1000006").await;
    assert!(timeout(Duration::from_secs(20), silent.bytes()).await.unwrap().is_err());
    served.fault(Fault::Empty).await;
    assert!(served.pods("").await.bytes().await.unwrap().is_empty());
    served.fault(Fault::Nonsense).await;
    assert!(served.pods("").await.text().await.unwrap().contains("<html>"));
    served.fault(Fault::Hang).await;
    let asked = served.client.get(format!("{}/clusters/0001/version", served.url)).bearer_auth(&served.token).send();
    assert!(timeout(Duration::from_millis(300), asked).await.is_err());
    assert!(served.get("clusters/0002/version").await.status().is_success(), "its neighbour is well");
    served.fault(Fault::None).await;
    let healed = served.json("clusters/0001/api/v1/pods").await;
    assert_eq!(healed["items"].as_array().unwrap().len(), 37);
    // Each of the faults that showed what isn't so has moved it on.
    assert_eq!(healed["metadata"]["resourceVersion"], "1000006");
}

#[tokio::test]
async fn an_open_watch_notices_a_fault_by_itself() {
    let served = Served::start(small()).await;
    for fault in [Fault::HalfFrame, Fault::Reset, Fault::Expired, Fault::Empty, Fault::OtherCluster, Fault::Nonsense] {
        let version = served.json("clusters/0001/api/v1/pods?limit=1").await["metadata"]["resourceVersion"].clone();
        let mut watch = served.pods(&format!("watch=1&resourceVersion={}", version.as_str().unwrap())).await;
        served.fault(fault).await;
        let whole = async {
            let mut whole = Vec::new();
            loop {
                match watch.chunk().await {
                    Ok(Some(chunk)) => whole.extend_from_slice(&chunk),
                    Ok(None) => return (whole, true),
                    Err(_) => return (whole, false),
                }
            }
        };
        let (whole, cleanly) = timeout(Duration::from_secs(20), whole).await.unwrap();
        assert_eq!(cleanly, !matches!(fault, Fault::Reset | Fault::OtherCluster), "{fault}");
        let text = String::from_utf8(whole).unwrap();
        match fault {
            Fault::HalfFrame => assert!(text.starts_with("{\"type\":\"ADDED\"") && !text.ends_with('\n')),
            Fault::Expired => assert!(text.contains("\"code\":410")),
            Fault::Nonsense => assert!(text.contains("<html>")),
            _ => assert_eq!(text, ""),
        }
        served.fault(Fault::None).await;
    }
}

#[tokio::test]
async fn who_was_shown_what_is_not_so_must_list_again() {
    let served = Served::start(small()).await;
    let (mut watch, mut pending) = (served.pods("watch=1&resourceVersion=1000000").await, Vec::new());
    served.fault(Fault::Huge).await;
    assert!(line(&mut watch, &mut pending).await.unwrap().len() > 50_000_000);
    served.fault(Fault::None).await;
    assert_eq!(event(&mut watch, &mut pending).await["object"]["code"], 410);
    let mut watch = served.pods("watch=1&resourceVersion=1000000").await;
    assert_eq!(event(&mut watch, &mut Vec::new()).await["object"]["code"], 410);
}

#[tokio::test]
async fn updates_come_at_the_rate_that_is_asked_for() {
    let served = Served::start(small()).await;
    let (mut watch, mut pending) = (served.pods("watch=1&resourceVersion=1000000").await, Vec::new());
    served.post("clusters/1/rate?updates-per-second=200").await;
    let begun = Instant::now();
    for _ in 0..100 {
        assert_eq!(event(&mut watch, &mut pending).await["object"]["kind"], "Pod");
    }
    assert!((300..30_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}
