//! Member clusters that aren't there: one process answers as a thousand API servers would, with objects that it makes from a seed.
//!
//! In: how many clusters and objects, how often these change, and what ails a cluster. Out: lists, watches and discovery as
//! kube-apiservers give them, made while they are read. No object is ever held, so that the memory that is measured beside it
//! is that of the reader.
//!
//! - [`schedule`], [`names`], [`template`] and [`world`] say what there is: pure functions of the seed and the number of updates.
//! - [`state`] is all that is kept of a cluster; [`collection`], [`list`] and [`watch`] make answers of both.
//! - [`cluster`] and [`control`] answer requests; [`serve`] is the listener; [`process`] runs it all beside a test.

mod answer;
mod cluster;
mod collection;
mod control;
mod counters;
mod discovery;
mod fault;
mod kinds;
mod kubeconfig;
mod list;
mod names;
pub mod process;
mod request;
mod schedule;
mod serve;
mod state;
mod template;
#[cfg(test)]
mod tests;
mod watch;
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use clap::builder::RangedU64ValueParser;

pub use counters::Counters;
pub use fault::Fault;
pub use process::SimulatedMembers;
pub use serve::Members;

use collection::{Collection, Form};
use kinds::Kind;
use world::World;

/// What is simulated.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Clusters
    #[arg(long, default_value_t = 1000, value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000))]
    pub clusters: usize,
    /// Pods of each cluster
    #[arg(long, default_value_t = 2000, value_parser = RangedU64ValueParser::<usize>::new().range(1..=200_000))]
    pub pods: usize,
    /// Kinds of objects: pods, deployments, services, configmaps, nodes, replicasets, statefulsets, daemonsets, jobs, ingresses
    #[arg(long, default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=10))]
    pub kinds: usize,
    /// Objects of each kind that isn't pods, of each cluster
    #[arg(long, default_value_t = 20, value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000))]
    pub others: usize,
    /// How often in a second one of a cluster's pods is updated
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub updates_per_second: f64,
    /// How many updates of a cluster its watches may go back
    #[arg(long, default_value_t = 100_000)]
    pub history: usize,
    /// What all objects are made from
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { clusters: 1000, pods: 2000, kinds: 1, others: 20, updates_per_second: 0.0, history: 100_000, seed: 7 }
    }
}

/// How many pods, and how many bytes of JSON, one thread makes in a second.
///
/// # Errors
/// If a template can't be read.
pub fn measure(settings: &Settings) -> Result<(f64, f64)> {
    let world = Arc::new(World::new(settings)?);
    let (begun, mut pods, mut bytes) = (Instant::now(), 0, 0);
    for cluster in (0..settings.clusters).cycle() {
        let collection = Collection::new(&world, cluster, Kind::PODS, None);
        bytes += collection.objects(0..settings.pods, 1000, Form::Items).map(|chunk| chunk.len()).sum::<usize>();
        pods += settings.pods;
        if begun.elapsed() > Duration::from_secs(3) {
            break;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok((pods as f64 / seconds, bytes as f64 / seconds))
}

/// Kinds that a member may have, as registries name them.
pub const KINDS: [&str; 10] = [
    "v1/Pod",
    "apps/v1/Deployment",
    "v1/Service",
    "v1/ConfigMap",
    "v1/Node",
    "apps/v1/ReplicaSet",
    "apps/v1/StatefulSet",
    "apps/v1/DaemonSet",
    "batch/v1/Job",
    "networking.k8s.io/v1/Ingress",
];
