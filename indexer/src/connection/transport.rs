//! The client itself: kube's credentials and trust over a hyper client that negotiates HTTP/2.
//!
//! kube's own client speaks HTTP/1.1 only, which would cost a socket for each watch; its layers for credentials are kept.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Uri};
use hyper::rt::{Read, Write};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{AuthError, Body, ConfigExt};
use kube::{Client, Config};
use tower::{BoxError, Service, ServiceBuilder};
use tower_http::decompression::DecompressionLayer;

use super::ConnectionError;
use crate::member::ApiAccess;

const CONNECT: Duration = Duration::from_secs(10);
/// Pings that notice a connection whose other end is gone without a word.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_ANSWER: Duration = Duration::from_secs(15);
/// The same, of TCP: how often it is tried before a connection is given up.
const KEEPALIVE: (Duration, u32) = (Duration::from_secs(5), 3);
/// What a member may send ahead on one stream, and on all of a connection, so that one that is read slowly does not stall the
/// others. It lies in memory: there may be a thousand members.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// A client for a cluster. A connection that is not used for so long is closed; never, if that is not said.
///
/// Answers come compressed unless the request forbids it or the server is on this machine, where bytes are cheaper than the time
/// to unpack them.
pub(super) fn client(access: &ApiAccess, unused_for: Option<Duration>) -> Result<Client, ConnectionError> {
    let config = &access.config;
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT));
    // What speaks HTTP/1.1 has no pings of its own.
    http.set_keepalive(Some(PING_EVERY));
    http.set_keepalive_interval(Some(KEEPALIVE.0));
    http.set_keepalive_retries(Some(KEEPALIVE.1));
    match config.proxy_url.as_ref().map(|proxy| (proxy, proxy.scheme_str())) {
        None => over(http, config, unused_for),
        Some((proxy, Some("socks5"))) => {
            let socks = SocksV5::new(proxy.clone(), http);
            let socks = match login(proxy) {
                Some((user, password)) => socks.with_auth(user, password),
                None => socks,
            };
            over(socks, config, unused_for)
        }
        Some((proxy, Some("http"))) => over(tunnel(proxy, http, access), config, unused_for),
        Some((proxy, Some("https"))) => {
            let secure = config.rustls_https_connector_with_connector(http).map_err(settings)?;
            over(tunnel(proxy, secure, access), config, unused_for)
        }
        Some((_, scheme)) => Err(ConnectionError::Settings(format!(
            "a proxy with scheme {:?}: use http, https or socks5",
            scheme.unwrap_or_default()
        ))),
    }
}

fn tunnel<C>(proxy: &Uri, connector: C, access: &ApiAccess) -> Tunnel<C> {
    let headers: HeaderMap = access.proxy_headers.iter().cloned().collect();
    let tunnel = Tunnel::new(proxy.clone(), connector).with_headers(headers);
    let basic = login(proxy).map(|(user, password)| format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
    match basic.and_then(|basic| HeaderValue::try_from(basic).ok()) {
        Some(basic) => tunnel.with_auth(basic),
        None => tunnel,
    }
}

/// User and password of a proxy's URL.
fn login(proxy: &Uri) -> Option<(String, String)> {
    let (login, _) = proxy.authority()?.as_str().rsplit_once('@')?;
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let plain = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    Some((plain(user), plain(password)))
}

/// What a credential plugin printed and was called with may be secret; only how it ended is told.
fn credentials_error(error: &kube::Error) -> ConnectionError {
    ConnectionError::Settings(match error {
        kube::Error::Auth(AuthError::AuthExecRun { out, .. }) => {
            format!("the credential plugin ended with {}", out.status)
        }
        kube::Error::Auth(AuthError::AuthExecStart(error)) => format!("the credential plugin cannot be run: {error}"),
        kube::Error::Auth(_) => "the credentials cannot be used".to_owned(),
        other => other.to_string(),
    })
}

fn settings(error: impl std::fmt::Display) -> ConnectionError {
    ConnectionError::Settings(error.to_string())
}

fn over<C>(connector: C, config: &Config, unused_for: Option<Duration>) -> Result<Client, ConnectionError>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + Read + Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError> + Send + Sync + std::error::Error + 'static,
{
    let builder =
        HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config().map_err(settings)?).https_or_http();
    let builder = match &config.tls_server_name {
        Some(name) => {
            let name = name.clone().try_into().map_err(settings)?;
            builder.with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name))
        }
        None => builder,
    };
    let https = builder.enable_http1().enable_http2().wrap_connector(connector);
    let client: hyper_util::client::legacy::Client<_, Body> =
        hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(unused_for)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PING_ANSWER)
            .http2_keep_alive_while_idle(true)
            .build(https);
    let credentials = config.auth_layer().map_err(|error| credentials_error(&error))?;
    let headers = config.extra_headers_layer().map_err(settings)?;
    let layers = ServiceBuilder::new().layer(config.base_uri_layer()).option_layer(credentials).layer(headers);
    let namespace = config.default_namespace.clone();
    Ok(if is_loopback(&config.cluster_url) {
        Client::new(layers.map_err(BoxError::from).service(client), namespace)
    } else {
        let service = layers.layer(DecompressionLayer::new()).map_err(BoxError::from).service(client);
        Client::new(service, namespace)
    })
}

fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
