//! The one writer of the index: goes after the feeds of the cache, and commits.
//!
//! In: the cache's feeds; where a feed no longer reaches back, the cache's present state, by difference. Out: commits, each
//! with the place in every feed that it stands for. It looks only when something has changed, waits a moment for more, and
//! works on a blocking thread. What is wrong with the index ends it: it is thrown away and begun anew, and meanwhile queries
//! look at the objects.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tantivy::indexer::LogMergePolicy;
use tantivy::query::{BooleanQuery, Query, TermQuery};
use tantivy::schema::{IndexRecordOption, TantivyDocument};
use tantivy::{IndexReader, IndexWriter, ReloadPolicy, Term};
use tokio_util::sync::CancellationToken;

use super::directory::{self, Fields, Place};
use super::segment::{Identity, Segment};
use super::terms::{self, PartKey, Terms};
use super::{Committed, Index, IndexError, IndexSettings, IndexState, Position};
use crate::cache::{Cache, Change, FeedItem, Part, ResourceCache};
use crate::codec::Decoder;
use crate::entry::Entry;
use crate::query::document::Document;
use crate::resource::GroupVersionResource;

/// How long more changes are waited for, at a time and at most: a commit costs the same for one as for a thousand. Queries look
/// at what waits.
const GATHERING: Duration = Duration::from_millis(200);
const LONGEST_GATHERING: Duration = Duration::from_secs(1);
/// Changes that are worth a commit.
const ENOUGH: u64 = 512;
/// Documents of a segment below which it is merged with all the others that are as small. What is updated one by one is written
/// again with each merge, so that large segments must not be among them.
const SMALL_SEGMENT: u32 = 1000;
/// Above that, segments are merged that differ in their size by less than this power of two: eight of them make one of the next
/// kind, and every query asks every segment.
const SEGMENT_SIZES: f64 = 2.0;
/// Changes taken from a feed at once.
const AT_ONCE: usize = 1024;
/// Changes of a resource that may wait while another one is taken in: less than a feed holds.
const LATE: u64 = if cfg!(test) { 2 } else { 1024 };
/// Documents after which a long work commits, so that progress is kept and memory is bounded.
const BETWEEN_COMMITS: u64 = 200_000;
const GIVEN_UP: IndexError = IndexError::Damaged("a query could not read it");
/// How long to wait before the index is begun anew.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// How long clusters of an earlier run may take to come back before their objects are removed.
const GRACE: Duration = Duration::from_secs(600);
/// How often is looked for such clusters.
const BETWEEN_SWEEPS: Duration = Duration::from_secs(60);

/// Keeps the index in step with the cache until told to stop.
pub async fn follow(cache: Arc<Cache>, index: Arc<Index>, settings: IndexSettings, stop: CancellationToken) {
    let mut retry = FIRST_RETRY;
    loop {
        let began = Instant::now();
        let error = match run(&cache, &index, &settings, &stop).await {
            Ok(()) => return,
            Err(error) => error,
        };
        index.publish(None);
        if stop.is_cancelled() {
            return;
        }
        index.set_state(IndexState::Failed(error.to_string()));
        tracing::error!(%error, "the search index can't be used; queries look at each object until it can");
        if !matches!(error, IndexError::InUse(_)) {
            // At once: where the disk is full, others need the room.
            remove(&settings);
        }
        if let IndexError::TooLarge { .. } = error {
            return;
        }
        if began.elapsed() > LONGEST_RETRY {
            retry = FIRST_RETRY;
        }
        if stop.run_until_cancelled(tokio::time::sleep(retry)).await.is_none() {
            return;
        }
        retry = (retry * 2).min(LONGEST_RETRY);
        if matches!(error, IndexError::InUse(_)) {
            continue;
        }
        index.counters.rebuilds.fetch_add(1, Ordering::Relaxed);
    }
}

fn remove(settings: &IndexSettings) {
    if let Some(folder) = &settings.folder
        && let Err(error) = directory::remove(folder)
    {
        tracing::warn!(%error, "the search index was not removed");
    }
}

