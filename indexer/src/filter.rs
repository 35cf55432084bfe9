//! Which objects a request is about: label and field conditions on one object.
//!
//! In: conditions already parsed by the API's own grammar. Out: yes or no for an entry. Names and labels are decided on
//! what the cache keeps in the open; only conditions on other fields open the object, and then read just their path.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::entry::{Entry, Label, LabelSet};

/// Conditions that must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// On labels.
    pub labels: Vec<LabelCondition>,
    /// On fields other than `metadata.name` and `metadata.namespace`.
    pub fields: Vec<FieldCondition>,
    /// `metadata.name` must be one of these conditions.
    pub names: Vec<NameCondition>,
}

/// A condition on one label, with Kubernetes' operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelCondition {
    /// The label's key.
    pub key: String,
    /// What is asked of its value.
    pub test: LabelTest,
}

/// What is asked of a label's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelTest {
    /// Present with one of the values.
    In(Vec<String>),
    /// Absent, or present with another value.
    NotIn(Vec<String>),
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
    /// An integer above this.
    GreaterThan(i64),
    /// An integer below this.
    LessThan(i64),
}

/// `metadata.name` or `metadata.namespace` compared for equality.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameCondition {
    /// Which of the two.
    pub field: NameField,
    /// The value compared with.
    pub value: String,
    /// Whether it must be equal or must differ.
    pub equal: bool,
}

/// The two names of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameField {
    /// `metadata.name`
    Name,
    /// `metadata.namespace`
    Namespace,
}

/// A field anywhere in the object compared for equality. A field that is absent equals the empty text, as it does for
/// Kubernetes; of an array, any element may be the one that is equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldCondition {
    path: FieldPath,
    value: String,
    equal: bool,
}

/// A path from the object's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPath(Vec<String>);

/// A path that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field path {path:?} at character {at}: {problem}")]
pub struct FieldPathError {
    path: String,
    at: usize,
    problem: &'static str,
}

/// Deeper than any Kubernetes object and shallow enough for the stack.
const PATH_STEPS: usize = 64;

impl FieldPath {
    /// Reads `spec.nodeName`, `metadata.labels.a\.b/c` or `metadata.labels['a.b/c']`.
    pub fn parse(path: &str) -> Result<Self, FieldPathError> {
        let error = |at: usize, problem| FieldPathError { path: path.to_owned(), at, problem };
        let mut steps = Vec::new();
        let mut step = String::new();
        let mut characters = path.strip_prefix('.').unwrap_or(path).char_indices().peekable();
        while let Some((at, character)) = characters.next() {
            match character {
                '.' if step.is_empty() => return Err(error(at, "a step is empty")),
                '.' => steps.push(std::mem::take(&mut step)),
                '\\' => step.push(characters.next().ok_or_else(|| error(at, "nothing follows the backslash"))?.1),
                '[' if characters.next_if(|(_, next)| *next == '\'').is_some() => {
                    if !step.is_empty() {
                        steps.push(std::mem::take(&mut step));
                    }
                    step = quoted_step(&mut characters).ok_or_else(|| error(at, "the bracket is not closed by ']"))?;
                }
                '[' => return Err(error(at, "write ['key'] for a key with dots; elements of arrays are matched each")),
                other => step.push(other),
            }
        }
        if step.is_empty() {
            return Err(error(path.len(), "a step is empty"));
        }
        steps.push(step);
        if steps.len() > PATH_STEPS {
            return Err(error(0, "the path has more than 64 steps"));
        }
        Ok(Self(steps))
    }
}

fn quoted_step(characters: &mut std::iter::Peekable<std::str::CharIndices<'_>>) -> Option<String> {
    let mut step = String::new();
    loop {
        match characters.next()?.1 {
            '\'' if characters.next_if(|(_, next)| *next == ']').is_some() => return Some(step),
            character => step.push(character),
        }
    }
}

impl FieldCondition {
    /// A field compared with a value; `equal` says whether it must be equal or must differ.
    pub fn new(path: FieldPath, value: String, equal: bool) -> Self {
        Self { path, value, equal }
    }

