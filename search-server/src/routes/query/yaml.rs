//! JSON values as YAML that every reader understands alike: whatever one of them might take for something else is quoted.

use serde_json::Value;

/// Words that YAML 1.1 takes for truths or nothing.
const NOT_PLAIN: [&str; 10] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan"];

/// Writes a value that stands behind a key or a dash, with the line's end; what is below it is indented so far.
pub(super) fn write(value: &Value, indent: usize, output: &mut Vec<u8>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (at, (name, value)) in fields.iter().enumerate() {
                if at > 0 {
                    output.extend(std::iter::repeat_n(b' ', indent * 2));
                }
                output.extend_from_slice(text(name).as_bytes());
                output.push(b':');
                write_below(value, indent, output);
            }
        }
        Value::Array(elements) if !elements.is_empty() => {
            for (at, element) in elements.iter().enumerate() {
                if at > 0 {
                    output.extend(std::iter::repeat_n(b' ', indent * 2));
                }
                output.extend_from_slice(b"- ");
                write(element, indent + 1, output);
            }
        }
        Value::String(string) => line(&text(string), output),
        other => line(&other.to_string(), output),
    }
}

fn write_below(value: &Value, indent: usize, output: &mut Vec<u8>) {
    let is_block = match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(elements) => !elements.is_empty(),
        _ => false,
    };
    if is_block {
        output.push(b'\n');
        output.extend(std::iter::repeat_n(b' ', (indent + 1) * 2));
        write(value, indent + 1, output);
    } else {
        output.push(b' ');
        write(value, indent, output);
    }
}

fn line(text: &str, output: &mut Vec<u8>) {
    output.extend_from_slice(text.as_bytes());
    output.push(b'\n');
}

/// Plain only where nobody can take it for anything else; JSON's texts are YAML's.
fn text(text: &str) -> String {
    let begins = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/');
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "._/-".contains(character);
    let is_word = NOT_PLAIN.iter().any(|word| text.eq_ignore_ascii_case(word));
    match begins && !is_word && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => Value::from(text).to_string().chars().map(visible).collect(),
    }
}

/// What YAML doesn't allow, or what would change how a terminal shows the rest, as an escape.
fn visible(character: char) -> String {
    let is_mark = matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
        || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if character.is_control() || is_mark { format!("\\u{:04x}", u32::from(character)) } else { character.to_string() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn written(value: &Value) -> String {
        let mut output = b"- ".to_vec();
        write(value, 1, &mut output);
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn words_that_some_readers_take_for_truths_are_quoted() {
        let value = json!({ "no": "yes", "a": ["1_000", "on", {}, [], { "b": 1 }], "c": { "d": "=", "e": null } });
        let expected = "- a:\n    - \"1_000\"\n    - \"on\"\n    - {}\n    - []\n    - b: 1\n  c:\n    d: \"=\"\n    e: null\n  \"no\": \"yes\"\n";
        assert_eq!(written(&value), expected);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            "[a-z:# -]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,6}", inner, 0..4).prop_map(|fields| json!(fields)),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in value()) {
            let text = written(&value);
            let read: Vec<Value> = serde_yaml::from_str(&text).unwrap();
            prop_assert_eq!(&read[0], &value, "{}", text);
        }
    }
}
