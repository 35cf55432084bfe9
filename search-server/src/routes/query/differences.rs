//! `search/differences`: what is not the same in all clusters, or in those that are named.

use std::time::Instant;

use apiservice::error::ApiError;
use axum::Json;
use axum::response::{IntoResponse, Response};
use indexer::search::Cached;
use indexer::search::differences::{Difference, Kept, differences};
use indexer::search::moments::Moments;
use indexer::search::owners::OwnersError;
use serde::Serialize;

use super::parameters::Parameters;
use super::{DEADLINE, DEFAULT_LIMIT, MOST, NoAnswer, Token, resolve, scope, state_of, warn};
use crate::routes::SearchState;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DifferenceList {
    kind: &'static str,
    api_version: &'static str,
    metadata: Metadata,
    compared: u64,
    not_compared: u64,
    items: Vec<Difference>,
}

#[derive(Serialize)]
struct Metadata {
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    continue_token: String,
}

/// What a token of this list says instead of an order.
const ORDER: &str = "differences";

/// Answers `search/differences`.
pub(in crate::routes) async fn answer(state: &SearchState, query: &str) -> Result<Response, ApiError> {
    let parameters = Parameters::read(query, &["q", "cluster", "limit", "continue", "only"])?;
    let mut scope = scope(state, &parameters)?;
    if scope.clusters.as_ref().is_some_and(|clusters| clusters.len() == 1) {
        return Err(ApiError::bad_request("cluster: name two or more to compare, or none for all"));
    }
    let kept = match parameters.get("only") {
        None | Some("") => Kept::All,
        Some("missing") => Kept::Missing,
        Some("changed") => Kept::Changed,
        Some(other) => {
            return Err(ApiError::bad_request(format!("only: missing or changed is expected, not {other:?}")));
        }
    };
    let limit = parameters.number("limit", DEFAULT_LIMIT, MOST)?;
    let asked = scope.evaluator.expression().to_string();
    let after = Token::read(&parameters, &asked, ORDER)?.map(|(after, _)| after);
    let clusters = scope.clusters.clone();
    let cached = Cached { cache: state.cache.clone(), index: state.index.clone() };
    let comparing = move || {
        scope.deadline = Instant::now() + DEADLINE;
        let scope = resolve(&cached, &scope)?;
        Ok(differences(&cached.cache, &cached.index, &scope, kept, limit, after))
    };
    let found = state.turns.take(comparing).await?.map_err(|error: OwnersError| NoAnswer::from(error))?;
    let token = |after| Token { q: asked, order: ORDER.to_owned(), after, moments: Moments::default() }.encode();
    let list = DifferenceList {
        kind: "DifferenceList",
        api_version: apiservice::GROUP_VERSION,
        metadata: Metadata { continue_token: found.next.map(token).unwrap_or_default() },
        compared: found.compared,
        not_compared: found.alone,
        items: found.items,
    };
    let mut response = Json(list).into_response();
    warn(response.headers_mut(), &state_of(state, clusters.as_ref()), found.is_partial);
    Ok(response)
}
