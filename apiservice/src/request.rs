//! What a request is about, read from its method, path and query by the rules that every Kubernetes API server follows.
//!
//! In: method and URI. Out: [`RequestInfo`] (what authorization and logs speak of), [`ListOptions`] (what list and watch
//! handlers obey), [`Caller`] (who authentication found). All are plain values; nothing in here touches a socket.
//!
//! A path is split before it is decoded, so that a segment means the same to authorization and to routing. A segment
//! that could be read in two ways (`..`, an encoded slash, an empty one) is refused instead of guessed at.

use std::borrow::Cow;
use std::collections::BTreeMap;

use http::{Method, Uri};
use percent_encoding::percent_decode_str;

use crate::error::{ApiError, StatusCause, Subject};

/// The user name of a request without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of a request without credentials.
pub const UNAUTHENTICATED_GROUP: &str = "system:unauthenticated";
/// The group that every request with accepted credentials is in.
pub const AUTHENTICATED_GROUP: &str = "system:authenticated";
/// The group that may do everything.
pub const MASTERS_GROUP: &str = "system:masters";

/// Who sends a request, as authentication found. Written by authentication only; read by authorization and handlers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// User name.
    pub username: String,
    /// Unique id of the user, where the authenticator knows one.
    pub uid: Option<String>,
    /// All groups, `system:authenticated` or `system:unauthenticated` included.
    pub groups: Vec<String>,
    /// Anything else the authenticator knows, keys in lower case.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Caller {
    /// The caller of a request without credentials.
    pub fn anonymous() -> Self {
        Self {
            username: ANONYMOUS.to_owned(),
            uid: None,
            groups: vec![UNAUTHENTICATED_GROUP.to_owned()],
            extra: BTreeMap::new(),
        }
    }

    /// Whoever sent credentials that were not accepted; only for the audit log.
    pub(crate) fn unknown() -> Self {
        Self { username: String::new(), uid: None, groups: Vec::new(), extra: BTreeMap::new() }
    }

    /// A caller whose credentials were accepted; adds the group that says so, unless the groups already say what the
    /// caller is: a front proxy may pass on that it does not know the user.
    pub fn authenticated(username: impl Into<String>, mut groups: Vec<String>) -> Self {
        let username = username.into();
        let told = |group: &String| group == AUTHENTICATED_GROUP || group == UNAUTHENTICATED_GROUP;
        if username != ANONYMOUS && !groups.iter().any(told) {
            groups.push(AUTHENTICATED_GROUP.to_owned());
        }
        Self { username, uid: None, groups, extra: BTreeMap::new() }
    }

    /// Whether the caller is in `group`.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|mine| mine == group)
    }
}

/// What a request is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path names a resource of an API group; if not, only `verb` and `path` mean anything.
    pub is_resource_request: bool,
    /// The path, decoded, for authorization of non-resource paths and for logs.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for a path that is no resource,
    /// the HTTP method in lower case.
    pub verb: String,
    /// `api` or `apis`.
    pub api_prefix: String,
    /// API group, empty for the core group.
    pub api_group: String,
    /// API version.
    pub api_version: String,
    /// Namespace, empty for cluster scope or all namespaces.
    pub namespace: String,
    /// Plural resource name.
    pub resource: String,
    /// Subresource, e.g. `status`; below `search/cache` it is the path segment after `cache`.
    pub subresource: String,
    /// Object name; for lists, the name that `fieldSelector=metadata.name=…` asks for.
    pub name: String,
    /// The decoded path segments from the resource on.
    pub parts: Vec<String>,
}

impl RequestInfo {
    /// Reads what a request is about.
    ///
    /// # Errors
    /// 400 if a path segment could be read in two ways.
    pub fn new(method: &Method, uri: &Uri) -> Result<Self, ApiError> {
        let segments = split_path(uri.path())?;
        let mut info = Self {
            path: decoded_path(uri.path(), &segments),
            verb: method.as_str().to_ascii_lowercase(),
            ..Self::default()
        };
        let Some(mut rest) = info.take_group(&segments) else { return Ok(info) };
        info.is_resource_request = true;
        info.api_version = rest[0].clone();
        rest = &rest[1..];
        info.verb = verb_of(method, &mut rest)?.to_owned();
        info.take_resource(rest);
        info.refine_verb(uri.query().unwrap_or_default());
        Ok(info)
    }

    /// Whether the answer is a stream of events with no natural end.
    pub fn is_watch(&self) -> bool {
        self.is_resource_request && self.verb == "watch"
    }

