//! The one place where a failure becomes what a Kubernetes client reads: a `Status` object (meta.k8s.io/v1) or, on the
//! drop-in `search/cache` path, the `{"error": "…"}` shape that callers of that path already parse.
//!
//! In: an [`ApiError`] from any handler or layer. Out: an HTTP response. Internal details belong in the log, not here.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::json;

/// A failed request, ready to be shown to its caller.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    code: StatusCode,
    reason: Option<&'static str>,
    message: String,
    details: Option<Box<StatusDetails>>,
    retry_after_seconds: Option<u32>,
    shape: Shape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Status,
    PlainError,
}

/// `Status.details`: which object the failure is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StatusDetails {
    /// Name of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Resource (plural, lower case) or kind, as Kubernetes fills it for the reason at hand.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Unique id of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One entry for each field that was wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
}

/// One wrong field of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusCause {
    /// Machine-readable reason, e.g. `FieldValueInvalid`.
    pub reason: &'static str,
    /// What a person reads.
    pub message: String,
    /// Path of the field from the object's root; empty where it is about none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// The object that a [`StatusDetails`] is about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// API group, empty for the core group.
    pub group: &'a str,
    /// Plural resource name.
    pub resource: &'a str,
    /// Object name, empty for a collection.
    pub name: &'a str,
}

impl Subject<'_> {
    fn qualified(&self) -> String {
        if self.group.is_empty() { self.resource.to_owned() } else { format!("{}.{}", self.resource, self.group) }
    }

    fn details(&self) -> StatusDetails {
        StatusDetails {
            name: self.name.to_owned(),
            group: self.group.to_owned(),
            kind: self.resource.to_owned(),
            ..StatusDetails::default()
        }
    }
}

impl ApiError {
    fn status(code: StatusCode, reason: Option<&'static str>, message: String) -> Self {
        Self { code, reason, message, details: None, retry_after_seconds: None, shape: Shape::Status }
    }

