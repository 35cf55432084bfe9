//! `search/status`: what is followed, what lags, and why something is missing.

use apiservice::error::ApiError;
use axum::Json;
use axum::response::{IntoResponse, Response};
use indexer::status::{SyncStatus, sync_statuses};
use serde::Serialize;

use super::{SearchState, Source};
use crate::observe::backends::{self, BackendReport};
use crate::observe::disk::DiskReport;
use crate::observe::index::IndexStatus;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SyncStatusList {
    kind: &'static str,
    api_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<DiskReport>,
    index: IndexStatus,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    backends: Vec<BackendReport>,
    items: Vec<SyncStatus>,
}

/// Answers with one item a (cluster, resource), and how the cache on disk, the search index and the backends are.
pub(super) fn answer(state: &SearchState) -> Result<Response, ApiError> {
    let items = match &state.source {
        Source::Cache { .. } => sync_statuses(&state.overview(), &state.cache),
        Source::Backends(source) => source.reports.borrow().statuses(),
    };
    let index = IndexStatus::of(&state.index, &state.cache);
    let backends = backends::reports(&state.backends);
    let disk = DiskReport::of(&state.disk);
    let (kind, api_version) = ("SyncStatusList", apiservice::GROUP_VERSION);
    let list = SyncStatusList { kind, api_version, disk, index, backends, items };
    Ok(Json(list).into_response())
}
