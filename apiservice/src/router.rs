//! Puts the parts together: which path leads where.
//!
//! In: [`RouterParts`] from the binary. Out: one [`axum::Router`] to give to [`crate::serve::serve`].
//!
//! The routers that are handed in see the request's whole original path, so their routes begin with
//! [`GROUP_VERSION_PATH`]; what they don't know they may leave to axum's bare 404 and 405, which become `Status` objects
//! on the way out. Handlers find `Extension<Caller>`, `Extension<RequestInfo>` and `Extension<AuditId>`.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, Uri};
use tower::ServiceExt as _;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;

use crate::audit::Audit;
use crate::authn::Authenticator;
use crate::authz::Authorizer;
use crate::discovery::{self, Discovery, DiscoverySettings};
use crate::error::ApiError;
use crate::health::Health;
use crate::layers::{Draining, Gate, GateParts, IsLongRunning, Limits, WorthCompressing, gate};
use crate::metrics::Metrics;
use crate::openapi::OpenApi;
use crate::{GROUP, GROUP_VERSION_PATH};

/// All that a complete API service consists of.
#[derive(Debug)]
pub struct RouterParts {
    /// Finds out who asks.
    pub authenticator: Arc<Authenticator>,
    /// Decides what they may do.
    pub authorizer: Arc<Authorizer>,
    /// Checks behind the health paths.
    pub health: Health,
    /// Counts requests and serves `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Records requests, if an audit log is wanted.
    pub audit: Option<Arc<Audit>>,
    /// Routes of `…/resourceregistries`, whole paths.
    pub registries: Router,
    /// Routes of `…/search`; without them the resource does not exist.
    pub search: Option<SearchRoutes>,
    /// How much is accepted at once.
    pub limits: Limits,
    /// Tells requests to come again later once the server stops.
    pub draining: Draining,
    /// `HOST:PORT` or `:PORT` that discovery tells clients.
    pub server_address: String,
}

/// Routes of `…/search`, whole paths.
#[derive(Debug)]
pub struct SearchRoutes {
    /// Where they lead.
    pub router: Router,
    /// Which of their answers may take any time.
    pub is_long_running: IsLongRunning,
}

struct Routes {
    health: Health,
    metrics: Arc<Metrics>,
    discovery: Discovery,
    openapi: OpenApi,
    registries: Router,
    search: Option<Router>,
}

/// One router over everything.
pub fn router(parts: RouterParts) -> Router {
    let settings = DiscoverySettings { search: parts.search.is_some(), server_address: parts.server_address };
    let gate_state = Gate::new(GateParts {
        authenticator: parts.authenticator,
        authorizer: parts.authorizer,
        metrics: Arc::clone(&parts.metrics),
        audit: parts.audit,
        limits: parts.limits,
        draining: parts.draining,
        is_long_search: parts.search.as_ref().map(|search| search.is_long_running),
    });
    let routes = Routes {
        health: parts.health,
        metrics: parts.metrics,
        discovery: Discovery::new(&settings),
        openapi: OpenApi::new(),
        registries: parts.registries,
        search: parts.search.map(|search| search.router),
    };
    Router::new()
        .fallback(dispatch)
        .with_state(Arc::new(routes))
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(Arc::new(gate_state), gate))
        // Outermost, so that the audit log sees what is said and not how it is packed.
        .layer(CompressionLayer::new().gzip(true).quality(CompressionLevel::Fastest).compress_when(WorthCompressing))
}

/// By hand instead of by axum's routes: a nested router would see shortened paths and the outer route's parameters.
async fn dispatch(State(routes): State<Arc<Routes>>, request: Request) -> Response {
    if let Some(below) = request.uri().path().strip_prefix(GROUP_VERSION_PATH) {
        let resource = below.split('/').nth(1).unwrap_or_default();
        let router = match resource {
            "resourceregistries" => Some(&routes.registries),
            "search" => routes.search.as_ref(),
            _ => None,
        };
        if let Some(router) = router {
            return router.clone().oneshot(request).await.into_response();
        }
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return ApiError::method_not_allowed("the server does not allow this method on the requested resource")
            .into_response();
    }
    let (parts, _) = request.into_parts();
    routes.document(&parts.uri, &parts.headers).await.unwrap_or_else(IntoResponse::into_response)
}

impl Routes {
    /// The paths that are no resource.
    async fn document(&self, uri: &Uri, headers: &HeaderMap) -> Result<Response, ApiError> {
        let path = uri.path().trim_matches('/');
        let segments: Vec<&str> = path.split('/').collect();
        match segments.as_slice() {
            [""] => Ok(discovery::paths(self.health.paths())),
            ["apis"] => self.discovery.groups(headers),
            ["apis", GROUP] => self.discovery.group(headers),
            ["apis", GROUP, crate::VERSION] => self.discovery.resources(headers),
            ["version"] => Ok(self.discovery.version()),
            ["metrics"] => Ok(self.metrics.answer(headers)),
            ["openapi", below @ ..] => self.openapi.answer(below, headers),
            ["healthz" | "livez" | "readyz", ..] => Ok(self.health.answer(path, uri.query().unwrap_or_default()).await),
            _ => Err(ApiError::unknown_path()),
        }
    }
}

#[cfg(test)]
mod tests;
