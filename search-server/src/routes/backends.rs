//! Answers out of backends: from what the servers wrote there that follow clusters.
//!
//! In: the backends that can be read, and the reports of those servers. Out: pages and counts for `search/query` and
//! `search/facets`, and lists for `search/cache`, which are read while they are written out. What needs a cache – watches,
//! differences, explanations – is refused here.

use std::sync::Arc;

use apiservice::error::ApiError;
use apiservice::table::TableMeta;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::HeaderMap;
use indexer::backend::Readers;
use indexer::backend::reading::choice;
use indexer::backend::reading::{BackendAnswers, BackendListing, ListedObject, VerifiedAnswers};
use indexer::backend::reports::Reports;
use indexer::search::{Answers, Cached, Scope, Unavailable};
use indexer::supervise::Overview;
use indexer::version::ContinueToken;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::body::{Render, Verbatim};
use super::list::{Asked, json, kind_of, respond, wants_table};
use super::table::Rows;
use super::{SearchState, warning};

/// Chunks are given out when they reach this size.
const CHUNK: usize = 128 << 10;

/// Objects of a page at most: it is held until its token is known. `continue` brings the rest.
const MOST_AT_ONCE: usize = 2_000;

/// Where answers come from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// The cache; queries also from the backends of registries that want it, while these have all that is asked for.
    Cache { backends: watch::Receiver<Readers> },
    /// Backends alone.
    Backends(BackendSource),
}

/// Backends, and what is told of the clusters in them.
#[derive(Debug, Clone)]
pub(crate) struct BackendSource {
    pub(crate) readers: watch::Receiver<Readers>,
    pub(crate) reports: watch::Receiver<Arc<Reports>>,
}

impl Source {
    /// Refuses what only a cache can answer.
    pub(super) fn check_cache(&self, what: &str) -> Result<(), ApiError> {
        match self {
            Self::Cache { .. } => Ok(()),
            Self::Backends(_) => Err(ApiError::bad_request(format!(
                "{what} needs a server that holds the objects (--store=cache); this one reads them from backends"
            ))),
        }
    }
}

impl Source {
    /// Tells what is missing from an answer.
    pub(super) fn warn(&self, headers: &mut HeaderMap) {
        if let Self::Backends(source) = self {
            source.warn(headers);
        }
    }
}

impl BackendSource {
    /// What the reports tell of clusters, in the form that those have it who follow them.
    pub(crate) fn overview(&self, closing: &CancellationToken) -> watch::Receiver<Arc<Overview>> {
        let (sender, receiver) = watch::channel(Arc::default());
        let mut reports = self.reports.clone();
        tokio::spawn(closing.clone().run_until_cancelled_owned(async move {
            loop {
                let overview = reports.borrow_and_update().overview();
                sender.send_replace(Arc::new(overview));
                if reports.changed().await.is_err() {
                    return;
                }
            }
        }));
        receiver
    }

    fn present(&self) -> Result<Readers, ApiError> {
        let readers = self.readers.borrow().clone();
        if !readers.is_loaded {
            return Err(ApiError::unavailable("registries have not been read yet, try again"));
        }
        if readers.readers.is_empty()
            && let Some((name, problem)) = readers.problems.first()
        {
            return Err(ApiError::unavailable(format!("the backend {name} can't be read: {problem}")));
        }
        Ok(readers)
    }

    /// Tells which backends are missing from an answer.
    fn warn(&self, headers: &mut HeaderMap) {
        let readers = self.readers.borrow().clone();
        for (name, problem) in readers.problems.iter() {
            warning::append(headers, &format!("the backend {name} can't be read, its objects are missing: {problem}"));
        }
        if let Some(problem) = &self.reports.borrow().problem {
            warning::append(headers, &format!("how well clusters are followed can't be read: {problem}"));
        }
        if readers.is_loaded && readers.readers.is_empty() && readers.problems.is_empty() {
            warning::append(headers, "no registry sends objects to a backend, so there is nothing to read");
        }
    }
}

pub(super) fn unavailable(error: &Unavailable) -> ApiError {
    ApiError::unavailable(error.to_string())
}

impl SearchState {
    /// Who answers a query.
    pub(super) fn answers(&self, scope: &Scope) -> Result<Arc<dyn Answers>, ApiError> {
        let runtime = tokio::runtime::Handle::current();
        match &self.source {
            Source::Backends(source) => Ok(Arc::new(BackendAnswers::new(source.present()?.readers, runtime))),
            Source::Cache { backends } => {
                let readers = backends.borrow().clone();
                let (overview, statuses) = (self.overview(), self.backends.statuses());
                let chosen = choice::choose(scope, &self.cache, &overview.plan, &readers, &statuses);
                match chosen.and_then(|reader| readers.readers.get(reader)) {
                    Some(reader) => Ok(Arc::new(VerifiedAnswers {
                        proposed: BackendAnswers::new(Arc::new(vec![Arc::clone(reader)]), runtime),
                        cache: Arc::clone(&self.cache),
                    })),
                    None => Ok(Arc::new(self.cached())),
                }
            }
        }
    }

    /// The cache, to be asked where a backend fails; none if there is nothing in it.
    pub(super) fn instead(&self) -> Option<Arc<dyn Answers>> {
        matches!(self.source, Source::Cache { .. }).then(|| Arc::new(self.cached()) as Arc<dyn Answers>)
    }

    fn cached(&self) -> Cached {
        Cached { cache: Arc::clone(&self.cache), index: Arc::clone(&self.index) }
    }
}

