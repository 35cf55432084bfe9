//! Being written.

use apiservice::table::Column;
use serde_json::Value;

/// A column of a CustomResourceDefinition.
#[derive(Debug, Clone)]
pub struct CustomColumn {
    /// Heading.
    pub name: String,
    /// Type.
    pub kind: String,
    /// Format.
    pub format: String,
    /// Description.
    pub description: String,
    /// Where the value stands.
    pub json_path: String,
    /// Priority.
    pub priority: i32,
}

/// Prints rows.
#[derive(Debug)]
pub struct Printer;

impl Printer {
    /// For a kind.
    pub fn for_kind(_group: &str, _kind: &str, _custom: &[CustomColumn]) -> Self {
        Self
    }

    /// Columns.
    pub fn definitions(&self) -> Vec<Column> {
        vec![Column::new("Cluster", "string", ""), Column::name("")]
    }

    /// Cells.
    pub fn cells(&self, object: &[u8], cluster: &str, _now: jiff::Timestamp) -> Vec<Value> {
        let object: Value = serde_json::from_slice(object).unwrap_or_default();
        vec![cluster.into(), object["metadata"]["name"].clone()]
    }
}
