//! What queries ask of an object and flat objects can't answer: numbers in their order, what has fields of its own, words.
//!
//! In: the object. Out: terms. Where something is left out – too long, too deep – the document says so in `cut`, and where one
//! path may be read in two ways, in `dotted`: then only the object itself tells whether it passes a query.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json_borrow::{ObjectAsVec, Value};

use super::{DEEPEST, LONGEST_LABEL, LONGEST_VALUE, field, is_usable};
use crate::entry::LabelSet;
use crate::query::document::{Document, Weight};
use crate::query::evaluate::{fold, words};
use crate::query::value::Quantity;

/// Bytes of words, of each weight.
const LONGEST_TEXT: usize = 64 * 1024;
/// The analyzer cuts longer words in pieces.
const LONGEST_WORD: usize = 255;
/// Longer values are not sorted by to their end, and longer ones still are left out of keyword fields.
const LONGEST_KEYWORD: usize = 256;
/// Longer paths are left out.
const LONGEST_PATH: usize = 4096;

/// What of a document is not all there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::backend) enum Cut {
    /// Some of the annotations.
    Annotations,
    /// The annotation of this key.
    Annotation(String),
    /// Some of the body.
    Body,
    /// A value at this path of the body.
    Value(String),
    Container,
    Image,
    Label,
    Owner,
    /// Times have parts of milliseconds.
    Time,
    Uid,
    Words,
}

impl fmt::Display for Cut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Annotation(key) => return write!(formatter, "annotation {key}"),
            Self::Value(path) => return write!(formatter, "body {path}"),
            Self::Annotations => "annotations",
            Self::Body => "body",
            Self::Container => "container",
            Self::Image => "image",
            Self::Label => "label",
            Self::Owner => "owner",
            Self::Time => "time",
            Self::Uid => "uid",
            Self::Words => "words",
        })
    }
}

impl Serialize for Cut {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Terms of an object.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Searchable {
    /// Numbers, quantities and times of the body with their paths, see [`number_term`] and [`time_term`].
    pub(super) numbers: BTreeSet<String>,
    /// Paths in the body at which something with fields of its own stands.
    pub(super) objects: BTreeSet<String>,
    /// Paths in the body below which a key has a character that paths are made of.
    pub(super) dotted: BTreeSet<String>,
    /// Words by their weight, each text's folded words on one line.
    pub(super) names: Vec<String>,
    pub(super) labels: Vec<String>,
    pub(super) texts: Vec<String>,
    pub(super) cut: BTreeSet<Cut>,
}

/// A path as terms carry it: no two paths are one text.
pub(in crate::backend) fn path_term<'a>(steps: impl IntoIterator<Item = &'a str>) -> String {
    let mut term = String::new();
    for (at, step) in steps.into_iter().enumerate() {
        if at > 0 {
            term.push('.');
        }
        for character in step.chars() {
            if matches!(character, '.' | '=' | '\\') {
                term.push('\\');
            }
            term.push(character);
        }
    }
    term
}

/// A quantity at a path; terms of a path stand in the order of their numbers.
pub(in crate::backend) fn number_term(path: &str, quantity: Quantity) -> String {
    format!("{path}=q{:032x}", ordered(quantity.billionths()))
}

/// A time at a path; terms of a path stand in the order of time.
pub(in crate::backend) fn time_term(path: &str, time: Timestamp) -> String {
    format!("{path}=t{:032x}", ordered(time.as_nanosecond()))
}

/// Moved so that negative numbers come first.
fn ordered(number: i128) -> u128 {
    number.cast_unsigned() ^ (1 << 127)
}

impl Searchable {
    pub(super) fn of(document: &Document, labels: &LabelSet) -> Self {
        let mut found = Self::default();
        found.read_metadata(document, labels);
        found.read_words(document);
        let fields = document.root().as_object().into_iter().flat_map(ObjectAsVec::iter);
        let mut path = Path::default();
        for (key, value) in fields.filter(|(key, _)| !matches!(*key, "apiVersion" | "kind" | "metadata")) {
            found.read_field(key, value, &mut path, 1);
        }
        found
    }

    fn cut_if(&mut self, cut: Cut, is_cut: bool) {
        if is_cut {
            self.cut.insert(cut);
        }
    }

