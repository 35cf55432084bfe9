//! Who wrote which field: `metadata.managedFields`, as server-side apply and `kubectl` expect it.
//!
//! Pure: documents in, documents out. Maps are owned field by field; scalars and lists are owned whole, which for this type
//! is what its lists are.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::GROUP_VERSION;
use crate::error::StatusCause;

/// A path from the object's root.
type Path = Vec<String>;
type Fields = BTreeSet<Path>;

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    /// `fieldManager`, or the first word of the user agent.
    pub name: String,
    /// `status` if only that is written, else empty.
    pub subresource: &'static str,
    /// When, as RFC 3339.
    pub time: String,
}

/// Fields that no one owns: identity and what the server keeps.
const UNOWNED: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "uid"],
    &["metadata", "resourceVersion"],
    &["metadata", "generation"],
    &["metadata", "creationTimestamp"],
    &["metadata", "deletionTimestamp"],
    &["metadata", "deletionGracePeriodSeconds"],
    &["metadata", "selfLink"],
    &["metadata", "managedFields"],
];

/// Maps whose keys are the user's own; whoever makes one owns the map itself too.
const OPEN_MAPS: &[&[&str]] = &[
    &["metadata", "labels"],
    &["metadata", "annotations"],
    &["spec", "targetCluster", "labelSelector", "matchLabels"],
];

fn is_any_of(path: &[String], paths: &[&[&str]]) -> bool {
    paths.iter().any(|one| one.len() == path.len() && one.iter().zip(path).all(|(left, right)| left == right))
}

/// Every owned field of a document and its value; an open map counts as a field too.
fn leaves(document: &Value) -> BTreeMap<Path, &Value> {
    let mut found = BTreeMap::new();
    collect(document, &mut Vec::new(), &mut found);
    found
}

fn collect<'a>(value: &'a Value, path: &mut Path, found: &mut BTreeMap<Path, &'a Value>) {
    if is_any_of(path, UNOWNED) {
        return;
    }
    match value {
        Value::Object(fields) => {
            if is_any_of(path, OPEN_MAPS) {
                found.insert(path.clone(), &Value::Null);
            }
            for (name, value) in fields {
                path.push(name.clone());
                collect(value, path, found);
                path.pop();
            }
        }
        Value::Null => {}
        leaf => drop(found.insert(path.clone(), leaf)),
    }
}

/// One entry of `managedFields`, its fields as a set.
#[derive(Debug, Clone)]
struct Entry {
    manager: String,
    operation: String,
    subresource: String,
    time: Option<String>,
    fields: Fields,
}

impl Entry {
    fn is(&self, manager: &Manager, operation: &str) -> bool {
        self.manager == manager.name && self.operation == operation && self.subresource == manager.subresource
    }
}

fn read(document: &Value) -> Vec<Entry> {
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    document["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| {
            let mut fields = Fields::new();
            decode(&entry["fieldsV1"], &mut Vec::new(), &mut fields);
            Entry {
                manager: text(entry, "manager"),
                operation: text(entry, "operation"),
                subresource: text(entry, "subresource"),
                time: entry["time"].as_str().map(str::to_owned),
                fields,
            }
        })
        .collect()
}

fn decode(fields: &Value, path: &mut Path, found: &mut Fields) {
    let Value::Object(fields) = fields else { return };
    if fields.is_empty() && !path.is_empty() {
        found.insert(path.clone());
    }
    for (name, below) in fields {
        if name == "." {
            found.insert(path.clone());
        } else if let Some(name) = name.strip_prefix("f:") {
            path.push(name.to_owned());
            decode(below, path, found);
            path.pop();
        }
        // Keys of other forms name parts of lists, which here are owned whole.
    }
}

fn encode(fields: &Fields) -> Value {
    let mut root = Map::new();
    for path in fields {
        let is_made = is_any_of(path, OPEN_MAPS)
            && fields.iter().any(|other| other.len() > path.len() && other.starts_with(path));
        if let Some(place) = descend(&mut root, path)
            && is_made
        {
            place.insert(".".to_owned(), json!({}));
        }
    }
    Value::Object(root)
}

/// The map at a path, made on the way.
fn descend<'a>(root: &'a mut Map<String, Value>, path: &[String]) -> Option<&'a mut Map<String, Value>> {
    let Some((first, rest)) = path.split_first() else { return Some(root) };
    let below = root.entry(format!("f:{first}")).or_insert_with(|| Value::Object(Map::new()));
    descend(below.as_object_mut()?, rest)
}

