//! Questions over a small estate, and what must hold for every page.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::facets::count;
use super::order::Order;
use super::*;
use crate::cache::PreparedChange;
use crate::index::Index;
use crate::query::{Field, parse, parse_field};
use crate::raw::ObjectReader;
use crate::resource::GroupVersionResource;

fn put(cache: &Cache, cluster: &str, kind: &str, objects: &[(&str, &str)]) {
    let (group, api_version) = if kind == "Pod" { ("", "v1") } else { ("apps", "apps/v1") };
    let gvr = GroupVersionResource::new(group, "v1", &format!("{}s", kind.to_lowercase()));
    let served = ApiResource { gvr: gvr.clone(), kind: kind.into(), namespaced: true, watchable: true };
    let mut writer = cache.open(&gvr).writer(&cluster.into(), &served);
    let reader = ObjectReader::new(&cluster.into(), api_version, kind);
    let changes: Vec<PreparedChange> = objects
        .iter()
        .enumerate()
        .map(|(version, (name, rest))| {
            let version = version + 1;
            let text =
                format!(r#"{{"metadata":{{"namespace":"shop","name":"{name}","resourceVersion":"{version}"}}{rest}}}"#);
            PreparedChange::Upsert(writer.prepare(reader.read(&text).unwrap()).unwrap())
        })
        .collect();
    writer.apply(changes);
}

fn estate() -> Cache {
    let cache = Cache::default();
    let replicas = |number: u32| format!(r#","spec":{{"replicas":{number}}}"#);
    put(&cache, "pegasus", "Deployment", &[("redis", &replicas(1)), ("nginx", &replicas(10)), ("idle", "")]);
    put(&cache, "pegasus-2", "Deployment", &[("redis", &replicas(3)), ("nginx", &replicas(2))]);
    let pod = r#","spec":{"containers":[{"image":"nginx:1.27"}]}"#;
    put(&cache, "pegasus", "Pod", &[("nginx-a", pod), ("nginx-b", pod)]);
    cache
}

fn scope(query: &str) -> Scope {
    let evaluator = Evaluator::new(parse(query).unwrap(), jiff::Timestamp::UNIX_EPOCH);
    Scope { evaluator, clusters: None, deadline: Instant::now() + Duration::from_secs(60) }
}

fn question(query: &str, order: &str, limit: usize, after: Option<SortKey>) -> Question {
    let scope = scope(query);
    let order = Order::parse(order, scope.evaluator.expression()).unwrap();
    Question { scope, order, limit, after }
}

fn names(page: &Page) -> Vec<String> {
    page.hits.iter().map(|hit| format!("{}/{}", hit.cluster, hit.entry.name())).collect()
}

#[test]
fn kinds_are_mixed_and_ordered_by_what_they_are() {
    let page = answer(&estate(), &Index::default(), &question("nginx*", "", 50, None));
    let found: BTreeSet<String> = names(&page).into_iter().collect();
    assert_eq!(found.len(), 4);
    let all = names(&answer(&estate(), &Index::default(), &question("", "", 50, None)));
    assert_eq!(all[..3], ["pegasus/idle", "pegasus/nginx", "pegasus-2/nginx"]);
    assert_eq!(all[5..], ["pegasus/nginx-a", "pegasus/nginx-b"]);
}

#[test]
fn numbers_are_sorted_as_numbers_and_what_has_none_comes_last_both_ways() {
    let sorted = |order| names(&answer(&estate(), &Index::default(), &question("kind:Deployment", order, 50, None)));
    let up = ["pegasus/redis", "pegasus-2/nginx", "pegasus-2/redis", "pegasus/nginx", "pegasus/idle"];
    assert_eq!(sorted("spec.replicas"), up);
    let down = ["pegasus/nginx", "pegasus-2/redis", "pegasus-2/nginx", "pegasus/redis", "pegasus/idle"];
    assert_eq!(sorted("-spec.replicas"), down);
    assert_eq!(sorted("-cluster,name")[0], "pegasus-2/nginx");
}

#[test]
fn names_weigh_more_than_what_stands_deep_inside() {
    let cache = estate();
    put(
        &cache,
        "other",
        "Deployment",
        &[("web", r#","spec":{"template":{"spec":{"containers":[{"image":"redis"}]}}}"#)],
    );
    let found = names(&answer(&cache, &Index::default(), &question("redis", "", 50, None)));
    assert_eq!(found, ["pegasus/redis", "pegasus-2/redis", "other/web"]);
}

#[test]
fn counts_are_exact_and_the_rest_is_told() {
    let by: Vec<Field> = ["cluster", "image", "spec.replicas"].iter().map(|name| parse_field(name).unwrap()).collect();
    let counted = count(&estate(), &Index::default(), &scope(""), &by, 1).unwrap();
    assert_eq!((counted.total, counted.is_partial), (7, false));
    let shown: Vec<String> = counted
        .facets
        .iter()
        .map(|facet| format!("{}: {}={} other {}", facet.by, facet.values[0].value, facet.values[0].count, facet.other))
        .collect();
    assert_eq!(shown, ["cluster: pegasus=5 other 2", "image: nginx:1.27=2 other 0", "spec.replicas: 1=1 other 3"]);
}

#[test]
fn an_object_selected_in_two_versions_is_found_once() {
    let cache = estate();
    let gvr = GroupVersionResource::new("apps", "v1beta1", "deployments");
    let served = ApiResource { gvr: gvr.clone(), kind: "Deployment".into(), namespaced: true, watchable: true };
    let mut writer = cache.open(&gvr).writer(&"pegasus".into(), &served);
    let reader = ObjectReader::new(&"pegasus".into(), "apps/v1", "Deployment");
    let text = r#"{"metadata":{"namespace":"shop","name":"nginx","resourceVersion":"9"}}"#;
    let entry = writer.prepare(reader.read(text).unwrap()).unwrap();
    writer.apply([PreparedChange::Upsert(entry)]);
    assert_eq!(
        names(&answer(&cache, &Index::default(), &question("name:nginx cluster:pegasus", "", 50, None))),
        ["pegasus/nginx"]
    );
}

#[test]
fn a_question_that_takes_too_long_ends_with_what_was_found() {
    let cache = Cache::default();
    let many: Vec<(String, &str)> = (0..390).map(|number| (format!("pod-{number:04}"), "")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, rest)| (name.as_str(), *rest)).collect();
    put(&cache, "pegasus", "Pod", &many);
    let mut question = question("", "", 5000, None);
    question.scope.deadline = Instant::now();
    let page = answer(&cache, &Index::default(), &question);
    assert!(page.is_partial && page.hits.len() < 390);
}

proptest! {
    #[test]
    fn pages_together_are_the_whole_answer(limit in 1usize..8, order in prop::sample::select(vec!["", "name", "-spec.replicas", "-cluster,created", "image"])) {
        let cache = estate();
        let whole = names(&answer(&cache, &Index::default(), &question("", order, 50, None)));
        let mut paged = Vec::new();
        let mut after = None;
        loop {
            let page = answer(&cache, &Index::default(), &question("", order, limit, after));
            prop_assert_eq!(page.remaining, (whole.len() - paged.len() - page.hits.len()) as u64);
            paged.extend(names(&page));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        prop_assert_eq!(paged, whole);
    }
}
