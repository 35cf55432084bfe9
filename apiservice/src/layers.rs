//! What happens to every request before and after it is routed, in this order: it gets an audit id, is understood,
//! authenticated, recorded, counted against the limits, authorized, given a deadline and a fence against panics, and
//! measured.
//!
//! In: any request. Out: an answer, always; handlers behind it find [`Caller`], [`RequestInfo`] and [`AuditId`] in the
//! request's extensions, and no credentials in its headers.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::{LengthLimitError, Limited};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower_http::compression::Predicate;

use crate::audit::{Arrival, Audit, Record};
use crate::authn::{Authenticator, impersonate};
use crate::authz::Authorizer;
use crate::body::{Held, Sent};
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::request::{Caller, RequestInfo};
use crate::serve::Peer;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
const AUDIT_ID_LENGTH: usize = 64;
/// Seconds after which another replica, or this server's next process, is likely to be there.
const RETRY_AFTER: u32 = 5;

/// Answers smaller than this are sent as they are: compressing them costs more than it saves.
const COMPRESS_FROM: u64 = 128 * 1024;

/// How much is accepted at once.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Reads at once, 0 for any number. Watches don't count.
    pub reads: usize,
    /// Writes at once, 0 for any number.
    pub writes: usize,
    /// From a request's arrival to the head of its answer. Watches may take longer.
    pub deadline: Duration,
    /// Bytes of a request's body.
    pub body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { reads: 400, writes: 200, deadline: Duration::from_secs(60), body: 3 * 1024 * 1024 }
    }
}

/// The id under which a request is found in logs; also the answer's `Audit-Id` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditId(pub String);

impl AuditId {
    /// The caller's own, if it can stand in a log line, else a new one.
    fn of(headers: &HeaderMap) -> Self {
        let own = headers.get(AUDIT_ID).and_then(|value| value.to_str().ok()).filter(|id| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            !id.is_empty() && id.len() <= AUDIT_ID_LENGTH && id.bytes().all(plain)
        });
        Self(own.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned))
    }
}

/// Put into an answer's extensions: its body is long and ends, so it may be compressed although its size is not known.
/// Anything else of unknown size could be a watch, and passes untouched.
#[derive(Debug, Clone, Copy)]
pub struct Compressible;

/// Decides what is compressed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorthCompressing;

impl Predicate for WorthCompressing {
    fn should_compress<B: http_body::Body>(&self, response: &Response<B>) -> bool {
        response.extensions().get::<Compressible>().is_some()
            || response.body().size_hint().exact().is_some_and(|size| size >= COMPRESS_FROM)
    }
}

/// What became of a request: in time or not, without or with a panic, an answer or a refusal.
type Handled = Result<Result<Result<Response, ApiError>, Box<dyn std::any::Any + Send>>, tokio::time::error::Elapsed>;

/// What happens to requests once the server stops. Cloned handles share one state.
#[derive(Debug, Clone, Default)]
pub struct Draining {
    refusing: Arc<AtomicBool>,
    running: TaskTracker,
}

impl Draining {
    /// From now on requests are told to come again later. Returns when those under way, watches not counted, are answered.
    pub async fn begin(&self) {
        self.refusing.store(true, Ordering::Relaxed);
        self.running.close();
        self.running.wait().await;
    }
}

/// Whether a request may take any time, by what it is about and its query string: it is free of deadlines and of limits at once.
pub type IsLongRunning = fn(&RequestInfo, Option<&str>) -> bool;

/// What the gate is made of.
#[derive(Debug)]
pub(crate) struct GateParts {
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) authorizer: Arc<Authorizer>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) audit: Option<Arc<Audit>>,
    pub(crate) limits: Limits,
    pub(crate) draining: Draining,
    /// Of routes that were handed in.
    pub(crate) is_long_search: Option<IsLongRunning>,
}

/// What the gate needs to decide.
#[derive(Debug)]
pub(crate) struct Gate {
    authenticator: Arc<Authenticator>,
    authorizer: Arc<Authorizer>,
    metrics: Arc<Metrics>,
    audit: Option<Arc<Audit>>,
    limits: Limits,
    draining: Draining,
    is_long_search: Option<IsLongRunning>,
    reads: Option<Arc<Semaphore>>,
    writes: Option<Arc<Semaphore>>,
}

/// Held for as long as the answer is being sent.
struct Running {
    _permit: Option<OwnedSemaphorePermit>,
    _undrained: Option<TaskTrackerToken>,
    gauge: Gauge,
    /// Bytes sent so far, and where they are counted in the end; not for watches.
    sizes: Option<Histogram>,
    sent: u64,
}

