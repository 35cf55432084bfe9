//! What a cache request asks for beyond its path: selectors, clusters, page, version, watch.
//!
//! Pure: a query string in, [`CacheOptions`] out, or a refusal in the `{"error": …}` shape of the drop-in path. What cannot
//! be done as asked is refused, never ignored.

use std::collections::BTreeSet;
use std::sync::Arc;

use apiservice::error::ApiError;
use apiservice::request::ListOptions;
use apiservice::selector::{FieldOperator, FieldSelector, LabelOperator, LabelSelector};
use apiservice::table::IncludeObject;
use http::StatusCode;
use indexer::filter::{FieldCondition, FieldPath, Filter, LabelCondition, LabelTest, NameCondition, NameField};
use indexer::query::evaluate::Evaluator;
use indexer::resource::{ApiResource, ClusterName};
use indexer::search::order::Order;
use indexer::version::{ContinueToken, MergedVersion};
use indexer::view::list::Position;
use indexer::view::watch::WatchStart;
use indexer::view::{Query, Search};
use jiff::Timestamp;

use super::own_labels::{OWN, OwnLabels};

/// What a cache request asks for beyond its path.
#[derive(Debug)]
pub(super) struct CacheOptions {
    /// Label and field conditions.
    pub(super) filter: Filter,
    /// Conditions in the grammar of queries.
    pub(super) search: Option<Evaluator>,
    /// In which order, and how it was written.
    pub(super) order: Option<(Order, String)>,
    /// Only these clusters.
    pub(super) clusters: Option<BTreeSet<ClusterName>>,
    /// At most this many objects.
    pub(super) limit: Option<usize>,
    /// Where the page begins.
    pub(super) page: Option<ContinueToken>,
    /// The rest, as API servers read it.
    pub(super) list: ListOptions,
    /// What a table's rows carry.
    pub(super) include_object: IncludeObject,
}

fn refuse(message: impl Into<String>) -> ApiError {
    ApiError::plain(StatusCode::BAD_REQUEST, message)
}

impl CacheOptions {
    /// Reads a query string.
    pub(super) fn parse(query: &str) -> Result<Self, ApiError> {
        let list = ListOptions::parse(query).map_err(|invalid| refuse(invalid.to_string()))?;
        let parameter = |name: &str| {
            form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        if parameter("dryRun").is_some() {
            return Err(refuse("dryRun is not supported here: nothing below search/cache is written"));
        }
        check_version(&list)?;
        let mut filter = Filter::default();
        let own = OwnLabels::take(list.label_selector.as_deref().unwrap_or_default())?;
        let selected = read_label_selector(&own.rest, &mut filter)?;
        read_field_selector(list.field_selector.as_deref().unwrap_or_default(), &mut filter)?;
        let page = match list.continue_token.as_str() {
            "" => None,
            // That of a sorted list is read with its order.
            _ if own.order.is_some() => None,
            token => Some(ContinueToken::decode(token).map_err(|error| refuse(format!("continue: {error}")))?),
        };
        Ok(Self {
            filter,
            search: own.query.map(|expression| Evaluator::new(expression, Timestamp::now())),
            order: own.order,
            clusters: both(parameter("cluster").map(|names| read_clusters(&names)).transpose()?, selected),
            limit: usize::try_from(list.limit).ok().filter(|limit| *limit > 0),
            page,
            include_object: IncludeObject::parse(query)?,
            list,
        })
    }

    /// The view's query for the objects that a path names, which are of this kind.
    pub(super) fn query(&self, served: ApiResource, namespace: Option<&str>, name: Option<&str>) -> Query {
        let evaluator = self.search.clone();
        Query {
            search: evaluator.map(|evaluator| Arc::new(Search { evaluator, served })),
            clusters: self.clusters.clone(),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            filter: self.filter.clone(),
        }
    }

    /// Where the page begins.
    pub(super) fn position(&self) -> Option<Position> {
        let (namespace, name, cluster) = self.page.as_ref()?.after.clone();
        Some(Position { namespace, name, cluster: cluster.into() })
    }

    /// What an answer is not to be older than, if it is a first page of which that was said: later ones go on where it was.
    pub(super) fn least_version(&self) -> Option<MergedVersion> {
        match self.list.resource_version.as_str() {
            "" | "0" => None,
            _ if !self.list.continue_token.is_empty() => None,
            version => MergedVersion::decode(version).ok(),
        }
    }

    /// Where a watch starts.
    ///
    /// # Errors
    /// 410 for a version that this server did not give, so that clients which took one from an object list again.
    pub(super) fn watch_start(&self) -> Result<WatchStart, ApiError> {
        if self.list.send_initial_events == Some(true) {
            return Ok(WatchStart::Everything);
        }
        match self.list.resource_version.as_str() {
            "" | "0" => Ok(WatchStart::Everything),
            version => MergedVersion::decode(version).map(WatchStart::After).map_err(|_| {
                ApiError::expired(format!("too old resource version: {version}: list again and watch from the list's"))
            }),
        }
    }
}

/// A cache can show what is now, not what was: a minimum is waited for, an exact past is refused.
fn check_version(list: &ListOptions) -> Result<(), ApiError> {
    match list.resource_version_match.as_deref() {
        None | Some("NotOlderThan") => Ok(()),
        Some("Exact") => {
            Err(refuse("resourceVersionMatch=Exact is not supported: the cache holds the newest state only"))
        }
        Some(other) => Err(refuse(format!(
            "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"NotOlderThan\""
        ))),
    }
}

/// Names of clusters, separated by commas.
///
/// # Errors
/// 400 if there is none.
pub(super) fn read_clusters(names: &str) -> Result<BTreeSet<ClusterName>, ApiError> {
    let clusters: BTreeSet<ClusterName> =
        names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(ClusterName::from).collect();
    if clusters.is_empty() {
        return Err(refuse("cluster: name at least one cluster, as in cluster=member1,member2"));
    }
    Ok(clusters)
}

/// Those that both name; where one says nothing, those of the other.
fn both(one: Option<BTreeSet<ClusterName>>, other: Option<BTreeSet<ClusterName>>) -> Option<BTreeSet<ClusterName>> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.intersection(&other).cloned().collect()),
        (one, other) => one.or(other),
    }
}

