//! The table of aims with this run's figures, for people and as JSON.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use serde_json::{Value, json};

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

/// The figures of one run: a column a server.
pub(crate) struct Report {
    pods: usize,
    columns: BTreeMap<String, BTreeMap<&'static str, f64>>,
}

impl Report {
    pub(crate) fn new(pods: usize) -> Self {
        Self { pods, columns: BTreeMap::new() }
    }

    pub(crate) fn set(&mut self, column: &str, what: &'static str, value: f64) {
        self.columns.entry(column.to_owned()).or_default().insert(what, value);
    }

    fn get(&self, column: &str, what: &str) -> String {
        let value = self.columns.get(column).and_then(|figures| figures.get(what));
        value.map_or_else(String::new, |value| match value.abs() {
            100.0.. => format!("{value:.0}"),
            1.0.. => format!("{value:.1}"),
            _ => format!("{value:.3}"),
        })
    }

    pub(crate) fn print(&self) -> Result<()> {
        let mut output = std::io::stdout().lock();
        writeln!(output, "{} pods, one member, {}\n", self.pods, machine())?;
        let others: Vec<&String> = self.columns.keys().filter(|name| *name != "fleetglass").collect();
        write!(output, "| {:38} | {:>10} | {:>8} ", "work", "fleetglass", "aim")?;
        for name in &others {
            write!(output, "| {name:>14} ")?;
        }
        writeln!(output, "| karmada-search, on the reference machine |")?;
        writeln!(output, "|-|-|-{}|-|", "|-".repeat(others.len()))?;
        for Aim { what, original, aim } in AIMS {
            write!(output, "| {what:38} | {:>10} | {aim:>8} ", self.get("fleetglass", what))?;
            for name in &others {
                write!(output, "| {:>14} ", self.get(name, what))?;
            }
            writeln!(output, "| {original:>12} |")?;
        }
        output.flush()?;
        Ok(())
    }

    pub(crate) fn to_json(&self) -> Result<Value> {
        let now = jiff::Timestamp::now().to_string();
        Ok(json!({ "pods": self.pods, "machine": machine(), "time": now, "figures": self.columns }))
    }
}

/// Processor and memory of this machine.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores of {model}")
}
