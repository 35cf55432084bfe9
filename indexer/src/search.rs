//! Answers to queries over all kinds of all clusters at once.
//!
//! In: a question, the cache, and what the [`index`](crate::index) knows of it. Out: one page of hits in the order that was
//! asked for, with the exact number of all, or counts by field ([`facets`]). What the index knows for sure is not looked at;
//! everything else is ([`lookup`]): what changed since it was written, what it can't decide, or every object where it knows
//! nothing. So the answer is the same with it and without. No lock is held while objects are looked at. The work is for a
//! blocking thread; it ends at its deadline with what was found by then, and says so.

mod candidates;
pub mod differences;
pub mod explain;
pub mod facets;
mod lookup;
pub mod moments;
pub mod names;
pub mod order;
pub mod owners;
pub mod watch;

use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Instant;

use roaring::RoaringBitmap;
use tantivy::DocId;

use crate::cache::Cache;
use crate::codec::Decoder;
use crate::entry::Entry;
use crate::index::{Index, IndexError, Matcher, Selection};
use crate::query::Field;
use crate::query::document::{Document, Facts};
use crate::query::evaluate::Evaluator;
use crate::resource::{ApiResource, ClusterName};
use crate::version::MergedVersion;
pub(crate) use candidates::is_another_version;
use candidates::{Candidate, Candidates};
use facets::{Facets, FacetsError};
use lookup::{Known, Lookup};
use moments::Moments;
use order::{By, Order, Ranked, SortKey};

/// So few objects are sorted by looking at them sooner than by all values of a field. Tests have few objects in all.
const FEW: u64 = if cfg!(test) { 2 } else { 64 };

/// What all questions have in common.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Which objects.
    pub evaluator: Evaluator,
    /// Only these clusters; all if none.
    pub clusters: Option<BTreeSet<ClusterName>>,
    /// When to end with what was found by then.
    pub deadline: Instant,
}

/// A question for objects.
#[derive(Debug, Clone)]
pub struct Question {
    /// Which objects.
    pub scope: Scope,
    /// In which order.
    pub order: Order,
    /// How many at most.
    pub limit: usize,
    /// Only those behind this one.
    pub after: Option<SortKey>,
    /// As they were when the first page was given, where backends answer and still know.
    pub moments: Moments,
}

impl Question {
    /// For the first page.
    pub fn new(scope: Scope, order: Order, limit: usize) -> Self {
        Self { scope, order, limit, after: None, moments: Moments::default() }
    }
}

/// One object that was found.
#[derive(Debug, Clone)]
pub struct Hit {
    /// Its cluster.
    pub cluster: ClusterName,
    /// What it is, as its cluster serves it.
    pub served: ApiResource,
    /// The object.
    pub entry: Entry,
    /// Opens it.
    pub decoder: Decoder,
}

impl Hit {
    /// Whether it keeps something secret, which no query may show.
    pub fn is_secret(&self) -> bool {
        self.served.gvr.group.is_empty() && *self.served.kind == *"Secret"
    }

    /// Cluster, group, resource, namespace and name.
    pub(crate) fn identity(&self) -> (ClusterName, Arc<str>, Arc<str>, String, String) {
        let gvr = &self.served.gvr;
        let (namespace, name) = (self.entry.namespace().to_owned(), self.entry.name().to_owned());
        (self.cluster.clone(), Arc::clone(&gvr.group), Arc::clone(&gvr.resource), namespace, name)
    }

    /// Where it stands in an order.
    pub(crate) fn key(&self, scope: &Scope, order: &Order) -> SortKey {
        let document = if order.needs_document() { self.document() } else { None };
        order.key_of(&scope.evaluator, &self.facts(), document.as_ref())
    }

    /// What is known of it unopened.
    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            cluster: &self.cluster,
            served: &self.served,
            namespace: self.entry.namespace(),
            name: self.entry.name(),
            labels: self.entry.labels(),
        }
    }

    /// The object, opened. None if it can't be: it was JSON when it came in, so that does not happen.
    pub(crate) fn document(&self) -> Option<Document> {
        let mut object = Vec::new();
        self.decoder.append(self.entry.frame(), &mut object).ok()?;
        Document::read(&object)
    }
}

/// One page.
#[derive(Debug)]
pub struct Page {
    /// The objects, in order.
    pub hits: Vec<Hit>,
    /// Behind which the next page begins, if there is one.
    pub next: Option<SortKey>,
    /// Objects that pass and come behind this page.
    pub remaining: u64,
    /// How far each cluster's part of the answer reaches.
    pub version: MergedVersion,
    /// Whether the deadline came first, so that some objects were not looked at.
    pub is_partial: bool,
    /// Which moments of backends it shows, if a page follows.
    pub moments: Moments,
}

/// What questions are asked of: the cache with its index, or backends.
pub trait Answers: Send + Sync {
    /// Whether the work is done elsewhere, so that asking costs little but time.
    fn waits(&self) -> bool {
        false
    }

    /// One page of objects.
    ///
    /// # Errors
    /// If there is nobody to ask.
    fn page(&self, question: &Question) -> Result<Page, Unavailable>;

    /// Counts by fields; of each field at most `size` values are shown.
    ///
    /// # Errors
    /// If there is nobody to ask, or a field has too many different values.
    fn facets(&self, scope: &Scope, by: &[Field], size: usize) -> Result<Facets, FacetsError>;
}

