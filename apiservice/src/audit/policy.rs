//! Which requests are recorded, and how much of them: a `Policy` of `audit.k8s.io/v1`.
//!
//! Pure: a file's text in, a decision for a caller and a request out. The first rule that fits decides; a request that
//! no rule fits is not recorded.

use std::path::Path;

use serde::Deserialize;

use super::AuditError;
use crate::request::{Caller, RequestInfo};

/// How much of a request is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) enum Level {
    /// Nothing.
    None,
    /// Who, what, when, and the answer's code.
    Metadata,
    /// Also the request's body.
    Request,
    /// Also the answer's body.
    RequestResponse,
}

impl Level {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// When an event is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Stage {
    /// Before the request is handled.
    RequestReceived,
    /// The answer's head was sent, its body follows; only for watches.
    ResponseStarted,
    /// The answer was sent.
    ResponseComplete,
    /// Handling it panicked.
    Panic,
}

impl Stage {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// What the policy says of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) level: Level,
    pub(super) omits_managed_fields: bool,
    omitted: Vec<Stage>,
}

impl Decision {
    pub(super) fn wants(&self, stage: Stage) -> bool {
        !self.omitted.contains(&stage)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Policy {
    api_version: String,
    kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "policies may carry a name, which decides nothing")]
    metadata: serde::de::IgnoredAny,
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

impl Policy {
    pub(super) fn from_file(path: &Path) -> Result<Self, AuditError> {
        let failed = |why: String| AuditError::Policy { path: path.to_owned(), why };
        let text = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        Self::read(&text).map_err(failed)
    }

    fn read(text: &[u8]) -> Result<Self, String> {
        let policy: Self = serde_yaml::from_slice(text).map_err(|error| error.to_string())?;
        if policy.kind != "Policy" || policy.api_version != "audit.k8s.io/v1" {
            return Err(format!("is a {} of {}, not a Policy of audit.k8s.io/v1", policy.kind, policy.api_version));
        }
        if policy.rules.is_empty() {
            return Err("has no rules, so that nothing would be recorded".to_owned());
        }
        for (at, rule) in policy.rules.iter().enumerate() {
            rule.check().map_err(|why| format!("rules[{at}]: {why}"))?;
        }
        Ok(policy)
    }

    /// What is recorded of this request; none if nothing.
    pub(super) fn decide(&self, caller: &Caller, info: &RequestInfo) -> Option<Decision> {
        let rule = self.rules.iter().find(|rule| rule.fits(caller, info)).filter(|rule| rule.level > Level::None)?;
        Some(Decision {
            level: rule.level,
            omits_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
            omitted: self.omit_stages.iter().chain(&rule.omit_stages).copied().collect(),
        })
    }
}

/// Whether a list is empty, which means everything, or holds the word.
fn allows(list: &[String], word: &str) -> bool {
    list.is_empty() || list.iter().any(|entry| entry == word)
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        let speaks_of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if speaks_of_resources && !self.non_resource_urls.is_empty() {
            return Err("speaks of both resources and nonResourceURLs, so that it would fit nothing".to_owned());
        }
        let misplaced = |url: &&String| {
            url.as_str() != "*" && (!url.starts_with('/') || url.strip_suffix('*').unwrap_or(url).contains('*'))
        };
        if let Some(url) = self.non_resource_urls.iter().find(misplaced) {
            return Err(format!("nonResourceURLs: {url:?} must begin with a slash and may end with an asterisk"));
        }
        Ok(())
    }

    fn fits(&self, caller: &Caller, info: &RequestInfo) -> bool {
        let in_group = || self.user_groups.iter().any(|group| caller.groups.contains(group));
        if !allows(&self.users, &caller.username) || !(self.user_groups.is_empty() || in_group()) {
            return false;
        }
        if !allows(&self.verbs, &info.verb) && !self.verbs.iter().any(|verb| verb == "*") {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource_request && self.fits_resource(info);
        }
        if !self.non_resource_urls.is_empty() {
            return !info.is_resource_request && self.non_resource_urls.iter().any(|url| fits_path(url, &info.path));
        }
        true
    }

    fn fits_resource(&self, info: &RequestInfo) -> bool {
        allows(&self.namespaces, &info.namespace)
            && (self.resources.is_empty() || self.resources.iter().any(|resources| resources.fit(info)))
    }
}

impl GroupResources {
    fn fit(&self, info: &RequestInfo) -> bool {
        if self.group != info.api_group || !allows(&self.resource_names, &info.name) {
            return false;
        }
        let whole = match info.subresource.as_str() {
            "" => info.resource.clone(),
            subresource => format!("{}/{subresource}", info.resource),
        };
        let fits = |pattern: &String| {
            let (resource, subresource) = pattern.split_once('/').unwrap_or((pattern, ""));
            pattern == "*"
                || *pattern == whole
                || (resource == "*" && !subresource.is_empty() && subresource == info.subresource)
                || (subresource == "*" && resource == info.resource)
        };
        self.resources.is_empty() || self.resources.iter().any(fits)
    }
}

