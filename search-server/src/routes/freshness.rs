//! Lists that are not to be older than what their client has seen, from this server or another one.
//!
//! In: a cache and the least version. Out: a snapshot that has reached it, waited for as long as API servers wait.

use std::time::Duration;

use apiservice::error::ApiError;
use indexer::cache::{ResourceCache, Snapshot};
use indexer::resource::ClusterName;
use indexer::version::MergedVersion;
use tokio::time::{Instant, timeout_at};

use super::options::CacheOptions;

/// How long API servers wait for a version that they have not reached.
const PATIENCE: Duration = Duration::from_secs(3);

/// The state of the clusters that are asked for, not older than they want it.
///
/// # Errors
/// 504 in API servers' words if it stays older: clients then list again without a version.
pub(super) async fn snapshot(cache: &ResourceCache, options: &CacheOptions) -> Result<Snapshot, ApiError> {
    let clusters = options.clusters.as_ref();
    let snapshot = cache.snapshot(clusters);
    let Some(least) = options.least_version() else { return Ok(snapshot) };
    if snapshot.behind(&least).is_none() {
        return Ok(snapshot);
    }
    let (deadline, mut changes) = (Instant::now() + PATIENCE, cache.subscribe());
    loop {
        let has_news = timeout_at(deadline, changes.changed()).await.is_ok_and(|changed| changed.is_ok());
        let snapshot = cache.snapshot(clusters);
        match snapshot.behind(&least) {
            None => return Ok(snapshot),
            Some(cluster) if !has_news => return Err(too_large(cluster, &least, &snapshot)),
            Some(_) => {}
        }
    }
}

fn too_large(cluster: &ClusterName, least: &MergedVersion, snapshot: &Snapshot) -> ApiError {
    let reached = snapshot.parts.get(cluster).and_then(|part| part.version.as_deref()).unwrap_or_default();
    let wanted = least.get(cluster).unwrap_or_default();
    ApiError::too_large_resource_version(format!(
        "Too large resource version: {wanted}, current: {reached}, of cluster {cluster}"
    ))
}
