//! What an expression means for an object: the meaning that every index has to agree with.
//!
//! Pure. First on [`Facts`], which are there without opening the object and often decide; then on the [`Document`].

use std::cmp::Ordering;

use jiff::Timestamp;
use serde_json_borrow::Value;

use super::document::{Document, Facts, Weight, collect};
use super::value::{Literal, Quantity};
use super::{Bound, Expression, Field, FieldClause, Pattern, Test, TextClause};
use crate::resource::{ApiResource, ClusterName};

/// One value of a field. Of numbers, the text that they are written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar<'a> {
    /// A text.
    Text(&'a str),
    /// A number.
    Number(&'a str),
    /// True or false.
    Bool(bool),
    /// Something with fields of its own, of which only can be asked whether it is there.
    Object,
}

/// An expression at a moment: `now` stands still while objects are looked at.
#[derive(Debug, Clone)]
pub struct Evaluator {
    expression: Expression,
    now: Timestamp,
}

impl Evaluator {
    /// For questions asked at this moment.
    pub fn new(expression: Expression, now: Timestamp) -> Self {
        Self { expression, now }
    }

    /// What is asked.
    pub fn expression(&self) -> &Expression {
        &self.expression
    }

    /// The moment.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// The same moment, asked for something else.
    pub fn asking(&self, expression: Expression) -> Self {
        Self { expression, now: self.now }
    }

    /// Whether the object passes, if that can be told without opening it.
    pub fn on_facts(&self, facts: &Facts<'_>) -> Option<bool> {
        self.decide(&self.expression, &|field: &Field| known(field, facts))
    }

    /// Whether all objects of a resource in a cluster pass, or none of them, if that can be told.
    pub fn on_part(&self, cluster: &ClusterName, served: &ApiResource) -> Option<bool> {
        self.decide(&self.expression, &|field: &Field| shared_by_all(field, cluster, served).map(|text| vec![text]))
    }

    /// Whether the object passes.
    pub fn matches(&self, facts: &Facts<'_>, document: &Document) -> bool {
        self.holds(&self.expression, facts, document)
    }

    /// How well the object fits the words of the query: more is better, 0 if it asks for no words.
    pub fn score(&self, document: &Document) -> u32 {
        score(&self.expression, document)
    }

    fn decide<'a>(&self, expression: &Expression, known: &impl Fn(&Field) -> Option<Vec<&'a str>>) -> Option<bool> {
        match expression {
            Expression::Everything => Some(true),
            Expression::Not(part) => self.decide(part, known).map(|holds| !holds),
            Expression::All(parts) => self.decide_among(parts, known, false),
            Expression::Any(parts) => self.decide_among(parts, known, true),
            Expression::Text(_) | Expression::Element(_) => None,
            Expression::Field(clause) => {
                let texts = known(&clause.field)?;
                Some(texts.into_iter().any(|text| self.text_passes(&clause.test, text)))
            }
        }
    }

    /// One part that says `decisive` decides; else all must have been decided.
    fn decide_among<'a>(
        &self,
        parts: &[Expression],
        known: &impl Fn(&Field) -> Option<Vec<&'a str>>,
        decisive: bool,
    ) -> Option<bool> {
        let mut decided = Some(!decisive);
        for part in parts {
            match self.decide(part, known) {
                Some(holds) if holds == decisive => return Some(decisive),
                Some(_) => {}
                None => decided = None,
            }
        }
        decided
    }

    fn holds(&self, expression: &Expression, facts: &Facts<'_>, document: &Document) -> bool {
        match expression {
            Expression::Everything => true,
            Expression::Not(part) => !self.holds(part, facts, document),
            Expression::All(parts) => parts.iter().all(|part| self.holds(part, facts, document)),
            Expression::Any(parts) => parts.iter().any(|part| self.holds(part, facts, document)),
            Expression::Text(clause) => weight(clause, document).is_some(),
            Expression::Field(clause) => self.field_holds(clause, facts, document),
            Expression::Element(clause) => {
                document.elements(&clause.of).into_iter().any(|element| self.holds_in(&clause.inner, element))
            }
        }
    }

    /// Whether an element passes alone.
    fn holds_in(&self, expression: &Expression, element: &Value<'_>) -> bool {
        let at = |field: &Field| {
            let mut found = Vec::new();
            if let Field::Path(steps) = field {
                collect(element, steps, &mut found);
            }
            found
        };
        match expression {
            Expression::Everything => true,
            Expression::Not(part) => !self.holds_in(part, element),
            Expression::All(parts) => parts.iter().all(|part| self.holds_in(part, element)),
            Expression::Any(parts) => parts.iter().any(|part| self.holds_in(part, element)),
            Expression::Field(clause) => {
                at(&clause.field).into_iter().any(|value| self.value_passes(&clause.test, value))
            }
            Expression::Element(clause) => {
                at(&clause.of).into_iter().any(|inner| inner.is_object() && self.holds_in(&clause.inner, inner))
            }
            // The grammar has no words in elements.
            Expression::Text(_) => false,
        }
    }

    fn field_holds(&self, clause: &FieldClause, facts: &Facts<'_>, document: &Document) -> bool {
        let passes = |text: &str| self.text_passes(&clause.test, text);
        if let Some(texts) = known(&clause.field, facts) {
            return texts.into_iter().any(passes);
        }
        match &clause.field {
            Field::Uid => document.uid().is_some_and(passes),
            Field::Owner | Field::OwnerChain => document.owners().iter().any(|owner| passes(owner)),
            Field::Image => document.images().into_iter().any(passes),
            Field::Container => document.container_names().into_iter().any(passes),
            Field::Created => document.created().is_some_and(|created| self.time_passes(&clause.test, created)),
            Field::Changed => document.changed().is_some_and(|changed| self.time_passes(&clause.test, changed)),
            Field::Annotation(key) => document.annotation(key).is_some_and(passes),
            Field::Path(steps) => document.at(steps).into_iter().any(|value| self.value_passes(&clause.test, value)),
            _ => false,
        }
    }

    fn value_passes(&self, test: &Test, value: &Value<'_>) -> bool {
        match value {
            Value::Null | Value::Array(_) => false,
            Value::Object(_) => self.scalar_passes(test, Scalar::Object),
            Value::Str(text) => self.scalar_passes(test, Scalar::Text(text)),
            Value::Number(number) => self.scalar_passes(test, Scalar::Number(&number.to_string())),
            Value::Bool(truth) => self.scalar_passes(test, Scalar::Bool(*truth)),
        }
    }

    fn scalar_passes(&self, test: &Test, scalar: Scalar<'_>) -> bool {
        match (scalar, test) {
            (Scalar::Text(text), Test::Is(wanted)) => text == wanted || is_same_quantity(text, wanted),
            (Scalar::Number(text), Test::Is(wanted)) => {
                text == wanted || Quantity::parse(wanted).is_some_and(|wanted| Quantity::parse(text) == Some(wanted))
            }
            (Scalar::Text(text) | Scalar::Number(text), _) => self.text_passes(test, text),
            (Scalar::Bool(truth), _) => self.text_passes(test, if truth { "true" } else { "false" }),
            (Scalar::Object, _) => *test == Test::Exists,
        }
    }

    /// Whether one of a field's values passes, for indexes, which hold values without their objects.
    pub fn takes(&self, field: &Field, test: &Test, value: Scalar<'_>) -> bool {
        match (field, value) {
            (Field::Path(_), _) => self.scalar_passes(test, value),
            (Field::Created | Field::Changed, Scalar::Text(text)) => {
                text.parse::<Timestamp>().is_ok_and(|created| self.time_passes(test, created))
            }
            (Field::Namespace, Scalar::Text("")) => false,
            (_, Scalar::Text(text)) => self.text_passes(test, text),
            _ => false,
        }
    }

    /// Whether all objects of one resource in one cluster pass, by a field that they have in common; none if they don't.
    pub fn takes_all(&self, field: &Field, test: &Test, cluster: &ClusterName, served: &ApiResource) -> Option<bool> {
        shared_by_all(field, cluster, served).map(|text| self.text_passes(test, text))
    }

    fn text_passes(&self, test: &Test, text: &str) -> bool {
        match test {
            Test::Exists => true,
            Test::Is(wanted) => text == wanted,
            Test::Like(pattern) => pattern.matches(text),
            Test::Within { lower, upper } => {
                lower.as_ref().is_none_or(|bound| self.is_beyond(bound, text, Ordering::Greater))
                    && upper.as_ref().is_none_or(|bound| self.is_beyond(bound, text, Ordering::Less))
            }
        }
    }

    fn time_passes(&self, test: &Test, time: Timestamp) -> bool {
        let is_beyond = |bound: &Bound, side: Ordering| match &bound.value {
            Literal::Moment(moment, _) => lies(time.cmp(&moment.seen_from(self.now)), bound, side),
            Literal::Quantity(..) | Literal::Text(_) => false,
        };
        match test {
            Test::Exists => true,
            Test::Within { lower, upper } => {
                lower.as_ref().is_none_or(|bound| is_beyond(bound, Ordering::Greater))
                    && upper.as_ref().is_none_or(|bound| is_beyond(bound, Ordering::Less))
            }
            // The grammar makes ranges of all that is said of times.
            Test::Is(_) | Test::Like(_) => false,
        }
    }

    /// Whether a value lies on that side of a bound. What is not of the bound's kind lies on no side.
    fn is_beyond(&self, bound: &Bound, text: &str, side: Ordering) -> bool {
        let order = match &bound.value {
            Literal::Quantity(wanted, _) => Quantity::parse(text).map(|quantity| quantity.cmp(wanted)),
            Literal::Moment(moment, _) => {
                text.parse::<Timestamp>().ok().map(|time| time.cmp(&moment.seen_from(self.now)))
            }
            Literal::Text(wanted) => Some(text.cmp(wanted)),
        };
        order.is_some_and(|order| lies(order, bound, side))
    }
}

