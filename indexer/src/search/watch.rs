//! What passes a query, as it comes, changes and goes: over all kinds of all clusters at once.
//!
//! In: a query, the cache and its index. Out: first every object that passes, then an event for each that comes to pass,
//! changes, or ceases to. `now` in the query stands for the moment at which the watch began: an object doesn't come or go
//! because time does.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch::Receiver;

use super::candidates::{Candidates, is_foremost, other_versions};
use super::lookup::Lookup;
use super::order::Order;
use super::{Hit, Page, Question, Scope, page};
use crate::cache::{Cache, Change, FeedItem, ResourceCache};
use crate::codec::Decoder;
use crate::entry::{Entries, Entry, EntryKey};
use crate::index::{Committed, Index};
use crate::query::document::{Document, Facts};
use crate::resource::{ApiResource, ClusterName, GroupVersionResource};
use crate::view::watch::{EventType, Expired};

/// Objects that may pass at the beginning.
const MOST: usize = 100_000;
/// How long it may take to find them.
const DEADLINE: Duration = Duration::from_secs(10);
/// Changes looked at between two turns for others.
const BATCH: usize = 64;
/// How long more changes are waited for: looking for them costs the same for one as for many.
const GATHERING: Duration = Duration::from_millis(20);

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
    /// More passes at the beginning than anybody watches.
    #[error("more than {MOST} objects pass the query now; narrow it by cluster, kind or namespace")]
    TooMany,
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
    /// The resource that was looked at last: the next ones have their turn first.
    last: Option<GroupVersionResource>,
    /// Clusters that left, and how far their objects were looked at.
    leaving: VecDeque<Leaving>,
    scratch: Vec<u8>,
}

struct Leaving {
    resource: Arc<ResourceCache>,
    cluster: ClusterName,
    served: ApiResource,
    objects: Entries,
    seen: Option<Entry>,
}

/// What passes at the beginning. The work is for a blocking thread.
pub struct First {
    candidates: Candidates,
    committed: Option<Arc<Committed>>,
    scope: Scope,
}

impl First {
    /// Finds it.
    ///
    /// # Errors
    /// If it takes too long, or is too much.
    pub fn find(mut self) -> Result<Vec<Hit>, WatchError> {
        self.scope.deadline = Instant::now() + DEADLINE;
        let question = Question::new(self.scope, Order::by_identity(), MOST);
        let lookup = |committed| page(&Lookup::new(committed, &self.candidates), &question);
        let found = lookup(self.committed.take()).or_else(|error| {
            tracing::warn!(%error, "a watch begins without the index");
            lookup(None)
        });
        match found {
            Ok(Page { is_partial: false, remaining: 0, hits, .. }) => Ok(hits),
            Ok(Page { is_partial: false, .. }) => Err(WatchError::TooMany),
            Ok(_) | Err(_) => Err(WatchError::TooLong),
        }
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
        let first = First { candidates, committed, scope: scope.clone() };
        let (leaving, scratch) = (VecDeque::new(), Vec::new());
        (Self { cache, scope, news, followed, last: None, leaving, scratch }, first)
    }

    /// The next events; waits for some. May give none: call again.
    ///
    /// # Errors
    /// If more changed than could be followed.
    pub async fn next(&mut self) -> Result<Vec<SearchEvent>, WatchError> {
        loop {
            self.news.mark_unchanged();
            let mut events = Vec::new();
            let is_at_end = self.look(&mut events)?;
            if !is_at_end || !events.is_empty() {
                return Ok(events);
            }
            // A closed channel means that the cache is gone, which only a server that is stopping sees.
            self.news.changed().await.map_err(|_| WatchError::Expired)?;
            tokio::time::sleep(GATHERING).await;
        }
    }

