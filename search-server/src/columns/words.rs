//! Words that several kinds share: selectors, containers, lists that are cut, columns.

use std::fmt::Write as _;

use serde::Deserialize;

use super::read::{Lenient, Map, Text};

/// A column of a kind that Kubernetes brings along.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heading {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) format: &'static str,
    pub(super) wide: bool,
    pub(super) description: &'static str,
}

pub(super) const NAME: Heading = Heading { format: "name", ..text("Name", "Name of the object.") };
pub(super) const AGE: Heading = text("Age", "How long ago the object was made.");
pub(super) const CREATED: Heading = Heading { kind: "date", ..text("Created At", "When the object was made.") };
pub(super) const CONTAINERS: Heading = wide("Containers", "Names of the containers.");
pub(super) const IMAGES: Heading = wide("Images", "Images of the containers.");
pub(super) const SELECTOR: Heading = wide("Selector", "Labels of the pods that belong to it.");

pub(super) const fn text(name: &'static str, description: &'static str) -> Heading {
    Heading { name, kind: "string", format: "", wide: false, description }
}

pub(super) const fn number(name: &'static str, description: &'static str) -> Heading {
    Heading { kind: "integer", ..text(name, description) }
}

pub(super) const fn flag(name: &'static str, description: &'static str) -> Heading {
    Heading { kind: "boolean", ..text(name, description) }
}

pub(super) const fn wide(name: &'static str, description: &'static str) -> Heading {
    Heading { wide: true, ..text(name, description) }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Container<'a> {
    #[serde(borrow)]
    pub(super) name: Text<'a>,
    pub(super) image: Text<'a>,
}

/// `spec.template` of what makes pods.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodTemplate<'a> {
    #[serde(borrow)]
    pub(super) spec: Lenient<TemplateSpec<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct TemplateSpec<'a> {
    #[serde(borrow)]
    containers: Lenient<Vec<Container<'a>>>,
    pub(super) node_selector: Map<'a>,
}

impl PodTemplate<'_> {
    pub(super) fn names(&self) -> String {
        join(self.spec.containers.iter().map(|container| &*container.name), ",")
    }

    pub(super) fn images(&self) -> String {
        join(self.spec.containers.iter().map(|container| &*container.image), ",")
    }
}

pub(super) fn join<'a>(words: impl IntoIterator<Item = &'a str>, between: &str) -> String {
    words.into_iter().collect::<Vec<_>>().join(between)
}

/// `a=b,c=d`
pub(super) fn labels(labels: Map<'_>) -> String {
    let pairs: Vec<String> = labels.entries().iter().map(|(key, value)| format!("{}={}", &**key, &**value)).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// A label selector with `matchLabels` and `matchExpressions`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct LabelSelector<'a> {
    #[serde(borrow)]
    match_labels: Map<'a>,
    match_expressions: Lenient<Vec<Requirement<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Requirement<'a> {
    #[serde(borrow)]
    key: Text<'a>,
    operator: Text<'a>,
    values: Lenient<Vec<Text<'a>>>,
}

impl LabelSelector<'_> {
    /// As one writes it behind `-l`; empty if it has no conditions.
    pub(super) fn written(&self) -> String {
        let labels = self.match_labels.entries();
        let mut conditions: Vec<(&str, String)> =
            labels.iter().map(|(key, value)| (&**key, format!("{}={}", &**key, &**value))).collect();
        conditions.extend(self.match_expressions.iter().map(|requirement| (&*requirement.key, requirement.written())));
        conditions.sort_by_key(|(key, _)| *key);
        join(conditions.iter().map(|(_, condition)| condition.as_str()), ",")
    }

    /// The same, or the word for none.
    pub(super) fn or_none(&self) -> String {
        let written = self.written();
        if written.is_empty() { "<none>".to_owned() } else { written }
    }
}

impl Requirement<'_> {
    fn written(&self) -> String {
        let mut values: Vec<&str> = self.values.iter().map(|value| &**value).collect();
        values.sort_unstable();
        let (key, values) = (&*self.key, values.join(","));
        match &*self.operator {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        }
    }
}

/// The first of many, and how many more there are.
pub(super) fn first_of(shown: &[String], all: usize, between: &str) -> String {
    let mut words = shown.join(between);
    if all > shown.len() {
        // Writing into a string cannot fail.
        let _ = write!(words, " + {} more...", all - shown.len());
    }
    words
}
