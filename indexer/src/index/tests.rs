//! With the index and without it, every question has the same answer.

mod samples;

use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use samples::{FIELDS, KINDS, Written, order, written};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::follow::Follower;
use super::*;
use crate::cache::{Cache, PreparedChange, Writer};
use crate::entry::{Entries, EntryKey};
use crate::query::evaluate::Evaluator;
use crate::query::{Expression, parse, parse_field};
use crate::raw::ObjectReader;
use crate::resource::ApiResource;
use crate::search::facets::count;
use crate::search::order::Order;
use crate::search::{Page, Question, Scope, answer};

const NOW: &str = "2026-03-04T12:00:00Z";

/// A cache, its index, and the hand that follows.
struct World {
    cache: Cache,
    index: Arc<Index>,
    follower: Follower,
    folder: tempfile::TempDir,
    version: u64,
}

fn follower(folder: &std::path::Path, index: &Arc<Index>, disk: Option<u64>) -> Result<Follower, IndexError> {
    let settings = IndexSettings { folder: Some(folder.to_path_buf()), memory: 15_000_000, disk };
    Follower::open(&settings, Arc::clone(index), CancellationToken::new())
}

impl World {
    fn new() -> Self {
        let (folder, index) = (tempfile::tempdir().unwrap(), Arc::new(Index::default()));
        let follower = follower(folder.path(), &index, None).unwrap();
        Self { cache: Cache::default(), index, follower, folder, version: 0 }
    }

    fn writer(&self, cluster: &str, kind: usize) -> (Writer, ObjectReader) {
        let (group, version, kind) = KINDS[kind];
        let gvr = GroupVersionResource::new(group, version, &format!("{}s", kind.to_lowercase()));
        let served = ApiResource { gvr: gvr.clone(), kind: kind.into(), namespaced: true, watchable: true };
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let writer = self.cache.open(&gvr).writer(&cluster.into(), &served);
        (writer, ObjectReader::new(&cluster.into(), &api_version, kind))
    }

    fn apply(&mut self, change: &Written) {
        self.version += 1;
        let Written { cluster, kind, namespace, name, body } = change;
        let (mut writer, reader) = self.writer(cluster, *kind);
        let mut object = body.clone().unwrap_or_else(|| json!({}));
        object["metadata"]["name"] = json!(name);
        object["metadata"]["namespace"] = json!(namespace);
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let entry = writer.prepare(reader.read(&object.to_string()).unwrap()).unwrap();
        writer.apply([if body.is_some() { PreparedChange::Upsert(entry) } else { PreparedChange::Delete(entry) }]);
    }

    fn step(&mut self) {
        self.follower.step(&self.cache).unwrap();
    }

    /// As after the process was killed and started again, on the same folder and with an empty cache.
    fn restart(&mut self) {
        let aside = tempfile::tempdir().unwrap();
        // The folder's lock goes with the old one.
        drop(std::mem::replace(&mut self.follower, follower(aside.path(), &self.index, None).unwrap()));
        (self.cache, self.index, self.version) = (Cache::default(), Arc::new(Index::default()), 0);
        self.follower = follower(self.folder.path(), &self.index, None).unwrap();
    }
}

fn scope(expression: &Expression) -> Scope {
    let evaluator = Evaluator::new(expression.clone(), NOW.parse::<Timestamp>().unwrap());
    Scope { evaluator, clusters: None, deadline: std::time::Instant::now() + Duration::from_secs(60) }
}

fn ask(cache: &Cache, index: &Index, expression: &Expression, order: &str, limit: usize, page: usize) -> Page {
    let order = Order::parse(order, expression).unwrap();
    let mut question = Question::new(scope(expression), order, limit);
    let mut found = answer(cache, index, &question);
    for _ in 0..page {
        if found.next.is_some() {
            question.after = found.next;
            found = answer(cache, index, &question);
        }
    }
    found
}

fn names(page: &Page) -> Vec<String> {
    let name = |hit: &crate::search::Hit| {
        let (entry, version) = (&hit.entry, hit.entry.version().resource_version);
        format!("{}/{}/{}/{}@{version}", hit.cluster, hit.served.kind, entry.namespace(), entry.name())
    };
    page.hits.iter().map(name).collect()
}

