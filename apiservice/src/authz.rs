//! May the caller do that? The control plane decides, through SubjectAccessReviews.
//!
//! In: a [`Caller`] and a [`RequestInfo`]. Out: nothing, or 403, or 503 if the control plane can't be asked. Never a
//! yes that nobody gave. Answers are kept for some seconds; the same question asked by many requests at once is
//! reviewed once. Without a control plane only `system:masters` may do anything beside asking for health.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};
use moka::Expiry;
use moka::future::Cache;
use sha2::{Digest as _, Sha256};

use crate::error::ApiError;
use crate::request::{Caller, MASTERS_GROUP, RequestInfo};

const TIMEOUT: Duration = Duration::from_secs(10);
const MOST_ANSWERS: u64 = 10_000;

/// For how long answers are kept.
#[derive(Debug, Clone, Copy)]
pub struct AnswerTtl {
    /// A yes.
    pub allowed: Duration,
    /// A no.
    pub denied: Duration,
}

impl Default for AnswerTtl {
    fn default() -> Self {
        Self { allowed: Duration::from_secs(10), denied: Duration::from_secs(10) }
    }
}

#[derive(Debug, Clone)]
enum Answer {
    Allowed,
    Denied { reason: Arc<str> },
}

impl Expiry<[u8; 32], Answer> for AnswerTtl {
    fn expire_after_create(&self, _key: &[u8; 32], answer: &Answer, _now: Instant) -> Option<Duration> {
        Some(match answer {
            Answer::Allowed => self.allowed,
            Answer::Denied { .. } => self.denied,
        })
    }
}

/// Decides what callers may do.
pub struct Authorizer {
    reviews: Option<Api<SubjectAccessReview>>,
    known: Cache<[u8; 32], Answer>,
    always_allowed: Vec<String>,
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Authorizer").field("always_allowed", &self.always_allowed).finish_non_exhaustive()
    }
}

/// Paths that anybody may read, and all below them, unless flags say otherwise.
pub const HEALTH_PATHS: [&str; 3] = ["/healthz", "/livez", "/readyz"];

impl Authorizer {
    /// Asks through `client`; without one, only `system:masters` is allowed. `always_allowed` are paths open to all,
    /// with everything below them; a `*` at the end makes it a prefix.
    pub fn new(client: Option<kube::Client>, ttl: AnswerTtl, always_allowed: Vec<String>) -> Self {
        let known = Cache::builder().max_capacity(MOST_ANSWERS).expire_after(ttl).build();
        Self { reviews: client.map(Api::all), known, always_allowed }
    }

