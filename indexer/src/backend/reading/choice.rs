//! Which backend answers a question, where there is a cache too.
//!
//! In: the question, what is followed for which registries, and how their backends are doing. Out: the one backend that has
//! everything the question can find, if all registries of it want it asked. Else the cache answers, which always can.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::backend::{BackendHealth, BackendState, BackendStatus, Readers};
use crate::cache::Cache;
use crate::plan::{WatchKey, WatchPlan};
use crate::query::Field;
use crate::search::{Scope, is_another_version};

/// A backend that lags more is not asked.
const LAG: Duration = Duration::from_secs(5);

/// The place among `readers` of the backend that answers; none where the cache does.
pub fn choose(
    scope: &Scope,
    cache: &Cache,
    plan: &WatchPlan,
    readers: &Readers,
    statuses: &[BackendStatus],
) -> Option<usize> {
    let usable = usable(readers, statuses);
    if usable.is_empty() {
        return None;
    }
    // Owners are looked for among all kinds.
    let is_of_all = scope.evaluator.expression().asks_for(&Field::OwnerChain);
    let (resources, mut chosen) = (cache.all(), None);
    for resource in &resources {
        let has_others = resources.iter().any(|other| is_another_version(other.resource(), resource.resource()));
        for (cluster, part) in &resource.snapshot(scope.clusters.as_ref()).parts {
            if !is_of_all && scope.evaluator.on_part(cluster, &part.served) == Some(false) {
                continue;
            }
            let key = WatchKey { cluster: cluster.clone(), resource: resource.resource().clone() };
            // Of a resource that is selected in two versions a backend gets one.
            for registry in &plan.watches.get(&key).filter(|_| !has_others)?.registries {
                let reader = *usable.get(registry.as_str())?;
                if *chosen.get_or_insert(reader) != reader {
                    return None;
                }
            }
        }
    }
    chosen
}

/// The readers of registries whose backends have what the cache has.
fn usable<'a>(readers: &'a Readers, statuses: &[BackendStatus]) -> BTreeMap<&'a str, usize> {
    let is_usable = |registry: &String, target: &String| {
        statuses.iter().any(|status| {
            status.name == *target
                && status.problem.is_none()
                && status.registries.contains(registry)
                && is_up_to_date(&status.health)
        })
    };
    let of_registries = readers.of_registries.iter().filter(|(name, of)| is_usable(name, &of.target));
    of_registries.map(|(name, of)| (name.as_str(), of.reader)).collect()
}

