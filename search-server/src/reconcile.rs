//! Members, registries and limits of one library as the other one has them.
//!
//! In: the registry store's snapshots. Out: a channel of [`RegistrySet`]s for the supervisor.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apiservice::registry::RegistrySnapshot;
use apiservice::types::{self, ResourceRegistry};
use indexer::affinity::{ClusterAffinity, LocationCondition, LocationField};
use indexer::backend::Told;
use indexer::plan::{BackendReference, Registry, ResourceSelector, SearchedIn, SecretReference};
use indexer::supervise::RegistrySet;
use kube::core::Selector;
use tokio::sync::watch;

use crate::sent_to::SentTo;

/// The annotation of a registry that says what answers queries for its objects: `opensearch` or `index`.
const SEARCH_BACKEND: &str = "search.fleetglass.io/search-backend";

/// Characters of a value that are quoted.
const SHOWN: usize = 40;

/// What is remembered of backends, and what is found out about them.
pub(crate) type Remembered = (SentTo, watch::Receiver<Told>);

/// How soon what could not be remembered is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Keeps the supervisor's registries in step with the store until either side is gone. Servers that write to backends remember which
/// ones.
pub(crate) async fn follow_registries(
    mut snapshots: watch::Receiver<Arc<RegistrySnapshot>>,
    mut remembered: Option<Remembered>,
    registries: watch::Sender<Arc<RegistrySet>>,
) {
    loop {
        let mut set = translate(&snapshots.borrow_and_update());
        let mut is_remembered = true;
        // What a registry names that can't be read is not left.
        let is_whole = set.loaded && !snapshots.borrow().has_unreadable;
        if let Some((sent_to, told)) = remembered.as_mut().filter(|_| is_whole) {
            let named = set.registries.iter().filter_map(|registry| registry.backend.clone()).collect();
            let told = told.borrow_and_update().clone();
            is_remembered = sent_to.follow(&named, &told).await;
            set.left = sent_to.left(&named);
        }
        registries.send_replace(Arc::new(set));
        let told = async {
            match &mut remembered {
                // Its sender lives as long as the program.
                Some((_, told)) => drop(told.changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return },
            () = told => {}
            () = tokio::time::sleep(TRY_AGAIN), if !is_remembered => {}
        }
    }
}

fn translate(snapshot: &RegistrySnapshot) -> RegistrySet {
    let registries = snapshot.registries.iter().map(registry).collect();
    RegistrySet { registries, loaded: snapshot.loaded, left: Vec::new() }
}

fn registry(stored: &ResourceRegistry) -> Registry {
    let mut selectors: Vec<ResourceSelector> = stored
        .spec
        .resource_selectors
        .iter()
        .map(|selector| ResourceSelector {
            api_version: selector.api_version.clone(),
            kind: selector.kind.clone(),
            namespace: Some(selector.namespace.clone()).filter(|namespace| !namespace.is_empty()),
        })
        .collect();
    selectors.sort();
    selectors.dedup();
    Registry {
        name: stored.name().to_owned(),
        clusters: affinity(&stored.spec.target_cluster),
        selectors,
        backend: stored.spec.backend_store.as_ref().and_then(|store| store.open_search.as_ref()).map(backend),
        searched_in: stored.metadata.annotations.as_ref().and_then(searched_in),
    }
}

/// What the annotation says. Another value is as if it weren't there: registries outlive the servers that they were written for.
fn searched_in(annotations: &BTreeMap<String, String>) -> Option<SearchedIn> {
    match annotations.get(SEARCH_BACKEND)?.as_str() {
        "opensearch" => Some(SearchedIn::Backend),
        "index" => Some(SearchedIn::Index),
        _ => None,
    }
}

/// What is wrong with the annotation, for people.
pub(crate) fn misread_annotation(registry: &ResourceRegistry) -> Option<String> {
    let annotations = registry.metadata.annotations.as_ref()?;
    let value = annotations.get(SEARCH_BACKEND)?;
    match searched_in(annotations) {
        None => {
            let value: String = value.chars().take(SHOWN).collect();
            Some(format!(
                "the annotation {SEARCH_BACKEND} is {value:?}, neither opensearch nor index, and is passed over"
            ))
        }
        Some(SearchedIn::Backend) if registry.spec.backend_store.is_none() => {
            Some(format!("the annotation {SEARCH_BACKEND} is passed over: spec.backendStore names no OpenSearch"))
        }
        Some(_) => None,
    }
}

fn backend(config: &types::OpenSearchConfig) -> BackendReference {
    // An empty reference is what a form without a Secret leaves behind.
    let secret = config.secret_ref.as_ref().filter(|secret| !secret.name.is_empty());
    BackendReference {
        addresses: config.addresses.clone(),
        secret: secret.map(|secret| SecretReference { namespace: secret.namespace.clone(), name: secret.name.clone() }),
    }
}

fn affinity(target: &types::ClusterAffinity) -> ClusterAffinity {
    let labels = target.label_selector.clone().map(Selector::try_from).transpose();
    let fields = target.field_selector.as_ref().map(conditions).transpose();
    let invalid = [labels.as_ref().err().map(ToString::to_string), fields.as_ref().err().cloned()];
    ClusterAffinity {
        cluster_names: target.cluster_names.clone(),
        exclude: target.exclude.clone(),
        labels: labels.unwrap_or_default(),
        fields: fields.unwrap_or_default().unwrap_or_default(),
        invalid: invalid.into_iter().flatten().next(),
    }
}

fn conditions(selector: &types::FieldSelector) -> Result<Vec<LocationCondition>, String> {
    selector
        .match_expressions
        .iter()
        .map(|expression| {
            let field = match expression.key.as_str() {
                "provider" => LocationField::Provider,
                "region" => LocationField::Region,
                "zone" => LocationField::Zone,
                other => return Err(format!("targetCluster.fieldSelector: unknown key {other:?}")),
            };
            let within = match expression.operator.as_str() {
                "In" => true,
                "NotIn" => false,
                other => return Err(format!("targetCluster.fieldSelector: unknown operator {other:?}")),
            };
            Ok(LocationCondition { field, within, values: expression.values.clone() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_says_what_answers_queries() {
        let said = |value: &str| searched_in(&[(SEARCH_BACKEND.to_owned(), value.to_owned())].into());
        assert_eq!(said("opensearch"), Some(SearchedIn::Backend));
        assert_eq!(said("index"), Some(SearchedIn::Index));
        assert_eq!(said("elsewhere"), None);
        assert_eq!(searched_in(&BTreeMap::new()), None);
    }

    #[test]
    fn an_annotation_that_says_nothing_is_told_of() {
        let told = |value: &str, backend: &str| {
            let text = format!(
                r#"{{"metadata":{{"name":"a","annotations":{{"{SEARCH_BACKEND}":"{value}"}}}},"spec":{{"targetCluster":{{}},"resourceSelectors":[]{backend}}}}}"#
            );
            misread_annotation(&serde_json::from_str(&text).unwrap())
        };
        let backend = r#","backendStore":{"openSearch":{"addresses":["http://localhost"]}}"#;
        assert_eq!(told("opensearch", backend), None);
        assert_eq!(told("index", ""), None);
        assert!(told("OpenSearch", backend).unwrap().contains("\"OpenSearch\", neither opensearch nor index"));
        assert!(told("opensearch", "").unwrap().contains("names no OpenSearch"));
        assert!(told(&"x".repeat(9000), "").unwrap().len() < 200);
    }
}
