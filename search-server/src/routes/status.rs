//! `search/status`: what is followed, what lags, and why something is missing.

use apiservice::error::ApiError;
use axum::Json;
use axum::response::{IntoResponse, Response};
use indexer::status::{SyncStatus, sync_statuses};
use serde::Serialize;

use super::SearchState;
use crate::observe::index::IndexStatus;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SyncStatusList {
    kind: &'static str,
    api_version: &'static str,
    index: IndexStatus,
    items: Vec<SyncStatus>,
}

/// Answers with one item a (cluster, resource), and how the search index is.
pub(super) fn answer(state: &SearchState) -> Result<Response, ApiError> {
    let items = sync_statuses(&state.overview(), &state.cache);
    let index = IndexStatus::of(&state.index, &state.cache);
    let list = SyncStatusList { kind: "SyncStatusList", api_version: apiservice::GROUP_VERSION, index, items };
    Ok(Json(list).into_response())
}