    /// Whether the request can change nothing.
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb.as_str(), "get" | "list" | "watch" | "head" | "options")
    }

    /// `resource` or `resource/subresource`, as messages name it.
    pub fn qualified_resource(&self) -> Cow<'_, str> {
        if self.subresource.is_empty() {
            Cow::Borrowed(&self.resource)
        } else {
            Cow::Owned(format!("{}/{}", self.resource, self.subresource))
        }
    }

    /// The object or collection as errors name it.
    pub fn subject(&self) -> Subject<'_> {
        Subject { group: &self.api_group, resource: &self.resource, name: &self.name }
    }

    /// Eats `api` or `apis/GROUP`; `None` if what follows cannot be a resource.
    fn take_group<'a>(&mut self, segments: &'a [String]) -> Option<&'a [String]> {
        let (prefix, rest) = segments.split_first()?;
        let rest = match prefix.as_str() {
            "api" if rest.len() >= 2 => rest,
            "apis" if rest.len() >= 3 => {
                self.api_group.clone_from(&rest[0]);
                &rest[1..]
            }
            _ => return None,
        };
        self.api_prefix.clone_from(prefix);
        Some(rest)
    }

    fn take_resource(&mut self, mut rest: &[String]) {
        if rest.first().is_some_and(|segment| segment == "namespaces") && rest.len() > 1 {
            self.namespace.clone_from(&rest[1]);
            // `namespaces/NS/status` and `…/finalize` are about the Namespace itself.
            if rest.len() > 2 && rest[2] != "status" && rest[2] != "finalize" {
                rest = &rest[2..];
            }
        }
        self.parts = rest.to_vec();
        let segment = |index: usize| rest.get(index).cloned().unwrap_or_default();
        self.resource = segment(0);
        self.name = segment(1);
        // Everything behind `proxy/…` verbs is a path of its own, not a subresource.
        if self.verb != "proxy" {
            self.subresource = segment(2);
        }
    }

    fn refine_verb(&mut self, query: &str) {
        if !self.name.is_empty() {
            return;
        }
        match self.verb.as_str() {
            "get" => {
                // A query that does not parse is answered by the handler; here it only must not hide a watch.
                let options = ListOptions::parse(query).unwrap_or_default();
                self.verb = if options.watch { "watch" } else { "list" }.to_owned();
                if let Some(name) = options.selected_name() {
                    self.name = name.to_owned();
                }
            }
            "delete" => self.verb = "deletecollection".to_owned(),
            _ => {}
        }
    }
}

fn verb_of(method: &Method, rest: &mut &[String]) -> Result<&'static str, ApiError> {
    let special = match rest.first().map(String::as_str) {
        Some("proxy") => Some("proxy"),
        Some("watch") => Some("watch"),
        _ => None,
    };
    if let Some(verb) = special {
        if rest.len() < 2 {
            return Err(ApiError::bad_request("unable to determine kind and namespace from the path"));
        }
        *rest = &rest[1..];
        return Ok(verb);
    }
    Ok(match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    })
}

fn split_path(path: &str) -> Result<Vec<String>, ApiError> {
    let inner = path.strip_prefix('/').unwrap_or(path);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if inner.is_empty() {
        return Ok(Vec::new());
    }
    inner.split('/').map(decode_segment).collect()
}

fn decode_segment(raw: &str) -> Result<String, ApiError> {
    let decoded = percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| ApiError::bad_request(format!("path segment {raw:?} is not UTF-8 once decoded")))?;
    if decoded.is_empty() || decoded == "." || decoded == ".." || decoded.contains(['/', '\0']) {
        return Err(ApiError::bad_request(format!(
            "path segment {raw:?} is ambiguous: empty segments, '.', '..' and encoded slashes are not served"
        )));
    }
    Ok(decoded.into_owned())
}

fn decoded_path(raw: &str, segments: &[String]) -> String {
    let mut path = format!("/{}", segments.join("/"));
    if raw.len() > 1 && raw.ends_with('/') {
        path.push('/');
    }
    path
}

/// What a list or watch asks for, from the query string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// `labelSelector`, unparsed.
    pub label_selector: Option<String>,
    /// `fieldSelector`, unparsed.
    pub field_selector: Option<String>,
    /// `limit`; 0 is no limit.
    pub limit: i64,
    /// `continue`, empty when absent.
    pub continue_token: String,
    /// `resourceVersion`, empty when absent.
    pub resource_version: String,
    /// `resourceVersionMatch`.
    pub resource_version_match: Option<String>,
    /// `watch`.
    pub watch: bool,
    /// `allowWatchBookmarks`.
    pub allow_watch_bookmarks: bool,
    /// `sendInitialEvents`.
    pub send_initial_events: Option<bool>,
    /// `timeoutSeconds`.
    pub timeout_seconds: Option<i64>,
}

