//! The log: structured lines on standard error, quiet while all is well. Spans go to a collector, if one is named.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::args::LogFormat;
use crate::observe::traces::{self, Traces};

/// Libraries that speak of each connection; worth hearing only when a fault is looked for.
const QUIETED: &str = "hyper=warn,hyper_util=warn,h2=warn,rustls=warn,tower=warn,tonic=warn,kube_client=warn,\
                       kube_runtime=warn,opentelemetry=warn,opentelemetry_sdk=warn,opentelemetry_otlp=warn";

/// Sets the log up, once. `RUST_LOG` overrides the verbosity.
pub(crate) fn start(format: LogFormat, verbosity: u32, traces: Option<&Traces>) {
    let level = match verbosity {
        0..=3 => "info",
        4..=7 => "debug",
        _ => "trace",
    };
    start_at(format, level, traces);
}

/// Sets the log up to tell what is wrong and nothing else.
pub(crate) fn start_quiet() {
    start_at(LogFormat::Text, "warn", None);
}

fn start_at(format: LogFormat, level: &str, traces: Option<&Traces>) {
    let spans = traces.map(|traces| {
        let only_ours = Targets::new().with_target(traces::TARGET, LevelFilter::INFO);
        tracing_opentelemetry::layer().with_tracer(traces.tracer()).with_filter(only_ours)
    });
    // A second start, as in tests, keeps the first one's settings.
    let _ = tracing_subscriber::registry().with(lines(format, level)).with(spans).try_init();
}

fn lines(format: LogFormat, level: &str) -> Box<dyn Layer<Registry> + Send + Sync> {
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},{QUIETED}")));
    // Said as a directive, it is decided once for each place in the code; a closure would be asked for every event of HTTP/2.
    if let Ok(no_spans) = format!("{}=off", traces::TARGET).parse() {
        filter = filter.add_directive(no_spans);
    }
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => lines.with_ansi(false).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    }
}
