//! What is not the same in all clusters: objects that some of them lack, and fields that differ.
//!
//! In: a query for objects, and the clusters to compare. Each object that passes anywhere is looked up in all of them, whether
//! it passes there or not. What a cluster makes of an object by itself – its status, its ids, addresses it gave out – is no
//! difference, and neither is what a controller made: it follows from what it was made of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde::Serialize;
use serde_json::{Map, Value};

use super::candidates::{Candidate, Candidates};
use super::lookup::Lookup;
use super::order::{Order, SortKey};
use super::{Hit, Question, Scope, page};
use crate::cache::Cache;
use crate::entry::EntryKey;
use crate::index::Index;
use crate::query::document::Document;
use crate::resource::ClusterName;

/// Objects looked up between two looks at the clock.
const AT_ONCE: usize = 500;

/// An object that is not the same everywhere.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Its API group, empty for the core.
    pub group: String,
    /// What it is.
    pub kind: String,
    /// Its namespace, empty if it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Clusters that have it.
    pub present_in: Vec<ClusterName>,
    /// Clusters that follow its kind and lack it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_in: Vec<ClusterName>,
    /// Fields that differ between those that have it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldDifference>,
}

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FieldDifference {
    /// Where; elements of lists by their name, or else by their number.
    pub path: String,
    /// What each cluster has there, for those that have anything.
    pub values: BTreeMap<ClusterName, Value>,
}

/// Which differences are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kept {
    /// All of them.
    #[default]
    All,
    /// Objects that some cluster lacks.
    Missing,
    /// Objects of which fields differ.
    Changed,
}

