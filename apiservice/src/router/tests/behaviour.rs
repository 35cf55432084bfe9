//! What callers are told, and that nobody's bad behaviour hurts another.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use rstest::rstest;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::world::{Client, Options, REGISTRIES, WHO, World, request, shake_hands};
use crate::layers::Limits;
use crate::serve::ServeSettings;
use crate::tls::MinVersion;

const TICKS: &str = "/apis/search.karmada.io/v1alpha1/search/cache/api/v1/ticks?watch=1";

async fn admin(world: &World) -> Client {
    world.client(Some(world.clients.client("admin", &["system:masters"]))).await
}

#[rstest]
#[case("GET", "/nothing/here", 404, "the server could not find the requested resource", "NotFound")]
#[case(
    "GET",
    "/apis/search.karmada.io/v1alpha1/proxying/karmada/proxy/api/v1/pods",
    404,
    "the server could not find the requested resource",
    "NotFound"
)]
#[case(
    "GET",
    "/apis/search.karmada.io/v1alpha1/resourceregistries/a/b/c",
    404,
    "the server could not find the requested resource",
    "NotFound"
)]
#[case(
    "DELETE",
    "/apis/search.karmada.io/v1alpha1/search/cache/api/v1/pods",
    405,
    "the server does not allow this method on the requested resource",
    "MethodNotAllowed"
)]
#[case("POST", "/version", 405, "the server does not allow this method on the requested resource", "MethodNotAllowed")]
#[tokio::test]
async fn what_is_not_served_is_said_as_recorded(
    #[case] method: &str,
    #[case] path: &str,
    #[case] code: u16,
    #[case] message: &str,
    #[case] reason: &str,
) {
    let world = World::usual().await;
    let answer = admin(&world).await.ask(request(method, path, &[], "")).await;
    assert_eq!(
        answer.json(),
        json!({"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":message,"reason":reason,"details":{},"code":code})
    );
    assert_eq!(answer.status, code);
}

#[tokio::test]
async fn every_answer_can_be_found_in_the_log() {
    let world = World::usual().await;
    let mut client = admin(&world).await;
    let answer = client.get(WHO, &[("audit-id", "0b5fa9f1-1c5e")]).await;
    assert_eq!((answer.header("audit-id"), answer.header("cache-control")), ("0b5fa9f1-1c5e", "no-cache, private"));
    assert_eq!(client.get(WHO, &[("audit-id", "forged\tline")]).await.header("audit-id").len(), 36);
    assert_eq!(world.client(None).await.get("/livez", &[]).await.header("audit-id").len(), 36);
}

#[rstest]
#[tokio::test]
async fn a_panic_costs_one_request_only(#[values(false, true)] http2: bool) {
    let world = World::usual().await;
    let identity = world.clients.client("admin", &["system:masters"]);
    let mut client = Client::connect(&world, Some(identity), http2).await;
    let answer = client.get(&format!("{REGISTRIES}/panic"), &[]).await;
    assert_eq!((answer.status, &answer.json()["reason"]), (500, &json!("InternalError")));
    assert!(!answer.body.contains("as told"), "the panic's words stay in the log");
    assert_eq!(client.get(WHO, &[]).await.status, 200, "on the same connection");
    assert!(client.get("/metrics", &[]).await.body.contains("apiserver_request_panics_total 1"));
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_one_at_the_limit_is_read() {
    let limits = Limits { body: 1000, ..Limits::default() };
    let world = World::start(Options { limits, ..Options::default() }).await;
    let mut client = admin(&world).await;
    let expected = json!({"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Request entity too large: limit is 1000","reason":"RequestEntityTooLarge","code":413});
    assert_eq!(client.ask(request("POST", REGISTRIES, &[], &"x".repeat(1001))).await.json(), expected);
    assert_eq!(client.ask(request("POST", REGISTRIES, &[], &"x".repeat(1000))).await.body, "1000");
}

#[tokio::test]
async fn a_body_that_does_not_say_how_long_it_is_is_cut_at_the_limit() {
    let limits = Limits { body: 1000, ..Limits::default() };
    let world = World::start(Options { limits, ..Options::default() }).await;
    let identity = world.clients.client("admin", &["system:masters"]);
    let stream = shake_hands(&world, Some(identity), false).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let frames = (0..10).map(|_| Ok::<_, axum::Error>(http_body::Frame::data(Bytes::from(vec![b'x'; 500]))));
    let body = StreamBody::new(futures::stream::iter(frames));
    let (parts, _) = request("POST", REGISTRIES, &[], "").into_parts();
    let response = sender.send_request(http::Request::from_parts(parts, body)).await.unwrap();
    assert_eq!(response.status(), 413);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("RequestEntityTooLarge"));
}

