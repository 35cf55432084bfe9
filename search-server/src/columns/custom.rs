//! Columns that a CustomResourceDefinition asks for.
//!
//! In: names and Kubernetes' JSONPaths. Out: cells. The paths are translated to the JSONPath of RFC 9535, whose dotted names
//! know neither hyphens nor escaped dots. A path that can't be translated, or leads nowhere, gives an empty cell.

use apiservice::table::Column;
use jiff::Timestamp;
use serde_json::Value;
use serde_json_path::JsonPath;

use super::read::since;

/// A column that a CustomResourceDefinition asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomColumn {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: String,
    /// OpenAPI format.
    pub format: String,
    /// What the column tells.
    pub description: String,
    /// Where the value stands.
    pub json_path: String,
    /// 0 is always shown, higher only with `-o wide`.
    pub priority: i32,
}

/// Columns with their paths read.
#[derive(Debug)]
pub(super) struct CustomCells(Vec<(CustomColumn, Option<JsonPath>)>);

impl CustomCells {
    pub(super) fn new(columns: &[CustomColumn]) -> Self {
        let read = |column: &CustomColumn| (column.clone(), JsonPath::parse(&translate(&column.json_path)).ok());
        Self(columns.iter().map(read).collect())
    }

    pub(super) fn columns(&self) -> impl Iterator<Item = Column> {
        self.0.iter().map(|(column, _)| Column {
            format: column.format.clone(),
            priority: column.priority,
            ..Column::new(&column.name, &column.kind, &column.description)
        })
    }

    /// The name, and a cell for each column.
    pub(super) fn cells(&self, object: &[u8], now: Timestamp) -> Vec<Value> {
        let object: Value = serde_json::from_slice(object).unwrap_or_default();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let custom = self.0.iter().map(|(column, path)| {
            let found = path.as_ref().and_then(|path| path.query(&object).first());
            found.map_or(Value::Null, |value| cell(&column.kind, value, now))
        });
        std::iter::once(name.into()).chain(custom).collect()
    }
}

/// A value as a column of a type shows it; empty if it has another type.
fn cell(kind: &str, value: &Value, now: Timestamp) -> Value {
    match (kind, value) {
        ("string", Value::Null) => Value::Null,
        ("string", Value::String(text)) => text.as_str().into(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(number)) => number.as_i64().map_or_else(|| whole(number.as_f64()), Value::from),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match since(text, now) {
            unknown if unknown == "<unknown>" => "<invalid>".into(),
            age => age.into(),
        },
        _ => Value::Null,
    }
}

/// A number without what comes behind its point.
fn whole(number: Option<f64>) -> Value {
    number.and_then(|number| format!("{:.0}", number.trunc()).parse::<i64>().ok()).map_or(Value::Null, Value::from)
}

/// Kubernetes' JSONPath (`.metadata.labels.my\.label`) as RFC 9535 has it (`$['metadata']['labels']['my.label']`).
fn translate(path: &str) -> String {
    let path = path.trim();
    let path = path.strip_prefix('{').and_then(|path| path.strip_suffix('}')).unwrap_or(path);
    let path = path.strip_prefix('$').unwrap_or(path);
    let mut translated = String::from("$");
    let rest = steps(path, &mut translated, false);
    // What is left is no path; kept, so that it is refused and not half understood.
    translated.push_str(rest);
    translated
}

/// Translates steps until something comes that is none; gives back what comes then. Within a filter a step's name ends
/// where the comparison begins.
fn steps<'a>(mut rest: &'a str, translated: &mut String, in_filter: bool) -> &'a str {
    loop {
        if let Some(behind) = rest.strip_prefix("..") {
            translated.push_str("..");
            rest = name(behind, translated, in_filter);
        } else if let Some(behind) = rest.strip_prefix('.') {
            rest = name(behind, translated, in_filter);
        } else if rest.starts_with('[') {
            let Some(end) = closing(rest) else { return rest };
            bracket(&rest[1..end], translated);
            rest = &rest[end + 1..];
        } else {
            return rest;
        }
    }
}

