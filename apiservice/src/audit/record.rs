//! One request on its way, and what is recorded of it at each stage.
//!
//! In: the request as it arrived, then its caller, bodies, permission and answer, each as soon as it is known. Out: events
//! to the log. The last event is written when the answer's last byte was handed over, or when nobody wants it any more.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use serde_json::Value;

use super::event::{self, Facts, Outcome};
use super::log::AuditFormat;
use super::policy::{Decision, Level, Stage};
use super::{Audit, AuditMode};
use crate::error::ApiError;
use crate::request::{Caller, RequestInfo};
use crate::serve::Peer;

/// A request as it came in, before anybody knows whose it is.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    uri: String,
    method: String,
    source_ips: Vec<String>,
    user_agent: String,
    received: Timestamp,
}

impl Arrival {
    pub(crate) fn of(request: &Request) -> Self {
        Self {
            uri: request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            method: request.method().to_string(),
            source_ips: source_ips(request.headers(), request.extensions().get::<Peer>()),
            user_agent: text(request.headers(), header::USER_AGENT.as_str()).to_owned(),
            received: Timestamp::now(),
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Where the request says it comes from, then where it came from; only the last is certain.
fn source_ips(headers: &HeaderMap, peer: Option<&Peer>) -> Vec<String> {
    let named = text(headers, "x-forwarded-for").split(',').chain(std::iter::once(text(headers, "x-real-ip")));
    let mut ips: Vec<String> = Vec::new();
    let parsed = named.filter_map(|ip| ip.trim().parse::<std::net::IpAddr>().ok());
    // What was seen stands last, whatever the headers say; only there it is not written twice.
    for ip in parsed.chain(peer.map(|peer| peer.address.ip())).map(|ip| ip.to_canonical().to_string()) {
        if ips.last() != Some(&ip) {
            ips.push(ip);
        }
    }
    ips
}

/// A request that the policy wants recorded.
#[derive(Debug)]
pub(crate) struct Record {
    audit: Arc<Audit>,
    decision: Decision,
    facts: Facts,
    /// What came of it so far.
    outcome: Outcome,
    /// Whether the last event was written.
    is_done: bool,
}

/// A request ends also when its caller goes away in the middle: then the last event says what was known until then.
impl Drop for Record {
    fn drop(&mut self) {
        if !std::mem::replace(&mut self.is_done, true) {
            self.write_last();
        }
    }
}

impl Record {
    /// Asks the policy; if the request is to be recorded, writes that it came in.
    ///
    /// # Errors
    /// 500 in the mode `blocking-strict` if that could not be written.
    pub(crate) async fn begin(
        audit: &Arc<Audit>,
        arrival: Arrival,
        audit_id: &str,
        caller: &Caller,
        info: &RequestInfo,
    ) -> Result<Option<Self>, ApiError> {
        let Some(decision) = audit.decide(caller, info) else { return Ok(None) };
        let Arrival { uri, method, source_ips, user_agent, received } = arrival;
        let facts = Facts {
            audit_id: audit_id.to_owned(),
            level: decision.level,
            uri,
            method,
            info: info.clone(),
            caller: caller.clone(),
            impersonated: None,
            source_ips,
            user_agent,
            received,
            request_object: None,
            is_allowed: None,
        };
        let outcome = Outcome::default();
        let mut record = Self { audit: Arc::clone(audit), decision, facts, outcome, is_done: false };
        let written = record.write(Stage::RequestReceived).await;
        if !written && record.audit.mode == AuditMode::BlockingStrict {
            record.is_done = true;
            return Err(ApiError::internal("the request was not carried out, because it could not be recorded"));
        }
        Ok(Some(record))
    }

    /// As whom the caller goes on, and whether it may do what it asks for; none if nobody could say.
    pub(crate) fn caller_is(&mut self, caller: &Caller, is_allowed: Option<bool>) {
        if *caller != self.facts.caller {
            self.facts.impersonated = Some(caller.clone());
        }
        self.facts.is_allowed = is_allowed;
    }

    /// Reads the request's body, if it is to be recorded.
    ///
    /// # Errors
    /// As the body's own.
    pub(crate) async fn body(&mut self, body: Body) -> Result<Body, axum::Error> {
        if self.facts.level < Level::Request || self.facts.info.is_read_only() || !self.is_about_objects() {
            return Ok(body);
        }
        let bytes = body.collect().await?.to_bytes();
        self.facts.request_object = self.object(&bytes);
        Ok(Body::from(bytes))
    }

    /// Only registries have bodies that are objects; what is below `search` are other clusters' objects, in any number.
    fn is_about_objects(&self) -> bool {
        self.facts.info.resource == "resourceregistries" && self.facts.info.api_group == crate::GROUP
    }

    fn object(&self, bytes: &Bytes) -> Option<Value> {
        let value: Value = serde_json::from_slice(bytes).or_else(|_| serde_yaml::from_slice(bytes)).ok()?;
        Some(if self.decision.omits_managed_fields { event::without_managed_fields(value) } else { value })
    }

    /// Handling the request panicked.
    pub(crate) async fn panicked(&mut self) {
        self.outcome.code = Some(StatusCode::INTERNAL_SERVER_ERROR);
        self.write(Stage::Panic).await;
        self.is_done = true;
    }

    /// The answer is known; what is still to be written is, when its body has been sent.
    pub(crate) async fn answered(mut self, response: Response, is_long_running: bool) -> Response {
        if self.is_done {
            return response;
        }
        self.outcome.code = Some(response.status());
        if is_long_running {
            self.write(Stage::ResponseStarted).await;
        }
        let response = self.look_into(response).await;
        if self.audit.mode != AuditMode::Batch && response.body().size_hint().exact().is_some() {
            // The whole answer is here; nobody gets it before it is recorded.
            self.complete().await;
            return response;
        }
        response.map(|body| Body::new(AuditedBody { inner: body, record: Some(self), writing: None }))
    }

    /// Reads small whole answers: those that say no, and objects if they are to be recorded.
    async fn look_into(&mut self, response: Response) -> Response {
        let refused = response.status().is_client_error() || response.status().is_server_error();
        let wants_object = self.facts.level == Level::RequestResponse && self.is_about_objects();
        if response.body().size_hint().exact().is_none() || !(refused || wants_object) {
            return response;
        }
        let (parts, body) = response.into_parts();
        let Ok(collected) = body.collect().await else { return Response::from_parts(parts, Body::empty()) };
        let bytes = collected.to_bytes();
        let object = self.object(&bytes);
        if refused && let Some(Value::Object(status)) = &object {
            let told = ["status", "message", "reason", "details"];
            let told = told.iter().filter_map(|field| Some(((*field).to_owned(), status.get(*field)?.clone())));
            self.outcome.refusal = told.collect();
        }
        self.outcome.response_object = object.filter(|_| wants_object);
        Response::from_parts(parts, Body::from(bytes))
    }

    fn line(&self, stage: Stage) -> Vec<u8> {
        let (now, outcome) = (Timestamp::now(), &self.outcome);
        if self.audit.log.format == AuditFormat::Legacy {
            return event::legacy(&self.facts, stage, outcome, now).into_bytes();
        }
        let event = event::event(&self.facts, stage, outcome, now);
        let mut line = event.to_string().into_bytes();
        if self.audit.truncate.is_some_and(|limit| line.len() > limit) {
            line = event::truncated(event).to_string().into_bytes();
        }
        line.push(b'\n');
        line
    }

    /// Writes the event of a stage; false if that was wanted and failed.
    async fn write(&self, stage: Stage) -> bool {
        if !self.decision.wants(stage) {
            return true;
        }
        self.audit.events.inc();
        let line = self.line(stage);
        let written = match self.audit.mode {
            AuditMode::Batch => self.audit.log.queue(line),
            AuditMode::Blocking | AuditMode::BlockingStrict => self.audit.log.write(line).await,
        };
        written.inspect_err(|error| self.audit.failed(&error.to_string())).is_ok()
    }

    /// Writes the last event.
    async fn complete(&mut self) {
        self.write(Stage::ResponseComplete).await;
        self.is_done = true;
    }

    /// As [`Self::write`] for the last stage, where nobody can wait any more.
    fn write_last(&self) {
        if self.decision.wants(Stage::ResponseComplete) {
            self.audit.events.inc();
            if let Err(error) = self.audit.log.queue(self.line(Stage::ResponseComplete)) {
                self.audit.failed(&error.to_string());
            }
        }
    }
}

type Writing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An answer's body whose end is recorded.
struct AuditedBody {
    inner: Body,
    record: Option<Record>,
    writing: Option<Writing>,
}

impl http_body::Body for AuditedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.writing.is_none() {
            if let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                return Poll::Ready(Some(frame));
            }
            let Some(mut record) = self.record.take() else { return Poll::Ready(None) };
            self.writing = Some(Box::pin(async move {
                record.complete().await;
            }));
        }
        if let Some(writing) = &mut self.writing {
            ready!(writing.as_mut().poll(context));
            self.writing = None;
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.record.is_none() && self.writing.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
