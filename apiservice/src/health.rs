//! `/livez`, `/readyz`, `/healthz`: is the process alive, and may it be sent requests?
//!
//! In: named checks from whoever can tell. Out: the texts that probes and people know from API servers. A check that
//! can wait (for a backend, for a first sync) belongs to [`Probe::Ready`]; nothing in here may depend on this server
//! being reachable through a control plane, because the control plane waits for readiness first.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use futures::future::join_all;
use http::{StatusCode, header};
use parking_lot::RwLock;

use crate::error::ApiError;

const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a check counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// Everywhere: if it fails, the process should be restarted.
    Live,
    /// In `/readyz` and `/healthz`: if it fails, requests should go elsewhere for a while.
    Serving,
    /// In `/readyz` only.
    Ready,
}

type Check = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

#[derive(Clone)]
struct Named {
    name: String,
    probe: Probe,
    check: Check,
}

/// All checks of the process.
#[derive(Clone)]
pub struct Health {
    checks: Arc<RwLock<Vec<Named>>>,
    stopping: Arc<AtomicBool>,
}

impl fmt::Debug for Health {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Health").field("names", &self.names(Probe::Ready)).finish_non_exhaustive()
    }
}

impl Default for Health {
    fn default() -> Self {
        let health = Self { checks: Arc::default(), stopping: Arc::default() };
        health.register(Probe::Live, "ping", || async { Ok(()) });
        health.register(Probe::Live, "log", || async { Ok(()) });
        health
    }
}

struct Outcome {
    name: String,
    failure: Option<String>,
    excluded: bool,
}

impl Health {
    /// With the checks that every API server has: `ping`, `log` and, for readiness, `shutdown`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check. Its error goes to the log; callers only see that it failed.
    pub fn register<F, Fut>(&self, probe: Probe, name: impl Into<String>, check: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        let check: Check = Arc::new(move || Box::pin(check()));
        self.checks.write().push(Named { name: name.into(), probe, check });
    }

