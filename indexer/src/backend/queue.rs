//! What waits to be written to a backend: names of objects, each once, the oldest first.
//!
//! Only names wait; what is written is what the cache holds when their turn comes. So a backend that is away costs a name an
//! object, however often the object changes, and no more than a bound: beyond it whole collections are compared instead.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::document::{self, Collection};

/// Names that may wait.
pub(super) const MOST: usize = 100_000;

/// An object that has to be written or deleted.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// The document's id.
    pub(super) id: Arc<str>,
    pub(super) collection: Arc<Collection>,
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    /// The version that a deletion carries, where the object is known to be gone.
    pub(super) deleted: Option<u64>,
    /// Whether the document may be that of another object, which this one has followed.
    pub(super) replaces: bool,
    /// A write carries at least this version.
    pub(super) at_least: u64,
    /// Since when it waits.
    pub(super) since: Instant,
    /// How often it was refused for another's sake.
    pub(super) conflicts: u32,
    /// How often it could not be written, while others could.
    pub(super) tries: u32,
}

impl Item {
    pub(super) fn new(collection: &Arc<Collection>, namespace: &str, name: &str) -> Self {
        Self {
            id: document::id(collection, namespace, name),
            collection: Arc::clone(collection),
            namespace: namespace.into(),
            name: name.into(),
            deleted: None,
            replaces: false,
            at_least: 0,
            since: Instant::now(),
            conflicts: 0,
            tries: 0,
        }
    }

    /// Takes over what another item of the same object knows. A deletion is never forgotten: where the object is there again,
    /// it is written anyway.
    fn absorb(&mut self, other: &Self) {
        self.deleted = self.deleted.max(other.deleted);
        self.replaces |= other.replaces;
        self.at_least = self.at_least.max(other.at_least);
    }
}

/// The queue of one backend.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: HashMap<Arc<str>, Item>,
    order: VecDeque<Arc<str>>,
    /// Being written: written again only when that has ended.
    in_flight: HashMap<Arc<str>, (Instant, Arc<Collection>)>,
    /// Refused: looked at again later.
    delayed: HashMap<Arc<str>, (Instant, Item)>,
    delayed_order: BTreeSet<(Instant, Arc<str>)>,
}

impl Queue {
    /// An item has to be written. What is newly known of it counts.
    pub(super) fn push(&mut self, item: Item) {
        match self.waiting.get_mut(&item.id) {
            Some(present) => present.absorb(&item),
            None => {
                self.order.push_back(Arc::clone(&item.id));
                self.waiting.insert(Arc::clone(&item.id), item);
            }
        }
    }

    /// The oldest items that nobody is writing, to be written now.
    pub(super) fn take(&mut self, most: usize) -> Vec<Item> {
        let mut taken = Vec::new();
        let mut passed_over = Vec::new();
        while taken.len() < most
            && let Some(id) = self.order.pop_front()
        {
            if self.in_flight.contains_key(&id) {
                passed_over.push(id);
            } else if let Some(item) = self.waiting.remove(&id) {
                self.in_flight.insert(id, (item.since, Arc::clone(&item.collection)));
                taken.push(item);
            }
        }
        for id in passed_over.into_iter().rev() {
            self.order.push_front(id);
        }
        taken
    }

    /// An item is no longer being written.
    pub(super) fn settle(&mut self, id: &str) {
        self.in_flight.remove(id);
    }

    /// Nobody is writing anything any more, and what was being written is not known to be.
    pub(super) fn abandon(&mut self) {
        self.in_flight.clear();
    }

    /// An item was not written: it comes first again.
    pub(super) fn put_back(&mut self, item: Item) {
        self.in_flight.remove(&item.id);
        match self.waiting.entry(Arc::clone(&item.id)) {
            Entry::Occupied(mut present) => present.get_mut().absorb(&item),
            Entry::Vacant(place) => {
                self.order.push_front(Arc::clone(&item.id));
                place.insert(item);
            }
        }
    }

    /// An item is looked at again after a while.
    pub(super) fn delay(&mut self, mut item: Item, pause: Duration) {
        self.in_flight.remove(&item.id);
        let due = Instant::now() + pause;
        let mut due = due;
        if let Some((earlier, known)) = self.delayed.remove(&item.id) {
            self.delayed_order.remove(&(earlier, Arc::clone(&item.id)));
            item.absorb(&known);
            // However often it changes, its time comes.
            due = due.min(earlier);
            item.conflicts = item.conflicts.max(known.conflicts);
        }
        self.delayed_order.insert((due, Arc::clone(&item.id)));
        self.delayed.insert(Arc::clone(&item.id), (due, item));
    }

    /// Delayed items whose time has come. What waits anew is not among them: it takes over what they know.
    pub(super) fn due(&mut self, most: usize) -> Vec<Item> {
        let now = Instant::now();
        let mut due = Vec::new();
        while due.len() < most
            && self.delayed_order.first().is_some_and(|(time, _)| *time <= now)
            && let Some((_, id)) = self.delayed_order.pop_first()
            && let Some((_, item)) = self.delayed.remove(&id)
        {
            match self.waiting.get_mut(&id) {
                // The version that refused it is not judged yet.
                Some(present) => present.deleted = present.deleted.max(item.deleted),
                None => due.push(item),
            }
        }
        due
    }

