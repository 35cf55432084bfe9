//! Watches over all clusters: what changed since a merged version, then what changes.
//!
//! In: a [`Query`] and where to start. Out: batches of [`WatchEvent`]s with a running merged version. Events keep their order
//! within a cluster. An object that comes to match the query's filter is `Added`, one that ceases to is `Deleted`.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch::Receiver;

use crate::cache::{Change, FeedItem, ResourceCache, Snapshot};
use crate::codec::Decoder;
use crate::entry::{Entries, Entry, EntryKey};
use crate::resource::ClusterName;
use crate::version::MergedVersion;
use crate::view::Query;

/// Events prepared at a time.
const BATCH: usize = 128;

/// Where a watch starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchStart {
    /// With every object there is, as `Added`.
    Everything,
    /// With what comes after this version; clusters without a part in it are given whole.
    After(MergedVersion),
}

/// What happened to an object, as the watcher's query sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// It came to match.
    Added,
    /// It changed and still matches.
    Modified,
    /// It is gone or no longer matches.
    Deleted,
}

impl EventType {
    /// As written in a watch frame.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One event.
#[derive(Debug, Clone)]
pub struct WatchEvent {
    /// What happened.
    pub event_type: EventType,
    /// Where.
    pub cluster: ClusterName,
    /// The object's JSON.
    pub object: Bytes,
}

/// The watcher's version, or its place in the feed, is no longer held; it has to list again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version")]
pub struct Expired;

/// A watch in progress.
#[derive(Debug)]
pub struct Watch {
    cache: Arc<ResourceCache>,
    query: Query,
    sequence: u64,
    newest: Receiver<u64>,
    version: MergedVersion,
    initial: VecDeque<(ClusterName, Entries)>,
    replay: VecDeque<FeedItem>,
    given: Option<Entry>,
    /// What came from the feed and was not looked at yet.
    pending: VecDeque<FeedItem>,
    /// A cluster that left, and the last of its objects that was looked at: what came later waits.
    leaving: Option<(ClusterName, Entries, Option<Entry>)>,
}

impl Watch {
    /// Starts a watch.
    pub fn start(cache: Arc<ResourceCache>, query: Query, start: &WatchStart) -> Result<Self, Expired> {
        let newest = cache.subscribe();
        let snapshot = cache.snapshot(query.clusters.as_ref());
        let mut watch = Self {
            version: snapshot.merged_version(&query),
            sequence: snapshot.sequence,
            query,
            newest,
            initial: VecDeque::new(),
            replay: VecDeque::new(),
            given: None,
            pending: VecDeque::new(),
            leaving: None,
            cache,
        };
        watch.prepare(&snapshot, start)?;
        Ok(watch)
    }

    fn prepare(&mut self, snapshot: &Snapshot, start: &WatchStart) -> Result<(), Expired> {
        let WatchStart::After(known) = start else {
            self.initial = snapshot.parts.iter().map(|(name, part)| (name.clone(), part.objects.clone())).collect();
            return Ok(());
        };
        for (cluster, part) in &snapshot.parts {
            match known.get(cluster).map(|version| version.parse::<u64>().map_err(|_| Expired)) {
                None => self.initial.push_back((cluster.clone(), part.objects.clone())),
                Some(version) if part.floor == u64::MAX || version? < part.floor => return Err(Expired),
                Some(_) => {}
            }
        }
        let items = self.cache.changes_since(snapshot.oldest_sequence, usize::MAX).ok_or(Expired)?;
        let left = |cluster: &ClusterName| {
            items.iter().any(|item| item.cluster == *cluster && item.change.version().is_none())
        };
        if known
            .clusters()
            .any(|cluster| self.query.wants_cluster(cluster) && !snapshot.parts.contains_key(cluster) && !left(cluster))
        {
            return Err(Expired);
        }
        self.replay =
            items.into_iter().filter(|item| item.sequence < snapshot.sequence && is_news(item, known)).collect();
        Ok(())
    }

    /// The version up to which events have been given.
    pub fn version(&self) -> &MergedVersion {
        &self.version
    }

    /// Whether all that was there at the start has been given.
    pub fn initial_events_given(&self) -> bool {
        self.initial.is_empty() && self.replay.is_empty() && self.leaving.is_none()
    }

