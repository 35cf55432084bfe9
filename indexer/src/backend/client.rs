//! Requests to the nodes of one OpenSearch cluster.
//!
//! In: a [`Target`]. Each request goes to the next node that is not known to be away; where one gives no answer, the next is
//! tried at once. All requests may be repeated. Credentials are sent with each of them and shown nowhere.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_credential_types::Credentials as AwsCredentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_types::region::Region;
use bytes::Bytes;
use opensearch::auth::{ClientCertificate, Credentials};
use opensearch::cert::{Certificate, CertificateValidation};
use opensearch::http::headers::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use opensearch::http::response::Response;
use opensearch::http::transport::{SingleNodeConnectionPool, Transport, TransportBuilder};
use opensearch::http::{Method, Url};
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::BackendError;
use super::target::{Login, Target};
use super::tunnel::{self, Tunnel};

/// How long a node that gave no answer is asked only if no other is left, at first and at most.
const AWAY: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(600));
/// How long an answer may take; a bulk's too.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a refusal that are shown.
const LONGEST_REASON: usize = 500;

/// An OpenSearch cluster, by its nodes.
pub(super) struct Client {
    nodes: Vec<Node>,
    next: AtomicUsize,
}

struct Node {
    name: String,
    /// What is asked: its address, but for the name that its certificate bears.
    url: Url,
    transport: Transport,
    tunnel: Option<Tunnel>,
    away: Mutex<Option<Away>>,
}

/// Since it gave no answer.
struct Away {
    until: Instant,
    next: Duration,
}

/// What is asked.
#[derive(Debug)]
pub(super) struct Request<'a> {
    method: Method,
    path: &'a str,
    parameters: &'a [(&'a str, &'a str)],
    headers: HeaderMap,
    body: Option<Bytes>,
}

impl<'a> Request<'a> {
    pub(super) fn new(method: Method, path: &'a str) -> Self {
        Self { method, path, parameters: &[], headers: HeaderMap::new(), body: None }
    }

    pub(super) fn with(mut self, parameters: &'a [(&'a str, &'a str)]) -> Self {
        self.parameters = parameters;
        self
    }

    pub(super) fn json(mut self, body: &Value) -> Self {
        self.body = Some(Bytes::from(body.to_string()));
        self
    }

    /// Lines of JSON, compressed with gzip.
    pub(super) fn zipped_lines(mut self, body: Bytes) -> Self {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        self.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        self.body = Some(body);
        self
    }

    fn text(&self) -> String {
        format!("{} /{}", format!("{:?}", self.method).to_uppercase(), self.path)
    }
}

/// How OpenSearch writes errors; some proxies before it write a text instead.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ErrorBody {
    Structured { error: ErrorCause },
    Text { error: String },
}

#[derive(Debug, Deserialize)]
pub(super) struct ErrorCause {
    #[serde(default, rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) reason: Option<String>,
    #[serde(default)]
    pub(super) caused_by: Option<Box<ErrorCause>>,
}

impl ErrorCause {
    /// Whether it is the content of a document that is refused, and would be for ever.
    pub(super) fn is_about_document(&self) -> bool {
        const KINDS: [&str; 9] = [
            "mapper_parsing_exception",
            "document_parsing_exception",
            "strict_dynamic_mapping_exception",
            "json_parse_exception",
            "x_content_parse_exception",
            "parse_exception",
            "parsing_exception",
            "input_coercion_exception",
            "max_bytes_length_exceeded_exception",
        ];
        let is_argument = self.kind == "illegal_argument_exception"
            && self.reason.as_deref().is_some_and(|reason| !reason.contains("alias"));
        is_argument || KINDS.contains(&&*self.kind)
    }

    /// What it says, down to the first cause.
    pub(super) fn text(&self) -> String {
        let own = match &self.reason {
            Some(reason) => format!("{}: {reason}", self.kind),
            None => self.kind.clone(),
        };
        match &self.caused_by {
            Some(cause) => format!("{own}; {}", cause.text()),
            None => own,
        }
    }
}

