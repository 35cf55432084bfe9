//! Objects page by page, in the forms that programs read.

use std::io::Write;

use anyhow::Result;
use http::HeaderMap;
use serde_json::Value;

use super::server::{PAGE, Server, TABLE};
use super::tables::plain;
use crate::args::{Output, SearchArgs};

/// A page of what was asked for, behind a token.
pub(super) async fn page(
    server: &Server,
    args: &SearchArgs,
    format: &str,
    limit: usize,
    token: &str,
) -> Result<(HeaderMap, String)> {
    let fields = if args.output == Output::Name { Some("name") } else { args.fields.as_deref() };
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    let (query, limit) = (args.query(), limit.clamp(1, PAGE).to_string());
    let (cluster, order) = (text(args.cluster.as_deref()), text(args.order_by.as_deref()));
    let parameters = [
        ("q", query.as_str()),
        ("cluster", &cluster),
        ("orderBy", &order),
        ("limit", &limit),
        ("continue", token),
        ("fields", fields.unwrap_or_default()),
        ("format", format),
        ("includeObject", if format == "table" { "None" } else { "" }),
    ];
    server.get("query", &parameters, if format == "table" { TABLE } else { "*/*" }).await
}

pub(super) async fn list(server: &Server, args: &SearchArgs, format: &str, output: &mut impl Write) -> Result<bool> {
    let (_, text) = page(server, args, format, args.limit, "").await?;
    output.write_all(text.as_bytes())?;
    let head = &text[..text.floor_char_boundary(text.find("items").unwrap_or(text.len()))];
    let more = head.split_once("\"remainingItemCount\":").map(|(_, rest)| rest);
    let more: Option<String> = more.map(|rest| rest.chars().take_while(char::is_ascii_digit).collect());
    tell_of_more(more.as_deref())?;
    Ok(!text.ends_with("\"items\":[]}\n") && !text.ends_with("items: []\n"))
}

/// Says that there is more than is shown.
pub(super) fn tell_of_more(more: Option<&str>) -> Result<()> {
    if let Some(more) = more.filter(|more| !matches!(*more, "" | "0")) {
        writeln!(std::io::stderr(), "{more} more; --limit says how many are shown, 0 for all")?;
    }
    Ok(())
}

/// Lines of as many pages as it takes, each as `show` has it.
pub(super) async fn pages(
    server: &Server,
    args: &SearchArgs,
    format: &str,
    output: &mut impl Write,
    show: impl Fn(&str) -> Option<String>,
) -> Result<bool> {
    let (mut found, mut token) = (0, String::new());
    loop {
        let left = if args.limit == 0 { PAGE } else { args.limit - found };
        let (headers, text) = page(server, args, format, left, &token).await?;
        let is_first = token.is_empty();
        found += match format {
            "csv" => write_records(&text, is_first && !args.no_headers, output)?,
            _ => write_lines(&text, &show, output)?,
        };
        token = headers.get("x-continue").and_then(|token| token.to_str().ok()).unwrap_or_default().to_owned();
        if token.is_empty() || (args.limit > 0 && found >= args.limit) {
            tell_of_more(headers.get("x-remaining-item-count").and_then(|more| more.to_str().ok()))?;
            return Ok(found > 0);
        }
    }
}

fn write_lines(text: &str, show: impl Fn(&str) -> Option<String>, output: &mut impl Write) -> Result<usize> {
    for line in text.lines() {
        if let Some(line) = show(line) {
            writeln!(output, "{line}")?;
        }
    }
    Ok(text.lines().count())
}

/// Rows as they came; a cell may have several lines.
fn write_records(text: &str, has_head: bool, output: &mut impl Write) -> Result<usize> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader.headers()?;
    let behind_head = usize::try_from(reader.position().byte())?;
    let shown = if has_head { text } else { text.get(behind_head..).unwrap_or_default() };
    output.write_all(shown.as_bytes())?;
    Ok(reader.records().count())
}

/// `CLUSTER/NAMESPACE/KIND/NAME`, without a namespace where there is none.
pub(super) fn name_of(line: &str) -> Option<String> {
    let object: Value = serde_json::from_str(line).ok()?;
    let metadata = &object["metadata"];
    let cluster = metadata["annotations"][indexer::raw::CACHED_FROM_CLUSTER].as_str()?;
    let namespace = metadata["namespace"].as_str().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    let name = format!("{cluster}/{namespace}{}/{}", object["kind"].as_str()?, metadata["name"].as_str()?);
    // Names of snapshots may hold anything, also what a terminal would obey.
    Some(plain(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_where_the_object_is() {
        let line = r#"{"kind":"Pod","metadata":{"name":"web","namespace":"shop","annotations":{"resource.karmada.io/cached-from-cluster":"east"}}}"#;
        assert_eq!(name_of(line).unwrap(), "east/shop/Pod/web");
        assert_eq!(name_of("rubbish"), None);
    }
}
