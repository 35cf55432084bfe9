//! `fleetglass search`: asks a running server and shows the answer, for people on a terminal and for programs behind a pipe.
//!
//! The server is reached like any Kubernetes API server, by a kubeconfig: directly, or through the control plane it is part of.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use form_urlencoded::Serializer;
use http::header::{ACCEPT, WARNING};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use indexer::query::{QueryError, parse};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tabwriter::TabWriter;

use crate::args::{Output, SearchArgs, default_kubeconfig};

const SEARCH: &str = "/apis/search.karmada.io/v1alpha1/search";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
/// The largest page that a server gives.
const PAGE: usize = 10_000;
/// What was asked could not be asked.
const TROUBLE: u8 = 2;

/// Asks, shows, and says by its exit code whether something was found.
pub(crate) async fn run(args: SearchArgs) -> ExitCode {
    let mut output = std::io::stdout();
    match ask(&args, &mut output).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Who reads no further has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; there is nobody left to tell then.
            let _ = writeln!(std::io::stderr(), "fleetglass: {error:#}");
            ExitCode::from(TROUBLE)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe)
}

/// Whether something was found.
async fn ask(args: &SearchArgs, output: &mut (impl Write + IsTerminal)) -> Result<bool> {
    let query = args.query();
    parse(&query).map_err(|error| anyhow!("{}", pointed_out(&query, &error)))?;
    let is_list = args.by.is_none() && !args.count && matches!(args.output, Output::Json | Output::Yaml);
    if is_list && !(1..=PAGE).contains(&args.limit) {
        bail!("a list has one page, of {PAGE} objects at most; take -o table, ndjson, csv or name for more");
    }
    let server = Server { client: client(args).await?, is_partial: Cell::new(false) };
    let found = show(&server, args, output).await?;
    if server.is_partial.get() {
        bail!("not all could be looked at");
    }
    Ok(found)
}

/// Shows what was asked for; whether something was found.
async fn show(server: &Server, args: &SearchArgs, output: &mut (impl Write + IsTerminal)) -> Result<bool> {
    if let Some(by) = &args.by {
        return facets(server, args, by, output).await;
    }
    if args.count {
        return count(server, args, output).await;
    }
    match args.output {
        Output::Table => table(server, args, output).await,
        Output::Name => pages(server, args, "ndjson", output, name_of).await,
        Output::Ndjson => pages(server, args, "ndjson", output, |line| Some(line.to_owned())).await,
        Output::Csv => pages(server, args, "csv", output, |line| Some(line.to_owned())).await,
        Output::Json => list(server, args, "json", output).await,
        Output::Yaml => list(server, args, "yaml", output).await,
    }
}

/// The query with a mark below the character that is wrong.
fn pointed_out(query: &str, error: &QueryError) -> String {
    let before: String = query.chars().take(error.character.saturating_sub(1)).map(|_| ' ').collect();
    format!("{error}\n  {query}\n  {before}^")
}

async fn client(args: &SearchArgs) -> Result<Client> {
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    let file = args.kubeconfig.clone().or_else(own_kubeconfig);
    let config = match file {
        Some(file) => {
            let kubeconfig = Kubeconfig::read_from(&file).with_context(|| format!("kubeconfig {}", file.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &options).await?
        }
        None => Config::from_kubeconfig(&options).await.context("no kubeconfig to find the server by")?,
    };
    Ok(Client::try_from(config)?)
}

/// That of a server without a control plane, where kubectl has none of its own.
fn own_kubeconfig() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let has_kubectls =
        variable("KUBECONFIG").is_some() || variable("HOME").is_some_and(|home| home.join(".kube/config").exists());
    let own = default_kubeconfig();
    (!has_kubectls && own.exists()).then_some(own)
}

/// Who is asked.
struct Server {
    client: Client,
    /// Whether an answer was cut by the server's deadline.
    is_partial: Cell<bool>,
}

impl Server {
    async fn get(&self, what: &str, parameters: &[(&str, &str)], accept: &str) -> Result<(HeaderMap, String)> {
        let given = parameters.iter().filter(|(_, value)| !value.is_empty());
        let query = Serializer::new(String::new()).extend_pairs(given).finish();
        let request = Request::get(format!("{SEARCH}/{what}?{query}")).header(ACCEPT, accept).body(Body::empty())?;
        let response = self.client.send(request).await.context("the server can't be reached")?;
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await?.to_bytes().to_vec())?;
        if !parts.status.is_success() {
            let status: Value = serde_json::from_str(&text).unwrap_or_default();
            let message = status["message"].as_str().or_else(|| status["error"].as_str());
            let message = message.map_or_else(|| format!("the server answers {}", parts.status), str::to_owned);
            if parts.status == StatusCode::NOT_FOUND && message.contains("could not find") {
                let own = default_kubeconfig();
                bail!("{message}: this server has no search API; for one of your own: --kubeconfig {}", own.display());
            }
            bail!("{message}");
        }
        for warning in parts.headers.get_all(WARNING) {
            let text = warning.to_str().unwrap_or_default();
            if text.contains("the answer is partial") {
                self.is_partial.set(true);
            }
            // As kubectl shows them: only what stands in quotes.
            let text = text.split_once('"').map_or(text, |(_, quoted)| quoted.trim_end_matches('"'));
            writeln!(std::io::stderr(), "Warning: {}", text.replace("\\\"", "\""))?;
        }
        Ok((parts.headers, text))
    }

    /// A page of what was asked for, behind a token.
    async fn page(&self, args: &SearchArgs, format: &str, limit: usize, token: &str) -> Result<(HeaderMap, String)> {
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
        self.get("query", &parameters, if format == "table" { TABLE } else { "*/*" }).await
    }
}