    /// When the next delayed item is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.delayed_order.first().map(|(due, _)| *due)
    }

    /// Forgets what waits of collections that are compared as a whole.
    pub(super) fn forget(&mut self, collections: &HashSet<Arc<Collection>>) {
        self.waiting.retain(|_, item| !collections.contains(&item.collection));
        self.delayed.retain(|_, (_, item)| !collections.contains(&item.collection));
        self.order.retain(|id| self.waiting.contains_key(id));
        self.delayed_order.retain(|(_, id)| self.delayed.contains_key(id));
    }

    /// Collections of which something waits or is delayed.
    pub(super) fn collections(&self) -> HashSet<Arc<Collection>> {
        let items = self.waiting.values().chain(self.delayed.values().map(|(_, item)| item));
        items.map(|item| Arc::clone(&item.collection)).collect()
    }

    /// Collections of which something is being written.
    pub(super) fn being_written(&self) -> HashSet<Arc<Collection>> {
        self.in_flight.values().map(|(_, collection)| Arc::clone(collection)).collect()
    }

    /// Items that can be taken or are being written.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }

    /// Items that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Items that are looked at again later.
    pub(super) fn delayed(&self) -> usize {
        self.delayed.len()
    }

    /// Since when the oldest item is on its way. One that could not be written is; one for which the backend has something newer
    /// waits for us to see that, too.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let waiting = self.order.front().and_then(|id| self.waiting.get(id)).map(|item| item.since);
        let delayed =
            self.delayed.values().map(|(_, item)| item).filter(|item| item.conflicts == 0).map(|item| item.since);
        self.in_flight.values().map(|(since, _)| *since).chain(waiting).chain(delayed).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str) -> Item {
        let collection = Collection { cluster: "m1".into(), group: "".into(), resource: "pods".into() };
        Item::new(&Arc::new(collection), "shop", name)
    }

    fn names(items: &[Item]) -> Vec<&str> {
        items.iter().map(|item| &*item.name).collect()
    }

    #[test]
    fn an_object_that_changes_often_waits_once_and_keeps_its_turn() {
        let mut queue = Queue::default();
        queue.push(item("a"));
        queue.push(item("b"));
        queue.push(Item { deleted: Some(7), ..item("a") });
        assert_eq!(queue.len(), 2);
        let taken = queue.take(10);
        assert_eq!(names(&taken), ["a", "b"]);
        assert_eq!(taken[0].deleted, Some(7));
        assert_eq!(queue.len(), 2, "what is being written is not done");
        taken.iter().for_each(|item| queue.settle(&item.id));
        assert_eq!((queue.len(), queue.oldest()), (0, None));
    }

    #[test]
    fn what_was_refused_for_now_is_still_on_its_way() {
        let mut queue = Queue::default();
        queue.delay(Item { conflicts: 1, ..item("b") }, Duration::from_secs(60));
        assert_eq!(queue.oldest(), None);
        let refused = Item { tries: 1, ..item("a") };
        queue.delay(refused.clone(), Duration::from_secs(60));
        assert_eq!(queue.oldest(), Some(refused.since));
    }

    #[test]
    fn what_is_being_written_is_not_written_twice_at_once() {
        let mut queue = Queue::default();
        queue.push(item("a"));
        let first = queue.take(10);
        queue.push(item("a"));
        queue.push(item("b"));
        assert_eq!(names(&queue.take(10)), ["b"]);
        queue.settle(&first[0].id);
        assert_eq!(names(&queue.take(10)), ["a"]);
    }

    #[test]
    fn a_deletion_is_never_forgotten() {
        let mut queue = Queue::default();
        queue.push(Item { deleted: Some(7), ..item("a") });
        queue.push(item("a"));
        assert_eq!(queue.take(1)[0].deleted, Some(7));
        queue.push(item("a"));
        queue.put_back(Item { deleted: Some(8), ..item("a") });
        assert_eq!(queue.take(1)[0].deleted, Some(8));
        queue.delay(Item { deleted: Some(9), ..item("a") }, Duration::ZERO);
        queue.delay(item("a"), Duration::ZERO);
        queue.push(item("a"));
        assert!(queue.due(10).is_empty());
        assert_eq!(queue.take(1)[0].deleted, Some(9));
    }

    #[test]
    fn what_failed_comes_first_again_and_newer_knowledge_counts() {
        let mut queue = Queue::default();
        queue.push(item("a"));
        queue.push(item("b"));
        let taken = queue.take(1);
        queue.put_back(taken[0].clone());
        assert_eq!(names(&queue.take(1)), ["a"]);
        queue.push(Item { deleted: Some(9), ..item("a") });
        queue.put_back(taken[0].clone());
        let taken = queue.take(10);
        assert_eq!(names(&taken), ["b", "a"]);
        assert_eq!(taken[1].deleted, Some(9));
    }

    #[test]
    fn what_was_refused_is_looked_at_later_unless_it_waits_anew() {
        let mut queue = Queue::default();
        queue.delay(item("a"), Duration::ZERO);
        queue.delay(item("b"), Duration::ZERO);
        queue.delay(item("c"), Duration::from_secs(60));
        queue.push(item("b"));
        assert_eq!(names(&queue.due(10)), ["a"]);
        assert_eq!(queue.delayed(), 1);
        assert!(queue.next_due().is_some());
        queue.forget(&queue.collections());
        assert_eq!((queue.len(), queue.delayed()), (0, 0));
    }
}
