//! Lists of one resource out of backends, in the order (namespace, name, cluster), read while they are written out.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::json;

use super::bounds::Condition;
use super::scan::{Moment, Walk};
use super::{Found, ReadError, Reader, forgotten};
use crate::codec::Frame;
use crate::entry::{Entry, EntryKey, Version};
use crate::resource::{ClusterName, GroupVersionResource};
use crate::search::Unavailable;
use crate::search::moments::Moments;
use crate::view::Query;
use crate::view::list::Position;

/// Objects read ahead of the one that is asked for, a backend.
const AHEAD: usize = 500;

/// An object of a list.
#[derive(Debug)]
pub struct ListedObject {
    /// Its cluster.
    pub cluster: ClusterName,
    /// What it is called; the entry holds no bytes.
    pub entry: Entry,
    /// The object.
    pub object: Vec<u8>,
}

/// A walk over the objects that a query asks for.
pub struct BackendListing {
    query: Query,
    sources: Vec<ListSource>,
}

struct ListSource {
    reader: Arc<Reader>,
    moment: Moment,
    walk: Walk,
    ahead: VecDeque<Found>,
    candidates: u64,
}

/// What documents know of a query; the rest is told by the objects.
fn condition(resource: &GroupVersionResource, query: &Query, after: Option<&Position>) -> Condition {
    let mut parts = vec![Condition::term("group", &resource.group), Condition::term("resource", &resource.resource)];
    if let Some(clusters) = &query.clusters {
        parts.push(Condition::terms("cluster", clusters.iter().map(ClusterName::as_str)));
    }
    match query.namespace.as_deref() {
        Some("") => parts.push(Condition::exists("namespace").not()),
        Some(namespace) => parts.push(Condition::term("namespace", namespace)),
        None => {}
    }
    parts.extend(query.name.as_deref().map(|name| Condition::term("name", name)));
    parts.extend(after.map(behind));
    Condition::all(parts)
}

fn behind(after: &Position) -> Condition {
    let beyond = |name: &str, value: &str| Condition::range(name, json!({ "gt": value }));
    let (later, same) = match after.namespace.as_str() {
        "" => (Condition::exists("namespace"), Condition::exists("namespace").not()),
        namespace => (beyond("namespace", namespace), Condition::term("namespace", namespace)),
    };
    let same_name = Condition::term("name", &after.name);
    Condition::any([
        later,
        same.clone().and(beyond("name", &after.name)),
        same.and(same_name).and(beyond("cluster", after.cluster.as_str())),
    ])
}

impl BackendListing {
    /// Begins at the first object, or behind a place, at moments that were kept or at the present one.
    ///
    /// # Errors
    /// If a backend gives no answer.
    pub async fn begin(
        readers: &[Arc<Reader>],
        resource: &GroupVersionResource,
        query: Query,
        after: Option<(&Position, &Moments)>,
    ) -> Result<Self, Unavailable> {
        let mut sources = Vec::new();
        let condition = condition(resource, &query, after.map(|(place, _)| place));
        for reader in readers {
            let moment = after.and_then(|(_, moments)| moments.of(reader.name()));
            let begun = ListSource::begin(reader, &condition, moment).await;
            sources.extend(begun.map_err(|error| reader.unavailable(&error))?);
        }
        Ok(Self { query, sources })
    }

    /// Keeps the moments that it shows, for the next page.
    pub fn keep(self) -> Moments {
        let mut moments = Moments::default();
        for ListSource { reader, moment, .. } in self.sources {
            moments.note(reader.name(), moment.keep());
        }
        moments
    }

    /// Objects before the query's filter.
    pub fn candidates(&self) -> u64 {
        self.sources.iter().map(|source| source.candidates).sum()
    }

    /// The next object; none at the end. What stands in two backends comes once.
    ///
    /// # Errors
    /// If a backend gives no answer.
    pub async fn next(&mut self) -> Result<Option<ListedObject>, Unavailable> {
        loop {
            for source in &mut self.sources {
                source.read_ahead().await.map_err(|error| source.reader.unavailable(&error))?;
            }
            let heads = self.sources.iter().filter_map(|source| source.ahead.front());
            let Some(first) = heads.min_by(|one, other| place(one).cmp(&place(other))) else { return Ok(None) };
            let first = (first.namespace.clone(), first.name.clone(), first.cluster.clone());
            let mut next = None;
            for source in &mut self.sources {
                let is_first = |head: &Found| place(head) == (first.0.as_str(), first.1.as_str(), &first.2);
                if source.ahead.front().is_some_and(is_first) {
                    next = source.ahead.pop_front().or(next);
                }
            }
            let Some(listed) = next.map(ListedObject::of) else { return Ok(None) };
            if self.query.takes(&listed.cluster, &listed.entry, &listed.object) {
                return Ok(Some(listed));
            }
        }
    }
}

fn place(found: &Found) -> (&str, &str, &ClusterName) {
    (&found.namespace, &found.name, &found.cluster)
}

impl ListedObject {
    fn of(found: Found) -> Self {
        let Found { cluster, labels, namespace, name, version, object, .. } = found;
        let version = Version { resource_version: version, fingerprint: 0 };
        let frame = Frame { dictionary: 0, raw_length: 0, bytes: &[] };
        Self { cluster, entry: Entry::new(EntryKey::new(&namespace, &name), version, labels, frame), object }
    }

    /// Where it stands.
    pub fn position(&self) -> Position {
        Position {
            namespace: self.entry.namespace().to_owned(),
            name: self.entry.name().to_owned(),
            cluster: self.cluster.clone(),
        }
    }
}

impl ListSource {
    async fn begin(reader: &Arc<Reader>, condition: &Condition, kept: Option<&str>) -> Result<Option<Self>, ReadError> {
        if let Some(id) = kept {
            match Self::at(Moment::again(reader, id).await?, condition).await {
                Err(error) if error.is_about_moment() => forgotten(reader, &error),
                begun => return begun.map(Some),
            }
        }
        match Moment::begin(reader).await? {
            Some(moment) => Self::at(moment, condition).await.map(Some),
            None => Ok(None),
        }
    }

    async fn at(mut moment: Moment, condition: &Condition) -> Result<Self, ReadError> {
        let query = condition.to_query();
        let candidates = moment.count(&query).await?;
        let sort =
            json!([{ "namespace": { "order": "asc", "missing": "_first" } }, { "name": "asc" }, { "cluster": "asc" }]);
        let walk = Walk::sorted(query, sort);
        Ok(Self { reader: Arc::clone(moment.reader()), moment, walk, ahead: VecDeque::new(), candidates })
    }

    async fn read_ahead(&mut self) -> Result<(), ReadError> {
        while self.ahead.is_empty() {
            let Some(sources) = self.walk.next(&mut self.moment, AHEAD).await? else { return Ok(()) };
            self.ahead.extend(sources.into_iter().filter_map(Found::of));
        }
        Ok(())
    }
}