async fn list(server: &Server, args: &SearchArgs, format: &str, output: &mut impl Write) -> Result<bool> {
    let (_, text) = server.page(args, format, args.limit, "").await?;
    output.write_all(text.as_bytes())?;
    let head = &text[..text.floor_char_boundary(text.find("items").unwrap_or(text.len()))];
    let more = head.split_once("\"remainingItemCount\":").map(|(_, rest)| rest);
    let more: Option<String> = more.map(|rest| rest.chars().take_while(char::is_ascii_digit).collect());
    tell_of_more(more.as_deref())?;
    Ok(!text.ends_with("\"items\":[]}\n") && !text.ends_with("items: []\n"))
}

/// Says that there is more than is shown.
fn tell_of_more(more: Option<&str>) -> Result<()> {
    if let Some(more) = more.filter(|more| !matches!(*more, "" | "0")) {
        writeln!(std::io::stderr(), "{more} more; --limit says how many are shown, 0 for all")?;
    }
    Ok(())
}

/// Lines of as many pages as it takes, each as `show` has it.
async fn pages(
    server: &Server,
    args: &SearchArgs,
    format: &str,
    output: &mut impl Write,
    show: impl Fn(&str) -> Option<String>,
) -> Result<bool> {
    let (mut found, mut token) = (0, String::new());
    loop {
        let left = if args.limit == 0 { PAGE } else { args.limit - found };
        let (headers, text) = server.page(args, format, left, &token).await?;
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
fn name_of(line: &str) -> Option<String> {
    let object: Value = serde_json::from_str(line).ok()?;
    let metadata = &object["metadata"];
    let cluster = metadata["annotations"][indexer::raw::CACHED_FROM_CLUSTER].as_str()?;
    let namespace = metadata["namespace"].as_str().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    Some(format!("{cluster}/{namespace}{}/{}", object["kind"].as_str()?, metadata["name"].as_str()?))
}

async fn table(server: &Server, args: &SearchArgs, output: &mut (impl Write + IsTerminal)) -> Result<bool> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let (mut found, mut token) = (0, String::new());
    loop {
        let left = if args.limit == 0 { PAGE } else { args.limit - found };
        let (_, text) = server.page(args, "table", left, &token).await?;
        let table: Value = serde_json::from_str(&text).context("the answer is no table")?;
        if rows.is_empty() && !args.no_headers {
            let columns = table["columnDefinitions"].as_array().into_iter().flatten();
            rows.push(columns.map(|column| column["name"].as_str().unwrap_or_default().to_uppercase()).collect());
        }
        for row in table["rows"].as_array().into_iter().flatten() {
            rows.push(row["cells"].as_array().into_iter().flatten().map(cell).collect());
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

fn cell(value: &Value) -> String {
    // A line's end or a tab inside of a cell would tear the table.
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.replace(|character: char| character.is_control(), " ")
}

/// Writes rows in columns; on a terminal the head stands out.
fn aligned(output: &mut (impl Write + IsTerminal), rows: &[Vec<String>], has_head: bool) -> Result<()> {
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

async fn count(server: &Server, args: &SearchArgs, output: &mut impl Write) -> Result<bool> {
    let total = counted(server, args, "cluster").await?["total"].as_u64().unwrap_or_default();
    writeln!(output, "{total}")?;
    Ok(total > 0)
}

async fn counted(server: &Server, args: &SearchArgs, by: &str) -> Result<Value> {
    let (query, limit) = (args.query(), if args.limit == 0 { PAGE } else { args.limit }.min(PAGE).to_string());
    let cluster = args.cluster.as_deref().unwrap_or_default();
    let parameters = [("q", query.as_str()), ("cluster", cluster), ("by", by), ("limit", &limit)];
    let (_, text) = server.get("facets", &parameters, "application/json").await?;
    serde_json::from_str(&text).context("the answer is no JSON")
}

async fn facets(server: &Server, args: &SearchArgs, by: &str, output: &mut (impl Write + IsTerminal)) -> Result<bool> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_marked_below_its_character() {
        let query = "kind:Pod namspace:shop";
        let shown = pointed_out(query, &parse(query).unwrap_err());
        assert!(shown.ends_with("\n  kind:Pod namspace:shop\n           ^"), "{shown}");
    }

    #[test]
    fn a_name_says_where_the_object_is() {
        let line = r#"{"kind":"Pod","metadata":{"name":"web","namespace":"shop","annotations":{"resource.karmada.io/cached-from-cluster":"east"}}}"#;
        assert_eq!(name_of(line).unwrap(), "east/shop/Pod/web");
        assert_eq!(name_of("rubbish"), None);
    }
}