fn write(document: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    // Kubernetes' order: applied ones first, then by time, then by name.
    entries.sort_by(|left, right| {
        (&left.operation, &left.time, &left.manager).cmp(&(&right.operation, &right.time, &right.manager))
    });
    let encoded: Vec<Value> = entries
        .into_iter()
        .map(|entry| {
            let mut written = json!({
                "manager": entry.manager, "operation": entry.operation, "apiVersion": GROUP_VERSION,
                "fieldsType": "FieldsV1", "fieldsV1": encode(&entry.fields),
            });
            if let Some(time) = entry.time {
                written["time"] = json!(time);
            }
            if !entry.subresource.is_empty() {
                written["subresource"] = json!(entry.subresource);
            }
            written
        })
        .collect();
    let Some(metadata) = document["metadata"].as_object_mut() else { return };
    if encoded.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".to_owned(), Value::Array(encoded));
    }
}

/// Notes in `new` that `manager` changed it from `old`.
pub fn updated(old: &Value, new: &mut Value, manager: &Manager) {
    let mut entries = read(old);
    let (changed, removed) = {
        let (before, after) = (leaves(old), leaves(new));
        let changed: Fields = after
            .iter()
            .filter(|(path, value)| before.get(*path) != Some(value))
            .map(|(path, _)| path.clone())
            .collect();
        let removed: Fields = before.keys().filter(|path| !after.contains_key(*path)).cloned().collect();
        (changed, removed)
    };
    for entry in &mut entries {
        entry.fields.retain(|path| !removed.contains(path));
        if !entry.is(manager, "Update") {
            entry.fields.retain(|path| !changed.contains(path));
        }
    }
    if !changed.is_empty() {
        own(&mut entries, manager, "Update", changed);
    }
    write(new, entries);
}

fn own(entries: &mut Vec<Entry>, manager: &Manager, operation: &str, fields: Fields) {
    if let Some(entry) = entries.iter_mut().find(|entry| entry.is(manager, operation)) {
        entry.fields.extend(fields);
        entry.time = Some(manager.time.clone());
        return;
    }
    entries.push(Entry {
        manager: manager.name.clone(),
        operation: operation.to_owned(),
        subresource: manager.subresource.to_owned(),
        time: Some(manager.time.clone()),
        fields,
    });
}

/// Applies `configuration` to `live` for `manager`: its fields are set, those it applied before and no longer names are
/// removed unless somebody else owns them.
///
/// # Errors
/// The fields that others own with another value, unless `force` takes them.
pub fn applied(live: &Value, configuration: &Value, manager: &Manager, force: bool) -> Result<Value, Vec<StatusCause>> {
    let mut entries = read(live);
    let wanted = leaves(configuration);
    let present = leaves(live);
    let differs = |path: &Path| present.get(path) != wanted.get(path);
    let mut causes = Vec::new();
    for entry in entries.iter_mut().filter(|entry| !entry.is(manager, "Apply")) {
        let disputed: Vec<Path> =
            entry.fields.iter().filter(|path| wanted.contains_key(*path) && differs(path)).cloned().collect();
        for path in disputed {
            causes.push(conflict(&entry.manager, &entry.operation, &path));
            entry.fields.remove(&path);
        }
    }
    if !causes.is_empty() && !force {
        return Err(causes);
    }
    let before = entries.iter().find(|entry| entry.is(manager, "Apply")).map(|entry| entry.fields.clone());
    entries.retain(|entry| !entry.is(manager, "Apply"));
    let mut result = live.clone();
    for path in before.unwrap_or_default().iter().filter(|path| !wanted.contains_key(*path)) {
        if !entries.iter().any(|entry| entry.fields.contains(path)) {
            remove(&mut result, path);
        }
    }
    for (path, value) in wanted.iter().filter(|(path, _)| !is_any_of(path, OPEN_MAPS)) {
        set(&mut result, path, (*value).clone());
    }
    // An applied map is owned by its keys alone.
    let fields = wanted.keys().filter(|path| !is_any_of(path, OPEN_MAPS)).cloned().collect();
    own(&mut entries, manager, "Apply", fields);
    write(&mut result, entries);
    Ok(result)
}

fn conflict(manager: &str, operation: &str, path: &[String]) -> StatusCause {
    let using = if operation == "Apply" { String::new() } else { format!(" using {GROUP_VERSION}") };
    StatusCause {
        reason: "FieldManagerConflict",
        message: format!("conflict with {manager:?}{using}"),
        field: format!(".{}", path.join(".")),
    }
}