/// One name behind a dot.
fn name<'a>(text: &'a str, translated: &mut String, in_filter: bool) -> &'a str {
    if let Some(behind) = text.strip_prefix('*') {
        translated.push_str("[*]");
        return behind;
    }
    let ends = |character: char| match character {
        '.' | '[' | ']' => true,
        _ => in_filter && (character.is_whitespace() || "=!<>&|)".contains(character)),
    };
    let mut name = String::new();
    let mut characters = text.char_indices();
    let mut end = text.len();
    while let Some((at, character)) = characters.next() {
        if character == '\\' {
            name.extend(characters.next().map(|(_, escaped)| escaped));
        } else if ends(character) {
            end = at;
            break;
        } else {
            name.push(character);
        }
    }
    if !name.is_empty() {
        translated.push_str("['");
        translated.push_str(&name.replace('\\', "\\\\").replace('\'', "\\'"));
        translated.push_str("']");
    }
    &text[end..]
}

/// Where the bracket that opens `text` is closed; brackets in quotes don't count.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut quote = None;
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => quote = Some(character),
            (None, '[') => depth += 1,
            (None, ']') if depth == 1 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

/// What stands between brackets: an index, a slice and a quoted name stay; paths in filters are translated.
fn bracket(inside: &str, translated: &mut String) {
    translated.push('[');
    if inside.trim_start().starts_with('?') {
        let mut rest = inside;
        while let Some(at) = rest.find('@') {
            translated.push_str(&rest[..=at]);
            rest = steps(&rest[at + 1..], translated, true);
        }
        translated.push_str(rest);
    } else {
        translated.push_str(inside);
    }
    translated.push(']');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case(".spec.replicas", json!(3))]
    #[case("{.spec.replicas}", json!(3))]
    #[case("$.spec.replicas", json!(3))]
    #[case(".metadata.labels.my-label", json!("yes"))]
    #[case(r".metadata.labels.app\.kubernetes\.io/name", json!("web"))]
    #[case(".metadata.labels['app.kubernetes.io/name']", json!("web"))]
    #[case(r#".status.conditions[?(@.type=="Ready")].status"#, json!("True"))]
    #[case(".status.conditions[?(@.type == 'Ready')].status", json!("True"))]
    #[case(r#".status.conditions[?(@.with-hyphen=="x")].type"#, json!("Other"))]
    #[case(".status.conditions[0].type", json!("Other"))]
    #[case(".status.conditions[-1:].type", json!("Ready"))]
    #[case(".status.conditions[*].type", json!("Other"))]
    #[case(".status.*", json!([{"type": "Other", "with-hyphen": "x"}, {"type": "Ready", "status": "True"}]))]
    #[case("..replicas", json!(3))]
    fn paths_as_definitions_write_them_find_their_value(#[case] path: &str, #[case] expected: Value) {
        let object = json!({
            "metadata": {"labels": {"my-label": "yes", "app.kubernetes.io/name": "web"}},
            "spec": {"replicas": 3},
            "status": {"conditions": [{"type": "Other", "with-hyphen": "x"}, {"type": "Ready", "status": "True"}]},
        });
        let translated = translate(path);
        let found = JsonPath::parse(&translated).unwrap_or_else(|error| panic!("{translated}: {error}"));
        assert_eq!(found.query(&object).first(), Some(&expected), "{translated}");
    }

    #[rstest]
    #[case("spec.replicas")]
    #[case(".spec[")]
    #[case(".spec]x")]
    #[case(".spec[?(@.a]")]
    fn what_is_no_path_is_refused(#[case] path: &str) {
        assert!(JsonPath::parse(&translate(path)).is_err(), "{path} became {}", translate(path));
    }

    #[rstest]
    #[case("string", json!("text"), json!("text"))]
    #[case("string", json!(5), json!("5"))]
    #[case("string", json!(["a", 1]), json!("[\"a\",1]"))]
    #[case("string", json!(null), json!(null))]
    #[case("integer", json!(5), json!(5))]
    #[case("integer", json!(5.9), json!(5))]
    #[case("integer", json!("5"), json!(null))]
    #[case("number", json!(5.5), json!(5.5))]
    #[case("boolean", json!(true), json!(true))]
    #[case("boolean", json!("true"), json!(null))]
    #[case("date", json!("2025-03-01T00:00:00Z"), json!("9d"))]
    #[case("date", json!("yesterday"), json!("<invalid>"))]
    #[case("date", json!(7), json!(null))]
    fn a_value_shows_as_its_columns_type(#[case] kind: &str, #[case] value: Value, #[case] expected: Value) {
        let now = "2025-03-10T12:00:00Z".parse().unwrap();
        assert_eq!(cell(kind, &value, now), expected);
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic(path in r#"[.\[\]?@'"\\a-c*()= {}-]{0,24}"#) {
            let _ = JsonPath::parse(&translate(&path));
        }
    }
}
