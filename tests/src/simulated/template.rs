//! An object's JSON, cut once at the places where objects differ, so that one is written by copying pieces.

use std::ops::Range;

use anyhow::{Context, Result};

/// What stands at a place where objects differ; named as in the templates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Name,
    Namespace,
    Uid,
    Owner,
    Version,
    Generation,
    Application,
    Product,
    Component,
    Tier,
    Revision,
    Release,
    Memory,
    Cpu,
    Created,
    Changed,
    Released,
    ConfigSum,
    ImageSum,
    Container,
    Machine,
    Volume,
    Node,
    HostAddress,
    PodAddress,
    ServiceAddress,
    Ready,
    ReadyStatus,
    Restarts,
}

impl Field {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "name" => Self::Name,
            "namespace" => Self::Namespace,
            "uid" => Self::Uid,
            "owner" => Self::Owner,
            "version" => Self::Version,
            "generation" => Self::Generation,
            "app" => Self::Application,
            "product" => Self::Product,
            "component" => Self::Component,
            "tier" => Self::Tier,
            "hash" => Self::Revision,
            "release" => Self::Release,
            "memory" => Self::Memory,
            "cpu" => Self::Cpu,
            "created" => Self::Created,
            "changed" => Self::Changed,
            "released" => Self::Released,
            "config_sum" => Self::ConfigSum,
            "image_sum" => Self::ImageSum,
            "container" => Self::Container,
            "machine" => Self::Machine,
            "volume" => Self::Volume,
            "node" => Self::Node,
            "host_ip" => Self::HostAddress,
            "pod_ip" => Self::PodAddress,
            "service_ip" => Self::ServiceAddress,
            "ready" => Self::Ready,
            "ready_status" => Self::ReadyStatus,
            "restarts" => Self::Restarts,
            _ => return None,
        })
    }
}

/// A template, cut.
#[derive(Debug)]
pub(crate) struct Template {
    text: String,
    /// Pieces of the text, each with the field behind it.
    pieces: Vec<(Range<usize>, Option<Field>)>,
}

impl Template {
    /// Cuts the members of a JSON object, in which `$name` stands for a field.
    ///
    /// # Errors
    /// If a field isn't known.
    pub(crate) fn parse(source: &str) -> Result<Self> {
        let text = without_blanks(source);
        let mut pieces = Vec::new();
        let mut from = 0;
        while let Some(found) = text[from..].find('$') {
            let end = from + found;
            let rest = &text[end + 1..];
            let length = rest.find(|letter: char| !letter.is_ascii_lowercase() && letter != '_').unwrap_or(rest.len());
            let name = &rest[..length];
            let field = Field::parse(name).with_context(|| format!("templates know no field {name:?}"))?;
            pieces.push((from..end, Some(field)));
            from = end + 1 + length;
        }
        pieces.push((from..text.len(), None));
        Ok(Self { text, pieces })
    }

    /// Writes an object's members; `write` does so for a field.
    pub(crate) fn fill(&self, buffer: &mut Vec<u8>, write: impl Fn(&mut Vec<u8>, Field)) {
        for (piece, field) in &self.pieces {
            buffer.extend_from_slice(&self.text.as_bytes()[piece.clone()]);
            if let Some(field) = field {
                write(buffer, *field);
            }
        }
    }
}

/// JSON as servers write it: without blanks outside of strings.
fn without_blanks(source: &str) -> String {
    let (mut within, mut escaped) = (false, false);
    let keep = |letter: &char| {
        let kept = within || !letter.is_ascii_whitespace();
        if *letter == '"' && !escaped {
            within = !within;
        }
        escaped = *letter == '\\' && !escaped;
        kept
    };
    source.chars().filter(keep).collect()
}

/// Writes a number with at least so many digits.
pub(crate) fn push_decimal(buffer: &mut Vec<u8>, number: usize, digits: usize) {
    let mut text = [b'0'; 20];
    let (mut at, mut rest) = (text.len(), number);
    while rest > 0 && at > 0 {
        at -= 1;
        text[at] = b"0123456789"[rest % 10];
        rest /= 10;
    }
    buffer.extend_from_slice(&text[at.min(text.len() - digits)..]);
}

/// Writes the last so many hexadecimal digits of a number.
pub(crate) fn push_hex(buffer: &mut Vec<u8>, number: u64, digits: usize) {
    for digit in (0..digits).rev() {
        buffer.push(b"0123456789abcdef"[((number >> (4 * digit)) & 15) as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_template_names_them() {
        let template = Template::parse("\"a\": \"x $app-$hash\\\" y\",\n \"b\" : $ready").unwrap();
        let mut buffer = Vec::new();
        template.fill(&mut buffer, |buffer, field| buffer.extend_from_slice(format!("<{field:?}>").as_bytes()));
        let text = String::from_utf8(buffer).unwrap();
        assert_eq!(text, "\"a\":\"x <Application>-<Revision>\\\" y\",\"b\":<Ready>");
    }

    #[test]
    fn a_field_that_nobody_knows_is_refused() {
        assert!(Template::parse("\"a\":$colour").unwrap_err().to_string().contains("colour"));
    }

    #[test]
    fn numbers_have_the_digits_that_are_asked_for() {
        let mut buffer = Vec::new();
        for (number, digits) in [(7, 3), (1234, 3), (0, 1), (0, 0)] {
            push_decimal(&mut buffer, number, digits);
            buffer.push(b' ');
        }
        push_hex(&mut buffer, 0xabc, 4);
        assert_eq!(String::from_utf8(buffer).unwrap(), "007 1234 0  0abc");
    }
}