impl Sent for Running {
    fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.gauge.dec();
        if let Some(sizes) = &self.sizes {
            #[expect(clippy::cast_precision_loss, reason = "a histogram's buckets are far coarser")]
            sizes.observe(self.sent as f64);
        }
    }
}

/// The middleware.
pub(crate) async fn gate(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let arrived = Instant::now();
    let audit_id = AuditId::of(request.headers());
    let head_only = *request.method() == Method::HEAD;
    let is_dry_run = request.uri().query().is_some_and(|query| query.contains("dryRun=All"));
    let mut response = match RequestInfo::new(request.method(), request.uri()) {
        Ok(info) => {
            let response = gate.fenced(&info, &audit_id, request, next).await;
            gate.metrics.answered(&info, is_dry_run, response.status(), arrived.elapsed());
            log(&info, &audit_id, response.status(), arrived);
            response
        }
        Err(error) => error.into_response(),
    };
    add_headers(&mut response, &audit_id);
    if head_only { without_body(response) } else { response }
}

impl Gate {
    pub(crate) fn new(parts: GateParts) -> Self {
        let GateParts { authenticator, authorizer, metrics, audit, limits, draining, is_long_search } = parts;
        let semaphore = |permits: usize| (permits > 0).then(|| Arc::new(Semaphore::new(permits)));
        let (reads, writes) = (semaphore(limits.reads), semaphore(limits.writes));
        Self { authenticator, authorizer, metrics, audit, limits, draining, is_long_search, reads, writes }
    }

    /// Whether the answer may take any time: watches, also those below routes that were handed in.
    fn is_long_running(&self, info: &RequestInfo, query: Option<&str>) -> bool {
        info.is_watch() || self.is_long_search.is_some_and(|is_long| is_long(info, query))
    }

    /// Handles the request within its deadline; a panic on the way becomes a 500 for this request alone.
    async fn fenced(&self, info: &RequestInfo, audit_id: &AuditId, request: Request, next: Next) -> Response {
        let long_running = self.is_long_running(info, request.uri().query());
        let mut record = None;
        let handled = AssertUnwindSafe(self.handled(info, audit_id, request, next, &mut record)).catch_unwind();
        let outcome =
            if long_running { Ok(handled.await) } else { tokio::time::timeout(self.limits.deadline, handled).await };
        if let (Ok(Err(_)), Some(record)) = (&outcome, &mut record) {
            record.panicked().await;
        }
        let response = self.response(outcome, info, audit_id);
        match record {
            Some(record) => record.answered(response, long_running).await,
            None => response,
        }
    }

    /// What handling came to, as an answer.
    fn response(&self, outcome: Handled, info: &RequestInfo, audit_id: &AuditId) -> Response {
        match outcome {
            Ok(Ok(Ok(response))) => with_status(response, self.limits.body),
            Ok(Ok(Err(error))) => error.into_response(),
            Ok(Err(panic)) => {
                self.metrics.panicked();
                let what = panic_message(panic.as_ref());
                tracing::error!(audit_id = audit_id.0, verb = info.verb, path = info.path, what, "request panicked");
                ApiError::internal("the request could not be handled; the log says more").into_response()
            }
            Err(_) => {
                self.metrics.refused("deadline");
                let seconds = self.limits.deadline.as_secs();
                ApiError::timeout(format!("the request was not answered within {seconds} s")).into_response()
            }
        }
    }

