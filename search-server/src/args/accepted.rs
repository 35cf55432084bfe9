//! Flags of the replaced program that have no meaning here.
//!
//! They are accepted so that an image swap starts, checked so that a typing mistake in a value is still found, and
//! remembered so that the log can say once that they do nothing. In: clap's matches. Out: [`Given`].

use std::collections::BTreeSet;
use std::fmt;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, value_parser};

use super::values;

/// A flag that was given and does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IgnoredFlag {
    /// Its name without the hyphens in front.
    pub name: &'static str,
    /// Why it does nothing.
    pub reason: &'static str,
}

impl fmt::Display for IgnoredFlag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "--{}: {}", self.name, self.reason)
    }
}

/// Which flags of `serve` were given, whatever their values.
#[derive(Debug, Clone, Default)]
pub(super) struct Given {
    names: BTreeSet<String>,
}

impl Given {
    /// Reads which flags were given, whether they do something or not.
    pub(super) fn of(matches: &ArgMatches) -> Self {
        let on_command_line = |id: &&clap::Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
        // Flags that do something are known to clap by their fields' names, which have underscores.
        Self { names: matches.ids().filter(on_command_line).map(|id| id.as_str().replace('_', "-")).collect() }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    pub(super) fn ignored(&self) -> Vec<IgnoredFlag> {
        let all =
            GROUPS.iter().flat_map(|(reason, flags)| flags.iter().map(move |(name, ..)| IgnoredFlag { name, reason }));
        all.filter(|flag| self.contains(flag.name)).collect()
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Bool,
    Integer,
    Natural,
    Number,
    Duration,
    Text,
    /// Separated by commas or repeated.
    List,
    Address,
    OneOf(&'static [&'static str]),
}

use Kind::{Address, Bool, Duration, Integer, List, Natural, Number, OneOf, Text};

type Flag = (&'static str, Kind, &'static str);

const SEVERITIES: &[&str] = &["0", "1", "2", "3", "INFO", "WARNING", "ERROR", "FATAL"];
const AUDIT_MODES: &[&str] = &["batch", "blocking", "blocking-strict"];

/// Why flags do nothing, and for each its name, its kind and its default (`""` for none).
#[rustfmt::skip]
const GROUPS: &[(&str, &[Flag])] = &[
    ("the log goes to stderr as one stream", &[
        ("add-dir-header",                   Bool,              "false"),
        ("alsologtostderr",                  Bool,              "false"),
        ("alsologtostderrthreshold",         OneOf(SEVERITIES), ""),
        ("legacy-stderr-threshold-behavior", Bool,              "true"),
        ("log-backtrace-at",                 Text,              ":0"),
        ("log-dir",                          Text,              ""),
        ("log-file",                         Text,              ""),
        ("log-file-max-size",                Natural,           "1800"),
        ("log-flush-frequency",              Duration,          "5s"),
        ("log-text-info-buffer-size",        Text,              ""),
        ("log-text-split-stream",            Bool,              "false"),
        ("logtostderr",                      Bool,              "true"),
        ("one-output",                       Bool,              "false"),
        ("skip-headers",                     Bool,              "false"),
        ("skip-log-headers",                 Bool,              "false"),
        ("stderrthreshold",                  OneOf(SEVERITIES), "2"),
        ("vmodule",                          Text,              ""),
    ]),
    ("audit records go to a file or to standard output, one by one", &[
        ("audit-log-batch-max-size",              Integer,                    "1"),
        ("audit-log-batch-max-wait",              Duration,                   "0s"),
        ("audit-log-batch-throttle-burst",        Integer,                    "0"),
        ("audit-log-batch-throttle-enable",       Bool,                       "false"),
        ("audit-log-batch-throttle-qps",          Number,                     "0"),
        ("audit-log-truncate-max-batch-size",     Integer,                    "10485760"),
        ("audit-log-version",                     Text,                       "audit.k8s.io/v1"),
        ("audit-webhook-batch-buffer-size",       Integer,                    "10000"),
        ("audit-webhook-batch-max-size",          Integer,                    "400"),
        ("audit-webhook-batch-max-wait",          Duration,                   "30s"),
        ("audit-webhook-batch-throttle-burst",    Integer,                    "15"),
        ("audit-webhook-batch-throttle-enable",   Bool,                       "true"),
        ("audit-webhook-batch-throttle-qps",      Number,                     "10"),
        ("audit-webhook-config-file",             Text,                       ""),
        ("audit-webhook-initial-backoff",         Duration,                   "10s"),
        ("audit-webhook-mode",                    OneOf(AUDIT_MODES),         "batch"),
        ("audit-webhook-truncate-enabled",        Bool,                       "false"),
        ("audit-webhook-truncate-max-batch-size", Integer,                    "10485760"),
        ("audit-webhook-truncate-max-event-size", Integer,                    "102400"),
        ("audit-webhook-version",                 Text,                       "audit.k8s.io/v1"),
    ]),
    ("profiles are asked for on a listener of their own, with --enable-pprof", &[
        ("contention-profiling",   Bool, "false"),
        ("debug-socket-path",      Text, ""),
        ("profiling",              Bool, "true"),
    ]),
    ("one version of the API is served", &[
        ("emulated-version",                            List, ""),
        ("emulation-forward-compatible",                Bool, "false"),
        ("min-compatibility-version",                   List, ""),
        ("runtime-config-emulation-forward-compatible", Bool, "false"),
    ]),
    ("registries are stored as JSON under one prefix", &[
        ("delete-collection-workers",                   Integer,                "1"),
        ("enable-garbage-collector",                    Bool,                   "true"),
        ("etcd-servers-overrides",                      List,                   ""),
        ("storage-backend",                             OneOf(&["etcd3"]),      ""),
        ("storage-initialization-timeout",              Duration,               "1m0s"),
        ("storage-media-type",                          Text,                   "application/json"),
    ]),
    ("etcd is neither compacted nor measured from here, and no leases are taken", &[
        ("etcd-compaction-interval",      Duration, "5m0s"),
        ("etcd-count-metric-poll-period", Duration, "1m0s"),
        ("etcd-db-metric-poll-interval",  Duration, "30s"),
        ("lease-reuse-duration-seconds",  Integer,  "60"),
    ]),
    ("registries are always watched", &[
        ("watch-cache",       Bool, "true"),
        ("watch-cache-sizes", List, ""),
    ]),
    ("requests are limited by number and by deadline", &[
        ("enable-priority-and-fairness", Bool,   "true"),
        ("goaway-chance",                Number, "0"),
    ]),
    ("nothing here publishes an address or serves browsers of other origins", &[
        ("advertise-address",                    Address, ""),
        ("cors-allowed-origins",                 List,    ""),
        ("external-hostname",                    Text,    ""),
        ("strict-transport-security-directives", List,    ""),
    ]),
    ("sockets are shared as the system does by default", &[
        ("permit-address-sharing", Bool, "false"),
        ("permit-port-sharing",    Bool, "false"),
    ]),
    ("liveness doesn't wait for anything", &[
        ("livez-grace-period",                         Duration, "0s"),
    ]),
];

const HEADING: &str = "Accepted from installations of karmada-search, without effect";

fn argument((name, kind, default): Flag) -> Arg {
    let plain = Arg::new(name).long(name).action(ArgAction::Set).help_heading(HEADING).hide_short_help(true);
    let typed = match kind {
        Bool => plain.num_args(0..=1).require_equals(true).default_missing_value("true").value_parser(values::boolean),
        Integer => plain.allow_negative_numbers(true).value_parser(value_parser!(i64)),
        Natural => plain.value_parser(value_parser!(u64)),
        Number => plain.allow_negative_numbers(true).value_parser(value_parser!(f64)),
        Duration => plain.value_parser(values::duration),
        Text => plain,
        List => plain.action(ArgAction::Append).value_delimiter(','),
        Address => plain.value_parser(value_parser!(std::net::IpAddr)),
        OneOf(words) => plain.value_parser(words.to_vec()),
    };
    if default.is_empty() { typed } else { typed.default_value(default) }
}

/// The flags, for clap.
pub(super) fn arguments() -> impl Iterator<Item = Arg> {
    GROUPS.iter().flat_map(|(_, flags)| flags.iter().copied().map(argument))
}
