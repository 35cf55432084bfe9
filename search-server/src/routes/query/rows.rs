//! What a query found as rows of a table: kinds are mixed, so columns are what all objects have and what the query names.

use apiservice::table::{Column, IncludeObject, Row, RowObject, age};
use indexer::entry::{Entry, LabelSet};
use indexer::query::document::{Document, Facts};
use indexer::query::evaluate::field_texts;
use indexer::query::{Expression, Field};
use indexer::resource::{ApiResource, ClusterName, GroupVersionResource};
use indexer::search::order::Order;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::routes::body::Render;

/// Fields that the query and the order name, which a table shows beside the usual columns.
pub(super) fn named_columns(expression: &Expression, order: &Order) -> Vec<Field> {
    // The plural is another word for the kind, and rows don't know it.
    let usual = [Field::Cluster, Field::Kind, Field::Namespace, Field::Name, Field::Created, Field::Resource];
    let mut fields: Vec<Field> = Vec::new();
    for field in expression.fields().into_iter().chain(order.fields()) {
        if !usual.contains(field) && !fields.contains(field) {
            fields.push(field.clone());
        }
    }
    fields
}

/// What a wide table shows beside.
const WIDE: [Field; 3] = [Field::Image, Field::Owner, Field::Changed];

/// Rows of mixed kinds.
pub(super) struct Rows {
    pub(super) fields: Vec<Field>,
    pub(super) include: IncludeObject,
    pub(super) now: Timestamp,
}

impl Rows {
    pub(super) fn columns(&self) -> Vec<Column> {
        let mut columns = vec![
            Column::new("Cluster", "string", "The cluster that the object is in."),
            Column::new("Kind", "string", "What it is."),
            Column::new("Namespace", "string", "Its namespace, if it has one."),
            Column::name("Name of the object."),
            Column::new("Age", "string", "Time since it was created."),
        ];
        columns.extend(
            self.fields.iter().map(|field| Column::new(&field.to_string(), "string", "As the query names it.")),
        );
        columns
            .extend(self.wide().map(|field| Column::new(&field.to_string(), "string", "What queries call so.").wide()));
        columns
    }

    /// Fields that are shown where there is room.
    fn wide(&self) -> impl Iterator<Item = &Field> {
        WIDE.iter().filter(|field| !self.fields.contains(field))
    }

    fn row(&self, cluster: &ClusterName, entry: &Entry, object: &[u8]) -> Row {
        let document = Document::read(object);
        let text = |steps: &[&str]| {
            let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
            let values = document.as_ref().map(|document| document.at(&steps)).unwrap_or_default();
            values.first().and_then(|value| value.as_str()).unwrap_or_default().to_owned()
        };
        let (kind, api_version) = (text(&["kind"]), text(&["apiVersion"]));
        let created = document.as_ref().and_then(Document::created);
        let shown_age = created.map_or_else(|| "<unknown>".to_owned(), |created| age(created, self.now));
        let mut cells =
            vec![json!(cluster.as_str()), json!(kind), json!(entry.namespace()), json!(entry.name()), json!(shown_age)];
        let served = served(&api_version, &kind);
        let labels: &LabelSet = entry.labels();
        let facts = Facts { cluster, served: &served, namespace: entry.namespace(), name: entry.name(), labels };
        cells.extend(self.fields.iter().chain(self.wide()).map(|field| {
            let values = field_texts(field, &facts, document.as_ref());
            json!(if values.is_empty() { "<none>".to_owned() } else { values.join(",") })
        }));
        Row { cells, object: self.object(object) }
    }

    fn object(&self, object: &[u8]) -> RowObject {
        let raw = |text: &str| serde_json::value::RawValue::from_string(text.to_owned()).ok();
        let text = str::from_utf8(object).unwrap_or_default();
        let shown = match self.include {
            IncludeObject::None => None,
            IncludeObject::Object => raw(text).map(RowObject::Object),
            IncludeObject::Metadata => {
                let metadata = serde_json::from_str::<Value>(text).ok().map(|value| value["metadata"].to_string());
                metadata.as_deref().and_then(raw).map(RowObject::Metadata)
            }
        };
        shown.unwrap_or(RowObject::None)
    }
}

/// What an object says of itself; its plural is known to its cluster only and is no column.
pub(super) fn served(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let gvr = GroupVersionResource::new(group, version, "");
    ApiResource { gvr, kind: kind.into(), namespaced: true, watchable: true }
}

impl Render for Rows {
    fn render(&mut self, cluster: &ClusterName, entry: &Entry, object: &[u8], output: &mut Vec<u8>) {
        // Cells are plain JSON values and the object was JSON before, so this cannot fail.
        output.extend_from_slice(&serde_json::to_vec(&self.row(cluster, entry, object)).unwrap_or_default());
    }
}
