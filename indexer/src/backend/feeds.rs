//! What a backend's writer knows of the cache: how far it has followed each feed, and how each collection stands.
//!
//! A collection is compared first, with the cache as it is at one moment; from that moment on its changes count. Where a feed
//! has run over, or too much waits, its collections are compared anew.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};

use super::assignment::{Assignment, Share};
use super::bulk::{Sources, is_in_touch};
use super::comparison::Comparison;
use super::document::Collection;
use super::queue::{Item, MOST, Queue};
use crate::cache::{Cache, Change, FeedItem, ResourceCache};
use crate::plan::Scope;
use crate::resource::GroupVersionResource;

/// Changes taken from a feed at once.
const AT_ONCE: usize = 1024;

/// How a collection stands with the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing is known; it is compared once its cluster's whole list is there.
    Unknown,
    /// It is being compared; changes count from here on.
    Comparing { from: u64, is_new: bool },
    /// It is as the cache has it; changes count from here on. It may be compared again.
    Following { from: u64, is_due: bool },
    /// It is not wanted any more: what the backend has of it has to go.
    Leaving,
    /// It is going.
    Emptying,
}

impl Standing {
    /// Whether it was never compared.
    pub(super) fn is_new(self) -> bool {
        !matches!(self, Self::Following { .. } | Self::Comparing { is_new: false, .. })
    }
}

#[derive(Debug)]
struct Position {
    cache: Weak<ResourceCache>,
    sequence: u64,
}

/// How far a writer has followed the cache, and what waits to be written.
#[derive(Debug)]
pub(super) struct Feeds {
    cache: Arc<Cache>,
    assignment: Arc<Assignment>,
    positions: HashMap<GroupVersionResource, Position>,
    collections: BTreeMap<Arc<Collection>, Standing>,
    raised: HashMap<Arc<Collection>, u64>,
    pub(super) queue: Queue,
}

impl Feeds {
    pub(super) fn new(cache: Arc<Cache>, assignment: Arc<Assignment>) -> Self {
        let collections = assignment.collections.keys().map(|collection| (Arc::clone(collection), Standing::Unknown));
        Self {
            collections: collections.collect(),
            cache,
            assignment,
            positions: HashMap::new(),
            raised: HashMap::new(),
            queue: Queue::default(),
        }
    }

    /// Something else is wanted from now on.
    pub(super) fn assign(&mut self, assignment: Arc<Assignment>) {
        let earlier = std::mem::replace(&mut self.assignment, Arc::clone(&assignment));
        let is_same = |collection: &Arc<Collection>, share: &Share| earlier.collections.get(collection) == Some(share);
        // What is not wanted any more is found again in the backend, if there is anything of it.
        self.collections.retain(|collection, _| assignment.collections.contains_key(collection));
        self.raised.retain(|collection, _| assignment.collections.contains_key(collection));
        // Whoever has its cluster now knows more of it.
        let is_another = |collection: &Arc<Collection>| !assignment.shards.is_ours(&collection.cluster);
        self.queue.forget(&self.queue.collections().into_iter().filter(is_another).collect());
        if assignment.is_partial {
            let unwanted = |collection: &Arc<Collection>| !assignment.collections.contains_key(collection);
            self.queue.forget(&self.queue.collections().into_iter().filter(unwanted).collect());
        }
        for (collection, share) in &assignment.collections {
            let was_partial = earlier.is_partial && !assignment.is_partial && share.scope != Scope::All;
            if !is_same(collection, share) || was_partial || !self.collections.contains_key(collection) {
                self.collections.insert(Arc::clone(collection), Standing::Unknown);
            }
        }
        let wanted: HashSet<&GroupVersionResource> =
            assignment.collections.values().map(|share| &share.resource).collect();
        self.positions.retain(|resource, _| wanted.contains(resource));
    }

    /// The backend has these collections: those that it isn't to hold have to go, unless it is not known yet.
    pub(super) fn empty_all_but_assigned(&mut self, present: Vec<Collection>) {
        if self.assignment.is_partial {
            return;
        }
        for collection in present {
            let is_wanted = self.assignment.collections.contains_key(&collection);
            let is_ours = self.assignment.shards.is_ours(&collection.cluster);
            if !is_wanted && is_ours && !self.assignment.undecided.contains(&collection.cluster) {
                self.collections.insert(Arc::new(collection), Standing::Leaving);
            }
        }
    }

