//! A way to a node whose certificate bears another name than its address.
//!
//! OpenSearch's client checks a certificate against the host of the URL that it asks. So it asks the name in the certificate, by
//! way of this proxy, which leads each connection to the node itself. What goes through it is encrypted between the client and
//! the node. It listens on loopback only, and serves who knows its password only.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::PROXY_AUTHORIZATION;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opensearch::http::Url;
use parking_lot::Mutex;
use rand::distr::{Alphanumeric, SampleString};
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncWrite, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Who asks the tunnel.
pub(super) const USER: &str = "tunnel";
/// How long a node may take to be connected to.
const CONNECT: Duration = Duration::from_secs(10);
/// Characters of its password.
const PASSWORD: usize = 32;

/// A running tunnel; dropping it ends it, and with it all that goes through it.
pub(super) struct Tunnel {
    /// Where it listens.
    pub(super) url: Url,
    /// What it is asked with.
    pub(super) password: SecretString,
    way: Arc<Way>,
    _stop: DropGuard,
}

/// Where connections are led, and who may ask for that.
struct Way {
    host: String,
    port: u16,
    authorization: String,
    failure: Mutex<Option<String>>,
}

impl Tunnel {
    /// Opens one that leads to a node, which must be within a runtime.
    ///
    /// # Errors
    /// If no port is to be had.
    pub(super) fn open(node: &Url) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}", listener.local_addr()?).parse().map_err(io::Error::other)?;
        let listener = TcpListener::from_std(listener)?;
        let password = Alphanumeric.sample_string(&mut rand::rng(), PASSWORD);
        let way = Arc::new(Way {
            host: node.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
            port: node.port_or_known_default().unwrap_or(443),
            authorization: format!("Basic {}", STANDARD.encode(format!("{USER}:{password}"))),
            failure: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let accepting = accept(listener, Arc::clone(&way), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(accepting));
        Ok(Self { url, password: password.into(), way, _stop: stop.drop_guard() })
    }

    /// Why the node was not reached the last time; nothing if it was.
    pub(super) fn failure(&self) -> Option<String> {
        self.way.failure.lock().clone()
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tunnel").field("host", &self.way.host).finish_non_exhaustive()
    }
}

async fn accept(listener: TcpListener, way: Arc<Way>, stop: CancellationToken) {
    loop {
        // None left to be had: others end.
        let Ok((connection, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Without it, it is slower only.
        let _ = connection.set_nodelay(true);
        let (way, ending) = (Arc::clone(&way), stop.clone());
        let service = service_fn(move |request| {
            let (way, ending) = (Arc::clone(&way), ending.clone());
            async move { Ok::<_, std::convert::Infallible>(way.answer(request, ending).await) }
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(connection), service).with_upgrades();
        tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
    }
}

impl Way {
    async fn answer(&self, request: Request<Incoming>, stop: CancellationToken) -> Response<Empty<Bytes>> {
        let shown = request.headers().get(PROXY_AUTHORIZATION);
        if shown.is_none_or(|shown| shown.as_bytes() != self.authorization.as_bytes()) {
            return status(StatusCode::PROXY_AUTHENTICATION_REQUIRED);
        }
        if request.method() != Method::CONNECT {
            return status(StatusCode::METHOD_NOT_ALLOWED);
        }
        let connected = self.connect().await;
        *self.failure.lock() = connected.as_ref().err().map(ToString::to_string);
        let Ok(node) = connected else { return status(StatusCode::BAD_GATEWAY) };
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            if let Ok(client) = hyper::upgrade::on(request).await {
                lead(TokioIo::new(client), node).await;
            }
        }));
        status(StatusCode::OK)
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let node = timeout(CONNECT, TcpStream::connect((&*self.host, self.port))).await??;
        node.set_nodelay(true)?;
        Ok(node)
    }
}

/// Carries bytes both ways until one side has no more: neither has anything to say to one that has left.
async fn lead(client: impl AsyncRead + AsyncWrite, node: TcpStream) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_node, mut to_node) = node.into_split();
    tokio::select! {
        _ = copy(&mut from_client, &mut to_node) => {}
        _ = copy(&mut from_node, &mut to_client) => {}
    }
}

fn status(status: StatusCode) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(tunnel: &Tunnel, request: &str) -> (TcpStream, String) {
        let mut client = TcpStream::connect(tunnel.url.socket_addrs(|| None).unwrap()[0]).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 1024];
        let read = client.read(&mut answer).await.unwrap();
        (client, String::from_utf8_lossy(&answer[..read]).into_owned())
    }

    fn connect(tunnel: &Tunnel, name: &str) -> String {
        let login = STANDARD.encode(format!("{USER}:{}", tunnel.password.expose_secret()));
        format!("CONNECT {name} HTTP/1.1\r\nHost: {name}\r\nProxy-Authorization: Basic {login}\r\n\r\n")
    }

    #[tokio::test]
    async fn it_leads_to_its_node_whatever_name_is_asked_for() {
        let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tunnel = Tunnel::open(&format!("https://{}", node.local_addr().unwrap()).parse().unwrap()).unwrap();
        let (mut client, answer) = ask(&tunnel, &connect(&tunnel, "search.example:9200")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let (mut there, _) = node.accept().await.unwrap();
        client.write_all(b"question").await.unwrap();
        let mut question = [0; 8];
        there.read_exact(&mut question).await.unwrap();
        there.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!((&question, &answer), (b"question", b"answer"));
        drop(tunnel);
        assert_eq!(there.read(&mut question).await.unwrap(), 0, "what goes through it ends with it");
    }

    #[tokio::test]
    async fn who_does_not_know_its_password_or_asks_something_else_is_refused() {
        let tunnel = Tunnel::open(&"https://127.0.0.1:1".parse().unwrap()).unwrap();
        let (_, answer) = ask(&tunnel, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 407"), "{answer}");
        let (_, answer) = ask(&tunnel, &connect(&tunnel, "a:1").replace("CONNECT a:1", "GET http://a:1/")).await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
        assert_eq!(tunnel.failure(), None);
        let (_, answer) = ask(&tunnel, &connect(&tunnel, "a:1")).await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        assert!(tunnel.failure().unwrap().contains("refused"), "{:?}", tunnel.failure());
    }
}
