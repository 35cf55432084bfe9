//! Which fields objects have, for completion: what a look at some objects of each resource shows.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::cache::Cache;
use crate::query::Field;
use crate::query::document::Document;

/// Objects looked at, in all and of one resource.
const LOOKED_AT: usize = 2000;
const OF_A_RESOURCE: usize = 200;
/// Who types waits no longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Names of fields that begin so, in their order; at most so many.
pub fn field_names(cache: &Cache, beginning: &str, most: usize) -> Vec<String> {
    let mut names: BTreeSet<String> = Field::named().map(str::to_owned).collect();
    for path in seen_paths(cache) {
        names.extend(special(&path).map(|field| field.to_string()));
        names.insert(Field::Path(path).to_string());
    }
    names.into_iter().filter(|name| name.starts_with(beginning)).take(most).collect()
}

/// Labels and annotations have names of their own.
fn special(path: &[String]) -> Option<Field> {
    match path {
        [metadata, labels, key] if metadata == "metadata" && labels == "labels" => Some(Field::Label(key.clone())),
        [metadata, annotations, key] if metadata == "metadata" && annotations == "annotations" => {
            Some(Field::Annotation(key.clone()))
        }
        _ => None,
    }
}

fn seen_paths(cache: &Cache) -> BTreeSet<Vec<String>> {
    let mut paths = BTreeSet::new();
    let mut object = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    let resources = cache.all();
    let most = (LOOKED_AT / resources.len().max(1)).clamp(1, OF_A_RESOURCE);
    for resource in resources {
        let decoder = resource.codec().decoder();
        let snapshot = resource.snapshot(None);
        // Some of each cluster, more of each where there are few.
        let of_each = most.div_ceil(snapshot.parts.len().max(1));
        let entries = snapshot.parts.values().flat_map(|part| part.objects.iter().take(of_each));
        for entry in entries.take(most) {
            if Instant::now() >= deadline {
                return paths;
            }
            object.clear();
            if decoder.append(entry.frame(), &mut object).is_ok()
                && let Some(document) = Document::read(&object)
            {
                document.paths(&mut paths);
            }
        }
    }
    paths
}
