//! Sockets to requests: one TLS listener for all clusters, which are told apart by their paths.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

use super::Settings;
use super::answer::{Body, Problem};
use super::cluster::Cluster;
use super::control;
use super::counters::{Connection, Counting};
use super::kubeconfig;
use super::world::World;
use crate::pki::Authority;

/// As many as kube-apiserver allows on a connection.
const STREAMS: u32 = 100;
/// Bytes of an answer that wait to be sent; each open watch may come to hold so many.
const SEND_BUFFER: usize = 128 << 10;
const HANDSHAKE: Duration = Duration::from_secs(20);

/// All clusters behind one listener.
pub struct Members {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    front: Arc<Front>,
}

struct Front {
    authorization: String,
    clusters: Vec<Cluster>,
    counting: Arc<Counting>,
}

impl Members {
    /// Takes the port (0 for a free one), and writes into `folder` the `kubeconfig` with which the clusters are reached.
    ///
    /// # Errors
    /// If the port is taken or a file cannot be written.
    pub async fn open(settings: &Settings, port: u16, folder: &Path) -> Result<Self> {
        let authority = Authority::new("simulated-members")?;
        let serving = authority.server(folder, "simulated-members", &["127.0.0.1", "localhost"])?;
        let chain = CertificateDer::pem_file_iter(&serving.certificate)?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(&serving.key)?;
        let mut tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind(("127.0.0.1", port)).await.with_context(|| format!("port {port}"))?;
        let token = format!("{:032x}", rand::random::<u128>());
        kubeconfig::write(folder, settings.clusters, listener.local_addr()?, &authority.certificate, &token)?;
        let (world, counting, now) = (Arc::new(World::new(settings)?), Arc::new(Counting::new()), Instant::now());
        let clusters = (0..settings.clusters).map(|number| Cluster::new(number, &world, &counting, now)).collect();
        let front = Front { authorization: format!("Bearer {token}"), clusters, counting };
        Ok(Self { listener, acceptor: TlsAcceptor::from(Arc::new(tls)), front: Arc::new(front) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Answers for as long as it is let.
    pub async fn serve(self) {
        loop {
            match self.listener.accept().await {
                Ok((socket, _)) => {
                    tokio::spawn(converse(socket, self.acceptor.clone(), Arc::clone(&self.front)));
                }
                // Out of descriptors, most likely; some come back.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

async fn converse(socket: TcpStream, acceptor: TlsAcceptor, front: Arc<Front>) {
    let _ = socket.set_nodelay(true);
    let Ok(Ok(stream)) = timeout(HANDSHAKE, acceptor.accept(socket)).await else { return };
    let connection = Arc::new(Connection::new(&front.counting));
    let service = service_fn(move |request| {
        let (front, connection) = (Arc::clone(&front), Arc::clone(&connection));
        async move { Ok::<_, Infallible>(front.answer(&connection, &request).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS).max_send_buf_size(SEND_BUFFER);
    // A connection that broke is its client's business.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

impl Front {
    async fn answer(&self, connection: &Connection, request: &Request<Incoming>) -> Response<Body> {
        let shown = request.headers().get(AUTHORIZATION).map(hyper::header::HeaderValue::as_bytes);
        if shown != Some(self.authorization.as_bytes()) {
            return Problem::unauthorized().response();
        }
        let path: Vec<&str> = request.uri().path().split('/').filter(|part| !part.is_empty()).collect();
        let query = request.uri().query().unwrap_or_default();
        match &*path {
            ["control", path @ ..] => control::answer(&self.clusters, &self.counting, request.method(), path, query)
                .unwrap_or_else(|problem| problem.response()),
            ["clusters", number, path @ ..] => {
                let cluster = number.parse().ok().and_then(|number: usize| self.clusters.get(number));
                let Some(cluster) = cluster else { return Problem::no_such_object("clusters", number).response() };
                connection.count();
                self.counting.request(&cluster.second);
                if request.method() != Method::GET {
                    return Problem::method().response();
                }
                cluster.answer(path, query).await
            }
            _ => Problem::no_such_path().response(),
        }
    }
}
