//! An object as queries see it: what is known without opening it, and the values inside.
//!
//! Of a Secret only metadata and type are seen: what it keeps secret can be asked for by nobody.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json_borrow::{ObjectAsVec, OwnedValue, Value};

use super::Field;
use crate::entry::LabelSet;
use crate::raw::CACHED_FROM_CLUSTER;
use crate::resource::{ApiResource, ClusterName};

/// Bytes of ConfigMap values that are searched as text, an object.
const CONFIG_TEXT: usize = 16 * 1024;

/// What is known of an object while it stays compressed.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Its cluster.
    pub cluster: &'a ClusterName,
    /// What it is, as its cluster serves it.
    pub served: &'a ApiResource,
    /// Its namespace, empty if it has none.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a LabelSet,
}

/// An opened object. Its texts stand once, in the JSON that it was read from; a clone would read them from there too, so there
/// are none.
#[derive(Debug, PartialEq)]
pub struct Document(OwnedValue);

/// A word source of full text: where a word was found says how much it weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Commands, configuration, messages, annotations.
    Body = 1,
    /// Labels and images.
    Label = 4,
    /// Names and namespaces.
    Name = 8,
}

impl Weight {
    /// All of them, the heaviest first.
    pub const ALL: [Self; 3] = [Self::Name, Self::Label, Self::Body];
}

impl Document {
    /// Reads an object. None if it is no JSON object.
    pub fn read(object: &[u8]) -> Option<Self> {
        let value = OwnedValue::from_slice(object).ok()?;
        let fields = value.as_object()?;
        let is = |field: &str, text: &str| fields.get(field).and_then(Value::as_str) == Some(text);
        if is("apiVersion", "v1") && is("kind", "Secret") {
            return Some(Self(OwnedValue::from_string(seen_of_secret(&value)).ok()?));
        }
        Some(Self(value))
    }

    /// The object itself.
    pub(crate) fn root(&self) -> &Value<'_> {
        self.0.get_value()
    }

    /// As JSON; of a Secret, what may be seen.
    pub fn to_json(&self) -> Vec<u8> {
        // A tree of JSON values always serializes.
        serde_json::to_vec(self.root()).unwrap_or_default()
    }

    /// All values at a path; of arrays on the way, those of every element.
    pub fn at<'a>(&'a self, steps: &[String]) -> Vec<&'a Value<'a>> {
        let mut found = Vec::new();
        collect(self.root(), steps, &mut found);
        found
    }

    fn value(&self, path: &[&str]) -> Option<&Value<'_>> {
        path.iter().try_fold(self.root(), |value, step| field(value, step))
    }

    fn text(&self, path: &[&str]) -> Option<&str> {
        self.value(path)?.as_str()
    }

    fn list(&self, path: &[&str]) -> &[Value<'_>] {
        self.value(path).and_then(Value::as_array).unwrap_or_default()
    }

    /// `metadata.uid`
    pub fn uid(&self) -> Option<&str> {
        self.text(&["metadata", "uid"])
    }

    /// `metadata.creationTimestamp`
    pub fn created(&self) -> Option<Timestamp> {
        self.text(&["metadata", "creationTimestamp"])?.parse().ok()
    }

    /// When it was last written, by the times of its managed fields; else when it was created.
    pub fn changed(&self) -> Option<Timestamp> {
        let managers = self.list(&["metadata", "managedFields"]).iter();
        let times = managers.filter_map(|manager| field(manager, "time")?.as_str()?.parse().ok());
        times.chain(self.created()).max()
    }

    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.text(&["metadata", "annotations", key])
    }

    /// Each owner as its name, as `Kind/name`, and as its unique id.
    pub fn owners(&self) -> Vec<String> {
        let mut owners = Vec::new();
        for reference in self.list(&["metadata", "ownerReferences"]) {
            let text = |name: &str| field(reference, name).and_then(Value::as_str).unwrap_or_default();
            owners.push(text("name").to_owned());
            owners.push(format!("{}/{}", text("kind"), text("name")));
            owners.push(text("uid").to_owned());
        }
        owners
    }

    /// Lists of containers, wherever a pod's template stands, each with its path.
    pub(crate) fn container_lists(&self) -> Vec<(Vec<&str>, &[Value<'_>])> {
        let mut lists = Vec::new();
        let root = ["spec", "template"].iter().find_map(|step| Some((*step, field(self.root(), step)?)));
        if let Some((step, value)) = root {
            container_lists_below(value, DEEPEST_TEMPLATE, &mut vec![step], &mut lists);
        }
        lists
    }

    /// All containers, wherever a pod's template stands.
    fn containers(&self) -> impl Iterator<Item = &Value<'_>> {
        self.container_lists().into_iter().flat_map(|(_, list)| list)
    }

    /// Images of all containers.
    pub fn images(&self) -> Vec<&str> {
        self.containers().filter_map(|container| field(container, "image")?.as_str()).collect()
    }

    /// Names of all containers.
    pub fn container_names(&self) -> Vec<&str> {
        self.containers().filter_map(|container| field(container, "name")?.as_str()).collect()
    }

    /// Paths at which values stand that can be asked for.
    pub(crate) fn paths(&self, found: &mut BTreeSet<Vec<String>>) {
        paths_below(self.root(), &mut Vec::new(), found);
    }

    /// What a clause about elements asks one of.
    pub(super) fn elements(&self, of: &Field) -> Vec<&Value<'_>> {
        let mut elements: Vec<&Value<'_>> = match of {
            Field::Container => self.containers().collect(),
            Field::Path(steps) => self.at(steps),
            _ => Vec::new(),
        };
        elements.retain(|element| element.is_object());
        elements
    }

    /// Every text that a person would expect to find the object by, and how much it weighs.
    pub fn texts(&self, read: &mut dyn FnMut(Weight, &str)) {
        for name in ["name", "namespace"] {
            self.text(&["metadata", name]).into_iter().for_each(|text| read(Weight::Name, text));
        }
        for (name, weight) in [("labels", Weight::Label), ("annotations", Weight::Body)] {
            let pairs = self.value(&["metadata", name]).and_then(Value::as_object);
            // Every object carries the cluster's name in an annotation of ours: found by that word would be everything.
            for (key, value) in
                pairs.into_iter().flat_map(ObjectAsVec::iter).filter(|(key, _)| *key != CACHED_FROM_CLUSTER)
            {
                read(weight, key);
                value.as_str().into_iter().for_each(|text| read(weight, text));
            }
        }
        for container in self.containers() {
            field(container, "image").and_then(Value::as_str).into_iter().for_each(|text| read(Weight::Label, text));
            for name in ["command", "args"] {
                let words = field(container, name).and_then(Value::as_array).unwrap_or_default();
                words.iter().filter_map(Value::as_str).for_each(|text| read(Weight::Body, text));
            }
        }
        self.messages(read);
        self.configuration(read);
    }

    /// What events and conditions say.
    fn messages(&self, read: &mut dyn FnMut(Weight, &str)) {
        for name in ["message", "reason", "note"] {
            self.text(&[name]).into_iter().for_each(|text| read(Weight::Body, text));
        }
        for condition in self.list(&["status", "conditions"]) {
            for name in ["type", "reason", "message"] {
                field(condition, name).and_then(Value::as_str).into_iter().for_each(|text| read(Weight::Body, text));
            }
        }
    }

    fn configuration(&self, read: &mut dyn FnMut(Weight, &str)) {
        if self.text(&["kind"]) != Some("ConfigMap") {
            return;
        }
        let mut left = CONFIG_TEXT;
        let data = self.value(&["data"]).and_then(Value::as_object).into_iter().flat_map(ObjectAsVec::iter);
        // In the order of API servers, whatever wrote the object.
        let mut data: Vec<(&str, &Value<'_>)> = data.collect();
        data.sort_by_key(|(key, _)| *key);
        for (key, value) in data {
            read(Weight::Body, key);
            let text = value.as_str().unwrap_or_default();
            let end = (0..=text.len().min(left)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            read(Weight::Body, &text[..end]);
            left -= end;
        }
    }
}

fn field<'a>(value: &'a Value<'a>, name: &str) -> Option<&'a Value<'a>> {
    value.as_object()?.get(name)
}

