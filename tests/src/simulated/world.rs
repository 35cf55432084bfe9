//! What all clusters hold, as a function of the seed: nothing of it is kept.
//!
//! In: which object of which cluster, and how often it was touched. Out: its JSON, written into a buffer.

use anyhow::Result;
use jiff::Timestamp;
use std::io::Write as _;
use std::ops::Range;

use super::Settings;
use super::kinds::{ALL, Kind};
use super::names::{
    Application, NAMESPACE_APPLICATIONS, NAMESPACE_PODS, application_at, applications, below, namespace_number,
    place_of_pod, pod_suffix, push_namespace, revision,
};
use super::schedule::{LIFE, Schedule, Standing};
use super::template::{Field, Template, push_decimal, push_hex};

/// Where the versions of objects that never change begin.
const UNCHANGING_VERSION: usize = 300_000;
/// Versions of each kind of them.
const KIND_VERSIONS: usize = 10_000;
/// When the first objects were created, in seconds since 1970.
const BEGINNING: usize = 1_750_000_000;

/// Everything that is needed to make objects.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) schedule: Schedule,
    applications: Vec<Application>,
    templates: Vec<Template>,
}

/// One object's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: usize,
    pub(crate) kind: Kind,
    pub(crate) index: usize,
}

impl World {
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let templates = ALL.iter().map(|description| Template::parse(description.template));
        Ok(Self {
            settings: settings.clone(),
            schedule: Schedule::new(settings.pods),
            applications: applications(),
            templates: templates.collect::<Result<_>>()?,
        })
    }

    /// How many objects of a kind each cluster has.
    pub(crate) fn objects(&self, kind: Kind) -> usize {
        if kind == Kind::PODS { self.settings.pods } else { self.settings.others }
    }

    /// How many namespaces each cluster has.
    pub(crate) fn namespaces(&self) -> usize {
        self.settings.pods.div_ceil(NAMESPACE_PODS).max(1)
    }

    /// Objects of a kind in each namespace.
    fn in_namespace(&self, kind: Kind) -> usize {
        if kind == Kind::PODS {
            return NAMESPACE_PODS;
        }
        self.settings.others.div_ceil(self.namespaces()).max(NAMESPACE_APPLICATIONS)
    }

    /// The objects of a kind that are in a namespace; all, if none is named or the kind has none.
    pub(crate) fn range(&self, kind: Kind, namespace: Option<&str>) -> Range<usize> {
        let all = self.objects(kind);
        let Some(namespace) = namespace.filter(|_| kind.description().namespaced) else { return 0..all };
        let Some(number) = namespace_number(namespace) else { return 0..0 };
        let each = self.in_namespace(kind);
        (number.saturating_mul(each)).min(all)..(number.saturating_add(1).saturating_mul(each)).min(all)
    }

    /// How an object stands after so many updates of its cluster.
    pub(crate) fn standing(&self, kind: Kind, index: usize, updates: usize) -> Standing {
        if kind == Kind::PODS {
            return self.schedule.standing(index, updates);
        }
        Standing { generation: 0, version: UNCHANGING_VERSION + kind.0 * KIND_VERSIONS + index }
    }

    /// Whether a pod of this generation took the place of another.
    pub(crate) fn replaces(&self, identity: Identity, generation: usize) -> bool {
        generation > 0 && (generation + self.phase(identity)).is_multiple_of(LIFE)
    }

    /// Pods are not all replaced at the same time.
    fn phase(&self, identity: Identity) -> usize {
        below(self.slot(identity), LIFE)
    }

    fn slot(&self, identity: Identity) -> u64 {
        let cluster = mix(self.settings.seed, identity.cluster as u64);
        mix(mix(cluster, identity.kind.0 as u64), identity.index as u64)
    }

    /// Writes the members of an object, without its type.
    pub(crate) fn write(&self, identity: Identity, standing: Standing, buffer: &mut Vec<u8>) {
        if let Some(template) = self.templates.get(identity.kind.0) {
            let facts = self.facts(identity, standing);
            template.fill(buffer, |buffer, field| facts.write(buffer, field));
        }
    }

    /// An object's name.
    pub(crate) fn name(&self, identity: Identity, standing: Standing) -> String {
        let mut name = Vec::with_capacity(40);
        self.facts(identity, standing).write(&mut name, Field::Name);
        String::from_utf8_lossy(&name).into_owned()
    }

    fn facts(&self, identity: Identity, standing: Standing) -> Facts<'_> {
        let slot = self.slot(identity);
        let touched = standing.generation + below(slot, LIFE);
        let (life, age) = if touched < LIFE { (0, standing.generation) } else { (touched / LIFE, touched % LIFE) };
        let each = self.in_namespace(identity.kind);
        let (namespace, within) = (identity.index / each, identity.index % each);
        let (place, rank) = match identity.kind {
            Kind::PODS => place_of_pod(identity.index),
            _ => (within * NAMESPACE_APPLICATIONS / each, within),
        };
        let cluster = mix(self.settings.seed, identity.cluster as u64);
        let group = mix(mix(cluster, namespace as u64), 1000 + place as u64);
        let application = application_at(place, group);
        let nodes = self.settings.others;
        let node = if identity.kind == Kind::NODES { identity.index } else { below(mix(slot, life as u64), nodes) };
        let created = BEGINNING + below(mix(slot, 1), 15_000_000) + life * 3600;
        Facts {
            identity,
            standing,
            application: &self.applications[application % self.applications.len()],
            number: application as u64,
            namespace,
            rank,
            many: each > NAMESPACE_APPLICATIONS,
            node,
            slot,
            group,
            life,
            age,
            created,
        }
    }
}