fn lies(order: Ordering, bound: &Bound, side: Ordering) -> bool {
    order == side || (bound.is_inclusive && order == Ordering::Equal)
}

/// `0.5` is `500m`; but a version `1.10` is not `1.1`, so one of them must show by its unit that it is a quantity.
fn is_same_quantity(text: &str, wanted: &str) -> bool {
    let has_unit = |text: &str| text.ends_with(|character: char| character.is_ascii_alphabetic());
    let starts = |text: &str| {
        text.starts_with(|character: char| character.is_ascii_digit() || matches!(character, '.' | '-' | '+'))
    };
    (has_unit(text) || has_unit(wanted))
        && starts(text)
        && starts(wanted)
        && Quantity::parse(text).is_some_and(|quantity| Quantity::parse(wanted) == Some(quantity))
}

/// A field that all objects of one resource in one cluster have in common.
pub fn shared_by_all<'a>(field: &Field, cluster: &'a ClusterName, served: &'a ApiResource) -> Option<&'a str> {
    match field {
        Field::Cluster => Some(cluster.as_str()),
        Field::Group => Some(&served.gvr.group),
        Field::Version => Some(&served.gvr.version),
        Field::Kind => Some(&served.kind),
        Field::Resource => Some(&served.gvr.resource),
        _ => None,
    }
}

