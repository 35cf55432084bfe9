//! What this process counts, and `/metrics`.
//!
//! In: one observation a request from the layers, and whatever others register in the same registry. Out: OpenMetrics
//! text. Labels come from a fixed vocabulary: a caller can't make the process remember what it made up.

use std::fmt;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::error::ApiError;
use crate::request::RequestInfo;

/// What a request was about, in words that are known beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct What {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhatAndCode {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    code: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    request_kind: &'static str,
}

/// Why a request was turned away before it was handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

const VERBS: [&str; 9] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "post"];
const RESOURCES: [&str; 3] = ["resourceregistries", "search", "proxying"];
const SUBRESOURCES: [&str; 5] = ["", "status", "api", "apis", "proxy"];

fn known(vocabulary: &[&'static str], word: &str) -> &'static str {
    vocabulary.iter().find(|known| **known == word).copied().unwrap_or("other")
}

impl What {
    fn of(info: &RequestInfo) -> Self {
        let verb = known(&VERBS, &info.verb);
        if !info.is_resource_request || info.api_group != crate::GROUP {
            return Self { verb, group: "", version: "", resource: "", subresource: path_kind(&info.path) };
        }
        Self {
            verb,
            group: crate::GROUP,
            version: crate::VERSION,
            resource: known(&RESOURCES, &info.resource),
            subresource: known(&SUBRESOURCES, &info.subresource),
        }
    }
}

/// The first segment of a path that is no resource of ours.
fn path_kind(path: &str) -> &'static str {
    const PATHS: [&str; 8] = ["/healthz", "/livez", "/readyz", "/metrics", "/version", "/openapi", "/apis", "/"];
    let end = path.get(1..).and_then(|rest| rest.find('/')).map_or(path.len(), |at| at + 1);
    known(&PATHS, &path[..end])
}

/// The metrics of this process; one registry that all parts share.
pub struct Metrics {
    registry: RwLock<Registry>,
    requests: Family<WhatAndCode, Counter>,
    durations: Family<What, Histogram>,
    running: Family<Kind, Gauge>,
    refused: Family<Reason, Counter>,
    panics: Counter,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        const SECONDS: [f64; 14] =
            [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0, 60.0];
        let metrics = Self {
            registry: RwLock::new(Registry::default()),
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            running: Family::default(),
            refused: Family::default(),
            panics: Counter::default(),
        };
        metrics.register(|registry| {
            let Self { requests, durations, running, refused, panics, .. } = &metrics;
            registry.register(
                "apiserver_request",
                "Requests answered, by what they were about and the answer's code",
                requests.clone(),
            );
            registry.register(
                "apiserver_request_duration_seconds",
                "Time from a request's head to its answer's head; watches are not in it",
                durations.clone(),
            );
            registry.register(
                "apiserver_current_inflight_requests",
                "Requests under way, answers still being sent included",
                running.clone(),
            );
            registry.register(
                "apiserver_request_terminations",
                "Requests that were turned away or cut by the server",
                refused.clone(),
            );
            registry.register("apiserver_request_panics", "Requests whose handling panicked", panics.clone());
        });
        metrics
    }
}

impl Metrics {
    /// With the metrics of the API service itself.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets another part add its own metrics.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.write());
    }

    pub(crate) fn answered(&self, info: &RequestInfo, code: StatusCode, took: Duration) {
        let What { verb, group, version, resource, subresource } = What::of(info);
        let labels = WhatAndCode { verb, group, version, resource, subresource, code: code.as_u16() };
        self.requests.get_or_create(&labels).inc();
        if !info.is_watch() {
            self.durations.get_or_create(&What::of(info)).observe(took.as_secs_f64());
        }
    }

    pub(crate) fn running(&self, request_kind: &'static str) -> Gauge {
        self.running.get_or_create(&Kind { request_kind }).clone()
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn panicked(&self) {
        self.panics.inc();
    }

    /// All metrics as text.
    ///
    /// # Errors
    /// 500 if a metric cannot be written.
    pub fn render(&self) -> Result<String, ApiError> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.read())
            .map_err(|error| ApiError::internal(format!("cannot write the metrics: {error}")))?;
        Ok(text)
    }

    pub(crate) fn answer(&self) -> Response {
        const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        match self.render() {
            Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
            Err(error) => error.into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn what_callers_make_up_is_not_remembered() {
        let metrics = Metrics::new();
        for path in ["/apis/made.up/v1/things", "/made-up", "/apis/search.karmada.io/v1alpha1/made-up/x/up"] {
            let method = Method::from_bytes(b"MADEUP").unwrap();
            let info = RequestInfo::new(&method, &path.parse().unwrap()).unwrap();
            metrics.answered(&info, StatusCode::NOT_FOUND, Duration::from_millis(1));
        }
        let text = metrics.render().unwrap();
        assert!(!text.to_ascii_lowercase().contains("made"), "{text}");
        assert!(text.contains(r#"resource="other""#), "{text}");
    }

    #[test]
    fn requests_are_counted_by_what_they_are_about() {
        let metrics = Metrics::new();
        let uri = "/apis/search.karmada.io/v1alpha1/search/cache/apis/apps/v1/deployments".parse().unwrap();
        let info = RequestInfo::new(&Method::GET, &uri).unwrap();
        metrics.answered(&info, StatusCode::OK, Duration::from_millis(3));
        let line = r#"apiserver_request_total{verb="get",group="search.karmada.io",version="v1alpha1",resource="search",subresource="apis",code="200"} 1"#;
        assert!(metrics.render().unwrap().contains(line));
    }
}