    /// Looks at a few changes; whether there are no more.
    fn look(&mut self, events: &mut Vec<SearchEvent>) -> Result<bool, WatchError> {
        if !self.leaving.is_empty() {
            self.look_at_leaving(events);
            return Ok(false);
        }
        self.take_up_new();
        let last = self.last.take();
        let is_behind = |resource: &GroupVersionResource| last.as_ref().is_some_and(|last| resource > last);
        let waits = |followed: &Followed| followed.cache.next_sequence() != followed.sequence;
        let waiting = || self.followed.iter().filter(|(_, followed)| waits(followed)).map(|(resource, _)| resource);
        let next = waiting().find(|resource| is_behind(resource)).or_else(|| waiting().next()).cloned();
        let Some((resource, followed)) = next.and_then(|next| self.followed.get_key_value(&next)) else {
            return Ok(true);
        };
        let items = followed.cache.changes_since(followed.sequence, BATCH).ok_or(WatchError::Expired)?;
        let (resource, cache) = (resource.clone(), Arc::clone(&followed.cache));
        self.last = Some(resource.clone());
        let decoder = cache.codec().decoder();
        for item in items {
            let Some(followed) = self.followed.get_mut(&resource) else { break };
            followed.sequence = item.sequence + 1;
            let mut looker =
                Looker { cache: &self.cache, scope: &self.scope, decoder: decoder.clone(), scratch: &mut self.scratch };
            if let Some(leaving) = looker.look(followed, item, events) {
                // What comes behind it must not be told before.
                self.leaving.push_back(leaving);
                break;
            }
        }
        Ok(false)
    }

    fn look_at_leaving(&mut self, events: &mut Vec<SearchEvent>) {
        let Some(leaving) = self.leaving.front_mut() else { return };
        let behind = leaving.seen.as_ref().map_or(Bound::Unbounded, |seen| Bound::Excluded(seen.key()));
        let entries: Vec<Entry> =
            leaving.objects.range::<_, EntryKey<'_>>((behind, Bound::Unbounded)).take(BATCH).cloned().collect();
        let decoder = leaving.resource.codec().decoder();
        let mut looker =
            Looker { cache: &self.cache, scope: &self.scope, decoder: decoder.clone(), scratch: &mut self.scratch };
        for entry in &entries {
            let (cluster, served) = (&leaving.cluster, &leaving.served);
            if looker.passes(cluster, served, entry) && !looker.is_held_otherwise(&leaving.resource, cluster, entry) {
                let (cluster, served, decoder) = (cluster.clone(), served.clone(), decoder.clone());
                let hit = Hit { cluster, served, entry: entry.clone(), decoder };
                events.push(SearchEvent { event_type: EventType::Deleted, hit });
            }
        }
        leaving.seen = entries.last().cloned();
        if entries.len() < BATCH {
            self.leaving.pop_front();
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
    /// Adds the event that a change is, if it is one; returns a cluster that left.
    fn look(&mut self, followed: &mut Followed, item: FeedItem, events: &mut Vec<SearchEvent>) -> Option<Leaving> {
        let FeedItem { cluster, change, .. } = item;
        if self.scope.clusters.as_ref().is_some_and(|chosen| !chosen.contains(&cluster)) {
            return None;
        }
        if let Some(part) = followed.cache.part(&cluster) {
            followed.served.insert(cluster.clone(), part.served.clone());
        }
        let served = followed.served.get(&cluster).cloned()?;
        let told = match change {
            Change::Bookmark { .. } => None,
            Change::Upserted { entry, previous, .. } => {
                let before = previous.as_ref().is_some_and(|previous| self.passes(&cluster, &served, previous));
                let is_same = previous.is_some_and(|previous| previous.version() == entry.version());
                match (before, self.passes(&cluster, &served, &entry)) {
                    (true, true) if !is_same => Some((EventType::Modified, entry)),
                    (false, true) => Some((EventType::Added, entry)),
                    (true, false) => Some((EventType::Deleted, entry)),
                    _ => None,
                }
            }
            Change::Deleted { previous, last, .. } => {
                let passed = self.passes(&cluster, &served, &previous);
                passed.then(|| (EventType::Deleted, last.unwrap_or(previous)))
            }
            Change::Left { objects } => {
                followed.served.remove(&cluster);
                let resource = Arc::clone(&followed.cache);
                return Some(Leaving { resource, cluster, served, objects, seen: None });
            }
        };
        if let Some((event_type, entry)) = told
            && is_foremost(self.cache, &followed.cache, &cluster)
        {
            let hit = Hit { cluster, served, entry, decoder: self.decoder.clone() };
            events.push(SearchEvent { event_type, hit });
        }
        None
    }

    /// Whether the object is there still, in another version of its resource.
    fn is_held_otherwise(&self, resource: &ResourceCache, cluster: &ClusterName, entry: &Entry) -> bool {
        let others = other_versions(self.cache, resource.resource());
        others.iter().any(|other| other.part(cluster).is_some_and(|part| part.objects.contains(&entry.key())))
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
