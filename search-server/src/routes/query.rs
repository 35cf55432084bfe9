//! `search/query` and `search/facets`: one grammar over all kinds of all clusters.
//!
//! In: `q` and what an answer is to look like. Out: a page of objects in one of several [`formats`], or counts. What
//! can't be done as asked is refused with the character that is wrong. Objects are looked at on blocking threads, few at a
//! time and not for long, so that no question keeps others waiting; an answer that ran out of time says so.

pub(super) mod differences;
mod explain;
mod formats;
pub(super) mod names;
mod parameters;
mod rows;
mod watch;
mod yaml;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apiservice::error::ApiError;
use apiservice::layers::Compressible;
use apiservice::table::{IncludeObject, TableMeta};
use axum::Json;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use indexer::query::evaluate::Evaluator;
use indexer::resource::ClusterName;
use indexer::search::facets::{Facet, FacetsError, TooManyValues};
use indexer::search::moments::Moments;
use indexer::search::order::{Order, SortKey};
use indexer::search::owners::{OwnersError, resolve};
use indexer::search::{Answers, Page, Question, Scope, Unavailable};
use indexer::status::{Notice, notices};
use indexer::view::Query;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::backends::unavailable;
use super::{SearchState, Source, check_clusters, warning};
use formats::{Format, Shape};
use parameters::{Parameters, refused};
use rows::named_columns;

const DEFAULT_LIMIT: usize = 50;
const MOST: usize = 10_000;
const DEFAULT_VALUES: usize = 10;
const MOST_FACETS: usize = 20;
/// Fields of a projection.
const MOST_FIELDS: usize = 100;
/// How long one may be looked into.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// How long one may wait for its turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// Questions that wait for a backend at a time: they take threads and hardly any processor.
const WAITING: usize = 32;

/// Turns for questions.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    working: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        // Half of the processors, so that lists and watches always have the rest.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { working: Arc::new(Semaphore::new((processors / 2).max(1))), waiting: Arc::new(Semaphore::new(WAITING)) }
    }
}

impl Turns {
    /// Does the work on a blocking thread when its turn has come.
    pub(super) async fn take<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        Self::take_of(&self.working, work).await
    }

    /// Asks somebody on a blocking thread when there is a turn.
    async fn ask<T: Send + 'static>(
        &self,
        answers: Arc<dyn Answers>,
        work: impl FnOnce(&dyn Answers) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let turns = if answers.waits() { &self.waiting } else { &self.working };
        Self::take_of(turns, move || work(&*answers)).await
    }

    async fn take_of<T: Send + 'static>(
        turns: &Arc<Semaphore>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let busy = || ApiError::too_many_requests("too many queries are being answered, try again", 1);
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(turns).acquire_owned()).await;
        let turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        done.await.map_err(|error| ApiError::internal(format!("the query could not be answered: {error}")))
    }
}

fn scope(state: &SearchState, parameters: &Parameters) -> Result<Scope, ApiError> {
    let clusters = parameters.clusters()?;
    check_clusters(state, clusters.as_ref())?;
    let evaluator = Evaluator::new(parameters.expression()?, Timestamp::now());
    // The time begins to run when the question has its turn.
    Ok(Scope { evaluator, clusters, deadline: Instant::now() })
}

/// Why a question has no answer.
enum NoAnswer {
    Owners(OwnersError),
    Facets(TooManyValues),
    Unavailable(Unavailable),
}

impl From<OwnersError> for NoAnswer {
    fn from(error: OwnersError) -> Self {
        match error {
            OwnersError::Unavailable(error) => Self::Unavailable(error),
            other => Self::Owners(other),
        }
    }
}

impl From<FacetsError> for NoAnswer {
    fn from(error: FacetsError) -> Self {
        match error {
            FacetsError::TooManyValues(error) => Self::Facets(error),
            FacetsError::Unavailable(error) => Self::Unavailable(error),
        }
    }
}

impl From<Unavailable> for NoAnswer {
    fn from(error: Unavailable) -> Self {
        Self::Unavailable(error)
    }
}