/// A field's values, if they are known without opening the object.
fn known<'a>(field: &Field, facts: &Facts<'a>) -> Option<Vec<&'a str>> {
    if let Some(text) = shared_by_all(field, facts.cluster, facts.served) {
        return Some(vec![text]);
    }
    Some(match field {
        Field::Namespace if facts.namespace.is_empty() => Vec::new(),
        Field::Namespace => vec![facts.namespace],
        Field::Name => vec![facts.name],
        Field::Label(key) => facts.labels.get(key).into_iter().collect(),
        _ => return None,
    })
}

/// Where the words stand that weigh the most; none if they stand nowhere.
fn weight(clause: &TextClause, document: &Document) -> Option<Weight> {
    let mut best = None;
    document.texts(&mut |weight, text| {
        if best < Some(weight) && stands_in(&clause.words, text) {
            best = Some(weight);
        }
    });
    best
}

/// Whether the words stand in a text, one behind the other.
fn stands_in(words: &[Pattern], text: &str) -> bool {
    let found: Vec<String> = tokens(text).collect();
    found.windows(words.len()).any(|window| window.iter().zip(words).all(|(token, word)| word.matches(token)))
}

/// The words of a text: runs of letters and digits, case-folded.
fn tokens(text: &str) -> impl Iterator<Item = String> + '_ {
    words(text).map(|word| {
        let mut folded = String::new();
        fold(word, &mut folded);
        folded
    })
}

/// Runs of letters and digits.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// Appends a word as it is searched for.
pub(crate) fn fold(word: &str, folded: &mut String) {
    if word.is_ascii() {
        let begun = folded.len();
        folded.push_str(word);
        folded[begun..].make_ascii_lowercase();
    } else {
        // Folding may bring marks that are no letters.
        folded.extend(word.chars().flat_map(char::to_lowercase).filter(|character| character.is_alphanumeric()));
    }
}

