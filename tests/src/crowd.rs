//! Many pods of many clusters, put into a cache without any server: as API servers keep them, made from a seed, with what makes
//! each differ: unique ids, container ids, addresses, times.

use std::sync::Arc;

use anyhow::Result;
use indexer::cache::{Cache, PreparedChange};
use indexer::raw::ObjectReader;
use indexer::resource::{ApiResource, GroupVersionResource};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::workloads::Application;

/// What they are.
pub fn resource() -> ApiResource {
    ApiResource {
        gvr: GroupVersionResource::new("", "v1", "pods"),
        kind: "Pod".into(),
        namespaced: true,
        watchable: true,
    }
}

/// The clusters' names.
pub fn cluster(number: usize) -> String {
    format!("cluster-{number:04}")
}

/// What an API server and kubelets add to a pod.
fn lived_in(mut pod: Value, random: &mut StdRng, version: usize) -> Value {
    let mut hex = |digits: usize| (0..digits).map(|_| format!("{:x}", random.random_range(0..16))).collect::<String>();
    let suffix = format!("{}-{}", hex(10), hex(5));
    let uid = format!("{}-{}-4{}-8{}-{}", hex(8), hex(4), hex(3), hex(3), hex(12));
    for status in pod["status"]["containerStatuses"].as_array_mut().into_iter().flatten() {
        status["containerID"] = json!(format!("containerd://{}", hex(64)));
    }
    let seconds = 1_750_000_000 + random.random_range(0..20_000_000);
    let created = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH).to_string();
    let address = format!("10.{}.{}.{}", random.random::<u8>(), random.random::<u8>(), random.random::<u8>());
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    pod["metadata"]["name"] = json!(format!("{name}-{suffix}"));
    pod["metadata"]["uid"] = json!(uid);
    pod["metadata"]["creationTimestamp"] = json!(created);
    pod["metadata"]["resourceVersion"] = json!(version.to_string());
    pod["metadata"]["labels"]["pod-template-hash"] = json!(&suffix[..10]);
    pod["status"]["podIP"] = json!(address);
    pod["status"]["podIPs"] = json!([{ "ip": address }]);
    pod["status"]["startTime"] = json!(created);
    pod
}

/// Fills a cache with so many of them, spread over so many clusters.
///
/// # Errors
/// If one can't be made.
pub fn fill(cache: &Arc<Cache>, objects: usize, clusters: usize) -> Result<()> {
    let bar = ProgressBar::new(objects as u64);
    bar.set_style(ProgressStyle::with_template("making pods: {pos}/{len}, {elapsed}, {eta} left {wide_bar}")?);
    let mut random = StdRng::seed_from_u64(7);
    let served = resource();
    let mut made = 0;
    for cluster in 0..clusters {
        let name = self::cluster(cluster);
        let mut writer = cache.open(&served.gvr).writer(&name.as_str().into(), &served);
        let reader = ObjectReader::new(&name.as_str().into(), "v1", "Pod");
        let mut listed = indexer::entry::Entries::new();
        for number in 0..objects / clusters {
            let application = (number / 20 * 7 + cluster * 3) % 997;
            let application =
                Application { number: application, namespace: format!("space-{:03}", application / 10), pods: 20 };
            let pod = lived_in(application.pod(number % 20), &mut random, made + 1);
            listed.insert(writer.prepare(reader.read(&pod.to_string())?)?);
            made += 1;
        }
        writer.apply(listed.iter().cloned().map(PreparedChange::Upsert));
        writer.finish_list(&listed, made.to_string().into());
        bar.inc((objects / clusters) as u64);
    }
    bar.finish_and_clear();
    Ok(())
}
