//! Tables (meta.k8s.io/v1 `Table`): the answer that `kubectl get` prints, and the short durations it shows.
//!
//! In: column definitions and rows from whoever knows the kind. Out: JSON, whole ([`Table`]) or in pieces
//! ([`open`], [`Row`], [`CLOSE`]) for lists too long to hold.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::ApiError;

/// What each row says about its object beside the cells; the query parameter `includeObject`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata; what a request gets that doesn't say.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// Reads `includeObject` from a query string.
    ///
    /// # Errors
    /// 400 for a value that is not known.
    pub fn parse(query: &str) -> Result<Self, ApiError> {
        let value = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "includeObject");
        match value.as_ref().map(|(_, value)| value.as_ref()) {
            None | Some("" | "Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(ApiError::bad_request(format!(
                "unrecognized includeObject value: {other:?}; use None, Metadata or Object"
            ))),
        }
    }
}

/// A table of any number of rows.
#[derive(Debug, Clone, Serialize)]
pub struct Table {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: TableMeta,
    #[serde(rename = "columnDefinitions")]
    columns: Vec<Column>,
    rows: Vec<Row>,
}

/// `metadata` of a table, which is that of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TableMeta {
    /// Version of the list.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Where the next page begins.
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_token: String,
    /// How many objects the limit cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_item_count: Option<i64>,
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date` (shown as an age).
    #[serde(rename = "type")]
    pub kind: String,
    /// `name` marks the column that identifies the row.
    pub format: String,
    /// What the column tells.
    pub description: String,
    /// 0 is always shown, higher only with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// A column that is always shown.
    pub fn new(name: &str, kind: &str, description: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: kind.to_owned(),
            format: String::new(),
            description: description.to_owned(),
            priority: 0,
        }
    }

    /// The column of object names.
    pub fn name(description: &str) -> Self {
        Self { format: "name".to_owned(), ..Self::new("Name", "string", description) }
    }

    /// The same column, shown only with `-o wide`.
    #[must_use]
    pub fn wide(self) -> Self {
        Self { priority: 1, ..self }
    }
}

/// One row.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// One value for each column.
    pub cells: Vec<Value>,
    /// The object behind the row; `null` if none was asked for.
    pub object: RowObject,
}

/// The object behind a row.
#[derive(Debug, Clone, Default)]
pub enum RowObject {
    /// Not asked for.
    #[default]
    None,
    /// Its `metadata`, as JSON.
    Metadata(Box<RawValue>),
    /// The whole object, as JSON with `apiVersion` and `kind`.
    Object(Box<RawValue>),
}

impl Serialize for RowObject {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_none(),
            Self::Metadata(metadata) => PartialObjectMetadata::new(metadata).serialize(serializer),
            Self::Object(object) => object.serialize(serializer),
        }
    }
}

/// An object of which only the metadata is shown.
#[derive(Debug, Clone, Serialize)]
pub struct PartialObjectMetadata<'a> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: &'a RawValue,
}

impl<'a> PartialObjectMetadata<'a> {
    /// Around the JSON of an object's `metadata`.
    pub fn new(metadata: &'a RawValue) -> Self {
        Self { kind: "PartialObjectMetadata", api_version: "meta.k8s.io/v1", metadata }
    }
}

/// A list of which only the objects' metadata is shown.
#[derive(Debug, Clone, Serialize)]
pub struct PartialObjectMetadataList<'a> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: TableMeta,
    items: Vec<PartialObjectMetadata<'a>>,
}

impl<'a> PartialObjectMetadataList<'a> {
    /// Around the JSON of the objects' `metadata`.
    pub fn new(metadata: TableMeta, items: impl IntoIterator<Item = &'a RawValue>) -> Self {
        let items = items.into_iter().map(PartialObjectMetadata::new).collect();
        Self { kind: "PartialObjectMetadataList", api_version: "meta.k8s.io/v1", metadata, items }
    }
}

impl Table {
    /// A table of these rows. In a watch, only the first event's table needs columns.
    pub fn new(metadata: TableMeta, columns: Vec<Column>, rows: Vec<Row>) -> Self {
        Self { kind: "Table", api_version: "meta.k8s.io/v1", metadata, columns, rows }
    }
}

/// The beginning of a table's JSON, up to where the rows go. Rows follow with commas between them, then [`CLOSE`].
///
/// # Errors
/// 500 if the metadata cannot be written, which plain strings always can.
pub fn open(metadata: &TableMeta, columns: &[Column]) -> Result<String, ApiError> {
    let write = |result: serde_json::Result<String>| result.map_err(|error| ApiError::internal(error.to_string()));
    Ok(format!(
        r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{},"columnDefinitions":{},"rows":["#,
        write(serde_json::to_string(metadata))?,
        write(serde_json::to_string(columns))?,
    ))
}

/// The end of a table's JSON.
pub const CLOSE: &str = "]}\n";

/// How long ago `then` was, as kubectl prints ages.
pub fn age(then: Timestamp, now: Timestamp) -> String {
    human_duration(now.as_second() - then.as_second())
}

/// A number of seconds as kubectl prints it: two units while the bigger one is small, then one.
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let one = |unit: i64, letter: char| format!("{}{letter}", seconds / unit);
    let two = |unit: i64, letter: char, below: i64, below_letter: char| match seconds % unit / below {
        0 => one(unit, letter),
        rest => format!("{}{letter}{rest}{below_letter}", seconds / unit),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(MINUTE, 'm', 1, 's'),
        600..10_800 => one(MINUTE, 'm'),
        10_800..28_800 => two(HOUR, 'h', MINUTE, 'm'),
        28_800..172_800 => one(HOUR, 'h'),
        172_800..691_200 => two(DAY, 'd', HOUR, 'h'),
        691_200..63_072_000 => one(DAY, 'd'),
        63_072_000..252_288_000 => two(YEAR, 'y', DAY, 'd'),
        _ => one(YEAR, 'y'),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(-5, "<invalid>")]
    #[case(-1, "0s")]
    #[case(0, "0s")]
    #[case(119, "119s")]
    #[case(120, "2m")]
    #[case(135, "2m15s")]
    #[case(600, "10m")]
    #[case(179 * 60 + 59, "179m")]
    #[case(3 * 3600, "3h")]
    #[case(3 * 3600 + 61 * 60, "4h1m")]
    #[case(8 * 3600 + 59 * 60, "8h")]
    #[case(47 * 3600, "47h")]
    #[case(48 * 3600, "2d")]
    #[case(5 * 86_400 + 3 * 3600, "5d3h")]
    #[case(8 * 86_400 + 3600, "8d")]
    #[case(700 * 86_400, "700d")]
    #[case(730 * 86_400, "2y")]
    #[case(800 * 86_400, "2y70d")]
    #[case(3000 * 86_400, "8y")]
    fn an_age_reads_as_in_kubectl(#[case] seconds: i64, #[case] expected: &str) {
        assert_eq!(human_duration(seconds), expected);
    }

    #[test]
    fn a_table_in_pieces_is_the_table_as_a_whole() {
        let metadata = TableMeta { resource_version: "7".to_owned(), ..TableMeta::default() };
        let columns = vec![Column::name("The name."), Column::new("Age", "date", "").wide()];
        let raw = RawValue::from_string(r#"{"name":"web"}"#.to_owned()).unwrap();
        let row = Row { cells: vec!["web".into(), Value::Null], object: RowObject::Metadata(raw) };
        let whole = serde_json::to_string(&Table::new(metadata.clone(), columns.clone(), vec![row.clone()])).unwrap();
        let pieces = open(&metadata, &columns).unwrap() + &serde_json::to_string(&row).unwrap() + CLOSE;
        assert_eq!(whole, pieces.trim_end());
        insta::assert_snapshot!(whole, @r#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"7"},"columnDefinitions":[{"name":"Name","type":"string","format":"name","description":"The name.","priority":0},{"name":"Age","type":"date","format":"","description":"","priority":1}],"rows":[{"cells":["web",null],"object":{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"web"}}}]}"#);
    }

    #[rstest]
    #[case("", IncludeObject::Metadata)]
    #[case("includeObject=Object", IncludeObject::Object)]
    #[case("limit=1&includeObject=None", IncludeObject::None)]
    fn include_object_is_read(#[case] query: &str, #[case] expected: IncludeObject) {
        assert_eq!(IncludeObject::parse(query).unwrap(), expected);
        assert_eq!(IncludeObject::parse("includeObject=All").unwrap_err().code(), 400);
    }
}