    fn read_metadata(&mut self, document: &Document, labels: &LabelSet) {
        let is_long = |text: &str| text.len() > LONGEST_KEYWORD;
        self.cut_if(Cut::Uid, document.uid().is_some_and(is_long));
        self.cut_if(Cut::Image, document.images().into_iter().any(is_long));
        self.cut_if(Cut::Container, document.container_names().into_iter().any(is_long));
        self.cut_if(Cut::Owner, document.owners().iter().any(|owner| is_long(owner)));
        let is_ambiguous = |key: &str, value: &str| key.contains('=') || key.len() + 1 + value.len() > LONGEST_LABEL;
        self.cut_if(Cut::Label, labels.iter().any(|(key, value)| is_ambiguous(key, value)));
        let is_fine = |time: Option<Timestamp>| time.is_some_and(|time| time.as_nanosecond() % 1_000_000 != 0);
        self.cut_if(Cut::Time, is_fine(document.created()) || is_fine(document.changed()));
        let annotations = field(document.root(), "metadata").and_then(|metadata| field(metadata, "annotations"));
        match annotations.map(Value::as_object) {
            None => {}
            Some(None) => drop(self.cut.insert(Cut::Annotations)),
            Some(Some(annotations)) => {
                for (key, value) in annotations.iter() {
                    self.cut_if(Cut::Annotations, !is_usable(key) || key.contains('='));
                    let is_whole = value.as_str().is_some_and(|text| text.len() <= LONGEST_VALUE);
                    self.cut_if(Cut::Annotation(key.chars().take(LONGEST_KEYWORD).collect()), !is_whole);
                    self.cut_if(Cut::Annotations, !is_whole && key.len() > LONGEST_KEYWORD);
                }
            }
        }
        // In a kind that somebody defined, a container may have several names.
        let containers = || document.container_lists().into_iter().flat_map(|(_, list)| list);
        let has_several =
            |name: &str| containers().any(|container| field(container, name).is_some_and(Value::is_array));
        self.cut_if(Cut::Container, has_several("name"));
        self.cut_if(Cut::Image, has_several("image"));
    }

    fn read_words(&mut self, document: &Document) {
        let mut left = [LONGEST_TEXT; 3];
        let mut is_cut = false;
        document.texts(&mut |weight, text| {
            let (lines, left) = match weight {
                Weight::Name => (&mut self.names, &mut left[0]),
                Weight::Label => (&mut self.labels, &mut left[1]),
                Weight::Body => (&mut self.texts, &mut left[2]),
            };
            let mut line = String::new();
            for word in words(text) {
                if word.len() > LONGEST_WORD || line.len() + word.len() > *left {
                    is_cut = true;
                    continue;
                }
                if !line.is_empty() {
                    line.push(' ');
                }
                fold(word, &mut line);
            }
            *left = left.saturating_sub(line.len());
            if !line.is_empty() {
                lines.push(line);
            }
        });
        self.cut_if(Cut::Words, is_cut);
    }

    fn read_field(&mut self, key: &str, value: &Value<'_>, path: &mut Path, depth: usize) {
        if !is_usable(key) {
            self.cut.insert(Cut::Body);
            return;
        }
        if key.contains(['.', '=']) {
            self.dotted.insert(path.plain.clone());
        }
        let length = path.push(key);
        if path.term.len() > LONGEST_PATH {
            self.cut.insert(Cut::Body);
        } else {
            self.read_value(value, path, depth);
        }
        path.cut_to(length);
    }

    fn read_value(&mut self, value: &Value<'_>, path: &mut Path, depth: usize) {
        match value {
            Value::Null | Value::Bool(_) => {}
            Value::Number(number) => self.read_text(&number.to_string(), path),
            Value::Str(text) => {
                self.cut_if(Cut::Value(path.plain.clone()), text.len() > LONGEST_VALUE);
                self.read_text(text, path);
            }
            Value::Array(elements) => {
                self.cut_if(Cut::Body, depth >= DEEPEST && !elements.is_empty());
                elements.iter().for_each(|element| self.read_value(element, path, depth + 1));
            }
            Value::Object(fields) => {
                if !self.objects.contains(&path.term) {
                    self.objects.insert(path.term.clone());
                }
                self.cut_if(Cut::Body, depth >= DEEPEST);
                for (key, value) in fields.iter().filter(|_| depth < DEEPEST) {
                    self.read_field(key, value, path, depth + 1);
                }
            }
        }
    }

