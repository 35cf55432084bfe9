//! One cluster's objects from its folder of manifests: JSON and YAML, single objects, lists, several documents a file.
//!
//! The folder is read again when anything in it changes. A file or document that cannot be read is named, the rest served.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use walkdir::WalkDir;

use super::builtin::built_in_kind;
use crate::connection::{PrinterColumn, columns_of};
use crate::resource::{ApiResource, GroupVersionResource};

/// How often the folder is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Largest file that is read.
const FILE_BYTES: u64 = 256 << 20;
/// Deepest folder that is looked into.
const DEPTH: usize = 32;

/// What a folder holds.
#[derive(Debug, Clone, Default)]
pub struct SnapshotContents {
    /// Each resource and its objects.
    pub resources: BTreeMap<GroupVersionResource, SnapshotResource>,
    /// What could not be read.
    pub unreadable: Vec<Unreadable>,
    /// Rises each time the folder was read anew.
    pub generation: u64,
}

/// The objects of one resource.
#[derive(Debug, Clone)]
pub struct SnapshotResource {
    /// Its names and scope.
    pub api: ApiResource,
    /// Each object as compact JSON.
    pub objects: Vec<Bytes>,
}

impl SnapshotContents {
    /// The columns that the folder's CustomResourceDefinition of a resource asks for.
    pub fn printer_columns(&self, resource: &ApiResource) -> Vec<PrinterColumn> {
        let gvr = GroupVersionResource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
        let name = format!("{}.{}", resource.gvr.resource, resource.gvr.group);
        let definitions = self.resources.get(&gvr).map(|definitions| &*definitions.objects).unwrap_or_default();
        let mut named = definitions.iter().filter(|definition| {
            let definition: Option<Value> = serde_json::from_slice(definition).ok();
            definition.is_some_and(|definition| definition["metadata"]["name"] == name.as_str())
        });
        named.next().and_then(|one| columns_of(one, &resource.gvr.version).ok()).unwrap_or_default()
    }
}

/// A file, or a document in it, that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.path.display(), self.problem)
    }
}

/// A folder that is followed.
#[derive(Debug)]
pub struct SnapshotFolder;

/// Sizes and times of all files, or why one cannot be looked at: when these are the same, so are the contents.
type Stamp = BTreeMap<PathBuf, Result<(u64, Option<SystemTime>), String>>;