/// What is to be known of an object before it is written.
struct Facts<'a> {
    identity: Identity,
    standing: Standing,
    application: &'a Application,
    /// The application's number among all.
    number: u64,
    namespace: usize,
    /// Which of its application's pods, or which of its namespace's objects.
    rank: usize,
    /// Whether an application may have more than one object of a kind that isn't pods.
    many: bool,
    node: usize,
    /// Random, for the place that an object has.
    slot: u64,
    /// Random, for the application in this namespace.
    group: u64,
    /// How often a pod was replaced, and how often this one was touched.
    life: usize,
    age: usize,
    created: usize,
}

impl Facts<'_> {
    fn write(&self, buffer: &mut Vec<u8>, field: Field) {
        match field {
            Field::Name => self.write_name(buffer),
            Field::Namespace => push_namespace(buffer, self.namespace),
            Field::Application => buffer.extend_from_slice(self.application.name.as_bytes()),
            Field::Product => buffer.extend_from_slice(self.application.product.as_bytes()),
            Field::Component => buffer.extend_from_slice(self.application.component.as_bytes()),
            Field::Revision => buffer.extend_from_slice(&revision(self.group)),
            Field::Version => push_decimal(buffer, self.standing.version, 1),
            Field::Generation => push_decimal(buffer, self.standing.generation, 1),
            Field::Restarts => push_decimal(buffer, self.age / 5, 1),
            Field::Ready => buffer.extend_from_slice(if self.is_ready() { b"true" } else { b"false" }),
            Field::ReadyStatus => buffer.extend_from_slice(if self.is_ready() { b"True" } else { b"False" }),
            Field::Created => push_time(buffer, self.created),
            Field::Changed => push_time(buffer, self.created + 9 + self.age * 37),
            Field::Released => push_time(buffer, BEGINNING - below(self.group, 10_000_000)),
            Field::Tier => buffer.extend_from_slice(choose(self.number, &["web", "api", "data", "batch"])),
            Field::Memory => buffer.extend_from_slice(choose(self.group >> 8, &["128Mi", "256Mi", "512Mi", "1Gi"])),
            Field::Cpu => buffer.extend_from_slice(choose(self.group >> 16, &["50m", "100m", "250m", "500m"])),
            Field::Uid | Field::Owner | Field::ConfigSum | Field::ImageSum | Field::Container | Field::Machine => {
                self.write_hexadecimal(buffer, field);
            }
            Field::Release | Field::Volume | Field::Node => self.write_label(buffer, field),
            Field::HostAddress | Field::PodAddress | Field::ServiceAddress => self.write_address(buffer, field),
        }
    }

    fn is_ready(&self) -> bool {
        self.age % 4 != 3
    }

    fn write_name(&self, buffer: &mut Vec<u8>) {
        if self.identity.kind == Kind::NODES {
            return self.write_label(buffer, Field::Node);
        }
        buffer.extend_from_slice(self.application.name.as_bytes());
        if self.identity.kind == Kind::PODS || self.identity.kind == Kind::REPLICA_SETS {
            buffer.push(b'-');
            buffer.extend_from_slice(&revision(self.group));
        }
        if self.identity.kind == Kind::PODS {
            buffer.push(b'-');
            buffer.extend_from_slice(&pod_suffix(self.rank, self.group, self.slot, self.life));
        } else if self.many {
            buffer.push(b'-');
            push_decimal(buffer, self.rank, 4);
        }
    }

    fn write_hexadecimal(&self, buffer: &mut Vec<u8>, field: Field) {
        let life = mix(self.slot, self.life as u64 + 2);
        match field {
            Field::Uid if self.identity.kind == Kind::REPLICA_SETS && !self.many => {
                push_uid(buffer, mix(self.group, 5));
            }
            Field::Uid => push_uid(buffer, life),
            Field::Owner => push_uid(buffer, mix(self.group, 5)),
            Field::ConfigSum => push_sum(buffer, mix(self.group, 6)),
            // The same image wherever it runs.
            Field::ImageSum => push_sum(buffer, mix(self.number, self.minor() as u64 * 100 + self.patch() as u64)),
            Field::Container => push_sum(buffer, mix(life, self.age as u64 / 5)),
            _ => {
                push_hex(buffer, life, 16);
                push_hex(buffer, mix(life, 8), 16);
            }
        }
    }

    fn minor(&self) -> usize {
        below(self.number, 17)
    }

    fn patch(&self) -> usize {
        below(self.group >> 24, 3)
    }

    fn write_label(&self, buffer: &mut Vec<u8>, field: Field) {
        match field {
            Field::Release => {
                buffer.extend_from_slice(b"1.");
                push_decimal(buffer, self.minor(), 1);
                buffer.push(b'.');
                push_decimal(buffer, self.patch(), 1);
            }
            Field::Volume => buffer.extend_from_slice(&pod_suffix(0, self.slot, mix(self.slot, 9), self.life)),
            _ => {
                buffer.extend_from_slice(b"node-");
                push_decimal(buffer, self.node, 4);
            }
        }
    }

    fn write_address(&self, buffer: &mut Vec<u8>, field: Field) {
        let (second, number) = match field {
            Field::HostAddress => (0, self.node),
            // An address comes back when a pod was replaced some times.
            Field::PodAddress => (64 + self.life % 32 * 4, self.identity.index),
            _ => (32, self.identity.index),
        };
        buffer.extend_from_slice(b"10.");
        push_decimal(buffer, second + (number >> 16), 1);
        buffer.push(b'.');
        push_decimal(buffer, (number >> 8) & 255, 1);
        buffer.push(b'.');
        push_decimal(buffer, number & 255, 1);
    }
}

