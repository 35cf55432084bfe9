//! Answers to questions from the documents of backends, without a cache.
//!
//! In: a question, as [`search`](crate::search) has it, and the backends to ask. Out: the same page or counts that the objects
//! themselves would give. What documents surely tell ([`translate`], [`order`]) OpenSearch selects, sorts and counts; what they
//! leave in doubt is fetched and looked at by the query's own meaning. All of an answer is of one moment ([`scan`]), its further
//! pages too, as long as the backend remembers it.

mod bounds;
pub mod choice;
mod facets;
mod listing;
mod order;
mod scan;
mod translate;
mod verified;

use std::collections::{BinaryHeap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use super::BackendError;
use super::client::Client;
use super::layout::{self, Layout};
use super::target::Target;
use crate::codec::{Codec, CodecError};
use crate::entry::{Entry, EntryKey, LabelSet, Version};
use crate::query::Field;
use crate::query::document::{Document, Facts};
use crate::raw::ObjectReader;
use crate::resource::{ApiResource, ClusterName, GroupVersionResource};
use crate::search::facets::{Facets, FacetsError};
use crate::search::order::{Ranked, SortKey};
use crate::search::{Answers, Hit, Page, Question, Scope, Unavailable};
use bounds::{Bounds, Condition};
pub use listing::{BackendListing, ListedObject};
use order::NativeOrder;
use scan::{Kept, Moment, Source, Walk, is_late};
pub use verified::VerifiedAnswers;

/// Why a backend gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// It refuses, or is away.
    #[error("{0}")]
    Backend(#[from] BackendError),
    /// What it holds can't be used.
    #[error("{0}")]
    Codec(#[from] CodecError),
    /// Time was up.
    #[error("it took too long")]
    Late,
    /// A field has too many different values.
    #[error("{0}")]
    TooManyValues(String),
}

impl ReadError {
    /// Whether the moment that was asked about is none, or no longer.
    fn is_about_moment(&self) -> bool {
        matches!(self, Self::Backend(error) if matches!(error.status(), Some(400 | 404)))
    }

    /// Whether the question is more than OpenSearch takes: with less of it told, it may do.
    fn is_about_question(&self) -> bool {
        let Self::Backend(error) = self else { return false };
        let text = error.to_string();
        let is_too_large =
            || ["too_many_nested_clauses", "too_many_clauses", "maxClauseCount"].iter().any(|word| text.contains(word));
        match error.status() {
            Some(400) => true,
            Some(500) => is_too_large(),
            _ => false,
        }
    }
}

/// Reads one backend.
pub struct Reader {
    name: String,
    pub(super) client: Client,
    /// Where documents are.
    pub(super) alias: String,
    knows_paths: OnceCell<bool>,
    kept: Kept,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Reader").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A document that was found, as an object.
#[derive(Debug, Clone)]
struct Found {
    cluster: ClusterName,
    served: ApiResource,
    labels: Arc<LabelSet>,
    namespace: String,
    name: String,
    version: u64,
    object: Vec<u8>,
}

impl Found {
    /// None for what is no object.
    fn of(source: Source) -> Option<Self> {
        let Source { cluster, group, version, kind, resource, namespace, name, object } = source;
        let cluster = ClusterName::from(cluster.as_str());
        let api_version = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
        let parsed = ObjectReader::new(&cluster, &api_version, &kind).read(object?.get()).ok()?;
        let served = ApiResource {
            gvr: GroupVersionResource::new(&group, &version, &resource),
            kind: kind.as_str().into(),
            namespaced: !namespace.is_empty(),
            watchable: true,
        };
        let labels = Arc::new(LabelSet::new(parsed.labels));
        Some(Self { cluster, served, labels, namespace, name, version: parsed.resource_version, object: parsed.bytes })
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            cluster: &self.cluster,
            served: &self.served,
            namespace: &self.namespace,
            name: &self.name,
            labels: &self.labels,
        }
    }

    fn hit(self, codec: &Codec) -> Result<Hit, CodecError> {
        let mut buffer = Vec::new();
        let frame = codec.compress(&self.object, &mut buffer)?;
        let version = Version { resource_version: self.version, fingerprint: 0 };
        let entry = Entry::new(EntryKey::new(&self.namespace, &self.name), version, self.labels, frame);
        Ok(Hit { cluster: self.cluster, served: self.served, entry, decoder: codec.decoder() })
    }
}

/// The best of what was found, the worst of them on top, to be dropped for a better one.
struct Best<'a> {
    question: &'a Question,
    kept: BinaryHeap<Ranked<Hit>>,
    codec: Codec,
}

impl Best<'_> {
    /// Keeps what is good enough, compressed.
    fn keep(&mut self, key: SortKey, found: Found) -> Result<(), CodecError> {
        let Question { order, limit, .. } = self.question;
        let worst = self.kept.peek().filter(|_| self.kept.len() >= *limit);
        if *limit == 0 || worst.is_some_and(|worst| order.compare(&key, worst.key()).is_ge()) {
            return Ok(());
        }
        self.kept.push(Ranked::new(key, order, found.hit(&self.codec)?));
        if self.kept.len() > *limit {
            self.kept.pop();
        }
        Ok(())
    }
}

