//! What passes a query, as it comes, changes and goes: over all kinds of all clusters at once.
//!
//! In: a query, the cache and its index. Out: first every object that passes, then an event for each that comes to pass,
//! changes, or ceases to. `now` in the query stands for the moment at which the watch began: an object doesn't come or go
//! because time does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch::Receiver;

use super::candidates::{Candidates, is_foremost};
use super::lookup::Lookup;
use super::order::{Order, SortKey};
use super::{Hit, Page, Question, Scope, page};
use crate::cache::{Cache, Change, FeedItem, ResourceCache};
use crate::codec::Decoder;
use crate::entry::Entry;
use crate::index::{Committed, Index};
use crate::query::document::{Document, Facts};
use crate::resource::{ApiResource, ClusterName, GroupVersionResource};
use crate::view::watch::{EventType, Expired};

/// Objects given at once at the beginning.
const FIRST: usize = 500;
/// How long one such page may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Changes looked at between two turns for others.
const BATCH: usize = 64;

/// One event.
#[derive(Debug, Clone)]
pub struct SearchEvent {
    /// What happened.
    pub event_type: EventType,
    /// The object.
    pub hit: Hit,
}

/// Why a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// More changed than is kept for those who watch.
    #[error("more changed than this watch could follow; begin it anew")]
    Expired,
    /// What passes at the beginning could not be found in time.
    #[error("what passes the query now was not found in time; narrow it by cluster, kind or namespace")]
    TooLong,
}

impl From<Expired> for WatchError {
    fn from(_: Expired) -> Self {
        Self::Expired
    }
}

/// A resource, and how far it was seen.
struct Followed {
    cache: Arc<ResourceCache>,
    sequence: u64,
    /// What its objects are, by cluster; also of clusters that have just left.
    served: BTreeMap<ClusterName, ApiResource>,
}

/// A watch in progress.
pub struct SearchWatch {
    cache: Arc<Cache>,
    scope: Scope,
    news: Receiver<()>,
    followed: BTreeMap<GroupVersionResource, Followed>,
    scratch: Vec<u8>,
}

/// What passes at the beginning, page by page. The work is for a blocking thread.
pub struct First {
    candidates: Candidates,
    committed: Option<Arc<Committed>>,
    scope: Scope,
    after: Option<SortKey>,
}

impl First {
    /// The next page, and what comes behind it.
    ///
    /// # Errors
    /// If it takes too long.
    pub fn next(mut self) -> Result<(Vec<Hit>, Option<Self>), WatchError> {
        self.scope.deadline = Instant::now() + DEADLINE;
        let question =
            Question { scope: self.scope.clone(), order: Order::by_identity(), limit: FIRST, after: self.after.take() };
        let lookup = |committed| page(&Lookup::new(committed, &self.candidates), &question);
        let found = lookup(self.committed.clone()).or_else(|error| {
            tracing::warn!(%error, "a watch begins without the index");
            self.committed = None;
            lookup(None)
        });
        let Page { hits, next, is_partial, .. } = found.map_err(|_| WatchError::TooLong)?;
        if is_partial {
            return Err(WatchError::TooLong);
        }
        self.after = next;
        let is_last = self.after.is_none();
        Ok((hits, (!is_last).then_some(self)))
    }
}

impl SearchWatch {
    /// Begins a watch. What passes now comes from [`First`], what changes from [`SearchWatch::next`].
    pub fn begin(cache: Arc<Cache>, index: &Index, scope: Scope) -> (Self, First) {
        // Before the candidates, so that a change between is news.
        let news = cache.subscribe();
        // The index first: it must not be ahead of what it is compared with.
        let committed = index.committed();
        let candidates = Candidates::of(&cache, scope.clusters.as_ref());
        let mut followed = BTreeMap::new();
        for looked in &candidates.resources {
            let resource = looked.cache.resource().clone();
            let (cache, served) = (Arc::clone(&looked.cache), BTreeMap::new());
            followed.insert(resource, Followed { cache, sequence: looked.sequence, served });
        }
        for candidate in &candidates.parts {
            let resource = candidates.resources.get(candidate.resource).map(|looked| looked.cache.resource());
            if let Some(followed) = resource.and_then(|resource| followed.get_mut(resource)) {
                followed.served.insert(candidate.cluster.clone(), candidate.part.served.clone());
            }
        }
        let first = First { candidates, committed, scope: scope.clone(), after: None };
        (Self { cache, scope, news, followed, scratch: Vec::new() }, first)
    }

