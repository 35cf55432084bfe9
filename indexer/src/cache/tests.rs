//! What readers and watchers see of what was written.

use super::*;
use crate::raw::ObjectReader;

fn served() -> ApiResource {
    ApiResource {
        gvr: GroupVersionResource::new("", "v1", "pods"),
        kind: "Pod".into(),
        namespaced: true,
        watchable: true,
    }
}

fn prepare(writer: &mut Writer, name: &str, version: u64) -> Entry {
    let text = format!(r#"{{"metadata":{{"namespace":"shop","name":"{name}","resourceVersion":"{version}"}}}}"#);
    writer.prepare(ObjectReader::new(&"m1".into(), "v1", "Pod").read(&text).unwrap()).unwrap()
}

fn names(cache: &ResourceCache) -> Vec<String> {
    let snapshot = cache.snapshot(None);
    snapshot.parts.values().flat_map(|part| part.objects.iter().map(|entry| entry.name().to_owned())).collect()
}

#[tokio::test]
async fn a_second_list_takes_away_what_is_gone_and_keeps_the_rest() {
    let cache = Cache::default().open(&served().gvr);
    let mut writer = cache.writer(&"m1".into(), &served());
    let first: Entries = [prepare(&mut writer, "a", 1), prepare(&mut writer, "b", 2)].into_iter().collect();
    writer.apply(first.iter().cloned().map(PreparedChange::Upsert));
    writer.finish_list(&first, "5".into());
    let second: Entries = [prepare(&mut writer, "b", 2)].into_iter().collect();
    writer.finish_list(&second, "9".into());
    assert_eq!(names(&cache), ["b"]);
    assert_eq!(writer.version().as_deref(), Some("9"));
    let deleted = cache
        .changes_since(0, 100)
        .unwrap()
        .into_iter()
        .any(|item| matches!(item.change, Change::Deleted { previous, version: 9, .. } if previous.name() == "a"));
    assert!(deleted, "watchers see the deletion with the list's version");
}

#[tokio::test]
async fn a_cluster_that_has_not_reached_a_version_is_told_and_others_are_not() {
    let cache = Cache::default().open(&served().gvr);
    cache.writer(&"m1".into(), &served()).finish_list(&Entries::new(), "9".into());
    cache.writer(&"restoring".into(), &served());
    let of = |versions: &[(&str, &str)]| {
        let mut version = MergedVersion::default();
        versions.iter().for_each(|(cluster, number)| version.set((*cluster).into(), (*number).into()));
        cache.snapshot(None).behind(&version).map(ToString::to_string)
    };
    assert_eq!(of(&[("m1", "10")]).as_deref(), Some("m1"), "ten is more than nine");
    assert_eq!(of(&[("m1", "9"), ("restoring", "5"), ("gone", "7")]), None);
    assert_eq!(of(&[("m1", "of another kind")]), None);
}

#[tokio::test]
async fn replacing_an_object_keeps_one_copy_the_newest() {
    let cache = Cache::default().open(&served().gvr);
    let mut writer = cache.writer(&"m1".into(), &served());
    let (old, new) = (prepare(&mut writer, "a", 1), prepare(&mut writer, "a", 2));
    writer.apply([PreparedChange::Upsert(old), PreparedChange::Upsert(new)]);
    let snapshot = cache.snapshot(None);
    let entries: Vec<_> = snapshot.parts.values().flat_map(|part| part.objects.iter()).collect();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].resource_version(), 2);
}

#[tokio::test]
async fn what_is_held_already_is_no_news_when_it_comes_again() {
    let cache = Cache::default().open(&served().gvr);
    let mut writer = cache.writer(&"m1".into(), &served());
    let first = prepare(&mut writer, "a", 7);
    let again = prepare(&mut writer, "a", 7);
    writer.apply([first, again].map(PreparedChange::Upsert));
    assert_eq!(cache.changes_since(0, 100).unwrap().len(), 1);
}

#[tokio::test]
async fn a_list_in_progress_has_no_version_to_resume_from() {
    let cache = Cache::default().open(&served().gvr);
    let mut writer = cache.writer(&"m1".into(), &served());
    let entry = prepare(&mut writer, "a", 7);
    writer.apply([PreparedChange::Upsert(entry)]);
    assert_eq!(writer.version(), None);
}

#[tokio::test]
async fn the_feed_is_bounded_and_says_when_it_no_longer_reaches_back() {
    let cache = Cache::default().open(&served().gvr);
    let writer = cache.writer(&"m1".into(), &served());
    writer.finish_list(&Entries::new(), "1".into());
    for version in 2..FEED_LENGTH.0 as u64 + 10 {
        writer.apply([PreparedChange::Bookmark(version.to_string().into())]);
    }
    assert!(cache.changes_since(0, 1).is_none());
    let snapshot = cache.snapshot(None);
    let floor = snapshot.parts.values().next().unwrap().floor;
    assert!(floor > 1 && floor < FEED_LENGTH.0 as u64);
}

#[tokio::test]
async fn a_cluster_that_leaves_takes_its_objects_along() {
    let cache = Cache::default().open(&served().gvr);
    let mut writer = cache.writer(&"m1".into(), &served());
    let entry = prepare(&mut writer, "a", 7);
    writer.apply([PreparedChange::Upsert(entry)]);
    cache.remove(&"m1".into());
    assert!(names(&cache).is_empty());
    let left = cache.changes_since(0, 100).unwrap().pop().unwrap();
    assert!(matches!(left.change, Change::Left { objects } if objects.len() == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn training_makes_earlier_frames_small_too() {
    let cache = Cache::default().open(&served().gvr);
    let mut writer = cache.writer(&"m1".into(), &served());
    for number in 0..450 {
        let entry = prepare(&mut writer, &format!("pod-{number}"), number);
        writer.apply([PreparedChange::Upsert(entry)]);
    }
    for _ in 0..500 {
        let done =
            cache.snapshot(None).parts.values().all(|part| part.objects.iter().all(|e| e.frame().dictionary == 1));
        if done {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("frames made before the training kept their first form");
}

#[tokio::test]
async fn what_a_cluster_had_that_left_is_held_for_watchers_and_not_for_ever() {
    let all = Cache::default();
    let cache = all.open(&served().gvr);
    let mut writer = cache.writer(&"m1".into(), &served());
    let other = cache.writer(&"m2".into(), &served());
    let entry = prepare(&mut writer, "a", 7);
    writer.apply([PreparedChange::Upsert(entry)]);
    cache.remove(&"m1".into());
    other.apply([PreparedChange::Bookmark("9".into())]);
    assert!(all.tidy(Duration::from_secs(60)), "there is something to forget later");
    assert_eq!(cache.feed_length(), 3);
    assert!(!all.tidy(Duration::ZERO));
    assert_eq!(cache.feed_length(), 1, "what came later is still there");
    assert!(cache.changes_since(0, 10).is_none(), "who stands before it is told so");
}

#[tokio::test]
async fn a_resource_that_nobody_contributes_to_goes_as_soon_as_nobody_reads_it() {
    let all = Cache::default();
    let reader = all.open(&served().gvr);
    drop(reader.writer(&"m1".into(), &served()));
    reader.remove(&"m1".into());
    assert!(all.tidy(Duration::ZERO), "it is being read");
    assert!(all.get(&served().gvr).is_some());
    drop(reader);
    assert!(!all.tidy(Duration::ZERO));
    assert!(all.get(&served().gvr).is_none());
}
