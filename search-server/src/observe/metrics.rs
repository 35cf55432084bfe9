//! What is held and how well it follows the clusters, for `/metrics`.
//!
//! Nothing is counted here: the cache and the supervisor are asked when somebody scrapes. A (cluster, resource) that is no
//! longer followed is no longer in the answer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indexer::backend::Backends;
use indexer::cache::{Cache, Part, ResourceCache};
use indexer::disk::Disk;
use indexer::index::Index;
use indexer::member::MemberHealth;
use indexer::supervise::Overview;
use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;

use super::backends::Written;
use super::disk::Kept;
use super::index::Indexed;

/// Requests for one name, by whether it was held.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lookups {
    counted: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Lookups {
    /// A name was asked for.
    pub(crate) fn count(&self, found: bool) {
        let result = if found { "hit" } else { "miss" };
        self.counted.get_or_create(&[("result", result)]).inc();
    }
}

/// Queries and counts, by what answered them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answered {
    counted: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Answered {
    /// The cache answered.
    pub(crate) fn by_cache(&self) {
        self.counted.get_or_create(&[("by", "cache")]).inc();
    }

    /// A backend answered.
    pub(crate) fn by_backend(&self) {
        self.counted.get_or_create(&[("by", "backend")]).inc();
    }
}

/// What is counted while requests are answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counted {
    /// Who asked for what by name.
    pub(crate) lookups: Lookups,
    /// What answered queries.
    pub(crate) answered: Answered,
}

/// What is asked when somebody scrapes.
pub(crate) struct Sources {
    pub(crate) cache: Arc<Cache>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) index: Arc<Index>,
    pub(crate) backends: Arc<Backends>,
    pub(crate) overview: watch::Receiver<Arc<Overview>>,
}

/// Adds the program's own metrics.
pub(crate) fn register(registry: &mut Registry, sources: Sources, counted: &Counted) {
    let Sources { cache, disk, index, backends, overview } = sources;
    let help = "Requests for one name, by whether any cluster's object was held";
    registry.register("fleetglass_cache_lookups", help, counted.lookups.counted.clone());
    let help = "Queries and counts, by what answered them";
    registry.register("fleetglass_search_answers", help, counted.answered.counted.clone());
    registry.register_collector(Box::new(Indexed { index, cache: Arc::clone(&cache) }));
    registry.register_collector(Box::new(Kept { disk }));
    registry.register_collector(Box::new(Written { backends }));
    registry.register_collector(Box::new(Followed { cache, overview }));
    registry.register_collector(Box::new(Process));
}

struct Followed {
    cache: Arc<Cache>,
    overview: watch::Receiver<Arc<Overview>>,
}

impl fmt::Debug for Followed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Followed")
    }
}

type Labels<'a> = [(&'static str, &'a str); 4];

/// One number that each (cluster, resource) has.
struct PartMetric {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: fn(&Part) -> f64,
}

#[expect(clippy::cast_precision_loss, reason = "numbers of objects and bytes are far below what a float counts")]
const fn float(number: u64) -> f64 {
    number as f64
}

fn counted(counter: &AtomicU64) -> f64 {
    float(counter.load(Ordering::Relaxed))
}

const PART_METRICS: [PartMetric; 10] = [
    PartMetric {
        name: "fleetglass_objects",
        help: "Objects held",
        kind: MetricType::Gauge,
        value: |part| float(part.objects.len() as u64),
    },
    PartMetric {
        name: "fleetglass_object_bytes",
        help: "Bytes of objects as they are kept, compressed",
        kind: MetricType::Gauge,
        value: |part| float(part.size.compressed),
    },
    PartMetric {
        name: "fleetglass_object_raw_bytes",
        help: "Bytes of objects as the cluster wrote them",
        kind: MetricType::Gauge,
        value: |part| float(part.size.raw),
    },
    PartMetric {
        name: "fleetglass_synced",
        help: "Whether a whole list was taken and nothing failed since",
        kind: MetricType::Gauge,
        value: |part| float(u64::from(part.sync.synced && part.sync.failure.is_none())),
    },
    PartMetric {
        name: "fleetglass_lag_seconds",
        help: "Time for which the cluster could not be followed, 0 while it is",
        kind: MetricType::Gauge,
        value: lag,
    },
    PartMetric {
        name: "fleetglass_changes",
        help: "Objects written or deleted",
        kind: MetricType::Counter,
        value: |part| counted(&part.traffic.changes),
    },
    PartMetric {
        name: "fleetglass_lists",
        help: "Whole lists taken in",
        kind: MetricType::Counter,
        value: |part| counted(&part.traffic.lists),
    },
    PartMetric {
        name: "fleetglass_watch_starts",
        help: "Watches begun; all but the first are restarts",
        kind: MetricType::Counter,
        value: |part| counted(&part.traffic.watches),
    },
    PartMetric {
        name: "fleetglass_watch_failures",
        help: "Lists and watches that failed",
        kind: MetricType::Counter,
        value: |part| counted(&part.traffic.failures),
    },
    PartMetric {
        name: "fleetglass_refused_objects",
        help: "Objects that could not be taken",
        kind: MetricType::Counter,
        value: |part| counted(&part.traffic.refused),
    },
];

