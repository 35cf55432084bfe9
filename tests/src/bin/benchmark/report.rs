//! The tables of aims with this run's figures, for people and as JSON.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// A row: what is measured, what karmada-search took for 10,000 pods of 7.8 KB on two cores, and what is aimed at.
struct Aim {
    what: &'static str,
    original: &'static str,
    aim: &'static str,
}

const fn aim(what: &'static str, original: &'static str, aim: &'static str) -> Aim {
    Aim { what, original, aim }
}

const AIMS: &[Aim] = &[
    aim("resident idle, MiB", "", ""),
    aim("resident holding, MiB", "715", ""),
    aim("bytes an object above idle", "54272 (heap)", "<= 1024"),
    aim("resident at the end, MiB", "1150", ""),
    aim("first sync, s", "", ""),
    aim("first sync, CPU s", "9.5", "<= 1.0"),
    aim("list all, s", "2.1", "<= 0.1"),
    aim("list all, CPU s", "3.1", "<= 0.1"),
    aim("list all, MB/s", "37", ""),
    aim("list all, 8 readers, lists/s", "0.47", ">= 12"),
    aim("peak resident, 8 readers, MiB", "12450", "<= 150"),
    aim("of it for the readers, MiB", "", ""),
    aim("list all, gzip, s", "2.1 (plain)", "<= 0.4"),
    aim("list all, gzip, MB", "", ""),
    aim("namespace of 200, ms", "37", "<= 2"),
    aim("label selector, 20 of all, ms", "28", "<= 1"),
    aim("one object, ms", "0.36", "<= 0.15"),
    aim("one object, CPU ms", "0.31", "<= 0.05"),
    aim("CPU for one update, ms", "0.6", "<= 0.1"),
    aim("update seen after commit, median, ms", "1.7-2.4", "<= 1.0"),
    aim("update seen after commit, p99, ms", "3.3-4.5", "<= 2.7"),
    aim("updates a second while searching", "", ""),
    aim("update found by a query, p99, ms", "", "<= 1000"),
];

/// What is aimed at over simulated members.
const FLEET_AIMS: &[(&str, &str)] = &[
    ("bytes an object above idle", "<= 1024, from 1,000,000 on <= 700"),
    ("resident holding, MiB", "<= 2048"),
    ("first byte of a list of all, ms", "<= 5"),
    ("memory of a reader that waits, MiB", "<= 4"),
    ("memory of its reader, MiB", "<= 4"),
    ("filtered page of 500, p99, ms", "<= 20"),
    ("CPU for one of 1,000 updates a second, ms", "<= 0.1"),
    ("update seen, p99, ms", "<= 2.7"),
    ("killed to serving everything, s", "<= 10"),
    ("lists that this took", "0"),
    ("KiB a watch, its objects included", "<= 32"),
    ("during a flood, p99, ms", "<= 1.1 x without"),
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

    fn get(&self, column: &str, what: &str) -> String {
        self.columns.get(column).and_then(|figures| figures.get(what)).map_or_else(String::new, |value| shown(*value))
    }

    fn table(&self) -> Table {
        let others: Vec<&String> = self.columns.keys().filter(|name| *name != "fleetglass").collect();
        let mut head = vec!["work".to_owned(), "fleetglass".to_owned(), "aim".to_owned()];
        head.extend(others.iter().map(ToString::to_string));
        head.push("karmada-search, on the reference machine, 10,000 pods".to_owned());
        let rows = AIMS.iter().map(|Aim { what, original, aim }| {
            let mut row = vec![(*what).to_owned(), self.get("fleetglass", what), (*aim).to_owned()];
            row.extend(others.iter().map(|name| self.get(name, what)));
            row.push((*original).to_owned());
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
            tables.push(("Pods in simulated clusters of 2,000 each".to_owned(), table(sizes.collect(), &self.fleets)));
        }
        if let Some(storm) = &self.storm {
            let table = table(vec!["figure".to_owned()], std::slice::from_ref(storm));
            tables.push(("Ten kinds of many simulated clusters, hardly any objects".to_owned(), table));
        }
        tables
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

/// A column for each of several figures, and the aims.
fn table(names: Vec<String>, columns: &[Figures]) -> Table {
    let mut head = vec!["work".to_owned()];
    head.extend(names);
    head.push("aim".to_owned());
    let mut whats: Vec<&String> = Vec::new();
    for (what, _) in columns.iter().flat_map(|figures| &figures.0) {
        if !whats.contains(&what) {
            whats.push(what);
        }
    }
    let rows = whats.into_iter().map(|what| {
        let mut row = vec![what.clone()];
        row.extend(columns.iter().map(|figures| figures.get(what).map_or_else(String::new, shown)));
        row.push(FLEET_AIMS.iter().find(|(known, _)| known == what).map_or("", |(_, aim)| aim).to_owned());
        row
    });
    std::iter::once(head).chain(rows).collect()
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
