//! The accept loop: sockets in, HTTP requests out, and nobody's bad behaviour becomes anybody else's problem.
//!
//! In: a bound listener, a TLS configuration, an [`axum::Router`]. Each connection has its own task, handshake
//! included. Out: the router called with a [`Peer`] in the request's extensions. A client that is slow to shake hands,
//! to send its first byte or a request's head, or that stops reading, is cut after a deadline of its own.
//!
//! `axum::serve` is not used because it shakes hands one connection at a time and cannot hand over the certificates.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::authn::PeerIdentity;
use crate::body::cuttable;

/// Deadlines and sizes of connections.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// For the TLS handshake.
    pub handshake_timeout: Duration,
    /// For the head of an HTTP/1.1 request, which is also how long an idle HTTP/1.1 connection is kept; and for the
    /// first byte on any connection.
    pub header_read_timeout: Duration,
    /// How long a write, or one stream of an HTTP/2 connection, may wait for a client that does not read.
    pub write_stall_timeout: Duration,
    /// Requests at once on one HTTP/2 connection; high, because a control plane sends all callers over few connections.
    pub max_concurrent_streams: u32,
    /// How long to wait for requests that are under way when told to stop.
    pub drain_timeout: Duration,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            header_read_timeout: Duration::from_secs(30),
            write_stall_timeout: Duration::from_secs(30),
            max_concurrent_streams: 2000,
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// The other end of a connection; in the extensions of each request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The certificates it proved to hold the key of, leaf first; empty if it showed none.
    pub certificates: Arc<[CertificateDer<'static>]>,
    /// Whom the certificates make it, remembered between the requests of one connection.
    pub(crate) identity: Arc<PeerIdentity>,
}

impl Peer {
    /// For a connection that was just made.
    pub fn new(address: SocketAddr, certificates: Vec<CertificateDer<'static>>) -> Self {
        Self { address, certificates: certificates.into(), identity: Arc::new(PeerIdentity::default()) }
    }
}

/// Serves until `stop` is cancelled, then lets requests finish, but not for longer than the settings say.
///
/// # Errors
/// Never for what a client did; only if the listener itself is unusable.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    app: Router,
    settings: ServeSettings,
    stop: CancellationToken,
) -> io::Result<()> {
    let server = Arc::new(Server {
        acceptor: TlsAcceptor::from(tls),
        app,
        settings,
        drain: stop,
        kill: CancellationToken::new(),
    });
    let connections = TaskTracker::new();
    while let Some(accepted) = server.drain.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((socket, address)) => {
                connections.spawn(Arc::clone(&server).connection(socket, address));
            }
            // Out of file descriptors, or the client was gone before we looked. Neither ends the server.
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(server.settings.drain_timeout, connections.wait()).await.is_err() {
        tracing::info!(connections = connections.len(), "cutting connections that did not finish in time");
        server.kill.cancel();
        connections.wait().await;
    }
    Ok(())
}

struct Server {
    acceptor: TlsAcceptor,
    app: Router,
    settings: ServeSettings,
    drain: CancellationToken,
    kill: CancellationToken,
}

impl Server {
    async fn connection(self: Arc<Self>, socket: TcpStream, address: SocketAddr) {
        prepare(&socket);
        let handshake = tokio::time::timeout(self.settings.handshake_timeout, self.acceptor.accept(socket));
        let stream = match self.drain.run_until_cancelled(handshake).await {
            Some(Ok(Ok(stream))) => stream,
            Some(Ok(Err(error))) => return tracing::debug!(%address, %error, "TLS handshake failed"),
            Some(Err(_)) => return tracing::debug!(%address, "TLS handshake took too long"),
            None => return,
        };
        let outcome = self.kill.run_until_cancelled(self.http(stream, address)).await;
        if let Some(Err(error)) = outcome {
            tracing::debug!(%address, %error, "connection ended early");
        }
    }

    async fn http(&self, stream: TlsStream<TcpStream>, address: SocketAddr) -> Result<(), axum::BoxError> {
        let session = stream.get_ref().1;
        let certificates = session.peer_certificates().unwrap_or_default().to_vec();
        let http2 = session.alpn_protocol() == Some(b"h2");
        let peer = Peer::new(address, certificates);
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer.clone());
            self.app.clone().oneshot(request)
        });
        let io =
            TokioIo::new(Guarded::new(stream, self.settings.header_read_timeout, self.settings.write_stall_timeout));
        let builder = self.builder(http2);
        let mut connection = std::pin::pin!(builder.serve_connection_with_upgrades(io, service));
        tokio::select! {
            outcome = connection.as_mut() => return outcome,
            () = self.drain.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }

    fn builder(&self, http2: bool) -> auto::Builder<Streams> {
        // The version was agreed on in the handshake. To guess it from the first bytes would wait for them for ever.
        let builder = auto::Builder::new(Streams { stall: self.settings.write_stall_timeout });
        let mut builder = if http2 { builder.http2_only() } else { builder.http1_only() };
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.settings.header_read_timeout)
            .max_buf_size(64 * 1024);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.settings.max_concurrent_streams)
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(4 * 1024 * 1024)
            .max_send_buf_size(256 * 1024)
            .max_header_list_size(64 * 1024)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        builder
    }
}

/// Runs each HTTP/2 stream in a task of its own, which its body may end.
#[derive(Debug, Clone)]
struct Streams {
    stall: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        tokio::spawn(cuttable(stream, self.stall));
    }
}

/// Small answers leave at once, and a peer that vanished without a word is noticed within two minutes.
fn prepare(socket: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
    let outcome = socket.set_nodelay(true).and_then(|()| SockRef::from(socket).set_tcp_keepalive(&keepalive));
    if let Err(error) = outcome {
        tracing::debug!(%error, "socket options not set");
    }
}

/// A stream that fails once a write has been waiting for too long, or if no first byte ever comes.
struct Guarded<S> {
    inner: S,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    first_byte: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    fn new(inner: S, first_byte: Duration, stall: Duration) -> Self {
        Self { inner, stall, stalled: None, first_byte: Some(Box::pin(tokio::time::sleep(first_byte))) }
    }

    /// Passes a finished write on; lets an unfinished one wait, but not for ever.
    fn limit<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let deadline = Instant::now() + self.stall;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client stopped reading")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_read(context, buffer);
        if outcome.is_ready() {
            self.first_byte = None;
        } else if let Some(timer) = &mut self.first_byte {
            ready!(timer.as_mut().poll(context));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client sent nothing")));
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.limit(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.limit(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(context);
        self.limit(context, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_shutdown(context);
        self.limit(context, outcome)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_reading_is_cut_after_the_deadline() {
        let (near, _far) = tokio::io::duplex(16);
        let mut near = Guarded::new(near, Duration::from_secs(30), Duration::from_secs(30));
        let began = Instant::now();
        let error = near.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_but_steadily_is_not_cut() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = Guarded::new(near, Duration::from_secs(30), Duration::from_secs(30));
        let reader = tokio::spawn(async move {
            let mut total = 0;
            while total < 160 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                total += far.read(&mut [0; 16]).await.unwrap();
            }
        });
        near.write_all(&[0; 160]).await.unwrap();
        reader.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_sends_a_byte_is_cut() {
        let (near, _far) = tokio::io::duplex(16);
        let mut near = Guarded::new(near, Duration::from_secs(30), Duration::from_secs(30));
        let error = near.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
