//! A whole server on a port of its own, certificates for all kinds of callers, a control plane that answers reviews,
//! and clients that speak real TLS. The control plane is a stand-in only for failures on demand; suites on real API
//! servers are elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::authn::{Authenticator, FrontProxySettings, TokenReviewer, TrustSources, TrustStore};
use crate::authz::{AnswerTtl, Authorizer, HEALTH_PATHS};
use crate::encode::{Accepted, stream, watch, watch_event};
use crate::health::Health;
use crate::layers::{Compressible, Limits};
use crate::metrics::Metrics;
use crate::request::{Caller, RequestInfo};
use crate::router::{RouterParts, SearchRoutes, router};
use crate::serve::{ServeSettings, serve};
use crate::tls::{MinVersion, ServingCertificates, TlsPolicy, server_config};

pub(super) const REGISTRIES: &str = "/apis/search.karmada.io/v1alpha1/resourceregistries";
pub(super) const WHO: &str = "/apis/search.karmada.io/v1alpha1/search/who/am/i";

/// Signs certificates.
pub(super) struct Authority {
    pub(super) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

pub(super) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(parameters, key) }
    }

    pub(super) fn sign(&self, name: &str, groups: &[&str], usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, name);
        for group in groups {
            parameters.distinguished_name.push(DnType::OrganizationName, *group);
        }
        parameters.extended_key_usages = vec![usage];
        (parameters.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A client certificate.
    pub(super) fn client(&self, name: &str, groups: &[&str]) -> Identity {
        identity(&self.sign(name, groups, ExtendedKeyUsagePurpose::ClientAuth))
    }
}

