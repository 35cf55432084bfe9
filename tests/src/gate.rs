//! What people put before a server that has no locks of its own: TLS and credentials on loopback. Behind it, everything is as real
//! as the server is; on demand it refuses, or loses answers, as overloaded proxies do.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, RETRY_AFTER, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::pki::{Authority, Pair};

pub mod signature;

/// Whom the gate lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lock {
    /// Everybody.
    Open,
    /// Who knows this user's password.
    Basic(String, String),
    /// Who has this token.
    Bearer(String),
    /// Who has a certificate of the gate's authority.
    Certificate,
    /// Who signs requests as Amazon's services want it.
    Signature(signature::Keys),
}

/// What the gate does instead of answering; each is done once.
#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    /// It refuses with this status, and asks to be left alone for so many seconds.
    Refuse(u16, Option<u32>),
    /// What was asked is done, and the answer is lost.
    LoseAnswer,
    /// A bulk request of objects is not answered as long as its client waits, whether it is done or not; other requests are.
    HoldBulk {
        /// Whether it is.
        is_done: bool,
    },
}

/// A running gate.
#[derive(Debug)]
pub struct Gate {
    /// Where clients reach it.
    pub url: String,
    /// The authority of its certificate, PEM.
    pub authority: String,
    /// A certificate that opens it.
    pub client: Pair,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    target: String,
    client: reqwest::Client,
    lock: Mutex<Lock>,
    troubles: Mutex<VecDeque<Trouble>>,
    passed: AtomicUsize,
    anonymous: AtomicUsize,
    refused: AtomicUsize,
    held: AtomicUsize,
}

impl Gate {
    /// Opens one before a server, with TLS.
    ///
    /// # Errors
    /// If no port or certificate is to be had.
    pub async fn open(target: &str, folder: &Path, lock: Lock) -> Result<Self> {
        Self::open_as(&["127.0.0.1", "localhost"], target, folder, lock).await
    }

    /// Opens one with TLS whose certificate bears these names.
    ///
    /// # Errors
    /// If no port or certificate is to be had.
    pub async fn open_as(names: &[&str], target: &str, folder: &Path, lock: Lock) -> Result<Self> {
        let authority = Authority::new("gate")?;
        let serving = authority.server(folder, "gate", names)?;
        let client = authority.client(folder, "gate-client", &[])?;
        let acceptor = acceptor(&authority, &serving, lock == Lock::Certificate)?;
        let (listener, state) = (TcpListener::bind(("127.0.0.1", 0)).await?, Arc::new(State::new(target, lock)));
        let url = format!("https://{}", listener.local_addr()?);
        let task = tokio::spawn(accept(listener, Some(acceptor), Arc::clone(&state)));
        Ok(Self { url, authority: authority.certificate, client, state, task })
    }

    /// Opens one without TLS.
    ///
    /// # Errors
    /// If no port is to be had.
    pub async fn open_plain(target: &str, folder: &Path, lock: Lock) -> Result<Self> {
        let authority = Authority::new("gate")?;
        let client = authority.client(folder, "gate-client", &[])?;
        let (listener, state) = (TcpListener::bind(("127.0.0.1", 0)).await?, Arc::new(State::new(target, lock)));
        let url = format!("http://{}", listener.local_addr()?);
        let task = tokio::spawn(accept(listener, None, Arc::clone(&state)));
        Ok(Self { url, authority: authority.certificate, client, state, task })
    }

    /// Changes the lock.
    pub fn change_lock(&self, lock: Lock) {
        *self.state.lock.lock() = lock;
    }

    /// Does these things before it answers again.
    pub fn trouble(&self, troubles: impl IntoIterator<Item = Trouble>) {
        self.state.troubles.lock().extend(troubles);
    }

    /// Requests that were let through so far.
    pub fn passed(&self) -> usize {
        self.state.passed.load(Ordering::Relaxed)
    }

    /// Requests that were held so far.
    pub fn held(&self) -> usize {
        self.state.held.load(Ordering::Relaxed)
    }

    /// Requests that came without credentials so far.
    pub fn anonymous(&self) -> usize {
        self.state.anonymous.load(Ordering::Relaxed)
    }

