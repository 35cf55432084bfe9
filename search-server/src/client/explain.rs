//! `--explain`: why a query finds what it finds, as a tree of its parts.

use std::io::Write;

use anyhow::Result;
use serde_json::Value;

use super::server::Server;
use super::tables::cell;
use crate::args::{Output, SearchArgs};

/// Shows the explanation; whether something passes.
pub(super) async fn show(server: &Server, args: &SearchArgs, of: &str, output: &mut impl Write) -> Result<bool> {
    let of = if of.is_empty() { "true" } else { of };
    let cluster = args.cluster.as_deref().unwrap_or_default();
    let told = server.json("query", &[("q", &args.query()), ("cluster", cluster), ("explain", of)]).await?;
    let passes = told["matches"].as_bool().unwrap_or_else(|| told["clause"]["objects"].as_u64() > Some(0));
    if args.output == Output::Json {
        writeln!(output, "{told}")?;
        return Ok(passes);
    }
    if told["object"].is_string() {
        let object = cell(&told["object"]);
        writeln!(output, "{object} {}", if passes { "is found" } else { "is not found" })?;
    }
    for reason in told["reasons"].as_array().into_iter().flatten().map(cell) {
        writeln!(output, "  {reason}")?;
    }
    if told["clause"].is_object() {
        let mut lines = Vec::new();
        tree(&told["clause"], 0, &mut lines);
        let width = lines.iter().map(|(clause, _)| clause.chars().count()).max().unwrap_or(0);
        for (clause, says) in lines {
            writeln!(output, "{}", format!("{clause:width$}   {says}").trim_end())?;
        }
    }
    Ok(passes)
}

fn tree(part: &Value, depth: usize, lines: &mut Vec<(String, String)>) {
    let clause = cell(&part["clause"]);
    let mark = match part["holds"].as_bool() {
        Some(true) => "yes  ",
        Some(false) => "no   ",
        None => "",
    };
    let says = match (&part["found"], part["objects"].as_u64()) {
        (Value::Array(values), _) if values.is_empty() => "it has none".to_owned(),
        (Value::Array(values), _) => {
            let values: Vec<String> = values.iter().map(cell).collect();
            format!("it has {}", values.join(", "))
        }
        (_, Some(objects)) => format!("{objects} objects"),
        _ if part["holds"].is_null() => "not counted in time".to_owned(),
        _ => String::new(),
    };
    lines.push((format!("{mark}{}{clause}", "  ".repeat(depth)), says));
    for inner in part["parts"].as_array().into_iter().flatten() {
        tree(inner, depth + 1, lines);
    }
}
