//! Counts of objects by the values of fields; exact.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::candidates::Candidates;
use super::lookup::{Known, Lookup};
use super::{Scope, Unavailable};
use crate::cache::Cache;
use crate::index::{Index, IndexError, Matcher};
use crate::query::Field;
use crate::query::evaluate::field_texts;

/// Different values of one field that are counted; more are no facet but a list.
const MOST_VALUES: usize = 100_000;
/// Bytes of all values that are counted.
const MOST_BYTES: usize = 32 << 20;

/// Counts by one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facet {
    /// The field, as it was asked for.
    pub by: String,
    /// The largest counts, largest first.
    pub values: Vec<FacetValue>,
    /// Objects counted under values that are not shown.
    pub other: u64,
}

/// How many objects have a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FacetValue {
    /// The value.
    pub value: String,
    /// Objects that have it, each once.
    pub count: u64,
}

/// All counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facets {
    /// Objects that pass.
    pub total: u64,
    /// By each field, in the order they were asked for.
    pub facets: Vec<Facet>,
    /// Whether the deadline came first, so that some objects were not looked at.
    pub is_partial: bool,
}

/// A field has more different values than can be counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} has too many or too long values to be counted; narrow the query, or count by another field")]
pub struct TooManyValues {
    field: String,
}

impl TooManyValues {
    pub(crate) fn of(field: String) -> Self {
        Self { field }
    }
}

/// Why nothing was counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FacetsError {
    /// There are too many different values.
    #[error(transparent)]
    TooManyValues(#[from] TooManyValues),
    /// There is nobody to ask.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Counts objects by fields; of each field at most `size` values are shown.
///
/// # Errors
/// If a field has too many different values.
pub fn count(cache: &Cache, index: &Index, scope: &Scope, by: &[Field], size: usize) -> Result<Facets, TooManyValues> {
    // The index first: it must not be ahead of what it is compared with.
    let committed = index.committed();
    let candidates = Candidates::of(cache, scope.clusters.as_ref());
    let lookup = Lookup::new(committed.clone(), &candidates);
    let counted = Counter::new(by).run(&lookup, scope).or_else(|error| {
        index.give_up(committed.as_ref(), &error);
        // Without an index nothing can be wrong with it.
        Counter::new(by).run(&Lookup::new(None, &candidates), scope)
    });
    let (counter, is_complete) = counted.unwrap_or_else(|_| (Counter::new(by), false));
    counter.into_facets(size, is_complete)
}

/// Adds up.
pub(crate) struct Counter<'a> {
    by: &'a [Field],
    counts: Vec<BTreeMap<String, u64>>,
    total: u64,
    bytes: usize,
    overflown: Option<String>,
}

impl<'a> Counter<'a> {
    pub(crate) fn new(by: &'a [Field]) -> Self {
        Self { by, counts: vec![BTreeMap::new(); by.len()], total: 0, bytes: 0, overflown: None }
    }

    /// The fields that are counted by.
    pub(crate) fn fields(&self) -> &'a [Field] {
        self.by
    }

    /// Adds objects that pass.
    pub(crate) fn add_objects(&mut self, count: u64) {
        self.total += count;
    }

    /// What was counted.
    pub(crate) fn into_facets(self, size: usize, is_complete: bool) -> Result<Facets, TooManyValues> {
        if let Some(field) = self.overflown {
            return Err(TooManyValues { field });
        }
        let facets = self.by.iter().zip(self.counts).map(|(field, counts)| largest(field, counts, size)).collect();
        Ok(Facets { total: self.total, facets, is_partial: !is_complete })
    }

    /// Counts all; also tells whether all could be looked at in time.
    fn run(mut self, lookup: &Lookup<'_>, scope: &Scope) -> Result<(Self, bool), IndexError> {
        let mut known = Vec::new();
        for at in 0..lookup.segments() {
            let (counted, of_segment) = lookup.known(at, scope, |matcher, known| self.ask(matcher, known))?;
            for (field, value, count) in counted {
                if !self.add(field, value, count) {
                    return Ok((self, true));
                }
            }
            self.total += of_segment.sure.len();
            known.push(of_segment);
        }
        let needs_document = self.by.iter().any(|field| !field.is_known_unopened());
        let is_complete = lookup.for_each_other(scope, &known, |mut passing, scratch| {
            self.total += 1;
            let facts = passing.facts;
            let document = if needs_document { passing.document(scratch) } else { None };
            for (at, field) in self.by.iter().enumerate() {
                let values: BTreeSet<String> = field_texts(field, &facts, document).into_iter().collect();
                if !values.into_iter().all(|value| self.add(at, value, 1)) {
                    return false;
                }
            }
            true
        })?;
        Ok((self, is_complete))
    }

    /// Counts of a segment's documents; those whose values only their objects tell are moved to the ones to be looked at.
    fn ask(&self, matcher: &Matcher<'_>, known: &mut Known) -> Result<Vec<(usize, String, u64)>, IndexError> {
        for field in self.by {
            known.look_at(matcher.unknown(field, &known.sure)?);
        }
        let mut counted = Vec::new();
        for (at, field) in self.by.iter().enumerate() {
            let mut bytes = 0;
            matcher.count(&known.sure, field, &mut |value, count| {
                bytes += value.len();
                counted.push((at, value, count));
                // The one too many is for who adds them up.
                bytes <= MOST_BYTES && counted.len() <= MOST_VALUES * self.by.len()
            })?;
        }
        Ok(counted)
    }

    /// Adds to the count of a value; false if there are too many.
    pub(crate) fn add(&mut self, field: usize, value: String, count: u64) -> bool {
        let Some(counts) = self.counts.get_mut(field) else { return false };
        if let Some(known) = counts.get_mut(&value) {
            *known += count;
            return true;
        }
        self.bytes += value.len();
        if counts.len() >= MOST_VALUES || self.bytes > MOST_BYTES {
            self.overflown = self.by.get(field).map(ToString::to_string);
            return false;
        }
        counts.insert(value, count);
        true
    }
}

fn largest(field: &Field, counts: BTreeMap<String, u64>, size: usize) -> Facet {
    let mut values: Vec<FacetValue> = counts.into_iter().map(|(value, count)| FacetValue { value, count }).collect();
    values.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.value.cmp(&other.value)));
    let other = values.iter().skip(size).map(|value| value.count).sum();
    values.truncate(size);
    Facet { by: field.to_string(), values, other }
}
