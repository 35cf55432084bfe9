//! The objects of one kind in one cluster or one of its namespaces, written as items of a list or as events of a watch.
//!
//! Chunk after chunk, as they are taken: nothing is made before somebody reads it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::fault::Fault;
use super::kinds::Kind;
use super::names::namespace;
use super::schedule::{FIRST_OBJECT, Standing, version_after};
use super::world::{Identity, World};

/// Parts of an answer, made when they are taken.
pub(crate) type Chunks = Box<dyn Iterator<Item = Bytes> + Send>;

/// About as much is made at a time.
pub(crate) const CHUNK: usize = 64 << 10;
/// The clusters that answer in the place of others are none of those that are there.
const STRANGERS: usize = 100_000;
/// The version of such a cluster: lower than any of ours, and higher than those of its objects.
const STRANGE_VERSION: usize = 500_000;
/// How many pieces make up an object that is too big, and one of them.
const HUGE_PIECES: usize = 50_000_000 / PIECE.len();
static PIECE: [u8; 50_000] = [b'x'; 50_000];

/// Objects, as a cluster with a certain fault shows them.
#[derive(Debug, Clone)]
pub(crate) struct Collection {
    pub(crate) world: Arc<World>,
    pub(crate) kind: Kind,
    pub(crate) range: Range<usize>,
    pub(crate) fault: Fault,
    cluster: usize,
    namespace: Option<Arc<str>>,
}

/// How objects are written one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// With commas between them.
    Items,
    /// As frames of a watch.
    Added,
}

impl Collection {
    /// The objects of a kind, of a namespace only if one is named.
    pub(crate) fn new(world: &Arc<World>, cluster: usize, kind: Kind, namespace: Option<&str>) -> Self {
        let range = world.range(kind, namespace);
        Self { world: Arc::clone(world), kind, range, fault: Fault::None, cluster, namespace: namespace.map(Arc::from) }
    }

    /// What the same cluster shows with a fault.
    pub(crate) fn with(&self, fault: Fault) -> Self {
        let kind = if fault == Fault::WrongKind { self.kind.other() } else { self.kind };
        let cluster = self.cluster + if fault == Fault::OtherCluster { STRANGERS } else { 0 };
        Self { fault, ..Self::new(&self.world, cluster, kind, self.namespace.as_deref()) }
    }

    /// Whether its objects change.
    pub(crate) fn changes(&self) -> bool {
        self.kind == Kind::PODS && !self.is_strange()
    }

    fn is_strange(&self) -> bool {
        self.fault == Fault::OtherCluster
    }

    /// Its version after so many updates.
    pub(crate) fn version(&self, updates: usize) -> usize {
        if self.is_strange() { STRANGE_VERSION } else { version_after(updates) }
    }

    pub(crate) fn identity(&self, index: usize) -> Identity {
        Identity { cluster: self.cluster, kind: self.kind, index }
    }

    fn standing(&self, index: usize, updates: usize) -> Standing {
        if !self.is_strange() {
            return self.world.standing(self.kind, index, updates);
        }
        let Standing { generation, version } = self.world.standing(self.kind, index, 0);
        Standing { generation, version: version - FIRST_OBJECT + 1 }
    }

    /// `"kind":…,"apiVersion":…` of its objects; of a list of them with `List` behind.
    pub(crate) fn kind_of(&self, behind: &str) -> String {
        let description = self.kind.description();
        format!("\"kind\":\"{}{behind}\",\"apiVersion\":\"{}\"", description.kind, description.api_version())
    }

    /// The object of this name, as it is after so many updates.
    pub(crate) fn find(&self, name: &str, updates: usize) -> Option<Bytes> {
        let found = self
            .range
            .clone()
            .find(|index| self.world.name(self.identity(*index), self.standing(*index, updates)) == name)?;
        let mut buffer = format!("{{{},", self.kind_of("")).into_bytes();
        self.write(found, self.standing(found, updates), &mut buffer);
        buffer.extend_from_slice(b"}\n");
        Some(buffer.into())
    }

    fn write(&self, index: usize, standing: Standing, buffer: &mut Vec<u8>) {
        let from = buffer.len();
        self.world.write(self.identity(index), standing, buffer);
        if self.fault == Fault::InvalidUtf8 {
            spoil(&mut buffer[from..]);
        }
    }