    /// Takes in what the feeds have. True if something is no longer known of collections that only the backend has.
    pub(super) fn take_in(&mut self) -> bool {
        let assignment = Arc::clone(&self.assignment);
        let resources: HashSet<&GroupVersionResource> =
            assignment.collections.values().map(|share| &share.resource).collect();
        for resource in resources {
            match self.cache.get(resource) {
                Some(cache) => self.take_in_resource(&cache),
                None => {
                    self.positions.remove(resource);
                    self.forget_resource(resource);
                }
            }
        }
        if self.queue.waiting() + self.queue.delayed() <= MOST {
            return false;
        }
        let collections = self.queue.collections();
        for collection in &collections {
            self.forget(collection);
        }
        self.queue.forget(&collections);
        collections.iter().any(|collection| !self.collections.contains_key(collection))
    }

    fn take_in_resource(&mut self, cache: &Arc<ResourceCache>) {
        let known = self.positions.get(cache.resource());
        let known = known.filter(|position| std::ptr::eq(position.cache.as_ptr(), Arc::as_ptr(cache)));
        let mut next = known.map(|position| position.sequence);
        while let Some(sequence) = next {
            let Some(changes) = cache.changes_since(sequence, AT_ONCE) else {
                next = None;
                break;
            };
            let Some(last) = changes.last() else { break };
            next = Some(last.sequence + 1);
            changes.into_iter().for_each(|change| self.take_in_change(cache.resource(), change));
        }
        let sequence = next.unwrap_or_else(|| {
            // Either it is new here, or its feed has run over.
            self.forget_resource(cache.resource());
            cache.next_sequence()
        });
        self.positions.insert(cache.resource().clone(), Position { cache: Arc::downgrade(cache), sequence });
    }

    fn take_in_change(&mut self, resource: &GroupVersionResource, item: FeedItem) {
        let FeedItem { sequence, cluster, change } = item;
        let collection =
            Collection { cluster, group: Arc::clone(&resource.group), resource: Arc::clone(&resource.resource) };
        let Some((collection, standing)) = self.collections.get_key_value(&collection) else { return };
        let (Standing::Comparing { from, .. } | Standing::Following { from, .. }) = *standing else { return };
        // Of a resource in two versions, one is followed.
        let is_followed = self.assignment.collections.get(collection).is_some_and(|share| share.resource == *resource);
        if sequence < from || !is_followed {
            return;
        }
        let collection = Arc::clone(collection);
        match change {
            Change::Upserted { entry, .. } => {
                if self.assignment.wants(&collection, entry.namespace()) {
                    self.queue.push(Item::new(&collection, entry.namespace(), entry.name()));
                }
            }
            Change::Deleted { previous, version, .. } => {
                let raised = self.raised.get(&collection).copied().unwrap_or_default();
                let deleted = Some(version.max(previous.resource_version()).saturating_add(raised));
                let item = Item::new(&collection, previous.namespace(), previous.name());
                self.queue.push(Item { deleted, ..item });
            }
            Change::Left { .. } => self.forget(&collection),
            Change::Bookmark { .. } => {}
        }
    }

    fn forget_resource(&mut self, resource: &GroupVersionResource) {
        let assignment = Arc::clone(&self.assignment);
        let of_resource = assignment.collections.iter().filter(|(_, share)| share.resource == *resource);
        of_resource.for_each(|(collection, _)| self.forget(collection));
    }

    fn forget(&mut self, collection: &Arc<Collection>) {
        if let Some(standing) = self.collections.get_mut(collection) {
            *standing = match *standing {
                Standing::Leaving | Standing::Emptying => Standing::Leaving,
                _ => Standing::Unknown,
            };
        }
    }

    /// Nothing of what is known of the backend holds any more.
    pub(super) fn compare_all(&mut self) {
        self.collections.retain(|_, standing| !matches!(standing, Standing::Leaving | Standing::Emptying));
        self.collections.values_mut().for_each(|standing| *standing = Standing::Unknown);
    }

    /// To be on the safe side, everything is compared once more.
    pub(super) fn compare_all_again(&mut self) {
        for standing in self.collections.values_mut() {
            if let Standing::Following { is_due, .. } = standing {
                *is_due = true;
            }
        }
    }

