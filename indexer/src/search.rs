//! Answers to queries over all kinds of all clusters at once, by looking at every object that may pass.
//!
//! In: a question and the cache. Out: one page of hits in the order that was asked for, with the exact number of all, or
//! counts by field ([`facets`]). Nothing is parsed that what the cache keeps in the open decides already; no lock is held
//! while objects are looked at. The work is for a blocking thread; it ends at its deadline with what was found by then, and says so.

pub mod facets;
pub mod order;

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Instant;

use crate::cache::{Cache, Part};
use crate::codec::Decoder;
use crate::entry::Entry;
use crate::query::document::{Document, Facts};
use crate::query::evaluate::Evaluator;
use crate::resource::{ApiResource, ClusterName};
use crate::version::MergedVersion;
use order::{Order, Ranked, SortKey};

/// Objects looked at between two looks at the clock.
const BETWEEN_LOOKS: u64 = 256;

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
}

/// One cluster's objects of one resource.
struct Candidate {
    cluster: ClusterName,
    part: Part,
    decoder: Decoder,
}

impl Candidate {
    /// Whether it is in step, and how far its version is on the way from `v1alpha1` over `v1beta1` and `v1` to `v2`.
    fn rank(&self) -> (bool, u8, Vec<u32>) {
        let version = &*self.part.served.gvr.version;
        let stability = match version {
            _ if version.contains("alpha") => 0,
            _ if version.contains("beta") => 1,
            _ => 2,
        };
        let numbers = version.split(|character: char| !character.is_ascii_digit());
        (self.part.sync.synced, stability, numbers.filter_map(|number| number.parse().ok()).collect())
    }
}

/// What may be looked at: each object once, also if registries select its resource in several versions. Then the part counts
/// that is in step, and of two that are, the newer version.
struct Candidates {
    parts: Vec<Candidate>,
    version: MergedVersion,
}

impl Candidates {
    fn of(cache: &Cache, clusters: Option<&BTreeSet<ClusterName>>) -> Self {
        let mut parts: BTreeMap<_, Candidate> = BTreeMap::new();
        let mut versions: BTreeMap<ClusterName, u64> = BTreeMap::new();
        for resource in cache.all() {
            let snapshot = resource.snapshot(clusters);
            let decoder = resource.codec().decoder();
            for (cluster, part) in snapshot.parts {
                // A watch from here on must miss nothing of the slowest.
                if let Some(reached) = part.version.as_ref().and_then(|version| version.parse().ok()) {
                    let slowest = versions.entry(cluster.clone()).or_insert(reached);
                    *slowest = reached.min(*slowest);
                }
                let gvr = resource.resource();
                let key = (Arc::clone(&gvr.group), Arc::clone(&gvr.resource), cluster.clone());
                let candidate = Candidate { cluster, part, decoder: decoder.clone() };
                match parts.get(&key) {
                    Some(present) if present.rank() >= candidate.rank() => {}
                    _ => drop(parts.insert(key, candidate)),
                }
            }
        }
        let mut version = MergedVersion::default();
        for (cluster, reached) in versions {
            version.set(cluster, Arc::from(reached.to_string()));
        }
        Self { parts: parts.into_values().collect(), version }
    }
}

/// An object that passes. It is opened only for who asks.
struct Passing<'a> {
    /// Which of the candidates it is of.
    at: usize,
    candidate: &'a Candidate,
    entry: &'a Entry,
    facts: Facts<'a>,
    document: Option<Document>,
}

impl Passing<'_> {
    /// The object, opened. None if it can't be: it was JSON when it came in, so that does not happen.
    fn document(&mut self, scratch: &mut Vec<u8>) -> Option<&Document> {
        if self.document.is_none() {
            self.document = opened(self.candidate, self.entry, scratch);
        }
        self.document.as_ref()
    }
}

fn opened(candidate: &Candidate, entry: &Entry, scratch: &mut Vec<u8>) -> Option<Document> {
    scratch.clear();
    candidate.decoder.append(entry.frame(), scratch).ok()?;
    Document::read(scratch)
}

/// Calls for every object that passes, as long as the answer is yes; false if the deadline came first.
fn for_each(scope: &Scope, candidates: &Candidates, mut found: impl FnMut(Passing<'_>, &mut Vec<u8>) -> bool) -> bool {
    let mut scratch = Vec::new();
    let mut looked_at: u64 = 0;
    for (at, candidate) in candidates.parts.iter().enumerate() {
        for entry in &candidate.part.objects {
            looked_at += 1;
            if looked_at.is_multiple_of(BETWEEN_LOOKS) && Instant::now() >= scope.deadline {
                return false;
            }
            let facts = Facts {
                cluster: &candidate.cluster,
                served: &candidate.part.served,
                namespace: entry.namespace(),
                name: entry.name(),
                labels: entry.labels(),
            };
            let document = match scope.evaluator.on_facts(&facts) {
                Some(false) => continue,
                Some(true) => None,
                None if Instant::now() >= scope.deadline => return false,
                None => match opened(candidate, entry, &mut scratch) {
                    Some(document) if scope.evaluator.matches(&facts, &document) => Some(document),
                    _ => continue,
                },
            };
            if !found(Passing { at, candidate, entry, facts, document }, &mut scratch) {
                return true;
            }
        }
    }
    true
}

/// Answers a question.
pub fn answer(cache: &Cache, question: &Question) -> Page {
    let candidates = Candidates::of(cache, question.scope.clusters.as_ref());
    // The worst of the kept ones stands on top, to be dropped for a better one.
    let mut kept: BinaryHeap<Ranked<(usize, Entry)>> = BinaryHeap::with_capacity(question.limit.min(1024) + 1);
    let mut passed: u64 = 0;
    let is_complete = for_each(&question.scope, &candidates, |mut passing, scratch| {
        let facts = passing.facts;
        let document = if question.order.needs_document() { passing.document(scratch) } else { None };
        let key = question.order.key_of(&question.scope.evaluator, &facts, document);
        if question.after.as_ref().is_some_and(|after| question.order.compare(&key, after).is_le()) {
            return true;
        }
        passed += 1;
        kept.push(Ranked::new(key, &question.order, (passing.at, passing.entry.clone())));
        if kept.len() > question.limit {
            kept.pop();
        }
        true
    });
    let ranked = kept.into_sorted_vec();
    let next = ranked.last().map(|last| last.key().clone());
    let hits: Vec<Hit> = ranked
        .into_iter()
        .filter_map(|ranked| {
            let (at, entry) = ranked.into_value();
            let Candidate { cluster, part, decoder } = candidates.parts.get(at)?;
            Some(Hit { cluster: cluster.clone(), served: part.served.clone(), entry, decoder: decoder.clone() })
        })
        .collect();
    let remaining = passed - hits.len() as u64;
    // Behind the last of a partial page may stand what was not looked at, and before it too: there is no next one.
    let next = next.filter(|_| remaining > 0 && is_complete);
    Page { hits, next, remaining, version: candidates.version, is_partial: !is_complete }
}

#[cfg(test)]
mod tests;