fn set(document: &mut Value, path: &[String], value: Value) {
    let mut place = document;
    for name in path {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[name.as_str()];
    }
    *place = value;
}

fn remove(document: &mut Value, path: &[String]) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut place = document;
    for name in parents {
        match place.get_mut(name) {
            Some(below) => place = below,
            None => return,
        }
    }
    if let Some(fields) = place.as_object_mut() {
        fields.remove(last);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manager(name: &str) -> Manager {
        Manager { name: name.into(), subresource: "", time: "2026-01-02T03:04:05Z".into() }
    }

    fn registry(labels: Value, names: Value) -> Value {
        json!({"apiVersion": GROUP_VERSION, "kind": "ResourceRegistry", "metadata": {"name": "a", "labels": labels},
            "spec": {"targetCluster": {"clusterNames": names}, "resourceSelectors": []}})
    }

    fn created(by: &str) -> Value {
        let mut document = registry(json!({"team": "lab"}), json!(["member1"]));
        updated(&Value::Null, &mut document, &manager(by));
        document
    }

    #[test]
    fn a_creation_is_recorded_as_the_drop_in_records_it() {
        let document = created("kubectl-create");
        assert_eq!(
            document["metadata"]["managedFields"],
            json!([{"manager": "kubectl-create", "operation": "Update", "apiVersion": GROUP_VERSION,
                "time": "2026-01-02T03:04:05Z", "fieldsType": "FieldsV1", "fieldsV1": {
                    "f:metadata": {"f:labels": {".": {}, "f:team": {}}},
                    "f:spec": {"f:resourceSelectors": {}, "f:targetCluster": {"f:clusterNames": {}}}}}])
        );
    }

    #[test]
    fn what_another_owns_is_a_conflict_until_it_is_forced() {
        let live = created("kubectl-create");
        let configuration = registry(json!({"team": "lab"}), json!(["member2"]));
        let causes = applied(&live, &configuration, &manager("kubectl"), false).unwrap_err();
        assert_eq!(causes.len(), 1);
        assert_eq!(causes[0].field, ".spec.targetCluster.clusterNames");
        assert!(causes[0].message.contains("kubectl-create"));
        let forced = applied(&live, &configuration, &manager("kubectl"), true).unwrap();
        assert_eq!(forced["spec"]["targetCluster"]["clusterNames"], json!(["member2"]));
        let again = applied(&forced, &registry(json!({}), json!(["member3"])), &manager("kubectl"), false).unwrap();
        assert_eq!(
            again["spec"]["targetCluster"]["clusterNames"],
            json!(["member3"]),
            "its own fields are its to change"
        );
    }

    #[test]
    fn a_field_no_longer_applied_is_removed_if_nobody_else_owns_it() {
        let live = registry(json!({"a": "1", "b": "2"}), json!(["m"]));
        let first = applied(&json!({"metadata": {"name": "a"}}), &live, &manager("x"), false).unwrap();
        let shared = applied(&first, &json!({"metadata": {"labels": {"a": "1"}}}), &manager("y"), false).unwrap();
        let less = applied(&shared, &json!({"spec": {"targetCluster": {"clusterNames": ["m"]}}}), &manager("x"), false)
            .unwrap();
        assert_eq!(less["metadata"]["labels"], json!({"a": "1"}), "y still applies it");
        assert!(less["spec"].get("resourceSelectors").is_none());
    }

    #[test]
    fn an_update_takes_the_fields_it_changed() {
        let old = created("one");
        let mut new = old.clone();
        new["metadata"]["labels"]["team"] = json!("other");
        updated(&old, &mut new, &manager("two"));
        let entries = read(&new);
        let of = |name: &str| entries.iter().find(|entry| entry.manager == name).unwrap().fields.clone();
        let team: Path = ["metadata", "labels", "team"].map(str::to_owned).to_vec();
        assert!(of("two").contains(&team) && !of("one").contains(&team));
    }

    proptest! {
        #[test]
        fn sets_of_fields_survive_the_round_trip(
            paths in proptest::collection::btree_set(proptest::collection::vec("[a-z]{1,3}", 1..4), 0..8),
        ) {
            // A path that leads through another cannot be a leaf too.
            let leaves: Fields = paths.iter()
                .filter(|path| !paths.iter().any(|other| other.len() > path.len() && other.starts_with(path)))
                .cloned().collect();
            let mut decoded = Fields::new();
            decode(&encode(&leaves), &mut Vec::new(), &mut decoded);
            prop_assert_eq!(decoded, leaves);
        }
    }
}
