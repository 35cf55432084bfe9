//! Items that the backend refused because it has something of a later version.
//!
//! Most often another writer was faster, and what the cache learns a moment later is the same. But a cluster that was restored
//! from a backup, or another one that took over its name, counts its versions from an earlier one on: then what the backend has
//! is of the past, and has to give way. So after a while the document is looked at: if it is not as the cache still holds the
//! object, and the cache is in touch with the cluster, then it is written over.

use std::collections::HashMap;
use std::time::Duration;

use opensearch::http::Method;
use serde::Deserialize;
use serde_json::json;

use super::BackendError;
use super::bulk::Sources;
use super::client::{Client, Request};
use super::queue::Item;

/// How long another writer's knowledge may take to get here, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// Looks after which it is certain that the cache doesn't come to what the backend has.
const CERTAIN: u32 = 2;
/// Items looked at in one request.
pub(super) const AT_ONCE: usize = 500;

/// How long an item waits before it is looked at.
pub(super) fn pause(conflicts: u32) -> Duration {
    PAUSE.0.saturating_mul(2_u32.saturating_pow(conflicts.min(8))).min(PAUSE.1)
}

/// What has to be done with items that were refused.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Written over, with at least the version that each carries; and by how much the versions of its collection went back.
    pub(super) overwrite: Vec<(Item, u64)>,
    /// Looked at again later: the cache doesn't know.
    pub(super) later: Vec<Item>,
    /// As they should be.
    pub(super) settled: Vec<Item>,
}

#[derive(Deserialize)]
struct Answer {
    docs: Vec<Stored>,
}

#[derive(Deserialize)]
struct Stored {
    #[serde(rename = "_id")]
    id: String,
    #[serde(default)]
    found: bool,
    #[serde(rename = "_version", default)]
    version: u64,
    #[serde(rename = "_source", default)]
    source: StoredSource,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StoredSource {
    state: String,
}

/// Looks at what the backend has.
pub(super) async fn judge(
    client: &Client,
    alias: &str,
    sources: &Sources,
    items: Vec<Item>,
) -> Result<Verdict, (Vec<Item>, BackendError)> {
    let stored = match stored(client, alias, &items).await {
        Ok(stored) => stored,
        Err(error) => return Err((items, error)),
    };
    let mut verdict = Verdict::default();
    for item in items {
        let document = stored.get(&*item.id).filter(|document| document.found);
        match (sources.present(&item), document) {
            _ if !sources.is_in_touch(&item.collection) => verdict.later.push(item),
            (Some((state, _)), Some(document)) if document.source.state == state => verdict.settled.push(item),
            (None, None) => verdict.settled.push(item),
            // What is newer may be what another writer knows already, and we a moment later.
            (_, Some(_)) if item.conflicts < CERTAIN => verdict.later.push(item),
            (Some((_, version)), Some(document)) => {
                let at_least = document.version.max(item.at_least).saturating_add(1);
                verdict.overwrite.push((Item { at_least, ..item }, at_least.saturating_sub(version)));
            }
            // The refusal named the version of the deletion. One that nobody told of is one ahead, and says nothing of others.
            (Some((_, version)), None) => {
                let raised = Some(item.at_least.saturating_sub(version)).filter(|raised| *raised > 1);
                verdict.overwrite.push((item, raised.unwrap_or_default()));
            }
            (None, Some(document)) => {
                verdict.overwrite.push((Item { deleted: Some(document.version), at_least: 0, ..item }, 0));
            }
        }
    }
    Ok(verdict)
}

async fn stored(client: &Client, alias: &str, items: &[Item]) -> Result<HashMap<String, Stored>, BackendError> {
    let path = format!("{alias}/_mget");
    let ids: Vec<&str> = items.iter().map(|item| &*item.id).collect();
    let request = Request::new(Method::Post, &path).with(&[("_source_includes", "state")]).json(&json!({ "ids": ids }));
    let answer: Answer = client.ask(request).await?;
    Ok(answer.docs.into_iter().map(|document| (document.id.clone(), document)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_up_to_a_minute() {
        let pauses: Vec<u64> = (0..6).map(|conflicts| pause(conflicts).as_secs()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        assert_eq!(pause(u32::MAX).as_secs(), 60);
    }
}
