//! Answers on their way out: what a refusal looks like, and what faults do to bytes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt, unfold};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::sleep;

use super::counters::Counting;
use super::fault::Fault;
use super::state::State;

/// A body, made while it is read.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What a proxy says that thinks it knows better.
pub(crate) const NONSENSE: &[u8] = b"<!DOCTYPE html>\n<html><body><h1>It works!</h1></body></html>\n";
pub(crate) const JSON: &str = "application/json";
/// A byte each time, when it trickles.
const TRICKLE: Duration = Duration::from_secs(1);
/// What is shorter is no place to break off an answer.
const SHORT: usize = 1000;
/// How long the first half of an answer takes to go out, with room to spare.
const ON_ITS_WAY: Duration = Duration::from_millis(200);

/// Why something is refused, as API servers say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    code: StatusCode,
    reason: &'static str,
    message: String,
}

impl Problem {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
    }

    pub(crate) fn no_such_object(resource: &str, name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", format!("{resource} \"{name}\" not found"))
    }

    pub(crate) fn method() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    pub(crate) fn too_old(version: usize) -> Self {
        Self::expired(format!("too old resource version: {version}"))
    }

    pub(crate) fn too_new(version: usize, present: usize) -> Self {
        let message = format!("Too large resource version: {version}, current: {present}");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
    }

    /// As an object.
    pub(crate) fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code.as_u16(),
        })
    }

    /// As an answer.
    pub(crate) fn response(&self) -> Response<Body> {
        with_type(self.code, JSON, whole(self.status().to_string()))
    }
}

/// A body that is there already.
pub(crate) fn whole(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer of a content type.
pub(crate) fn with_type(code: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A cluster's answer, with what the cluster's faults make of it while it is sent.
pub(crate) fn body(
    content: impl Stream<Item = Bytes> + Send + 'static,
    states: Receiver<State>,
    counting: Arc<Counting>,
) -> Body {
    let began = states.borrow().fault;
    let outgoing =
        Outgoing { content: content.boxed(), states, began, pending: Bytes::new(), sent: false, broken: false };
    let chunks = unfold(outgoing, |mut outgoing| async move { Some((outgoing.next().await?, outgoing)) });
    let frames = chunks.map(move |chunk| {
        chunk.map(|chunk| {
            counting.sent(chunk.len());
            Frame::data(chunk)
        })
    });
    StreamBody::new(frames).boxed_unsync()
}

struct Outgoing {
    content: BoxStream<'static, Bytes>,
    states: Receiver<State>,
    /// The fault under which the answer began.
    began: Fault,
    /// What is still to be sent of the last chunk.
    pending: Bytes,
    /// Whether anything was.
    sent: bool,
    broken: bool,
}

impl Outgoing {
    async fn next(&mut self) -> Option<Result<Bytes, io::Error>> {
        loop {
            if self.broken {
                return None;
            }
            let fault = self.states.borrow_and_update().fault;
            if self.breaks(fault) {
                if self.sent && self.began == Fault::Reset {
                    // What was sent shall arrive: an error overtakes what still waits to go out.
                    sleep(ON_ITS_WAY).await;
                }
                return self.break_off();
            }
            if fault == Fault::Hang {
                self.states.changed().await.ok()?;
                continue;
            }
            if self.pending.is_empty() {
                let resets = fault == Fault::Reset;
                tokio::select! {
                    chunk = self.content.next() => match chunk {
                        None if resets => return self.break_off(),
                        chunk => self.pending = chunk?,
                    },
                    changed = self.states.changed() => changed.ok()?,
                    // A watch in which nothing happens is broken off all the same.
                    () = sleep(ON_ITS_WAY), if resets => return self.break_off(),
                }
                continue;
            }
            return Some(Ok(self.some_of_it(fault).await));
        }
    }

    /// Whether the connection to who answered so far is lost.
    fn breaks(&self, fault: Fault) -> bool {
        let other = |fault| fault == Fault::OtherCluster;
        other(fault) != other(self.began) || (fault == Fault::Reset && (self.sent || self.began != fault))
    }

    fn break_off(&mut self) -> Option<Result<Bytes, io::Error>> {
        self.broken = true;
        Some(Err(io::Error::new(io::ErrorKind::ConnectionReset, "broken off on demand")))
    }

    async fn some_of_it(&mut self, fault: Fault) -> Bytes {
        if fault == Fault::Reset && self.pending.len() < SHORT {
            return std::mem::take(&mut self.pending);
        }
        let length = match fault {
            Fault::Trickle => {
                if self.sent {
                    sleep(TRICKLE).await;
                }
                1
            }
            Fault::Reset => self.pending.len().div_ceil(2),
            _ => self.pending.len(),
        };
        self.sent = true;
        self.pending.split_to(length)
    }
}