impl Client {
    /// A client for a target; nothing is asked yet.
    pub(super) fn new(target: &Target) -> Result<Self, BackendError> {
        let nodes = target.nodes.iter().map(|url| Node::new(target, url));
        Ok(Self { nodes: nodes.collect::<Result<_, _>>()?, next: AtomicUsize::new(0) })
    }

    /// Asks, and reads the answer.
    pub(super) async fn ask<T: DeserializeOwned>(&self, request: Request<'_>) -> Result<T, BackendError> {
        let text = request.text();
        let (node, answer) = self.send(request).await?;
        read(node, text, &answer)
    }

    /// Asks one node only, for what may not be repeated.
    pub(super) async fn ask_once<T: DeserializeOwned>(&self, request: Request<'_>) -> Result<T, BackendError> {
        let Some(node) = self.in_order().into_iter().next() else { return self.ask(request).await };
        let unreachable = |error| BackendError::Unreachable { node: node.name.clone(), error };
        let response = node.ask(&request).await.map_err(unreachable)?;
        let answer = node.read(&request, response).await?;
        read(&node.name, request.text(), &answer)
    }

    /// Asks; the answer is there where it is a success.
    async fn send(&self, request: Request<'_>) -> Result<(&str, Bytes), BackendError> {
        let mut failure = None;
        for node in self.in_order() {
            match node.ask(&request).await {
                Ok(response) => return node.read(&request, response).await.map(|answer| (&*node.name, answer)),
                Err(error) => failure = Some(BackendError::Unreachable { node: node.name.clone(), error }),
            }
        }
        Err(failure.unwrap_or_else(|| BackendError::Unsuitable("no node is known".to_owned())))
    }

    /// The nodes, beginning with the one whose turn it is; those that gave no answer last.
    fn in_order(&self) -> Vec<&Node> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut nodes: Vec<&Node> =
            (0..self.nodes.len()).map(|step| &self.nodes[(first.wrapping_add(step)) % self.nodes.len()]).collect();
        nodes.sort_by_key(|node| node.away.lock().as_ref().is_some_and(|away| away.until > now));
        nodes
    }
}

impl Node {
    fn new(target: &Target, address: &Url) -> Result<Self, BackendError> {
        let (mut url, mut tunnel) = (address.clone(), None);
        if let Some(name) = target.server_name.as_deref().filter(|_| address.scheme() == "https") {
            let bad = |error: String| BackendError::Unsuitable(format!("{name} can't be asked for: {error}"));
            url.set_host(Some(name)).map_err(|error| bad(error.to_string()))?;
            tunnel = Some(Tunnel::open(address).map_err(|error| bad(error.to_string()))?);
        }
        let transport = transport(target, &url, tunnel.as_ref())?;
        Ok(Self { name: address.to_string(), url, transport, tunnel, away: Mutex::default() })
    }

    /// Asks it, and remembers whether it answers.
    async fn ask(&self, request: &Request<'_>) -> Result<Response, String> {
        let answered = self.send(request).await;
        let mut away = self.away.lock();
        if answered.is_ok() {
            *away = None;
        } else {
            // What is asked at the same time fails for the same reason.
            let is_known = away.as_ref().is_some_and(|away| away.until > Instant::now());
            if !is_known {
                let pause = away.as_ref().map_or(AWAY.0, |away| away.next);
                *away = Some(Away { until: Instant::now() + pause, next: (pause * 2).min(AWAY.1) });
            }
        }
        answered
    }

    async fn send(&self, request: &Request<'_>) -> Result<Response, String> {
        let (headers, parameters) = (request.headers.clone(), Some(request.parameters));
        let sending = self.transport.send(
            request.method,
            request.path,
            headers,
            parameters,
            request.body.clone(),
            Some(PATIENCE),
        );
        sending.await.map_err(|error| match self.tunnel.as_ref().and_then(Tunnel::failure) {
            Some(failure) => failure,
            None => with_causes(&error),
        })
    }