    /// The next collection that can be compared.
    pub(super) fn next_comparison(&mut self) -> Option<Comparison> {
        let can_be = |standing: &Standing| {
            matches!(standing, Standing::Unknown | Standing::Leaving | Standing::Following { is_due: true, .. })
        };
        if !self.collections.values().any(can_be) {
            return None;
        }
        // A write that is still under way could land behind the comparison.
        let being_written = self.queue.being_written();
        let collections: Vec<Arc<Collection>> = self
            .collections
            .iter()
            .filter(|(collection, standing)| can_be(standing) && !being_written.contains(*collection))
            .map(|(collection, _)| Arc::clone(collection))
            .collect();
        collections.into_iter().find_map(|collection| self.begin(collection))
    }

    fn begin(&mut self, collection: Arc<Collection>) -> Option<Comparison> {
        let standing = self.collections.get_mut(&collection)?;
        if *standing == Standing::Leaving {
            *standing = Standing::Emptying;
            return Some(Comparison::new(collection, None, &Arc::default()));
        }
        let share = self.assignment.collections.get(&collection)?;
        // Only once it is followed do changes come.
        let position = self.positions.get(&share.resource)?;
        let cache = position.cache.upgrade()?;
        let snapshot = cache.snapshot(Some(&[collection.cluster.clone()].into()));
        let part = snapshot.parts.get(&collection.cluster).filter(|part| is_in_touch(part))?;
        *standing = match *standing {
            Standing::Following { from, .. } => Standing::Comparing { from, is_new: false },
            _ => Standing::Comparing { from: snapshot.sequence, is_new: true },
        };
        Some(Comparison::new(Arc::clone(&collection), Some(part), &self.assignment))
    }

    /// Whether a comparison is still of use.
    pub(super) fn is_comparing(&self, collection: &Collection) -> bool {
        matches!(self.collections.get(collection), Some(Standing::Comparing { .. } | Standing::Emptying))
    }

    /// A comparison has come to its end.
    pub(super) fn compared(&mut self, collection: &Arc<Collection>) {
        match self.collections.get_mut(collection) {
            Some(Standing::Emptying) => drop(self.collections.remove(collection)),
            Some(standing) => {
                if let Standing::Comparing { from, .. } = *standing {
                    *standing = Standing::Following { from, is_due: false };
                }
            }
            None => {}
        }
    }

    /// A collection's versions went back by so much.
    pub(super) fn raise(&mut self, collection: &Arc<Collection>, by: u64) {
        let raised = self.raised.entry(Arc::clone(collection)).or_default();
        *raised = (*raised).max(by);
    }

    pub(super) fn assignment(&self) -> Arc<Assignment> {
        Arc::clone(&self.assignment)
    }

    /// Whether the backend has what the cache has of a collection, but for what waits.
    pub(super) fn is_following(&self, collection: &Collection) -> bool {
        self.collections.get(collection).is_some_and(|standing| !standing.is_new())
    }

    pub(super) fn sources(&self) -> Sources {
        Sources {
            cache: Arc::clone(&self.cache),
            assignment: Arc::clone(&self.assignment),
            raised: self.raised.clone(),
        }
    }

    /// Collections that were never compared, but for those whose cluster has not been read: they are not the backend's to wait for.
    pub(super) fn to_compare(&self) -> usize {
        let is_readable = |collection: &Collection| match self.assignment.collections.get(collection) {
            Some(share) => {
                let part = self.cache.get(&share.resource).and_then(|cache| cache.part(&collection.cluster));
                part.is_some_and(|part| is_in_touch(&part))
            }
            None => true,
        };
        self.collections.iter().filter(|(collection, standing)| standing.is_new() && is_readable(collection)).count()
    }

    /// Collections that stand so.
    pub(super) fn count(&self, is_meant: impl Fn(Standing) -> bool) -> usize {
        self.collections.values().filter(|standing| is_meant(**standing)).count()
    }

    /// Whether nothing is known of, and nothing is to be written.
    pub(super) fn is_empty(&self) -> bool {
        self.collections.is_empty() && self.queue.len() == 0 && self.queue.delayed() == 0
    }
}