impl From<NoAnswer> for ApiError {
    fn from(error: NoAnswer) -> Self {
        match error {
            NoAnswer::Owners(error) => Self::bad_request(format!("q: {error}")),
            NoAnswer::Facets(error) => Self::bad_request(format!("by: {error}")),
            NoAnswer::Unavailable(error) => unavailable(&error),
        }
    }
}

/// Asks who was chosen to answer; where that is a backend that fails, the cache.
async fn ask<T: Send + 'static>(
    state: &SearchState,
    answers: Arc<dyn Answers>,
    question: impl Fn(&dyn Answers) -> Result<T, NoAnswer> + Clone + Send + 'static,
) -> Result<T, ApiError> {
    let is_backend = answers.waits();
    let answer = match (state.turns.ask(answers, question.clone()).await?, state.instead()) {
        (Err(NoAnswer::Unavailable(error)), Some(cached)) => {
            tracing::debug!(%error, "a query that a backend was asked is answered from the cache");
            let answer = state.turns.ask(cached, question).await??;
            state.counted.answered.by_cache();
            return Ok(answer);
        }
        (answer, _) => answer?,
    };
    match is_backend {
        true => state.counted.answered.by_backend(),
        false => state.counted.answered.by_cache(),
    }
    Ok(answer)
}

/// What the token of a sorted list says instead of an order.
const LIST: &str = "list";
const UNKNOWN_TOKEN: &str = "continue: not a token that this server gave";

/// Where a page begins, and what question it belongs to: another one's token would give other objects.
#[derive(Serialize, Deserialize)]
pub(super) struct Token {
    q: String,
    order: String,
    after: SortKey,
    #[serde(default, skip_serializing_if = "Moments::is_empty")]
    moments: Moments,
}

impl Token {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Where the page begins that is asked for, and of when it is; none if it is the first.
    fn read(parameters: &Parameters, asked: &str, order: &str) -> Result<Option<(SortKey, Moments)>, ApiError> {
        let text = parameters.get("continue").unwrap_or_default();
        Self::belonging(text, asked, order, "q and orderBy must stay the same")
    }

    /// The token of a list that is sorted as its label selector says.
    pub(super) fn for_list(selector: String, after: SortKey) -> String {
        Self { q: selector, order: LIST.to_owned(), after, moments: Moments::default() }.encode()
    }

    /// Where the page of such a list begins; none if it is the first.
    pub(super) fn of_list(text: &str, selector: &str) -> Result<Option<SortKey>, ApiError> {
        let belonging = Self::belonging(text, selector, LIST, "labelSelector must stay the same")?;
        Ok(belonging.map(|(after, _)| after))
    }

    fn belonging(text: &str, asked: &str, order: &str, advice: &str) -> Result<Option<(SortKey, Moments)>, ApiError> {
        if text.is_empty() {
            return Ok(None);
        }
        let decoded = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        let token = decoded.ok_or_else(|| ApiError::bad_request(UNKNOWN_TOKEN))?;
        if (token.q.as_str(), token.order.as_str()) == (asked, order) {
            return Ok(Some((token.after, token.moments)));
        }
        Err(ApiError::bad_request(format!("continue: belongs to another query; {advice}")))
    }
}

/// What `search/query` can be asked.
const PARAMETERS: [&str; 11] =
    ["q", "cluster", "orderBy", "limit", "continue", "count", "includeObject", "format", "fields", "watch", "explain"];

