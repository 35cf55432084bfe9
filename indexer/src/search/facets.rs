//! Counts of objects by the values of fields; exact.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Candidates, Scope, for_each};
use crate::cache::Cache;
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

/// Counts objects by fields; of each field at most `size` values are shown.
///
/// # Errors
/// If a field has too many different values.
pub fn count(cache: &Cache, scope: &Scope, by: &[Field], size: usize) -> Result<Facets, TooManyValues> {
    let candidates = Candidates::of(cache, scope.clusters.as_ref());
    let needs_document = by.iter().any(|field| !field.is_known_unopened());
    let mut counts: Vec<BTreeMap<String, u64>> = vec![BTreeMap::new(); by.len()];
    let mut total = 0;
    let mut overflown = None;
    let mut bytes = 0;
    let is_complete = for_each(scope, &candidates, |mut passing, scratch| {
        total += 1;
        let facts = passing.facts;
        let document = if needs_document { passing.document(scratch) } else { None };
        for (field, counts) in by.iter().zip(&mut counts) {
            let values: BTreeSet<String> = field_texts(field, &facts, document).into_iter().collect();
            for value in values {
                if let Some(count) = counts.get_mut(&value) {
                    *count += 1;
                    continue;
                }
                bytes += value.len();
                if counts.len() >= MOST_VALUES || bytes > MOST_BYTES {
                    overflown = Some(field.to_string());
                    return false;
                }
                counts.insert(value, 1);
            }
        }
        true
    });
    if let Some(field) = overflown {
        return Err(TooManyValues { field });
    }
    let facets = by.iter().zip(counts).map(|(field, counts)| largest(field, counts, size)).collect();
    Ok(Facets { total, facets, is_partial: !is_complete })
}

fn largest(field: &Field, counts: BTreeMap<String, u64>, size: usize) -> Facet {
    let mut values: Vec<FacetValue> = counts.into_iter().map(|(value, count)| FacetValue { value, count }).collect();
    values.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.value.cmp(&other.value)));
    let other = values.iter().skip(size).map(|value| value.count).sum();
    values.truncate(size);
    Facet { by: field.to_string(), values, other }
}
