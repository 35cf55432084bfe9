//! `--watch`: what passes a query, and how that changes, until the user has seen enough.
//!
//! The server ends a watch from time to time. The next one begins with everything again, of which only what is new is shown.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use http::StatusCode;
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::Value;

use super::pages::name_of;
use super::server::{Refused, Server, TABLE};
use super::tables::{cell, plain};
use crate::args::{Output, SearchArgs};

/// A server that ends watches at once, or is away, must not be asked without pause.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A server that is there says so each minute.
const LONGEST_SILENCE: Duration = Duration::from_secs(150);
/// Between columns.
const GAP: usize = 3;

/// Shows events until there is trouble or nobody reads any more.
pub(super) async fn follow(server: &Server, args: &SearchArgs, output: &mut impl Write) -> Result<bool> {
    let (format, accept) = match args.output {
        Output::Table | Output::Wide => ("table", TABLE),
        Output::Json | Output::Ndjson | Output::Name => ("json", "application/json"),
        Output::Yaml | Output::Csv => bail!("a watch is shown with -o table, wide, ndjson or name"),
    };
    let query = args.query();
    let parameters = [
        ("q", query.as_str()),
        ("cluster", args.cluster.as_deref().unwrap_or_default()),
        ("fields", args.fields.as_deref().unwrap_or_default()),
        ("format", format),
        ("includeObject", if format == "table" { "Metadata" } else { "" }),
        ("watch", "true"),
    ];
    let mut shown = Shown { args, known: HashMap::new(), seen: None, hasher: RandomState::new(), widths: Vec::new() };
    let mut pause = SHORTEST_PAUSE;
    let mut has_begun = false;
    loop {
        match server.open("query", &parameters, accept).await {
            Ok(response) => {
                (has_begun, pause) = (true, SHORTEST_PAUSE);
                let mut events = Events { body: response.into_body(), read: BytesMut::new() };
                shown.seen = Some(HashMap::new());
                let mut first = Vec::new();
                while let Some(line) = events.next().await? {
                    if !shown.take(&line, &mut first, output)? {
                        break;
                    }
                    output.flush()?;
                }
            }
            // A mistake stays one; a server may come back.
            Err(error) if !has_begun || !may_pass(&error) => return Err(error),
            Err(error) => {
                writeln!(std::io::stderr(), "Warning: {error:#}; trying again")?;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

fn may_pass(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_none_or(|refused| {
        refused.code.is_server_error() || matches!(refused.code, StatusCode::TOO_MANY_REQUESTS | StatusCode::GONE)
    })
}

/// Lines of a stream.
struct Events {
    body: Body,
    read: BytesMut,
}

impl Events {
    async fn next(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end + 1);
                return Ok(Some(str::from_utf8(&line)?.trim_end().to_owned()));
            }
            match tokio::time::timeout(LONGEST_SILENCE, self.body.frame()).await {
                // A watch that breaks off, or of which nothing is heard, is begun anew.
                Err(_) | Ok(None | Some(Err(_))) => return Ok(None),
                Ok(Some(Ok(frame))) => frame.data_ref().into_iter().for_each(|data| self.read.extend_from_slice(data)),
            }
        }
    }
}

/// What the user has seen.
struct Shown<'a> {
    args: &'a SearchArgs,
    /// Objects by name, and what they looked like.
    known: HashMap<String, (u64, Value)>,
    /// The same, of a watch that has not given all yet.
    seen: Option<HashMap<String, (u64, Value)>>,
    hasher: RandomState,
    widths: Vec<usize>,
}

impl Shown<'_> {
    /// Takes a line; what comes first is shown together. False if the server says that the watch has to begin anew.
    fn take(&mut self, line: &str, first: &mut Vec<(&'static str, Value)>, output: &mut impl Write) -> Result<bool> {
        let mut event: Value = serde_json::from_str(line).context("an event is no JSON")?;
        let object = event["object"].take();
        let event_type = match event["type"].as_str() {
            Some("ADDED") => "ADDED",
            Some("MODIFIED") => "MODIFIED",
            Some("DELETED") => "DELETED",
            Some("BOOKMARK") => {
                let Some(seen) = self.seen.take() else { return Ok(true) };
                let gone = self.known.iter().filter(|(name, _)| !seen.contains_key(*name));
                first.extend(gone.map(|(_, (_, object))| ("DELETED", object.clone())));
                self.known = seen;
                return self.write(&std::mem::take(first), output).map(|()| true);
            }
            _ if object["code"] == 410 => return Ok(false),
            _ => bail!("{}", plain(object["message"].as_str().unwrap_or("the watch ended"))),
        };
        let name = self.name(&object);
        let state = self
            .hasher
            .hash_one(if object["rows"].is_array() { &object["rows"][0]["object"] } else { &object }.to_string());
        let Some(seen) = &mut self.seen else {
            match event_type {
                "DELETED" => drop(self.known.remove(&name)),
                _ => drop(self.known.insert(name, (state, object.clone()))),
            }
            return self.write(&[(event_type, object)], output).map(|()| true);
        };
        match self.known.get(&name).map(|(known, _)| *known == state) {
            None => first.push(("ADDED", object.clone())),
            Some(false) => first.push(("MODIFIED", object.clone())),
            Some(true) => {}
        }
        seen.insert(name, (state, object));
        Ok(true)
    }

    fn name(&self, object: &Value) -> String {
        match object["rows"][0]["cells"].as_array() {
            // Cluster, kind, namespace and name.
            Some(cells) => cells.iter().take(4).map(cell).collect::<Vec<_>>().join("/"),
            None => name_of(&object.to_string()).unwrap_or_default(),
        }
    }

    fn write(&mut self, events: &[(&'static str, Value)], output: &mut impl Write) -> Result<()> {
        match self.args.output {
            Output::Table | Output::Wide => self.write_rows(events, output),
            Output::Name => {
                for (event_type, object) in events {
                    writeln!(output, "{event_type} {}", self.name(object))?;
                }
                Ok(())
            }
            _ => {
                for (event_type, object) in events {
                    writeln!(output, r#"{{"type":"{event_type}","object":{object}}}"#)?;
                }
                Ok(())
            }
        }
    }

    fn write_rows(&mut self, events: &[(&'static str, Value)], output: &mut impl Write) -> Result<()> {
        let mut rows = Vec::new();
        for (event_type, table) in events {
            let columns = table["columnDefinitions"].as_array().into_iter().flatten();
            let is_shown: Vec<bool> =
                columns.clone().map(|column| self.args.output == Output::Wide || column["priority"] == 0).collect();
            let shown = |values: Vec<String>| -> Vec<String> {
                values.into_iter().zip(&is_shown).filter(|(_, shown)| **shown).map(|(value, _)| value).collect()
            };
            if self.widths.is_empty() && rows.is_empty() && !self.args.no_headers {
                let names = columns.map(|column| column["name"].as_str().unwrap_or_default().to_uppercase()).collect();
                rows.push([vec!["EVENT".to_owned()], shown(names)].concat());
            }
            let cells = table["rows"][0]["cells"].as_array().into_iter().flatten().map(cell).collect();
            rows.push([vec![(*event_type).to_owned()], shown(cells)].concat());
        }
        for row in &rows {
            self.widths.resize(self.widths.len().max(row.len()), 0);
            let wider = self.widths.iter_mut().zip(row);
            wider.for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
        }
        for row in rows {
            let cells = row.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:0$}", width + GAP));
            writeln!(output, "{}", cells.collect::<String>().trim_end())?;
        }
        Ok(())
    }
}