/// Answers `search/query`.
pub(super) async fn objects(state: &SearchState, headers: &HeaderMap, query: &str) -> Result<Response, ApiError> {
    let parameters = Parameters::read(query, &PARAMETERS)?;
    let scope = scope(state, &parameters)?;
    let order_by = parameters.get("orderBy").unwrap_or_default().to_owned();
    let order = Order::parse(&order_by, scope.evaluator.expression()).map_err(|error| refused("orderBy", &error))?;
    let asked = scope.evaluator.expression().to_string();
    let (after, moments) = Token::read(&parameters, &asked, &order_by)?.unzip();
    if after.as_ref().is_some_and(|after| !order.fits(after)) {
        return Err(ApiError::bad_request(UNKNOWN_TOKEN));
    }
    let limit = parameters.number("limit", DEFAULT_LIMIT, MOST)?;
    let counts = parameters.is_set("count")?;
    let fields = parameters.fields("fields", MOST_FIELDS)?;
    let shape = Shape {
        format: Format::of(parameters.get("format"), headers)?,
        columns: fields.clone().unwrap_or_else(|| named_columns(scope.evaluator.expression(), &order)),
        fields,
        include: IncludeObject::parse(query)?,
    };
    if let Some(of) = parameters.get("explain").filter(|of| !matches!(*of, "" | "false" | "0")) {
        let shaping = ["orderBy", "limit", "continue", "count", "format", "fields", "watch", "includeObject"];
        parameters.refuse(&shaping, "explain")?;
        state.source.check_cache("explain")?;
        return explain::answer(state, scope, of).await;
    }
    if parameters.is_set("watch")? {
        state.source.check_cache("watch")?;
        return watch::answer(state, scope, shape, &parameters);
    }
    let clusters = scope.clusters.clone();
    let answers = state.answers(&scope)?;
    let question = Question { after, moments: moments.unwrap_or_default(), ..Question::new(scope, order, limit) };
    let answering = move |answers: &dyn Answers| {
        let deadline = Instant::now() + DEADLINE;
        let scope = resolve(answers, &Scope { deadline, ..question.scope.clone() })?;
        Ok::<_, NoAnswer>(answers.page(&Question { scope, ..question.clone() })?)
    };
    let page = ask(state, answers, answering).await?;
    let lacks = state_of(state, clusters.as_ref());
    let is_partial = page.is_partial;
    let moments = page.moments.clone();
    let metadata = metadata(&page, counts, |after| Token { q: asked, order: order_by, after, moments }.encode());
    let mut response = shape.answer(page.hits, &metadata)?;
    response.extensions_mut().insert(Compressible);
    warn(response.headers_mut(), &lacks, is_partial);
    state.source.warn(response.headers_mut());
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

/// What the clusters that were asked lack, one notice a cluster.
fn state_of(state: &SearchState, clusters: Option<&BTreeSet<ClusterName>>) -> Vec<Notice> {
    if let Source::Backends(source) = &state.source {
        return source.reports.borrow().notices(clusters, None);
    }
    let overview = state.overview();
    let query = Query { clusters: clusters.cloned(), ..Query::default() };
    let mut told = BTreeSet::new();
    let mut found = Vec::new();
    for cache in state.cache.all() {
        let snapshot = cache.snapshot(clusters);
        for notice in notices(&overview, cache.resource(), &snapshot, &query) {
            // That a cluster serves a kind in another version changes nothing for who asks for all kinds.
            let is_told = match &notice {
                Notice::OtherVersion { .. } => false,
                // There may be worse to tell of the same cluster.
                Notice::Refused { .. } => true,
                Notice::UnreadableFiles { .. } => !found.contains(&notice),
                Notice::OutOfTouch { cluster, .. } | Notice::NotSynced { cluster, .. } => told.insert(cluster.clone()),
            };
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
        warning::append(headers, warning::PARTIAL);
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
    let scope = scope(state, &parameters)?;
    let fields = parameters.fields("by", MOST_FACETS)?.ok_or_else(|| {
        ApiError::bad_request(format!("by: name one to {MOST_FACETS} fields, as in by=cluster,kind,image"))
    })?;
    let size = parameters.number("limit", DEFAULT_VALUES, MOST)?;
    let clusters = scope.clusters.clone();
    let answers = state.answers(&scope)?;
    let counting = move |answers: &dyn Answers| {
        let deadline = Instant::now() + DEADLINE;
        let scope = resolve(answers, &Scope { deadline, ..scope.clone() })?;
        Ok::<_, NoAnswer>(answers.facets(&scope, &fields, size)?)
    };
    let counted = ask(state, answers, counting).await?;
    let list = FacetList {
        kind: "FacetList",
        api_version: apiservice::GROUP_VERSION,
        total: counted.total,
        facets: counted.facets,
    };
    let mut response = Json(list).into_response();
    warn(response.headers_mut(), &state_of(state, clusters.as_ref()), counted.is_partial);
    state.source.warn(response.headers_mut());
    Ok(response)
}