    /// 400: the request itself is wrong; say what and how to mend it.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::status(StatusCode::BAD_REQUEST, Some("BadRequest"), message.into())
    }

    /// 401: no authenticator knew the credentials.
    pub fn unauthorized() -> Self {
        Self::status(StatusCode::UNAUTHORIZED, Some("Unauthorized"), "Unauthorized".to_owned())
    }

    /// 403: `message` is the part after `NAME is forbidden: `.
    pub fn forbidden(subject: Subject<'_>, message: &str) -> Self {
        let named = if subject.name.is_empty() {
            format!("{} is forbidden: {message}", subject.qualified())
        } else {
            format!("{} {:?} is forbidden: {message}", subject.qualified(), subject.name)
        };
        Self::status(StatusCode::FORBIDDEN, Some("Forbidden"), named).with_details(subject.details())
    }

    /// 403 for a path that is no resource, e.g. `/metrics`.
    pub fn forbidden_path(message: &str) -> Self {
        Self::status(StatusCode::FORBIDDEN, Some("Forbidden"), format!("forbidden: {message}"))
            .with_details(StatusDetails::default())
    }

    /// 404: one object does not exist.
    pub fn not_found(subject: Subject<'_>) -> Self {
        let message = format!("{} {:?} not found", subject.qualified(), subject.name);
        Self::status(StatusCode::NOT_FOUND, Some("NotFound"), message).with_details(subject.details())
    }

    /// 404: nothing is served at this path.
    pub fn unknown_path() -> Self {
        let message = "the server could not find the requested resource".to_owned();
        Self::status(StatusCode::NOT_FOUND, Some("NotFound"), message).with_details(StatusDetails::default())
    }

    /// 405: the path exists, the method does not.
    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        Self::status(StatusCode::METHOD_NOT_ALLOWED, Some("MethodNotAllowed"), message.into())
            .with_details(StatusDetails::default())
    }

    /// 406: none of the accepted media types can be produced.
    pub fn not_acceptable(available: &str) -> Self {
        let message = format!("406: Not Acceptable\n\nAvailable representations: {available}");
        Self::status(StatusCode::NOT_ACCEPTABLE, Some("NotAcceptable"), message).with_details(StatusDetails::default())
    }

    /// 409: an object of that name exists.
    pub fn already_exists(subject: Subject<'_>) -> Self {
        let message = format!("{} {:?} already exists", subject.qualified(), subject.name);
        Self::status(StatusCode::CONFLICT, Some("AlreadyExists"), message).with_details(subject.details())
    }

    /// 409: the object changed since the caller read it, or belongs to somebody else.
    pub fn conflict(subject: Subject<'_>, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {:?}: {why}", subject.qualified(), subject.name);
        Self::status(StatusCode::CONFLICT, Some("Conflict"), message).with_details(subject.details())
    }

    /// 409: server-side apply would take fields that others own.
    pub fn apply_conflict(causes: Vec<StatusCause>) -> Self {
        let listed: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.message, cause.field)).collect();
        let plural = if listed.len() == 1 { "conflict" } else { "conflicts" };
        let message = format!("Apply failed with {} {plural}: {}", listed.len(), listed.join(", "));
        Self::status(StatusCode::CONFLICT, Some("Conflict"), message)
            .with_details(StatusDetails { causes, ..StatusDetails::default() })
    }

    /// 410: the version asked for is no longer held; list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::status(StatusCode::GONE, Some("Expired"), message.into())
    }

    /// 413: the body is larger than the server accepts.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::status(StatusCode::PAYLOAD_TOO_LARGE, Some("RequestEntityTooLarge"), message.into())
    }

    /// 415: the body's media type is not understood here.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, Some("UnsupportedMediaType"), message.into())
    }

    /// 422: the object is understood and wrong. `kind` is the object's kind.
    pub fn invalid(kind: &str, subject: Subject<'_>, causes: Vec<StatusCause>) -> Self {
        let listed = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect::<Vec<_>>();
        let listed = match listed.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{kind}.{} {:?} is invalid: {listed}", subject.group, subject.name);
        let details = StatusDetails { kind: kind.to_owned(), causes, ..subject.details() };
        Self::status(StatusCode::UNPROCESSABLE_ENTITY, Some("Invalid"), message).with_details(details)
    }

    /// 429: come back after `retry_after_seconds`.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut error = Self::status(StatusCode::TOO_MANY_REQUESTS, Some("TooManyRequests"), message.into());
        error.retry_after_seconds = Some(retry_after_seconds);
        error
    }

    /// 500: our own fault. `message` must not carry secrets.
    pub fn internal(message: impl Into<String>) -> Self {
        let message = format!("Internal error occurred: {}", message.into());
        Self::status(StatusCode::INTERNAL_SERVER_ERROR, Some("InternalError"), message)
    }

    /// 500 without a reason: how the drop-in paths refuse a request they cannot route.
    pub fn unroutable(message: impl Into<String>) -> Self {
        Self::status(StatusCode::INTERNAL_SERVER_ERROR, None, message.into())
    }

    /// 503: a part that this request needs is not there yet.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::status(StatusCode::SERVICE_UNAVAILABLE, Some("ServiceUnavailable"), message.into())
    }

    /// 504: the request ran into its deadline.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::status(StatusCode::GATEWAY_TIMEOUT, Some("Timeout"), message.into())
    }

    /// 504: a version was asked for that is not reached. Clients know it by its cause, and list again without a version.
    pub fn too_large_resource_version(message: impl Into<String>) -> Self {
        let cause = StatusCause {
            reason: "ResourceVersionTooLarge",
            message: "Too large resource version".to_owned(),
            field: String::new(),
        };
        let details = StatusDetails { causes: vec![cause], ..StatusDetails::default() };
        Self { retry_after_seconds: Some(1), ..Self::timeout(message).with_details(details) }
    }

    /// The `{"error": "…"}` answer of the drop-in `search/cache` path.
    pub fn plain(code: StatusCode, message: impl Into<String>) -> Self {
        Self { shape: Shape::PlainError, ..Self::status(code, None, message.into()) }
    }

    /// The HTTP status code of this failure.
    pub fn code(&self) -> StatusCode {
        self.code
    }

    /// The machine-readable reason, if the failure has one.
    pub fn reason(&self) -> Option<&'static str> {
        self.reason
    }

    fn with_details(mut self, details: StatusDetails) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// The body as JSON, e.g. to send as the object of a watch's `ERROR` event.
    pub fn to_json(&self) -> serde_json::Value {
        if self.shape == Shape::PlainError {
            return json!({ "error": self.message });
        }
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code.as_u16(),
        });
        if let Some(reason) = self.reason {
            status["reason"] = json!(reason);
        }
        if let Some(details) = &self.details {
            status["details"] = json!(details);
        }
        if let Some(seconds) = self.retry_after_seconds {
            status["details"]["retryAfterSeconds"] = json!(seconds);
        }
        status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = self.to_json().to_string();
        let mut response = (self.code, [(header::CONTENT_TYPE, "application/json")], body).into_response();
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
