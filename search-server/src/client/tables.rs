//! Tables for people: aligned columns, and counts.

use std::io::{IsTerminal, Write};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use tabwriter::TabWriter;

use super::pages::{page, tell_of_more};
use super::server::{PAGE, Server};
use crate::args::{Output, SearchArgs};

pub(super) async fn table(server: &Server, args: &SearchArgs, output: &mut (impl Write + IsTerminal)) -> Result<bool> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let (mut found, mut token) = (0, String::new());
    loop {
        let left = if args.limit == 0 { PAGE } else { args.limit - found };
        let (_, text) = page(server, args, "table", left, &token).await?;
        let table: Value = serde_json::from_str(&text).context("the answer is no table")?;
        let columns = table["columnDefinitions"].as_array().into_iter().flatten();
        let columns: Vec<(usize, &Value)> =
            columns.enumerate().filter(|(_, column)| args.output == Output::Wide || column["priority"] == 0).collect();
        if rows.is_empty() && !args.no_headers {
            let names = columns.iter().map(|(_, column)| column["name"].as_str().unwrap_or_default().to_uppercase());
            rows.push(names.collect());
        }
        for row in table["rows"].as_array().into_iter().flatten() {
            rows.push(columns.iter().map(|(at, _)| cell(&row["cells"][at])).collect());
            found += 1;
        }
        token = table["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() || (args.limit > 0 && found >= args.limit) {
            aligned(output, &rows, !args.no_headers)?;
            tell_of_more(table["metadata"]["remainingItemCount"].as_u64().map(|more| more.to_string()).as_deref())?;
            if found == 0 {
                writeln!(std::io::stderr(), "Nothing was found.")?;
            }
            return Ok(found > 0);
        }
    }
}

pub(super) fn cell(value: &Value) -> String {
    plain(&value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

/// Without what would tear a table or what a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    text.replace(|character: char| character.is_control(), " ")
}

/// Writes rows in columns; on a terminal the head stands out.
pub(super) fn aligned(output: &mut (impl Write + IsTerminal), rows: &[Vec<String>], has_head: bool) -> Result<()> {
    if rows.len() < 2 && has_head {
        return Ok(());
    }
    let is_coloured = output.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut table = TabWriter::new(Vec::new()).padding(3);
    for row in rows {
        writeln!(table, "{}", row.join("\t"))?;
    }
    let table = String::from_utf8(table.into_inner().map_err(|error| anyhow!("{error}"))?)?;
    for (at, line) in table.lines().enumerate() {
        let line = line.trim_end();
        match is_coloured && has_head && at == 0 {
            true => writeln!(output, "\u{1b}[1m{line}\u{1b}[0m")?,
            false => writeln!(output, "{line}")?,
        }
    }
    Ok(())
}

pub(super) async fn count(server: &Server, args: &SearchArgs, output: &mut impl Write) -> Result<bool> {
    let total = counted(server, args, "cluster").await?["total"].as_u64().unwrap_or_default();
    writeln!(output, "{total}")?;
    Ok(total > 0)
}

async fn counted(server: &Server, args: &SearchArgs, by: &str) -> Result<Value> {
    let (query, limit) = (args.query(), if args.limit == 0 { PAGE } else { args.limit }.min(PAGE).to_string());
    let cluster = args.cluster.as_deref().unwrap_or_default();
    let parameters = [("q", query.as_str()), ("cluster", cluster), ("by", by), ("limit", &limit)];
    server.json("facets", &parameters).await
}

pub(super) async fn facets(
    server: &Server,
    args: &SearchArgs,
    by: &str,
    output: &mut (impl Write + IsTerminal),
) -> Result<bool> {
    if !matches!(args.output, Output::Table | Output::Wide | Output::Json) {
        bail!("counts are shown with -o table or json");
    }
    let counted = counted(server, args, by).await?;
    if args.output == Output::Json {
        writeln!(output, "{counted}")?;
        return Ok(counted["total"].as_u64() > Some(0));
    }
    for (at, facet) in counted["facets"].as_array().into_iter().flatten().enumerate() {
        if at > 0 {
            writeln!(output)?;
        }
        let head = vec![facet["by"].as_str().unwrap_or_default().to_uppercase(), "COUNT".to_owned()];
        let values = facet["values"].as_array().into_iter().flatten();
        let mut rows: Vec<Vec<String>> = if args.no_headers { Vec::new() } else { vec![head] };
        rows.extend(values.map(|value| vec![cell(&value["value"]), cell(&value["count"])]));
        if let Some(other) = facet["other"].as_u64().filter(|other| *other > 0) {
            rows.push(vec!["(others)".to_owned(), other.to_string()]);
        }
        aligned(output, &rows, !args.no_headers)?;
    }
    Ok(counted["total"].as_u64() > Some(0))
}