#[tokio::test]
async fn reads_over_the_limit_are_told_to_come_back_and_watches_and_probes_are_not() {
    let limits = Limits { reads: 1, ..Limits::default() };
    let world = World::start(Options { limits, ..Options::default() }).await;
    let (mut first, mut second) = (admin(&world).await, admin(&world).await);
    let slow = format!("{REGISTRIES}/slow");
    let running = tokio::spawn(async move { first.get(&slow, &[]).await.status });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let refused = second.get(WHO, &[]).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, "1"));
    assert_eq!(refused.json()["details"]["retryAfterSeconds"], 1);
    assert_eq!(second.get("/livez", &[]).await.status, 200);
    assert_eq!(second.send(request("GET", TICKS, &[], "")).await.unwrap().status(), 200);
    assert_eq!(second.ask(request("POST", REGISTRIES, &[], "x")).await.status, 200, "writes have places of their own");
    assert_eq!(running.await.unwrap(), 200);
    assert_eq!(second.get(WHO, &[]).await.status, 200, "the place is free again");
}

#[tokio::test]
async fn a_reader_who_leaves_gives_its_place_back() {
    let limits = Limits { reads: 1, ..Limits::default() };
    let world = World::start(Options { limits, ..Options::default() }).await;
    let mut client = admin(&world).await;
    let endless = "/apis/search.karmada.io/v1alpha1/search/endless";
    let response = client.send(request("GET", endless, &[], "")).await.unwrap();
    assert_eq!(client.get(WHO, &[]).await.status, 429);
    drop(response);
    let deadline = Instant::now() + Duration::from_secs(5);
    while client.get(WHO, &[]).await.status != 200 {
        assert!(Instant::now() < deadline, "the place was never given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_504() {
    let limits = Limits { deadline: Duration::from_millis(200), ..Limits::default() };
    let world = World::start(Options { limits, ..Options::default() }).await;
    let answer = admin(&world).await.get(&format!("{REGISTRIES}/never"), &[]).await;
    assert_eq!((answer.status, &answer.json()["reason"]), (504, &json!("Timeout")));
}

#[tokio::test]
async fn events_arrive_as_they_happen_although_the_client_takes_gzip() {
    let world = World::usual().await;
    let mut client = admin(&world).await;
    let response = client.send(request("GET", TICKS, &[("accept-encoding", "gzip")], "")).await.unwrap();
    assert!(response.headers().get("content-encoding").is_none());
    let mut body = response.into_body();
    for _ in 0..3 {
        let frame = timeout(Duration::from_secs(5), body.frame()).await.unwrap().unwrap().unwrap();
        assert!(frame.into_data().unwrap().starts_with(br#"{"type":"ADDED""#));
    }
}

#[tokio::test]
async fn long_answers_are_compressed_for_those_who_ask() {
    let world = World::usual().await;
    let mut client = admin(&world).await;
    let gzip = [("accept-encoding", "gzip")];
    for path in [format!("{REGISTRIES}/big"), "/apis/search.karmada.io/v1alpha1/search/long".to_owned()] {
        let packed = client.get(&path, &gzip).await;
        assert_eq!(packed.header("content-encoding"), "gzip", "{path}");
        assert!(packed.body.len() < 20_000);
        assert_eq!(client.get(&path, &[]).await.header("content-encoding"), "");
    }
    assert_eq!(client.get(WHO, &gzip).await.header("content-encoding"), "", "short ones are not worth it");
}

#[tokio::test]
async fn head_is_answered_without_a_body() {
    let world = World::usual().await;
    let mut client = admin(&world).await;
    let answer = client.ask(request("HEAD", "/version", &[], "")).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert!(answer.header("content-length").parse::<usize>().unwrap() > 100);
}

#[tokio::test]
async fn metrics_are_for_those_who_may_read_them() {
    let world = World::usual().await;
    let refused = world.client(None).await.get("/metrics", &[]).await;
    assert_eq!(
        refused.json(),
        json!({"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"forbidden: User \"system:anonymous\" cannot get path \"/metrics\"","reason":"Forbidden","details":{},"code":403})
    );
    assert_eq!(refused.header("x-content-type-options"), "nosniff");
    assert!(admin(&world).await.get("/metrics", &[]).await.body.contains(r#"code="403""#));
}

#[tokio::test]
async fn garbage_silence_and_half_open_connections_hurt_nobody() {
    let settings = ServeSettings {
        handshake_timeout: Duration::from_millis(300),
        header_read_timeout: Duration::from_millis(300),
        ..ServeSettings::default()
    };
    let world = World::start(Options { settings, ..Options::default() }).await;
    let mut garbage = TcpStream::connect(world.address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n\0\0\0garbage").await.unwrap();
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    let mut half_closed = TcpStream::connect(world.address).await.unwrap();
    half_closed.shutdown().await.unwrap();
    let mut says_nothing = shake_hands(&world, None, true).await.unwrap();
    let mut half_a_head = shake_hands(&world, None, false).await.unwrap();
    half_a_head.write_all(b"GET /livez HTTP/1.1\r\nhost: loc").await.unwrap();
    for _ in 0..20 {
        assert_eq!(world.client(None).await.get("/livez", &[]).await.body, "ok");
    }
    for stream in [&mut garbage, &mut silent, &mut half_closed] {
        assert!(is_cut(stream).await);
    }
    assert!(is_cut(&mut says_nothing).await, "an HTTP/2 client that never begins");
    assert!(is_cut(&mut half_a_head).await, "an HTTP/1.1 client that never ends its head");
}

async fn is_cut(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> bool {
    let mut rest = Vec::new();
    timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn a_reader_who_stops_reading_is_cut_and_others_go_on() {
    let settings = ServeSettings { write_stall_timeout: Duration::from_millis(500), ..ServeSettings::default() };
    let limits = Limits { reads: 1, ..Limits::default() };
    let world = World::start(Options { settings, limits, ..Options::default() }).await;
    let identity = world.clients.client("admin", &["system:masters"]);
    let mut stuck = shake_hands(&world, Some(identity), false).await.unwrap();
    stuck
        .write_all(b"GET /apis/search.karmada.io/v1alpha1/search/endless HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut other = admin(&world).await;
    assert_eq!(other.get(WHO, &[]).await.status, 429, "the stuck reader holds the only place");
    let deadline = Instant::now() + Duration::from_secs(10);
    while other.get(WHO, &[]).await.status != 200 {
        assert!(Instant::now() < deadline, "the stuck reader was never cut");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_new_serving_certificate_is_used_and_old_connections_live_on() {
    let world = World::usual().await;
    let mut old = admin(&world).await;
    assert_eq!(old.server_name, "first");
    let (certificate, key) = world.serving.sign("second", &[], rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    std::fs::write(world.folder.path().join("tls.crt"), certificate).unwrap();
    assert!(world.certificates.reload().is_err(), "half a rotation is not taken");
    assert_eq!(admin(&world).await.server_name, "first");
    std::fs::write(world.folder.path().join("tls.key"), key).unwrap();
    assert!(world.certificates.reload().unwrap());
    assert!(!world.certificates.reload().unwrap(), "nothing changed since");
    assert_eq!(admin(&world).await.server_name, "second");
    assert_eq!(old.get(WHO, &[]).await.status, 200);
}

#[tokio::test]
async fn told_to_stop_it_finishes_what_is_under_way_and_takes_nothing_new() {
    let world = World::usual().await;
    let mut client = admin(&world).await;
    let slow = format!("{REGISTRIES}/slow");
    let running = tokio::spawn(async move { client.get(&slow, &[]).await.status });
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.stop.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(TcpStream::connect(world.address).await.is_err());
    assert_eq!(running.await.unwrap(), 200);
}

#[tokio::test]
async fn a_watch_does_not_keep_the_process_from_stopping() {
    let settings = ServeSettings { drain_timeout: Duration::from_millis(200), ..ServeSettings::default() };
    let mut world = World::start(Options { settings, ..Options::default() }).await;
    let mut client = admin(&world).await;
    let watch = client.send(request("GET", TICKS, &[], "")).await.unwrap();
    world.stop.cancel();
    let ended = timeout(Duration::from_secs(5), &mut world.server).await.unwrap();
    assert!(ended.unwrap().is_ok());
    assert!(watch.into_body().collect().await.is_err(), "the watch is cut, not ended as if all was said");
}

#[tokio::test]
async fn tls_1_2_is_refused_where_1_3_is_demanded() {
    let world = World::start(Options { min_version: MinVersion::Tls13, ..Options::default() }).await;
    let stream = shake_hands(&world, None, true).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let mut config = rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.enable_sni = false;
    let socket = TcpStream::connect(world.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let error = connector.connect(name, socket).await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
}

#[tokio::test]
async fn a_thousand_requests_at_once_fit_on_one_connection() {
    let limits = Limits { reads: 0, ..Limits::default() };
    let world = World::start(Options { limits, ..Options::default() }).await;
    let mut client = admin(&world).await;
    client.get(WHO, &[]).await;
    let slow = format!("{REGISTRIES}/slow");
    let mut sent = Vec::new();
    for _ in 0..1000 {
        let pending = client.send_later(request("GET", &slow, &[], ""));
        sent.push(tokio::spawn(pending));
    }
    for answer in futures::future::join_all(sent).await {
        assert_eq!(answer.unwrap(), 200);
    }
}

#[tokio::test]
async fn one_stream_that_is_not_read_is_cut_and_its_connection_lives() {
    let settings = ServeSettings { write_stall_timeout: Duration::from_millis(500), ..ServeSettings::default() };
    let limits = Limits { reads: 1, ..Limits::default() };
    let world = World::start(Options { settings, limits, ..Options::default() }).await;
    let mut client = admin(&world).await;
    let endless = "/apis/search.karmada.io/v1alpha1/search/endless";
    let stuck = client.send(request("GET", endless, &[], "")).await.unwrap();
    let watch = client.send(request("GET", TICKS, &[], "")).await.unwrap();
    assert_eq!(client.get(WHO, &[]).await.status, 429, "the stuck reader holds the only place");
    let deadline = Instant::now() + Duration::from_secs(10);
    while client.get(WHO, &[]).await.status != 200 {
        assert!(Instant::now() < deadline, "the stuck reader was never cut");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(stuck.into_body().collect().await.is_err(), "cut, not ended as if all was said");
    let mut watch = watch.into_body();
    for _ in 0..60 {
        assert!(watch.frame().await.unwrap().is_ok(), "a watch on the same connection goes on");
    }
}
