//! `search/query` and `search/facets`: one grammar over all kinds of all clusters.
//!
//! In: `q` and what an answer is to look like. Out: a `List` of whole objects, a `Table` for who accepts one, or counts. What
//! can't be done as asked is refused with the character that is wrong. Objects are looked at on blocking threads, few at a
//! time and not for long, so that no question keeps others waiting; an answer that ran out of time says so.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apiservice::error::ApiError;
use apiservice::layers::Compressible;
use apiservice::table::{CLOSE, Column, IncludeObject, Row, RowObject, TableMeta, age};
use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{CONTENT_TYPE, WARNING};
use http::{HeaderMap, HeaderValue};
use indexer::entry::{Entry, LabelSet};
use indexer::query::document::{Document, Facts};
use indexer::query::evaluate::{Evaluator, field_texts};
use indexer::query::{Expression, Field, QueryError, parse, parse_field};
use indexer::resource::{ApiResource, ClusterName, GroupVersionResource};
use indexer::search::facets::{Facet, TooManyValues, count};
use indexer::search::order::{Order, SortKey};
use indexer::search::{Hit, Page, Question, Scope, answer};
use indexer::status::{Notice, notices};
use indexer::view::Query;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::body::{ListBody, Objects, Render, Verbatim};
use super::list::wants_table;
use super::{SearchState, check_clusters, options, warning};

const DEFAULT_LIMIT: usize = 50;
const MOST: usize = 10_000;
const DEFAULT_VALUES: usize = 10;
const MOST_FACETS: usize = 20;
/// How long one may be looked into.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long one may wait for its turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// Parameters that clients send along and that change nothing here.
const HARMLESS: [&str; 3] = ["pretty", "timeout", "timeoutSeconds"];

/// Turns for questions.
#[derive(Debug, Clone)]
pub(crate) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        // Half of the processors, so that lists and watches always have the rest.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new((processors / 2).max(1))))
    }
}

impl Turns {
    /// Does the work on a blocking thread when its turn has come.
    async fn take<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
        let busy = || ApiError::too_many_requests("too many queries are being answered, try again", 1);
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(&self.0).acquire_owned()).await;
        let turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        done.await.map_err(|error| ApiError::internal(format!("the query could not be answered: {error}")))
    }
}

/// Parameters of a request, each name at most once.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn read(query: &str, known: &[&str]) -> Result<Self, ApiError> {
        let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let mut seen = BTreeSet::new();
        for (name, _) in &pairs {
            if !known.contains(&name.as_str()) && !HARMLESS.contains(&name.as_str()) {
                let known = known.join(", ");
                return Err(ApiError::bad_request(format!(
                    "{name}: there is no such parameter here; there are {known}"
                )));
            }
            if !seen.insert(name) {
                return Err(ApiError::bad_request(format!("{name}: is given twice")));
            }
        }
        Ok(Self(pairs))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    fn number(&self, name: &str, default: usize, most: usize) -> Result<usize, ApiError> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else { return Ok(default) };
        let number = text.parse().ok().filter(|number| (1..=most).contains(number));
        number.ok_or_else(|| {
            ApiError::bad_request(format!("{name}: a number from 1 to {most} is expected, not {text:?}"))
        })
    }

    fn is_set(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(ApiError::bad_request(format!("{name}: true or false is expected, not {other:?}"))),
        }
    }

    fn clusters(&self) -> Result<Option<BTreeSet<ClusterName>>, ApiError> {
        self.get("cluster").map(options::read_clusters).transpose()
    }

    fn expression(&self) -> Result<Expression, ApiError> {
        parse(self.get("q").unwrap_or_default()).map_err(|error| refused("q", &error))
    }
}

fn refused(parameter: &str, error: &QueryError) -> ApiError {
    ApiError::bad_request(format!("{parameter}: {error}"))
}

fn scope(state: &SearchState, parameters: &Parameters) -> Result<Scope, ApiError> {
    let clusters = parameters.clusters()?;
    check_clusters(state, clusters.as_ref())?;
    let evaluator = Evaluator::new(parameters.expression()?, Timestamp::now());
    // The time begins to run when the question has its turn.
    Ok(Scope { evaluator, clusters, deadline: Instant::now() })
}

/// Where a page begins, and what question it belongs to: another one's token would give other objects.
#[derive(Serialize, Deserialize)]
struct Token {
    q: String,
    order: String,
    after: SortKey,
}

impl Token {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(text: &str) -> Option<Self> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
    }
}

