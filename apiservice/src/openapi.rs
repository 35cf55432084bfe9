//! Being written.

use axum::response::Response;
use http::HeaderMap;

use crate::error::ApiError;

/// The schema documents.
#[derive(Debug)]
pub(crate) struct OpenApi;

impl OpenApi {
    pub(crate) fn new() -> Self {
        Self
    }

    #[expect(clippy::unused_self, reason = "being written")]
    pub(crate) fn answer(&self, _below: &[&str], _headers: &HeaderMap) -> Result<Response, ApiError> {
        Err(ApiError::unknown_path())
    }
}
