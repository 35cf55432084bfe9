//! Documents of one moment, page by page: a point in time, which may be gone back to, and walks over what meets a condition then.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use opensearch::http::Method;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{ReadError, Reader};
use crate::backend::BackendError;
use crate::backend::client::Request;

/// Documents asked for at once, at first and at most, and about how many bytes of objects they are to have.
const AT_ONCE: (usize, usize) = (50, 2_000);
const BYTES: usize = 8 << 20;
/// How long OpenSearch keeps a moment that nobody asks about.
const KEPT: &str = "5m";

/// Moments kept for further pages; OpenSearch's own limit is 300 a node.
const MOST_KEPT: usize = 32;

/// What is read of a document.
#[derive(Debug, Deserialize)]
pub(super) struct Source {
    pub(super) cluster: String,
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
    pub(super) resource: String,
    #[serde(default)]
    pub(super) namespace: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) object: Option<Box<RawValue>>,
}

const READ: [&str; 8] = ["cluster", "group", "version", "kind", "resource", "namespace", "name", "object"];

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    pit_id: Option<String>,
    hits: Hits,
    #[serde(default)]
    aggregations: Value,
    #[serde(rename = "_shards")]
    shards: Shards,
    timed_out: bool,
}

#[derive(Debug, Deserialize)]
struct Shards {
    failed: u64,
}

#[derive(Debug, Deserialize)]
struct Hits {
    #[serde(default)]
    total: Option<Total>,
    hits: Vec<FoundDocument>,
}

#[derive(Debug, Deserialize)]
struct Total {
    value: u64,
}

#[derive(Debug, Deserialize)]
struct FoundDocument {
    #[serde(rename = "_index", default)]
    index: String,
    #[serde(rename = "_source")]
    source: Source,
    #[serde(default)]
    sort: Vec<Value>,
}

/// The documents of a backend as they are at one moment.
pub(super) struct Moment {
    reader: Arc<Reader>,
    id: String,
    /// Whether it was begun here: what a client names is another server's, or nobody's, and is not ours to close.
    is_own: bool,
    knows_paths: bool,
}

/// Moments that somebody may ask about again, the oldest first: no more than OpenSearch has room for beside those of others.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<VecDeque<String>>);

impl Kept {
    /// Remembers one more; the one to be closed for it, if there are too many.
    fn keep(&self, id: &str) -> Option<String> {
        let mut kept = self.0.lock();
        kept.push_back(id.to_owned());
        if kept.len() > MOST_KEPT { kept.pop_front() } else { None }
    }

    /// Whether it was there.
    fn forget(&self, id: &str) -> bool {
        let mut kept = self.0.lock();
        let before = kept.len();
        kept.retain(|kept| kept != id);
        kept.len() < before
    }
}

/// Documents in an order, a page at a time.
pub(super) struct Walk {
    query: Value,
    sort: Value,
    behind: Option<Vec<Value>>,
    is_done: bool,
    at_once: usize,
    /// How many there are in all, where that is asked for.
    total: Option<u64>,
}

impl Moment {
    /// One that was kept. Whether it is still known is seen when it is asked about.
    pub(super) async fn again(reader: &Arc<Reader>, id: &str) -> Result<Self, ReadError> {
        let is_own = reader.kept.forget(id);
        let knows_paths = reader.knows_paths().await?;
        Ok(Self { reader: Arc::clone(reader), id: id.to_owned(), is_own, knows_paths })
    }