    /// The next events; waits for some unless the initial ones are just complete. May give none: call again.
    pub async fn next(&mut self) -> Result<Vec<WatchEvent>, Expired> {
        if !self.initial.is_empty() {
            return Ok(self.initial_batch());
        }
        if self.leaving.is_some() {
            return Ok(self.leaving_batch());
        }
        if !self.replay.is_empty() {
            let items = up_to_a_cluster_that_left(&mut self.replay);
            return Ok(self.translate(items));
        }
        if self.pending.is_empty() {
            // A closed channel means that the cache is gone, which only a server that is stopping sees.
            if *self.newest.borrow_and_update() <= self.sequence && self.newest.changed().await.is_err() {
                return Err(Expired);
            }
            self.pending = self.cache.changes_since(self.sequence, BATCH).ok_or(Expired)?.into();
            if let Some(last) = self.pending.back() {
                self.sequence = last.sequence + 1;
            }
        }
        let items = up_to_a_cluster_that_left(&mut self.pending);
        for item in &items {
            self.advance(item);
        }
        Ok(self.translate(items))
    }

    /// Objects of a cluster that left, a few at a time: it may have had very many.
    fn leaving_batch(&mut self) -> Vec<WatchEvent> {
        let Some((cluster, objects, given)) = self.leaving.take() else { return Vec::new() };
        let decoder = self.cache.codec().decoder();
        let behind = given.as_ref().map_or(Bound::Unbounded, |given| Bound::Excluded(given.key()));
        let entries: Vec<Entry> =
            objects.range::<_, EntryKey<'_>>((behind, Bound::Unbounded)).take(BATCH).cloned().collect();
        let mut scratch = Vec::new();
        let gone = entries.iter().filter(|entry| self.query.matches(&cluster, entry, &decoder, &mut scratch));
        let events = gone.filter_map(|entry| event(EventType::Deleted, &cluster, entry, &decoder)).collect();
        if entries.len() < BATCH {
            // Only now does the watcher know of all of them.
            self.version.remove(&cluster);
        } else {
            self.leaving = Some((cluster, objects, entries.last().cloned()));
        }
        events
    }

    fn initial_batch(&mut self) -> Vec<WatchEvent> {
        let decoder = self.cache.codec().decoder();
        let Some((cluster, objects)) = self.initial.front() else { return Vec::new() };
        let entries: Vec<Entry> = match &self.given {
            Some(given) => objects
                .range::<_, EntryKey<'_>>((Bound::Excluded(&given.key()), Bound::Unbounded))
                .take(BATCH)
                .cloned()
                .collect(),
            None => objects.iter().take(BATCH).cloned().collect(),
        };
        let mut scratch = Vec::new();
        let events = entries
            .iter()
            .filter(|entry| self.query.matches(cluster, entry, &decoder, &mut scratch))
            .filter_map(|entry| event(EventType::Added, cluster, entry, &decoder))
            .collect();
        self.given = entries.last().cloned();
        if entries.len() < BATCH {
            self.initial.pop_front();
            self.given = None;
        }
        events
    }

    fn advance(&mut self, item: &FeedItem) {
        if !self.query.wants_cluster(&item.cluster) {
            return;
        }
        match &item.change {
            // When its objects are given.
            Change::Left { .. } => {}
            Change::Bookmark { version } => self.version.set(item.cluster.clone(), Arc::clone(version)),
            change => {
                // Before a cluster's first list is complete its objects come with versions of their own that say
                // nothing of the collection; the bookmark at its end will set one.
                let reached = self.version.get(&item.cluster).and_then(|version| version.parse::<u64>().ok());
                if let (Some(reached), Some(version)) = (reached, change.version())
                    && version > reached
                {
                    self.version.set(item.cluster.clone(), Arc::from(version.to_string()));
                }
            }
        }
    }