/// Answers `search/query`.
pub(super) async fn objects(state: &SearchState, headers: &HeaderMap, query: &str) -> Result<Response, ApiError> {
    let known = ["q", "cluster", "orderBy", "limit", "continue", "count", "includeObject"];
    let parameters = Parameters::read(query, &known)?;
    let scope = scope(state, &parameters)?;
    let order_by = parameters.get("orderBy").unwrap_or_default().to_owned();
    let order = Order::parse(&order_by, scope.evaluator.expression()).map_err(|error| refused("orderBy", &error))?;
    let asked = scope.evaluator.expression().to_string();
    let after = match parameters.get("continue").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => {
            let unknown = || ApiError::bad_request("continue: not a token that this server gave");
            let token = Token::decode(text).ok_or_else(unknown)?;
            if (&token.q, &token.order) != (&asked, &order_by) {
                return Err(ApiError::bad_request(
                    "continue: belongs to another query; q and orderBy must stay the same",
                ));
            }
            Some(token.after).filter(|after| order.fits(after)).ok_or_else(unknown).map(Some)?
        }
    };
    let limit = parameters.number("limit", DEFAULT_LIMIT, MOST)?;
    let counts = parameters.is_set("count")?;
    let include = IncludeObject::parse(query)?;
    let columns = named_columns(scope.evaluator.expression(), &order);
    let clusters = scope.clusters.clone();
    let mut question = Question { scope, order, limit, after };
    let (cache, index) = (Arc::clone(&state.cache), Arc::clone(&state.index));
    let answering = move || {
        question.scope.deadline = Instant::now() + DEADLINE;
        answer(&cache, &index, &question)
    };
    let page = state.turns.take(answering).await?;
    let lacks = state_of(state, clusters.as_ref());
    let is_partial = page.is_partial;
    let metadata = metadata(&page, counts, |after| Token { q: asked, order: order_by, after }.encode());
    let kinds =
        if wants_table(headers) { Some(Rows { fields: columns, include, now: Timestamp::now() }) } else { None };
    let body = body(page.hits, &metadata, kinds)?;
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.extensions_mut().insert(Compressible);
    warn(response.headers_mut(), &lacks, is_partial);
    Ok(response)
}

fn metadata(page: &Page, counts: bool, token: impl FnOnce(SortKey) -> String) -> TableMeta {
    let remaining = i64::try_from(page.remaining).ok().filter(|_| !page.is_partial);
    TableMeta {
        resource_version: page.version.encode(),
        remaining_item_count: remaining.filter(|remaining| *remaining > 0 || counts),
        continue_token: page.next.clone().map(token).unwrap_or_default(),
    }
}