async fn run(
    cache: &Arc<Cache>,
    index: &Arc<Index>,
    settings: &IndexSettings,
    stop: &CancellationToken,
) -> Result<(), IndexError> {
    let (cache, index, settings, stop) = (Arc::clone(cache), Arc::clone(index), settings.clone(), stop.clone());
    let opening = {
        let (index, stop) = (Arc::clone(&index), stop.clone());
        move || Follower::open(&settings, index, stop)
    };
    let mut follower = blocking(opening).await?;
    let (mut news, mut given_up) = (cache.subscribe(), index.given_up.subscribe());
    loop {
        if given_up.has_changed().unwrap_or(false) {
            return Err(GIVEN_UP);
        }
        // Changes that come from here on are seen by the next step, if not by this one.
        news.mark_unchanged();
        let work = {
            let cache = Arc::clone(&cache);
            move || follower.step(&cache).map(|()| follower)
        };
        follower = blocking(work).await?;
        let gathered = async {
            tokio::select! {
                biased;
                _ = given_up.changed() => return Err(GIVEN_UP),
                _ = news.changed() => gather(|| follower.changes_to_come(&cache)).await,
                () = tokio::time::sleep(BETWEEN_SWEEPS), if follower.has_leftovers() => {}
            }
            Ok(())
        };
        match stop.run_until_cancelled(gathered).await {
            None => return Ok(()),
            Some(gathered) => gathered?,
        }
    }
}