    /// Requests that came with the wrong credentials so far.
    pub fn refused(&self) -> usize {
        self.state.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn new(target: &str, lock: Lock) -> Self {
        Self {
            target: target.to_owned(),
            client: reqwest::Client::new(),
            lock: Mutex::new(lock),
            troubles: Mutex::default(),
            passed: AtomicUsize::new(0),
            anonymous: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
        }
    }

    fn admits(&self, head: &Parts, body: &[u8]) -> bool {
        let shown = head.headers.get(AUTHORIZATION).map(|value| value.as_bytes().to_vec());
        let wanted = match &*self.lock.lock() {
            // Who has no certificate does not come this far.
            Lock::Open | Lock::Certificate => return true,
            Lock::Basic(user, password) => format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))),
            Lock::Bearer(token) => format!("Bearer {token}"),
            Lock::Signature(keys) => keys.authorization(head, body).unwrap_or_default(),
        };
        match shown {
            None => self.anonymous.fetch_add(1, Ordering::Relaxed),
            Some(shown) if shown == wanted.as_bytes() => return true,
            Some(_) => self.refused.fetch_add(1, Ordering::Relaxed),
        };
        false
    }

    fn next_trouble(&self, head: &Parts) -> Option<Trouble> {
        let is_bulk = head.uri.path().ends_with("-objects/_bulk");
        self.troubles.lock().pop_front_if(|trouble| is_bulk || !matches!(trouble, Trouble::HoldBulk { .. }))
    }

    async fn hold<T>(&self) -> T {
        self.held.fetch_add(1, Ordering::Relaxed);
        std::future::pending().await
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        if !self.admits(&head, &body) {
            return Ok(refusal(StatusCode::UNAUTHORIZED, None));
        }
        let trouble = self.next_trouble(&head);
        if let Some(Trouble::Refuse(status, retry_after)) = trouble {
            return Ok(refusal(StatusCode::from_u16(status)?, retry_after));
        }
        if let Some(Trouble::HoldBulk { is_done: false }) = trouble {
            return self.hold().await;
        }
        let path = head.uri.path_and_query().context("a request without a path")?;
        let mut headers = head.headers;
        for name in [AUTHORIZATION, HOST, CONTENT_LENGTH] {
            headers.remove(name);
        }
        let asked = self.client.request(head.method, format!("{}{path}", self.target)).headers(headers).body(body);
        let answer = asked.send().await?;
        self.passed.fetch_add(1, Ordering::Relaxed);
        let mut response = Response::builder().status(answer.status());
        for (name, value) in answer.headers().iter().filter(|(name, _)| *name != TRANSFER_ENCODING) {
            response = response.header(name, value);
        }
        let body = answer.bytes().await?;
        if let Some(Trouble::HoldBulk { .. }) = trouble {
            return self.hold().await;
        }
        // Without an answer, the connection ends.
        anyhow::ensure!(!matches!(trouble, Some(Trouble::LoseAnswer)), "the answer is lost");
        Ok(response.body(Full::new(body))?)
    }
}

fn refusal(status: StatusCode, retry_after: Option<u32>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"the gate is shut")));
    *response.status_mut() = status;
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn acceptor(authority: &Authority, serving: &Pair, asks: bool) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(&serving.certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&serving.key)?;
    let builder = rustls::ServerConfig::builder();
    let builder = if asks {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.certificate.as_bytes())?)?;
        builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build()?)
    } else {
        builder.with_no_client_auth()
    };
    Ok(TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key)?)))
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, state: Arc<State>) {
    while let Ok((connection, _)) = listener.accept().await {
        let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            match acceptor {
                None => serve(connection, state).await,
                // Who doesn't come through the handshake is not served.
                Some(acceptor) => match acceptor.accept(connection).await {
                    Ok(connection) => serve(connection, state).await,
                    Err(_) => drop(state.anonymous.fetch_add(1, Ordering::Relaxed)),
                },
            }
        });
    }
}

async fn serve(connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<State>) {
    let service = service_fn(|request| {
        let state = Arc::clone(&state);
        async move { state.answer(request).await.map_err(|error| std::io::Error::other(format!("{error:#}"))) }
    });
    let server = hyper::server::conn::http1::Builder::new();
    // A connection that broke is its client's business.
    let _: Result<(), hyper::Error> = server.serve_connection(TokioIo::new(connection), service).await;
}
