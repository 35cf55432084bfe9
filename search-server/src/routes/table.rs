//! Tables: what `kubectl get` prints, a row an object.

use apiservice::table::{CLOSE, Column, IncludeObject, Row, RowObject, TableMeta};
use indexer::cache::Snapshot;
use indexer::entry::Entry;
use indexer::resource::{ClusterName, GroupVersionResource};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::body::Render;
use crate::columns::{CustomColumn, Printer};

/// Makes rows of objects.
pub(super) struct Rows {
    printer: Printer,
    columns: Vec<Column>,
    include_object: IncludeObject,
    now: Timestamp,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

impl Rows {
    /// Rows for the objects of a kind; custom columns are those of the first cluster that describes some.
    pub(super) fn new(
        resource: &GroupVersionResource,
        kind: &str,
        snapshot: &Snapshot,
        include_object: IncludeObject,
    ) -> Self {
        let described = snapshot.parts.values().find(|part| !part.printer_columns.is_empty());
        let custom: Vec<CustomColumn> =
            described.map(|part| part.printer_columns.iter().map(custom_column).collect()).unwrap_or_default();
        Self::with_columns(resource, kind, &custom, include_object)
    }

    /// Rows with the usual columns of a kind, and those that clusters describe for it.
    pub(super) fn with_columns(
        resource: &GroupVersionResource,
        kind: &str,
        custom: &[CustomColumn],
        include_object: IncludeObject,
    ) -> Self {
        let printer = Printer::for_kind(&resource.group, kind, custom);
        Self { columns: printer.definitions(), printer, include_object, now: Timestamp::now() }
    }

    pub(super) fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn row(&self, cluster: &ClusterName, object: &[u8]) -> Row {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).map_or(RowObject::None, RowObject::Object);
        let shown = match (self.include_object, str::from_utf8(object)) {
            (IncludeObject::Object, Ok(text)) => raw(text),
            (IncludeObject::Metadata, Ok(text)) => serde_json::from_str::<Head<'_>>(text)
                .map_or(RowObject::None, |head| RowObject::Metadata(head.metadata.to_owned())),
            _ => RowObject::None,
        };
        Row { cells: self.printer.cells(object, cluster.as_str(), self.now), object: shown }
    }

    /// Appends a table of one row, the form that a watch event has.
    pub(super) fn append_table(&mut self, cluster: &ClusterName, object: &[u8], output: &mut Vec<u8>) {
        self.now = Timestamp::now();
        if let Ok(head) = apiservice::table::open(&TableMeta::default(), &self.columns) {
            output.extend_from_slice(head.as_bytes());
            self.append_row(cluster, object, output);
            output.extend_from_slice(CLOSE.trim_end().as_bytes());
        }
    }

    fn append_row(&self, cluster: &ClusterName, object: &[u8], output: &mut Vec<u8>) {
        // Cells are plain JSON values and the object was JSON before, so this cannot fail; a row must not be half written.
        output.extend_from_slice(&serde_json::to_vec(&self.row(cluster, object)).unwrap_or_default());
    }
}

fn custom_column(column: &indexer::connection::PrinterColumn) -> CustomColumn {
    CustomColumn {
        name: column.name.clone(),
        kind: column.kind.clone(),
        format: column.format.clone(),
        description: column.description.clone(),
        json_path: column.json_path.clone(),
        priority: column.priority,
    }
}

impl Render for Rows {
    fn render(&mut self, cluster: &ClusterName, _entry: &Entry, object: &[u8], output: &mut Vec<u8>) {
        self.append_row(cluster, object, output);
    }
}
