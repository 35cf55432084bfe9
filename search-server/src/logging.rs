//! The log: structured lines on standard error, quiet while all is well.

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// Libraries that speak of each connection; worth hearing only when a fault is looked for.
const QUIETED: &str =
    "hyper=warn,hyper_util=warn,h2=warn,rustls=warn,tower=warn,tonic=warn,kube_client=warn,kube_runtime=warn";

/// Sets the log up, once. `RUST_LOG` overrides the verbosity.
pub(crate) fn start(format: LogFormat, verbosity: u32) {
    let level = match verbosity {
        0..=3 => "info",
        4..=7 => "debug",
        _ => "trace",
    };
    start_at(format, level);
}

/// Sets the log up to tell what is wrong and nothing else.
pub(crate) fn start_quiet() {
    start_at(LogFormat::Text, "warn");
}

fn start_at(format: LogFormat, level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},{QUIETED}")));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second start, as in tests, keeps the first one's settings.
    let _ = match format {
        LogFormat::Text => lines.with_ansi(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}
