//! Who gets in, and as whom.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rstest::rstest;
use serde_json::json;

use super::world::{Authority, Client, Options, REGISTRIES, WHO, World};

const REMOTE: [(&str, &str); 6] = [
    ("X-Remote-User", "ada"),
    ("X-Remote-Group", "engine"),
    ("X-Remote-Group", "system:authenticated"),
    ("X-Remote-Uid", "42"),
    ("X-Remote-Extra-Example.org%2FTeam", "red"),
    ("X-Remote-Extra-example.org%2Fteam", "blue"),
];

#[rstest]
#[tokio::test]
async fn a_front_proxy_speaks_for_its_users(#[values(false, true)] http2: bool) {
    let world = World::usual().await;
    let proxy = world.proxies.client("front-proxy-client", &[]);
    let answer = Client::connect(&world, Some(proxy), http2).await.get(WHO, &REMOTE).await;
    assert_eq!(
        answer.json(),
        json!({
            "uri": if http2 { format!("https://localhost{WHO}") } else { answer.json()["uri"].as_str().unwrap().to_owned() },
            "path": "who/am/i", "user": "ada", "uid": "42", "groups": ["engine", "system:authenticated"],
            "extra": {"example.org/team": ["red", "blue"]}, "verb": "get", "name": "who", "secrets": [],
        })
    );
}

#[tokio::test]
async fn one_connection_of_a_front_proxy_carries_many_users() {
    let world = World::usual().await;
    let mut proxy = world.client(Some(world.proxies.client("front-proxy-client", &[]))).await;
    for user in ["ada", "grace", "ada"] {
        assert_eq!(proxy.get(WHO, &[("x-remote-user", user)]).await.json()["user"], user);
    }
    assert_eq!(proxy.get(WHO, &[("x-remote-user", "nobody")]).await.status, 403);
    assert_eq!(proxy.get(WHO, &[]).await.status, 401, "a front proxy is nobody itself");
}