/// Reads a label selector; returns the clusters that it names.
fn read_label_selector(text: &str, filter: &mut Filter) -> Result<Option<BTreeSet<ClusterName>>, ApiError> {
    let mut clusters = None;
    let selector = LabelSelector::parse(text).map_err(|error| refuse(error.to_string()))?;
    for requirement in selector.requirements() {
        let values = || requirement.values().to_vec();
        match (requirement.key().strip_prefix(OWN), requirement.operator()) {
            (None, _) => {}
            (Some("cluster" | "clusters"), LabelOperator::In) => {
                let named = values().into_iter().map(ClusterName::from).collect();
                clusters = both(clusters, Some(named));
                continue;
            }
            (Some(_), _) => {
                let key = requirement.key();
                // No request of the original's: so it is refused as API servers do, which kubectl shows.
                return Err(ApiError::bad_request(format!(
                    "labelSelector: {key}: the labels that this server understands are {OWN}cluster=NAME, {OWN}cluster in (A,B), {OWN}order-by and {OWN}query"
                )));
            }
        }
        let test = match requirement.operator() {
            LabelOperator::In => LabelTest::In(values()),
            LabelOperator::NotIn => LabelTest::NotIn(values()),
            LabelOperator::Exists => LabelTest::Exists,
            LabelOperator::DoesNotExist => LabelTest::DoesNotExist,
            LabelOperator::GreaterThan => LabelTest::GreaterThan(bound(requirement.values())?),
            LabelOperator::LessThan => LabelTest::LessThan(bound(requirement.values())?),
        };
        filter.labels.push(LabelCondition { key: requirement.key().to_owned(), test });
    }
    Ok(clusters)
}

fn bound(values: &[String]) -> Result<i64, ApiError> {
    let text = values.first().map_or("", String::as_str);
    text.parse().map_err(|_| refuse(format!("labelSelector: {text:?} is not an integer")))
}

fn read_field_selector(text: &str, filter: &mut Filter) -> Result<(), ApiError> {
    let selector = FieldSelector::parse(text).map_err(|error| refuse(error.to_string()))?;
    for requirement in selector.requirements() {
        let equal = requirement.operator() == FieldOperator::Equals;
        let value = requirement.value().to_owned();
        let name_field = match requirement.path() {
            "metadata.name" => Some(NameField::Name),
            "metadata.namespace" => Some(NameField::Namespace),
            _ => None,
        };
        match name_field {
            Some(field) => filter.names.push(NameCondition { field, value, equal }),
            None => {
                let path = FieldPath::parse(requirement.path()).map_err(|error| refuse(error.to_string()))?;
                filter.fields.push(FieldCondition::new(path, value, equal));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(query: &str) -> String {
        let error = CacheOptions::parse(query).unwrap_err();
        assert_eq!(error.code(), 400, "{query}");
        error.to_json()["error"].as_str().unwrap_or_default().to_owned()
    }

    #[test]
    fn selectors_clusters_and_pages_are_read() {
        let query = "labelSelector=app%20in%20(a,b),!tier&fieldSelector=spec.nodeName%3Dn1,metadata.name!%3Dx&cluster=m1,%20m2&limit=5";
        let options = CacheOptions::parse(query).unwrap();
        assert_eq!(options.filter.labels.len(), 2);
        assert_eq!((options.filter.fields.len(), options.filter.names.len()), (1, 1));
        assert_eq!(options.clusters, Some(["m1".into(), "m2".into()].into()));
        assert_eq!(options.limit, Some(5));
    }

    #[test]
    fn what_the_original_refuses_is_refused_in_the_same_words() {
        assert_eq!(refusal("labelSelector=%3D%3D%3Dbad"), "found '==', expected: !, identifier, or 'end of string'");
        assert_eq!(refusal("fieldSelector=bogus"), "invalid selector: 'bogus'; can't understand 'bogus'");
        assert_eq!(refusal("limit=abc"), "strconv.ParseInt: parsing \"abc\": invalid syntax");
    }

    #[test]
    fn what_cannot_be_done_as_asked_is_refused_not_ignored() {
        assert!(refusal("continue=xyz").starts_with("continue: not a version or token"));
        assert!(refusal("resourceVersion=5&resourceVersionMatch=Exact").contains("newest state only"));
        assert!(refusal("cluster=").starts_with("cluster: name at least one"));
        assert!(refusal("fieldSelector=spec.a%5B0%5D%3Dx").contains("at character"));
        assert!(refusal("dryRun=All").contains("dryRun"));
    }

    #[test]
    fn a_negative_limit_and_a_members_version_mean_nothing_to_a_list() {
        let options = CacheOptions::parse("limit=-1&resourceVersion=abc").unwrap();
        assert_eq!(options.limit, None);
        assert_eq!(options.watch_start().unwrap_err().code(), 410, "a watch cannot go on from it");
    }
}