    /// The next events; waits for some. May give none: call again.
    ///
    /// # Errors
    /// If more changed than could be followed.
    pub async fn next(&mut self) -> Result<Vec<SearchEvent>, WatchError> {
        loop {
            self.news.mark_unchanged();
            self.take_up_new();
            let mut events = Vec::new();
            let mut has_more = false;
            for followed in self.followed.values_mut() {
                if followed.cache.next_sequence() == followed.sequence {
                    continue;
                }
                let items = followed.cache.changes_since(followed.sequence, BATCH).ok_or(WatchError::Expired)?;
                has_more |= items.len() == BATCH;
                if let Some(last) = items.last() {
                    followed.sequence = last.sequence + 1;
                }
                let mut looker = Looker {
                    cache: &self.cache,
                    scope: &self.scope,
                    decoder: followed.cache.codec().decoder(),
                    scratch: &mut self.scratch,
                };
                for item in items {
                    looker.look(followed, item, &mut events);
                }
            }
            if has_more || !events.is_empty() {
                return Ok(events);
            }
            // A closed channel means that the cache is gone, which only a server that is stopping sees.
            self.news.changed().await.map_err(|_| WatchError::Expired)?;
        }
    }

    /// Resources that are watched since; all that happened to them is new.
    fn take_up_new(&mut self) {
        for cache in self.cache.all() {
            let known = self.followed.get(cache.resource());
            if known.is_none_or(|known| !Arc::ptr_eq(&known.cache, &cache)) {
                let resource = cache.resource().clone();
                self.followed.insert(resource, Followed { cache, sequence: 0, served: BTreeMap::new() });
            }
        }
    }
}

struct Looker<'a> {
    cache: &'a Cache,
    scope: &'a Scope,
    decoder: Decoder,
    scratch: &'a mut Vec<u8>,
}

impl Looker<'_> {
    fn look(&mut self, followed: &mut Followed, item: FeedItem, events: &mut Vec<SearchEvent>) {
        let FeedItem { cluster, change, .. } = item;
        if self.scope.clusters.as_ref().is_some_and(|chosen| !chosen.contains(&cluster)) {
            return;
        }
        if let Some(part) = followed.cache.part(&cluster) {
            followed.served.insert(cluster.clone(), part.served);
        }
        let Some(served) = followed.served.get(&cluster).cloned() else { return };
        if !is_foremost(self.cache, followed.cache.resource(), &cluster) {
            return;
        }
        let mut add = |looker: &Self, event_type, entry: Entry| {
            let (cluster, served, decoder) = (cluster.clone(), served.clone(), looker.decoder.clone());
            events.push(SearchEvent { event_type, hit: Hit { cluster, served, entry, decoder } });
        };
        match change {
            Change::Bookmark { .. } => {}
            Change::Upserted { entry, previous, .. } => {
                let before = previous.as_ref().is_some_and(|previous| self.passes(&cluster, &served, previous));
                let is_same = previous.is_some_and(|previous| previous.version() == entry.version());
                match (before, self.passes(&cluster, &served, &entry)) {
                    (true, true) if !is_same => add(self, EventType::Modified, entry),
                    (false, true) => add(self, EventType::Added, entry),
                    (true, false) => add(self, EventType::Deleted, entry),
                    _ => {}
                }
            }
            Change::Deleted { previous, last, .. } => {
                if self.passes(&cluster, &served, &previous) {
                    add(self, EventType::Deleted, last.unwrap_or(previous));
                }
            }
            Change::Left { objects } => {
                followed.served.remove(&cluster);
                for entry in &objects {
                    if self.passes(&cluster, &served, entry) {
                        add(self, EventType::Deleted, entry.clone());
                    }
                }
            }
        }
    }

    fn passes(&mut self, cluster: &ClusterName, served: &ApiResource, entry: &Entry) -> bool {
        let (namespace, name, labels) = (entry.namespace(), entry.name(), entry.labels());
        let facts = Facts { cluster, served, namespace, name, labels };
        if let Some(decided) = self.scope.evaluator.on_facts(&facts) {
            return decided;
        }
        self.scratch.clear();
        let opened = self.decoder.append(entry.frame(), self.scratch).ok();
        let document = opened.and_then(|()| Document::read(self.scratch));
        document.is_some_and(|document| self.scope.evaluator.matches(&facts, &document))
    }
}
