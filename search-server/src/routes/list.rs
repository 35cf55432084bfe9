//! Lists of one resource over all clusters.

use std::sync::Arc;
use std::time::Instant;

use apiservice::encode::{Offer, View, negotiate};
use apiservice::error::ApiError;
use apiservice::layers::Compressible;
use apiservice::table::TableMeta;
use axum::body::Body;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use indexer::cache::{ResourceCache, Snapshot};
use indexer::entry::EntryKey;
use indexer::query::Expression;
use indexer::query::evaluate::Evaluator;
use indexer::resource::{ApiResource, GroupVersionResource};
use indexer::search::moments::Moments;
use indexer::search::order::Order;
use indexer::status::{Notice, notices};
use indexer::version::ContinueToken;
use indexer::view::list::{ListCursor, Listed};
use indexer::view::sorted::{SortedPage, sorted_page};
use indexer::view::{Query, Search};
use jiff::Timestamp;

use super::body::{ListBody, Objects, Verbatim};
use super::freshness;
use super::options::CacheOptions;
use super::query::{DEADLINE, Token};
use super::table::Rows;
use super::{SearchState, known, warning};

/// The drop-in path writes its content type so.
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// Objects of a sorted list at once; the rest comes behind its `continue`.
const MOST_SORTED: usize = 100_000;

/// What is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) resource: GroupVersionResource,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) options: CacheOptions,
}

impl Asked {
    pub(super) fn query(&self, kind: &str) -> Query {
        self.options.query(self.served(kind), self.namespace.as_deref(), self.name.as_deref())
    }

    fn served(&self, kind: &str) -> ApiResource {
        ApiResource { gvr: self.resource.clone(), kind: kind.into(), namespaced: true, watchable: true }
    }
}

/// Whether the caller would rather have a table. What else it accepts makes no difference on this path: it gets JSON.
pub(super) fn wants_table(headers: &HeaderMap) -> bool {
    negotiate(headers, Offer::Transformed).is_ok_and(|accepted| accepted.view == View::Table)
}

/// The kind of a resource's objects.
///
/// # Errors
/// What no cluster and no API server knows is refused in the words of the original.
pub(super) fn kind_of(state: &SearchState, resource: &GroupVersionResource) -> Result<String, ApiError> {
    known::kind(state, resource).ok_or_else(|| {
        let (version, resource) = (resource.api_version(), &resource.resource);
        let message = format!("no matches for {version}, Resource={resource}");
        ApiError::plain(StatusCode::INTERNAL_SERVER_ERROR, message)
    })
}

/// Answers a list.
pub(super) async fn answer(state: &SearchState, headers: &HeaderMap, asked: &Asked) -> Result<Response, ApiError> {
    let kind = kind_of(state, &asked.resource)?;
    let cache = state.cache.open(&asked.resource);
    let query = asked.query(&kind);
    let snapshot = freshness::snapshot(&cache, &asked.options).await?;
    let notices = notices(&state.overview(), &asked.resource, &snapshot, &query);
    let page = match &asked.options.order {
        Some((order, _)) => Page::sort(state, &cache, &snapshot, asked, query, order).await?,
        None if query.search.is_some() => Page::find(state, &cache, &snapshot, asked, query).await?,
        None => Page::choose(&cache, &snapshot, asked, query),
    };
    if let Some(name) = &asked.name {
        let is_held = match &asked.namespace {
            Some(_) => !page.objects.is_empty(),
            None => holds_unnamespaced(&snapshot, name),
        };
        state.counted.lookups.count(is_held);
    }
    let body = if wants_table(headers) {
        let rows = Rows::new(&asked.resource, &kind, &snapshot, asked.options.include_object);
        let head = apiservice::table::open(&page.metadata, rows.columns())?;
        Body::new(ListBody::new(head, page.objects, rows, apiservice::table::CLOSE))
    } else {
        let head = format!(
            r#"{{"kind":{},"apiVersion":{},"metadata":{},"items":["#,
            json(&format!("{kind}List")),
            json(&asked.resource.api_version()),
            json(&page.metadata),
        );
        Body::new(ListBody::new(head, page.objects, Verbatim, "]}\n"))
    };
    Ok(respond(body, &notices))
}

fn holds_unnamespaced(snapshot: &Snapshot, name: &str) -> bool {
    let key = EntryKey::new("", name);
    snapshot.parts.values().any(|part| part.objects.contains(&key))
}

pub(super) fn respond(body: Body, notices: &[Notice]) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response.extensions_mut().insert(Compressible);
    warning::warn(response.headers_mut(), notices);
    response
}

pub(super) fn json(value: &impl serde::Serialize) -> String {
    // Strings and flat structs of strings and numbers always serialize.
    serde_json::to_string(value).unwrap_or_default()
}

/// What one answer shows.
struct Page {
    metadata: TableMeta,
    objects: Objects,
}

