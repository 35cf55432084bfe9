//! Which answers below `search` may take any time.
//!
//! In: what a request is about. Out: whether it is a watch, as the routes themselves read it.

use apiservice::request::{ListOptions, RequestInfo};

/// Whether the answer to a request below `search` may take any time: watches of caches and of queries do.
pub(super) fn is_long_running(info: &RequestInfo, query: Option<&str>) -> bool {
    let watches = |query: &str| ListOptions::parse(query).is_ok_and(|options| options.watch);
    query
        .is_some_and(|query| (is_cached_collection(info) && watches(query)) || (is_query(info) && watches_query(query)))
}

/// As the query's own route reads it: other parameters, or what is wrong with them, make no difference.
fn watches_query(query: &str) -> bool {
    let watch = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "watch");
    watch.is_some_and(|(_, value)| matches!(&*value, "" | "1" | "true"))
}

/// Whether the path is that of a query over all kinds.
fn is_query(info: &RequestInfo) -> bool {
    info.is_resource_request && info.is_read_only() && info.parts == ["search", "query"]
}

/// Whether a path below `search/cache` is that of many objects: one that names an object is read, whatever it says.
fn is_cached_collection(info: &RequestInfo) -> bool {
    let parts: Vec<&str> = info.parts.iter().map(String::as_str).collect();
    let below = match parts.as_slice() {
        ["search", "cache", "api", _version, below @ ..] => below,
        ["search", "cache", "apis", _group, _version, below @ ..] => below,
        _ => return false,
    };
    let below = match below {
        ["namespaces", _namespace, inner @ ..] if !inner.is_empty() => inner,
        below => below,
    };
    info.is_resource_request && info.is_read_only() && below.len() == 1
}

#[cfg(test)]
mod tests {
    use http::Method;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("cache/api/v1/pods?watch=true", true)]
    #[case("cache/apis/apps/v1/namespaces/shop/deployments?watch", true)]
    #[case("cache/api/v1/namespaces?watch=1", true)]
    #[case("cache/api/v1/pods?watch=False", false)]
    #[case("cache/api/v1/pods?watch=0&watch=1", false)]
    #[case("cache/api/v1/namespaces/shop/pods/web?watch=1", false)]
    #[case("cache/api/v1/namespaces/shop?watch=1", false)]
    #[case("cache/api/v1/nodes/one?watch=1", false)]
    #[case("query?q=kind:Pod&watch=1", true)]
    #[case("query?watch=true&limit=&timeoutSeconds=", true)]
    #[case("query?watch=false", false)]
    #[case("query/more?watch=1", false)]
    #[case("facets?watch=1", false)]
    #[case("cache/api/v1/pods", false)]
    fn only_real_watches_are_free_of_limits_and_deadlines(#[case] path: &str, #[case] expected: bool) {
        let uri: http::Uri = format!("{}/search/{path}", apiservice::GROUP_VERSION_PATH).parse().unwrap();
        let info = RequestInfo::new(&Method::GET, &uri).unwrap();
        assert_eq!(is_long_running(&info, uri.query()), expected);
    }
}