fn fits_path(pattern: &str, path: &str) -> bool {
    pattern == "*" || pattern == path || pattern.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

#[cfg(test)]
mod tests {
    use http::Method;
    use rstest::rstest;

    use super::*;

    fn policy(rules: &str) -> Policy {
        Policy::read(format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: {rules}").as_bytes()).unwrap()
    }

    fn level(policy: &Policy, user: &str, method: &str, path: &str) -> Option<Level> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let info = RequestInfo::new(&method, &path.parse().unwrap()).unwrap();
        policy.decide(&Caller::authenticated(user, vec!["team-a".to_owned()]), &info).map(|decision| decision.level)
    }

    const REGISTRY: &str = "/apis/search.karmada.io/v1alpha1/resourceregistries/a";
    const CACHE: &str = "/apis/search.karmada.io/v1alpha1/search/cache/apis/apps/v1/deployments";

    #[rstest]
    #[case("[{level: Metadata}]", "GET", REGISTRY, Some(Level::Metadata))]
    #[case("[{level: None, users: [ann]}, {level: Metadata}]", "GET", REGISTRY, None)]
    #[case("[{level: None, users: [bob]}, {level: Metadata}]", "GET", REGISTRY, Some(Level::Metadata))]
    #[case("[{level: Request, userGroups: [team-a]}]", "GET", REGISTRY, Some(Level::Request))]
    #[case("[{level: Request, userGroups: [team-b]}]", "GET", REGISTRY, None)]
    #[case("[{level: Request, verbs: [update, '*']}]", "GET", REGISTRY, Some(Level::Request))]
    #[case("[{level: Request, verbs: [update]}]", "GET", REGISTRY, None)]
    #[case("[{level: Request, resources: [{group: search.karmada.io}]}]", "PUT", REGISTRY, Some(Level::Request))]
    #[case("[{level: Request, resources: [{group: ''}]}]", "PUT", REGISTRY, None)]
    #[case(
        "[{level: Request, resources: [{group: search.karmada.io, resources: [search/apis]}]}]",
        "GET",
        CACHE,
        Some(Level::Request)
    )]
    #[case("[{level: Request, resources: [{group: search.karmada.io, resources: [search]}]}]", "GET", CACHE, None)]
    #[case(
        "[{level: Request, resources: [{group: search.karmada.io, resources: ['search/*']}]}]",
        "GET",
        CACHE,
        Some(Level::Request)
    )]
    #[case("[{level: Request, resources: [{group: search.karmada.io, resourceNames: [b]}]}]", "PUT", REGISTRY, None)]
    #[case("[{level: Metadata, nonResourceURLs: [/readyz*]}]", "GET", "/readyz/etcd", Some(Level::Metadata))]
    #[case("[{level: Metadata, nonResourceURLs: [/readyz*]}]", "GET", REGISTRY, None)]
    #[case("[{level: Metadata, namespaces: [shop]}]", "GET", "/readyz", None)]
    fn the_first_rule_that_fits_decides(
        #[case] rules: &str,
        #[case] method: &str,
        #[case] path: &str,
        #[case] expected: Option<Level>,
    ) {
        assert_eq!(level(&policy(rules), "ann", method, path), expected);
    }

    #[test]
    fn stages_left_out_by_the_policy_and_by_the_rule_add_up() {
        let text = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nomitManagedFields: true\nrules: [{level: Metadata, omitStages: [Panic]}]";
        let policy = Policy::read(text.as_bytes()).unwrap();
        let info = RequestInfo::new(&Method::GET, &"/version".parse().unwrap()).unwrap();
        let decision = policy.decide(&Caller::anonymous(), &info).unwrap();
        assert!(decision.omits_managed_fields && decision.wants(Stage::ResponseComplete));
        assert!(!decision.wants(Stage::RequestReceived) && !decision.wants(Stage::Panic));
    }

    #[rstest]
    #[case("kind: Policy\napiVersion: audit.k8s.io/v1beta1\nrules: [{level: None}]", "not a Policy")]
    #[case("kind: Policy\napiVersion: audit.k8s.io/v1\nrules: []", "no rules")]
    #[case("kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: Everything}]", "Everything")]
    #[case(
        "kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: None, namespaces: [a], nonResourceURLs: ['/x']}]",
        "rules[0]"
    )]
    #[case("kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: None, nonResourceURLs: ['/x*y']}]", "asterisk")]
    fn a_policy_that_makes_no_sense_is_refused(#[case] text: &str, #[case] says: &str) {
        let error = Policy::read(text.as_bytes()).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}
