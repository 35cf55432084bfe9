//! The tables of aims with this run's figures, for people and as JSON.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::RangeInclusive;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Pods for which aims were set.
const REFERENCE_PODS: f64 = 10_000.0;
/// Processor seconds that kube-apiserver took on the reference machine to list them all.
const REFERENCE_CPU: f64 = 0.75;
const OURS: &str = "fleetglass";
const THEIRS: &str = "kube-apiserver";

/// A row: what is measured, what karmada-search took for 10,000 pods of 7.8 KB on the reference machine, what was aimed at there,
/// and what that comes to on another machine.
struct Aim {
    what: &'static str,
    original: &'static str,
    bound: Option<Bound>,
    scale: Scale,
}

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// How an aim is taken over to the machine at hand.
enum Scale {
    /// As it is.
    Absolute,
    /// In proportion to kube-apiserver, which took so much for the same work on the reference machine.
    Beside(f64),
    /// In proportion to the processor time that kube-apiserver takes for a list, for what it doesn't do itself.
    Cpu,
    /// The same, and to the number of pods.
    CpuOfAll,
}

impl Bound {
    fn times(self, factor: f64) -> Self {
        match self {
            Self::AtMost(value) => Self::AtMost(value * factor),
            Self::AtLeast(value) => Self::AtLeast(value * factor),
        }
    }

    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }

    fn shown(self) -> String {
        match self {
            Self::AtMost(value) => format!("<= {}", shown(value)),
            Self::AtLeast(value) => format!(">= {}", shown(value)),
        }
    }
}

const fn row(what: &'static str, original: &'static str) -> Aim {
    Aim { what, original, bound: None, scale: Scale::Absolute }
}

const fn most(what: &'static str, original: &'static str, most: f64, scale: Scale) -> Aim {
    Aim { what, original, bound: Some(Bound::AtMost(most)), scale }
}

const AIMS: &[Aim] = &[
    row("resident idle, MiB", ""),
    row("resident holding, MiB", "715"),
    most("bytes an object above idle", "54272 (heap)", 1024.0, Scale::Absolute),
    row("of it pages of files, bytes", ""),
    row("resident at the end, MiB", "1150"),
    most("bytes an object above idle after updates", "", 1024.0, Scale::Absolute),
    row("first sync, s", ""),
    most("first sync, CPU s", "9.5", 1.0, Scale::CpuOfAll),
    most("list all, s", "2.1", 0.1, Scale::Beside(0.57)),
    most("list all, CPU s", "3.1", 0.1, Scale::Beside(0.75)),
    row("list all, MB/s", "37"),
    Aim {
        what: "list all, 8 readers, lists/s",
        original: "0.47",
        bound: Some(Bound::AtLeast(12.0)),
        scale: Scale::Beside(1.7),
    },
    most("peak resident, 8 readers, MiB", "12450", 150.0, Scale::Absolute),
    row("of it for the readers, MiB", ""),
    most("list all, gzip, s", "2.1 (plain)", 0.4, Scale::Beside(0.64)),
    row("list all, gzip, MB", ""),
    row("list all, gzip, CPU s", ""),
    most("page of 500, ms", "287 (proxy)", 6.0, Scale::Beside(48.0)),
    most("namespace of 200, ms", "37", 2.0, Scale::Beside(15.0)),
    most("label selector, 20 of all, ms", "28", 1.0, Scale::Beside(6.0)),
    most("one object, ms", "0.36", 0.15, Scale::Beside(0.28)),
    most("one object, CPU ms", "0.31", 0.05, Scale::Cpu),
    row("an answer of two bytes, ms", ""),
    row("an answer of two bytes, CPU ms", ""),
    most("CPU for one update, ms", "0.6", 0.1, Scale::Cpu),
    // An API server's own watch may show an update before it is answered, so that there is nothing to be in proportion to.
    most("update seen after commit, median, ms", "1.7-2.4", 1.0, Scale::Absolute),
    most("update seen after commit, p99, ms", "3.3-4.5", 2.7, Scale::Absolute),
    most("empty answers while a kind is added", "5.3 s of them", 0.0, Scale::Absolute),
    row("a kind that was added is shown, ms", "5300"),
    row("updates a second while searching", ""),
    most("update found by a query, p99, ms", "", 1000.0, Scale::Absolute),
];

/// An aim over simulated members, for so many objects at least and at most.
struct FleetAim {
    what: &'static str,
    most: f64,
    objects: RangeInclusive<f64>,
    scale: FleetScale,
}

/// How such an aim is taken over to the machine at hand, where a real API server was measured in the same run.
#[derive(Clone, Copy)]
enum FleetScale {
    /// As it is.
    Absolute,
    /// In proportion to kube-apiserver's page of 500.
    Page,
    /// In proportion to the processor time that kube-apiserver takes for a list.
    Cpu,
}

