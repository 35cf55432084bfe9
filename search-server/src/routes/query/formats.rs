//! What an answer looks like: JSON, a table, YAML, a line for each object, or a spreadsheet's rows; whole objects or fields.
//!
//! Whatever the form, objects are written while they are sent, a chunk at a time.

use apiservice::error::ApiError;
use apiservice::table::{CLOSE, IncludeObject, TableMeta};
use axum::body::Body;
use axum::response::Response;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use indexer::entry::Entry;
use indexer::query::Field;
use indexer::query::document::{Document, Facts};
use indexer::query::evaluate::field_values;
use indexer::raw::CACHED_FROM_CLUSTER;
use indexer::resource::ClusterName;
use indexer::search::Hit;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::rows::{Rows, served};
use super::yaml;
use crate::routes::body::{ListBody, Objects, Render, Verbatim};
use crate::routes::list::wants_table;

/// Where the next page begins, of answers with no place for it in their body.
const CONTINUE: HeaderName = HeaderName::from_static("x-continue");
/// Objects that come behind, of answers with no place for it in their body.
const REMAINING: HeaderName = HeaderName::from_static("x-remaining-item-count");

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Table,
    Yaml,
    /// An object a line.
    Lines,
    Csv,
}

impl Format {
    /// What the parameter says; without it, the first form that the client accepts.
    pub(super) fn of(parameter: Option<&str>, headers: &HeaderMap) -> Result<Self, ApiError> {
        match parameter {
            Some("json") => return Ok(Self::Json),
            Some("table") => return Ok(Self::Table),
            Some("yaml") => return Ok(Self::Yaml),
            Some("ndjson") => return Ok(Self::Lines),
            Some("csv") => return Ok(Self::Csv),
            Some(other) if !other.is_empty() => {
                let message = format!("format: json, yaml, ndjson, csv or table is expected, not {other:?}");
                return Err(ApiError::bad_request(message));
            }
            _ if wants_table(headers) => return Ok(Self::Table),
            _ => {}
        }
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let wanted = accepted.flat_map(|value| value.split(',')).filter(|word| !is_unwanted(word));
        let types = wanted.map(|word| word.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
        let known = types.filter_map(|media| match media.as_str() {
            "*/*" | "application/*" | "application/json" => Some(Self::Json),
            "application/yaml" => Some(Self::Yaml),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Some(Self::Lines),
            "text/csv" => Some(Self::Csv),
            _ => None,
        });
        Ok(known.into_iter().next().unwrap_or(Self::Json))
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Json | Self::Table => "application/json",
            Self::Yaml => "application/yaml",
            Self::Lines => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8; header=present",
        }
    }
}

/// `text/csv;q=0` is what a client does not want.
fn is_unwanted(accepted: &str) -> bool {
    accepted.split(';').skip(1).any(|parameter| parameter.trim().eq_ignore_ascii_case("q=0"))
}

/// How an answer is to look.
pub(super) struct Shape {
    pub(super) format: Format,
    /// Only these fields of each object; whole objects if none.
    pub(super) fields: Option<Vec<Field>>,
    /// Fields that have columns of their own in tables.
    pub(super) columns: Vec<Field>,
    /// What a table's rows carry.
    pub(super) include: IncludeObject,
}

impl Shape {
    /// The answer with these objects.
    pub(super) fn answer(self, hits: Vec<Hit>, metadata: &TableMeta) -> Result<Response, ApiError> {
        let format = self.format;
        let mut response = Response::new(self.body(hits, metadata)?);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
        if matches!(format, Format::Lines | Format::Csv) {
            if let Some(token) = Some(&metadata.continue_token).filter(|token| !token.is_empty())
                && let Ok(token) = HeaderValue::from_str(token)
            {
                headers.insert(CONTINUE, token);
            }
            if let Some(remaining) = metadata.remaining_item_count {
                headers.insert(REMAINING, HeaderValue::from(remaining));
            }
        }
        Ok(response)
    }

    fn body(self, hits: Vec<Hit>, metadata: &TableMeta) -> Result<Body, ApiError> {
        let is_empty = hits.is_empty();
        let objects = Objects::Found(hits.into_iter());
        let unwritable =
            |error: &dyn std::fmt::Display| ApiError::internal(format!("the list's head cannot be written: {error}"));
        let Self { format, fields, columns, include } = self;
        Ok(match format {
            Format::Table => {
                let rows = Rows { fields: columns, include, now: Timestamp::now() };
                let head = apiservice::table::open(metadata, &rows.columns())?;
                Body::new(ListBody::new(head, objects, rows, CLOSE))
            }
            Format::Json => {
                let metadata = serde_json::to_string(metadata).map_err(|error| unwritable(&error))?;
                let head = format!(r#"{{"apiVersion":"v1","kind":"List","metadata":{metadata},"items":["#);
                match fields {
                    None => Body::new(ListBody::new(head, objects, Verbatim, "]}\n")),
                    Some(fields) => Body::new(ListBody::new(head, objects, Projected(fields), "]}\n")),
                }
            }
            Format::Yaml => {
                let metadata = serde_json::to_string(metadata).map_err(|error| unwritable(&error))?;
                // JSON is YAML too.
                let items = if is_empty { "items: []\n" } else { "items:\n" };
                let head = format!("apiVersion: v1\nkind: List\nmetadata: {metadata}\n{items}");
                Body::new(ListBody::new(head, objects, YamlItems(fields), "").separated_by(""))
            }
            Format::Lines => Body::new(ListBody::new(String::new(), objects, Lines(fields), "").separated_by("")),
            Format::Csv => {
                let rows = CsvRows(columns);
                let head = String::from_utf8(rows.head()).map_err(|error| unwritable(&error))?;
                Body::new(ListBody::new(head, objects, rows, "").separated_by(""))
            }
        })
    }
}

/// What is seen of an object.
struct Seen<'a> {
    cluster: &'a ClusterName,
    entry: &'a Entry,
    document: Document,
}