/// A query string that cannot be obeyed. Becomes an [`ApiError`] or, on the drop-in path, its message alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidQuery {
    message: String,
    cause: Option<StatusCause>,
}

impl InvalidQuery {
    fn syntax(message: String) -> Self {
        Self { message, cause: None }
    }

    fn field(field: &str, reason: &'static str, message: &str) -> Self {
        let cause = StatusCause { reason, message: message.to_owned(), field: field.to_owned() };
        Self { message: format!("{field}: {message}"), cause: Some(cause) }
    }
}

impl From<InvalidQuery> for ApiError {
    fn from(invalid: InvalidQuery) -> Self {
        match invalid.cause {
            Some(cause) => {
                let subject = Subject { group: "meta.k8s.io", resource: "listoptions", name: "" };
                Self::invalid("ListOptions", subject, vec![cause])
            }
            None => Self::bad_request(invalid.message),
        }
    }
}

impl ListOptions {
    /// Reads the query string; of a repeated parameter the first counts, unknown ones are left to others.
    ///
    /// # Errors
    /// A number that is none, worded as API servers word it.
    pub fn parse(query: &str) -> Result<Self, InvalidQuery> {
        let mut first: BTreeMap<String, String> = BTreeMap::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            first.entry(key.into_owned()).or_insert_with(|| value.into_owned());
        }
        let mut text = |key: &str| first.remove(key);
        let label_selector = text("labelSelector").filter(|value| !value.is_empty());
        let field_selector = text("fieldSelector").filter(|value| !value.is_empty());
        let limit = text("limit").map(|value| parse_int(&value)).transpose()?.unwrap_or_default();
        let timeout_seconds = text("timeoutSeconds").map(|value| parse_int(&value)).transpose()?;
        Ok(Self {
            label_selector,
            field_selector,
            limit,
            continue_token: text("continue").unwrap_or_default(),
            resource_version: text("resourceVersion").unwrap_or_default(),
            resource_version_match: text("resourceVersionMatch").filter(|value| !value.is_empty()),
            watch: text("watch").is_some_and(|value| parse_bool(&value)),
            allow_watch_bookmarks: text("allowWatchBookmarks").is_some_and(|value| parse_bool(&value)),
            send_initial_events: text("sendInitialEvents").map(|value| parse_bool(&value)),
            timeout_seconds,
        })
    }

    /// Checks that the options make sense together.
    ///
    /// # Errors
    /// Names the option that contradicts another.
    pub fn check(&self) -> Result<(), InvalidQuery> {
        if let Some(wanted) = &self.resource_version_match
            && wanted != "Exact"
            && wanted != "NotOlderThan"
        {
            let message = format!("Unsupported value: {wanted:?}: supported values: \"Exact\", \"NotOlderThan\"");
            return Err(InvalidQuery::field("resourceVersionMatch", "FieldValueNotSupported", &message));
        }
        if self.watch { self.check_watch() } else { self.check_list() }
    }

    fn check_watch(&self) -> Result<(), InvalidQuery> {
        let forbidden = |field: &str, why: &str| {
            Err(InvalidQuery::field(field, "FieldValueForbidden", &format!("Forbidden: {why}")))
        };
        match (self.send_initial_events, self.resource_version_match.as_deref()) {
            (None, Some(_)) => {
                forbidden("resourceVersionMatch", "is forbidden for watch unless sendInitialEvents is given")
            }
            (Some(_), None | Some("Exact")) => {
                forbidden("resourceVersionMatch", "must be NotOlderThan where sendInitialEvents is given")
            }
            _ => Ok(()),
        }
    }

    fn check_list(&self) -> Result<(), InvalidQuery> {
        let forbidden = |field: &str, why: &str| {
            Err(InvalidQuery::field(field, "FieldValueForbidden", &format!("Forbidden: {why}")))
        };
        if self.send_initial_events.is_some() {
            return forbidden("sendInitialEvents", "is forbidden for list");
        }
        match self.resource_version_match.as_deref() {
            Some(_) if !self.continue_token.is_empty() => {
                forbidden("resourceVersionMatch", "is forbidden when continue is given")
            }
            Some(_) if self.resource_version.is_empty() => {
                forbidden("resourceVersionMatch", "is forbidden unless resourceVersion is given")
            }
            Some("Exact") if self.resource_version == "0" => {
                forbidden("resourceVersionMatch", "\"Exact\" is forbidden for resourceVersion \"0\"")
            }
            _ => Ok(()),
        }
    }

    /// The one name that the field selector demands, if it demands one.
    pub fn selected_name(&self) -> Option<&str> {
        let selector = self.field_selector.as_deref()?;
        let name = selector.split(',').find_map(|term| {
            let rest = term.trim().strip_prefix("metadata.name")?;
            rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))
        })?;
        let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%', '\\', '=', '!']);
        plain.then_some(name)
    }
}

