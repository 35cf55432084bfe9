//! `owner~:`: what something owns, and what that owns, and so on, within its cluster.
//!
//! An object names only its direct owners, so the question is asked step by step: what `owner:` finds, what those own, until
//! nothing new is found. The unique ids of all owners on the way then stand in the query beside the first step.

use std::collections::BTreeSet;
use std::time::Instant;

use super::order::Order;
use super::{Question, Scope, answer};
use crate::cache::Cache;
use crate::index::Index;
use crate::query::document::Document;
use crate::query::evaluate::Evaluator;
use crate::query::{Expression, Field, FieldClause, Span, Test};

/// Owners that are followed, a clause.
const MOST_OWNERS: usize = 2000;
/// Steps from an owner to what it owns in the end.
const MOST_STEPS: usize = 10;

/// What is owned can't be followed to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnersError {
    /// Too much is owned.
    #[error(
        "owner~:{0} owns more than {MOST_OWNERS} objects that may own others; narrow it, as by owner~:Kind/name and a cluster"
    )]
    TooMany(String),
    /// The deadline came first.
    #[error("what owner~:{0} owns was not found in time; narrow it, as by owner~:Kind/name and a cluster")]
    TooLong(String),
}

/// The scope with each `owner~:` followed to its end.
///
/// # Errors
/// If that takes too much or too long.
pub fn resolve(cache: &Cache, index: &Index, scope: &Scope) -> Result<Scope, OwnersError> {
    let expression = resolved(cache, index, scope, scope.evaluator.expression())?;
    Ok(Scope { evaluator: scope.evaluator.asking(expression), ..scope.clone() })
}

fn resolved(cache: &Cache, index: &Index, scope: &Scope, expression: &Expression) -> Result<Expression, OwnersError> {
    let each = |parts: &[Expression]| -> Result<Vec<Expression>, OwnersError> {
        parts.iter().map(|part| resolved(cache, index, scope, part)).collect()
    };
    Ok(match expression {
        Expression::All(parts) => Expression::All(each(parts)?),
        Expression::Any(parts) => Expression::Any(each(parts)?),
        Expression::Not(part) => Expression::Not(Box::new(resolved(cache, index, scope, part)?)),
        Expression::Field(clause) if clause.field == Field::OwnerChain => {
            let mut ways = vec![expression.clone()];
            ways.extend(follow(cache, index, scope, clause)?.into_iter().map(|owner| owner.owns()));
            Expression::Any(ways)
        }
        Expression::Everything | Expression::Text(_) | Expression::Field(_) => expression.clone(),
    })
}

/// Something that may own others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Owner {
    cluster: String,
    uid: String,
}

impl Owner {
    /// What it owns: unique ids of cloned clusters are the same.
    fn owns(&self) -> Expression {
        let is = |field, text: &str| {
            Expression::Field(FieldClause { field, test: Test::Is(text.to_owned()), span: Span::default() })
        };
        Expression::All(vec![is(Field::Cluster, &self.cluster), is(Field::Owner, &self.uid)])
    }
}

/// All that a clause finds at any number of steps, as owners of further objects.
fn follow(cache: &Cache, index: &Index, scope: &Scope, clause: &FieldClause) -> Result<BTreeSet<Owner>, OwnersError> {
    let mut owners = BTreeSet::new();
    let mut asked = Expression::Field(FieldClause { field: Field::Owner, ..clause.clone() });
    for _ in 0..MOST_STEPS {
        let found = found(cache, index, scope, asked, clause)?;
        let new: BTreeSet<Owner> = found.difference(&owners).cloned().collect();
        if new.is_empty() {
            break;
        }
        asked = Expression::Any(new.iter().map(Owner::owns).collect());
        owners.extend(new);
        if owners.len() > MOST_OWNERS {
            return Err(OwnersError::TooMany(clause.test.to_string()));
        }
    }
    Ok(owners)
}

fn found(
    cache: &Cache,
    index: &Index,
    scope: &Scope,
    asked: Expression,
    clause: &FieldClause,
) -> Result<BTreeSet<Owner>, OwnersError> {
    // Pods own nothing that is kept, and there are more of them than of everything else.
    let is_pod =
        Expression::Field(FieldClause { field: Field::Kind, test: Test::Is("Pod".to_owned()), span: Span::default() });
    let asked = Expression::All(vec![Expression::Not(Box::new(is_pod)), asked]);
    let evaluator: Evaluator = scope.evaluator.asking(asked);
    let order = Order::by_identity();
    let question = Question { scope: Scope { evaluator, ..scope.clone() }, order, limit: MOST_OWNERS + 1, after: None };
    let page = answer(cache, index, &question);
    if page.is_partial || Instant::now() >= scope.deadline {
        return Err(OwnersError::TooLong(clause.test.to_string()));
    }
    if page.remaining > 0 {
        return Err(OwnersError::TooMany(clause.test.to_string()));
    }
    let mut object = Vec::new();
    let owners = page.hits.iter().filter_map(|hit| {
        object.clear();
        hit.decoder.append(hit.entry.frame(), &mut object).ok()?;
        let uid = Document::read(&object)?.uid()?.to_owned();
        Some(Owner { cluster: hit.cluster.as_str().to_owned(), uid })
    });
    Ok(owners.collect())
}