const ANY: RangeInclusive<f64> = 0.0..=f64::INFINITY;
const HUNDRED_THOUSAND: RangeInclusive<f64> = 100_000.0..=100_000.0;
const MILLIONS: RangeInclusive<f64> = 1e6..=f64::INFINITY;
/// Milliseconds of kube-apiserver's page of 500 on the reference machine.
const REFERENCE_PAGE: f64 = 48.0;

const fn fleet(what: &'static str, most: f64, objects: RangeInclusive<f64>, scale: FleetScale) -> FleetAim {
    FleetAim { what, most, objects, scale }
}

/// What is aimed at over simulated members.
const FLEET_AIMS: &[FleetAim] = &[
    fleet("bytes an object above idle", 1024.0, HUNDRED_THOUSAND, FleetScale::Absolute),
    fleet("bytes an object above idle", 700.0, MILLIONS, FleetScale::Absolute),
    fleet("bytes an object above idle, without the index", 1024.0, HUNDRED_THOUSAND, FleetScale::Absolute),
    fleet("bytes an object above idle, without the index", 700.0, MILLIONS, FleetScale::Absolute),
    fleet("resident holding, MiB", 2048.0, ANY, FleetScale::Absolute),
    fleet("first byte of a list of all, ms", 5.0, HUNDRED_THOUSAND, FleetScale::Page),
    fleet("memory of a reader that waits, MiB", 4.0, ANY, FleetScale::Absolute),
    fleet("memory of its reader, MiB", 4.0, ANY, FleetScale::Absolute),
    fleet("filtered page of 500, p99, ms", 20.0, ANY, FleetScale::Page),
    fleet("CPU for one of 1,000 updates a second, ms", 0.1, ANY, FleetScale::Cpu),
    fleet("update seen, p99, ms", 2.7, ANY, FleetScale::Absolute),
    fleet("killed to serving everything, s", 10.0, ANY, FleetScale::Absolute),
    fleet("lists that this took", 0.0, ANY, FleetScale::Absolute),
    fleet("KiB a watch, its objects included", 32.0, ANY, FleetScale::Absolute),
    fleet("updates of others later by our following a flood, %", 10.0, ANY, FleetScale::Absolute),
];

/// Everything that one run has measured.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    machine: String,
    time: String,
    /// On real API servers, by size.
    pub(crate) real: Vec<Report>,
    /// Over simulated members, by size.
    pub(crate) fleets: Vec<Figures>,
    /// Watches on which nothing happens, and a flood.
    pub(crate) storm: Option<Figures>,
}

/// Figures by what they are of, in the order they were measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures(Vec<(String, f64)>);

impl Figures {
    pub(crate) fn set(&mut self, what: &str, value: f64) {
        self.0.push((what.to_owned(), value));
    }

    pub(crate) fn get(&self, what: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| known == what).map(|(_, value)| *value)
    }
}

/// The figures of one size on a real API server: a column a server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pods: usize,
    columns: BTreeMap<String, BTreeMap<String, f64>>,
}

/// A table's rows, its head first.
pub(crate) type Table = Vec<Vec<String>>;