impl Page {
    /// In another order than that of names.
    async fn sort(
        state: &SearchState,
        cache: &ResourceCache,
        snapshot: &Snapshot,
        asked: &Asked,
        query: Query,
        order: &Order,
    ) -> Result<Self, ApiError> {
        let options = &asked.options;
        // Without conditions, those that all objects meet.
        let search = query.search.clone().unwrap_or_else(|| {
            let evaluator = Evaluator::new(Expression::Everything, Timestamp::now());
            Arc::new(Search { evaluator, served: asked.served("") })
        });
        let selector = options.list.label_selector.clone().unwrap_or_default();
        let after = Token::of_list(&options.list.continue_token, &selector)?.filter(|after| order.fits(after));
        let resource_version = snapshot.encoded_version(&query);
        let cursor = ListCursor::new(snapshot, query, cache.codec().decoder(), None);
        let decoder = cursor.decoder().clone();
        let (limit, order) = (options.limit.map_or(MOST_SORTED, |limit| limit.min(MOST_SORTED)), order.clone());
        let sorting =
            move || sorted_page(cursor.until(Instant::now() + DEADLINE), &search, &order, after.as_ref(), limit);
        let sorted = state.turns.take(sorting).await?;
        let SortedPage { objects, next, remaining } = sorted.ok_or_else(too_long)?;
        let metadata = TableMeta {
            resource_version,
            remaining_item_count: i64::try_from(remaining).ok().filter(|remaining| *remaining > 0),
            continue_token: next.map(|after| Token::for_list(selector, after)).unwrap_or_default(),
        };
        Ok(Self { metadata, objects: Objects::Page(objects.into_iter(), decoder) })
    }

    /// What a query takes: objects are looked at when their turn has come, and not for long.
    async fn find(
        state: &SearchState,
        cache: &ResourceCache,
        snapshot: &Snapshot,
        asked: &Asked,
        query: Query,
    ) -> Result<Self, ApiError> {
        let cursor = ListCursor::new(snapshot, query, cache.codec().decoder(), asked.options.position().as_ref());
        let limit = asked.options.limit;
        let finding = move || {
            let mut cursor = cursor.until(Instant::now() + DEADLINE);
            let chosen: Vec<Listed> = cursor.by_ref().take(limit.unwrap_or(usize::MAX)).collect();
            let has_more = Some(chosen.len()) == limit && cursor.next().is_some();
            (!cursor.is_late()).then_some((cursor, chosen, has_more))
        };
        let (cursor, chosen, has_more) = state.turns.take(finding).await?.ok_or_else(too_long)?;
        Ok(Self::of(&cursor, chosen, has_more, asked, snapshot))
    }

    fn choose(cache: &ResourceCache, snapshot: &Snapshot, asked: &Asked, query: Query) -> Self {
        let options = &asked.options;
        let resource_version = resource_version(snapshot, asked, &query);
        let mut cursor = ListCursor::new(snapshot, query, cache.codec().decoder(), options.position().as_ref());
        let Some(limit) = options.limit else {
            let metadata = TableMeta { resource_version, ..TableMeta::default() };
            return Self { metadata, objects: Objects::All(Box::new(cursor)) };
        };
        // The token stands before the objects, so the page is chosen first; it holds shared entries, not bytes.
        let mut chosen: Vec<Listed> = cursor.by_ref().take(limit).collect();
        chosen.shrink_to_fit();
        let has_more = chosen.len() == limit && cursor.next().is_some();
        Self::of(&cursor, chosen, has_more, asked, snapshot)
    }

    /// A page of objects that were chosen.
    fn of(cursor: &ListCursor, chosen: Vec<Listed>, has_more: bool, asked: &Asked, snapshot: &Snapshot) -> Self {
        let options = &asked.options;
        let resource_version = resource_version(snapshot, asked, cursor.query());
        let is_filtered = cursor.query().is_filtered();
        let given = options.page.as_ref().map_or(0, |token| token.given) + chosen.len() as u64;
        let token = chosen.last().filter(|_| has_more).map(|last| {
            let end = last.position();
            let after = (end.namespace, end.name, end.cluster.to_string());
            ContinueToken { resource_version: resource_version.clone(), after, given, moments: Moments::default() }
        });
        let remaining = || (snapshot.candidates(cursor.query()) as u64).saturating_sub(given).max(1);
        let metadata = TableMeta {
            resource_version,
            // As API servers do, a filtered list does not count what it did not look at.
            remaining_item_count: token.as_ref().filter(|_| !is_filtered).and_then(|_| i64::try_from(remaining()).ok()),
            continue_token: token.map(|token| token.encode()).unwrap_or_default(),
        };
        let decoder = cursor.decoder().clone();
        Self { metadata, objects: Objects::Page(chosen.into_iter(), decoder) }
    }
}

fn resource_version(snapshot: &Snapshot, asked: &Asked, query: &Query) -> String {
    match &asked.options.page {
        Some(token) => token.resource_version.clone(),
        None => snapshot.encoded_version(query),
    }
}

fn too_long() -> ApiError {
    ApiError::timeout(
        "the query took too long; narrow it by cluster or namespace, or ask search/query, which has an index",
    )
}
