//! The query grammar: words that people already type, over every object of every cluster.
//!
//! ```text
//! nginx "rolling update"                full text, case-folded
//! kind:Deployment cluster:(a OR b)      fields: cluster group version kind resource namespace name uid owner owner~ image container
//!                                       created changed
//! label.app.kubernetes.io/name:redis    labels and annotations, the whole rest is the key
//! spec.replicas:>3  created:>now-1d     paths from the object's root; numbers, quantities and times as what they are
//! status.conditions.type:Ready          of arrays, any element
//! container:{NOT resources.limits:*}    one element of which all of this holds, fields seen from it
//! annotation.x:*  image:*nginx*         present; wildcards * and ?
//! spec.replicas:[2 TO 5]                ranges, {2 TO 5} without their ends
//! AND OR NOT - ( )                      side by side means AND
//! ```
//!
//! The first `:` splits field from value, later ones belong to the value; quotes and `\` take the meaning from any
//! character. [`parse`] reads a text into one [`Expression`], which prints as a text that reads the same; [`evaluate`] says
//! what it means for an object. An index may propose objects, but only this meaning counts.

pub mod document;
pub mod evaluate;
mod parse;
pub mod value;

use std::fmt;

pub use parse::{QueryError, parse, parse_field};
use value::Literal;

/// Where in the text a part of an expression stands, in bytes. Two expressions from different places are equal all the same.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    /// Its first byte.
    pub start: usize,
    /// The byte behind its last.
    pub end: usize,
}

impl PartialEq for Span {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What objects are asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Expression {
    /// All of them: the empty query.
    Everything,
    /// Those that every part takes.
    All(Vec<Self>),
    /// Those that some part takes.
    Any(Vec<Self>),
    /// Those that the part does not take.
    Not(Box<Self>),
    /// Those in whose text the words stand, one behind the other.
    Text(TextClause),
    /// Those whose field passes.
    Field(FieldClause),
    /// Those of which one element passes.
    Element(ElementClause),
}

/// Words to be found in an object's text.
#[derive(Debug, Clone, PartialEq)]
pub struct TextClause {
    /// The words, case-folded; a word may have wildcards.
    pub words: Vec<Pattern>,
    /// Where it stands.
    pub span: Span,
}

/// A field and what is asked of it.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldClause {
    /// Which field.
    pub field: Field,
    /// What is asked.
    pub test: Test,
    /// Where it stands.
    pub span: Span,
}

/// Something that has fields of its own, and what is asked of it: of several, one has to pass alone.
#[derive(Debug, Clone, PartialEq)]
pub struct ElementClause {
    /// What has the fields: a path, or containers.
    pub of: Field,
    /// What is asked; its fields are paths that begin at the element.
    pub inner: Box<Expression>,
    /// Where it stands.
    pub span: Span,
}

/// A part of an object, or of where it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    /// The cluster it is in.
    Cluster,
    /// Its API group, empty for the core.
    Group,
    /// Its API version, without the group.
    Version,
    /// Its kind.
    Kind,
    /// Its plural resource name.
    Resource,
    /// Its namespace.
    Namespace,
    /// Its name.
    Name,
    /// Its unique id.
    Uid,
    /// Those that own it, each as name, `Kind/name` and unique id.
    Owner,
    /// Those that own it, those that own them, and so on: with whole estates only, see [`crate::search::owners`].
    OwnerChain,
    /// Images of its containers, also in templates.
    Image,
    /// Its containers by name, also in templates.
    Container,
    /// When it was created.
    Created,
    /// When somebody last wrote it, as its managed fields say; else when it was created.
    Changed,
    /// A label's value.
    Label(String),
    /// An annotation's value.
    Annotation(String),
    /// Anything else, as steps from the object's root.
    Path(Vec<String>),
}

/// Fields that have a name of their own.
const NAMED: [(&str, Field); 14] = [
    ("cluster", Field::Cluster),
    ("group", Field::Group),
    ("version", Field::Version),
    ("kind", Field::Kind),
    ("resource", Field::Resource),
    ("namespace", Field::Namespace),
    ("name", Field::Name),
    ("uid", Field::Uid),
    ("owner", Field::Owner),
    ("owner~", Field::OwnerChain),
    ("image", Field::Image),
    ("container", Field::Container),
    ("created", Field::Created),
    ("changed", Field::Changed),
];