impl SnapshotFolder {
    /// Reads the folder now and whenever it changed, until cancelled. Generation 0 means that it was not read yet.
    pub fn watch(path: PathBuf, cancelled: CancellationToken) -> watch::Receiver<Arc<SnapshotContents>> {
        let (sender, receiver) = watch::channel(Arc::default());
        tokio::spawn(cancelled.run_until_cancelled_owned(async move {
            let mut known = None;
            for generation in 1.. {
                let (folder, earlier) = (path.clone(), known.clone());
                let look = tokio::task::spawn_blocking(move || {
                    let present = stamp(&folder);
                    let contents = (earlier.as_ref() != Some(&present)).then(|| read(&present, generation));
                    (present, contents)
                });
                match look.await {
                    Ok((present, contents)) => {
                        known = Some(present);
                        contents.map(|contents| sender.send_replace(Arc::new(contents)));
                    }
                    Err(error) => tracing::error!(folder = %path.display(), %error, "the folder cannot be read"),
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }));
        receiver
    }
}

fn stamp(folder: &Path) -> Stamp {
    WalkDir::new(folder)
        .max_depth(DEPTH)
        .follow_links(true)
        .into_iter()
        // Mounted ConfigMaps keep each file thrice, twice under hidden names.
        .filter_entry(|entry| entry.depth() == 0 || !entry.file_name().to_string_lossy().starts_with('.'))
        .filter_map(|entry| match entry {
            Ok(entry) if entry.file_type().is_file() && is_manifest(entry.path()) => {
                let facts = entry.metadata().map(|facts| (facts.len(), facts.modified().ok()));
                Some((entry.into_path(), facts.map_err(|error| error.to_string())))
            }
            Ok(_) => None,
            Err(error) => Some((error.path().unwrap_or(folder).to_path_buf(), Err(error.to_string()))),
        })
        .collect()
}

fn is_manifest(path: &Path) -> bool {
    matches!(path.extension().and_then(|extension| extension.to_str()), Some("json" | "yaml" | "yml"))
}

fn read(files: &Stamp, generation: u64) -> SnapshotContents {
    let mut reading = Reading::default();
    for (path, facts) in files {
        match facts {
            Ok((size, _)) => reading.file(path, *size),
            Err(problem) => reading.report(path, problem.clone()),
        }
    }
    reading.finish(generation)
}

#[derive(Default)]
struct Reading {
    objects: Vec<Found>,
    unreadable: Vec<Unreadable>,
}

struct Found {
    path: PathBuf,
    group: String,
    version: String,
    kind: String,
    value: Value,
}

impl Reading {
    fn file(&mut self, path: &Path, size: u64) {
        if size > FILE_BYTES {
            return self.report(path, format!("{size} bytes are more than the {FILE_BYTES} that are read"));
        }
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return self.report(path, error.to_string()),
        };
        if path.extension().is_some_and(|extension| extension == "json") {
            for (number, document) in serde_json::Deserializer::from_str(&text).into_iter::<Value>().enumerate() {
                match document {
                    Ok(value) => self.document(path, number + 1, value),
                    Err(error) => return self.report(path, format!("document {}: {error}", number + 1)),
                }
            }
        } else {
            for (number, document) in serde_yaml::Deserializer::from_str(&text).enumerate() {
                match Value::deserialize(document) {
                    Ok(Value::Null) => {}
                    Ok(value) => self.document(path, number + 1, value),
                    Err(error) => return self.report(path, format!("document {}: {error}", number + 1)),
                }
            }
        }
    }

    fn report(&mut self, path: &Path, problem: String) {
        self.unreadable.push(Unreadable { path: path.to_owned(), problem });
    }

    fn document(&mut self, path: &Path, number: usize, mut value: Value) {
        let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (text(&value, "apiVersion"), text(&value, "kind"));
        if !value.is_object() {
            return self.report(path, format!("document {number} is no object"));
        }
        if let (Some(item_kind), Some(Value::Array(items))) = (kind.strip_suffix("List"), value.get_mut("items")) {
            for mut item in std::mem::take(items) {
                // Items of a typed list carry no type of their own.
                if item.is_object() && item["kind"].is_null() && !item_kind.is_empty() {
                    item["kind"] = item_kind.into();
                    item["apiVersion"] = api_version.as_str().into();
                }
                self.document(path, number, item);
            }
            return;
        }
        if api_version.is_empty() || kind.is_empty() {
            return self.report(path, format!("document {number} has no apiVersion or no kind"));
        }
        if value["metadata"]["name"].as_str().unwrap_or_default().is_empty() {
            return self.report(path, format!("document {number}, a {kind}, has no metadata.name"));
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let (group, version) = (group.to_owned(), version.to_owned());
        self.objects.push(Found { path: path.to_owned(), group, version, kind, value });
    }

    fn finish(mut self, generation: u64) -> SnapshotContents {
        let definitions = self.definitions();
        let mut resources: BTreeMap<GroupVersionResource, SnapshotResource> = BTreeMap::new();
        let mut seen: BTreeMap<(GroupVersionResource, String, String), usize> = BTreeMap::new();
        for found in std::mem::take(&mut self.objects) {
            let api = definitions
                .get(&(found.group.clone(), found.kind.clone()))
                .map(|(plural, namespaced)| describe(&found, plural, *namespaced))
                .or_else(|| built_in_kind(&found.group, &found.version, &found.kind))
                .unwrap_or_else(|| guess(&found));
            let gvr = api.gvr.clone();
            let resource = resources.entry(gvr.clone()).or_insert(SnapshotResource { api, objects: Vec::new() });
            let name = |field: &str| found.value["metadata"][field].as_str().unwrap_or_default().to_owned();
            let object = Bytes::from(found.value.to_string());
            match seen.insert((gvr.clone(), name("namespace"), name("name")), resource.objects.len()) {
                Some(earlier) => {
                    let problem = format!("{} {} stands twice; the last one counts", found.kind, name("name"));
                    self.unreadable.push(Unreadable { path: found.path, problem });
                    resource.objects[earlier] = object;
                    seen.insert((gvr, name("namespace"), name("name")), earlier);
                }
                None => resource.objects.push(object),
            }
        }
        SnapshotContents { resources, unreadable: self.unreadable, generation }
    }

    /// (group, kind) → (plural, namespaced), from the CustomResourceDefinitions among the objects.
    fn definitions(&self) -> BTreeMap<(String, String), (String, bool)> {
        let definitions = self.objects.iter().filter(|found| found.kind == "CustomResourceDefinition");
        definitions
            .filter_map(|found| {
                let spec = &found.value["spec"];
                let text = |value: &Value| value.as_str().map(str::to_owned);
                let names = (text(&spec["group"])?, text(&spec["names"]["kind"])?);
                Some((names, (text(&spec["names"]["plural"])?, spec["scope"] == "Namespaced")))
            })
            .collect()
    }
}

fn describe(found: &Found, plural: &str, namespaced: bool) -> ApiResource {
    ApiResource {
        gvr: GroupVersionResource::new(&found.group, &found.version, plural),
        kind: found.kind.as_str().into(),
        namespaced,
        watchable: true,
    }
}

/// For kinds that nothing describes: the regular English plural, and the scope that the object shows.
fn guess(found: &Found) -> ApiResource {
    let kind = found.kind.to_lowercase();
    let plural = match kind.as_bytes() {
        [.., before, b'y'] if !b"aeiou".contains(before) => format!("{}ies", &kind[..kind.len() - 1]),
        [.., b's' | b'x' | b'z'] | [.., b'c' | b's', b'h'] => format!("{kind}es"),
        _ => format!("{kind}s"),
    };
    describe(found, &plural, found.value["metadata"]["namespace"].is_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_files(files: &[(&str, &str)]) -> SnapshotContents {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        read(&stamp(folder.path()), 1)
    }

    fn counts(contents: &SnapshotContents) -> Vec<(String, usize)> {
        contents.resources.iter().map(|(gvr, resource)| (gvr.to_string(), resource.objects.len())).collect()
    }

    #[test]
    fn objects_lists_and_several_documents_are_read_from_json_and_yaml() {
        let contents = read_files(&[
            (
                "a.yaml",
                "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: x}\n---\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n",
            ),
            (
                "deep/b.json",
                r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"}}]}"#,
            ),
            ("c.yml", "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: c}\n"),
            ("notes.txt", "not a manifest"),
        ]);
        assert_eq!(counts(&contents), [("v1/pods".to_owned(), 3), ("apps/v1/deployments".to_owned(), 1)]);
        assert!(contents.unreadable.is_empty(), "{:?}", contents.unreadable);
    }

    #[test]
    fn custom_kinds_take_their_names_from_their_definition_or_from_english() {
        let contents = read_files(&[(
            "crd.yaml",
            "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: oxen.farm.io}\nspec: {group: farm.io, scope: Cluster, names: {kind: Ox, plural: oxen}}\n---\napiVersion: farm.io/v1\nkind: Ox\nmetadata: {name: o}\n---\napiVersion: farm.io/v1\nkind: Policy\nmetadata: {name: p, namespace: n}\n",
        )]);
        let names: Vec<_> =
            contents.resources.iter().map(|(gvr, one)| (gvr.resource.to_string(), one.api.namespaced)).collect();
        assert!(names.contains(&("oxen".to_owned(), false)) && names.contains(&("policies".to_owned(), true)));
    }

    #[test]
    fn what_cannot_be_read_is_named_and_the_rest_is_served() {
        let contents = read_files(&[
            ("good.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: n}\n"),
            ("broken.json", "{"),
            ("nameless.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {}\n"),
            ("untyped.yaml", "just: text\n"),
            (
                "twice.yaml",
                "apiVersion: v1\nkind: Node\nmetadata: {name: t, labels: {x: '1'}}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: t}\n",
            ),
        ]);
        assert_eq!(counts(&contents), [("v1/nodes".to_owned(), 2)]);
        let problems: Vec<_> = contents.unreadable.iter().map(ToString::to_string).collect();
        for (file, part) in [
            ("broken.json", "document 1"),
            ("nameless.yaml", "metadata.name"),
            ("untyped.yaml", "apiVersion"),
            ("twice.yaml", "twice"),
        ] {
            assert!(
                problems.iter().any(|problem| problem.contains(file) && problem.contains(part)),
                "{file}: {problems:?}"
            );
        }
    }

    #[test]
    fn objects_are_served_as_they_are_written() {
        let text = r#"{"apiVersion":"v1","kind":"ConfigMap","items":[1],"metadata":{"name":"a"}}"#;
        let contents = read_files(&[
            ("a.json", text),
            ("words.yaml", "just a text\n"),
            ("list.json", "[1]"),
            (".hidden.yaml", "x"),
        ]);
        let object: Value = serde_json::from_slice(&contents.resources.values().next().unwrap().objects[0]).unwrap();
        assert_eq!(object, serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(contents.unreadable.len(), 2, "{:?}", contents.unreadable);
    }

    #[test]
    fn a_folder_that_is_gone_is_named() {
        let contents = read(&stamp(Path::new("/no/such/cluster")), 1);
        assert!(contents.unreadable[0].to_string().contains("/no/such/cluster"));
    }

    #[tokio::test]
    async fn a_changed_file_is_taken_up_while_running() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, "apiVersion: v1\nkind: Node\nmetadata: {name: one}\n").unwrap();
        let mut contents = SnapshotFolder::watch(folder.path().to_path_buf(), CancellationToken::new());
        contents.wait_for(|contents| contents.generation == 1).await.unwrap();
        std::fs::write(&path, "apiVersion: v1\nkind: Node\nmetadata: {name: another}\n").unwrap();
        contents.wait_for(|contents| contents.generation > 1).await.unwrap();
        let present = contents.borrow_and_update().clone();
        assert!(String::from_utf8_lossy(&present.resources.values().next().unwrap().objects[0]).contains("another"));
    }
}
