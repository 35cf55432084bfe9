//! `--otlp-endpoint`: a span for each request, sent to a collector over gRPC.
//!
//! A span continues the trace that the caller names in `traceparent`, as kube-apiserver does when it passes requests on. What
//! the collector does or fails to do holds up nobody: spans wait in a bounded queue, and are lost if it is full.

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tracing::field::Empty;
use tracing::{Instrument as _, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Spans of this target are for the collector, not for the log.
pub(crate) const TARGET: &str = "fleetglass::request";

/// Spans on their way to the collector.
#[derive(Debug)]
pub(crate) struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Prepares to send to `endpoint`; connects when there is something to send.
    ///
    /// # Errors
    /// If the endpoint is no URL.
    pub(crate) fn start(endpoint: &str) -> Result<Self> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()
            .with_context(|| format!("--otlp-endpoint {endpoint:?}"))?;
        let resource = Resource::builder().with_service_name("fleetglass").build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        Ok(Self { provider })
    }

    /// For the log's subscriber, which turns spans into OpenTelemetry's.
    pub(crate) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("fleetglass")
    }

    /// Sends what is left.
    pub(crate) async fn end(self) {
        let sent = tokio::task::spawn_blocking(move || self.provider.shutdown()).await;
        if let Ok(Err(error)) = sent {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// Puts a span around every request.
pub(crate) fn traced(router: Router) -> Router {
    router.layer(from_fn(around))
}

async fn around(request: Request, next: Next) -> Response {
    let span = info_span!(
        target: TARGET,
        "request",
        otel.name = format!("{} {}", request.method(), request.uri().path()),
        otel.kind = "server",
        http.request.method = %request.method(),
        url.path = request.uri().path(),
        http.response.status_code = Empty,
        audit_id = Empty,
    );
    let parent = TraceContextPropagator::new().extract(&Headers(request.headers()));
    // Fails only if the span is not recorded, and then there is nothing to continue.
    let _ = span.set_parent(parent);
    let response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    if let Some(id) = response.headers().get("audit-id").and_then(|id| id.to_str().ok()) {
        span.record("audit_id", id);
    }
    response
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