/// Whether a backend has what the cache has, but for what changed just now.
fn is_up_to_date(health: &BackendHealth) -> bool {
    health.state() == BackendState::Following && health.lag() < LAG && health.rejections().is_empty()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Instant;

    use jiff::Timestamp;
    use rstest::rstest;

    use super::*;
    use crate::backend::ReaderOf;
    use crate::backend::health::{Progress, Rejection};
    use crate::cache::PreparedChange;
    use crate::plan::{Scope as Namespaces, WatchTarget};
    use crate::query::evaluate::Evaluator;
    use crate::query::parse;
    use crate::raw::ObjectReader;
    use crate::resource::{ApiResource, GroupVersionResource};

    /// What is followed: Pods of both clusters for the first registry, those of m1 for the second one too, Nodes for the third.
    const FOLLOWED: [(&str, &str, &str, &[&str]); 3] = [
        ("m1", "pods", "Pod", &["first", "second"]),
        ("m2", "pods", "Pod", &["first"]),
        ("m1", "nodes", "Node", &["third"]),
    ];

    struct World {
        cache: Cache,
        plan: WatchPlan,
        readers: Readers,
        statuses: Vec<BackendStatus>,
    }

    fn resource(version: &str, resource: &str, kind: &str) -> ApiResource {
        let gvr = GroupVersionResource::new("", version, resource);
        ApiResource { gvr, kind: kind.into(), namespaced: kind == "Pod", watchable: true }
    }

    /// Registries, each with the backend that it wants to be asked.
    fn world(asked: &[(&str, usize)]) -> World {
        let mut world = World {
            cache: Cache::default(),
            plan: WatchPlan::default(),
            readers: Readers::default(),
            statuses: Vec::new(),
        };
        for (cluster, plural, kind, registries) in FOLLOWED {
            world.follow(cluster, &resource("v1", plural, kind), registries);
        }
        let of = |at: usize| ReaderOf { reader: at, target: format!("node-{at}") };
        let of_registries = asked.iter().map(|(name, at)| ((*name).to_owned(), of(*at))).collect();
        world.readers.of_registries = Arc::new(of_registries);
        for at in 0..2 {
            let named = asked.iter().filter(|(_, of)| *of == at).map(|(name, _)| (*name).to_owned());
            let health = BackendHealth::default();
            health.set_progress(Progress { is_connected: true, ..Progress::default() });
            let (name, registries) = (format!("node-{at}"), named.collect());
            world.statuses.push(BackendStatus { name, registries, problem: None, health: Arc::new(health) });
        }
        world
    }

    impl World {
        fn follow(&mut self, cluster: &str, served: &ApiResource, registries: &[&str]) {
            let cluster = cluster.into();
            let mut writer = self.cache.open(&served.gvr).writer(&cluster, served);
            let text = r#"{"metadata":{"name":"a"}}"#;
            let object = ObjectReader::new(&cluster, "v1", &served.kind).read(text).unwrap();
            let entry = writer.prepare(object).unwrap();
            writer.apply([PreparedChange::Upsert(entry)]);
            let registries: BTreeSet<String> = registries.iter().map(ToString::to_string).collect();
            let target = WatchTarget { served: served.clone(), scope: Namespaces::All, registries };
            self.plan.watches.insert(WatchKey { cluster, resource: served.gvr.clone() }, target);
        }

        fn ask(&self, query: &str) -> Option<usize> {
            self.ask_in(query, None)
        }

        fn ask_in(&self, query: &str, cluster: Option<&str>) -> Option<usize> {
            let evaluator = Evaluator::new(parse(query).unwrap(), Timestamp::now());
            let clusters = cluster.map(|cluster| [cluster.into()].into());
            let scope = Scope { evaluator, clusters, deadline: Instant::now() };
            choose(&scope, &self.cache, &self.plan, &self.readers, &self.statuses)
        }
    }

    #[tokio::test]
    async fn one_backend_that_all_registries_want_answers_everything() {
        let world = world(&[("first", 0), ("second", 0), ("third", 0)]);
        assert_eq!(world.ask(""), Some(0));
        assert_eq!(world.ask("owner~:Node/a"), Some(0));
        assert_eq!(world.ask("kind:Nothing"), None, "what nobody has nobody else is asked for");
    }

    #[rstest]
    #[case("kind:Pod cluster:m2", Some(0))]
    #[case("cluster:m2", Some(0))]
    #[case("kind:Pod cluster:m2 nginx", Some(0))]
    #[case("kind:Pod", None)]
    #[case("kind:Pod cluster:m1", None)]
    #[case("NOT kind:Node NOT cluster:m1", Some(0))]
    #[case("kind:Node", None)]
    #[case("nginx", None)]
    #[case("cluster:m2 owner~:ReplicaSet/a", None)]
    #[tokio::test]
    async fn a_question_that_reaches_beyond_registries_that_want_it_stays_here(
        #[case] query: &str,
        #[case] answers: Option<usize>,
    ) {
        assert_eq!(world(&[("first", 0)]).ask(query), answers);
    }

    #[tokio::test]
    async fn clusters_beside_the_query_narrow_it_too() {
        let world = world(&[("first", 0)]);
        assert_eq!(world.ask_in("", Some("m2")), Some(0));
        assert_eq!(world.ask_in("", Some("m1")), None);
    }

    #[tokio::test]
    async fn what_two_backends_have_is_not_asked_of_either() {
        let world = world(&[("first", 0), ("second", 1), ("third", 1)]);
        assert_eq!(world.ask("kind:Pod"), None);
        assert_eq!(world.ask("cluster:m2"), Some(0));
        assert_eq!(world.ask("kind:Node"), Some(1));
    }

    #[tokio::test]
    async fn a_backend_in_trouble_is_not_asked() {
        let busy = |change: &dyn Fn(&mut BackendStatus)| {
            let mut world = world(&[("first", 0)]);
            world.statuses.iter_mut().for_each(change);
            world.ask("cluster:m2")
        };
        assert_eq!(busy(&|_| {}), Some(0));
        assert_eq!(busy(&|status| status.problem = Some("no Secret".into())), None);
        let filling = Progress { is_connected: true, to_compare: 1, collections: 1, ..Progress::default() };
        assert_eq!(busy(&|status| status.health.set_progress(filling.clone())), None);
        let rejection = Rejection { id: "a".into(), reason: "too large".into(), at: Timestamp::now() };
        assert_eq!(busy(&|status| status.health.reject(rejection.clone())), None);
    }

    #[tokio::test]
    async fn a_resource_in_two_versions_stays_here() {
        let mut world = world(&[("first", 0)]);
        assert_eq!(world.ask("cluster:m2"), Some(0));
        world.follow("m1", &resource("v2", "pods", "Pod"), &["first"]);
        assert_eq!(world.ask("cluster:m2"), None);
    }
}