#[tokio::test]
async fn a_front_proxy_by_another_name_is_nobody() {
    let world = World::usual().await;
    let answer = world.client(Some(world.proxies.client("impostor", &[]))).await.get(WHO, &REMOTE).await;
    assert_eq!(answer.status, 401);
    assert_eq!(
        answer.json(),
        json!({"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401})
    );
}

#[tokio::test]
async fn headers_that_name_a_user_mean_nothing_without_a_front_proxy() {
    let world = World::usual().await;
    let answer = world.client(None).await.get(WHO, &REMOTE).await;
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains(r#"User \"system:anonymous\" cannot get resource \"search/am\""#), "{}", answer.body);
    let client = world.clients.client("carol", &["dev"]);
    let who = world.client(Some(client)).await.get(WHO, &REMOTE).await.json();
    assert_eq!((&who["user"], &who["groups"]), (&json!("carol"), &json!(["dev", "system:authenticated"])));
    assert_eq!((&who["extra"], &who["secrets"]), (&json!({}), &json!([])));
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused_but_may_ask_for_health() {
    let world = World::usual().await;
    let mut client = world.client(Some(Authority::new("elsewhere").client("root", &["system:masters"]))).await;
    assert_eq!(client.get(WHO, &[]).await.status, 401);
    assert_eq!(client.get("/livez", &[]).await.status, 200);
    assert_eq!(client.get(WHO, &[("authorization", "Bearer good")]).await.json()["user"], "alice");
}

#[tokio::test]
async fn a_serving_certificate_is_no_client_certificate() {
    let world = World::usual().await;
    let usage = rcgen::ExtendedKeyUsagePurpose::ServerAuth;
    let identity = super::world::identity(&world.clients.sign("carol", &["system:masters"], usage));
    assert_eq!(world.client(Some(identity)).await.get(WHO, &[]).await.status, 401);
}

#[tokio::test]
async fn administrators_need_no_control_plane() {
    let world = World::usual().await;
    world.control_plane.down.store(true, Ordering::Relaxed);
    let admin = world.clients.client("admin", &["system:masters"]);
    assert_eq!(world.client(Some(admin)).await.get(REGISTRIES, &[]).await.status, 200);
    assert_eq!(world.control_plane.access_reviews.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_token_is_reviewed_once_in_a_while() {
    let world = World::usual().await;
    let mut client = world.client(None).await;
    for _ in 0..5 {
        let who = client.get(WHO, &[("authorization", "Bearer good")]).await.json();
        assert_eq!((&who["user"], &who["uid"], &who["secrets"]), (&json!("alice"), &json!("7"), &json!([])));
        assert_eq!(client.get(WHO, &[("authorization", "bearer wrong")]).await.status, 401);
    }
    assert_eq!(world.control_plane.token_reviews.load(Ordering::Relaxed), 2);
    assert_eq!(world.control_plane.access_reviews.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_control_plane_that_is_down_allows_nothing_and_blames_nobody() {
    let world = World::usual().await;
    world.control_plane.down.store(true, Ordering::Relaxed);
    let mut stranger = world.client(None).await;
    let token = stranger.get(WHO, &[("authorization", "Bearer good")]).await;
    assert_eq!((token.status, &token.json()["reason"]), (503, &json!("ServiceUnavailable")));
    let access = world.client(Some(world.clients.client("carol", &[]))).await.get(WHO, &[]).await;
    assert_eq!(access.status, 503);
    assert!(access.body.contains("cannot check whether this is allowed"), "{}", access.body);
    assert_eq!(stranger.get("/readyz/ping", &[]).await.body, "ok");
    world.control_plane.down.store(false, Ordering::Relaxed);
    assert_eq!(stranger.get(WHO, &[("authorization", "Bearer good")]).await.status, 200, "failures are not remembered");
}

#[tokio::test]
async fn who_is_trusted_is_read_from_the_control_plane_as_soon_as_it_is_there() {
    let world = World::start(Options { look_up: true, ..Options::default() }).await;
    let follow = Arc::clone(&world.trust).follow_control_plane(world.control_plane.client(), world.stop.clone());
    tokio::spawn(follow);
    let mut proxy = world.client(Some(world.proxies.client("front-proxy-client", &[]))).await;
    assert_eq!(proxy.get("/livez", &[]).await.status, 200, "nothing waits for the control plane");
    assert_eq!(proxy.get(WHO, &REMOTE).await.status, 503, "not known is not refused");
    world.control_plane.publish(&json!({
        "client-ca-file": world.clients.pem,
        "requestheader-client-ca-file": world.proxies.pem,
        "requestheader-allowed-names": r#"["front-proxy-client"]"#,
        "requestheader-username-headers": r#"["X-Remote-User"]"#,
        "requestheader-group-headers": r#"["X-Remote-Group"]"#,
        "requestheader-extra-headers-prefix": r#"["X-Remote-Extra-"]"#,
    }));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !world.trust.is_ready() {
        assert!(tokio::time::Instant::now() < deadline, "the ConfigMap was not read");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let who = proxy.get(WHO, &REMOTE).await.json();
    assert_eq!(
        (&who["user"], &who["secrets"]),
        (&json!("ada"), &json!([])),
        "on the connection that was refused before"
    );
    let carol = world.client(Some(world.clients.client("carol", &[]))).await.get(WHO, &[]).await.json();
    assert_eq!(carol["user"], "carol");
}

#[tokio::test]
async fn impersonation_needs_permission_and_is_not_ignored() {
    let world = World::usual().await;
    let mut client = world.client(None).await;
    let token = ("authorization", "Bearer good");
    let who = client.get(WHO, &[token, ("Impersonate-User", "bob"), ("Impersonate-Group", "ops")]).await.json();
    assert_eq!((&who["user"], &who["groups"]), (&json!("bob"), &json!(["ops", "system:authenticated"])));
    assert_eq!(who["secrets"], json!([]));
    assert_eq!(client.get(WHO, &[token, ("Impersonate-User", "nobody")]).await.status, 403);
    let mut carol = world.client(Some(world.clients.client("carol", &[]))).await;
    let refused = carol.get(WHO, &[("Impersonate-User", "bob")]).await;
    let expected = r#"users "bob" is forbidden: User "carol" cannot impersonate resource "users" in API group "" at the cluster scope"#;
    assert_eq!((refused.status, refused.json()["message"].as_str().unwrap()), (403, expected));
    assert_eq!(carol.get(WHO, &[("Impersonate-Group", "ops")]).await.status, 400);
}

#[tokio::test]
async fn a_user_name_that_is_no_text_is_refused() {
    let world = World::usual().await;
    let mut proxy = world.client(Some(world.proxies.client("front-proxy-client", &[]))).await;
    let mut request = super::world::request("GET", WHO, &[], "");
    request.headers_mut().insert("x-remote-user", http::HeaderValue::from_bytes(b"ad\xffa").unwrap());
    assert_eq!(proxy.ask(request).await.status, 401);
    let name = http::HeaderValue::from_bytes("zoë".as_bytes()).unwrap();
    let mut request = super::world::request("GET", WHO, &[], "");
    request.headers_mut().insert("x-remote-user", name);
    assert_eq!(proxy.ask(request).await.json()["user"], "zoë");
}

#[tokio::test]
async fn flags_count_in_place_of_what_the_control_plane_publishes() {
    let world = World::usual().await;
    let other = Authority::new("others");
    let published = json!({
        "kind": "ConfigMap", "apiVersion": "v1", "metadata": {}, "data": {"client-ca-file": other.pem},
    });
    world.trust.take_published(Some(serde_json::from_value(published).unwrap())).unwrap();
    assert_eq!(world.client(Some(other.client("carol", &[]))).await.get(WHO, &[]).await.status, 401);
    assert_eq!(world.client(Some(world.clients.client("carol", &[]))).await.get(WHO, &[]).await.status, 200);
}

#[tokio::test]
async fn health_does_not_wait_for_anybody_to_review_credentials() {
    let world = World::usual().await;
    let answer = world.client(None).await.get("/readyz?verbose", &[("authorization", "Bearer good")]).await;
    assert_eq!(answer.body, "[+]ping ok\n[+]log ok\n[+]shutdown ok\nreadyz check passed\n");
    assert_eq!(world.control_plane.token_reviews.load(Ordering::Relaxed), 0);
}