    /// From now on `/readyz` fails, so that no new requests are sent here.
    pub fn begin_shutdown(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Paths of all checks, as `/` lists them.
    pub(crate) fn paths(&self) -> Vec<String> {
        let below = |root: &str, names: Vec<String>| {
            let mut paths = vec![root.to_owned()];
            paths.extend(names.into_iter().map(|name| format!("{root}/{name}")));
            paths
        };
        let mut ready = self.names(Probe::Ready);
        ready.push("shutdown".to_owned());
        [
            below("/healthz", self.names(Probe::Serving)),
            below("/livez", self.names(Probe::Live)),
            below("/readyz", ready),
        ]
        .concat()
    }

    fn names(&self, up_to: Probe) -> Vec<String> {
        self.selected(up_to).into_iter().map(|named| named.name).collect()
    }

    /// Each kind of check counts where those before it count, and in one place less.
    fn selected(&self, up_to: Probe) -> Vec<Named> {
        self.checks.read().iter().filter(|named| named.probe <= up_to).cloned().collect()
    }

    fn checks_of(&self, root: &str) -> Vec<Named> {
        let mut checks = self.selected(match root {
            "livez" => Probe::Live,
            "healthz" => Probe::Serving,
            _ => Probe::Ready,
        });
        if root == "readyz" {
            let stopping = Arc::clone(&self.stopping);
            let check: Check = Arc::new(move || {
                let stopping = stopping.load(Ordering::Relaxed);
                Box::pin(async move { if stopping { Err("the process is shutting down".to_owned()) } else { Ok(()) } })
            });
            checks.push(Named { name: "shutdown".to_owned(), probe: Probe::Ready, check });
        }
        checks
    }

    /// Answers a path below `livez`, `readyz` or `healthz` (given without slashes around it).
    pub(crate) async fn answer(&self, path: &str, query: &str) -> Response {
        let (root, below) = path.split_once('/').unwrap_or((path, ""));
        if !below.is_empty() {
            // A check can be asked for by its name also where it doesn't count.
            let mut checks = self.checks_of("readyz");
            checks.retain(|named| named.name == below);
            return match run(&checks, &[]).await.first() {
                None => ApiError::unknown_path().into_response(),
                Some(Outcome { failure: Some(why), .. }) => {
                    text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n"))
                }
                Some(_) => text(StatusCode::OK, "ok".to_owned()),
            };
        }
        let checks = self.checks_of(root);
        let parameters: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let excluded: Vec<&str> =
            parameters.iter().filter(|(key, _)| key == "exclude").map(|(_, value)| value.as_str()).collect();
        let verbose = parameters.iter().any(|(key, _)| key == "verbose");
        report(root, &run(&checks, &excluded).await, &excluded, verbose)
    }
}

async fn run(checks: &[Named], excluded: &[&str]) -> Vec<Outcome> {
    join_all(checks.iter().map(|named| async {
        let name = named.name.clone();
        if excluded.contains(&named.name.as_str()) {
            return Outcome { name, failure: None, excluded: true };
        }
        let failure = match tokio::time::timeout(CHECK_TIMEOUT, (named.check)()).await {
            Ok(outcome) => outcome.err(),
            Err(_) => Some(format!("no answer within {} s", CHECK_TIMEOUT.as_secs())),
        };
        Outcome { name, failure, excluded: false }
    }))
    .await
}

fn report(root: &str, outcomes: &[Outcome], excluded: &[&str], verbose: bool) -> Response {
    let mut lines = String::new();
    for Outcome { name, failure, excluded } in outcomes {
        lines += &match failure {
            _ if *excluded => format!("[+]{name} excluded: ok\n"),
            None => format!("[+]{name} ok\n"),
            Some(_) => format!("[-]{name} failed: reason withheld\n"),
        };
    }
    let unknown: Vec<String> = excluded
        .iter()
        .filter(|name| !outcomes.iter().any(|outcome| outcome.name == **name))
        .map(|name| format!("{name:?}"))
        .collect();
    if !unknown.is_empty() {
        lines += &format!("warn: some health checks cannot be excluded: no matches for {}\n", unknown.join(","));
    }
    let failed: Vec<String> = outcomes
        .iter()
        .filter_map(|outcome| Some(format!("{}: {}", outcome.name, outcome.failure.as_ref()?)))
        .collect();
    if !failed.is_empty() {
        tracing::warn!(checks = failed.join("; "), "{root} check failed");
        return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{root} check failed\n"));
    }
    text(StatusCode::OK, if verbose { format!("{lines}{root} check passed\n") } else { "ok".to_owned() })
}

fn text(status: StatusCode, body: String) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (status, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use rstest::rstest;

    use super::*;

    async fn ask(health: &Health, path: &str, query: &str) -> String {
        let response = health.answer(path, query).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        format!("{status} {}", String::from_utf8_lossy(&body))
    }

    fn waiting_for_etcd() -> Health {
        let health = Health::new();
        health.register(Probe::Ready, "etcd", || async { Err("connection refused".to_owned()) });
        health
    }

    #[rstest]
    #[case("livez", "", "200 ok")]
    #[case("livez", "verbose", "200 [+]ping ok\n[+]log ok\nlivez check passed\n")]
    #[case(
        "readyz",
        "",
        "500 [+]ping ok\n[+]log ok\n[-]etcd failed: reason withheld\n[+]shutdown ok\nreadyz check failed\n"
    )]
    #[case(
        "readyz",
        "exclude=etcd&verbose",
        "200 [+]ping ok\n[+]log ok\n[+]etcd excluded: ok\n[+]shutdown ok\nreadyz check passed\n"
    )]
    #[case(
        "livez",
        "verbose=1&exclude=nope",
        "200 [+]ping ok\n[+]log ok\nwarn: some health checks cannot be excluded: no matches for \"nope\"\nlivez check passed\n"
    )]
    #[case("readyz/ping", "", "200 ok")]
    #[case("readyz/etcd", "", "500 internal server error: connection refused\n")]
    #[tokio::test]
    async fn probes_read_what_an_api_server_says(#[case] path: &str, #[case] query: &str, #[case] expected: &str) {
        assert_eq!(ask(&waiting_for_etcd(), path, query).await, expected);
    }

    #[tokio::test]
    async fn a_check_can_be_asked_for_where_it_does_not_count_and_one_that_nobody_registered_is_404() {
        assert_eq!(ask(&waiting_for_etcd(), "livez", "").await, "200 ok");
        assert!(ask(&waiting_for_etcd(), "livez/etcd", "").await.starts_with("500 "));
        assert!(ask(&Health::new(), "livez/etcd", "").await.starts_with("404 "));
    }

    #[tokio::test]
    async fn readiness_ends_when_shutdown_begins_and_liveness_does_not() {
        let health = Health::new();
        assert_eq!(ask(&health, "readyz", "").await, "200 ok");
        health.begin_shutdown();
        assert!(ask(&health, "readyz", "").await.starts_with("500 "));
        assert_eq!(ask(&health, "livez", "").await, "200 ok");
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_fails_instead_of_hanging_the_probe() {
        let health = Health::new();
        health.register(Probe::Ready, "stuck", std::future::pending);
        assert!(ask(&health, "readyz", "").await.contains("[-]stuck failed"));
    }
}
