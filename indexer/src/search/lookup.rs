//! What of a question the index answers, and which objects have to be looked at instead.
//!
//! The index stands for one moment of each feed. What changed since, up to the moment that the candidates were taken at, is
//! taken out of its answer and looked at as it is now; so are parts that it doesn't know, and documents of which it can't say
//! whether they pass.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use roaring::RoaringBitmap;
use tantivy::DocId;

use super::{Candidate, Candidates, Scope};
use crate::cache::{Change, FeedItem};
use crate::entry::{Entry, EntryKey};
use crate::index::{Committed, IndexError, Matcher, Matches, PartKey, Segment};
use crate::query::document::{Document, Facts};
use crate::resource::ClusterName;

/// Objects looked at between two looks at the clock.
const BETWEEN_LOOKS: u64 = 256;

/// How a question is to be answered.
pub(super) struct Lookup<'a> {
    pub(super) candidates: &'a Candidates,
    committed: Option<Arc<Committed>>,
    /// Candidates that the index knows.
    indexed: HashMap<PartKey, usize, ahash::RandomState>,
    /// Candidates that it doesn't know.
    scanned: Vec<usize>,
    /// States of objects that are in the index and no longer in the cache: their fingerprints, by candidate.
    gone: BTreeMap<usize, Vec<u64>>,
    /// Objects that have changed since: candidate, namespace, name.
    changed: BTreeSet<(usize, String, String)>,
}

/// A segment's answer.
#[derive(Default)]
pub(super) struct Known {
    /// These pass.
    pub(super) sure: RoaringBitmap,
    /// These have to be looked at.
    opened: RoaringBitmap,
}

impl Known {
    /// Moves documents to those that have to be looked at.
    pub(super) fn look_at(&mut self, documents: RoaringBitmap) {
        let documents = documents & &self.sure;
        self.sure -= &documents;
        self.opened |= documents;
    }
}

/// An object that passes. It is opened only for who asks.
pub(super) struct Passing<'a> {
    /// Which of the candidates it is of.
    pub(super) at: usize,
    candidate: &'a Candidate,
    pub(super) entry: &'a Entry,
    pub(super) facts: Facts<'a>,
    document: Option<Document>,
}

