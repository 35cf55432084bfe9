//! Questions over a small estate, and what must hold for every page.

use std::sync::Arc;
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
            let usual =
                format!(r#""metadata":{{"namespace":"shop","name":"{name}","resourceVersion":"{version}"}}{rest}"#);
            let own = rest.strip_prefix(',').filter(|own| own.starts_with(r#""metadata""#));
            let text = format!("{{{}}}", own.unwrap_or(&usual));
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
    Question { after, ..Question::new(scope, order, limit) }
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

/// What a watch has given, as `TYPE cluster/name`.
async fn next_events(watch: &mut watch::SearchWatch) -> Vec<String> {
    let next = async {
        loop {
            let events = watch.next().await.unwrap();
            if !events.is_empty() {
                return events;
            }
        }
    };
    let events = tokio::time::timeout(Duration::from_secs(10), next).await.unwrap();
    let name = |event: &watch::SearchEvent| {
        format!("{} {}/{}", event.event_type.as_str(), event.hit.cluster, event.hit.entry.name())
    };
    events.iter().map(name).collect()
}

#[tokio::test]
async fn a_watch_gives_what_passes_then_what_comes_changes_and_goes() {
    let cache = Arc::new(estate());
    let begin = |query: &str| watch::SearchWatch::begin(Arc::clone(&cache), &Index::default(), scope(query));
    let (mut watch, first) = begin("kind:(Deployment OR StatefulSet) spec.replicas:>1");
    let hits = first.find().unwrap();
    let found: Vec<String> = hits.iter().map(|hit| format!("{}/{}", hit.cluster, hit.entry.name())).collect();
    assert_eq!(found, ["pegasus/nginx", "pegasus-2/nginx", "pegasus-2/redis"]);
    let replicas = |number: u32| format!(r#","spec":{{"replicas":{number}}}"#);
    put(&cache, "pegasus", "Deployment", &[("redis", &replicas(2)), ("nginx", &replicas(10)), ("idle", &replicas(0))]);
    assert_eq!(next_events(&mut watch).await, ["ADDED pegasus/redis"], "what is as it was is no event");
    put(&cache, "pegasus", "Deployment", &[("redis", &replicas(1)), ("nginx", &replicas(4))]);
    assert_eq!(next_events(&mut watch).await, ["DELETED pegasus/redis", "MODIFIED pegasus/nginx"]);
    put(&cache, "north", "StatefulSet", &[("db", &replicas(3))]);
    assert_eq!(next_events(&mut watch).await, ["ADDED north/db"], "a kind that nobody had selected before");
    cache.open(&GroupVersionResource::new("apps", "v1", "deployments")).remove(&"pegasus-2".into());
    assert_eq!(next_events(&mut watch).await, ["DELETED pegasus-2/nginx", "DELETED pegasus-2/redis"]);
}

#[tokio::test]
async fn a_watch_that_fell_behind_is_told_so() {
    let cache = Arc::new(estate());
    let (mut watch, _) = watch::SearchWatch::begin(Arc::clone(&cache), &Index::default(), scope("kind:Pod name:none"));
    let names: Vec<String> = (0..17_000).map(|number| format!("pod-{number}")).collect();
    let pods: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    put(&cache, "pegasus", "Pod", &pods);
    let end = async {
        loop {
            if let Err(error) = watch.next().await {
                return error;
            }
        }
    };
    assert_eq!(end.await, watch::WatchError::Expired);
}

fn shown(difference: &differences::Difference) -> String {
    let names = |clusters: &[crate::resource::ClusterName]| {
        clusters.iter().map(crate::resource::ClusterName::as_str).collect::<Vec<_>>().join(",")
    };
    let fields: Vec<&str> = difference.fields.iter().map(|field| field.path.as_str()).collect();
    let differences::Difference { kind, name, present_in, missing_in, .. } = difference;
    format!("{kind} {name}: in {} not in {} fields {}", names(present_in), names(missing_in), fields.join(","))
}

fn list_of(found: &differences::Differences) -> Vec<String> {
    found.items.iter().map(shown).collect()
}

#[test]
fn clusters_differ_in_what_they_lack_and_in_what_somebody_wanted() {
    use differences::{Kept, differences};
    let cache = estate();
    let container = |image: &str, rest: &str| {
        format!(
            r#","metadata":{{"namespace":"shop","name":"web","resourceVersion":"7","uid":"{image}","labels":{{"a.b/c":"{image}"}},
            "annotations":{{"deployment.kubernetes.io/revision":"{image}"}}}},"status":{{"x":"{image}"}},
            "spec":{{"containers":[{{"name":"side"}},{{"name":"web","image":"{image}"}}{rest}]}}"#
        )
    };
    put(&cache, "pegasus", "Deployment", &[("web", &container("1", ""))]);
    put(&cache, "pegasus-2", "Deployment", &[("web", &container("2", r#",{"name":"more"}"#))]);
    let owned = r#","metadata":{"namespace":"shop","name":"web-1","resourceVersion":"7","ownerReferences":[{"kind":"X","name":"x","uid":"u","controller":true}]}"#;
    put(&cache, "pegasus", "Deployment", &[("web-1", owned)]);
    for resource in cache.all() {
        for cluster in ["pegasus", "pegasus-2"] {
            if let Some(part) = resource.part(&cluster.into()) {
                resource.writer(&cluster.into(), &part.served).finish_list(&part.objects, "9".into());
            }
        }
    }
    let ask =
        |kept, limit, after| differences(&cache, &Index::default(), &scope("kind:Deployment"), kept, limit, after);
    let all = ask(Kept::All, 50, None);
    let nginx = "Deployment nginx: in pegasus,pegasus-2 not in  fields spec.replicas";
    let web = "Deployment web: in pegasus,pegasus-2 not in  fields label.a.b/c,spec.containers[web].image,spec.containers[more]";
    let redis = "Deployment redis: in pegasus,pegasus-2 not in  fields spec.replicas";
    assert_eq!(list_of(&all), ["Deployment idle: in pegasus not in pegasus-2 fields ", nginx, redis, web]);
    assert_eq!((all.compared, all.next.is_none(), all.is_partial), (4, true, false));
    assert_eq!(ask(Kept::Missing, 50, None).items.len(), 1);
    let first = ask(Kept::Changed, 2, None);
    assert_eq!(list_of(&first), [nginx, redis]);
    assert_eq!(list_of(&ask(Kept::Changed, 2, first.next)), [web]);
}

#[test]
fn an_explanation_says_what_each_part_takes() {
    let cache = estate();
    let asked = scope("kind:Deployment (spec.replicas:>5 OR -name:redis)");
    let cached = Cached { cache: Arc::new(estate()), index: Arc::default() };
    let (part, is_complete) = explain::explain_counts(&cached, &asked, &asked);
    assert!(is_complete);
    let counts: Vec<Option<u64>> = part
        .parts
        .iter()
        .flat_map(|part| std::iter::once(part.objects).chain(part.parts.iter().map(|p| p.objects)))
        .collect();
    assert_eq!((part.objects, counts), (Some(3), vec![Some(5), Some(5), Some(1), Some(5)]));
    let hits =
        answer(&cache, &Index::default(), &question("kind:Deployment name:redis cluster:pegasus", "", 1, None)).hits;
    let part = explain::explain_object(&asked, &asked, &hits[0]).unwrap();
    assert_eq!((part.holds, part.parts[0].holds, part.parts[1].holds), (Some(false), Some(true), Some(false)));
    assert_eq!(part.parts[1].parts[0].found.as_deref(), Some(&["1".to_owned()][..]));
}

#[test]
fn names_of_fields_are_those_that_objects_have() {
    let names = |beginning: &str| names::field_names(&estate(), beginning, 10);
    assert_eq!(names("spec.re"), ["spec.replicas"]);
    assert_eq!(names("cl"), ["cluster"]);
    assert_eq!(names("spec.c"), ["spec.containers.image"]);
}