fn lag(part: &Part) -> f64 {
    let since = part.sync.failure.as_ref().map(|failure| failure.since);
    since.map_or(0.0, |since| Timestamp::now().duration_since(since).as_secs_f64().max(0.0))
}

impl Collector for Followed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let caches = self.cache.all();
        let snapshots: Vec<_> = caches.iter().map(|cache| (cache, cache.snapshot(None))).collect();
        for metric in &PART_METRICS {
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, metric.kind)?;
            for (cache, snapshot) in &snapshots {
                for (cluster, part) in &snapshot.parts {
                    let labels = part_labels(cache, cluster.as_str());
                    write(metric.kind, (metric.value)(part), family.encode_family(&labels)?)?;
                }
            }
        }
        let help = "Changes kept for watches and other followers to catch up with";
        let mut family = encoder.encode_descriptor("fleetglass_change_queue_length", help, None, MetricType::Gauge)?;
        for cache in &caches {
            let resource = cache.resource();
            let labels =
                [("group", &*resource.group), ("version", &*resource.version), ("resource", &*resource.resource)];
            let length = float(cache.feed_length() as u64);
            write(MetricType::Gauge, length, family.encode_family(&labels)?)?;
        }
        self.encode_clusters(encoder)
    }
}

impl Followed {
    fn encode_clusters(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let overview = self.overview.borrow().clone();
        let help = "Whether a cluster's source calls it ready and it answers";
        let mut family = encoder.encode_descriptor("fleetglass_cluster_ready", help, None, MetricType::Gauge)?;
        for (name, member) in &overview.members.members {
            let is_ready = !matches!(member.health, MemberHealth::NotReady { .. });
            let answers = !overview.unreachable.contains_key(name);
            let labels = [("cluster", name.as_str())];
            write(MetricType::Gauge, float(u64::from(is_ready && answers)), family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn part_labels<'a>(cache: &'a ResourceCache, cluster: &'a str) -> Labels<'a> {
    let resource = cache.resource();
    [("cluster", cluster), ("group", &resource.group), ("version", &resource.version), ("resource", &resource.resource)]
}

fn write(
    kind: MetricType,
    value: f64,
    encoder: prometheus_client::encoding::MetricEncoder<'_>,
) -> Result<(), fmt::Error> {
    match kind {
        MetricType::Counter => ConstCounter::new(value).encode(encoder),
        _ => ConstGauge::new(value).encode(encoder),
    }
}

/// Memory, processor and files of this process, under the names that all Prometheus clients use.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // Only Linux tells; elsewhere there is nothing to add.
        let Some(facts) = process_facts() else { return Ok(()) };
        for (name, help, unit, kind, value) in facts {
            let family = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
            write(kind, value, family)?;
        }
        Ok(())
    }
}

type Fact = (&'static str, &'static str, Option<Unit>, MetricType, f64);

fn process_facts() -> Option<[Fact; 6]> {
    let this = procfs::process::Process::myself().ok()?;
    let stat = this.stat().ok()?;
    let ticks = float(procfs::ticks_per_second());
    let open = this.fd_count().ok()? as u64;
    let limit = this.limits().ok()?.max_open_files.soft_limit;
    let limit = match limit {
        procfs::process::LimitValue::Value(limit) => float(limit),
        procfs::process::LimitValue::Unlimited => f64::INFINITY,
    };
    let boot = float(procfs::boot_time_secs().ok()?);
    let pages = float(procfs::page_size());
    Some([
        (
            "process_cpu",
            "Processor time used",
            Some(Unit::Seconds),
            MetricType::Counter,
            float(stat.utime + stat.stime) / ticks,
        ),
        ("process_resident_memory", "Resident memory", Some(Unit::Bytes), MetricType::Gauge, float(stat.rss) * pages),
        ("process_virtual_memory", "Virtual memory", Some(Unit::Bytes), MetricType::Gauge, float(stat.vsize)),
        (
            "process_start_time",
            "When the process began, since 1970",
            Some(Unit::Seconds),
            MetricType::Gauge,
            boot + float(stat.starttime) / ticks,
        ),
        ("process_open_fds", "Open files and sockets", None, MetricType::Gauge, float(open)),
        ("process_max_fds", "Most open files and sockets", None, MetricType::Gauge, limit),
    ])
}
