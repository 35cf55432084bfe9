//! Saved objects for OpenSearch Dashboards: index patterns, searches, visualisations and boards over the documents that
//! [`indexer::backend`] writes.
//!
//! In: `dashboards/opensearch/boards.yaml`, which says what each panel counts, and the mapping of documents. Out: the objects, one a
//! line, as Dashboards exports and imports them.

mod import;
mod saved;

use std::io::Write;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::args::DashboardsArgs;

const BOARDS: &str = include_str!("../../dashboards/opensearch/boards.yaml");
/// Panels' width where none is given, of [`WHOLE_WIDTH`].
const USUAL_WIDTH: u32 = 24;
const WHOLE_WIDTH: u32 = 48;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    searches: Vec<Search>,
    boards: Vec<Board>,
}

/// Documents as rows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    name: String,
    title: String,
    #[serde(default)]
    query: String,
    columns: Vec<String>,
    /// The latest first, within the time that the board shows.
    #[serde(default)]
    timed: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Board {
    name: String,
    title: String,
    /// Whether it shows a span of time instead of the present.
    #[serde(default)]
    timed: bool,
    panels: Vec<Panel>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Panel {
    Rows(Rows),
    Chart(Chart),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    search: String,
    #[serde(default = "usual_width")]
    width: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Chart {
    title: String,
    shape: Shape,
    #[serde(default)]
    query: String,
    #[serde(default)]
    metric: Metric,
    #[serde(default)]
    by: Vec<Split>,
    #[serde(default = "usual_width")]
    width: u32,
}

fn usual_width() -> u32 {
    USUAL_WIDTH
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Shape {
    Metric,
    Bar,
    Line,
    Pie,
    Table,
}

/// What is counted.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Metric {
    /// Documents.
    #[default]
    Count,
    /// Different values of a field.
    CountOf(String),
    /// A field's values together.
    Sum(String),
}

/// What it is split by.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Split {
    /// The most frequent values of a field.
    Field { field: String, size: u32 },
    /// Time.
    Date { date: String },
}

/// Prints the boards, or imports them.
///
/// # Errors
/// If they can't be printed, or Dashboards doesn't take them.
pub(crate) async fn run(args: DashboardsArgs) -> Result<()> {
    let objects = saved_objects(&args.index_prefix)?;
    let Some(url) = &args.import else {
        let lines: String = objects.iter().map(|object| format!("{object}\n")).collect();
        std::io::stdout().write_all(lines.as_bytes())?;
        return Ok(());
    };
    let imported = import::import(url, objects, &args).await?;
    writeln!(std::io::stderr(), "{imported} objects written to {url}")?;
    Ok(())
}

/// All saved objects, for documents behind the alias `PREFIX-objects`.
///
/// # Errors
/// If what the program brings along can't be read.
fn saved_objects(prefix: &str) -> Result<Vec<Value>> {
    let source: Source = serde_yaml::from_str(BOARDS).context("boards.yaml")?;
    saved::objects(&source, prefix)
}