impl Field {
    /// The names of fields that are no paths.
    pub fn named() -> impl Iterator<Item = &'static str> {
        NAMED.iter().map(|(name, _)| *name)
    }
}

/// What is asked of a field. Of several values, any may pass.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// That it is there.
    Exists,
    /// That it is this: text as it is written, numbers as numbers.
    Is(String),
    /// That it looks like this.
    Like(Pattern),
    /// That it lies between.
    Within {
        /// From here on.
        lower: Option<Bound>,
        /// Up to here.
        upper: Option<Bound>,
    },
}

/// An end of a range.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// The value.
    pub value: Literal,
    /// Whether the value itself belongs to the range.
    pub is_inclusive: bool,
}

impl Bound {
    /// Whether it can stand behind `>` and `<`.
    fn can_be_compared_with(&self) -> bool {
        let text = self.value.text();
        !text.is_empty() && !text.starts_with('=')
    }

    fn write(&self, sign: char, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{sign}{}", if self.is_inclusive { "=" } else { "" })?;
        write_value(formatter, self.value.text())
    }
}

/// A text with wildcards: `*` for any characters, `?` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<PatternPart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum PatternPart {
    Text(String),
    One,
    Many,
}

impl Pattern {
    /// A text without wildcards.
    pub fn plain(text: &str) -> Self {
        Self { parts: vec![PatternPart::Text(text.to_owned())] }
    }

    /// Whether a text looks like this, all of it.
    pub fn matches(&self, text: &str) -> bool {
        matches_parts(&self.parts, text)
    }

    /// The text that everything which looks like this begins with.
    pub fn beginning(&self) -> &str {
        match self.parts.first() {
            Some(PatternPart::Text(text)) => text,
            _ => "",
        }
    }

    /// As Lucene writes wildcards.
    pub(crate) fn to_lucene(&self) -> String {
        let mut written = String::new();
        for part in &self.parts {
            match part {
                PatternPart::Text(text) => {
                    for character in text.chars() {
                        if matches!(character, '*' | '?' | '\\') {
                            written.push('\\');
                        }
                        written.push(character);
                    }
                }
                PatternPart::One => written.push('?'),
                PatternPart::Many => written.push('*'),
            }
        }
        written
    }

    /// The text, if there are no wildcards in it.
    pub fn as_plain(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [PatternPart::Text(text)] => Some(text),
            _ => None,
        }
    }
}

/// Goes back only to the last `*`: no pattern takes more than (pattern × text) steps.
fn matches_parts(parts: &[PatternPart], text: &str) -> bool {
    let (mut part, mut at) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let step = match parts.get(part) {
            None if rest.is_empty() => return true,
            Some(PatternPart::Many) => {
                retry = Some((part + 1, at));
                part += 1;
                continue;
            }
            Some(PatternPart::One) => rest.chars().next().map(char::len_utf8),
            Some(PatternPart::Text(wanted)) => rest.starts_with(wanted.as_str()).then_some(wanted.len()),
            None => None,
        };
        match (step, retry) {
            (Some(length), _) => {
                part += 1;
                at += length;
            }
            (None, Some((behind, from))) => {
                let Some(next) = text.get(from..).and_then(|rest| rest.chars().next()) else { return false };
                retry = Some((behind, from + next.len_utf8()));
                (part, at) = (behind, from + next.len_utf8());
            }
            (None, None) => return false,
        }
    }
}

/// Characters that mean something outside of quotes.
fn is_special(character: char) -> bool {
    character.is_whitespace() || "()[]{}:\"\\*?<>-".contains(character)
}

fn write_escaped(formatter: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for character in text.chars() {
        if is_special(character) {
            formatter.write_str("\\")?;
        }
        write!(formatter, "{character}")?;
    }
    Ok(())
}

/// A key behind `label.`: there a `-` means nothing.
fn write_key(formatter: &mut fmt::Formatter<'_>, key: &str) -> fmt::Result {
    for character in key.chars() {
        if character != '-' && is_special(character) {
            formatter.write_str("\\")?;
        }
        write!(formatter, "{character}")?;
    }
    Ok(())
}