    async fn read(&self, request: &Request<'_>, response: Response) -> Result<Bytes, BackendError> {
        let status = response.status_code();
        if response.url().origin() != self.url.origin() {
            // Nobody asked that server, and what it is told would not be checked.
            let elsewhere = response.url().origin().ascii_serialization();
            return Err(BackendError::Unsuitable(format!(
                "{} sends us on to {elsewhere}: name that instead",
                self.name
            )));
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| pause_of(value.to_str().ok()?));
        let unreadable = |error| BackendError::Unreachable { node: self.name.clone(), error: with_causes(&error) };
        let body = response.bytes().await.map_err(unreadable)?;
        if status.is_success() {
            return Ok(body);
        }
        Err(BackendError::Refused {
            node: self.name.clone(),
            request: request.text(),
            status: status.as_u16(),
            reason: reason(&body),
            retry_after,
        })
    }
}

fn read<T: DeserializeOwned>(node: &str, request: String, answer: &[u8]) -> Result<T, BackendError> {
    serde_json::from_slice(answer).map_err(|error| BackendError::Malformed {
        node: node.to_owned(),
        request,
        error: error.to_string(),
    })
}

/// How long `Retry-After` asks for: seconds, or a date.
fn pause_of(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    // One that has passed asks for nothing more.
    Some(Duration::try_from(date.duration_since(jiff::Timestamp::now())).unwrap_or_default())
}

fn reason(body: &[u8]) -> String {
    let mut reason = match serde_json::from_slice(body) {
        Ok(ErrorBody::Structured { error }) => error.text(),
        Ok(ErrorBody::Text { error }) => error,
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    if let Some((end, _)) = reason.char_indices().nth(LONGEST_REASON) {
        reason.truncate(end);
        reason.push('…');
    }
    if reason.is_empty() { "it says no reason".to_owned() } else { reason }
}

/// An error with all that led to it: what a connection fails of stands at the end of the chain.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let further = error.to_string();
        if !text.contains(&further) {
            text = format!("{text}: {further}");
        }
        cause = error.source();
    }
    text
}

fn transport(target: &Target, url: &Url, tunnel: Option<&Tunnel>) -> Result<Transport, BackendError> {
    let mut builder = TransportBuilder::new(SingleNodeConnectionPool::new(url.clone()));
    if let Some(tunnel) = tunnel {
        builder = builder.proxy(tunnel.url.clone(), Some(tunnel::USER), Some(tunnel.password.expose_secret()));
    }
    if let Some(pem) = &target.authority {
        let bad = |error| BackendError::Unsuitable(format!("ca.crt is no certificate: {}", with_causes(&error)));
        let authority = Certificate::from_pem(pem).map_err(bad)?;
        builder = builder.cert_validation(CertificateValidation::Full(authority));
    }
    builder = match &target.login {
        Login::Anonymous => builder,
        Login::Basic(user, password) => {
            builder.auth(Credentials::Basic(user.clone(), password.expose_secret().to_owned()))
        }
        Login::Bearer(token) => builder.auth(Credentials::Bearer(token.expose_secret().to_owned())),
        Login::Certificate(pem) => builder.auth(ClientCertificate::Pem(pem.expose_secret().as_bytes().to_vec()).into()),
        Login::Aws(login) => {
            let session = login.session.as_ref().map(|token| token.expose_secret().to_owned());
            let key = login.key.expose_secret().to_owned();
            let credentials = AwsCredentials::new(login.key_id.clone(), key, session, None, "Secret");
            let provider = SharedCredentialsProvider::new(credentials);
            let region = Region::new(login.region.clone());
            builder.auth(Credentials::AwsSigV4(provider, region)).service_name(&login.service)
        }
    };
    let bad = |error| BackendError::Unsuitable(format!("the connection can't be set up: {}", with_causes(&error)));
    builder.build().map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_asks_to_be_left_alone_for_seconds_or_until_a_date() {
        assert_eq!(pause_of("20"), Some(Duration::from_secs(20)));
        assert_eq!(pause_of("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let later = pause_of("Sat, 01 Jan 2101 00:00:00 GMT").unwrap();
        assert!(later > Duration::from_secs(3600));
        assert_eq!(pause_of("soon"), None);
    }
}