/// Waits for more changes while there are few.
async fn gather(changes: impl Fn() -> u64) {
    let began = Instant::now();
    loop {
        tokio::time::sleep(GATHERING).await;
        if began.elapsed() >= LONGEST_GATHERING || changes() >= ENOUGH {
            return;
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| IndexError::Io(std::io::Error::other(error)))?
}

/// The index being written.
pub(super) struct Follower {
    index: Arc<Index>,
    stop: CancellationToken,
    writer: IndexWriter,
    reader: IndexReader,
    fields: Fields,
    pub(super) committed: Committed,
    /// Parts that an earlier run has left, which nobody has compared with the cache yet.
    leftovers: BTreeSet<PartKey>,
    opened: Instant,
    /// Documents added or deleted since the last commit.
    pending: u64,
    /// Objects deleted since the last commit, which readers of the last one still see.
    deleted: HashSet<u64, ahash::RandomState>,
    disk: Option<u64>,
    // Last, so that its folder goes when nobody writes there any more.
    place: Place,
}

impl Follower {
    pub(super) fn open(
        settings: &IndexSettings,
        index: Arc<Index>,
        stop: CancellationToken,
    ) -> Result<Self, IndexError> {
        let place = Place::take(settings.folder.as_deref())?;
        let (tantivy, fields, damage) = place.open()?;
        if let Some(damage) = damage {
            tracing::warn!(%damage, %place, "the search index was thrown away and is built anew");
            index.counters.rebuilds.fetch_add(1, Ordering::Relaxed);
        }
        let writer = tantivy.writer_with_num_threads(1, settings.memory)?;
        let mut merging = LogMergePolicy::default();
        merging.set_min_layer_size(SMALL_SEGMENT);
        merging.set_level_log_size(SEGMENT_SIZES);
        writer.set_merge_policy(Box::new(merging));
        let reader = tantivy.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
        let committed = Committed { segments: open_segments(&reader, &fields, &[])?, positions: HashMap::new() };
        let leftovers: BTreeSet<PartKey> =
            committed.segments.iter().flat_map(|segment| segment.parts.iter().map(|(part, _)| part.clone())).collect();
        tracing::info!(%place, documents = committed.documents(), "following the cache with the search index");
        index.set_state(IndexState::Following);
        Ok(Self {
            index,
            stop,
            writer,
            reader,
            fields,
            committed,
            leftovers,
            opened: Instant::now(),
            pending: 0,
            deleted: HashSet::default(),
            disk: settings.disk,
            place,
        })
    }

    fn has_leftovers(&self) -> bool {
        !self.leftovers.is_empty()
    }

    /// How much has changed since the last step.
    fn changes_to_come(&self, cache: &Cache) -> u64 {
        let of = |resource: Arc<ResourceCache>| match self.committed.position(&resource) {
            Some(position) if resource.is_pressed(position.sequence) => ENOUGH,
            Some(position) => resource.next_sequence().saturating_sub(position.sequence),
            None => ENOUGH,
        };
        cache.all().into_iter().map(of).sum()
    }

    /// Takes in all that has changed, and commits.
    pub(super) fn step(&mut self, cache: &Cache) -> Result<(), IndexError> {
        let resources = cache.all();
        self.forget_all_but(&resources);
        for resource in &resources {
            self.take_in(resource, &resources)?;
        }
        self.sweep_leftovers(&resources);
        self.commit()?;
        self.index.set_state(IndexState::Following);
        Ok(())
    }

    /// Resources that the cache no longer has, or has begun anew.
    fn forget_all_but(&mut self, resources: &[Arc<ResourceCache>]) {
        let gone: Vec<GroupVersionResource> = self
            .committed
            .positions
            .iter()
            .filter(|(_, position)| !resources.iter().any(|resource| position.is_of(resource)))
            .map(|(resource, _)| resource.clone())
            .collect();
        for resource in gone {
            self.committed.positions.remove(&resource);
            self.delete(Term::from_field_text(self.fields.terms, &terms::resource_term(&resource)));
        }
    }

    /// What an earlier run has left of clusters and resources that don't come back.
    fn sweep_leftovers(&mut self, resources: &[Arc<ResourceCache>]) {
        if self.opened.elapsed() < GRACE {
            return;
        }
        let is_there = |part: &PartKey| {
            resources.iter().any(|cache| *cache.resource() == part.resource && cache.part(&part.cluster).is_some())
        };
        let gone: Vec<PartKey> = self.leftovers.iter().filter(|part| !is_there(part)).cloned().collect();
        for part in gone {
            if let Some(term) = part.term() {
                self.delete(Term::from_field_text(self.fields.terms, &term));
            }
            if let Some(position) = self.committed.positions.get_mut(&part.resource) {
                position.unsettled.remove(&part.cluster);
            }
            self.leftovers.remove(&part);
        }
    }

    fn take_in(&mut self, cache: &Arc<ResourceCache>, all: &[Arc<ResourceCache>]) -> Result<(), IndexError> {
        while !self.take_changes(cache)? {
            self.compare(cache, all)?;
        }
        self.settle(cache)
    }

    /// Takes in what the feed of a resource has; false if it no longer has all.
    fn take_changes(&mut self, cache: &Arc<ResourceCache>) -> Result<bool, IndexError> {
        let mut scratch = Scratch::default();
        loop {
            let position = self.committed.position(cache).map(|position| position.sequence);
            let changes = position.and_then(|sequence| cache.changes_since(sequence, AT_ONCE));
            let Some(changes) = changes else { return Ok(false) };
            let Some(last) = changes.last().map(|item| item.sequence) else { return Ok(true) };
            // Behind the changes: it knows every dictionary that they were made with.
            let decoder = cache.codec().decoder();
            if self.stop.is_cancelled() {
                return Err(IndexError::Late);
            }
            for item in &changes {
                self.apply(cache, item, &decoder, &mut scratch)?;
            }
            self.move_to(cache, last + 1);
            self.commit_if_much()?;
        }
    }

    /// While one resource takes long, the feeds of others run on: before they run over, their changes are taken in.
    pub(super) fn catch_up(&mut self, busy: &Arc<ResourceCache>, all: &[Arc<ResourceCache>]) -> Result<(), IndexError> {
        let is_late = |cache: &&Arc<ResourceCache>| {
            let position = self.committed.position(cache).filter(|_| !Arc::ptr_eq(cache, busy));
            position.is_some_and(|position| cache.next_sequence().saturating_sub(position.sequence) > LATE)
        };
        let late: Vec<&Arc<ResourceCache>> = all.iter().filter(is_late).collect();
        if late.is_empty() {
            return Ok(());
        }
        for cache in late {
            // Of one that has run over already, the turn comes.
            self.take_changes(cache)?;
        }
        self.commit()
    }

    fn move_to(&mut self, cache: &Arc<ResourceCache>, sequence: u64) {
        let unsettled = self.committed.positions.remove(cache.resource()).map(|position| position.unsettled);
        let position = Position { cache: Arc::downgrade(cache), sequence, unsettled: unsettled.unwrap_or_default() };
        self.committed.positions.insert(cache.resource().clone(), position);
    }

    fn apply(
        &mut self,
        cache: &Arc<ResourceCache>,
        item: &FeedItem,
        decoder: &Decoder,
        scratch: &mut Scratch,
    ) -> Result<(), IndexError> {
        let part = PartKey::new(item.cluster.clone(), cache.resource().clone());
        match &item.change {
            Change::Bookmark { .. } => {}
            Change::Left { .. } => {
                if let Some(term) = part.term() {
                    self.delete(Term::from_field_text(self.fields.terms, &term));
                }
                // Nothing of it is left, from whatever run.
                self.leftovers.remove(&part);
                if let Some(position) = self.committed.positions.get_mut(cache.resource()) {
                    position.unsettled.remove(&item.cluster);
                }
            }
            Change::Deleted { previous, .. } => self.delete_object(&part, previous.version().fingerprint),
            Change::Upserted { entry, previous, .. } => {
                let fingerprint = entry.version().fingerprint;
                let previous = previous.as_ref().map(|previous| previous.version().fingerprint);
                if previous == Some(fingerprint) {
                    return Ok(());
                }
                if let Some(previous) = previous {
                    self.delete_object(&part, previous);
                }
                if !self.has_from_earlier(&part, fingerprint)
                    && let Some(kind) = cache.part(&item.cluster).map(|part| Arc::clone(&part.served.kind))
                {
                    self.add(&part, &kind, entry, decoder, scratch)?;
                }
            }
        }
        Ok(())
    }

    /// Whether an earlier run has left the object in this very state.
    fn has_from_earlier(&self, part: &PartKey, fingerprint: u64) -> bool {
        self.leftovers.contains(part) && !self.deleted.contains(&fingerprint) && self.committed.has(part, fingerprint)
    }

    /// Brings a resource in step by its present state.
    fn compare(&mut self, cache: &Arc<ResourceCache>, all: &[Arc<ResourceCache>]) -> Result<(), IndexError> {
        // What is not committed yet would be taken for missing.
        self.commit()?;
        let snapshot = cache.snapshot(None);
        let decoder = cache.codec().decoder();
        let mut scratch = Scratch::default();
        let of: u64 = snapshot.parts.values().map(|part| part.objects.len() as u64).sum();
        let mut done = 0;
        for (cluster, part) in &snapshot.parts {
            let key = PartKey::new(cluster.clone(), cache.resource().clone());
            let known: HashSet<u64, ahash::RandomState> = self.committed.fingerprints(&key).collect();
            for entry in &part.objects {
                done += 1;
                if !known.contains(&entry.version().fingerprint) {
                    self.add(&key, &part.served.kind, entry, &decoder, &mut scratch)?;
                }
                if self.pending > BETWEEN_COMMITS {
                    self.index.set_state(IndexState::Building { done, of });
                    tracing::info!(resource = %cache.resource(), done, of, "building the search index");
                    self.commit()?;
                }
                if done.is_multiple_of(1024) {
                    if self.stop.is_cancelled() {
                        return Err(IndexError::Late);
                    }
                    self.catch_up(cache, all)?;
                }
            }
            if known.is_empty() {
                continue;
            }
            if part.sync.synced || !self.leftovers.contains(&key) {
                self.delete_others(&key, part, known);
                self.leftovers.remove(&key);
            }
        }
        let here = |part: &PartKey| snapshot.parts.contains_key(&part.cluster);
        self.delete_parts(cache.resource(), |part| !here(part));
        self.committed.positions.remove(cache.resource());
        self.commit()?;
        let unsettled = self.leftovers.iter().filter(|part| part.resource == *cache.resource());
        let unsettled = unsettled.map(|part| part.cluster.clone()).collect();
        let position = Position { cache: Arc::downgrade(cache), sequence: snapshot.sequence, unsettled };
        self.committed.positions.insert(cache.resource().clone(), position);
        Ok(())
    }

    /// Parts of a resource that the cache doesn't have, but for those that an earlier run left: they may come back.
    fn delete_parts(&mut self, resource: &GroupVersionResource, is_gone: impl Fn(&PartKey) -> bool) {
        let parts: BTreeSet<PartKey> = self
            .committed
            .segments
            .iter()
            .flat_map(|segment| segment.parts.iter().map(|(part, _)| part))
            .filter(|part| part.resource == *resource && is_gone(part) && !self.leftovers.contains(*part))
            .cloned()
            .collect();
        for part in parts {
            if let Some(term) = part.term() {
                self.delete(Term::from_field_text(self.fields.terms, &term));
            }
        }
    }

    /// What an earlier run has left of a cluster is compared once the cluster's whole list is there.
    fn settle(&mut self, cache: &Arc<ResourceCache>) -> Result<(), IndexError> {
        let Some(position) = self.committed.position(cache) else { return Ok(()) };
        let (sequence, waiting) = (position.sequence, position.unsettled.clone());
        if waiting.is_empty() {
            return Ok(());
        }
        let snapshot = cache.snapshot(Some(&waiting));
        // Not in step with the feed: the next round is.
        if snapshot.sequence != sequence {
            return Ok(());
        }
        let settled: Vec<_> = snapshot.parts.iter().filter(|(_, part)| part.sync.synced).collect();
        for (cluster, part) in &settled {
            let key = PartKey::new((*cluster).clone(), cache.resource().clone());
            let known = self.committed.fingerprints(&key).collect();
            self.delete_others(&key, part, known);
            self.leftovers.remove(&key);
        }
        self.commit()?;
        if let Some(position) = self.committed.positions.get_mut(cache.resource()) {
            position.unsettled.retain(|waiting| !settled.iter().any(|(cluster, _)| *cluster == waiting));
        }
        Ok(())
    }

    fn delete_others(&mut self, key: &PartKey, part: &Part, mut known: HashSet<u64, ahash::RandomState>) {
        for entry in &part.objects {
            known.remove(&entry.version().fingerprint);
        }
        for fingerprint in known {
            self.delete_object(key, fingerprint);
        }
    }

    fn add(
        &mut self,
        part: &PartKey,
        kind: &str,
        entry: &Entry,
        decoder: &Decoder,
        scratch: &mut Scratch,
    ) -> Result<(), IndexError> {
        let Some(term) = part.term() else { return Ok(()) };
        scratch.object.clear();
        decoder.append(entry.frame(), &mut scratch.object)?;
        let document = Document::read(&scratch.object);
        let mut row = TantivyDocument::new();
        row.add_text(self.fields.terms, scratch.terms.of(&term, &part.resource, document.as_ref()));
        row.add_u64(self.fields.fingerprint, entry.version().fingerprint);
        row.add_text(self.fields.identity, Identity::text(part, kind, entry.namespace(), entry.name()));
        self.writer.add_document(row)?;
        self.pending += 1;
        self.index.counters.indexed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Only of its own part: a member that found another object with this fingerprint must not reach any other.
    fn delete_object(&mut self, part: &PartKey, fingerprint: u64) {
        let Some(part) = part.term() else { return };
        self.deleted.insert(fingerprint);
        let term = |term| -> Box<dyn Query> { Box::new(TermQuery::new(term, IndexRecordOption::Basic)) };
        let both = BooleanQuery::intersection(vec![
            term(Term::from_field_u64(self.fields.fingerprint, fingerprint)),
            term(Term::from_field_text(self.fields.terms, &part)),
        ]);
        // It fails for queries that no schema could answer only.
        if let Err(error) = self.writer.delete_query(Box::new(both)) {
            tracing::error!(%error, "an object was not taken out of the search index");
        }
        self.pending += 1;
    }

    fn delete(&mut self, term: Term) {
        self.writer.delete_term(term);
        self.pending += 1;
    }

    fn commit_if_much(&mut self) -> Result<(), IndexError> {
        if self.pending > BETWEEN_COMMITS { self.commit() } else { Ok(()) }
    }

    /// Writes out what is pending, and shows it to readers.
    fn commit(&mut self) -> Result<(), IndexError> {
        if self.pending > 0 {
            self.writer.commit()?;
            self.pending = 0;
            self.deleted.clear();
            self.reader.reload()?;
            self.committed.segments = open_segments(&self.reader, &self.fields, &self.committed.segments)?;
            self.index.counters.commits.fetch_add(1, Ordering::Relaxed);
            self.check_size()?;
        }
        let Committed { segments, positions } = &self.committed;
        self.index.publish(Some(Committed { segments: segments.clone(), positions: positions.clone() }));
        Ok(())
    }

    fn check_size(&self) -> Result<(), IndexError> {
        let size = self.place.size();
        self.index.counters.bytes.store(size, Ordering::Relaxed);
        match self.disk {
            Some(limit) if size > limit => Err(IndexError::TooLarge { size, limit }),
            _ => Ok(()),
        }
    }
}

#[derive(Default)]
struct Scratch {
    object: Vec<u8>,
    terms: Terms,
}

fn open_segments(
    reader: &IndexReader,
    fields: &Fields,
    earlier: &[Arc<Segment>],
) -> Result<Vec<Arc<Segment>>, IndexError> {
    let searcher = reader.searcher();
    let open = |reader| {
        let same = earlier.iter().find(|segment| segment.is(reader));
        match same {
            Some(same) => Ok(Arc::clone(same)),
            None => {
                let earlier = earlier.iter().find(|segment| segment.is_earlier(reader));
                Segment::open(reader, fields, earlier.map(|segment| &**segment)).map(Arc::new)
            }
        }
    };
    searcher.segment_readers().iter().map(open).collect()
}