/// A query; now and then all of everything.
fn expression() -> impl Strategy<Value = Expression> {
    prop_oneof![
        12 => samples::expression().prop_map(|text| parse(&text).unwrap()),
        1 => Just(Expression::Everything),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_index_answers_as_looking_at_every_object_does(
        first in prop::collection::vec(written(), 0..90),
        second in prop::collection::vec(written(), 0..12),
        third in prop::collection::vec(written(), 0..6),
        restarts in prop::bool::weighted(0.2),
        questions in prop::collection::vec((expression(), order(), 1usize..9, 0usize..3), 1..24),
        by in prop::sample::subsequence(FIELDS.to_vec(), 1..4),
    ) {
        let mut world = World::new();
        for (changes, is_followed) in [(&first, true), (&second, true), (&third, false)] {
            changes.iter().for_each(|change| world.apply(change));
            if is_followed {
                world.step();
            }
        }
        if restarts {
            world.restart();
            first.iter().for_each(|change| world.apply(change));
            world.step();
            second.iter().chain(&third).for_each(|change| world.apply(change));
        }
        let without = Index::default();
        let by: Vec<_> = by.iter().map(|name| parse_field(name).unwrap()).collect();
        for (expression, order, limit, page) in questions {
            let fast = ask(&world.cache, &world.index, &expression, &order, limit, page);
            let slow = ask(&world.cache, &without, &expression, &order, limit, page);
            prop_assert_eq!(names(&fast), names(&slow), "{} by {}", expression, order);
            prop_assert_eq!(&fast.next, &slow.next, "{} by {}", expression, order);
            prop_assert_eq!((fast.remaining, fast.is_partial), (slow.remaining, false), "{} by {}", expression, order);
            let fast = count(&world.cache, &world.index, &scope(&expression), &by, 5).unwrap();
            let slow = count(&world.cache, &without, &scope(&expression), &by, 5).unwrap();
            prop_assert_eq!(fast, slow, "{}", expression);
        }
    }
}

fn pod(name: &str) -> Written {
    let body = json!({ "spec": { "replicas": 1 } });
    Written { cluster: "east", kind: 0, namespace: "shop", name: name.to_owned(), body: Some(body) }
}

#[test]
fn after_a_restart_only_what_differs_is_taken_in_again_and_what_is_gone_goes() {
    let mut world = World::new();
    (0..50).for_each(|number| world.apply(&pod(&format!("pod-{number}"))));
    world.step();
    world.restart();
    assert_eq!(world.follower.committed.documents(), 50, "it is still there");
    let (mut writer, reader) = world.writer("east", 0);
    let mut listed = Entries::new();
    // The same list but for one that is gone and one that is new.
    for number in 1..51 {
        let version = if number < 50 { number + 1 } else { 99 };
        let text = format!(
            r#"{{"metadata":{{"name":"pod-{number}","namespace":"shop","resourceVersion":"{version}"}},"spec":{{"replicas":1}}}}"#
        );
        listed.insert(writer.prepare(reader.read(&text).unwrap()).unwrap());
    }
    writer.apply(listed.iter().cloned().map(PreparedChange::Upsert));
    world.step();
    let found = ask(&world.cache, &world.index, &parse("spec.replicas:1").unwrap(), "", 100, 0);
    assert_eq!(found.hits.len(), 50, "while the list is coming in, objects are looked at");
    writer.finish_list(&listed, "100".into());
    world.step();
    world.step();
    assert_eq!(world.follower.committed.documents(), 50);
    assert_eq!(world.index.counters.indexed.load(Ordering::Relaxed), 1, "49 were there in the very same state");
    assert!(world.follower.committed.positions.values().all(|position| position.unsettled.is_empty()));
    assert!(listed.get(&EntryKey::new("shop", "pod-50")).is_some());
}

#[test]
fn a_damaged_index_is_noticed_and_built_anew() {
    let mut world = World::new();
    (0..20).for_each(|number| world.apply(&pod(&format!("pod-{number}"))));
    world.step();
    let folder = world.folder.path().to_path_buf();
    let World { cache, follower: old, folder: _kept, .. } = world;
    drop(old);
    let files = walkdir::WalkDir::new(&folder).into_iter().flatten();
    let terms =
        files.map(walkdir::DirEntry::into_path).find(|path| path.extension().is_some_and(|name| name == "term"));
    let terms = terms.unwrap();
    let mut bytes = std::fs::read(&terms).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&terms, bytes).unwrap();
    let index = Arc::new(Index::default());
    let mut again = follower(&folder, &index, None).unwrap();
    assert_eq!((again.committed.documents(), index.counters.rebuilds.load(Ordering::Relaxed)), (0, 1));
    again.step(&cache).unwrap();
    assert_eq!(again.committed.documents(), 20);
}

#[test]
fn an_index_that_takes_more_room_than_it_may_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new();
    world.follower = follower(folder.path(), &world.index, Some(1000)).unwrap();
    (0..50).for_each(|number| world.apply(&pod(&format!("pod-{number}"))));
    let error = world.follower.step(&world.cache).unwrap_err();
    assert!(matches!(error, IndexError::TooLarge { limit: 1000, .. }), "{error}");
}