fn parse_int(text: &str) -> Result<i64, InvalidQuery> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    text.parse::<i64>().map_err(|error| {
        let why = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        InvalidQuery::syntax(format!("strconv.ParseInt: parsing {text:?}: {why}"))
    })
}

/// Only `false` and `0` are false: `?watch` alone is a yes.
fn parse_bool(text: &str) -> bool {
    !(text.eq_ignore_ascii_case("false") || text == "0")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn info(method: &Method, uri: &str) -> RequestInfo {
        RequestInfo::new(method, &uri.parse().unwrap()).unwrap()
    }

    const REGISTRIES: &str = "/apis/search.karmada.io/v1alpha1/resourceregistries";

    #[rstest]
    #[case(Method::GET, REGISTRIES, "list resourceregistries ''")]
    #[case(Method::HEAD, REGISTRIES, "list resourceregistries ''")]
    #[case(Method::GET, "/apis/search.karmada.io/v1alpha1/resourceregistries/", "list resourceregistries ''")]
    #[case(Method::GET, "/apis/search.karmada.io/v1alpha1/resourceregistries?watch", "watch resourceregistries ''")]
    #[case(Method::GET, "/apis/search.karmada.io/v1alpha1/resourceregistries?watch=0", "list resourceregistries ''")]
    #[case(
        Method::GET,
        "/apis/search.karmada.io/v1alpha1/resourceregistries?watch=1&fieldSelector=metadata.name%3Dweb",
        "watch resourceregistries 'web'"
    )]
    #[case(Method::GET, "/apis/search.karmada.io/v1alpha1/resourceregistries/web", "get resourceregistries 'web'")]
    #[case(
        Method::GET,
        "/apis/search.karmada.io/v1alpha1/resourceregistries/web?watch=1",
        "get resourceregistries 'web'"
    )]
    #[case(Method::PUT, "/apis/g/v1/things/web/status", "update things/status 'web'")]
    #[case(Method::PATCH, "/apis/g/v1/things/web", "patch things 'web'")]
    #[case(Method::POST, REGISTRIES, "create resourceregistries ''")]
    #[case(Method::DELETE, REGISTRIES, "deletecollection resourceregistries ''")]
    #[case(Method::DELETE, "/apis/g/v1/things/web", "delete things 'web'")]
    #[case(
        Method::GET,
        "/apis/search.karmada.io/v1alpha1/search/cache/apis/apps/v1/deployments",
        "get search/apis 'cache'"
    )]
    #[case(Method::GET, "/api/v1/namespaces/team/pods/web-1/log", "get pods/log 'web-1'")]
    #[case(Method::GET, "/api/v1/namespaces/team", "get namespaces 'team'")]
    #[case(Method::PUT, "/api/v1/namespaces/team/finalize", "update namespaces/finalize 'team'")]
    #[case(Method::GET, "/api/v1/watch/pods", "watch pods ''")]
    #[case(Method::GET, "/api/v1/nodes/ip%2D1", "get nodes 'ip-1'")]
    fn a_path_means_what_kubernetes_says(#[case] method: Method, #[case] uri: &str, #[case] expected: &str) {
        let info = info(&method, uri);
        assert!(info.is_resource_request);
        assert_eq!(format!("{} {} '{}'", info.verb, info.qualified_resource(), info.name), expected);
    }

    #[rstest]
    #[case("/", "get /")]
    #[case("/apis", "get /apis")]
    #[case("/apis/search.karmada.io/v1alpha1", "get /apis/search.karmada.io/v1alpha1")]
    #[case("/readyz/ping?verbose", "get /readyz/ping")]
    #[case("/healthz/", "get /healthz/")]
    fn a_path_without_a_resource_keeps_its_method(#[case] uri: &str, #[case] expected: &str) {
        let info = info(&Method::GET, uri);
        assert!(!info.is_resource_request);
        assert_eq!(format!("{} {}", info.verb, info.path), expected);
    }

    #[rstest]
    #[case("/healthz/../apis/g/v1/secrets")]
    #[case("/healthz/%2e%2e/apis")]
    #[case("//apis/g/v1/things")]
    #[case("/apis/g/v1/things%2Fweb")]
    #[case("/apis/g/v1//things")]
    #[case("/api/v1/pods/%ff")]
    fn a_path_that_two_parsers_could_read_differently_is_refused(#[case] uri: &str) {
        let refused = RequestInfo::new(&Method::GET, &uri.parse().unwrap()).unwrap_err();
        assert_eq!(refused.code(), 400);
    }

    #[test]
    fn list_options_are_read_whole() {
        let options = ListOptions::parse(
            "labelSelector=a%3Db&fieldSelector=metadata.name%3Dx&limit=500&limit=1&continue=abc&resourceVersion=12\
             &resourceVersionMatch=NotOlderThan&watch=true&allowWatchBookmarks&sendInitialEvents=false&timeoutSeconds=7",
        )
        .unwrap();
        let expected = ListOptions {
            label_selector: Some("a=b".to_owned()),
            field_selector: Some("metadata.name=x".to_owned()),
            limit: 500,
            continue_token: "abc".to_owned(),
            resource_version: "12".to_owned(),
            resource_version_match: Some("NotOlderThan".to_owned()),
            watch: true,
            allow_watch_bookmarks: true,
            send_initial_events: Some(false),
            timeout_seconds: Some(7),
        };
        assert_eq!(options, expected);
    }

    #[rstest]
    #[case("limit=abc", r#"strconv.ParseInt: parsing "abc": invalid syntax"#)]
    #[case("limit=", r#"strconv.ParseInt: parsing "": invalid syntax"#)]
    #[case("timeoutSeconds=1.5", r#"strconv.ParseInt: parsing "1.5": invalid syntax"#)]
    #[case("limit=99999999999999999999", r#"strconv.ParseInt: parsing "99999999999999999999": value out of range"#)]
    fn a_number_that_is_none_is_named(#[case] query: &str, #[case] expected: &str) {
        let error = ListOptions::parse(query).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(ApiError::from(error).code(), 400);
    }

    #[rstest]
    #[case("watch=1&resourceVersionMatch=NotOlderThan", Some("resourceVersionMatch"))]
    #[case("watch=1&sendInitialEvents=true", Some("resourceVersionMatch"))]
    #[case("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan", None)]
    #[case("sendInitialEvents=true", Some("sendInitialEvents"))]
    #[case("resourceVersionMatch=Exact", Some("resourceVersionMatch"))]
    #[case("resourceVersionMatch=Exact&resourceVersion=0", Some("resourceVersionMatch"))]
    #[case("resourceVersionMatch=Exact&resourceVersion=5", None)]
    #[case("resourceVersionMatch=Newest&resourceVersion=5", Some("resourceVersionMatch"))]
    #[case("resourceVersionMatch=NotOlderThan&resourceVersion=5&continue=x", Some("resourceVersionMatch"))]
    fn contradicting_options_are_named(#[case] query: &str, #[case] field: Option<&str>) {
        let checked = ListOptions::parse(query).unwrap().check();
        assert_eq!(checked.as_ref().err().and_then(|e| e.cause.as_ref()).map(|c| c.field.as_str()), field);
        if let Err(error) = checked {
            assert_eq!(ApiError::from(error).code(), 422);
        }
    }

    proptest! {
        #[test]
        fn no_path_or_query_panics(path in "/[ -~]{0,60}", query in "[ -~]{0,60}") {
            let uri = Uri::builder().path_and_query(format!("{path}?{query}")).build();
            if let Ok(uri) = uri {
                let _ = RequestInfo::new(&Method::GET, &uri);
            }
            let _ = ListOptions::parse(&query).map(|options| options.check());
        }

        #[test]
        fn a_resource_path_never_passes_for_a_health_path(tail in "[a-z./%0-9]{0,40}") {
            if let Ok(uri) = format!("/apis/search.karmada.io/v1alpha1/search/{tail}").parse::<Uri>()
                && let Ok(info) = RequestInfo::new(&Method::GET, &uri)
            {
                prop_assert!(info.is_resource_request);
                prop_assert_eq!(info.resource, "search");
            }
        }
    }
}
