//! `search/fields`: names of fields that objects have, for completion.

use apiservice::error::ApiError;
use axum::Json;
use axum::response::{IntoResponse, Response};
use indexer::search::names::field_names;
use serde::Serialize;

use super::MOST;
use super::parameters::Parameters;
use crate::routes::SearchState;

const DEFAULT_NAMES: usize = 100;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FieldNameList {
    kind: &'static str,
    api_version: &'static str,
    items: Vec<FieldName>,
}

#[derive(Serialize)]
struct FieldName {
    name: String,
}

/// Answers `search/fields`.
pub(in crate::routes) async fn answer(state: &SearchState, query: &str) -> Result<Response, ApiError> {
    let parameters = Parameters::read(query, &["prefix", "limit"])?;
    let beginning = parameters.get("prefix").unwrap_or_default().to_owned();
    let limit = parameters.number("limit", DEFAULT_NAMES, MOST)?;
    let cache = state.cache.clone();
    let names = state.turns.take(move || field_names(&cache, &beginning, limit)).await?;
    let items = names.into_iter().map(|name| FieldName { name }).collect();
    Ok(Json(FieldNameList { kind: "FieldNameList", api_version: apiservice::GROUP_VERSION, items }).into_response())
}
