//! An order of hits in OpenSearch's words, and what comes behind a place in it.
//!
//! Our order has numbers before times before texts. Of a field of texts, OpenSearch sorts those that are surely texts; documents
//! with a value that may be a number are in doubt, and are ranked by us.

use serde_json::{Value, json};

use super::bounds::Condition;
use super::translate::{WORDS, cut, keyword, time_limit, words_in};
use crate::backend::document::searchable::Cut;
use crate::query::{Expression, Field, TextClause};
use crate::search::order::{By, Order, SortKey, SortValue};

/// An order that OpenSearch can sort by.
#[derive(Debug)]
pub(super) struct NativeOrder {
    /// How to sort.
    pub(super) sort: Vec<Value>,
    /// Documents whose place only their objects tell.
    pub(super) doubtful: Condition,
    /// Documents behind the place that was asked for.
    pub(super) behind: Condition,
    /// What documents are scored by.
    pub(super) scored: Vec<Value>,
}

/// One field of the order.
struct Level {
    name: &'static str,
    is_time: bool,
    is_descending: bool,
}

/// Every number and every time begins with one of `+ , - . / 0 … 9`.
fn may_be_number(name: &str) -> Condition {
    Condition::range(name, json!({ "gte": "+", "lt": ":" }))
}

fn level(field: &Field, is_descending: bool) -> Option<(Level, Condition)> {
    let (name, lacks) = match field {
        Field::Created => ("created", Some(Cut::Time)),
        Field::Changed => ("changed", Some(Cut::Time)),
        // An owner is sorted by as `Kind/name`.
        Field::Owner => ("owner", Some(Cut::Owner)),
        field => keyword(field)?,
    };
    let is_time = matches!(field, Field::Created | Field::Changed);
    let numbers = if is_time { Condition::Nothing } else { may_be_number(name) };
    let doubtful = lacks.map_or(Condition::Nothing, |lacks| cut(&lacks)).or(numbers);
    Some((Level { name, is_time, is_descending }, doubtful))
}

impl NativeOrder {
    /// None if only objects tell how they are sorted.
    pub(super) fn of(order: &Order, expression: &Expression, after: Option<&SortKey>) -> Option<Self> {
        let mut native =
            Self { sort: Vec::new(), doubtful: Condition::Nothing, behind: Condition::All, scored: Vec::new() };
        let mut levels = Vec::new();
        for by in order.by() {
            match &by.by {
                // Behind a place in this order may stand anything: scores can't be asked for in a condition.
                By::Relevance if after.is_some() || !levels.is_empty() => return None,
                By::Relevance => {
                    native.scored = scored(expression)?;
                    native.doubtful = native.doubtful.or(cut(&Cut::Words));
                    native.sort.push(json!({ "_score": { "order": if by.is_descending { "desc" } else { "asc" } } }));
                }
                By::Field(field) => {
                    let (level, doubtful) = level(field, by.is_descending)?;
                    native.doubtful = native.doubtful.or(doubtful);
                    native.sort.push(level.sort());
                    levels.push(level);
                }
            }
        }
        for name in ["kind", "namespace", "name", "cluster", "group"] {
            native.sort.push(json!({ name: { "order": "asc", "missing": "_first" } }));
        }
        if let Some(after) = after {
            native.behind = behind(&levels, after);
        }
        Some(native)
    }
}

/// Documents behind a place: behind it in one field and like it in all fields before.
fn behind(levels: &[Level], after: &SortKey) -> Condition {
    let mut ways = Vec::new();
    let mut like = Condition::All;
    for (level, value) in levels.iter().zip(after.values()) {
        ways.push(like.clone().and(level.behind(value)));
        like = like.and(level.like(value));
    }
    for (name, value) in ["kind", "namespace", "name", "cluster", "group"].into_iter().zip(after.identity()) {
        // Only namespaces may be missing, and those are empty ones.
        let (later, same) = match value.as_str() {
            "" if name == "namespace" => (Condition::exists(name), Condition::exists(name).not()),
            value => (Condition::range(name, json!({ "gt": value })), Condition::term(name, value)),
        };
        ways.push(like.clone().and(later));
        like = like.and(same);
    }
    Condition::any(ways)
}

impl Level {
    fn sort(&self) -> Value {
        let order = if self.is_descending { "desc" } else { "asc" };
        // The smallest of several values counts, up or down.
        json!({ self.name: { "order": order, "missing": "_last", "mode": "min" } })
    }

    /// Documents whose value comes later.
    fn behind(&self, value: &SortValue) -> Condition {
        let missing = Condition::exists(self.name).not();
        let later = match value {
            SortValue::Missing => return Condition::Nothing,
            SortValue::Time(time) if self.is_time => {
                let (limit, milliseconds) = time_limit(*time, !self.is_descending, false);
                Condition::range(self.name, json!({ limit: milliseconds, "format": "epoch_millis" }))
            }
            SortValue::Text(text) if !self.is_time => {
                if self.is_descending {
                    self.any_before(text)
                } else {
                    Condition::exists(self.name).and(Condition::range(self.name, json!({ "lte": text })).not())
                }
            }
            // Numbers come before times, and both before texts.
            other => {
                let is_smaller =
                    matches!((other, self.is_time), (SortValue::Quantity(_), _) | (SortValue::Time(_), false));
                if is_smaller == self.is_descending { Condition::Nothing } else { Condition::exists(self.name) }
            }
        };
        later.or(missing)
    }

    /// Documents whose value is the same.
    fn like(&self, value: &SortValue) -> Condition {
        match value {
            SortValue::Missing => Condition::exists(self.name).not(),
            SortValue::Time(time) if self.is_time && time.rem_euclid(1_000_000) == 0 => {
                let milliseconds = time.div_euclid(1_000_000).to_string();
                let only = json!({ "gte": milliseconds, "lte": milliseconds, "format": "epoch_millis" });
                Condition::range(self.name, only)
            }
            SortValue::Text(text) if !self.is_time => Condition::term(self.name, text).and(self.any_before(text).not()),
            _ => Condition::Nothing,
        }
    }

    fn any_before(&self, text: &str) -> Condition {
        Condition::range(self.name, json!({ "lt": text }))
    }
}

/// Queries whose scores together say how well a document fits; none if documents can't tell.
fn scored(expression: &Expression) -> Option<Vec<Value>> {
    let mut queries = Vec::new();
    collect_scored(expression, &mut queries)?;
    Some(queries)
}

fn collect_scored(expression: &Expression, queries: &mut Vec<Value>) -> Option<()> {
    match expression {
        Expression::All(parts) | Expression::Any(parts) => {
            parts.iter().try_for_each(|part| collect_scored(part, queries))
        }
        Expression::Text(clause) => {
            queries.push(score_of(clause)?);
            Some(())
        }
        Expression::Not(_) | Expression::Everything | Expression::Field(_) | Expression::Element(_) => Some(()),
    }
}

/// The heaviest of the fields in which the words stand.
fn score_of(clause: &TextClause) -> Option<Value> {
    let each = WORDS.map(|(field, weight)| {
        let found = words_in(field, clause)?.to_query();
        Some(json!({ "constant_score": { "filter": found, "boost": weight } }))
    });
    let each: Vec<Value> = each.into_iter().collect::<Option<_>>()?;
    Some(json!({ "dis_max": { "queries": each } }))
}
