//! The first documents of a segment in an order, found without opening an object.
//!
//! Each field of the order becomes a rank for each document: its value's place among all values of the segment. Ranks of a
//! segment say nothing of another's, so what is handed on are the values themselves.

use std::collections::BinaryHeap;

use roaring::RoaringBitmap;
use tantivy::DocId;
use tantivy::postings::TermInfo;

use super::IndexError;
use super::matching::{Clock, Matcher};
use super::segment::Identity;
use super::terms;
use crate::query::Field;
use crate::query::evaluate::shared_by_all;
use crate::search::order::{By, MOST_FIELDS, Order, SortKey, SortValue, sort_value};

/// Behind all that have a value.
const MISSING: u32 = u32::MAX;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// The first documents.
    pub(crate) first: Vec<(SortKey, DocId)>,
    /// Documents that were asked for, those behind the first ones included.
    pub(crate) passed: u64,
}

/// One field's place in the order, for every document.
struct Ranks {
    of: Vec<u32>,
    /// Rank 2n is that of the nth value; the odd numbers lie between values.
    values: Vec<SortValue>,
    is_descending: bool,
}

impl Ranks {
    /// As it is compared: the smallest first, whatever the direction.
    fn directed(&self, rank: u32) -> u32 {
        if self.is_descending && rank != MISSING { MISSING - 1 - rank } else { rank }
    }

    /// The rank that a value has, or would have.
    fn of_value(&self, value: &SortValue) -> u32 {
        if *value == SortValue::Missing {
            return MISSING;
        }
        let rank = match self.values.binary_search(value) {
            Ok(at) => at * 2 + 1,
            Err(at) => at * 2,
        };
        u32::try_from(rank).unwrap_or(MISSING - 1)
    }

    fn value(&self, rank: u32) -> SortValue {
        self.values.get((rank / 2) as usize).filter(|_| rank != MISSING).cloned().unwrap_or(SortValue::Missing)
    }
}

/// Which documents have a value.
enum Owners<'a> {
    Part(&'a RoaringBitmap),
    Term(TermInfo),
}

/// Where a document stands: a rank for each field, then the place of its identity.
type Place = ([u32; MOST_FIELDS], u64);

impl Matcher<'_> {
    /// The first `limit` of the documents behind a key.
    pub(crate) fn select(
        &self,
        documents: &RoaringBitmap,
        order: &Order,
        after: Option<&SortKey>,
        limit: usize,
    ) -> Result<Selection, IndexError> {
        let mut ranks = Vec::new();
        for by in order.by() {
            let (of, values) = match &by.by {
                By::Relevance => self.relevance(documents)?,
                By::Field(field) => self.ranks(field)?,
            };
            ranks.push(Ranks { of, values, is_descending: by.is_descending });
        }
        let after = after.map(|after| self.place_behind(after, &ranks)).transpose()?;
        // The last of the kept ones stands on top, to be dropped for a better one.
        let mut kept: BinaryHeap<(Place, DocId)> = BinaryHeap::new();
        let mut passed = 0;
        for document in documents {
            let place = self.place(document, &ranks)?;
            if after.is_some_and(|after| place < after) {
                continue;
            }
            passed += 1;
            if kept.len() < limit {
                kept.push((place, document));
            } else if kept.peek().is_some_and(|last| place < last.0) {
                kept.pop();
                kept.push((place, document));
            }
        }
        let first: Result<Vec<_>, IndexError> = kept
            .into_sorted_vec()
            .into_iter()
            .map(|(_, document)| {
                let at = document as usize;
                let values = ranks.iter().map(|ranks| ranks.value(ranks.of.get(at).copied().unwrap_or(MISSING)));
                Ok((SortKey::new(values.collect(), self.segment.identity(document)?.order), document))
            })
            .collect();
        Ok(Selection { first: first?, passed })
    }

    fn place(&self, document: DocId, ranks: &[Ranks]) -> Result<Place, IndexError> {
        let mut place = [0; MOST_FIELDS];
        for (slot, ranks) in place.iter_mut().zip(ranks) {
            *slot = ranks.directed(ranks.of.get(document as usize).copied().unwrap_or(MISSING));
        }
        let identity = self.segment.place(document).ok_or(IndexError::Damaged("a document has no identity"))?;
        Ok((place, identity))
    }

    /// The first place behind a key.
    fn place_behind(&self, key: &SortKey, ranks: &[Ranks]) -> Result<Place, IndexError> {
        let mut place = [0; MOST_FIELDS];
        for ((slot, ranks), value) in place.iter_mut().zip(ranks).zip(key.values()) {
            *slot = ranks.directed(ranks.of_value(value));
        }
        Ok((place, self.segment.place_from(&Identity::behind(key.identity()))?))
    }

    fn ranks(&self, field: &Field) -> Result<(Vec<u32>, Vec<SortValue>), IndexError> {
        let mut found: Vec<(SortValue, Owners<'_>)> = Vec::new();
        let mut of = vec![MISSING; self.segment.size() as usize];
        for (part, served, documents) in self.parts() {
            if let Some(text) = shared_by_all(field, &part.cluster, served) {
                found.push((sort_value(text), Owners::Part(documents)));
            }
        }
        let mut clock = Clock::new(self.deadline);
        let mut is_late = false;
        if let Some((tag_at, range)) = terms::shown(field) {
            self.segment.for_each_term(&range, |term| {
                if let Some(text) = terms::shown_text(field, &term.text[tag_at..]) {
                    found.push((sort_value(&text), Owners::Term(term.postings())));
                }
                is_late = clock.has_struck();
                Ok(!is_late)
            })?;
        }
        if is_late {
            return Err(IndexError::Late);
        }
        found.sort_by(|one, other| one.0.cmp(&other.0));
        let mut values: Vec<SortValue> = Vec::new();
        let mut documents = RoaringBitmap::new();
        for (value, owners) in found {
            if values.last() != Some(&value) {
                values.push(value);
            }
            let rank = u32::try_from(values.len() * 2 - 1).unwrap_or(MISSING - 1);
            let documents = match owners {
                Owners::Part(documents) => documents,
                Owners::Term(postings) => {
                    documents.clear();
                    self.segment.add_postings(&postings, &mut documents)?;
                    &documents
                }
            };
            for document in documents {
                // Of several values the smallest counts, which came first.
                if let Some(slot) = of.get_mut(document as usize).filter(|slot| **slot == MISSING) {
                    *slot = rank;
                }
            }
        }
        Ok((of, values))
    }

    fn relevance(&self, documents: &RoaringBitmap) -> Result<(Vec<u32>, Vec<SortValue>), IndexError> {
        let (scores, _) = self.scores(documents)?;
        let largest = scores.iter().max().copied().unwrap_or(0);
        let values = (0..=largest).map(|score| SortValue::Quantity(i128::from(score))).collect();
        Ok((scores.into_iter().map(|score| score * 2 + 1).collect(), values))
    }
}
