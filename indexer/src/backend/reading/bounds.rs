//! Conditions on documents, and how they are put together.

use serde_json::{Value, json};

/// A condition in OpenSearch's words.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    /// Every document meets it.
    All,
    /// None does.
    Nothing,
    /// Those that this query takes do.
    Query(Value),
}

impl Condition {
    pub(super) fn term(field: &str, value: &str) -> Self {
        Self::Query(json!({ "term": { field: { "value": value } } }))
    }

    pub(super) fn terms<'a>(field: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        let values: Vec<&str> = values.into_iter().collect();
        if values.is_empty() { Self::Nothing } else { Self::Query(json!({ "terms": { field: values } })) }
    }

    pub(super) fn exists(field: &str) -> Self {
        Self::Query(json!({ "exists": { "field": field } }))
    }

    pub(super) fn range(field: &str, bounds: Value) -> Self {
        Self::Query(json!({ "range": { field: bounds } }))
    }

    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, _) | (_, Self::Nothing) => Self::Nothing,
            (Self::All, one) | (one, Self::All) => one,
            (Self::Query(one), Self::Query(other)) => Self::Query(json!({ "bool": { "filter": [one, other] } })),
        }
    }

    pub(super) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::All, _) | (_, Self::All) => Self::All,
            (Self::Nothing, one) | (one, Self::Nothing) => one,
            (Self::Query(one), Self::Query(other)) => {
                Self::Query(json!({ "bool": { "should": [one, other], "minimum_should_match": 1 } }))
            }
        }
    }

    pub(super) fn not(self) -> Self {
        match self {
            Self::All => Self::Nothing,
            Self::Nothing => Self::All,
            Self::Query(query) => Self::Query(json!({ "bool": { "must_not": [query] } })),
        }
    }

    pub(super) fn any(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut queries = Vec::new();
        for part in parts {
            match part {
                Self::All => return Self::All,
                Self::Nothing => {}
                Self::Query(query) => queries.push(query),
            }
        }
        match queries.len() {
            0 => Self::Nothing,
            1 => Self::Query(queries.swap_remove(0)),
            _ => Self::Query(json!({ "bool": { "should": queries, "minimum_should_match": 1 } })),
        }
    }

    pub(super) fn all(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut queries = Vec::new();
        for part in parts {
            match part {
                Self::All => {}
                Self::Nothing => return Self::Nothing,
                Self::Query(query) => queries.push(query),
            }
        }
        match queries.len() {
            0 => Self::All,
            1 => Self::Query(queries.swap_remove(0)),
            _ => Self::Query(json!({ "bool": { "filter": queries } })),
        }
    }

    /// As a query.
    pub(super) fn to_query(&self) -> Value {
        match self {
            Self::All => json!({ "match_all": {} }),
            Self::Nothing => json!({ "match_none": {} }),
            Self::Query(query) => query.clone(),
        }
    }
}

/// What documents tell of a question: some objects surely pass, others may.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bounds {
    /// Whose documents meet this pass.
    pub(super) sure: Condition,
    /// Whose documents don't meet this fail.
    pub(super) possible: Condition,
}

impl Bounds {
    /// Documents know it for sure.
    pub(super) fn exactly(condition: Condition) -> Self {
        Self { sure: condition.clone(), possible: condition }
    }

    /// Only objects that meet this may pass.
    pub(super) fn at_most(possible: Condition) -> Self {
        Self { sure: Condition::Nothing, possible }
    }

    /// Documents don't know.
    pub(super) fn unknown() -> Self {
        Self::at_most(Condition::All)
    }

    /// Of some documents it is not known.
    pub(super) fn except(self, unknown: &Condition) -> Self {
        Self { sure: self.sure.and(unknown.clone().not()), possible: self.possible.or(unknown.clone()) }
    }

    pub(super) fn not(self) -> Self {
        Self { sure: self.possible.not(), possible: self.sure.not() }
    }

    pub(super) fn all(parts: impl IntoIterator<Item = Self>) -> Self {
        let (sure, possible): (Vec<_>, Vec<_>) = parts.into_iter().map(|part| (part.sure, part.possible)).unzip();
        Self { sure: Condition::all(sure), possible: Condition::all(possible) }
    }

    pub(super) fn any(parts: impl IntoIterator<Item = Self>) -> Self {
        let (sure, possible): (Vec<_>, Vec<_>) = parts.into_iter().map(|part| (part.sure, part.possible)).unzip();
        Self { sure: Condition::any(sure), possible: Condition::any(possible) }
    }

    /// What has to be looked at.
    pub(super) fn doubtful(&self) -> Condition {
        if self.sure == self.possible {
            return Condition::Nothing;
        }
        self.possible.clone().and(self.sure.clone().not())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(field: &str) -> Condition {
        Condition::term(field, "x")
    }

    #[test]
    fn what_is_sure_of_a_part_is_impossible_of_its_opposite() {
        let doubtful = Bounds::exactly(known("a")).except(&known("cut"));
        let opposite = doubtful.clone().not();
        assert_eq!(opposite.sure, doubtful.possible.clone().not());
        assert_eq!(opposite.possible, doubtful.sure.clone().not());
        assert_ne!(doubtful.doubtful(), Condition::Nothing);
        assert_eq!(Bounds::exactly(known("a")).doubtful(), Condition::Nothing);
    }

    #[test]
    fn all_and_nothing_leave_no_trace_in_what_is_asked() {
        assert_eq!(Condition::all([Condition::All, known("a"), Condition::All]), known("a"));
        assert_eq!(Condition::all([known("a"), Condition::Nothing]), Condition::Nothing);
        assert_eq!(Condition::any([Condition::Nothing, known("a")]), known("a"));
        assert_eq!(Condition::any([known("a"), Condition::All]), Condition::All);
        assert_eq!(Condition::all([]), Condition::All);
        assert_eq!(Condition::any([]), Condition::Nothing);
        assert_eq!(Condition::terms("a", []), Condition::Nothing);
    }
}
