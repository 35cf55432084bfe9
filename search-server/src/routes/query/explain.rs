//! `search/query?explain=…`: why a query finds what it finds.
//!
//! `explain=true` tells how many objects each part of the query takes; `explain=CLUSTER/NAMESPACE/KIND/NAME` of one object which
//! parts hold for it, or why it isn't there at all: its cluster is out of touch, its kind is not selected, its name is another.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use apiservice::error::ApiError;
use axum::Json;
use axum::response::{IntoResponse, Response};
use indexer::cache::{Part, ResourceCache};
use indexer::entry::{Entry, EntryKey};
use indexer::plan::Scope as Namespaces;
use indexer::query::{Expression, Field, Test};
use indexer::resource::ClusterName;
use indexer::search::explain::{ExplainedPart, explain_counts, explain_object};
use indexer::search::owners::OwnersError;
use indexer::search::{Cached, Hit, Scope};
use indexer::status::sync_statuses;
use indexer::supervise::Overview;
use serde::Serialize;

use super::{DEADLINE, NoAnswer, resolve, state_of, warn};
use crate::routes::SearchState;

/// Names as far from what was asked for are no slips.
const FARTHEST_SLIP: usize = 3;
/// Of an object that is asked about: cluster, namespace, kind and name.
const LONGEST_OBJECT: usize = 600;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    kind: &'static str,
    api_version: &'static str,
    query: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    matches: Option<bool>,
    /// Why something is not found, each in a sentence.
    reasons: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clause: Option<ExplainedPart>,
}

/// Answers a query with its explanation.
pub(super) async fn answer(state: &SearchState, mut scope: Scope, of: &str) -> Result<Response, ApiError> {
    let query = scope.evaluator.expression().to_string();
    let clusters = scope.clusters.clone();
    let cached = Cached { cache: state.cache.clone(), index: state.index.clone() };
    let explanation = Explanation {
        kind: "Explanation",
        api_version: apiservice::GROUP_VERSION,
        query,
        object: None,
        matches: None,
        reasons: Vec::new(),
        clause: None,
    };
    let (explanation, is_complete) = if matches!(of, "true" | "1") {
        let reasons = unknown_values(state, scope.evaluator.expression());
        let counting = move || {
            scope.deadline = Instant::now() + DEADLINE;
            let resolved = resolve(&cached, &scope)?;
            Ok(explain_counts(&cached, &scope, &resolved))
        };
        let (clause, is_complete) =
            state.turns.take(counting).await?.map_err(|error: OwnersError| NoAnswer::from(error))?;
        (Explanation { reasons, clause: Some(clause), ..explanation }, is_complete)
    } else {
        let asked = Asked::read(of)?;
        let explanation = Explanation { object: Some(of.to_owned()), ..explanation };
        let owned_state = state.clone();
        let explaining = move || {
            let hit = match asked.find(&owned_state) {
                Ok(hit) => hit,
                Err(reason) => return Ok((None, vec![reason])),
            };
            scope.deadline = Instant::now() + DEADLINE;
            let resolved = resolve(&cached, &scope)?;
            let is_outside = scope.clusters.as_ref().is_some_and(|clusters| !clusters.contains(&hit.cluster));
            let reasons = is_outside.then(|| "the parameter cluster leaves its cluster out".to_owned());
            Ok((explain_object(&scope, &resolved, &hit), reasons.into_iter().collect()))
        };
        let (clause, reasons) =
            state.turns.take(explaining).await?.map_err(|error: OwnersError| NoAnswer::from(error))?;
        let matches = reasons.is_empty() && clause.as_ref().is_some_and(|clause| clause.holds == Some(true));
        (Explanation { matches: Some(matches), reasons, clause, ..explanation }, true)
    };
    let mut response = Json(explanation).into_response();
    warn(response.headers_mut(), &state_of(state, clusters.as_ref()), !is_complete);
    Ok(response)
}

/// Clusters and kinds that a query names and that there are not.
fn unknown_values(state: &SearchState, expression: &Expression) -> Vec<String> {
    let overview = state.overview();
    let clusters: BTreeSet<String> = overview.members.members.keys().map(ToString::to_string).collect();
    let snapshots: Vec<_> = state.cache.all().iter().map(|cache| cache.snapshot(None)).collect();
    let parts = || snapshots.iter().flat_map(|snapshot| snapshot.parts.values());
    let kinds: BTreeSet<String> = parts().map(|part| part.served.kind.to_string()).collect();
    let mut reasons = Vec::new();
    expression.for_each_field(&mut |clause| {
        let Test::Is(wanted) = &clause.test else { return };
        let (known, what) = match clause.field {
            Field::Cluster => (&clusters, "there is no cluster"),
            Field::Kind => (&kinds, "no registry selects a kind"),
            _ => return,
        };
        if !known.contains(wanted) {
            reasons.push(format!("{what} {wanted}{}", or_similar(wanted, known.iter().map(String::as_str))));
        }
    });
    reasons
}

/// An object that is asked about.
struct Asked {
    cluster: ClusterName,
    namespace: String,
    kind: String,
    name: String,
}

