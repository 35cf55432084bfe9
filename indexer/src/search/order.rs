//! In which order hits are shown: by fields, each up or down, and where they are equal by what the objects are.
//!
//! The order is total and says nothing of when something was written, so that a page can begin behind any key, whether its
//! object is still there or not.

use std::cmp::Ordering;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Hit;
use crate::query::document::{Document, Facts};
use crate::query::evaluate::{Evaluator, field_texts};
use crate::query::value::Quantity;
use crate::query::{Expression, Field, QueryError, parse_field};

/// Fields that can be sorted by at once.
pub(crate) const MOST_FIELDS: usize = 8;
/// Bytes of a text that count for its place; a page's token carries them.
const TEXT_BYTES: usize = 256;

/// One field to sort by.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderBy {
    /// By what.
    pub by: By,
    /// Whether the largest comes first.
    pub is_descending: bool,
}

/// By what is sorted.
#[derive(Debug, Clone, PartialEq)]
pub enum By {
    /// How well the object fits the words of the query.
    Relevance,
    /// The smallest of a field's values.
    Field(Field),
}

/// The whole order.
#[derive(Debug, Clone, PartialEq)]
pub struct Order(Arc<[OrderBy]>);

/// A value as it is sorted: numbers before times before texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SortValue {
    /// A number or quantity, in billionths.
    Quantity(i128),
    /// A time, in nanoseconds since 1970.
    Time(i128),
    /// Anything else.
    Text(String),
    /// Nothing: behind all that have something, up or down.
    Missing,
}

/// Where an object stands in an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SortKey {
    values: Vec<SortValue>,
    /// Kind, namespace, name, cluster, group: what decides between equals.
    identity: [String; 5],
}

impl Order {
    /// Reads `-spec.replicas,name`. Without one, what fits the words best comes first if the query asks for words.
    ///
    /// # Errors
    /// If a field is none; the character is that in `text`.
    pub fn parse(text: &str, expression: &Expression) -> Result<Self, QueryError> {
        if text.trim().is_empty() {
            let relevance = OrderBy { by: By::Relevance, is_descending: true };
            return Ok(Self(if expression.asks_for_words() { [relevance].into() } else { [].into() }));
        }
        if text.split(',').count() > MOST_FIELDS {
            let problem = format!("there are more than {MOST_FIELDS} fields to sort by");
            return Err(QueryError { character: 1, problem, suggestion: String::new() });
        }
        let mut orders = Vec::new();
        let mut at = 0;
        for part in text.split(',') {
            let (is_descending, name) = match part.trim().strip_prefix('-') {
                Some(name) => (true, name),
                None => (false, part.trim()),
            };
            let field = parse_field(name).map_err(|error| QueryError { character: at + error.character, ..error })?;
            orders.push(OrderBy { by: By::Field(field), is_descending });
            at += part.chars().count() + 1;
        }
        Ok(Self(orders.into()))
    }

    /// By kind, namespace, name and cluster alone.
    pub(crate) fn by_identity() -> Self {
        Self([].into())
    }

    /// The fields it sorts by.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.0.iter().filter_map(|order| match &order.by {
            By::Field(field) => Some(field),
            By::Relevance => None,
        })
    }

    /// Whether objects have to be opened to be sorted.
    pub fn needs_document(&self) -> bool {
        self.0.iter().any(|order| match &order.by {
            By::Relevance => true,
            By::Field(field) => !field.is_known_unopened(),
        })
    }

    /// Where an object stands. Without the document, only by what is known without it.
    pub fn key_of(&self, evaluator: &Evaluator, facts: &Facts<'_>, document: Option<&Document>) -> SortKey {
        let values = self.0.iter().map(|order| match &order.by {
            By::Relevance => SortValue::Quantity(document.map_or(0, |document| i128::from(evaluator.score(document)))),
            By::Field(field) => {
                let texts = field_texts(field, facts, document);
                texts.iter().map(|text| sort_value(text)).min().unwrap_or(SortValue::Missing)
            }
        });
        let texts =
            [&*facts.served.kind, facts.namespace, facts.name, facts.cluster.as_str(), &*facts.served.gvr.group];
        SortKey { values: values.collect(), identity: texts.map(str::to_owned) }
    }

    /// By what is sorted, in its order.
    pub(crate) fn by(&self) -> &[OrderBy] {
        &self.0
    }

    /// Which of two comes first.
    pub fn compare(&self, one: &SortKey, other: &SortKey) -> Ordering {
        for (order, (left, right)) in self.0.iter().zip(one.values.iter().zip(&other.values)) {
            let compared = match (left, right) {
                (SortValue::Missing, _) | (_, SortValue::Missing) => left.cmp(right),
                _ if order.is_descending => right.cmp(left),
                _ => left.cmp(right),
            };
            if compared.is_ne() {
                return compared;
            }
        }
        one.identity.cmp(&other.identity)
    }

    /// Whether a key was made by an order of this form.
    pub fn fits(&self, key: &SortKey) -> bool {
        key.values.len() == self.0.len()
    }
}

impl SortKey {
    /// Of values and of kind, namespace, name, cluster, group.
    pub(crate) fn new(values: Vec<SortValue>, identity: [String; 5]) -> Self {
        Self { values, identity }
    }

    /// By identity alone, behind the same object of every cluster.
    pub(super) fn behind_clusters_of(hit: &Hit) -> Self {
        let (namespace, name) = (hit.entry.namespace().to_owned(), hit.entry.name().to_owned());
        let last = char::MAX.to_string();
        Self::new(Vec::new(), [hit.served.kind.to_string(), namespace, name, last, String::new()])
    }

    /// Whether it is that of [`SortKey::behind_clusters_of`].
    pub(super) fn is_behind_clusters_of(&self, hit: &Hit) -> bool {
        let [kind, namespace, name, ..] = &self.identity;
        (kind.as_str(), namespace.as_str(), name.as_str())
            == (&*hit.served.kind, hit.entry.namespace(), hit.entry.name())
    }

    /// What each field of the order is.
    pub(crate) fn values(&self) -> &[SortValue] {
        &self.values
    }

    /// Kind, namespace, name, cluster, group.
    pub(crate) fn identity(&self) -> &[String; 5] {
        &self.identity
    }
}

/// How a text is sorted.
pub(crate) fn sort_value(text: &str) -> SortValue {
    if let Some(quantity) = Quantity::parse(text) {
        return SortValue::Quantity(quantity.billionths());
    }
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => SortValue::Time(time.as_nanosecond()),
        Err(_) => SortValue::Text(text[..text.floor_char_boundary(TEXT_BYTES)].to_owned()),
    }
}

/// Something with its place in an order.
#[derive(Debug)]
pub(crate) struct Ranked<T> {
    key: SortKey,
    order: Order,
    value: T,
}

impl<T> Ranked<T> {
    pub(crate) fn new(key: SortKey, order: &Order, value: T) -> Self {
        Self { key, order: order.clone(), value }
    }

    pub(crate) fn key(&self) -> &SortKey {
        &self.key
    }

    pub(crate) fn into_value(self) -> T {
        self.value
    }
}

impl<T> PartialEq for Ranked<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Ranked<T> {}

impl<T> PartialOrd for Ranked<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Ranked<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order.compare(&self.key, &other.key)
    }
}