fn body(hits: Vec<Hit>, metadata: &TableMeta, rows: Option<Rows>) -> Result<Body, ApiError> {
    let objects = Objects::Found(hits.into_iter());
    Ok(match rows {
        Some(rows) => {
            let head = apiservice::table::open(metadata, &rows.columns())?;
            Body::new(ListBody::new(head, objects, rows, CLOSE))
        }
        None => {
            let metadata = serde_json::to_string(metadata)
                .map_err(|error| ApiError::internal(format!("the list's head cannot be written: {error}")))?;
            let head = format!(r#"{{"apiVersion":"v1","kind":"List","metadata":{metadata},"items":["#);
            Body::new(ListBody::new(head, objects, Verbatim, "]}\n"))
        }
    })
}

/// What the clusters that were asked lack, one notice a cluster.
fn state_of(state: &SearchState, clusters: Option<&BTreeSet<ClusterName>>) -> Vec<Notice> {
    let overview = state.overview();
    let query = Query { clusters: clusters.cloned(), ..Query::default() };
    let mut told = BTreeSet::new();
    let mut found = Vec::new();
    for cache in state.cache.all() {
        let snapshot = cache.snapshot(clusters);
        for notice in notices(&overview, cache.resource(), &snapshot, &query) {
            // That a cluster serves a kind in another version changes nothing for who asks for all kinds.
            let is_told = !matches!(notice, Notice::OtherVersion { .. }) && told.insert(notice.cluster().clone());
            if is_told {
                found.push(notice);
            }
        }
    }
    found
}

fn warn(headers: &mut HeaderMap, lacks: &[Notice], is_partial: bool) {
    warning::warn(headers, lacks);
    if is_partial {
        let text = "299 - \"the query took too long and was ended; the answer is partial: narrow it by cluster, kind or namespace\"";
        headers.append(WARNING, HeaderValue::from_static(text));
    }
}

/// Fields that the query and the order name, which a table shows beside the usual columns.
fn named_columns(expression: &Expression, order: &Order) -> Vec<Field> {
    // The plural is another word for the kind, and rows don't know it.
    let usual = [Field::Cluster, Field::Kind, Field::Namespace, Field::Name, Field::Created, Field::Resource];
    let mut fields: Vec<Field> = Vec::new();
    for field in expression.fields().into_iter().chain(order.fields()) {
        if !usual.contains(field) && !fields.contains(field) {
            fields.push(field.clone());
        }
    }
    fields
}

/// Rows of mixed kinds.
struct Rows {
    fields: Vec<Field>,
    include: IncludeObject,
    now: Timestamp,
}

impl Rows {
    fn columns(&self) -> Vec<Column> {
        let mut columns = vec![
            Column::new("Cluster", "string", "The cluster that the object is in."),
            Column::new("Kind", "string", "What it is."),
            Column::new("Namespace", "string", "Its namespace, if it has one."),
            Column::name("Name of the object."),
            Column::new("Age", "string", "Time since it was created."),
        ];
        columns.extend(
            self.fields.iter().map(|field| Column::new(&field.to_string(), "string", "As the query names it.")),
        );
        columns
    }

    fn row(&self, cluster: &ClusterName, entry: &Entry, object: &[u8]) -> Row {
        let document = Document::read(object);
        let text = |steps: &[&str]| {
            let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
            let values = document.as_ref().map(|document| document.at(&steps)).unwrap_or_default();
            values.first().and_then(|value| value.as_str()).unwrap_or_default().to_owned()
        };
        let (kind, api_version) = (text(&["kind"]), text(&["apiVersion"]));
        let created = document.as_ref().and_then(Document::created);
        let shown_age = created.map_or_else(|| "<unknown>".to_owned(), |created| age(created, self.now));
        let mut cells =
            vec![json!(cluster.as_str()), json!(kind), json!(entry.namespace()), json!(entry.name()), json!(shown_age)];
        let served = served(&api_version, &kind);
        let labels: &LabelSet = entry.labels();
        let facts = Facts { cluster, served: &served, namespace: entry.namespace(), name: entry.name(), labels };
        cells.extend(self.fields.iter().map(|field| {
            let values = field_texts(field, &facts, document.as_ref());
            json!(if values.is_empty() { "<none>".to_owned() } else { values.join(",") })
        }));
        Row { cells, object: self.object(object) }
    }

    fn object(&self, object: &[u8]) -> RowObject {
        let raw = |text: &str| serde_json::value::RawValue::from_string(text.to_owned()).ok();
        let text = str::from_utf8(object).unwrap_or_default();
        let shown = match self.include {
            IncludeObject::None => None,
            IncludeObject::Object => raw(text).map(RowObject::Object),
            IncludeObject::Metadata => {
                let metadata = serde_json::from_str::<Value>(text).ok().map(|value| value["metadata"].to_string());
                metadata.as_deref().and_then(raw).map(RowObject::Metadata)
            }
        };
        shown.unwrap_or(RowObject::None)
    }
}

/// What an object says of itself; its plural is known to its cluster only and is no column.
fn served(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let gvr = GroupVersionResource::new(group, version, "");
    ApiResource { gvr, kind: kind.into(), namespaced: true, watchable: true }
}

impl Render for Rows {
    fn render(&mut self, cluster: &ClusterName, entry: &Entry, object: &[u8], output: &mut Vec<u8>) {
        // Cells are plain JSON values and the object was JSON before, so this cannot fail.
        output.extend_from_slice(&serde_json::to_vec(&self.row(cluster, entry, object)).unwrap_or_default());
    }
}

#[derive(Serialize)]
struct FacetList {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    total: u64,
    facets: Vec<Facet>,
}

/// Answers `search/facets`.
pub(super) async fn facets(state: &SearchState, query: &str) -> Result<Response, ApiError> {
    let parameters = Parameters::read(query, &["q", "cluster", "by", "limit"])?;
    let mut scope = scope(state, &parameters)?;
    let names: Vec<&str> = parameters.get("by").unwrap_or_default().split(',').map(str::trim).collect();
    if names == [""] || names.len() > MOST_FACETS {
        let message = format!("by: name one to {MOST_FACETS} fields, as in by=cluster,kind,image");
        return Err(ApiError::bad_request(message));
    }
    let fields: Result<Vec<Field>, QueryError> = names.iter().map(|name| parse_field(name)).collect();
    let fields = fields.map_err(|error| refused("by", &error))?;
    if fields.iter().collect::<BTreeSet<_>>().len() < fields.len() {
        return Err(ApiError::bad_request("by: a field is named twice"));
    }
    let size = parameters.number("limit", DEFAULT_VALUES, MOST)?;
    let clusters = scope.clusters.clone();
    let (cache, index) = (Arc::clone(&state.cache), Arc::clone(&state.index));
    let counting = move || {
        scope.deadline = Instant::now() + DEADLINE;
        count(&cache, &index, &scope, &fields, size)
    };
    let counted = state.turns.take(counting).await?;
    let counted = counted.map_err(|error: TooManyValues| ApiError::bad_request(format!("by: {error}")))?;
    let list = FacetList {
        kind: "FacetList",
        api_version: apiservice::GROUP_VERSION,
        total: counted.total,
        facets: counted.facets,
    };
    let mut response = Json(list).into_response();
    warn(response.headers_mut(), &state_of(state, clusters.as_ref()), counted.is_partial);
    Ok(response)
}