    /// The present one; none if nothing was ever written.
    pub(super) async fn begin(reader: &Arc<Reader>) -> Result<Option<Self>, ReadError> {
        #[derive(Deserialize)]
        struct Begun {
            pit_id: String,
        }
        let path = format!("{}/_search/point_in_time", reader.alias);
        let parameters = [("keep_alive", KEPT), ("allow_partial_pit_creation", "false")];
        match reader.client.ask::<Begun>(Request::new(Method::Post, &path).with(&parameters)).await {
            Ok(begun) => {
                let mut moment =
                    Self { reader: Arc::clone(reader), id: begun.pit_id, is_own: true, knows_paths: false };
                moment.knows_paths = reader.knows_paths().await?;
                Ok(Some(moment))
            }
            Err(error) if error.status() == Some(404) && error.to_string().contains("index_not_found_exception") => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whose moment it is.
    pub(super) fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// Keeps it for whoever asks about it again soon, by the name that is given out.
    pub(super) fn keep(mut self) -> String {
        let id = std::mem::take(&mut self.id);
        if self.is_own
            && let Some(oldest) = self.reader.kept.keep(&id)
        {
            // Which closes it.
            let reader = Arc::clone(&self.reader);
            drop(Self { reader, id: oldest, is_own: true, knows_paths: self.knows_paths });
        }
        id
    }

    /// Whether flat objects can be asked whether a path is there.
    pub(super) fn knows_paths(&self) -> bool {
        self.knows_paths
    }

    async fn ask(&mut self, mut body: Value) -> Result<Answer, ReadError> {
        body["pit"] = json!({ "id": self.id, "keep_alive": KEPT });
        let answer: Answer = self.reader.client.ask(Request::new(Method::Post, "_search").json(&body)).await?;
        if answer.shards.failed > 0 || answer.timed_out {
            let text = format!("{} shards gave no answer", answer.shards.failed);
            return Err(BackendError::Unsuitable(text).into());
        }
        if let Some(id) = &answer.pit_id {
            self.id.clone_from(id);
        }
        Ok(answer)
    }

    /// How many documents a query takes.
    pub(super) async fn count(&mut self, query: &Value) -> Result<u64, ReadError> {
        let body = json!({ "size": 0, "track_total_hits": true, "query": query });
        Ok(self.ask(body).await?.hits.total.map_or(0, |total| total.value))
    }

    /// What aggregations say of the documents that a query takes.
    pub(super) async fn aggregate(&mut self, query: &Value, aggregations: &Value) -> Result<Value, ReadError> {
        let body = json!({ "size": 0, "track_total_hits": false, "query": query, "aggs": aggregations });
        Ok(self.ask(body).await?.aggregations)
    }
}

impl Drop for Moment {
    /// Tells OpenSearch that nobody asks about it any more. If that fails, it forgets by itself.
    fn drop(&mut self) {
        let (reader, id) = (Arc::clone(&self.reader), std::mem::take(&mut self.id));
        if id.is_empty() || !self.is_own {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let request = Request::new(Method::Delete, "_search/point_in_time").json(&json!({ "pit_id": [id] }));
            if let Err(error) = reader.client.ask::<Value>(request).await {
                tracing::debug!(%error, "a point in time was not closed");
            }
        });
    }
}

impl Walk {
    /// Over what a query takes, in any order.
    pub(super) fn new(query: Value) -> Self {
        let by = ["cluster", "group", "resource", "namespace", "name"];
        Self::sorted(query, json!(by.map(|name| json!({ name: { "order": "asc", "missing": "_first" } }))))
    }

    /// Over what a query takes, in an order.
    pub(super) fn sorted(query: Value, sort: Value) -> Self {
        Self { query, sort, behind: None, is_done: false, at_once: AT_ONCE.0, total: None }
    }

    /// The same walk, which also counts with its first page what there is.
    pub(super) fn counted(self) -> Self {
        Self { total: Some(0), ..self }
    }

    /// What was counted.
    pub(super) fn total(&self) -> u64 {
        self.total.unwrap_or_default()
    }

    /// At most so many of the next ones; none if there are no more.
    pub(super) async fn next(&mut self, moment: &mut Moment, most: usize) -> Result<Option<Vec<Source>>, ReadError> {
        let size = most.min(self.at_once);
        if self.is_done || size == 0 {
            return Ok(None);
        }
        let mut body = json!({
            "size": size,
            "track_total_hits": self.total.is_some() && self.behind.is_none(),
            "_source": READ,
            "query": self.query,
            "sort": self.sort,
        });
        if let Some(behind) = &self.behind {
            body["search_after"] = json!(behind);
        }
        let Hits { total, mut hits } = moment.ask(body).await?.hits;
        if let (Some(total), Some(known)) = (total, &mut self.total) {
            *known = total.value.max(*known);
        }
        // A moment that a client names may be one of other indices.
        let own = format!("{}-", moment.reader.alias);
        if let Some(other) = hits.iter().find(|hit| !hit.index.starts_with(&own)) {
            return Err(BackendError::Unsuitable(format!("the moment is one of the index {}", other.index)).into());
        }
        let bytes = hits.iter().filter_map(|hit| Some(hit.source.object.as_ref()?.get().len())).sum::<usize>();
        if let Some(each) = bytes.checked_div(hits.len()) {
            self.at_once = (BYTES / each.max(1)).clamp(1, AT_ONCE.1);
        }
        self.is_done = hits.len() < size;
        self.behind = hits.last_mut().map(|last| std::mem::take(&mut last.sort));
        Ok((!hits.is_empty()).then(|| hits.into_iter().map(|hit| hit.source).collect()))
    }
}

/// Whether time is up.
pub(super) fn is_late(deadline: Instant) -> bool {
    Instant::now() >= deadline
}