    fn translate(&mut self, items: Vec<FeedItem>) -> Vec<WatchEvent> {
        let decoder = self.cache.codec().decoder();
        let mut scratch = Vec::new();
        let mut events = Vec::new();
        for FeedItem { cluster, change, .. } in items.into_iter().filter(|item| self.query.wants_cluster(&item.cluster))
        {
            let mut matches = |entry: &Entry| self.query.matches(&cluster, entry, &decoder, &mut scratch);
            match change {
                Change::Upserted { entry, previous, .. } => {
                    let event_type = match (previous.as_ref().is_some_and(&mut matches), matches(&entry)) {
                        (true, true) => EventType::Modified,
                        (false, true) => EventType::Added,
                        (true, false) => EventType::Deleted,
                        (false, false) => continue,
                    };
                    events.extend(event(event_type, &cluster, &entry, &decoder));
                }
                Change::Deleted { previous, last, .. } if matches(&previous) => {
                    events.extend(event(EventType::Deleted, &cluster, last.as_ref().unwrap_or(&previous), &decoder));
                }
                Change::Left { objects } => self.leaving = Some((cluster, objects, None)),
                Change::Deleted { .. } | Change::Bookmark { .. } => {}
            }
        }
        events
    }
}

/// The next changes; one that a cluster left is the last of them.
fn up_to_a_cluster_that_left(queue: &mut VecDeque<FeedItem>) -> Vec<FeedItem> {
    let mut taken = Vec::new();
    while taken.len() < BATCH
        && let Some(item) = queue.pop_front()
    {
        let is_last = matches!(item.change, Change::Left { .. });
        taken.push(item);
        if is_last {
            break;
        }
    }
    taken
}

/// Whether a change is one that a watcher with this version has not seen.
fn is_news(item: &FeedItem, known: &MergedVersion) -> bool {
    let Some(version) = known.get(&item.cluster) else { return false };
    match item.change.version() {
        Some(reached) => version.parse::<u64>().is_ok_and(|known| reached > known),
        None => true,
    }
}

fn event(event_type: EventType, cluster: &ClusterName, entry: &Entry, decoder: &Decoder) -> Option<WatchEvent> {
    let mut object = Vec::new();
    decoder.append(entry.frame(), &mut object).ok()?;
    Some(WatchEvent { event_type, cluster: cluster.clone(), object: object.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Cache, PreparedChange, Writer};
    use crate::filter::{Filter, LabelCondition, LabelTest};
    use crate::raw::ObjectReader;
    use crate::resource::{ApiResource, GroupVersionResource};

    fn served() -> ApiResource {
        ApiResource {
            gvr: GroupVersionResource::new("", "v1", "pods"),
            kind: "Pod".into(),
            namespaced: true,
            watchable: true,
        }
    }

    fn member(cache: &Arc<ResourceCache>, name: &str, listed_at: &str) -> Writer {
        let writer = cache.writer(&name.into(), &served());
        writer.finish_list(&Entries::new(), listed_at.into());
        writer
    }

    fn entry(writer: &mut Writer, name: &str, version: u64, app: &str) -> Entry {
        let text =
            format!(r#"{{"metadata":{{"name":"{name}","resourceVersion":"{version}","labels":{{"app":"{app}"}}}}}}"#);
        writer.prepare(ObjectReader::new(&"m1".into(), "v1", "Pod").read(&text).unwrap()).unwrap()
    }

    fn put(writer: &mut Writer, name: &str, version: u64, app: &str) {
        let entry = entry(writer, name, version, app);
        writer.apply([PreparedChange::Upsert(entry)]);
    }

    /// The next events that there are.
    async fn next(watch: &mut Watch) -> Vec<(EventType, String)> {
        let mut events = watch.next().await.unwrap();
        while events.is_empty() && watch.leaving.is_some() {
            events = watch.next().await.unwrap();
        }
        events.iter().map(|event| (event.event_type, name_of(&event.object))).collect()
    }

    fn name_of(object: &[u8]) -> String {
        let value: serde_json::Value = serde_json::from_slice(object).unwrap();
        value["metadata"]["name"].as_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_watch_from_a_lists_version_gives_what_came_after_it_and_nothing_twice() {
        let cache = Cache::default().open(&served().gvr);
        let mut m1 = member(&cache, "m1", "10");
        put(&mut m1, "a", 11, "x");
        let listed = cache.snapshot(None).merged_version(&Query::default());
        put(&mut m1, "b", 12, "x");
        let mut watch = Watch::start(Arc::clone(&cache), Query::default(), &WatchStart::After(listed)).unwrap();
        assert_eq!(next(&mut watch).await, [(EventType::Added, "b".to_owned())]);
        put(&mut m1, "a", 13, "x");
        assert_eq!(next(&mut watch).await, [(EventType::Modified, "a".to_owned())]);
        assert_eq!(watch.version().get(&"m1".into()), Some("13"));
    }

    #[tokio::test]
    async fn a_cluster_the_client_does_not_know_is_given_whole() {
        let cache = Cache::default().open(&served().gvr);
        let mut m1 = member(&cache, "m1", "10");
        put(&mut m1, "a", 11, "x");
        let empty = WatchStart::After(MergedVersion::default());
        let mut watch = Watch::start(Arc::clone(&cache), Query::default(), &empty).unwrap();
        assert_eq!(next(&mut watch).await, [(EventType::Added, "a".to_owned())]);
    }

    #[tokio::test]
    async fn a_version_from_before_the_first_list_is_expired() {
        let cache = Cache::default().open(&served().gvr);
        member(&cache, "m1", "10");
        let mut known = MergedVersion::default();
        known.set("m1".into(), "9".into());
        assert_eq!(Watch::start(cache, Query::default(), &WatchStart::After(known)).unwrap_err(), Expired);
    }

    #[tokio::test]
    async fn objects_that_come_to_match_are_added_and_those_that_cease_to_are_deleted() {
        let cache = Cache::default().open(&served().gvr);
        let mut m1 = member(&cache, "m1", "10");
        let labels = vec![LabelCondition { key: "app".into(), test: LabelTest::In(vec!["x".into()]) }];
        let query = Query { filter: Filter { labels, ..Filter::default() }, ..Query::default() };
        let mut watch = Watch::start(Arc::clone(&cache), query, &WatchStart::Everything).unwrap();
        next(&mut watch).await;
        put(&mut m1, "a", 11, "y");
        assert_eq!(next(&mut watch).await, []);
        put(&mut m1, "a", 12, "x");
        assert_eq!(next(&mut watch).await, [(EventType::Added, "a".to_owned())]);
        put(&mut m1, "a", 13, "y");
        assert_eq!(next(&mut watch).await, [(EventType::Deleted, "a".to_owned())]);
    }

    #[tokio::test]
    async fn a_cluster_that_leaves_shows_its_objects_deleted() {
        let cache = Cache::default().open(&served().gvr);
        let mut m1 = member(&cache, "m1", "10");
        put(&mut m1, "a", 11, "x");
        let listed = cache.snapshot(None).merged_version(&Query::default());
        let mut watch = Watch::start(Arc::clone(&cache), Query::default(), &WatchStart::After(listed.clone())).unwrap();
        cache.remove(&"m1".into());
        assert_eq!(next(&mut watch).await, [(EventType::Deleted, "a".to_owned())]);
        let mut late = Watch::start(Arc::clone(&cache), Query::default(), &WatchStart::After(listed)).unwrap();
        assert_eq!(next(&mut late).await, [(EventType::Deleted, "a".to_owned())]);
    }

    #[tokio::test]
    async fn a_large_cluster_that_leaves_is_shown_deleted_piece_by_piece_before_what_comes_later() {
        let cache = Cache::default().open(&served().gvr);
        let mut m1 = member(&cache, "m1", "10");
        let names: Vec<String> = (0..300).map(|number| format!("pod-{number:03}")).collect();
        names.iter().for_each(|name| put(&mut m1, name, 11, "x"));
        let listed = cache.snapshot(None).merged_version(&Query::default());
        let mut watch = Watch::start(Arc::clone(&cache), Query::default(), &WatchStart::After(listed)).unwrap();
        cache.remove(&"m1".into());
        put(&mut member(&cache, "m1", "20"), "later", 21, "x");
        let mut seen = Vec::new();
        while seen.last().is_none_or(|(_, name)| name != "later") {
            let events = next(&mut watch).await;
            assert!(events.len() <= BATCH);
            // Who takes this version up again must not miss what is not shown yet.
            let is_half_way = events.iter().all(|(_, name)| name != "later") && seen.len() + events.len() < names.len();
            assert!(!is_half_way || watch.version().get(&"m1".into()).is_some());
            seen.extend(events);
        }
        let deleted: Vec<&String> =
            seen.iter().filter(|(kind, _)| *kind == EventType::Deleted).map(|(_, name)| name).collect();
        assert_eq!((deleted, seen.len()), (names.iter().collect(), 301));
    }

    #[tokio::test]
    async fn a_watcher_that_fell_out_of_the_feed_is_told_so() {
        let cache = Cache::default().open(&served().gvr);
        let m1 = member(&cache, "m1", "10");
        let mut watch = Watch::start(Arc::clone(&cache), Query::default(), &WatchStart::Everything).unwrap();
        next(&mut watch).await;
        for version in 11..20_000_u64 {
            m1.apply([PreparedChange::Bookmark(version.to_string().into())]);
        }
        assert_eq!(watch.next().await.unwrap_err(), Expired);
    }
}