    /// Writes one frame of a watch.
    pub(crate) fn write_event(&self, event: &str, index: usize, standing: Standing, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(self.event_start(event).as_bytes());
        self.write(index, standing, buffer);
        buffer.extend_from_slice(b"}}\n");
    }

    fn event_start(&self, event: &str) -> String {
        format!("{{\"type\":\"{event}\",\"object\":{{{},", self.kind_of(""))
    }

    /// An event that shows what the fault is about, for watches in which nothing else happens.
    pub(crate) fn sample(&self, updates: usize) -> Bytes {
        let mut buffer = Vec::new();
        self.write_event("ADDED", 0, self.standing(0, updates), &mut buffer);
        buffer.into()
    }

    /// A bookmark.
    pub(crate) fn bookmark(&self, updates: usize, ends_initial_events: bool) -> Bytes {
        let description = self.kind.description();
        let mut metadata = json!({ "resourceVersion": self.version(updates).to_string(), "creationTimestamp": null });
        if ends_initial_events {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = json!({ "kind": description.kind, "apiVersion": description.api_version(), "metadata": metadata });
        frame("BOOKMARK", &object)
    }

    /// Objects in this range, as they are after so many updates.
    pub(crate) fn objects(&self, range: Range<usize>, updates: usize, form: Form) -> Chunks {
        Box::new(Objects { collection: self.clone(), updates, form, next: range.start, range })
    }

    /// One more object, that is too big; nothing where it doesn't belong.
    pub(crate) fn huge(&self, updates: usize, form: Form, comma: bool) -> Chunks {
        let description = self.kind.description();
        let last = namespace(self.world.namespaces() - 1);
        if description.namespaced && self.namespace.as_deref().is_some_and(|namespace| namespace != last) {
            return Box::new(std::iter::empty());
        }
        let version = self.version(updates);
        let namespace = if description.namespaced { format!("\"namespace\":\"{last}\",") } else { String::new() };
        let (start, end) = match form {
            Form::Items => (if comma { ",{" } else { "{" }.to_owned(), "\"}}}"),
            Form::Added => (self.event_start("ADDED"), "\"}}}}\n"),
        };
        let start = format!(
            "{start}\"metadata\":{{\"name\":\"zz-huge\",{namespace}\"uid\":\"00000000-0000-4000-8000-{version:012}\",\
             \"resourceVersion\":\"{version}\",\"annotations\":{{\"padding\":\""
        );
        let padding = std::iter::repeat_n(Bytes::from_static(&PIECE), HUGE_PIECES);
        Box::new(
            std::iter::once(start.into()).chain(padding).chain(std::iter::once(Bytes::from_static(end.as_bytes()))),
        )
    }
}

/// One frame of a watch.
pub(crate) fn frame(event: &str, object: &Value) -> Bytes {
    format!("{{\"type\":\"{event}\",\"object\":{object}}}\n").into()
}

/// Puts bytes that are no UTF-8 into an object's uid.
fn spoil(object: &mut [u8]) {
    const MARK: &[u8] = b"\"uid\":\"";
    let found = object.windows(MARK.len()).position(|window| window == MARK);
    if let Some(byte) = found.and_then(|at| object.get_mut(at + MARK.len())) {
        *byte = 0xff;
    }
}

struct Objects {
    collection: Collection,
    updates: usize,
    form: Form,
    range: Range<usize>,
    next: usize,
}

impl Iterator for Objects {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.next >= self.range.end {
            return None;
        }
        let mut buffer = Vec::with_capacity(CHUNK + CHUNK / 4);
        while self.next < self.range.end && buffer.len() < CHUNK {
            let standing = self.collection.standing(self.next, self.updates);
            if self.form == Form::Added {
                self.collection.write_event("ADDED", self.next, standing, &mut buffer);
            } else {
                self.write_item(standing, &mut buffer);
            }
            self.next += 1;
        }
        Some(buffer.into())
    }
}

impl Objects {
    fn write_item(&self, standing: Standing, buffer: &mut Vec<u8>) {
        if self.next > self.range.start {
            buffer.push(b',');
        }
        buffer.push(b'{');
        let from = buffer.len();
        let collection = &self.collection;
        collection.world.write(collection.identity(self.next), standing, buffer);
        // One object of a page is enough.
        if collection.fault == Fault::InvalidUtf8 && self.next == self.range.start {
            spoil(&mut buffer[from..]);
        }
        buffer.push(b'}');
    }
}