#[tokio::test]
async fn it_follows_by_itself_and_a_cluster_that_leaves_takes_its_documents_along() {
    let (cache, index, stop) = (Arc::new(Cache::default()), Arc::new(Index::default()), CancellationToken::new());
    let settings = IndexSettings { folder: None, memory: 15_000_000, disk: None };
    let following = tokio::spawn(follow(Arc::clone(&cache), Arc::clone(&index), settings, stop.clone()));
    let gvr = GroupVersionResource::new("", "v1", "pods");
    let served = ApiResource { gvr: gvr.clone(), kind: "Pod".into(), namespaced: true, watchable: true };
    let mut writer = cache.open(&gvr).writer(&"east".into(), &served);
    let reader = ObjectReader::new(&"east".into(), "v1", "Pod");
    let text = r#"{"metadata":{"name":"web","namespace":"shop","resourceVersion":"1"}}"#;
    let entry = writer.prepare(reader.read(text).unwrap()).unwrap();
    writer.apply([PreparedChange::Upsert(entry)]);
    let documents = async |wanted: u64| {
        for _ in 0..200 {
            if index.counters.documents.load(Ordering::Relaxed) == wanted {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    };
    assert!(documents(1).await);
    let damaged = index.committed();
    index.give_up(damaged.as_ref(), &IndexError::Damaged("as a query would say"));
    index.give_up(damaged.as_ref(), &IndexError::Damaged("as another one would say a moment later"));
    assert!(index.committed().is_none(), "nobody reads what is damaged");
    assert!(documents(1).await, "it is built anew");
    assert_eq!(index.counters.rebuilds.load(Ordering::Relaxed), 1);
    cache.open(&gvr).remove(&"east".into());
    assert!(documents(0).await);
    stop.cancel();
    following.await.unwrap();
}

#[test]
fn a_question_that_the_index_can_decide_opens_no_object() {
    let mut world = World::new();
    (0..50).for_each(|number| world.apply(&pod(&format!("pod-{number}"))));
    world.step();
    let committed = world.index.committed().unwrap();
    for segment in &committed.segments {
        assert_eq!((segment.lacks_values.len(), segment.lacks_words.len()), (0, 0));
    }
    for query in ["spec.replicas:1", "name:pod-7", "label.app:*", "-image:*x*", "pod", "kind:Pod cluster:east"] {
        let evaluator = Evaluator::new(parse(query).unwrap(), NOW.parse().unwrap());
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        let served = world.cache.all()[0].part(&"east".into()).unwrap().served.clone();
        for segment in &committed.segments {
            let all = segment.documents_of_part(&segment.parts[0].0).unwrap();
            let (evaluator, served) = (&evaluator, &[Some(&served)]);
            let matches = Matcher { segment, evaluator, all, served, deadline }.matches().unwrap();
            assert_eq!(matches.sure, matches.possible, "{query}");
        }
    }
}

#[tokio::test]
async fn thousands_of_label_keys_are_told_apart_and_take_no_more_than_themselves() {
    let mut world = World::new();
    for number in 0..5000 {
        let labels = json!({ format!("key-{number}"): "yes", format!("key-{number}.more"): "no" });
        let body =
            json!({ "metadata": { "labels": labels }, "spec": { format!("step-{number}"): { "deep": number } } });
        let name = format!("object-{number}");
        world.apply(&Written { cluster: "east", kind: 0, namespace: "shop", name, body: Some(body) });
    }
    world.step();
    let counted = |query: &str| {
        let expression = parse(query).unwrap();
        count(&world.cache, &world.index, &scope(&expression), &[], 0).unwrap().total
    };
    assert_eq!((counted("label.key-77:yes"), counted("label.key-77:no"), counted("label.key-77.more:no")), (1, 0, 1));
    assert_eq!((counted("spec.step-4999.deep:4999"), counted("label.key-4999.more:*")), (1, 1));
    let bytes = world.index.counters.bytes.load(Ordering::Relaxed);
    assert!(bytes < 5000 * 600, "{bytes} bytes");
}

#[tokio::test]
async fn while_one_resource_is_taken_in_others_are_followed() {
    let mut world = World::new();
    let put = |world: &mut World, kind: usize, number: usize| {
        let name = format!("object-{number}");
        world.apply(&Written { cluster: "east", kind, namespace: "shop", name, body: Some(json!({})) });
    };
    put(&mut world, 0, 0);
    put(&mut world, 1, 0);
    world.step();
    (1..10).for_each(|number| put(&mut world, 0, number));
    (1..10).for_each(|number| put(&mut world, 1, number));
    let all = world.cache.all();
    let position = |world: &World, of: usize| world.index.committed().unwrap().position(&all[of]).unwrap().sequence;
    let before = position(&world, 0);
    world.follower.catch_up(&all[0], &all).unwrap();
    assert_eq!(position(&world, 1), all[1].next_sequence(), "the other one's changes are taken in");
    assert_eq!(position(&world, 0), before, "those of the one that takes long come with its own work");
}
