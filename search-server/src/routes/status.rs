//! `search/status`: what is followed, what lags, and why something is missing.

use apiservice::error::ApiError;
use axum::Json;
use axum::response::{IntoResponse, Response};
use indexer::status::{SyncStatus, sync_statuses};
use serde::Serialize;

use super::SearchState;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SyncStatusList {
    kind: &'static str,
    api_version: &'static str,
    items: Vec<SyncStatus>,
}

/// Answers with one item a (cluster, resource).
pub(super) fn answer(state: &SearchState) -> Result<Response, ApiError> {
    let items = sync_statuses(&state.overview(), &state.cache);
    let list = SyncStatusList { kind: "SyncStatusList", api_version: apiservice::GROUP_VERSION, items };
    Ok(Json(list).into_response())
}