    async fn handled(
        &self,
        info: &RequestInfo,
        audit_id: &AuditId,
        request: Request,
        next: Next,
        record: &mut Option<Record>,
    ) -> Result<Response, ApiError> {
        let open = self.authorizer.is_open(info);
        if !open && self.draining.refusing.load(Ordering::Relaxed) {
            self.metrics.refused("draining");
            return Err(ApiError::too_many_requests("the server is shutting down, try again", RETRY_AFTER));
        }
        let arrival = self.audit.as_ref().map(|audit| (audit, Arrival::of(&request)));
        let long_running = self.is_long_running(info, request.uri().query());
        let (mut parts, body) = request.into_parts();
        let who = if open {
            // Whoever may ask without credentials may also ask with bad ones; and health must not wait for reviews.
            Ok(Caller::anonymous())
        } else {
            self.authenticator.authenticate(parts.extensions.get::<Peer>(), &parts.headers).await
        };
        self.authenticator.strip(&mut parts.headers);
        if let Some((audit, arrival)) = arrival {
            let caller = who.as_ref().cloned().unwrap_or_else(|_| Caller::unknown());
            *record = Record::begin(audit, arrival, &audit_id.0, &caller, info).await?;
        }
        let mut caller = who?;
        if !open {
            caller = impersonate(&self.authorizer, caller, &mut parts.headers).await?;
        }
        let running = self.admit(info, open, long_running)?;
        let allowed = self.authorizer.authorize(&caller, info).await;
        if let Some(record) = record {
            // Only a no is a no: an answer that could not be had decides nothing.
            let is_allowed = match &allowed {
                Ok(()) => Some(true),
                Err(error) => (error.code() == StatusCode::FORBIDDEN.as_u16()).then_some(false),
            };
            record.caller_is(&caller, is_allowed);
        }
        allowed?;
        self.check_length(&parts.headers)?;
        let mut body = Body::new(Limited::new(body, self.limits.body));
        if let Some(record) = record {
            body = record.body(body).await.map_err(|error| self.unreadable(error))?;
        }
        parts.extensions.insert(caller);
        parts.extensions.insert(info.clone());
        parts.extensions.insert(audit_id.clone());
        let response = next.run(Request::from_parts(parts, body)).await;
        Ok(response.map(|inner| Body::new(Held::new(inner, running))))
    }

    /// A body could not be read to its end.
    fn unreadable(&self, error: axum::Error) -> ApiError {
        match error.into_inner().downcast_ref::<LengthLimitError>() {
            Some(_) => too_large(self.limits.body),
            None => ApiError::bad_request("the request's body ended early"),
        }
    }

    /// Takes one of the places for requests at once.
    fn admit(&self, info: &RequestInfo, open: bool, long_running: bool) -> Result<Running, ApiError> {
        let (semaphore, kind) =
            if info.is_read_only() { (&self.reads, "readOnly") } else { (&self.writes, "mutating") };
        let permit = match semaphore {
            Some(semaphore) if !open && !long_running => match Arc::clone(semaphore).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => {
                    self.metrics.refused("inflight");
                    return Err(ApiError::too_many_requests("too many requests are under way, try again", 1));
                }
            },
            _ => None,
        };
        let gauge = if long_running { self.metrics.long_running(info) } else { self.metrics.running(kind) };
        gauge.inc();
        let sizes = (!long_running).then(|| self.metrics.size(info));
        let undrained = (!long_running && !open).then(|| self.draining.running.token());
        Ok(Running { _permit: permit, _undrained: undrained, gauge, sizes, sent: 0 })
    }

    /// Refuses a body that says itself that it is too long, before a byte of it was read.
    fn check_length(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > self.limits.body) {
            self.metrics.refused("body");
            return Err(too_large(self.limits.body));
        }
        Ok(())
    }
}

fn too_large(limit: usize) -> ApiError {
    ApiError::too_large(format!("Request entity too large: limit is {limit}"))
}

/// A `Status` in place of the bare answers that a router gives to unknown paths, methods, and bodies over the limit.
fn with_status(response: Response, limit: usize) -> Response {
    let bare = response.body().size_hint().exact() == Some(0);
    let plain =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/"));
    match response.status() {
        StatusCode::NOT_FOUND if bare => ApiError::unknown_path().into_response(),
        StatusCode::METHOD_NOT_ALLOWED if bare => {
            let message = "the server does not allow this method on the requested resource";
            let mut answer = ApiError::method_not_allowed(message).into_response();
            if let Some(allowed) = response.headers().get(header::ALLOW) {
                answer.headers_mut().insert(header::ALLOW, allowed.clone());
            }
            answer
        }
        StatusCode::PAYLOAD_TOO_LARGE if bare || plain => too_large(limit).into_response(),
        _ => response,
    }
}

fn add_headers(response: &mut Response, audit_id: &AuditId) {
    let refused = response.status() == StatusCode::FORBIDDEN;
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::try_from(audit_id.0.as_str()) {
        headers.append(AUDIT_ID, value);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    if refused {
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
}

/// The answer to HEAD: all headers, no bytes.
fn without_body(mut response: Response) -> Response {
    if let Some(size) = response.body().size_hint().exact() {
        response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(size));
    }
    *response.body_mut() = Body::empty();
    response
}

fn log(info: &RequestInfo, audit_id: &AuditId, status: StatusCode, arrived: Instant) {
    let (code, took) = (status.as_u16(), arrived.elapsed());
    if status.is_server_error() {
        tracing::warn!(audit_id = audit_id.0, verb = info.verb, path = info.path, code, ?took, "answered");
    } else {
        tracing::debug!(audit_id = audit_id.0, verb = info.verb, path = info.path, code, ?took, "answered");
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