/// A backend that should answer does not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the backend {backend} gives no answer: {error}")]
pub struct Unavailable {
    /// Its nodes.
    pub backend: String,
    /// Why.
    pub error: String,
}

/// Answers from the cache, with what the index knows of it.
#[derive(Debug, Clone)]
pub struct Cached {
    /// The objects.
    pub cache: Arc<Cache>,
    /// What is known of them.
    pub index: Arc<Index>,
}

impl Answers for Cached {
    fn page(&self, question: &Question) -> Result<Page, Unavailable> {
        Ok(answer(&self.cache, &self.index, question))
    }

    fn facets(&self, scope: &Scope, by: &[Field], size: usize) -> Result<Facets, FacetsError> {
        Ok(facets::count(&self.cache, &self.index, scope, by, size)?)
    }
}

/// Where a hit stands.
enum Place {
    /// Of the candidate with this number.
    Entry(usize, Entry),
    /// In the segment with this number.
    Document(usize, DocId),
}

/// Answers a question.
pub fn answer(cache: &Cache, index: &Index, question: &Question) -> Page {
    // The index first: it must not be ahead of what it is compared with.
    let committed = index.committed();
    let candidates = Candidates::of(cache, question.scope.clusters.as_ref());
    let lookup = Lookup::new(committed.clone(), &candidates);
    page(&lookup, question).unwrap_or_else(|error| {
        index.give_up(committed.as_ref(), &error);
        // Without an index nothing can be wrong with it.
        page(&Lookup::new(None, &candidates), question).unwrap_or_else(|_| Page::nothing(&candidates))
    })
}

impl Page {
    /// Where there is nothing.
    pub(crate) fn empty() -> Self {
        Self {
            hits: Vec::new(),
            next: None,
            remaining: 0,
            version: MergedVersion::default(),
            is_partial: false,
            moments: Moments::default(),
        }
    }

    fn nothing(candidates: &Candidates) -> Self {
        Self { version: candidates.version.clone(), is_partial: true, ..Self::empty() }
    }
}

/// The best of what was found, the worst of them on top, to be dropped for a better one.
struct Best<'a> {
    question: &'a Question,
    kept: BinaryHeap<Ranked<Place>>,
    passed: u64,
}

impl Best<'_> {
    fn keep(&mut self, key: SortKey, place: Place) {
        self.kept.push(Ranked::new(key, &self.question.order, place));
        if self.kept.len() > self.question.limit {
            self.kept.pop();
        }
    }
}

fn page(lookup: &Lookup<'_>, question: &Question) -> Result<Page, IndexError> {
    let Question { scope, order, .. } = question;
    let capacity = question.limit.min(1024) + 1;
    let mut best = Best { question, kept: BinaryHeap::with_capacity(capacity), passed: 0 };
    let mut known = Vec::new();
    for at in 0..lookup.segments() {
        let (selection, of_segment) = lookup.known(at, scope, |matcher, known| select(matcher, question, known))?;
        best.passed += selection.passed;
        for (key, document) in selection.first {
            best.keep(key, Place::Document(at, document));
        }
        known.push(of_segment);
    }
    let is_complete = lookup.for_each_other(scope, &known, |mut passing, scratch| {
        let facts = passing.facts;
        let document = if order.needs_document() { passing.document(scratch) } else { None };
        let key = order.key_of(&scope.evaluator, &facts, document);
        if question.after.as_ref().is_none_or(|after| order.compare(&key, after).is_gt()) {
            best.passed += 1;
            best.keep(key, Place::Entry(passing.at, passing.entry.clone()));
        }
        true
    })?;
    let passed = best.passed;
    let ranked = best.kept.into_sorted_vec();
    let next = ranked.last().map(|last| last.key().clone());
    let mut hits = Vec::with_capacity(ranked.len());
    for ranked in ranked {
        let (at, entry) = match ranked.into_value() {
            Place::Entry(at, entry) => (at, entry),
            Place::Document(segment, document) => lookup.resolve(segment, document)?,
        };
        hits.extend(lookup.candidates.hit(at, entry));
    }
    let remaining = passed - hits.len() as u64;
    // Behind the last of a partial page may stand what was not looked at, and before it too: there is no next one.
    let next = next.filter(|_| remaining > 0 && is_complete);
    let (version, is_partial) = (lookup.candidates.version.clone(), !is_complete);
    Ok(Page { hits, next, remaining, version, is_partial, moments: Moments::default() })
}

/// The first of a segment's documents; those whose place only their objects tell are moved to the ones to be looked at.
fn select(matcher: &Matcher<'_>, question: &Question, known: &mut Known) -> Result<Selection, IndexError> {
    let Question { order, after, limit, .. } = question;
    if order.needs_document() && known.sure.len() <= FEW {
        known.look_at(known.sure.clone());
    }
    for by in order.by() {
        let unknown = match &by.by {
            _ if known.sure.is_empty() => RoaringBitmap::new(),
            By::Relevance => matcher.scores(&known.sure)?.1,
            By::Field(field) => matcher.unknown(field, &known.sure)?,
        };
        known.look_at(unknown);
    }
    matcher.select(&known.sure, order, after.as_ref(), *limit)
}

#[cfg(test)]
mod tests;