impl Passing<'_> {
    /// The object, opened. None if it can't be: it was JSON when it came in, so that does not happen.
    pub(super) fn document(&mut self, scratch: &mut Vec<u8>) -> Option<&Document> {
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

impl<'a> Lookup<'a> {
    /// Sorts out what the index knows of the candidates.
    pub(super) fn new(committed: Option<Arc<Committed>>, candidates: &'a Candidates) -> Self {
        let mut lookup = Self {
            candidates,
            committed,
            indexed: HashMap::default(),
            scanned: Vec::new(),
            gone: BTreeMap::new(),
            changed: BTreeSet::new(),
        };
        let changes: Vec<Option<Vec<FeedItem>>> =
            (0..candidates.resources.len()).map(|at| lookup.changes_of(at)).collect();
        let mut by_cluster: Vec<HashMap<&ClusterName, usize, ahash::RandomState>> =
            vec![HashMap::default(); changes.len()];
        for (at, candidate) in candidates.parts.iter().enumerate() {
            let has_changes =
                changes.get(candidate.resource).is_some_and(|changes| changes.iter().flatten().next().is_some());
            if let Some(by_cluster) = by_cluster.get_mut(candidate.resource).filter(|_| has_changes) {
                by_cluster.insert(&candidate.cluster, at);
            }
        }
        let mut left = BTreeSet::new();
        for (changes, by_cluster) in changes.iter().zip(&by_cluster) {
            for item in changes.iter().flatten() {
                if let Some(at) = by_cluster.get(&item.cluster) {
                    lookup.take_out(*at, &item.change, &mut left);
                }
            }
        }
        for (at, candidate) in candidates.parts.iter().enumerate() {
            let is_followed = changes.get(candidate.resource).is_some_and(Option::is_some);
            match lookup.part(candidate).filter(|_| is_followed && !left.contains(&at)) {
                Some(part) => drop(lookup.indexed.insert(part, at)),
                None => lookup.scanned.push(at),
            }
        }
        let scanned: BTreeSet<usize> = lookup.scanned.iter().copied().collect();
        lookup.changed.retain(|(at, ..)| !scanned.contains(at));
        lookup
    }

    /// What happened to a resource between the index's moment and the candidates'; none if nobody knows any more.
    fn changes_of(&self, resource: usize) -> Option<Vec<FeedItem>> {
        let looked = self.candidates.resources.get(resource)?;
        let position = self.committed.as_ref()?.position(&looked.cache)?;
        let mut changes = looked.cache.changes_since(position.sequence, usize::MAX)?;
        changes.retain(|item| item.sequence < looked.sequence);
        // An index that is ahead of the candidates can't say how things were then.
        (position.sequence <= looked.sequence).then_some(changes)
    }

    /// The candidate's name in the index, if all its objects are there.
    fn part(&self, candidate: &Candidate) -> Option<PartKey> {
        let looked = self.candidates.resources.get(candidate.resource)?;
        let position = self.committed.as_ref()?.position(&looked.cache)?;
        let part = PartKey::new(candidate.cluster.clone(), looked.cache.resource().clone());
        (!position.unsettled.contains(&candidate.cluster) && part.is_indexable()).then_some(part)
    }

    fn take_out(&mut self, at: usize, change: &Change, left: &mut BTreeSet<usize>) {
        match change {
            Change::Bookmark { .. } => {}
            Change::Left { .. } => drop(left.insert(at)),
            Change::Deleted { previous, .. } => self.gone.entry(at).or_default().push(previous.version().fingerprint),
            Change::Upserted { entry, previous, .. } => {
                let previous = previous.as_ref().map(|previous| previous.version().fingerprint);
                if previous != Some(entry.version().fingerprint) {
                    self.gone.entry(at).or_default().extend(previous);
                    self.changed.insert((at, entry.namespace().to_owned(), entry.name().to_owned()));
                }
            }
        }
    }

    /// Segments of the index.
    pub(super) fn segments(&self) -> usize {
        self.committed.as_ref().map_or(0, |committed| committed.segments.len())
    }

    fn segment(&self, at: usize) -> Option<&Segment> {
        self.committed.as_ref()?.segments.get(at).map(|segment| &**segment)
    }

    /// Asks a segment, and hands what it surely knows to `work`, which may move documents to those that are looked at. Where time
    /// runs out, all that may pass is.
    pub(super) fn known<T: Default>(
        &self,
        at: usize,
        scope: &Scope,
        work: impl FnOnce(&Matcher<'_>, &mut Known) -> Result<T, IndexError>,
    ) -> Result<(T, Known), IndexError> {
        let Some(segment) = self.segment(at) else { return Ok(Default::default()) };
        let candidate_of = |part: &PartKey| self.indexed.get(part).and_then(|at| self.candidates.parts.get(*at));
        let candidates: Vec<Option<&Candidate>> = segment.parts.iter().map(|(part, _)| candidate_of(part)).collect();
        let all = self.present(segment, &candidates);
        let served: Vec<_> = candidates.iter().map(|known| known.map(|candidate| &candidate.part.served)).collect();
        let matcher =
            Matcher { segment, evaluator: &scope.evaluator, all: &all, served: &served, deadline: scope.deadline };
        let answered = matcher.matches().and_then(|Matches { sure, possible }| {
            let mut known = Known { opened: possible - &sure, sure };
            Ok((work(&matcher, &mut known)?, known))
        });
        match answered {
            Err(IndexError::Late) => Ok((T::default(), Known { sure: RoaringBitmap::new(), opened: all })),
            answered => answered,
        }
    }

    /// The documents of candidates that are still as they were.
    fn present(&self, segment: &Segment, candidates: &[Option<&Candidate>]) -> RoaringBitmap {
        let mut present = RoaringBitmap::new();
        for ((_, documents), candidate) in segment.parts.iter().zip(candidates) {
            if candidate.is_some() {
                present |= documents;
            }
        }
        for (at, fingerprints) in &self.gone {
            let part = self.candidates.parts.get(*at).and_then(|candidate| self.part(candidate));
            let Some(of_part) = part.and_then(|part| segment.documents_of_part(&part)) else { continue };
            let found = fingerprints.iter().flat_map(|fingerprint| segment.with_fingerprint(*fingerprint));
            for document in found.filter(|document| of_part.contains(*document)) {
                present.remove(document);
            }
        }
        present
    }

    /// The object that a document was made of.
    pub(super) fn resolve(&self, segment: usize, document: DocId) -> Result<(usize, Entry), IndexError> {
        let segment = self.segment(segment).ok_or(IndexError::Damaged("a segment is missing"))?;
        let identity = segment.identity(document)?;
        let candidate = self.indexed.get(&identity.part).and_then(|at| Some((*at, self.candidates.parts.get(*at)?)));
        let (at, candidate) = candidate.ok_or(IndexError::Damaged("a document is of no candidate"))?;
        let entry = candidate.part.objects.get(&EntryKey::new(identity.namespace(), identity.name()));
        match entry {
            Some(entry) if Some(entry.version().fingerprint) == segment.fingerprint(document) => {
                Ok((at, entry.clone()))
            }
            _ => Err(IndexError::Damaged("a document's object is not in the cache")),
        }
    }

    /// Calls for every object that passes and that the index doesn't know to, as long as the answer is yes; false if the
    /// deadline came first.
    pub(super) fn for_each_other(
        &self,
        scope: &Scope,
        known: &[Known],
        mut found: impl FnMut(Passing<'_>, &mut Vec<u8>) -> bool,
    ) -> Result<bool, IndexError> {
        let part = |at: usize| self.candidates.parts.get(at);
        let scanned = self.scanned.iter().filter_map(|at| Some((*at, part(*at)?)));
        let scanned = scanned.flat_map(|(at, part)| part.part.objects.iter().map(move |entry| Ok((at, entry.clone()))));
        let changed = self.changed.iter().filter_map(|(at, namespace, name)| {
            part(*at)?.part.objects.get(&EntryKey::new(namespace, name)).map(|entry| Ok((*at, entry.clone())))
        });
        let opened = known
            .iter()
            .enumerate()
            .flat_map(|(segment, known)| known.opened.iter().map(move |document| self.resolve(segment, document)));
        let mut looker = Looker { scope, scratch: Vec::new(), looked_at: 0 };
        for object in scanned.chain(changed).chain(opened) {
            let (at, entry) = object?;
            let Some(candidate) = part(at) else { continue };
            match looker.look(at, candidate, &entry) {
                Looked::Late => return Ok(false),
                Looked::Fails => {}
                Looked::Passes(passing) => {
                    if !found(passing, &mut looker.scratch) {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(true)
    }
}

/// What came of looking at an object.
enum Looked<'a> {
    Passes(Passing<'a>),
    Fails,
    Late,
}

struct Looker<'a> {
    scope: &'a Scope,
    scratch: Vec<u8>,
    looked_at: u64,
}

impl Looker<'_> {
    fn look<'a>(&mut self, at: usize, candidate: &'a Candidate, entry: &'a Entry) -> Looked<'a> {
        let Scope { evaluator, deadline, .. } = self.scope;
        self.looked_at += 1;
        if self.looked_at.is_multiple_of(BETWEEN_LOOKS) && Instant::now() >= *deadline {
            return Looked::Late;
        }
        let facts = Facts {
            cluster: &candidate.cluster,
            served: &candidate.part.served,
            namespace: entry.namespace(),
            name: entry.name(),
            labels: entry.labels(),
        };
        let document = match evaluator.on_facts(&facts) {
            Some(false) => return Looked::Fails,
            Some(true) => None,
            None if Instant::now() >= *deadline => return Looked::Late,
            None => match opened(candidate, entry, &mut self.scratch) {
                Some(document) if evaluator.matches(&facts, &document) => Some(document),
                _ => return Looked::Fails,
            },
        };
        Looked::Passes(Passing { at, candidate, entry, facts, document })
    }
}