fn escaped_step(step: &str) -> String {
    step.chars().enumerate().fold(String::new(), |mut escaped, (at, character)| {
        if character == '.' || (is_special(character) && (character != '-' || at == 0)) {
            escaped.push('\\');
        }
        escaped.push(character);
        escaped
    })
}

/// A value that would be taken for a word of the grammar is quoted.
fn write_value(formatter: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    if text.is_empty() || matches!(text, "AND" | "OR" | "NOT" | "TO") {
        return write!(formatter, "\"{text}\"");
    }
    write_escaped(formatter, text)
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = self.as_plain() {
            return write_value(formatter, text);
        }
        for part in &self.parts {
            match part {
                PatternPart::Text(text) => write_escaped(formatter, text)?,
                PatternPart::One => formatter.write_str("?")?,
                PatternPart::Many => formatter.write_str("*")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Field {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = NAMED.iter().find(|(_, field)| field == self) {
            return formatter.write_str(name);
        }
        match self {
            Self::Label(key) => {
                formatter.write_str("label.")?;
                write_key(formatter, key)
            }
            Self::Annotation(key) => {
                formatter.write_str("annotation.")?;
                write_key(formatter, key)
            }
            Self::Path(steps) => {
                let path: Vec<String> = steps.iter().map(|step| escaped_step(step)).collect();
                let path = path.join(".");
                // The dot in front is only needed where the path would be taken for something else.
                let is_clear = parse_field(&path).as_ref() == Ok(self);
                write!(formatter, "{}{path}", if is_clear { "" } else { "." })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists => formatter.write_str("*"),
            Self::Is(text) => write_value(formatter, text),
            Self::Like(pattern) => write!(formatter, "{pattern}"),
            Self::Within { lower: Some(bound), upper: None } if bound.can_be_compared_with() => {
                bound.write('>', formatter)
            }
            Self::Within { lower: None, upper: Some(bound) } if bound.can_be_compared_with() => {
                bound.write('<', formatter)
            }
            Self::Within { lower, upper } => {
                formatter.write_str(if lower.as_ref().is_some_and(|bound| !bound.is_inclusive) { "{" } else { "[" })?;
                for (bound, separator) in [(lower, " TO "), (upper, "")] {
                    match bound {
                        Some(bound) => write_value(formatter, bound.value.text())?,
                        None => formatter.write_str("*")?,
                    }
                    formatter.write_str(separator)?;
                }
                formatter.write_str(if upper.as_ref().is_some_and(|bound| !bound.is_inclusive) { "}" } else { "]" })
            }
        }
    }
}

impl Expression {
    /// As a part of another one, where nothing at all can't stand for everything.
    fn nested(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => formatter.write_str("*"),
            part => write!(formatter, "{part}"),
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |formatter: &mut fmt::Formatter<'_>, parts: &[Self], word: &str| {
            formatter.write_str("(")?;
            for (at, part) in parts.iter().enumerate() {
                if at > 0 {
                    write!(formatter, " {word} ")?;
                }
                part.nested(formatter)?;
            }
            formatter.write_str(")")
        };
        match self {
            Self::Everything => Ok(()),
            Self::All(parts) => list(formatter, parts, "AND"),
            Self::Any(parts) => list(formatter, parts, "OR"),
            Self::Not(part) => {
                formatter.write_str("NOT ")?;
                part.nested(formatter)
            }
            Self::Text(clause) => match clause.words.as_slice() {
                [word] => write!(formatter, "{word}"),
                words => {
                    // Quotes would take the meaning from wildcards; any character that is no letter separates words too.
                    let is_plain = words.iter().all(|word| word.as_plain().is_some());
                    let (quote, separator) = if is_plain { ("\"", " ") } else { ("", "\\-") };
                    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
                    write!(formatter, "{quote}{}{quote}", words.join(separator))
                }
            },
            Self::Field(clause) => write!(formatter, "{}:{}", clause.field, clause.test),
            Self::Element(clause) => write!(formatter, "{}:{{{}}}", clause.of, clause.inner),
        }
    }
}

#[cfg(test)]
mod tests;
