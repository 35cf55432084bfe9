//! What a path below `search/cache` asks for.
//!
//! Pure: the path's segments in, a [`CachePath`] out, or the refusal in the words that callers of the drop-in know.

use apiservice::error::ApiError;
use indexer::resource::GroupVersionResource;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CachePath {
    /// Objects of one resource.
    Objects {
        /// The resource.
        resource: GroupVersionResource,
        /// Its namespace, if one is named.
        namespace: Option<String>,
        /// Its name, if one is named.
        name: Option<String>,
    },
    /// `api`: the versions of the core group.
    CoreVersions,
    /// `apis`: all groups.
    Groups,
    /// `apis/GROUP`: one group.
    Group(String),
    /// `api/VERSION` or `apis/GROUP/VERSION`: its resources.
    Resources {
        /// Group, empty for the core group.
        group: String,
        /// Version.
        version: String,
    },
    /// `version`
    Version,
    /// `openapi/v2`
    OpenApiV2,
    /// `openapi/v3` and the documents below it, named by group and version.
    OpenApiV3(Option<(String, String)>),
}

impl CachePath {
    /// Reads the part of a path behind `search/cache/`.
    pub(super) fn parse(rest: &str) -> Result<Self, ApiError> {
        let segments: Vec<&str> = rest.split('/').filter(|segment| !segment.is_empty()).collect();
        let owned = |text: &&str| (*text).to_owned();
        match segments.as_slice() {
            [] => Err(ApiError::unroutable("invalid requestInfo parts: [search cache]")),
            ["version"] => Ok(Self::Version),
            ["openapi", "v2"] => Ok(Self::OpenApiV2),
            ["openapi", "v3"] => Ok(Self::OpenApiV3(None)),
            ["openapi", "v3", "api", version] => Ok(Self::OpenApiV3(Some((String::new(), owned(version))))),
            ["openapi", "v3", "apis", group, version] => Ok(Self::OpenApiV3(Some((owned(group), owned(version))))),
            ["api"] => Ok(Self::CoreVersions),
            ["apis"] => Ok(Self::Groups),
            ["api", version] => Ok(Self::Resources { group: String::new(), version: owned(version) }),
            ["apis", group] => Ok(Self::Group(owned(group))),
            ["apis", group, version] => Ok(Self::Resources { group: owned(group), version: owned(version) }),
            ["api", version, objects @ ..] => Self::objects("", version, objects),
            ["apis", group, version, objects @ ..] => Self::objects(group, version, objects),
            _ => Err(ApiError::unroutable(format!(
                "k8s native Request URL({}) is not a resource request",
                segments.join("/")
            ))),
        }
    }

    fn objects(group: &str, version: &str, segments: &[&str]) -> Result<Self, ApiError> {
        // `namespaces/NAME` is the Namespace itself; only a third segment makes it a place.
        let (namespace, named) = match segments {
            ["namespaces", namespace, named @ ..] if !named.is_empty() => (Some((*namespace).to_owned()), named),
            named => (None, named),
        };
        match named {
            [resource] => Ok((resource, None)),
            [resource, name] => Ok((resource, Some((*name).to_owned()))),
            more => Err(ApiError::unroutable(format!(
                "invalid request parts([{}]) for k8s native request URL",
                more.join(" ")
            ))),
        }
        .map(|(resource, name)| Self::Objects {
            resource: GroupVersionResource::new(group, version, resource),
            namespace,
            name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(group: &str, resource: &str, namespace: Option<&str>, name: Option<&str>) -> CachePath {
        CachePath::Objects {
            resource: GroupVersionResource::new(group, "v1", resource),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        }
    }

    #[test]
    fn lists_and_names_are_told_apart_with_and_without_a_namespace() {
        let parse = |path| CachePath::parse(path).unwrap();
        assert_eq!(parse("apis/apps/v1/deployments"), objects("apps", "deployments", None, None));
        assert_eq!(parse("api/v1/namespaces/a/pods/p"), objects("", "pods", Some("a"), Some("p")));
        assert_eq!(parse("api/v1/nodes/n"), objects("", "nodes", None, Some("n")));
        assert_eq!(parse("api/v1/namespaces"), objects("", "namespaces", None, None));
        assert_eq!(parse("api/v1/namespaces/a"), objects("", "namespaces", None, Some("a")));
    }

    #[test]
    fn paths_that_name_no_objects_are_refused_in_known_words() {
        let refusal = |path| CachePath::parse(path).unwrap_err().to_string();
        assert_eq!(
            refusal("apis/apps/v1/namespaces/team-000/deployments/app-000/status"),
            "invalid request parts([deployments app-000 status]) for k8s native request URL"
        );
        assert_eq!(refusal(""), "invalid requestInfo parts: [search cache]");
        assert_eq!(refusal("foo/bar"), "k8s native Request URL(foo/bar) is not a resource request");
    }

    #[test]
    fn the_root_of_an_api_server_is_there_for_kubectl() {
        assert_eq!(CachePath::parse("api").unwrap(), CachePath::CoreVersions);
        assert_eq!(CachePath::parse("apis").unwrap(), CachePath::Groups);
        let core = CachePath::Resources { group: String::new(), version: "v1".into() };
        assert_eq!(CachePath::parse("api/v1").unwrap(), core);
        assert_eq!(
            CachePath::parse("openapi/v3/apis/apps/v1").unwrap(),
            CachePath::OpenApiV3(Some(("apps".into(), "v1".into())))
        );
    }
}
