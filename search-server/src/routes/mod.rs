//! The routes that join the API service and the cache: everything under `search`.
//!
//! ```text
//! search/cache/…   cache_path + options ─► list | watch | table ─► body ─► caller
//! search/query, search/facets, search/differences, search/fields   query
//! search/status    status
//! ```
//!
//! Who may ask was decided before a request comes here; these routes only read.

mod backends;
mod body;
mod cache_path;
mod freshness;
mod known;
mod list;
mod long_running;
mod options;
mod own_labels;
mod query;
mod root;
mod status;
mod table;
pub(crate) mod warning;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use apiservice::error::{ApiError, Subject};
use apiservice::router::SearchRoutes;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::Method;
use http::request::Parts;
use indexer::backend::Backends;
use indexer::cache::Cache;
use indexer::disk::Disk;
use indexer::index::Index;
use indexer::resource::ClusterName;
use indexer::supervise::Overview;
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;

use crate::observe::metrics::Counted;
pub(crate) use backends::{BackendSource, Source};
use cache_path::CachePath;
use long_running::is_long_running;
pub(crate) use query::Turns;

/// Where these routes stand.
const MOUNT: &str = "/apis/search.karmada.io/v1alpha1/search";

/// What the routes read from.
#[derive(Debug, Clone)]
pub(crate) struct SearchState {
    /// The objects.
    pub(crate) cache: Arc<Cache>,
    /// Where they are kept besides.
    pub(crate) disk: Arc<Disk>,
    /// What queries are answered from.
    pub(crate) index: Arc<Index>,
    /// Where registries send objects.
    pub(crate) backends: Arc<Backends>,
    /// Where answers come from.
    pub(crate) source: Source,
    /// What is watched, and why something is not.
    pub(crate) overview: channel::Receiver<Arc<Overview>>,
    /// Watches last this long at least, up to twice as long, unless the caller says otherwise.
    pub(crate) shortest_watch: Duration,
    /// Cancelled when the server stops: watches end then.
    pub(crate) stopping: CancellationToken,
    /// What is counted while requests are answered.
    pub(crate) counted: Counted,
    /// Turns for queries.
    pub(crate) turns: Turns,
}

impl SearchState {
    fn overview(&self) -> Arc<Overview> {
        self.overview.borrow().clone()
    }
}

/// The routes under `search`, for requests with their full path.
pub(crate) fn search(state: SearchState) -> SearchRoutes {
    SearchRoutes { router: Router::new().fallback(answer).with_state(state), is_long_running }
}

async fn answer(State(state): State<SearchState>, request: Request) -> Response {
    respond(&state, &request.into_parts().0).await.unwrap_or_else(IntoResponse::into_response)
}

async fn respond(state: &SearchState, request: &Parts) -> Result<Response, ApiError> {
    let (headers, query) = (&request.headers, request.uri.query().unwrap_or_default());
    let path = request.uri.path();
    let below = path.strip_prefix(MOUNT).ok_or_else(ApiError::unknown_path)?.trim_start_matches('/');
    let (category, rest) = below.split_once('/').unwrap_or((below, ""));
    if request.method != Method::GET && !category.is_empty() {
        let message = "the server does not allow this method on the requested resource";
        return Err(ApiError::method_not_allowed(message));
    }
    match category {
        "" => Err(ApiError::unknown_path()),
        "cache" => cached(state, request, rest).await,
        "query" if rest.is_empty() => query::objects(state, headers, query).await,
        "facets" if rest.is_empty() => query::facets(state, query).await,
        "differences" if rest.is_empty() => {
            state.source.check_cache("search/differences")?;
            query::differences::answer(state, query).await
        }
        "fields" if rest.is_empty() => {
            state.source.check_cache("search/fields")?;
            query::names::answer(state, query).await
        }
        "status" if rest.is_empty() => status::answer(state),
        other => Err(ApiError::unroutable(format!("connect with unrecognized search category {other}"))),
    }
}

async fn cached(state: &SearchState, request: &Parts, rest: &str) -> Result<Response, ApiError> {
    let rest = percent_encoding::percent_decode_str(rest)
        .decode_utf8()
        .map_err(|_| ApiError::bad_request("the path is not UTF-8"))?;
    match CachePath::parse(&rest)? {
        CachePath::Objects { resource, namespace, name } => {
            let options = options::CacheOptions::parse(request.uri.query().unwrap_or_default())?;
            check_clusters(state, options.clusters.as_ref())?;
            let objects = list::Asked { resource, namespace, name, options };
            if let Source::Backends(source) = &state.source {
                backends::list(state, source, &request.headers, &objects).await
            } else if objects.options.list.watch && objects.name.is_none() {
                watch::answer(state, &request.headers, objects)
            } else {
                list::answer(state, &request.headers, &objects).await
            }
        }
        root => root::answer(state, &root),
    }
}

/// A name that no cluster has is most likely a slip; an empty answer would hide it.
fn check_clusters(state: &SearchState, asked: Option<&BTreeSet<ClusterName>>) -> Result<(), ApiError> {
    let (Some(asked), overview) = (asked, state.overview()) else { return Ok(()) };
    match asked.iter().find(|name| !overview.members.members.contains_key(*name)) {
        Some(unknown) if overview.loaded => Err(ApiError::not_found(Subject {
            group: "cluster.karmada.io",
            resource: "clusters",
            name: unknown.as_str(),
        })),
        _ => Ok(()),
    }
}