fn forgotten(reader: &Reader, error: &ReadError) {
    tracing::debug!(backend = reader.name, %error, "OpenSearch has forgotten a moment: going on at the present one");
}

/// What documents tell of a scope, its clusters among it.
fn bounds_of(scope: &Scope, knows_paths: bool) -> Bounds {
    let asked = translate::bounds(&scope.evaluator, knows_paths);
    let Some(clusters) = &scope.clusters else { return asked };
    let there = Condition::terms("cluster", clusters.iter().map(ClusterName::as_str));
    Bounds::all([Bounds::exactly(there), asked])
}

impl Reader {
    /// Reads what this program writes to a target below a prefix.
    pub(super) fn new(target: &Target, prefix: &str) -> Result<Self, BackendError> {
        Ok(Self {
            name: target.name(),
            client: Client::new(target)?,
            alias: Layout::new(prefix).alias,
            knows_paths: OnceCell::new(),
            kept: Kept::default(),
        })
    }

    /// A page, and of which moment it is; none if nothing was ever written.
    async fn page(self: &Arc<Self>, question: &Question) -> Result<(Page, Option<Moment>), ReadError> {
        if let Some(id) = question.moments.of(&self.name) {
            match self.page_at(Moment::again(self, id).await?, question).await {
                Err(error) if error.is_about_moment() => forgotten(self, &error),
                other => return other,
            }
        }
        match Moment::begin(self).await? {
            Some(moment) => self.page_at(moment, question).await,
            None => Ok((Page::empty(), None)),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    async fn page_at(&self, mut moment: Moment, question: &Question) -> Result<(Page, Option<Moment>), ReadError> {
        let bounds = bounds_of(&question.scope, moment.knows_paths());
        let page = match page_of(&mut moment, question, &bounds).await {
            Err(error) if error.is_about_question() => {
                tracing::debug!(backend = self.name, %error, "OpenSearch does not take a query: looking at all objects");
                page_of(&mut moment, question, &Bounds::unknown()).await
            }
            other => other,
        }?;
        Ok((page, Some(moment)))
    }

    /// Whether flat objects can be asked whether a path is there; earlier versions find none.
    async fn knows_paths(&self) -> Result<bool, ReadError> {
        let asked = self.knows_paths.get_or_try_init(|| async { Ok(layout::major_version(&self.client).await? >= 3) });
        asked.await.copied()
    }
}

async fn page_of(moment: &mut Moment, question: &Question, bounds: &Bounds) -> Result<Page, ReadError> {
    let Question { scope, order, after, limit, .. } = question;
    let native = NativeOrder::of(order, scope.evaluator.expression(), after.as_ref());
    let sure =
        native.as_ref().map_or(Condition::Nothing, |native| bounds.sure.clone().and(native.doubtful.clone().not()));
    let doubtful = Bounds { sure: sure.clone(), possible: bounds.possible.clone() }.doubtful();
    let mut best = Best { question, kept: BinaryHeap::new(), codec: Codec::default() };
    let mut passed = 0;
    if let Some(native) = native.filter(|_| sure != Condition::Nothing) {
        let behind = sure.and(native.behind);
        let query = with_scores(&behind, native.scored);
        let mut walk = Walk::sorted(query, Value::Array(native.sort)).counted();
        let mut left = *limit;
        if left == 0 {
            passed = moment.count(&behind.to_query()).await?;
        }
        while let Some(sources) = walk.next(moment, left).await? {
            left -= sources.len();
            for found in sources.into_iter().filter_map(Found::of) {
                let key = key_of(question, &found);
                best.keep(key, found)?;
            }
        }
        passed = passed.max(walk.total());
    }
    let mut is_complete = true;
    if doubtful != Condition::Nothing {
        let mut walk = Walk::new(doubtful.to_query());
        while is_complete && let Some(sources) = walk.next(moment, usize::MAX).await? {
            for found in sources.into_iter().filter_map(Found::of) {
                let Some(key) = passing_key(question, &found) else { continue };
                if after.as_ref().is_none_or(|after| order.compare(&key, after).is_gt()) {
                    passed += 1;
                    best.keep(key, found)?;
                }
            }
            is_complete = !is_late(scope.deadline);
        }
    }
    Ok(into_page(best, passed, is_complete))
}

/// A condition that scores as these queries do together.
fn with_scores(condition: &Condition, scored: Vec<Value>) -> Value {
    if scored.is_empty() {
        return condition.to_query();
    }
    json!({ "bool": { "filter": [condition.to_query()], "should": scored, "minimum_should_match": 0 } })
}

fn key_of(question: &Question, found: &Found) -> SortKey {
    let Question { scope, order, .. } = question;
    let document = if order.needs_document() { Document::read(&found.object) } else { None };
    order.key_of(&scope.evaluator, &found.facts(), document.as_ref())
}

/// The place of an object, if it passes.
fn passing_key(question: &Question, found: &Found) -> Option<SortKey> {
    let Question { scope, order, .. } = question;
    let document = looked_at(scope, found)?;
    Some(order.key_of(&scope.evaluator, &found.facts(), document.as_ref()))
}

/// If the object passes, the object opened, where it can be.
fn looked_at(scope: &Scope, found: &Found) -> Option<Option<Document>> {
    let Scope { evaluator, clusters, .. } = scope;
    let facts = found.facts();
    let is_wanted = clusters.as_ref().is_none_or(|clusters| clusters.contains(&found.cluster));
    let decided = evaluator.on_facts(&facts);
    if !is_wanted || decided == Some(false) {
        return None;
    }
    let document = Document::read(&found.object);
    match &document {
        Some(document) => evaluator.matches(&facts, document),
        None => decided == Some(true),
    }
    .then_some(document)
}

fn into_page(best: Best<'_>, passed: u64, is_complete: bool) -> Page {
    let ranked = best.kept.into_sorted_vec();
    let next = ranked.last().map(|last| last.key().clone());
    let hits: Vec<Hit> = ranked.into_iter().map(Ranked::into_value).collect();
    let remaining = passed.saturating_sub(hits.len() as u64);
    let next = next.filter(|_| remaining > 0 && is_complete);
    Page { hits, next, remaining, is_partial: !is_complete, ..Page::empty() }
}

/// Answers from all backends together.
#[derive(Debug, Clone)]
pub struct BackendAnswers {
    readers: Arc<Vec<Arc<Reader>>>,
    runtime: Handle,
}

impl BackendAnswers {
    /// From these backends, asked from outside of asynchronous work.
    pub fn new(readers: Arc<Vec<Arc<Reader>>>, runtime: Handle) -> Self {
        Self { readers, runtime }
    }

    fn ask<T>(&self, scope: &Scope, asked: impl Future<Output = Result<T, ReadError>>) -> Result<T, ReadError> {
        let deadline = tokio::time::Instant::from_std(scope.deadline + GRACE);
        self.runtime.block_on(async { tokio::time::timeout_at(deadline, asked).await.unwrap_or(Err(ReadError::Late)) })
    }
}

/// A walk that ends at the deadline may be in the middle of a page.
const GRACE: Duration = Duration::from_secs(5);

impl Reader {
    fn unavailable(&self, error: &ReadError) -> Unavailable {
        Unavailable { backend: self.name.clone(), error: error.to_string() }
    }
}

impl Answers for BackendAnswers {
    fn waits(&self) -> bool {
        true
    }

    fn page(&self, question: &Question) -> Result<Page, Unavailable> {
        let (mut pages, mut moments) = (Vec::new(), Vec::new());
        for reader in self.readers.iter() {
            let answered = self.ask(&question.scope, reader.page(question));
            let (page, moment) = answered.map_err(|error| reader.unavailable(&error))?;
            pages.push(page);
            moments.extend(moment.map(|moment| (&reader.name, moment)));
        }
        let mut page = merged(pages, question);
        if page.next.is_some() {
            for (backend, moment) in moments {
                page.moments.note(backend, moment.keep());
            }
        }
        Ok(page)
    }

    fn facets(&self, scope: &Scope, by: &[Field], size: usize) -> Result<Facets, FacetsError> {
        facets::count(self, scope, by, size)
    }
}

/// Several pages as one: the first of all of them. What stands in two backends counts once on a page.
fn merged(mut pages: Vec<Page>, question: &Question) -> Page {
    if pages.len() <= 1 {
        return pages.pop().unwrap_or_else(Page::empty);
    }
    let Question { scope, order, limit, .. } = question;
    let mut merged = Page::empty();
    let mut ranked = Vec::new();
    for page in pages {
        merged.is_partial |= page.is_partial;
        merged.remaining += page.remaining;
        ranked
            .extend(page.hits.into_iter().map(|hit| (hit.identity(), Ranked::new(hit.key(scope, order), order, hit))));
    }
    ranked.sort_by(|(_, one), (_, other)| one.cmp(other));
    let mut known = HashSet::new();
    ranked.retain(|(identity, _)| known.insert(identity.clone()));
    let mut ranked: Vec<Ranked<Hit>> = ranked.into_iter().map(|(_, ranked)| ranked).collect();
    merged.remaining += ranked.len().saturating_sub(*limit) as u64;
    ranked.truncate(*limit);
    merged.next = ranked.last().filter(|_| merged.remaining > 0 && !merged.is_partial).map(|last| last.key().clone());
    merged.hits = ranked.into_iter().map(Ranked::into_value).collect();
    merged
}