/// Answers a list of one resource.
pub(super) async fn list(
    state: &SearchState,
    source: &BackendSource,
    headers: &HeaderMap,
    asked: &Asked,
) -> Result<Response, ApiError> {
    if asked.options.list.watch && asked.name.is_none() {
        state.source.check_cache("watching")?;
    }
    if asked.options.order.is_some() {
        state.source.check_cache("sorting")?;
    }
    let readers = source.present()?.readers;
    if !source.reports.borrow().is_loaded {
        return Err(ApiError::unavailable("it is not known yet which clusters are followed, try again"));
    }
    let kind = kind_of(state, &asked.resource)?;
    let query = asked.query(&kind);
    let notices = source.reports.borrow().notices(query.clusters.as_ref(), Some(&asked.resource));
    let is_filtered = query.is_filtered();
    let position = asked.options.position();
    let after = position.as_ref().zip(asked.options.page.as_ref().map(|token| &token.moments));
    let listing = BackendListing::begin(&readers, &asked.resource, query, after).await;
    let listing = listing.map_err(|error| unavailable(&error))?;
    let (metadata, objects) = choose(listing, asked, is_filtered).await?;
    let body = if wants_table(headers) {
        let rows = Rows::with_columns(&asked.resource, &kind, &[], asked.options.include_object);
        let head = apiservice::table::open(&metadata, rows.columns())?;
        streamed(head, objects, rows, apiservice::table::CLOSE)
    } else {
        let head = format!(
            r#"{{"kind":{},"apiVersion":{},"metadata":{},"items":["#,
            json(&format!("{kind}List")),
            json(&asked.resource.api_version()),
            json(&metadata),
        );
        streamed(head, objects, Verbatim, "]}\n")
    };
    let mut response = respond(body, &notices);
    if asked.resource.group.is_empty() && &*asked.resource.resource == "secrets" {
        warning::append(response.headers_mut(), "backends hold no data of Secrets: their metadata is shown");
    }
    source.warn(response.headers_mut());
    Ok(response)
}

/// A page, where one was asked for: its token stands before its objects. Else all.
async fn choose(mut listing: BackendListing, asked: &Asked, is_filtered: bool) -> Result<(TableMeta, Walk), ApiError> {
    let options = &asked.options;
    let Some(limit) = options.limit.map(|limit| limit.min(MOST_AT_ONCE)) else {
        return Ok((TableMeta::default(), Walk { chosen: Vec::new().into_iter(), rest: Some(listing) }));
    };
    let mut chosen = Vec::new();
    let mut has_more = false;
    while let Some(object) = listing.next().await.map_err(|error| unavailable(&error))? {
        has_more = chosen.len() == limit;
        if has_more {
            break;
        }
        chosen.push(object);
    }
    let given = options.page.as_ref().map_or(0, |token| token.given) + chosen.len() as u64;
    let remaining = listing.candidates().saturating_sub(chosen.len() as u64).max(1);
    let token = chosen.last().filter(|_| has_more).map(|last| {
        let end = last.position();
        let after = (end.namespace, end.name, end.cluster.to_string());
        ContinueToken { resource_version: String::new(), after, given, moments: listing.keep() }
    });
    let metadata = TableMeta {
        remaining_item_count: token.as_ref().filter(|_| !is_filtered).and_then(|_| i64::try_from(remaining).ok()),
        continue_token: token.map(|token| token.encode()).unwrap_or_default(),
        ..TableMeta::default()
    };
    Ok((metadata, Walk { chosen: chosen.into_iter(), rest: None }))
}

/// Objects of an answer: a page that was chosen, or all, read as they are asked for.
struct Walk {
    chosen: std::vec::IntoIter<ListedObject>,
    rest: Option<BackendListing>,
}

impl Walk {
    async fn next(&mut self) -> Result<Option<ListedObject>, Unavailable> {
        match (self.chosen.next(), &mut self.rest) {
            (Some(object), _) => Ok(Some(object)),
            (None, Some(listing)) => listing.next().await,
            (None, None) => Ok(None),
        }
    }
}

/// A list being written.
struct Written<R> {
    objects: Walk,
    render: R,
    chunk: Vec<u8>,
    is_first: bool,
    tail: Option<&'static str>,
}

/// Written a chunk at a time. A backend that fails breaks it off: a client sees a truncated answer, never a valid-looking short one.
fn streamed<R: Render + 'static>(head: String, objects: Walk, render: R, tail: &'static str) -> Body {
    let written = Written { objects, render, chunk: head.into_bytes(), is_first: true, tail: Some(tail) };
    let chunks = stream::unfold(written, |mut written| async {
        let chunk = written.next_chunk().await?;
        Some((chunk, written))
    });
    // Bodies are asked once more behind their end.
    Body::from_stream(chunks.fuse())
}

impl<R: Render> Written<R> {
    async fn next_chunk(&mut self) -> Option<Result<Bytes, Unavailable>> {
        let tail = self.tail?;
        while self.chunk.len() < CHUNK {
            match self.objects.next().await {
                Ok(Some(listed)) => {
                    if !std::mem::replace(&mut self.is_first, false) {
                        self.chunk.push(b',');
                    }
                    self.render.render(&listed.cluster, &listed.entry, &listed.object, &mut self.chunk);
                }
                Ok(None) => {
                    self.tail = None;
                    self.chunk.extend_from_slice(tail.as_bytes());
                    break;
                }
                Err(error) => {
                    self.tail = None;
                    tracing::error!(%error, "a backend fails; the answer is broken off");
                    return Some(Err(error));
                }
            }
        }
        Some(Ok(std::mem::take(&mut self.chunk).into()))
    }
}
