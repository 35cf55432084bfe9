//! `owner~:`: what something owns, and what that owns, and so on, within its cluster.
//!
//! An object names only its direct owners, so the question is asked step by step: what `owner:` finds, what those own, until
//! nothing new is found. The unique ids of all owners on the way then stand in the query beside the first step.

use std::collections::BTreeSet;
use std::time::Instant;

use super::facets::FacetsError;
use super::order::Order;
use super::{Answers, Question, Scope, Unavailable};
use crate::query::evaluate::Evaluator;
use crate::query::{Expression, Field, FieldClause, Span, Test, parse};

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
    /// Owners own owners, and so on.
    #[error("owner~:{0} goes on for more than {MOST_STEPS} steps; begin nearer to what is owned")]
    TooDeep(String),
    /// The deadline came first.
    #[error("what owner~:{0} owns was not found in time; narrow it, as by owner~:Kind/name and a cluster")]
    TooLong(String),
    /// There is nobody to ask.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The scope with each `owner~:` followed to its end.
///
/// # Errors
/// If that takes too much or too long.
pub fn resolve(answers: &dyn Answers, scope: &Scope) -> Result<Scope, OwnersError> {
    let expression = resolved(answers, scope, scope.evaluator.expression())?;
    Ok(Scope { evaluator: scope.evaluator.asking(expression), ..scope.clone() })
}

fn resolved(answers: &dyn Answers, scope: &Scope, expression: &Expression) -> Result<Expression, OwnersError> {
    let each = |parts: &[Expression]| -> Result<Vec<Expression>, OwnersError> {
        parts.iter().map(|part| resolved(answers, scope, part)).collect()
    };
    Ok(match expression {
        Expression::All(parts) => Expression::All(each(parts)?),
        Expression::Any(parts) => Expression::Any(each(parts)?),
        Expression::Not(part) => Expression::Not(Box::new(resolved(answers, scope, part)?)),
        Expression::Field(clause) if clause.field == Field::OwnerChain => {
            let mut ways = vec![expression.clone()];
            ways.extend(follow(answers, scope, clause)?.into_iter().map(|owner| owner.owns()));
            Expression::Any(ways)
        }
        Expression::Everything | Expression::Text(_) | Expression::Field(_) | Expression::Element(_) => {
            expression.clone()
        }
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
        Expression::All(vec![is(Field::Cluster, &self.cluster), is(Field::Owner, &self.uid)])
    }
}

/// All that a clause finds at any number of steps, as owners of further objects.
fn follow(answers: &dyn Answers, scope: &Scope, clause: &FieldClause) -> Result<BTreeSet<Owner>, OwnersError> {
    let mut owners = BTreeSet::new();
    let mut asked = Expression::Field(FieldClause { field: Field::Owner, ..clause.clone() });
    for _ in 0..MOST_STEPS {
        let found = found(answers, scope, asked, clause)?;
        let new: BTreeSet<Owner> = found.difference(&owners).cloned().collect();
        if new.is_empty() {
            return Ok(owners);
        }
        asked = Expression::Any(new.iter().map(Owner::owns).collect());
        owners.extend(new);
        if owners.len() > MOST_OWNERS {
            return Err(OwnersError::TooMany(clause.test.to_string()));
        }
    }
    Err(OwnersError::TooDeep(clause.test.to_string()))
}

fn is(field: Field, text: &str) -> Expression {
    Expression::Field(FieldClause { field, test: Test::Is(text.to_owned()), span: Span::default() })
}

/// There are more pods than of everything else, and few of them own something: only those that do are followed.
fn may_own(answers: &dyn Answers, scope: &Scope, clause: &FieldClause) -> Result<Expression, OwnersError> {
    let is_pod = is(Field::Kind, "Pod");
    let test = parse("owner:Pod/*").unwrap_or(Expression::Everything);
    let scope = Scope { evaluator: scope.evaluator.asking(test), ..scope.clone() };
    let owned = answers.facets(&scope, &[Field::Owner], MOST_OWNERS);
    let owners = owned.map_err(|error| match error {
        FacetsError::TooManyValues(_) => OwnersError::TooMany(clause.test.to_string()),
        FacetsError::Unavailable(error) => error.into(),
    })?;
    let mut ways = vec![Expression::Not(Box::new(is_pod.clone()))];
    for facet in owners.facets {
        if facet.other > 0 {
            return Err(OwnersError::TooMany(clause.test.to_string()));
        }
        let pods = facet.values.iter().filter_map(|value| value.value.strip_prefix("Pod/"));
        ways.extend(pods.map(|name| Expression::All(vec![is_pod.clone(), is(Field::Name, name)])));
    }
    Ok(Expression::Any(ways))
}

fn found(
    answers: &dyn Answers,
    scope: &Scope,
    asked: Expression,
    clause: &FieldClause,
) -> Result<BTreeSet<Owner>, OwnersError> {
    let asked = Expression::All(vec![may_own(answers, scope, clause)?, asked]);
    let evaluator: Evaluator = scope.evaluator.asking(asked);
    let order = Order::by_identity();
    let question = Question::new(Scope { evaluator, ..scope.clone() }, order, MOST_OWNERS + 1);
    let page = answers.page(&question)?;
    if page.is_partial || Instant::now() >= scope.deadline {
        return Err(OwnersError::TooLong(clause.test.to_string()));
    }
    if page.remaining > 0 {
        return Err(OwnersError::TooMany(clause.test.to_string()));
    }
    let owners = page.hits.iter().filter_map(|hit| {
        let uid = hit.document()?.uid()?.to_owned();
        Some(Owner { cluster: hit.cluster.as_str().to_owned(), uid })
    });
    Ok(owners.collect())
}