fn choose<'a>(random: u64, among: &[&'a str]) -> &'a [u8] {
    among.get(below(random, among.len())).copied().unwrap_or_default().as_bytes()
}

/// Spreads two numbers over all 64 bits (splitmix64).
pub(crate) fn mix(one: u64, other: u64) -> u64 {
    let mut bits = (one ^ other.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn push_uid(buffer: &mut Vec<u8>, random: u64) {
    let more = mix(random, 3);
    push_hex(buffer, random, 8);
    buffer.push(b'-');
    push_hex(buffer, random >> 32, 4);
    buffer.extend_from_slice(b"-4");
    push_hex(buffer, random >> 48, 3);
    buffer.extend_from_slice(b"-8");
    push_hex(buffer, more, 3);
    buffer.push(b'-');
    push_hex(buffer, more >> 12, 12);
}

fn push_sum(buffer: &mut Vec<u8>, random: u64) {
    for part in 0..4 {
        push_hex(buffer, mix(random, part), 16);
    }
}

fn push_time(buffer: &mut Vec<u8>, seconds: usize) {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    // Writing into a buffer can't fail.
    let _ = write!(buffer, "{}", time.unwrap_or(Timestamp::UNIX_EPOCH));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use indexer::raw::ObjectReader;
    use proptest::prelude::*;

    use super::*;

    fn world(pods: usize, others: usize) -> World {
        World::new(&Settings { pods, others, kinds: 10, ..Settings::default() }).unwrap()
    }

    proptest! {
        #[test]
        fn every_object_is_what_it_is_said_to_be(
            cluster in 0_usize..1000, kind in 0_usize..10, part in any::<prop::sample::Index>(), updates in 0_usize..100_000,
        ) {
            let (world, kind) = (world(500, 120), Kind(kind));
            let index = part.index(world.objects(kind));
            let identity = Identity { cluster, kind, index };
            let standing = world.standing(kind, index, updates);
            let mut buffer = b"{".to_vec();
            world.write(identity, standing, &mut buffer);
            buffer.push(b'}');
            let described = kind.description();
            let reader = ObjectReader::new(&"one".into(), &described.api_version(), described.kind);
            let read = reader.read(std::str::from_utf8(&buffer).unwrap()).unwrap();
            serde_json::from_slice::<serde_json::Value>(&buffer).unwrap();
            prop_assert_eq!(&read.name, &world.name(identity, standing));
            prop_assert_eq!(read.resource_version, standing.version as u64);
            prop_assert_eq!(!read.namespace.is_empty(), described.namespaced);
            if described.namespaced {
                prop_assert!(world.range(kind, Some(&read.namespace)).contains(&index));
                let label = |name: &str| read.labels.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
                prop_assert!(read.name.starts_with(&label("app").unwrap()));
                let hash = label("pod-template-hash");
                let named_after = hash.is_none_or(|hash| read.name.contains(&format!("-{hash}-")));
                prop_assert!(named_after);
            }
        }

        #[test]
        fn names_come_in_order_whatever_was_replaced(
            kind in 0_usize..10, cluster in 0_usize..9, others in 1_usize..300, updates in 0_usize..1_000_000,
        ) {
            let (world, kind) = (world(450, others), Kind(kind));
            let names: Vec<(usize, String)> = (0..world.objects(kind)).map(|index| {
                let namespace = if kind.description().namespaced { index / world.in_namespace(kind) } else { 0 };
                let identity = Identity { cluster, kind, index };
                (namespace, world.name(identity, world.standing(kind, index, updates)))
            }).collect();
            prop_assert!(names.is_sorted_by(|one, next| one < next));
        }
    }

    #[test]
    fn pods_look_like_pods_and_each_is_its_own() {
        let world = world(2000, 20);
        let mut seen = BTreeSet::new();
        let mut applications = BTreeSet::new();
        for (cluster, index) in (0..20).flat_map(|cluster| (0..2000).step_by(17).map(move |index| (cluster, index))) {
            let mut buffer = b"{".to_vec();
            world.write(
                Identity { cluster, kind: Kind::PODS, index },
                Standing { generation: 40, version: 7 },
                &mut buffer,
            );
            buffer.push(b'}');
            assert!((6000..8500).contains(&buffer.len()), "{}", buffer.len());
            let pod: serde_json::Value = serde_json::from_slice(&buffer).unwrap();
            assert!(seen.insert(pod["metadata"]["uid"].to_string()));
            assert!(seen.insert(pod["status"]["containerStatuses"][0]["containerID"].to_string()));
            applications.insert(pod["metadata"]["labels"]["app"].to_string());
        }
        assert!(applications.len() > 300, "{}", applications.len());
    }

    #[test]
    fn a_pod_is_replaced_once_in_its_life() {
        let world = world(40, 20);
        for index in 0..40 {
            let identity = Identity { cluster: 3, kind: Kind::PODS, index };
            let name = |generation| world.name(identity, Standing { generation, version: 1 });
            for generation in 1..100 {
                let renamed = name(generation) != name(generation - 1);
                assert_eq!(renamed, world.replaces(identity, generation), "{generation}");
            }
        }
    }
}