    fn holds(&self, object: &[u8]) -> Result<bool, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(object);
        let found = Lookup { steps: &self.path.0, value: &self.value }.deserialize(&mut deserializer)?;
        let is_equal = match found {
            Found::Equal => true,
            Found::Different => false,
            Found::Absent => self.value.is_empty(),
        };
        Ok(is_equal == self.equal)
    }
}

impl LabelCondition {
    /// The labels of which an object needs one to meet the condition; none if it may have none.
    fn wanted(&self) -> Option<Vec<Label<'_>>> {
        match &self.test {
            LabelTest::In(values) => Some(values.iter().map(|value| Label::Pair(&self.key, value)).collect()),
            LabelTest::Exists | LabelTest::GreaterThan(_) | LabelTest::LessThan(_) => Some(vec![Label::Key(&self.key)]),
            LabelTest::NotIn(_) | LabelTest::DoesNotExist => None,
        }
    }

    /// Whether the labels meet the condition.
    pub fn holds(&self, labels: &LabelSet) -> bool {
        let value = labels.get(&self.key);
        match &self.test {
            LabelTest::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
            LabelTest::NotIn(values) => !value.is_some_and(|value| values.iter().any(|one| one == value)),
            LabelTest::Exists => value.is_some(),
            LabelTest::DoesNotExist => value.is_none(),
            LabelTest::GreaterThan(bound) => integer(value).is_some_and(|value| value > *bound),
            LabelTest::LessThan(bound) => integer(value).is_some_and(|value| value < *bound),
        }
    }
}

fn integer(value: Option<&str>) -> Option<i64> {
    value.and_then(|value| value.parse().ok())
}

impl Filter {
    /// Whether every object passes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether names and labels pass; cheap, the object stays closed.
    pub fn admits(&self, entry: &Entry) -> bool {
        self.names.iter().all(|condition| {
            let name = match condition.field {
                NameField::Name => entry.name(),
                NameField::Namespace => entry.namespace(),
            };
            (name == condition.value) == condition.equal
        }) && self.labels_hold(entry.labels())
    }

    /// Whether there are conditions on labels.
    pub fn reads_labels(&self) -> bool {
        !self.labels.is_empty()
    }

    /// What objects that pass have: of each of these, one label. Conditions that can be met by having none are not among them.
    pub fn wanted_labels(&self) -> Vec<Vec<Label<'_>>> {
        self.labels.iter().filter_map(LabelCondition::wanted).collect()
    }

    /// Whether the conditions on labels hold.
    pub fn labels_hold(&self, labels: &LabelSet) -> bool {
        self.labels.iter().all(|condition| condition.holds(labels))
    }

    /// Whether the object has to be opened to decide.
    pub fn reads_fields(&self) -> bool {
        !self.fields.is_empty()
    }

    /// Whether the conditions on fields hold for an opened object.
    pub fn fields_hold(&self, object: &[u8]) -> bool {
        // What is in the cache was read as JSON before it came in, so a failure here is no match rather than an error.
        self.fields.iter().all(|condition| condition.holds(object).unwrap_or(false))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Absent,
    Different,
    Equal,
}

impl Found {
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Equal, _) | (_, Self::Equal) => Self::Equal,
            (Self::Absent, Self::Absent) => Self::Absent,
            _ => Self::Different,
        }
    }
}

/// Walks down one path of a JSON text and skips everything beside it.
#[derive(Clone, Copy)]
struct Lookup<'a> {
    steps: &'a [String],
    value: &'a str,
}