impl Kept {
    fn takes(self, difference: &Difference) -> bool {
        match self {
            Self::All => !difference.missing_in.is_empty() || !difference.fields.is_empty(),
            Self::Missing => !difference.missing_in.is_empty(),
            Self::Changed => !difference.fields.is_empty(),
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Differences {
    /// In the order of kind, namespace and name.
    pub items: Vec<Difference>,
    /// Objects that were compared.
    pub compared: u64,
    /// Objects of kinds that fewer than two of the clusters follow, each of them counted.
    pub alone: u64,
    /// Behind which more are to be compared.
    pub next: Option<SortKey>,
    /// Whether the deadline came first.
    pub is_partial: bool,
}

/// Compares clusters; ends behind `limit` differences.
pub fn differences(
    cache: &Cache,
    index: &Index,
    scope: &Scope,
    kept: Kept,
    limit: usize,
    after: Option<SortKey>,
) -> Differences {
    let mut committed = index.committed();
    let candidates = Candidates::of(cache, scope.clusters.as_ref());
    let mut found = Differences { items: Vec::new(), compared: 0, alone: 0, next: after, is_partial: false };
    let comparison = Comparison::new(&candidates);
    loop {
        let question =
            Question { after: found.next.take(), ..Question::new(scope.clone(), Order::by_identity(), AT_ONCE) };
        let asked = page(&Lookup::new(committed.clone(), &candidates), &question).or_else(|error| {
            index.give_up(committed.take().as_ref(), &error);
            page(&Lookup::new(None, &candidates), &question)
        });
        let Ok(asked) = asked else {
            found.is_partial = true;
            return found;
        };
        let is_last = asked.next.is_none();
        found.is_partial |= asked.is_partial || (!is_last && Instant::now() >= scope.deadline);
        let wanted = Wanted { kept, limit, deadline: scope.deadline };
        let end = comparison.compare(asked.hits, &wanted, &mut found);
        found.next = end.filter(|_| !found.is_partial);
        if found.is_partial || found.next.is_none() || found.items.len() >= limit {
            // Behind the last object there is nothing, however many were asked for.
            return found;
        }
    }
}

/// How much is to be compared.
struct Wanted {
    kept: Kept,
    limit: usize,
    deadline: Instant,
}

struct Comparison<'a> {
    /// Clusters that follow a resource, by group and plural name.
    parts: BTreeMap<(&'a str, &'a str), Vec<&'a Candidate>>,
}

impl<'a> Comparison<'a> {
    fn new(candidates: &'a Candidates) -> Self {
        let mut parts: BTreeMap<_, Vec<&Candidate>> = BTreeMap::new();
        for candidate in candidates.parts.iter().filter(|candidate| candidate.part.sync.synced) {
            let gvr = &candidate.part.served.gvr;
            parts.entry((&*gvr.group, &*gvr.resource)).or_default().push(candidate);
        }
        Self { parts }
    }

    /// Compares objects, each once; returns behind which one it ended, if there was any.
    fn compare(&self, hits: Vec<Hit>, wanted: &Wanted, found: &mut Differences) -> Option<SortKey> {
        let mut end: Option<SortKey> = None;
        // The same kind, namespace and name may be of several groups.
        let mut groups: BTreeSet<String> = BTreeSet::new();
        for hit in hits {
            let is_same = end.as_ref().is_some_and(|end| end.is_behind_clusters_of(&hit));
            if !is_same {
                if found.items.len() >= wanted.limit {
                    break;
                }
                // An object is opened in every cluster, which may be many.
                if Instant::now() >= wanted.deadline {
                    found.is_partial = true;
                    break;
                }
                groups.clear();
                end = Some(SortKey::behind_clusters_of(&hit));
            }
            if groups.insert(hit.served.gvr.group.to_string())
                && let Some(difference) = self.look(&hit, found)
                && wanted.kept.takes(&difference)
            {
                found.items.push(difference);
            }
        }
        end
    }

    fn look(&self, hit: &Hit, found: &mut Differences) -> Option<Difference> {
        let gvr = &hit.served.gvr;
        let Some(candidates) = self.parts.get(&(&*gvr.group, &*gvr.resource)).filter(|parts| parts.len() > 1) else {
            found.alone += 1;
            return None;
        };
        let key = EntryKey::new(hit.entry.namespace(), hit.entry.name());
        let mut objects: Vec<(&ClusterName, Document)> = Vec::new();
        let mut missing_in = Vec::new();
        let mut scratch = Vec::new();
        for candidate in candidates {
            let Some(entry) = candidate.part.objects.get(&key) else {
                missing_in.push(candidate.cluster.clone());
                continue;
            };
            scratch.clear();
            candidate.decoder.append(entry.frame(), &mut scratch).ok()?;
            objects.push((&candidate.cluster, Document::read(&scratch)?));
        }
        if objects.iter().any(|(_, document)| document.has_controller()) {
            return None;
        }
        found.compared += 1;
        let present_in = objects.iter().map(|(cluster, _)| (*cluster).clone()).collect();
        let objects: Vec<(&ClusterName, Value)> =
            objects.into_iter().map(|(cluster, document)| (cluster, document.intended())).collect();
        let mut fields = Vec::new();
        let values: Vec<(&ClusterName, Option<&Value>)> =
            objects.iter().map(|(cluster, value)| (*cluster, Some(value))).collect();
        compare(&values, &mut String::new(), &mut fields);
        Some(Difference {
            group: gvr.group.to_string(),
            kind: hit.served.kind.to_string(),
            namespace: hit.entry.namespace().to_owned(),
            name: hit.entry.name().to_owned(),
            present_in,
            missing_in,
            fields,
        })
    }
}

fn compare(values: &[(&ClusterName, Option<&Value>)], path: &mut String, found: &mut Vec<FieldDifference>) {
    let Some(((_, first), rest)) = values.split_first() else { return };
    if rest.iter().all(|(_, value)| value == first) {
        return;
    }
    if let Some(objects) = all_of(values, Value::as_object) {
        let keys: BTreeSet<&String> = objects.iter().flat_map(|(_, object)| object.keys()).collect();
        for key in keys {
            let inner: Vec<_> = objects.iter().map(|(cluster, object)| (*cluster, object.get(key))).collect();
            below(path, &step(key, path.is_empty()), |path| compare(&inner, path, found));
        }
        return;
    }
    if let Some(lists) = all_of(values, Value::as_array) {
        let is_named = lists.iter().flat_map(|(_, list)| list.iter()).all(|element| name(element).is_some());
        let labels: Vec<Vec<(String, &Value)>> = lists.iter().map(|(_, list)| labelled(list, is_named)).collect();
        // Of two elements with one name, the first counts.
        let by_label: Vec<BTreeMap<&str, &Value>> = labels
            .iter()
            .map(|labelled| labelled.iter().rev().map(|(label, element)| (label.as_str(), *element)).collect())
            .collect();
        let mut seen = BTreeSet::new();
        for label in labels.iter().flatten().map(|(label, _)| label.as_str()).filter(|label| seen.insert(*label)) {
            let elements = lists.iter().zip(&by_label);
            let inner: Vec<_> =
                elements.map(|((cluster, _), by_label)| (*cluster, by_label.get(label).copied())).collect();
            below(path, &format!("[{label}]"), |path| compare(&inner, path, found));
        }
        return;
    }
    let values = values.iter().filter_map(|(cluster, value)| Some(((*cluster).clone(), (*value)?.clone())));
    found.push(FieldDifference { path: as_asked(path), values: values.collect() });
}

/// All values as what they are alike; none if one isn't that.
fn all_of<'a, T: ?Sized>(
    values: &[(&'a ClusterName, Option<&'a Value>)],
    read: impl Fn(&'a Value) -> Option<&'a T>,
) -> Option<Vec<(&'a ClusterName, &'a T)>> {
    values.iter().map(|(cluster, value)| Some((*cluster, read((*value)?)?))).collect()
}

fn name(element: &Value) -> Option<&str> {
    element.get("name")?.as_str()
}

fn labelled(list: &[Value], is_named: bool) -> Vec<(String, &Value)> {
    let label = |(at, element)| (if is_named { name(element).map(str::to_owned) } else { None }, at, element);
    list.iter()
        .enumerate()
        .map(label)
        .map(|(name, at, element)| (name.unwrap_or_else(|| at.to_string()), element))
        .collect()
}

/// Labels and annotations by the names that queries have for them.
fn as_asked(path: &str) -> String {
    for (place, field) in [("metadata.labels.", "label."), ("metadata.annotations.", "annotation.")] {
        if let Some(key) = path.strip_prefix(place) {
            return format!("{field}{}", key.replace("\\.", "."));
        }
    }
    path.to_owned()
}

/// As the grammar of queries writes paths, where it can.
fn step(key: &str, is_first: bool) -> String {
    format!("{}{}", if is_first { "" } else { "." }, key.replace('.', "\\."))
}

fn below(path: &mut String, step: &str, call: impl FnOnce(&mut String)) {
    let end = path.len();
    path.push_str(step);
    call(path);
    path.truncate(end);
}

/// Annotations that tools and controllers keep for themselves.
const NOTES: [&str; 2] = ["kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision"];

impl Document {
    fn has_controller(&self) -> bool {
        let path = ["metadata", "ownerReferences", "controller"].map(str::to_owned);
        self.at(&path).into_iter().any(|controls| controls.as_bool() == Some(true))
    }

    /// What somebody wanted it to be, without what its cluster made of it.
    fn intended(&self) -> Value {
        let Some(root) = self.root().as_object() else { return Value::Null };
        let mut root: Map<String, Value> = root.into();
        root.remove("status");
        let metadata = root.remove("metadata");
        let mut kept = Map::new();
        for field in ["labels", "annotations"] {
            let pairs = metadata.as_ref().and_then(|metadata| metadata.get(field)).and_then(Value::as_object);
            let wanted = |key: &str| {
                let domain = key.split_once('/').map_or("", |(domain, _)| domain);
                // What distributes objects marks them, for each cluster in another way.
                !NOTES.contains(&key) && !domain.ends_with("karmada.io")
            };
            let pairs = pairs.into_iter().flatten().filter(|(key, _)| wanted(key));
            kept.insert(field.to_owned(), pairs.map(|(key, value)| (key.clone(), value.clone())).collect());
        }
        root.insert("metadata".to_owned(), Value::Object(kept));
        let kind = root.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(spec) = root.get_mut("spec").and_then(Value::as_object_mut) {
            forget_assigned(&kind, spec);
        }
        Value::Object(root)
    }
}

/// Addresses, ports and volumes that a cluster gives out.
fn forget_assigned(kind: &str, spec: &mut Map<String, Value>) {
    match kind {
        "Service" => {
            for field in ["clusterIP", "clusterIPs", "healthCheckNodePort"] {
                // One without an address was meant to have none.
                let is_chosen = spec.get(field).and_then(Value::as_str) == Some("None")
                    || spec.get(field).and_then(|list| list.get(0)).and_then(Value::as_str) == Some("None");
                if !is_chosen {
                    spec.remove(field);
                }
            }
            for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                port.as_object_mut().and_then(|port| port.remove("nodePort"));
            }
        }
        "PersistentVolumeClaim" => drop(spec.remove("volumeName")),
        "Pod" => drop(spec.remove("nodeName")),
        _ => {}
    }
}
