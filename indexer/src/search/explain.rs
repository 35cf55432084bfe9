//! Why a query finds what it finds, part by part: of one object what its fields are, of all objects how many each part takes.

use std::time::Instant;

use serde::Serialize;

use super::{Answers, Hit, Scope};
use crate::query::Expression;
use crate::query::document::{Document, Facts};
use crate::query::evaluate::field_texts;

/// Values shown of a field.
const MOST_VALUES: usize = 10;

/// A part of a query, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedPart {
    /// As it reads.
    pub clause: String,
    /// Of one object: whether it passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holds: Option<bool>,
    /// Of one object: the field's values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<Vec<String>>,
    /// Of all objects: how many pass this part alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objects: Option<u64>,
    /// What it is made of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Self>,
}

fn parts(expression: &Expression) -> &[Expression] {
    match expression {
        Expression::All(parts) | Expression::Any(parts) => parts,
        Expression::Not(part) => std::slice::from_ref(part),
        Expression::Everything | Expression::Text(_) | Expression::Field(_) | Expression::Element(_) => &[],
    }
}

fn text(expression: &Expression) -> String {
    if *expression == Expression::Everything { "*".to_owned() } else { expression.to_string() }
}

/// Why an object passes or doesn't. The query is shown as it was asked, and means what it was resolved to. None if the object
/// can't be opened.
pub fn explain_object(asked: &Scope, resolved: &Scope, hit: &Hit) -> Option<ExplainedPart> {
    let (document, facts) = (hit.document()?, hit.facts());
    let holds = |meant: &Expression| resolved.evaluator.asking(meant.clone()).matches(&facts, &document);
    Some(of_object(asked.evaluator.expression(), resolved.evaluator.expression(), &holds, &facts, &document))
}

fn of_object(
    asked: &Expression,
    meant: &Expression,
    holds: &dyn Fn(&Expression) -> bool,
    facts: &Facts<'_>,
    document: &Document,
) -> ExplainedPart {
    let found = match asked {
        Expression::Field(clause) => {
            let mut values = field_texts(&clause.field, facts, Some(document));
            values.truncate(MOST_VALUES);
            Some(values)
        }
        _ => None,
    };
    let inner = parts(asked).iter().zip(parts(meant));
    ExplainedPart {
        clause: text(asked),
        holds: Some(holds(meant)),
        found,
        objects: None,
        parts: inner.map(|(asked, meant)| of_object(asked, meant, holds, facts, document)).collect(),
    }
}

/// How many objects each part takes; also tells whether all could be counted in time.
pub fn explain_counts(answers: &dyn Answers, asked: &Scope, resolved: &Scope) -> (ExplainedPart, bool) {
    let mut is_complete = true;
    let mut counted = |meant: &Expression| {
        let alone = Scope { evaluator: resolved.evaluator.asking(meant.clone()), ..resolved.clone() };
        // Nothing is counted by, so there can't be too many values.
        let objects = if Instant::now() < alone.deadline { answers.facets(&alone, &[], 0).ok() } else { None };
        let total = objects.filter(|counted| !counted.is_partial).map(|counted| counted.total);
        is_complete &= total.is_some();
        total
    };
    let part = of_all(asked.evaluator.expression(), resolved.evaluator.expression(), &mut counted);
    (part, is_complete)
}

fn of_all(asked: &Expression, meant: &Expression, count: &mut dyn FnMut(&Expression) -> Option<u64>) -> ExplainedPart {
    let objects = count(meant);
    let inner = parts(asked).iter().zip(parts(meant));
    ExplainedPart {
        clause: text(asked),
        holds: None,
        found: None,
        objects,
        parts: inner.map(|(asked, meant)| of_all(asked, meant, count)).collect(),
    }
}
