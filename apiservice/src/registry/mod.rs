//! The ResourceRegistry resource: its verbs, over any store.
//!
//! ```text
//! request ─► mod (which verb) ─┬► read    get, list, table ─────────► caller
//!                              ├► follow  watch
//!                              └► write   create, update, patch, delete ─► store
//! ```

mod follow;
mod read;
mod store;
mod table;
mod write;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method};
use http_body_util::{BodyExt, LengthLimitError};
use tokio_util::sync::CancellationToken;

pub use store::{RESOURCE, ReadyCondition, RegistrySnapshot, RegistryStore};

use crate::GROUP_VERSION_PATH;
use crate::error::ApiError;

/// What the routes need.
#[derive(Debug, Clone)]
pub struct RegistryApi {
    /// The registries.
    pub store: RegistryStore,
    /// Cancelled when the server stops: watches end then.
    pub stopping: CancellationToken,
}

/// Which part of an object a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    Status,
}

/// A request, its body read.
struct Call {
    method: Method,
    headers: HeaderMap,
    query: String,
    body: Bytes,
}

impl Call {
    /// The first value of a query parameter.
    fn parameter(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(self.query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

/// The routes, for requests with their full path.
pub fn router(api: RegistryApi) -> Router {
    Router::new().fallback(answer).with_state(api)
}

async fn answer(State(api): State<RegistryApi>, request: Request) -> Response {
    match respond(&api, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn respond(api: &RegistryApi, request: Request) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().strip_prefix(GROUP_VERSION_PATH).unwrap_or_default().trim_matches('/').to_owned();
    let body = body.collect().await.map_err(|error| body_error(&error))?.to_bytes();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let call = Call { method: head.method, headers: head.headers, query, body };
    let segments: Vec<&str> = path.split('/').collect();
    match segments.as_slice() {
        [RESOURCE] => collection(api, &call).await,
        [RESOURCE, name] => object(api, &call, name, Part::Whole).await,
        [RESOURCE, name, "status"] => object(api, &call, name, Part::Status).await,
        _ => Err(ApiError::unknown_path()),
    }
}

/// The body layer refuses what is too large while it is read.
fn body_error(error: &axum::Error) -> ApiError {
    let is_too_long =
        std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<LengthLimitError>()).is_some();
    if is_too_long {
        return ApiError::too_large("Request entity too large");
    }
    ApiError::bad_request(format!("the request body cannot be read: {error}"))
}

fn not_allowed(call: &Call) -> ApiError {
    ApiError::method_not_allowed(format!("the server does not allow {} here", call.method))
}

async fn collection(api: &RegistryApi, call: &Call) -> Result<Response, ApiError> {
    match call.method {
        Method::GET => match crate::request::ListOptions::parse(&call.query)? {
            options if options.watch => follow::watch(api, call, &options, None).await,
            options => read::list(api, call, &options).await,
        },
        Method::POST => write::create(api, call).await,
        Method::DELETE => write::delete_collection(api, call).await,
        _ => Err(not_allowed(call)),
    }
}

async fn object(api: &RegistryApi, call: &Call, name: &str, part: Part) -> Result<Response, ApiError> {
    match call.method {
        Method::GET => {
            let options = crate::request::ListOptions::parse(&call.query)?;
            if options.watch && part == Part::Whole {
                return follow::watch(api, call, &options, Some(name)).await;
            }
            read::get(api, call, name).await
        }
        Method::PUT => write::update(api, call, name, part).await,
        Method::PATCH => write::patch(api, call, name, part).await,
        Method::DELETE if part == Part::Whole => write::delete(api, call, name).await,
        _ => Err(not_allowed(call)),
    }
}

#[cfg(test)]
mod tests;