impl Lookup<'_> {
    fn scalar(&self, text: &str) -> Found {
        match self.steps.is_empty() {
            true if text == self.value => Found::Equal,
            true => Found::Different,
            false => Found::Absent,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Lookup<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Lookup<'_> {
    type Value = Found;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let Some((first, rest)) = self.steps.split_first() else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Found::Different);
        };
        let mut found = Found::Absent;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key == first.as_str() {
                found = found.or(map.next_value_seed(Lookup { steps: rest, value: self.value })?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Found, A::Error> {
        let mut found = Found::Absent;
        while let Some(element) = sequence.next_element_seed(self)? {
            found = found.or(element);
        }
        Ok(found)
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        Ok(self.scalar(text))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Found, E> {
        Ok(self.scalar(if value { "true" } else { "false" }))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Found, E> {
        Ok(self.scalar(&value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Found, E> {
        Ok(self.scalar(&value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Found, E> {
        Ok(self.scalar(&value.to_string()))
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::Absent)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POD: &[u8] = br#"{"metadata":{"name":"web","labels":{"app.kubernetes.io/name":"shop"}},"spec":{"nodeName":"n1","hostNetwork":false,
        "priority":5,"containers":[{"name":"a","image":"nginx:1"},{"name":"b","image":"redis:7"}],"nothing":null},"status":{"phase":"Running"}}"#;

    fn holds(path: &str, equal: bool, value: &str) -> bool {
        FieldCondition::new(FieldPath::parse(path).unwrap(), value.to_owned(), equal).holds(POD).unwrap()
    }

    #[test]
    fn a_field_is_compared_wherever_it_stands() {
        assert!(holds("spec.nodeName", true, "n1") && !holds("spec.nodeName", true, "n2"));
        assert!(holds("spec.hostNetwork", true, "false") && holds("spec.priority", true, "5"));
        assert!(holds("status.phase", false, "Failed") && !holds("status.phase", false, "Running"));
    }

    #[test]
    fn of_an_array_any_element_may_match() {
        assert!(holds("spec.containers.image", true, "redis:7"));
        assert!(!holds("spec.containers.image", false, "redis:7"));
        assert!(!holds("spec.containers.image", true, "httpd"));
    }

    #[test]
    fn an_absent_or_null_field_equals_the_empty_text() {
        assert!(
            holds("spec.nodeSelector", true, "")
                && holds("spec.nothing", true, "")
                && holds("spec.nothing", false, "x")
        );
        assert!(!holds("spec.nodeName", true, ""));
    }

    #[test]
    fn keys_with_dots_are_reached_by_backslash_or_bracket() {
        assert!(holds(r"metadata.labels.app\.kubernetes\.io/name", true, "shop"));
        assert!(holds("metadata.labels['app.kubernetes.io/name']", true, "shop"));
    }

    #[test]
    fn a_path_that_cannot_be_read_names_the_character() {
        for bad in ["", ".", "a..b", "a.", "a\\", "a[0]", "a['b"] {
            let error = FieldPath::parse(bad).unwrap_err().to_string();
            assert!(error.contains("at character"), "{bad}: {error}");
        }
        assert!(FieldPath::parse(&vec!["a"; 65].join(".")).is_err());
    }

    #[test]
    fn label_conditions_mean_what_kubernetes_means() {
        let labels = LabelSet::new(vec![("app".into(), "web".into()), ("weight".into(), "7".into())]);
        let holds = |key: &str, test: LabelTest| LabelCondition { key: key.into(), test }.holds(&labels);
        assert!(holds("app", LabelTest::In(vec!["web".into(), "db".into()])));
        assert!(!holds("tier", LabelTest::In(vec!["web".into()])));
        assert!(holds("tier", LabelTest::NotIn(vec!["web".into()])), "an absent label is not in any set");
        assert!(holds("app", LabelTest::Exists) && holds("tier", LabelTest::DoesNotExist));
        assert!(holds("weight", LabelTest::GreaterThan(6)) && holds("weight", LabelTest::LessThan(8)));
        assert!(!holds("app", LabelTest::GreaterThan(0)), "what is no integer is neither above nor below");
    }

    proptest! {
        #[test]
        fn any_path_text_is_read_or_refused(path in "\\PC{0,40}") {
            if let Ok(path) = FieldPath::parse(&path) {
                FieldCondition::new(path, String::new(), true).holds(POD).unwrap();
            }
        }
    }
}