    fn read_text(&mut self, text: &str, path: &Path) {
        if !text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-' | '.')) {
            return;
        }
        if let Some(quantity) = Quantity::parse(text) {
            self.numbers.insert(number_term(&path.term, quantity));
        }
        if let Ok(time) = text.parse::<Timestamp>() {
            self.numbers.insert(time_term(&path.term, time));
        }
    }
}

/// Where in a body something stands: as terms carry it, and as flat objects do.
#[derive(Default)]
struct Path {
    term: String,
    plain: String,
}

impl Path {
    /// One step further; how long it was before.
    fn push(&mut self, key: &str) -> (usize, usize) {
        let length = (self.term.len(), self.plain.len());
        if !self.term.is_empty() {
            self.term.push('.');
            self.plain.push('.');
        }
        self.term.push_str(&path_term([key]));
        self.plain.push_str(key);
        length
    }

    fn cut_to(&mut self, (term, plain): (usize, usize)) {
        self.term.truncate(term);
        self.plain.truncate(plain);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn searchable(object: &serde_json::Value) -> Searchable {
        let document = Document::read(object.to_string().as_bytes()).unwrap();
        Searchable::of(&document, &LabelSet::default())
    }

    #[test]
    fn numbers_and_objects_are_known_by_their_paths() {
        let found =
            searchable(&json!({ "spec": { "replicas": 3, "list": [{ "x": "500m" }, {}], "at": "2026-01-02T03:04:05Z",
            "name": "web" } }));
        let quantity = |text: &str| Quantity::parse(text).unwrap();
        let expected = [
            number_term("spec.replicas", quantity("3")),
            number_term("spec.list.x", quantity("0.5")),
            time_term("spec.at", "2026-01-02T03:04:05Z".parse().unwrap()),
        ];
        assert_eq!(found.numbers, expected.into());
        assert_eq!(found.objects, ["spec".to_owned(), "spec.list".to_owned()].into());
        assert_eq!((found.dotted, found.cut), Default::default());
    }

    #[test]
    fn what_is_left_out_or_may_be_misread_is_told() {
        let dotted = searchable(&json!({ "data": { "app.name": "1", "a": { "b=c": "x" } } }));
        assert_eq!(dotted.dotted, ["data".to_owned(), "data.a".to_owned()].into());
        assert!(dotted.numbers.contains(&number_term("data.app\\.name", Quantity::parse("1").unwrap())));
        for (object, cut) in [
            (json!({ "data": { "": "unnamed" } }), Cut::Body),
            (json!({ "data": { "long": "x ".repeat(1000) } }), Cut::Value("data.long".to_owned())),
            (
                json!({ "metadata": { "annotations": { "long": "x ".repeat(1000) } } }),
                Cut::Annotation("long".to_owned()),
            ),
            (json!({ "metadata": { "annotations": { "a=b": "x" } } }), Cut::Annotations),
            (json!({ "metadata": { "name": "x".repeat(300) } }), Cut::Words),
            (json!({ "metadata": { "creationTimestamp": "2026-01-02T03:04:05.0001Z" } }), Cut::Time),
        ] {
            assert_eq!(searchable(&object).cut, [cut].into(), "{object}");
        }
    }

    #[test]
    fn words_are_folded_and_stay_beside_their_neighbours() {
        let found = searchable(
            &json!({ "metadata": { "name": "Web-1", "labels": { "app": "Shop" } }, "message": "Rolling, update" }),
        );
        assert_eq!((found.names, found.labels), (vec!["web 1".to_owned()], vec!["app".to_owned(), "shop".to_owned()]));
        assert_eq!(found.texts, ["rolling update"]);
    }

    proptest! {
        #[test]
        fn terms_stand_in_the_order_of_their_numbers(one in any::<i64>(), other in any::<i64>()) {
            let term = |number: i64| number_term("x", Quantity::parse(&number.to_string()).unwrap());
            prop_assert_eq!(term(one).cmp(&term(other)), one.cmp(&other));
        }
    }
}