impl Asked {
    fn read(text: &str) -> Result<Self, ApiError> {
        if text.len() > LONGEST_OBJECT {
            return Err(ApiError::bad_request(format!(
                "explain: no object's name is longer than {LONGEST_OBJECT} bytes"
            )));
        }
        let (cluster, namespace, kind, name) = match text.split('/').collect::<Vec<_>>().as_slice() {
            [cluster, kind, name] => (*cluster, "", *kind, *name),
            [cluster, namespace, kind, name] => (*cluster, *namespace, *kind, *name),
            _ => {
                let message = "explain: true is expected, or an object as CLUSTER/NAMESPACE/KIND/NAME (without a namespace, \
                               CLUSTER/KIND/NAME)";
                return Err(ApiError::bad_request(message));
            }
        };
        let [namespace, kind, name] = [namespace, kind, name].map(str::to_owned);
        Ok(Self { cluster: cluster.into(), namespace, kind, name })
    }

    /// The object, or why it isn't there.
    fn find(&self, state: &SearchState) -> Result<Hit, String> {
        let overview = state.overview();
        let cluster = &self.cluster;
        if !overview.members.members.contains_key(cluster) {
            let known = overview.members.members.keys().map(ClusterName::as_str);
            return Err(format!("there is no cluster {cluster}{}", or_similar(cluster.as_str(), known)));
        }
        let parts: Vec<(Arc<ResourceCache>, Arc<Part>)> =
            state.cache.all().into_iter().filter_map(|cache| Some((cache.clone(), cache.part(cluster)?))).collect();
        let of_kind: Vec<&(Arc<ResourceCache>, Arc<Part>)> =
            parts.iter().filter(|(_, part)| *part.served.kind == *self.kind).collect();
        let Some((cache, part)) = of_kind.iter().find(|(_, part)| self.entry(part).is_some()).or(of_kind.first())
        else {
            return Err(self.why_not_selected(&overview, parts.iter().map(|(_, part)| &*part.served.kind)));
        };
        match self.entry(part) {
            Some(entry) => Ok(Hit {
                cluster: cluster.clone(),
                served: part.served.clone(),
                entry,
                decoder: cache.codec().decoder(),
            }),
            None => Err(self.why_not_held(state, &overview, cache, part)),
        }
    }

    fn entry(&self, part: &Part) -> Option<Entry> {
        part.objects.get(&EntryKey::new(&self.namespace, &self.name)).cloned()
    }

    fn why_not_selected<'k>(&self, overview: &Overview, kinds: impl Iterator<Item = &'k str>) -> String {
        let Self { cluster, kind, .. } = self;
        if let Some(reason) = overview.unreachable.get(cluster) {
            return format!("cluster {cluster} can't be asked what it serves: {reason}");
        }
        let unserved = overview
            .plan
            .unserved
            .iter()
            .find(|unserved| unserved.cluster == *cluster && unserved.selector.kind == *kind);
        if let Some(unserved) = unserved {
            let registry = &unserved.registry;
            return format!("registry {registry} selects {kind}, but cluster {cluster} does not serve it");
        }
        format!("no registry selects {kind} in cluster {cluster}{}", or_similar(kind, kinds))
    }

    fn why_not_held(&self, state: &SearchState, overview: &Overview, cache: &ResourceCache, part: &Part) -> String {
        let Self { cluster, namespace, kind, name } = self;
        let target =
            overview.plan.watches.iter().find(|(key, _)| key.cluster == *cluster && key.resource == *cache.resource());
        if let Some((_, target)) = target
            && let Namespaces::Namespaces(selected) = &target.scope
            && !selected.contains(namespace)
        {
            let selected: Vec<&str> = selected.iter().map(String::as_str).collect();
            return format!(
                "registries select {kind} in cluster {cluster} in these namespaces only: {}",
                selected.join(", ")
            );
        }
        let status = sync_statuses(overview, &state.cache)
            .into_iter()
            .find(|status| status.cluster == *cluster && *status.resource == *cache.resource().resource);
        if let Some(why) = status.as_ref().filter(|status| status.synced).and_then(|status| status.error.as_deref()) {
            return format!("cluster {cluster} has no such {kind} that can be read: {why}");
        }
        if let Some(status) = status.filter(|status| !status.synced) {
            let why = status.error.unwrap_or_else(|| "its first list is not complete".to_owned());
            return format!("cluster {cluster} has no such {kind} as far as is known, and is out of touch: {why}");
        }
        let elsewhere: BTreeSet<&str> =
            part.objects.iter().filter(|entry| entry.name() == name).map(Entry::namespace).collect();
        if !elsewhere.is_empty() {
            let elsewhere: Vec<&str> = elsewhere.into_iter().collect();
            return format!("cluster {cluster} has a {kind} {name}, but in namespace {}", elsewhere.join(", "));
        }
        let names = part.objects.iter().filter(|entry| entry.namespace() == namespace).map(Entry::name);
        format!("cluster {cluster} has no {kind} {name} in namespace {namespace:?}{}", or_similar(name, names))
    }
}

/// `; did you mean X?`, if one of those that there are looks like what was asked for.
fn or_similar<'k>(asked: &str, known: impl Iterator<Item = &'k str>) -> String {
    let (asked, farthest) = (asked.to_lowercase(), FARTHEST_SLIP.min(asked.len() / 2));
    // Lengths are compared first: that is soon done, and there may be many names.
    let near = known.filter(|name| name.len().abs_diff(asked.len()) <= farthest);
    let distances = near.map(|name| (strsim::damerau_levenshtein(&name.to_lowercase(), &asked), name));
    let closest = distances.min().filter(|(distance, _)| *distance <= farthest);
    closest.map(|(_, name)| format!("; did you mean {name}?")).unwrap_or_default()
}
