//! Which fields objects have, for completion: from the index, or from a look at some objects where there is none.

use std::collections::BTreeSet;

use crate::cache::Cache;
use crate::index::Index;
use crate::query::Field;
use crate::query::document::Document;

/// Objects looked at, a (cluster, resource), where there is no index.
const LOOKED_AT: usize = 5;
/// Different paths that are looked at, a segment.
const MOST_PATHS: usize = 20_000;

/// Names of fields that begin so, in their order; at most so many.
pub fn field_names(cache: &Cache, index: &Index, beginning: &str, most: usize) -> Vec<String> {
    let paths = match index.committed().map(|committed| committed.paths(MOST_PATHS)) {
        Some(Ok(paths)) => paths,
        Some(Err(error)) => {
            index.give_up(&error);
            seen_paths(cache)
        }
        None => seen_paths(cache),
    };
    let mut names: BTreeSet<String> = Field::named().map(str::to_owned).collect();
    for path in paths {
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
    for resource in cache.all() {
        let decoder = resource.codec().decoder();
        for part in resource.snapshot(None).parts.values() {
            for entry in part.objects.iter().take(LOOKED_AT) {
                object.clear();
                if decoder.append(entry.frame(), &mut object).is_ok()
                    && let Some(document) = Document::read(&object)
                {
                    document.paths(&mut paths);
                }
            }
        }
    }
    paths
}