pub(super) fn identity((certificate, key): &(String, String)) -> Identity {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    (vec![certificate], PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
}

/// A control plane that knows one token, and lets everybody but `nobody` and strangers do everything.
pub(super) struct ControlPlane {
    pub(super) url: String,
    pub(super) down: AtomicBool,
    pub(super) token_reviews: AtomicUsize,
    pub(super) access_reviews: AtomicUsize,
    config: parking_lot::Mutex<Option<Value>>,
}

impl ControlPlane {
    async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plane = Arc::new(Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            down: AtomicBool::new(false),
            token_reviews: AtomicUsize::new(0),
            access_reviews: AtomicUsize::new(0),
            config: parking_lot::Mutex::new(None),
        });
        let app = Router::new()
            .route("/apis/authentication.k8s.io/v1/tokenreviews", post(token_review))
            .route("/apis/authorization.k8s.io/v1/subjectaccessreviews", post(access_review))
            .route("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication", get(config_map))
            .with_state(Arc::clone(&plane));
        tokio::spawn(async move { axum::serve(listener, app).await });
        plane
    }

    pub(super) fn client(&self) -> kube::Client {
        kube::Client::try_from(kube::Config::new(self.url.parse().unwrap())).unwrap()
    }

    pub(super) fn publish(&self, data: &Value) {
        *self.config.lock() = Some(json!({
            "kind": "ConfigMap", "apiVersion": "v1", "data": data,
            "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        }));
    }
}

async fn token_review(State(plane): State<Arc<ControlPlane>>, Json(mut review): Json<Value>) -> Response {
    plane.token_reviews.fetch_add(1, Ordering::Relaxed);
    if plane.down.load(Ordering::Relaxed) {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    review["status"] = match review["spec"]["token"].as_str() {
        Some("good") => json!({"authenticated": true, "user": {"username": "alice", "uid": "7", "groups": ["team"]}}),
        _ => json!({"authenticated": false, "error": "invalid bearer token"}),
    };
    (StatusCode::CREATED, Json(review)).into_response()
}

async fn access_review(State(plane): State<Arc<ControlPlane>>, Json(mut review): Json<Value>) -> Response {
    plane.access_reviews.fetch_add(1, Ordering::Relaxed);
    if plane.down.load(Ordering::Relaxed) {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let spec = &review["spec"];
    let stranger = matches!(spec["user"].as_str(), None | Some("nobody" | "system:anonymous"));
    let impersonates = spec["resourceAttributes"]["verb"] == "impersonate";
    review["status"] = json!({"allowed": !stranger && (!impersonates || spec["user"] == "alice")});
    (StatusCode::CREATED, Json(review)).into_response()
}

async fn config_map(State(plane): State<Arc<ControlPlane>>) -> Response {
    match plane.config.lock().clone() {
        Some(config) if !plane.down.load(Ordering::Relaxed) => Json(config).into_response(),
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// How a [`World`] differs from the usual.
#[derive(Default)]
pub(super) struct Options {
    pub(super) limits: Limits,
    pub(super) settings: ServeSettings,
    pub(super) min_version: MinVersion,
    /// Read who is trusted from the control plane instead of from files.
    pub(super) look_up: bool,
}

/// A running server with its surroundings.
pub(super) struct World {
    pub(super) address: SocketAddr,
    pub(super) control_plane: Arc<ControlPlane>,
    pub(super) clients: Authority,
    pub(super) proxies: Authority,
    pub(super) serving: Authority,
    pub(super) folder: tempfile::TempDir,
    pub(super) certificates: Arc<ServingCertificates>,
    pub(super) trust: Arc<TrustStore>,
    pub(super) stop: CancellationToken,
    pub(super) server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    pub(super) async fn usual() -> Self {
        Self::start(Options::default()).await
    }

    pub(super) async fn start(options: Options) -> Self {
        let (clients, proxies, serving) = (Authority::new("clients"), Authority::new("proxies"), Authority::new("us"));
        let control_plane = ControlPlane::start().await;
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (certificate, key) = serving.sign("first", &[], ExtendedKeyUsagePurpose::ServerAuth);
        let files =
            crate::tls::CertificateFiles { certificate: file("tls.crt", &certificate), key: file("tls.key", &key) };
        let certificates = ServingCertificates::from_files(files, Vec::new()).unwrap();
        let settings = FrontProxySettings {
            allowed_names: vec!["front-proxy-client".to_owned()],
            ..FrontProxySettings::default()
        };
        let sources = TrustSources {
            client_ca: Some(file("clients.crt", &clients.pem)),
            front_proxy: Some((file("proxies.crt", &proxies.pem), settings)),
        };
        let sources = if options.look_up { TrustSources::default() } else { sources };
        let trust = TrustStore::new(sources, options.look_up).unwrap();
        let app = router(parts(&control_plane, &trust, options.limits));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let tls = server_config(
            Arc::clone(&certificates),
            &TlsPolicy { min_version: options.min_version, ..TlsPolicy::default() },
        )
        .unwrap();
        let server = tokio::spawn(serve(listener, tls, app, options.settings, stop.clone()));
        Self { address, control_plane, clients, proxies, serving, folder, certificates, trust, stop, server }
    }

    /// A client that shows this certificate, over HTTP/2.
    pub(super) async fn client(&self, identity: Option<Identity>) -> Client {
        Client::connect(self, identity, true).await
    }
}

fn parts(control_plane: &ControlPlane, trust: &Arc<TrustStore>, limits: Limits) -> RouterParts {
    let ttl = Duration::from_secs(10);
    let open = HEALTH_PATHS.map(str::to_owned).to_vec();
    let tokens = TokenReviewer::new(control_plane.client(), ttl);
    RouterParts {
        authenticator: Arc::new(Authenticator::new(Arc::clone(trust), Some(tokens))),
        authorizer: Arc::new(Authorizer::new(Some(control_plane.client()), AnswerTtl::default(), open)),
        health: Health::new(),
        metrics: Arc::new(Metrics::new()),
        registries: Router::new()
            .route(REGISTRIES, get(|| async { "[]" }).post(|body: Bytes| async move { body.len().to_string() }))
            .route(&format!("{REGISTRIES}/{{name}}"), get(misbehave)),
        search: Some(SearchRoutes {
            router: Router::new().route("/apis/search.karmada.io/v1alpha1/search/{*path}", get(search)),
            is_long_running: |_, query| query.is_some_and(|query| query.contains("watch")),
        }),
        limits,
        audit: None,
        draining: crate::layers::Draining::default(),
        server_address: ":443".to_owned(),
    }
}

async fn misbehave(axum::extract::Path(name): axum::extract::Path<String>) -> Response {
    match name.as_str() {
        "panic" => panic!("as told"),
        "slow" => tokio::time::sleep(Duration::from_millis(400)).await,
        "never" => std::future::pending().await,
        "big" => return Body::from("x".repeat(1024 * 1024)).into_response(),
        _ => {}
    }
    StatusCode::OK.into_response()
}

async fn search(
    uri: http::Uri,
    axum::extract::Path(path): axum::extract::Path<String>,
    Extension(caller): Extension<Caller>,
    Extension(info): Extension<RequestInfo>,
    headers: http::HeaderMap,
) -> Response {
    match path.as_str() {
        "cache/api/v1/ticks" => {
            let ticks = tokio_stream::wrappers::IntervalStream::new(tokio::time::interval(Duration::from_millis(30)));
            watch(Accepted::default(), ticks.map(|_| watch_event("ADDED", &json!({"padding": "x".repeat(64)}))))
        }
        "long" => {
            let chunks = futures::stream::iter((0..512).map(|_| Ok::<_, axum::Error>(Bytes::from(vec![b'x'; 1024]))));
            let mut response = stream("application/json", chunks);
            response.extensions_mut().insert(Compressible);
            response
        }
        "endless" => {
            let chunks = futures::stream::repeat_with(|| Ok::<_, axum::Error>(Bytes::from(vec![b'x'; 64 * 1024])));
            stream("application/json", chunks)
        }
        _ => Json(json!({
            "uri": uri.to_string(), "path": path, "user": caller.username, "uid": caller.uid, "groups": caller.groups,
            "extra": caller.extra, "verb": info.verb, "name": info.name,
            "secrets": headers.keys().filter(|name| {
                name.as_str().starts_with("x-remote") || name.as_str().starts_with("impersonate") || *name == "authorization"
            }).map(ToString::to_string).collect::<Vec<_>>(),
        }))
        .into_response(),
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

/// One connection.
pub(super) struct Client {
    sender: Sender,
    /// Common name of the certificate that the server showed.
    pub(super) server_name: String,
}

impl Client {
    pub(super) async fn connect(world: &World, identity: Option<Identity>, http2: bool) -> Self {
        let stream = shake_hands(world, identity, http2).await.unwrap();
        let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        let (_, certificate) = x509_parser::parse_x509_certificate(&leaf).unwrap();
        let server_name = certificate.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned();
        let io = TokioIo::new(stream);
        let sender = if http2 {
            let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            Sender::Http1(sender)
        };
        Self { sender, server_name }
    }

    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => sender.send_request(request).await,
        }
    }

    /// Sends without waiting; HTTP/2 only.
    pub(super) fn send_later(&self, request: Request<Full<Bytes>>) -> impl Future<Output = u16> + use<> {
        let Sender::Http2(sender) = &self.sender else { panic!("only HTTP/2 carries several requests") };
        let mut sender = sender.clone();
        async move { sender.send_request(request).await.unwrap().status().as_u16() }
    }

    pub(super) async fn ask(&mut self, request: Request<Full<Bytes>>) -> Answer {
        let (parts, body) = self.send(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub(super) async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask(request("GET", path, headers, "")).await
    }
}

pub(super) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Request<Full<Bytes>> {
    let mut builder =
        Request::builder().method(method).uri(format!("https://localhost{path}")).header("host", "localhost");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Full::from(body.to_owned())).unwrap()
}

/// TLS to the server of `world`; the protocol is offered as HTTP/2 or not.
pub(super) async fn shake_hands(
    world: &World,
    identity: Option<Identity>,
    http2: bool,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(world.serving.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = if http2 { vec![b"h2".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    let socket = TcpStream::connect(world.address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), socket).await
}