impl<'a> Seen<'a> {
    /// None if it is no object: it was one when it came in, so that does not happen.
    fn of(cluster: &'a ClusterName, entry: &'a Entry, object: &[u8]) -> Option<Self> {
        Some(Self { cluster, entry, document: Document::read(object)? })
    }

    fn text(&self, step: &str) -> String {
        let values = self.document.at(&[step.to_owned()]);
        values.first().and_then(|value| value.as_str()).unwrap_or_default().to_owned()
    }

    fn values(&self, field: &Field) -> Vec<Value> {
        let served = served(&self.text("apiVersion"), &self.text("kind"));
        let facts = Facts {
            cluster: self.cluster,
            served: &served,
            namespace: self.entry.namespace(),
            name: self.entry.name(),
            labels: self.entry.labels(),
        };
        field_values(field, &facts, &self.document)
    }

    /// Who it is, and the values of some fields.
    fn projection(&self, fields: &[Field]) -> Value {
        let mut metadata = Map::new();
        metadata.insert("name".to_owned(), json!(self.entry.name()));
        if !self.entry.namespace().is_empty() {
            metadata.insert("namespace".to_owned(), json!(self.entry.namespace()));
        }
        metadata.insert("annotations".to_owned(), json!({ CACHED_FROM_CLUSTER: self.cluster }));
        let values: Map<String, Value> =
            fields.iter().map(|field| (field.to_string(), Value::Array(self.values(field)))).collect();
        json!({ "apiVersion": self.text("apiVersion"), "kind": self.text("kind"), "metadata": metadata, "fields": values })
    }
}

/// Only some fields of each object.
pub(super) struct Projected(pub(super) Vec<Field>);

impl Render for Projected {
    fn render(&mut self, cluster: &ClusterName, entry: &Entry, object: &[u8], output: &mut Vec<u8>) {
        let seen = Seen::of(cluster, entry, object).map(|seen| seen.projection(&self.0));
        output.extend_from_slice(seen.unwrap_or_default().to_string().as_bytes());
    }
}

/// Items of a YAML list.
struct YamlItems(Option<Vec<Field>>);

impl Render for YamlItems {
    fn render(&mut self, cluster: &ClusterName, entry: &Entry, object: &[u8], output: &mut Vec<u8>) {
        let value = match &self.0 {
            Some(fields) => Seen::of(cluster, entry, object).map(|seen| seen.projection(fields)),
            None => serde_json::from_slice(object).ok(),
        };
        output.extend_from_slice(b"- ");
        yaml::write(&value.unwrap_or_default(), 1, output);
    }
}

/// An object a line.
struct Lines(Option<Vec<Field>>);

impl Render for Lines {
    fn render(&mut self, cluster: &ClusterName, entry: &Entry, object: &[u8], output: &mut Vec<u8>) {
        match &self.0 {
            Some(fields) => Projected(fields.clone()).render(cluster, entry, object, output),
            // Between tokens a line's end is a blank; within texts it is always escaped.
            None => output.extend(object.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte })),
        }
        output.push(b'\n');
    }
}

/// Rows of a spreadsheet.
struct CsvRows(Vec<Field>);

impl CsvRows {
    fn head(&self) -> Vec<u8> {
        let usual = ["cluster", "kind", "namespace", "name"].map(str::to_owned);
        csv_row(usual.into_iter().chain(self.0.iter().map(ToString::to_string)))
    }
}

impl Render for CsvRows {
    fn render(&mut self, cluster: &ClusterName, entry: &Entry, object: &[u8], output: &mut Vec<u8>) {
        let Some(seen) = Seen::of(cluster, entry, object) else { return };
        let usual =
            [cluster.as_str().to_owned(), seen.text("kind"), entry.namespace().to_owned(), entry.name().to_owned()];
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let named = self.0.iter().map(|field| {
            let values: Vec<String> = seen.values(field).iter().map(plain).collect();
            values.join(" ")
        });
        output.extend(csv_row(usual.into_iter().chain(named)));
    }
}

fn csv_row(cells: impl Iterator<Item = String>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    // Writing to memory cannot fail.
    let _ = writer.write_record(cells.collect::<Vec<_>>());
    writer.into_inner().unwrap_or_default()
}
