//! What plain kubectl can say of a request: labels under `search.karmada.io/`, which no object has.
//!
//! ```text
//! search.karmada.io/cluster in (east,west)       only these clusters; read with the other labels
//! search.karmada.io/order-by=-spec.replicas      sorted; several fields as order-by in (-spec.replicas,name)
//! search.karmada.io/query=image:*nginx* web      a query, which takes all that follows
//! ```
//!
//! In: a label selector. Out: the same without these two, and what they say.

use apiservice::error::ApiError;
use indexer::query::{Expression, Field, parse};
use indexer::search::order::Order;

/// Labels of this group are no labels of objects.
pub(super) const OWN: &str = "search.karmada.io/";

/// What a label selector says beyond labels.
#[derive(Debug, Default)]
pub(super) struct OwnLabels {
    /// The selector without it.
    pub(super) rest: String,
    /// Which objects.
    pub(super) query: Option<Expression>,
    /// In which order, and how it was written.
    pub(super) order: Option<(Order, String)>,
}

impl OwnLabels {
    /// Reads a label selector.
    ///
    /// # Errors
    /// 400 for a query or an order that is none.
    pub(super) fn take(selector: &str) -> Result<Self, ApiError> {
        let (mut kept, mut order, mut query) = (Vec::new(), None, None);
        let mut from = 0;
        while from < selector.len() {
            let end = end_of_requirement(selector, from);
            let requirement = &selector[from..end];
            let own = requirement.trim_start().strip_prefix(OWN);
            if own.is_some_and(|own| is_about(own, "query")) {
                let text = value_of("query", selector[from..].trim_start().trim_start_matches(OWN))?;
                let asked = parse(text).map_err(|error| refuse("query", &error))?;
                if asked.asks_for(&Field::OwnerChain) {
                    return Err(refuse("query", &"owner~ is followed by search/query and fleetglass search only"));
                }
                query = Some(asked);
                break;
            }
            match own.filter(|own| is_about(own, "order-by")) {
                Some(own) => order = Some(value_of("order-by", own)?.to_owned()),
                None => kept.push(requirement),
            }
            from = end + 1;
        }
        let expression = query.as_ref().unwrap_or(&Expression::Everything);
        let order = order.map(|text| {
            let order = Order::parse(&text, expression).map_err(|error| refuse("order-by", &error))?;
            Ok::<_, ApiError>((order, text))
        });
        Ok(Self { rest: kept.join(","), query, order: order.transpose()? })
    }
}

fn refuse(name: &str, problem: &dyn std::fmt::Display) -> ApiError {
    // No request of the original's: so it is refused as API servers do, which kubectl shows.
    ApiError::bad_request(format!("labelSelector: {OWN}{name}: {problem}"))
}

/// Where a requirement ends: at a comma outside of parentheses, or with the text.
fn end_of_requirement(selector: &str, from: usize) -> usize {
    let mut depth = 0_usize;
    for (at, character) in selector[from..].char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => return from + at,
            _ => {}
        }
    }
    selector.len()
}

fn is_about(own: &str, name: &str) -> bool {
    let behind = own.strip_prefix(name);
    behind.is_some_and(|behind| {
        !behind.starts_with(|next: char| next.is_alphanumeric() || matches!(next, '-' | '.' | '_'))
    })
}

/// What stands behind `=`, or in the parentheses behind `in`.
fn value_of<'a>(name: &str, own: &'a str) -> Result<&'a str, ApiError> {
    let behind = own.strip_prefix(name).unwrap_or(own).trim();
    if let Some(value) = behind.strip_prefix("==").or_else(|| behind.strip_prefix('=')) {
        return Ok(value.trim());
    }
    let listed = behind.strip_prefix("in").and_then(|list| list.trim().strip_prefix('(')?.strip_suffix(')'));
    listed.map(str::trim).ok_or_else(|| refuse(name, &format!("write {OWN}{name}=VALUE or {OWN}{name} in (VALUE)")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(selector: &str) -> (String, String, String) {
        let OwnLabels { rest, query, order } = OwnLabels::take(selector).unwrap();
        let query = query.map(|query| query.to_string()).unwrap_or_default();
        (rest, query, order.map(|(_, text)| text).unwrap_or_default())
    }

    #[test]
    fn a_query_takes_all_that_follows_and_other_labels_stay() {
        let found = taken("app in (a,b),search.karmada.io/order-by=-created,search.karmada.io/query=kind:(A OR B) a,b");
        let asked = parse("kind:(A OR B) a,b").unwrap().to_string();
        assert_eq!(found, ("app in (a,b)".to_owned(), asked, "-created".to_owned()));
        let listed = taken("search.karmada.io/order-by in (-created,name),app,search.karmada.io/query in (image:*a*)");
        assert_eq!(listed, ("app".to_owned(), "image:*a*".to_owned(), "-created,name".to_owned()));
        assert_eq!(taken("app=web,search.karmada.io/cluster=east").0, "app=web,search.karmada.io/cluster=east");
    }

    #[test]
    fn a_mistake_in_a_query_says_where_it_is() {
        for (selector, says) in [
            ("search.karmada.io/query=spec.replicas:", "character 15"),
            ("search.karmada.io/order-by=..", "search.karmada.io/order-by: character"),
            ("search.karmada.io/query", "search.karmada.io/query=VALUE"),
            ("search.karmada.io/query=owner~:web", "owner~ is followed by search/query"),
        ] {
            let message = OwnLabels::take(selector).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
    }
}
