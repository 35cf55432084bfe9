//! What this process counts, and `/metrics`.
//!
//! In: one observation a request from the layers, and whatever others register in the same registry. Out: text in the
//! form of Prometheus, or OpenMetrics for who asks for it. Names and labels of request metrics are those of API servers, so
//! that dashboards and alerts made for them work. Labels come from a fixed vocabulary: a caller can't make the process
//! remember what it made up.

use std::fmt;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
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
    scope: &'static str,
    component: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhatAndCode {
    #[prometheus(flatten)]
    what: What,
    dry_run: &'static str,
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

/// Verbs as requests carry them, and as metrics name them.
const VERBS: [(&str, &str); 9] = [
    ("get", "GET"),
    ("list", "LIST"),
    ("watch", "WATCH"),
    ("create", "POST"),
    ("update", "PUT"),
    ("patch", "PATCH"),
    ("delete", "DELETE"),
    ("deletecollection", "DELETECOLLECTION"),
    ("post", "POST"),
];
const RESOURCES: [&str; 3] = ["resourceregistries", "search", "proxying"];
const SUBRESOURCES: [&str; 5] = ["", "status", "api", "apis", "proxy"];
const COMPONENT: &str = "apiserver";

fn known(vocabulary: &[&'static str], word: &str) -> &'static str {
    vocabulary.iter().find(|known| **known == word).copied().unwrap_or("other")
}

impl What {
    fn of(info: &RequestInfo) -> Self {
        let verb = VERBS.iter().find(|(verb, _)| *verb == info.verb).map_or("other", |(_, name)| *name);
        if !info.is_resource_request || info.api_group != crate::GROUP {
            let subresource = path_kind(&info.path);
            let component = COMPONENT;
            return Self { verb, group: "", version: "", resource: "", subresource, scope: "", component };
        }
        Self {
            verb,
            group: crate::GROUP,
            version: crate::VERSION,
            resource: known(&RESOURCES, &info.resource),
            subresource: known(&SUBRESOURCES, &info.subresource),
            scope: if info.name.is_empty() { "cluster" } else { "resource" },
            component: COMPONENT,
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
    sizes: Family<What, Histogram>,
    running: Family<Kind, Gauge>,
    long_running: Family<What, Gauge>,
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
        const SECONDS: [f64; 16] = [
            0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
        ];
        const BYTES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
        let metrics = Self {
            registry: RwLock::new(Registry::default()),
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            sizes: Family::new_with_constructor(|| Histogram::new(BYTES)),
            running: Family::default(),
            long_running: Family::default(),
            refused: Family::default(),
            panics: Counter::default(),
        };
        metrics.register(|registry| metrics.register_all(registry));
        metrics
    }
}

impl Metrics {
    /// With the metrics of the API service itself.
    pub fn new() -> Self {
        Self::default()
    }

    fn register_all(&self, registry: &mut Registry) {
        let Self { requests, durations, sizes, running, long_running, refused, panics, .. } = self;
        registry.register("apiserver_request", "Requests answered, by subject and code", requests.clone());
        registry.register(
            "apiserver_request_duration_seconds",
            "Time from a request's head to its answer's head",
            durations.clone(),
        );
        registry.register(
            "apiserver_response_sizes",
            "Bytes of answers' bodies as sent; watches are not in it",
            sizes.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests under way, answers still being sent included",
            running.clone(),
        );
        registry.register("apiserver_longrunning_requests", "Watches under way", long_running.clone());
        registry.register(
            "apiserver_request_terminations",
            "Requests that were turned away or cut by the server",
            refused.clone(),
        );
        registry.register("apiserver_request_panics", "Requests whose handling panicked", panics.clone());
    }

    /// Lets another part add its own metrics.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.write());
    }

    pub(crate) fn answered(&self, info: &RequestInfo, is_dry_run: bool, code: StatusCode, took: Duration) {
        let what = What::of(info);
        let labels = WhatAndCode { what, dry_run: if is_dry_run { "All" } else { "" }, code: code.as_u16() };
        self.requests.get_or_create(&labels).inc();
        if !info.is_watch() {
            self.durations.get_or_create(&what).observe(took.as_secs_f64());
        }
    }

    /// Counts the bytes of one answer.
    pub(crate) fn size(&self, info: &RequestInfo) -> Histogram {
        self.sizes.get_or_create(&What::of(info)).clone()
    }

    pub(crate) fn running(&self, request_kind: &'static str) -> Gauge {
        self.running.get_or_create(&Kind { request_kind }).clone()
    }

    pub(crate) fn long_running(&self, info: &RequestInfo) -> Gauge {
        self.long_running.get_or_create(&What::of(info)).clone()
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn panicked(&self) {
        self.panics.inc();
    }

    /// All metrics as OpenMetrics text.
    ///
    /// # Errors
    /// 500 if a metric cannot be written.
    pub fn render(&self) -> Result<String, ApiError> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.read())
            .map_err(|error| ApiError::internal(format!("cannot write the metrics: {error}")))?;
        Ok(text)
    }

    pub(crate) fn answer(&self, headers: &HeaderMap) -> Response {
        const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
        let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        match self.render() {
            Ok(text) if accepted.contains("application/openmetrics-text") => {
                ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response()
            }
            Ok(text) => ([(header::CONTENT_TYPE, PROMETHEUS)], as_prometheus(&text)).into_response(),
            Err(error) => error.into_response(),
        }
    }
}

/// OpenMetrics text in the older form of Prometheus, in which counters are declared under their samples' name and
/// nothing tells the end or the unit.
fn as_prometheus(text: &str) -> String {
    let mut lines = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(_), rest) => help = Some(rest.unwrap_or_default()),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
                if let Some(help) = help.take() {
                    lines += &format!("# HELP {name} {help}\n");
                }
                lines += &format!("# TYPE {name} {kind}\n");
            }
            (Some("#"), ..) => {}
            _ => {
                lines += line;
                lines.push('\n');
            }
        }
    }
    lines
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
            metrics.answered(&info, false, StatusCode::NOT_FOUND, Duration::from_millis(1));
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
        metrics.answered(&info, false, StatusCode::OK, Duration::from_millis(3));
        let line = r#"apiserver_request_total{verb="GET",group="search.karmada.io",version="v1alpha1",resource="search",subresource="apis",scope="resource",component="apiserver",dry_run="",code="200"} 1"#;
        let text = metrics.render().unwrap();
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn collectors_that_know_only_the_old_form_get_it() {
        let metrics = Metrics::new();
        metrics.panicked();
        let text = as_prometheus(&metrics.render().unwrap());
        let declared = "# TYPE apiserver_request_panics_total counter\napiserver_request_panics_total 1\n";
        assert!(text.contains(declared) && !text.contains("# EOF"), "{text}");
    }
}