    /// Whether anybody may do this, whoever it is.
    pub fn is_open(&self, info: &RequestInfo) -> bool {
        !info.is_resource_request
            && self.always_allowed.iter().any(|open| match open.strip_suffix('*') {
                Some(prefix) => info.path.starts_with(prefix),
                None => {
                    info.path.strip_prefix(open.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                }
            })
    }

    /// Whether `caller` may do what `info` says.
    ///
    /// # Errors
    /// 403 with the reason if not; 503 if that can't be known now.
    pub async fn authorize(&self, caller: &Caller, info: &RequestInfo) -> Result<(), ApiError> {
        if self.is_open(info) || caller.is_in(MASTERS_GROUP) {
            return Ok(());
        }
        let Some(reviews) = &self.reviews else { return Err(denied(caller, info, "")) };
        let spec = review_spec(caller, info);
        let text = serde_json::to_vec(&spec).map_err(|error| ApiError::internal(error.to_string()))?;
        let key: [u8; 32] = Sha256::digest(&text).into();
        match self.known.try_get_with(key, ask(reviews, spec)).await {
            Ok(Answer::Allowed) => Ok(()),
            Ok(Answer::Denied { reason }) => Err(denied(caller, info, &reason)),
            Err(error) => Err((*error).clone()),
        }
    }
}

async fn ask(reviews: &Api<SubjectAccessReview>, spec: SubjectAccessReviewSpec) -> Result<Answer, ApiError> {
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let parameters = PostParams::default();
    let unavailable = |why: &dyn fmt::Display| {
        tracing::warn!(%why, "SubjectAccessReview failed");
        ApiError::unavailable("cannot check whether this is allowed: the control plane did not answer")
    };
    let answer = tokio::time::timeout(TIMEOUT, reviews.create(&parameters, &review)).await;
    let review = answer.map_err(|late| unavailable(&late))?.map_err(|error| unavailable(&error))?;
    let Some(status) = review.status else { return Err(unavailable(&"the answer has no status")) };
    if status.allowed && status.denied != Some(true) {
        return Ok(Answer::Allowed);
    }
    if let Some(error) = status.evaluation_error.filter(|error| !error.is_empty()) {
        tracing::debug!(%error, "SubjectAccessReview was evaluated with errors");
    }
    Ok(Answer::Denied { reason: status.reason.unwrap_or_default().into() })
}

fn review_spec(caller: &Caller, info: &RequestInfo) -> SubjectAccessReviewSpec {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let resource_attributes = info.is_resource_request.then(|| ResourceAttributes {
        group: some(&info.api_group),
        version: some(&info.api_version),
        resource: some(&info.resource),
        subresource: some(&info.subresource),
        namespace: some(&info.namespace),
        name: some(&info.name),
        verb: some(&info.verb),
        ..ResourceAttributes::default()
    });
    let non_resource_attributes =
        (!info.is_resource_request).then(|| NonResourceAttributes { path: some(&info.path), verb: some(&info.verb) });
    SubjectAccessReviewSpec {
        user: some(&caller.username),
        uid: caller.uid.clone(),
        groups: Some(caller.groups.clone()),
        extra: (!caller.extra.is_empty()).then(|| caller.extra.clone()),
        resource_attributes,
        non_resource_attributes,
    }
}

fn denied(caller: &Caller, info: &RequestInfo, reason: &str) -> ApiError {
    let (user, verb) = (&caller.username, &info.verb);
    let mut message = if info.is_resource_request {
        let scope = match info.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        let (resource, group) = (info.qualified_resource(), &info.api_group);
        format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}")
    } else {
        format!("User {user:?} cannot {verb} path {:?}", info.path)
    };
    if !reason.is_empty() {
        message = format!("{message}: {reason}");
    }
    if info.is_resource_request {
        ApiError::forbidden(info.subject(), &message)
    } else {
        ApiError::forbidden_path(&message)
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use rstest::rstest;

    use super::*;

    fn info(path: &str) -> RequestInfo {
        RequestInfo::new(&Method::GET, &path.parse().unwrap()).unwrap()
    }

    fn standalone() -> Authorizer {
        Authorizer::new(None, AnswerTtl::default(), HEALTH_PATHS.map(str::to_owned).to_vec())
    }

    #[rstest]
    #[case("/livez", true)]
    #[case("/readyz/ping", true)]
    #[case("/readyzzz", false)]
    #[case("/version", false)]
    #[case("/apis", false)]
    #[case("/apis/search.karmada.io/v1alpha1/livez", false)]
    #[tokio::test]
    async fn without_a_control_plane_strangers_see_health_only(#[case] path: &str, #[case] allowed: bool) {
        let outcome = standalone().authorize(&Caller::anonymous(), &info(path)).await;
        assert_eq!(outcome.is_ok(), allowed);
    }

    #[tokio::test]
    async fn administrators_may_do_everything_without_asking() {
        let admin = Caller::authenticated("admin", vec![MASTERS_GROUP.to_owned()]);
        assert!(standalone().authorize(&admin, &info("/api/v1/secrets")).await.is_ok());
    }

    #[rstest]
    #[case(
        "/apis/search.karmada.io/v1alpha1/search/cache/apis/apps/v1/deployments",
        r#"search.search.karmada.io "cache" is forbidden: User "nobody" cannot get resource "search/apis" in API group "search.karmada.io" at the cluster scope"#
    )]
    #[case(
        "/apis/search.karmada.io/v1alpha1/resourceregistries",
        r#"resourceregistries.search.karmada.io is forbidden: User "nobody" cannot list resource "resourceregistries" in API group "search.karmada.io" at the cluster scope"#
    )]
    #[case("/metrics", r#"forbidden: User "nobody" cannot get path "/metrics""#)]
    #[case(
        "/api/v1/namespaces/team/pods",
        r#"pods is forbidden: User "nobody" cannot list resource "pods" in API group "" in the namespace "team""#
    )]
    #[tokio::test]
    async fn a_refusal_reads_as_kubernetes_writes_it(#[case] path: &str, #[case] expected: &str) {
        let nobody = Caller::authenticated("nobody", Vec::new());
        let error = standalone().authorize(&nobody, &info(path)).await.unwrap_err();
        assert_eq!((error.code().as_u16(), error.to_string().as_str()), (403, expected));
    }
}
