//! Reading out of the cache, over all clusters at once: pages and lists ([`list`], [`sorted`]), watches ([`watch`]).
//!
//! In: a [`Query`]. Out: objects as bytes, in the order (namespace, name, cluster). Readers hold shared entries and no lock.

pub mod list;
pub mod sorted;
pub mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::codec::Decoder;
use crate::entry::Entry;
use crate::filter::Filter;
use crate::query::document::{Document, Facts};
use crate::query::evaluate::Evaluator;
use crate::resource::{ApiResource, ClusterName};

/// What a reader asks of one resource.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Only these clusters; all if none.
    pub clusters: Option<BTreeSet<ClusterName>>,
    /// Only this namespace. Cluster-scoped objects have the empty one.
    pub namespace: Option<String>,
    /// Only objects of this name.
    pub name: Option<String>,
    /// Conditions on each object.
    pub filter: Filter,
    /// More conditions, in the grammar of queries.
    pub search: Option<Arc<Search>>,
}

/// Conditions in the grammar of queries, on objects of one resource.
#[derive(Debug, Clone)]
pub struct Search {
    /// The conditions.
    pub evaluator: Evaluator,
    /// What the objects are.
    pub served: ApiResource,
}

impl Search {
    fn facts<'a>(&'a self, cluster: &'a ClusterName, entry: &'a Entry) -> Facts<'a> {
        let (namespace, name, labels) = (entry.namespace(), entry.name(), entry.labels());
        Facts { cluster, served: &self.served, namespace, name, labels }
    }
}

impl Query {
    /// Whether a cluster is asked for.
    pub fn wants_cluster(&self, cluster: &ClusterName) -> bool {
        self.clusters.as_ref().is_none_or(|clusters| clusters.contains(cluster))
    }

    /// Whether objects are all asked for alike.
    pub fn is_filtered(&self) -> bool {
        !self.filter.is_empty() || self.search.is_some()
    }

    /// Whether what the cache holds in the open passes.
    fn admits(&self, cluster: &ClusterName, entry: &Entry) -> bool {
        let search = self.search.as_ref();
        self.namespace.as_deref().is_none_or(|namespace| namespace == entry.namespace())
            && self.name.as_deref().is_none_or(|name| name == entry.name())
            && self.filter.admits(entry)
            && search.is_none_or(|search| search.evaluator.on_facts(&search.facts(cluster, entry)) != Some(false))
    }

    /// Whether objects have to be opened.
    fn reads_objects(&self) -> bool {
        self.filter.reads_fields() || self.search.is_some()
    }

    /// Whether an opened object passes what could not be told before.
    fn holds(&self, cluster: &ClusterName, entry: &Entry, object: &[u8]) -> bool {
        let passes = |search: &Search| {
            let facts = search.facts(cluster, entry);
            search.evaluator.on_facts(&facts).unwrap_or_else(|| {
                Document::read(object).is_some_and(|document| search.evaluator.matches(&facts, &document))
            })
        };
        (!self.filter.reads_fields() || self.filter.fields_hold(object)) && self.search.as_deref().is_none_or(passes)
    }

    /// Whether an object passes, given its bytes.
    pub(crate) fn takes(&self, cluster: &ClusterName, entry: &Entry, object: &[u8]) -> bool {
        self.admits(cluster, entry) && (!self.reads_objects() || self.holds(cluster, entry, object))
    }

    /// Whether an entry passes; opens it only if fields are asked for.
    fn matches(&self, cluster: &ClusterName, entry: &Entry, decoder: &Decoder, scratch: &mut Vec<u8>) -> bool {
        if !self.admits(cluster, entry) {
            return false;
        }
        if !self.reads_objects() {
            return true;
        }
        scratch.clear();
        decoder.append(entry.frame(), scratch).is_ok() && self.holds(cluster, entry, scratch)
    }
}
