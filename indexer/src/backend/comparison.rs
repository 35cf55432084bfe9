//! What a backend has of a collection against what the cache holds of it, page by page.
//!
//! First the backend's documents are gone through, ids and states only: those that are as they should be are done with, those
//! that are too many are to be deleted. Then come the objects that were not among them, or in another state. What changes
//! meanwhile comes by the cache's feed; to look at an object twice does no harm.

use std::collections::{HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use opensearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use twox_hash::XxHash3_64;

use super::BackendError;
use super::assignment::Assignment;
use super::client::{Client, Request};
use super::document::{self, Collection};
use super::queue::Item;
use crate::cache::Part;
use crate::entry::{Entries, Entry, EntryKey};
use crate::plan::Scope;

/// Documents of a page.
const PAGE: usize = 5_000;
/// Objects looked at in one go.
const AT_ONCE: usize = 20_000;
/// How long the backend keeps a scan that nobody asks on with.
const KEEP: &str = "5m";
/// Groups of a page of the list of collections.
const COLLECTIONS: usize = 1_000;

/// A comparison under way.
#[derive(Debug)]
pub(super) struct Comparison {
    pub(super) collection: Arc<Collection>,
    objects: Entries,
    scope: Scope,
    /// What else is wanted, and how.
    assignment: Arc<Assignment>,
    /// Objects whose document is not known to be right, by a hash of its id: the state that it should have.
    expected: HashMap<u64, u64, ahash::RandomState>,
    /// Those among them of which there is a document in another state.
    differing: HashSet<u64, ahash::RandomState>,
    scan: Scan,
}

#[derive(Debug)]
enum Scan {
    Before,
    Going {
        scroll_id: String,
    },
    /// All documents are known; objects are gone through, up to this one so far.
    Done {
        after: Option<Entry>,
    },
}

#[derive(Deserialize)]
struct Page {
    #[serde(rename = "_scroll_id")]
    scroll_id: Option<String>,
    #[serde(flatten)]
    completeness: Completeness,
    hits: Hits,
}

/// A search may leave out what some shard has, and answers all the same.
#[derive(Deserialize)]
struct Completeness {
    #[serde(default)]
    timed_out: bool,
    #[serde(rename = "_shards", default)]
    shards: Shards,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Shards {
    failed: u64,
}

impl Completeness {
    fn check(&self) -> Result<(), BackendError> {
        if self.timed_out || self.shards.failed > 0 {
            let failed = self.shards.failed;
            return Err(BackendError::Unsuitable(format!("a search left something out: {failed} shards failed")));
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Hits {
    hits: Vec<Hit>,
}

#[derive(Deserialize)]
struct Hit {
    #[serde(rename = "_id")]
    id: String,
    #[serde(rename = "_version", default)]
    version: u64,
    #[serde(default)]
    fields: HitFields,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct HitFields {
    state: Vec<String>,
    namespace: Vec<String>,
    name: Vec<String>,
}

impl Comparison {
    /// Of a collection with what is wanted of it; everything is too much where nothing is.
    pub(super) fn new(collection: Arc<Collection>, wanted: Option<&Part>, assignment: &Arc<Assignment>) -> Self {
        let (objects, scope) = match wanted {
            Some(part) => {
                let share = assignment.collections.get(&collection);
                (part.objects.clone(), share.map_or(Scope::All, |share| share.scope.clone()))
            }
            None => (Entries::new(), Scope::All),
        };
        Self {
            collection,
            objects,
            scope,
            assignment: Arc::clone(assignment),
            expected: HashMap::default(),
            differing: HashSet::default(),
            scan: Scan::Before,
        }
    }

    /// Objects that there are.
    pub(super) fn objects(&self) -> usize {
        self.objects.len()
    }

    /// Whether the backend has been asked for all that it has.
    pub(super) fn is_scanned(&self) -> bool {
        matches!(self.scan, Scan::Done { .. })
    }

    /// Asks the backend for the next documents: the items to be deleted among them.
    pub(super) async fn scan(&mut self, client: &Client, alias: &str) -> Result<Vec<Item>, BackendError> {
        let page = match &self.scan {
            Scan::Before => {
                self.expect().await;
                self.first_page(client, alias).await
            }
            Scan::Going { scroll_id } => next_page(client, scroll_id).await,
            Scan::Done { .. } => return Ok(Vec::new()),
        };
        let page = match page.and_then(|page| page.completeness.check().map(|()| page)) {
            Ok(page) => page,
            Err(error) => {
                // A page that was refused before anybody looked at it can be asked for again; else all is gone through again.
                if !matches!(error.status(), Some(429)) {
                    self.abandon(client).await;
                }
                return Err(error);
            }
        };
        let too_many = page.hits.hits.iter().filter_map(|hit| self.look_at(hit)).collect();
        self.scan = match page.scroll_id {
            Some(scroll_id) if !page.hits.hits.is_empty() => Scan::Going { scroll_id },
            scroll_id => {
                end(client, scroll_id).await;
                Scan::Done { after: None }
            }
        };
        Ok(too_many)
    }

    /// Forgets what was seen of the backend.
    pub(super) async fn abandon(&mut self, client: &Client) {
        if let Scan::Going { scroll_id } = std::mem::replace(&mut self.scan, Scan::Before) {
            end(client, Some(scroll_id)).await;
        }
    }

    async fn expect(&mut self) {
        self.expected.clear();
        self.differing.clear();
        for (number, entry) in self.objects.iter().enumerate() {
            if self.scope.contains(entry.namespace()) {
                self.expected.insert(self.key(entry), entry.version().fingerprint);
            }
            if number % AT_ONCE == AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn key(&self, entry: &Entry) -> u64 {
        hash(&document::id(&self.collection, entry.namespace(), entry.name()))
    }

    async fn first_page(&self, client: &Client, alias: &str) -> Result<Page, BackendError> {
        // Documents are found by searches only after a refresh, which else comes a second later.
        refresh(client, alias).await?;
        let Collection { cluster, group, resource } = &*self.collection;
        let body = json!({
            "size": PAGE,
            "sort": ["_doc"],
            "_source": false,
            "version": true,
            "docvalue_fields": ["state", "namespace", "name"],
            "query": { "bool": { "filter": [
                { "term": { "cluster": cluster } }, { "term": { "group": group } }, { "term": { "resource": resource } },
            ] } },
        });
        let path = format!("{alias}/_search");
        let parameters = [("scroll", KEEP), WHOLE];
        client.ask(Request::new(Method::Post, &path).with(&parameters).json(&body)).await
    }

    /// The item that deletes a document, if there is no object for it.
    fn look_at(&mut self, hit: &Hit) -> Option<Item> {
        let key = hash(&hit.id);
        let Some(fingerprint) = self.expected.get(&key) else {
            let text = |values: &[String]| values.first().cloned().unwrap_or_default();
            let (namespace, name) = (text(&hit.fields.namespace), text(&hit.fields.name));
            if self.assignment.is_partial && !self.scope.contains(&namespace) {
                return None;
            }
            let item = Item::new(&self.collection, &namespace, &name);
            return Some(Item { id: hit.id.as_str().into(), deleted: Some(behind(hit.version)), ..item });
        };
        if hit.fields.state.first().is_some_and(|state| *state == self.assignment.state_of(*fingerprint)) {
            self.expected.remove(&key);
        } else {
            self.differing.insert(key);
        }
        None
    }

    /// Some of the objects whose documents are missing or not as they should be; none if there are no more.
    pub(super) fn next_missing(&mut self, most: usize) -> Option<Vec<Item>> {
        let Scan::Done { after } = &mut self.scan else { return Some(Vec::new()) };
        if self.expected.is_empty() {
            return None;
        }
        let behind = after.as_ref().map_or(Bound::Unbounded, |entry| Bound::Excluded(entry.key()));
        let entries = self.objects.range::<_, EntryKey<'_>>((behind, Bound::Unbounded)).take(AT_ONCE);
        let (mut missing, mut last) = (Vec::new(), None);
        for entry in entries {
            let item = Item::new(&self.collection, entry.namespace(), entry.name());
            last = Some(entry.clone());
            let key = hash(&item.id);
            if self.expected.remove(&key).is_some() {
                // The document may be that of an object which has gone since, with this one in its place.
                missing.push(Item { replaces: self.differing.remove(&key), ..item });
            }
            if missing.len() >= most {
                break;
            }
        }
        *after = Some(last?);
        Some(missing)
    }
}

/// The version of a deletion that nobody has told of: what an earlier writer still sends of the document comes too late.
fn behind(version: u64) -> u64 {
    version.saturating_add(1)
}

fn hash(id: &str) -> u64 {
    XxHash3_64::oneshot(id.as_bytes())
}

/// Only a whole answer is one.
const WHOLE: (&str, &str) = ("allow_partial_search_results", "false");

/// Shows to searches all that was written before.
async fn refresh(client: &Client, alias: &str) -> Result<(), BackendError> {
    let path = format!("{alias}/_refresh");
    client.ask::<Value>(Request::new(Method::Post, &path)).await.map(drop)
}

async fn next_page(client: &Client, scroll_id: &str) -> Result<Page, BackendError> {
    let body = json!({ "scroll": KEEP, "scroll_id": scroll_id });
    // Whoever is asked twice gives the page behind.
    client.ask_once(Request::new(Method::Post, "_search/scroll").json(&body)).await
}

async fn end(client: &Client, scroll_id: Option<String>) {
    let Some(scroll_id) = scroll_id else { return };
    let body = json!({ "scroll_id": [scroll_id] });
    if let Err(error) = client.ask::<Value>(Request::new(Method::Delete, "_search/scroll").json(&body)).await {
        // It ends by itself some minutes later.
        tracing::debug!(%error, "a scan was not closed");
    }
}

/// Every collection of which a backend has documents.
pub(super) async fn collections(client: &Client, alias: &str) -> Result<Vec<Collection>, BackendError> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(flatten)]
        completeness: Completeness,
        aggregations: Aggregations,
    }
    #[derive(Deserialize)]
    struct Aggregations {
        collections: Groups,
    }
    #[derive(Deserialize)]
    struct Groups {
        after_key: Option<Value>,
        buckets: Vec<Group>,
    }
    #[derive(Deserialize)]
    struct Group {
        key: Names,
    }
    #[derive(Deserialize)]
    struct Names {
        cluster: String,
        group: String,
        resource: String,
    }
    refresh(client, alias).await?;
    let path = format!("{alias}/_search");
    let (mut found, mut after) = (Vec::new(), None::<Value>);
    loop {
        let field = |name: &str| json!({ name: { "terms": { "field": name } } });
        let mut composite =
            json!({ "size": COLLECTIONS, "sources": [field("cluster"), field("group"), field("resource")] });
        if let Some(after) = after {
            composite["after"] = after;
        }
        let body = json!({ "size": 0, "aggs": { "collections": { "composite": composite } } });
        let answer: Answer = client.ask(Request::new(Method::Post, &path).with(&[WHOLE]).json(&body)).await?;
        answer.completeness.check()?;
        let groups = answer.aggregations.collections;
        found.extend(groups.buckets.into_iter().map(|Group { key }| Collection {
            cluster: key.cluster.into(),
            group: key.group.into(),
            resource: key.resource.into(),
        }));
        match groups.after_key {
            Some(key) => after = Some(key),
            None => return Ok(found),
        }
    }
}
