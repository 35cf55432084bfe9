//! Counts of objects by the values of fields, exact: those that documents know for sure, as OpenSearch counts them, and those
//! that had to be looked at.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::bounds::{Bounds, Condition};
use super::scan::{Moment, Walk, is_late};
use super::translate::{cut, keyword};
use super::{BackendAnswers, Found, ReadError, Reader, bounds_of, looked_at};
use crate::backend::document::searchable::Cut;
use crate::query::Field;
use crate::query::evaluate::field_texts;
use crate::search::Scope;
use crate::search::facets::{Counter, Facets, FacetsError, TooManyValues};

/// Values that OpenSearch is asked for at once; its own limit is 65,535.
const MOST_VALUES: usize = 50_000;

/// A field as OpenSearch counts by it.
struct Counted {
    field: &'static str,
    /// What all values begin with; it is no part of them.
    prefix: String,
    /// Documents that lack values.
    lacking: Condition,
}

/// None if only objects know the values.
fn counted(field: &Field) -> Option<Counted> {
    let plain = |field, lacks: Option<Cut>| Counted {
        field,
        prefix: String::new(),
        lacking: lacks.map_or(Condition::Nothing, |lacks| cut(&lacks)),
    };
    match field {
        Field::Owner => Some(plain("owner", Some(Cut::Owner))),
        Field::Label(key) if !key.contains('=') => {
            Some(Counted { prefix: format!("{key}="), ..plain("label", Some(Cut::Label)) })
        }
        field => keyword(field).map(|(field, lacks)| plain(field, lacks)),
    }
}

#[derive(Debug, Deserialize)]
struct Terms {
    sum_other_doc_count: u64,
    buckets: Vec<Bucket>,
}

#[derive(Debug, Deserialize)]
struct Bucket {
    key: String,
    doc_count: u64,
}

impl Counted {
    fn aggregation(&self) -> Value {
        let mut terms = json!({ "field": self.field, "size": MOST_VALUES });
        if !self.prefix.is_empty() {
            terms["include"] = json!(format!("{}.*", escaped(&self.prefix)));
            // Else some versions look up a beginning behind the last term, and fail.
            terms["execution_hint"] = json!("map");
        }
        json!({ "terms": terms })
    }
}

/// A text as Lucene's regular expressions write it.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        if !character.is_alphanumeric() {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// Counts what all backends hold. An object of two backends is held by both.
pub(super) fn count(answers: &BackendAnswers, scope: &Scope, by: &[Field], size: usize) -> Result<Facets, FacetsError> {
    let mut counter = Counter::new(by);
    let mut is_complete = true;
    for reader in answers.readers.iter() {
        let counting = answers.ask(scope, reader.count(scope, &mut counter));
        match counting {
            Ok(complete) => is_complete &= complete,
            Err(ReadError::TooManyValues(field)) => return Err(TooManyValues::of(field).into()),
            Err(error) => return Err(reader.unavailable(&error).into()),
        }
    }
    Ok(counter.into_facets(size, is_complete)?)
}

impl Reader {
    /// Adds what this backend holds; whether all of it could be looked at.
    async fn count(self: &Arc<Self>, scope: &Scope, counter: &mut Counter<'_>) -> Result<bool, ReadError> {
        let Some(mut moment) = Moment::begin(self).await? else { return Ok(true) };
        let bounds = bounds_of(scope, moment.knows_paths());
        let mut counted = count_sure(&mut moment, bounds, counter).await;
        if counted.as_ref().is_err_and(ReadError::is_about_question) {
            counted = count_sure(&mut moment, Bounds::unknown(), counter).await;
        }
        look_at(&mut moment, scope, &counted?, counter).await
    }
}

/// Adds what documents know; what is left to be looked at.
async fn count_sure(moment: &mut Moment, bounds: Bounds, counter: &mut Counter<'_>) -> Result<Condition, ReadError> {
    let fields: Option<Vec<Counted>> = counter.fields().iter().map(counted).collect();
    let Some(fields) = fields.filter(|_| bounds.sure != Condition::Nothing) else { return Ok(bounds.possible) };
    let lacking = Condition::any(fields.iter().map(|field| field.lacking.clone()));
    let bounds = Bounds { sure: bounds.sure.and(lacking.not()), possible: bounds.possible };
    let (sure, doubtful) = (bounds.sure.to_query(), bounds.doubtful());
    let mut answers = Vec::new();
    for field in &fields {
        let aggregations = json!({ "values": field.aggregation() });
        answers.push(moment.aggregate(&sure, &aggregations).await?);
    }
    let total = moment.count(&sure).await?;
    // Nothing is added before all is known, so that a question that is asked again counts once.
    for (at, (field, mut answer)) in fields.iter().zip(answers).enumerate() {
        let malformed = |error: serde_json::Error| {
            ReadError::Backend(super::BackendError::Unsuitable(format!("counts can't be read: {error}")))
        };
        let terms: Terms = serde_json::from_value(answer["values"].take()).map_err(malformed)?;
        if terms.sum_other_doc_count > 0 {
            return Err(ReadError::TooManyValues(counter.fields()[at].to_string()));
        }
        for bucket in terms.buckets {
            let value = bucket.key.strip_prefix(&field.prefix).unwrap_or(&bucket.key).to_owned();
            if !counter.add(at, value, bucket.doc_count) {
                return Ok(Condition::Nothing);
            }
        }
    }
    counter.add_objects(total);
    Ok(doubtful)
}

/// Adds objects that pass; whether all could be looked at in time.
async fn look_at(
    moment: &mut Moment,
    scope: &Scope,
    doubtful: &Condition,
    counter: &mut Counter<'_>,
) -> Result<bool, ReadError> {
    if *doubtful == Condition::Nothing {
        return Ok(true);
    }
    let mut walk = Walk::new(doubtful.to_query());
    while let Some(sources) = walk.next(moment, usize::MAX).await? {
        for found in sources.into_iter().filter_map(Found::of) {
            let Some(document) = looked_at(scope, &found) else { continue };
            counter.add_objects(1);
            for at in 0..counter.fields().len() {
                let texts = field_texts(&counter.fields()[at], &found.facts(), document.as_ref());
                let values: BTreeSet<String> = texts.into_iter().collect();
                if !values.into_iter().all(|value| counter.add(at, value, 1)) {
                    return Ok(true);
                }
            }
        }
        if is_late(scope.deadline) {
            return Ok(false);
        }
    }
    Ok(true)
}
