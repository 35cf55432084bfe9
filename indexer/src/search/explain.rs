//! Why a query finds what it finds, part by part: of one object what its fields are, of all objects how many each part takes.

use serde::Serialize;

use super::facets::count;
use super::{Hit, Scope};
use crate::cache::Cache;
use crate::index::Index;
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

/// Why an object passes or doesn't. None if it can't be opened.
pub fn explain_object(scope: &Scope, hit: &Hit) -> Option<ExplainedPart> {
    let mut object = Vec::new();
    hit.decoder.append(hit.entry.frame(), &mut object).ok()?;
    let document = Document::read(&object)?;
    let facts = Facts {
        cluster: &hit.cluster,
        served: &hit.served,
        namespace: hit.entry.namespace(),
        name: hit.entry.name(),
        labels: hit.entry.labels(),
    };
    Some(of_object(scope, scope.evaluator.expression(), &facts, &document))
}

fn of_object(scope: &Scope, expression: &Expression, facts: &Facts<'_>, document: &Document) -> ExplainedPart {
    let found = match expression {
        Expression::Field(clause) => {
            let mut values = field_texts(&clause.field, facts, Some(document));
            values.truncate(MOST_VALUES);
            Some(values)
        }
        _ => None,
    };
    ExplainedPart {
        clause: text(expression),
        holds: Some(scope.evaluator.asking(expression.clone()).matches(facts, document)),
        found,
        objects: None,
        parts: parts(expression).iter().map(|part| of_object(scope, part, facts, document)).collect(),
    }
}

/// How many objects each part takes; also tells whether all could be counted in time.
pub fn explain_counts(cache: &Cache, index: &Index, scope: &Scope) -> (ExplainedPart, bool) {
    let mut is_complete = true;
    let part = counted(cache, index, scope, scope.evaluator.expression(), &mut is_complete);
    (part, is_complete)
}

fn counted(
    cache: &Cache,
    index: &Index,
    scope: &Scope,
    expression: &Expression,
    is_complete: &mut bool,
) -> ExplainedPart {
    let alone = Scope { evaluator: scope.evaluator.asking(expression.clone()), ..scope.clone() };
    // Nothing is counted by, so there can't be too many values.
    let objects = count(cache, index, &alone, &[], 0).ok().filter(|counted| !counted.is_partial);
    *is_complete &= objects.is_some();
    ExplainedPart {
        clause: text(expression),
        holds: None,
        found: None,
        objects: objects.map(|counted| counted.total),
        parts: parts(expression).iter().map(|part| counted(cache, index, scope, part, is_complete)).collect(),
    }
}