/// Longer annotations of Secrets are not seen: tools keep whole objects there, some of them compressed.
const LONGEST_ANNOTATION: usize = 128;

/// What may be seen of a Secret, as JSON.
fn seen_of_secret(value: &Value<'_>) -> String {
    let mut value = serde_json::Value::from(value);
    let kept =
        |name: &str| value.get(name).and_then(serde_json::Value::as_object).into_iter().flat_map(|data| data.values());
    let kept: Vec<String> =
        kept("data").chain(kept("stringData")).filter_map(|value| Some(value.as_str()?.to_owned())).collect();
    let is_kept = |text: &str| kept.iter().any(|secret| !secret.is_empty() && text.contains(secret.as_str()));
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "type" | "immutable"));
    }
    if let Some(annotations) = value.pointer_mut("/metadata/annotations").and_then(serde_json::Value::as_object_mut) {
        // Tools that apply objects keep the whole of them there, what is secret included.
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        annotations.retain(|_, value| {
            let text = value.as_str();
            text.is_some_and(|text| {
                let is_plain = !text.trim_start().starts_with(['{', '[', '-']) && !text.contains('\n');
                is_plain && text.len() <= LONGEST_ANNOTATION && !is_kept(text)
            })
        });
    }
    value.to_string()
}

/// All values at a path that begins at a value; of arrays on the way, those of every element.
pub(super) fn collect<'a>(value: &'a Value<'a>, steps: &[String], found: &mut Vec<&'a Value<'a>>) {
    match (value, steps.split_first()) {
        (Value::Array(elements), _) => elements.iter().for_each(|element| collect(element, steps, found)),
        (value, None) => found.push(value),
        (Value::Object(fields), Some((step, rest))) => {
            if let Some(inner) = fields.get(step) {
                collect(inner, rest, found);
            }
        }
        _ => {}
    }
}

/// Deeper than any template stands.
const DEEPEST_TEMPLATE: usize = 8;

fn paths_below(value: &Value<'_>, path: &mut Vec<String>, found: &mut BTreeSet<Vec<String>>) {
    match value {
        Value::Array(elements) => elements.iter().for_each(|element| paths_below(element, path, found)),
        Value::Object(fields) => {
            for (name, inner) in fields.iter() {
                path.push(name.to_owned());
                paths_below(inner, path, found);
                path.pop();
            }
        }
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) | Value::Str(_) => drop(found.insert(path.clone())),
    }
}

fn container_lists_below<'a>(
    value: &'a Value<'a>,
    depth: usize,
    path: &mut Vec<&'a str>,
    lists: &mut Vec<(Vec<&'a str>, &'a [Value<'a>])>,
) {
    let (Some(fields), Some(depth)) = (value.as_object(), depth.checked_sub(1)) else { return };
    for (name, inner) in fields.iter() {
        path.push(name);
        match (name, inner) {
            ("containers" | "initContainers" | "ephemeralContainers", Value::Array(list)) => {
                lists.push((path.clone(), list));
            }
            (_, Value::Object(_)) => container_lists_below(inner, depth, path, lists),
            _ => {}
        }
        path.pop();
    }
}
