//! `--enable-pprof`: where the time goes, for `go tool pprof` and every other reader of that format.
//!
//! In: plain HTTP on an address of its own, which only an operator should reach. Out: `/debug/pprof/profile?seconds=N`, the
//! stacks that were on a processor meanwhile; one profile at a time.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use pprof::protos::Message as _;
use serde::Deserialize;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// Samples a second; a number that nothing else in a machine beats in time with.
const FREQUENCY: i32 = 99;
const LONGEST: u64 = 600;

const INDEX: &str = "/debug/pprof/\n\nprofile?seconds=30   processor time, gzipped protocol buffer; \
try: go tool pprof http://ADDRESS/debug/pprof/profile\ncmdline              the command line\n";

#[derive(Deserialize)]
struct Asked {
    seconds: Option<u64>,
}

/// Listens until stopped.
///
/// # Errors
/// If it can't listen there.
pub(crate) async fn start(address: SocketAddr, stop: CancellationToken) -> Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("--profiling-bind-address {address}"))?;
    tracing::info!(address = %listener.local_addr()?, "listening for requests of profiles, in plain HTTP");
    let router = Router::new()
        .route("/debug/pprof/", get(|| async { INDEX }))
        .route("/debug/pprof/cmdline", get(|| async { std::env::args().collect::<Vec<_>>().join("\0") }))
        .route("/debug/pprof/profile", get(profile))
        .with_state(Arc::new(Mutex::new(())));
    tokio::spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = served.await {
            tracing::warn!(%error, "profiles can no longer be asked for");
        }
    });
    Ok(())
}

async fn profile(State(running): State<Arc<Mutex<()>>>, Query(asked): Query<Asked>) -> Response {
    let Ok(_one_at_a_time) = running.try_lock() else {
        return (StatusCode::CONFLICT, "a profile is being taken already\n").into_response();
    };
    let seconds = asked.seconds.unwrap_or(30).clamp(1, LONGEST);
    match sample(Duration::from_secs(seconds)).await {
        Ok(bytes) => {
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream"),
                (header::CONTENT_DISPOSITION, "attachment; filename=\"profile\""),
            ];
            (headers, bytes).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}

async fn sample(time: Duration) -> Result<Vec<u8>> {
    // Stacks that end within these libraries can't be walked safely from a signal.
    let guard = pprof::ProfilerGuardBuilder::default()
        .frequency(FREQUENCY)
        .blocklist(&["libc", "libgcc", "pthread", "vdso"])
        .build()
        .context("profiling cannot begin")?;
    tokio::time::sleep(time).await;
    let encode = move || {
        let profile = guard.report().build().context("no profile")?.pprof().context("no profile")?;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&profile.write_to_bytes().context("the profile cannot be written")?)?;
        Ok(encoder.finish()?)
    };
    tokio::task::spawn_blocking(encode).await?
}