/// A figure with as many digits as mean something.
fn shown(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        1.0.. => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

impl Report {
    pub(crate) fn new(pods: usize) -> Self {
        Self { pods, columns: BTreeMap::new() }
    }

    pub(crate) fn set(&mut self, column: &str, what: &'static str, value: f64) {
        self.columns.entry(column.to_owned()).or_default().insert(what.to_owned(), value);
    }

    pub(crate) fn value(&self, column: &str, what: &str) -> Option<f64> {
        self.columns.get(column)?.get(what).copied()
    }

    fn get(&self, column: &str, what: &str) -> String {
        self.value(column, what).map_or_else(String::new, shown)
    }

    /// How much more processor time this machine takes than the reference machine for the same.
    fn processor_factor(&self) -> Option<f64> {
        let sizes = self.pods as f64 / REFERENCE_PODS;
        Some(self.value(THEIRS, "list all, CPU s")? / REFERENCE_CPU / sizes)
    }

    /// What an aim comes to on this machine with so many pods.
    fn bound(&self, aim: &Aim) -> Option<Bound> {
        let factor = match aim.scale {
            Scale::Absolute => 1.0,
            Scale::Beside(reference) => self.value(THEIRS, aim.what)? / reference,
            Scale::Cpu => self.processor_factor()?,
            Scale::CpuOfAll => self.processor_factor()? * self.pods as f64 / REFERENCE_PODS,
        };
        Some(aim.bound?.times(factor))
    }

    fn table(&self) -> Table {
        let others: Vec<&String> = self.columns.keys().filter(|name| *name != OURS).collect();
        let mut head = vec!["work".to_owned(), OURS.to_owned(), "aim".to_owned(), "met".to_owned()];
        head.extend(others.iter().map(ToString::to_string));
        let there = ["aim", THEIRS, "karmada-search"].map(|what| format!("{what}, reference machine, 10,000 pods"));
        head.extend(there);
        let rows = AIMS.iter().map(|aim| {
            let bound = self.bound(aim);
            let is_met = bound.zip(self.value(OURS, aim.what)).map(|(bound, value)| bound.is_met(value));
            let met = is_met.map_or("", |is_met| if is_met { "yes" } else { "no" });
            let shown_bound = |bound: Option<Bound>| bound.map_or_else(String::new, Bound::shown);
            let mut row = vec![aim.what.to_owned(), self.get(OURS, aim.what), shown_bound(bound), met.to_owned()];
            row.extend(others.iter().map(|name| self.get(name, aim.what)));
            let reference = match aim.scale {
                Scale::Beside(reference) => shown(reference),
                Scale::Absolute | Scale::Cpu | Scale::CpuOfAll => String::new(),
            };
            row.extend([shown_bound(aim.bound), reference, aim.original.to_owned()]);
            row
        });
        std::iter::once(head).chain(rows).collect()
    }
}

impl Results {
    pub(crate) fn new() -> Self {
        let time = jiff::Timestamp::now().to_string();
        Self { machine: machine(), time, real: Vec::new(), fleets: Vec::new(), storm: None }
    }

    /// What it was measured on and when.
    pub(crate) fn origin(&self) -> String {
        format!("{}, {}", self.machine, self.time)
    }

    /// All tables, each with its title.
    pub(crate) fn tables(&self) -> Vec<(String, Table)> {
        let real =
            self.real.iter().map(|report| (format!("{} pods in one real API server", report.pods), report.table()));
        let mut tables: Vec<_> = real.collect();
        if !self.fleets.is_empty() {
            let sizes = self.fleets.iter().map(|figures| shown(figures.get("objects").unwrap_or_default()));
            let table = self.fleet_table(sizes.collect(), &self.fleets);
            tables.push(("Pods in simulated clusters of 2,000 each".to_owned(), table));
        }
        if let Some(storm) = &self.storm {
            let table = self.fleet_table(vec!["figure".to_owned()], std::slice::from_ref(storm));
            tables.push(("Ten kinds of many simulated clusters, hardly any objects".to_owned(), table));
        }
        tables
    }

    /// What an aim comes to on this machine.
    fn most(&self, aim: &FleetAim) -> f64 {
        let report = self.real.first();
        let theirs = |what: &str| report.and_then(|report| report.value(THEIRS, what));
        let factor = match aim.scale {
            FleetScale::Absolute => None,
            FleetScale::Page => theirs("page of 500, ms").map(|page| page / REFERENCE_PAGE),
            FleetScale::Cpu => report.and_then(Report::processor_factor),
        };
        aim.most * factor.unwrap_or(1.0)
    }

    /// A column for each of several figures, and what is aimed at.
    fn fleet_table(&self, names: Vec<String>, columns: &[Figures]) -> Table {
        let mut head = vec!["work".to_owned()];
        head.extend(names);
        head.extend(["aim", "met", "aim, reference machine"].map(str::to_owned));
        let mut whats: Vec<&String> = Vec::new();
        for (what, _) in columns.iter().flat_map(|figures| &figures.0) {
            if !whats.contains(&what) {
                whats.push(what);
            }
        }
        let rows = whats.into_iter().map(|what| {
            let mut row = vec![what.clone()];
            row.extend(columns.iter().map(|figures| figures.get(what).map_or_else(String::new, shown)));
            let (mut aims, mut reference, mut met) = (Vec::new(), Vec::new(), Vec::new());
            let is_about = |aim: &&FleetAim| {
                let mut sizes = columns.iter().filter_map(|figures| figures.get("objects"));
                aim.what == what && sizes.any(|objects| aim.objects.contains(&objects))
            };
            for aim in FLEET_AIMS.iter().filter(is_about) {
                let most = self.most(aim);
                aims.push(format!("<= {}", shown(most)));
                reference.push(format!("<= {}", shown(aim.most)));
                for figures in columns {
                    let objects = figures.get("objects").unwrap_or_default();
                    if let Some(value) = figures.get(what).filter(|_| aim.objects.contains(&objects)) {
                        met.push(if value <= most { "yes" } else { "no" });
                    }
                }
            }
            row.extend([aims.join(", "), met.join(", "), reference.join(", ")]);
            row
        });
        std::iter::once(head).chain(rows).collect()
    }

    pub(crate) fn print(&self) -> Result<()> {
        let mut output = std::io::stdout().lock();
        writeln!(output, "{}", self.origin())?;
        for (title, table) in self.tables() {
            writeln!(output, "\n{title}\n")?;
            for (at, row) in table.iter().enumerate() {
                writeln!(output, "| {} |", row.join(" | "))?;
                if at == 0 {
                    writeln!(output, "|{}", "-|".repeat(row.len()))?;
                }
            }
        }
        Ok(output.flush()?)
    }
}

/// Processor and memory of this machine.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    format!("{cores} cores of {model}, {} GiB", kibibytes.unwrap_or(0_u64) >> 20)
}
