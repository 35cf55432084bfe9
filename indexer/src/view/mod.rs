//! Reading out of the cache, over all clusters at once: pages and lists ([`list`]), watches ([`watch`]).
//!
//! In: a [`Query`]. Out: objects as bytes, in the order (namespace, name, cluster). Readers hold shared entries and no lock.

pub mod list;
pub mod watch;

use std::collections::BTreeSet;

use crate::codec::Decoder;
use crate::entry::Entry;
use crate::filter::Filter;
use crate::resource::ClusterName;

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
}

impl Query {
    /// Whether a cluster is asked for.
    pub fn wants_cluster(&self, cluster: &ClusterName) -> bool {
        self.clusters.as_ref().is_none_or(|clusters| clusters.contains(cluster))
    }

    /// Whether what the cache holds in the open passes.
    fn admits(&self, entry: &Entry) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| namespace == entry.namespace())
            && self.name.as_deref().is_none_or(|name| name == entry.name())
            && self.filter.admits(entry)
    }

    /// Whether an entry passes; opens it only if fields are asked for.
    fn matches(&self, entry: &Entry, decoder: &Decoder, scratch: &mut Vec<u8>) -> bool {
        if !self.admits(entry) {
            return false;
        }
        if !self.filter.reads_fields() {
            return true;
        }
        scratch.clear();
        decoder.append(entry.frame(), scratch).is_ok() && self.filter.fields_hold(scratch)
    }
}