fn score(expression: &Expression, document: &Document) -> u32 {
    match expression {
        Expression::Text(clause) => weight(clause, document).map_or(0, |weight| weight as u32),
        Expression::All(parts) | Expression::Any(parts) => parts.iter().map(|part| score(part, document)).sum(),
        // What must not be there says nothing of how well the rest fits.
        Expression::Not(_) | Expression::Everything | Expression::Field(_) | Expression::Element(_) => 0,
    }
}

impl Field {
    /// Whether its values are known without opening the object.
    pub fn is_known_unopened(&self) -> bool {
        !matches!(
            self,
            Self::Uid
                | Self::Owner
                | Self::OwnerChain
                | Self::Image
                | Self::Container
                | Self::Created
                | Self::Changed
                | Self::Annotation(_)
                | Self::Path(_)
        )
    }
}

impl Expression {
    /// Whether it asks for words, so that some objects fit better than others.
    pub fn asks_for_words(&self) -> bool {
        match self {
            Self::Text(_) => true,
            Self::All(parts) | Self::Any(parts) => parts.iter().any(Self::asks_for_words),
            Self::Not(_) | Self::Everything | Self::Field(_) | Self::Element(_) => false,
        }
    }

    /// Calls for every clause about a field of whole objects.
    pub fn for_each_field(&self, call: &mut dyn FnMut(&FieldClause)) {
        match self {
            Self::Field(clause) => call(clause),
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.for_each_field(call)),
            Self::Not(part) => part.for_each_field(call),
            Self::Text(_) | Self::Everything | Self::Element(_) => {}
        }
    }

    /// Whether it asks for a field anywhere.
    pub fn asks_for(&self, field: &Field) -> bool {
        match self {
            Self::Field(clause) => clause.field == *field,
            Self::Element(clause) => clause.of == *field,
            Self::All(parts) | Self::Any(parts) => parts.iter().any(|part| part.asks_for(field)),
            Self::Not(part) => part.asks_for(field),
            Self::Text(_) | Self::Everything => false,
        }
    }

    /// The fields it names, each once, in their order.
    pub fn fields(&self) -> Vec<&Field> {
        let mut fields: Vec<&Field> = match self {
            Self::Field(clause) => vec![&clause.field],
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(Self::fields).collect(),
            Self::Not(part) => part.fields(),
            // A path to elements has no value of its own.
            Self::Element(clause) => vec![&clause.of].into_iter().filter(|of| **of == Field::Container).collect(),
            Self::Text(_) | Self::Everything => Vec::new(),
        };
        let mut seen = std::collections::BTreeSet::new();
        fields.retain(|field| seen.insert((*field).clone()));
        fields
    }
}

/// A field's values for people and for sorting, as text; without the document, only those known without it.
pub fn field_texts(field: &Field, facts: &Facts<'_>, document: Option<&Document>) -> Vec<String> {
    if let Some(texts) = known(field, facts) {
        return texts.into_iter().map(str::to_owned).collect();
    }
    let Some(document) = document else { return Vec::new() };
    match field {
        Field::Uid => document.uid().map(str::to_owned).into_iter().collect(),
        Field::Owner | Field::OwnerChain => document.owners().into_iter().skip(1).step_by(3).collect(),
        Field::Image => document.images().into_iter().map(str::to_owned).collect(),
        Field::Container => document.container_names().into_iter().map(str::to_owned).collect(),
        Field::Created => document.created().map(|created| created.to_string()).into_iter().collect(),
        Field::Changed => document.changed().map(|changed| changed.to_string()).into_iter().collect(),
        Field::Annotation(key) => document.annotation(key).map(str::to_owned).into_iter().collect(),
        Field::Path(steps) => document.at(steps).into_iter().filter_map(scalar).collect(),
        _ => Vec::new(),
    }
}

/// A field's values as they are: numbers as numbers, and of what has fields of its own, the whole.
pub fn field_values(field: &Field, facts: &Facts<'_>, document: &Document) -> Vec<serde_json::Value> {
    match field {
        Field::Path(steps) => document.at(steps).into_iter().map(serde_json::Value::from).collect(),
        _ => field_texts(field, facts, Some(document)).into_iter().map(serde_json::Value::String).collect(),
    }
}

fn scalar(value: &Value<'_>) -> Option<String> {
    match value {
        Value::Str(text) => Some(text.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
