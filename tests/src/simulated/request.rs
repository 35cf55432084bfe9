//! What is asked of a cluster: which collection or object, and how.

use super::answer::Problem;
use super::kinds::Kind;

/// What a path below a cluster leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Version,
    Health,
    Discovery { core: bool },
    Objects { kind: Kind, namespace: Option<String>, name: Option<String> },
}

impl Kind {
    fn objects(self, namespace: Option<&str>, name: Option<&str>) -> Option<Target> {
        // Only a whole collection may be named without its namespace.
        let fits =
            if self.description().namespaced { namespace.is_some() || name.is_none() } else { namespace.is_none() };
        fits.then(|| Target::Objects {
            kind: self,
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        })
    }
}

impl Target {
    /// Where a path leads, in a cluster that serves so many kinds.
    pub(crate) fn parse(kinds: usize, path: &[&str]) -> Option<Self> {
        let (group, version, rest) = match path {
            ["version"] => return Some(Self::Version),
            ["healthz" | "livez" | "readyz"] => return Some(Self::Health),
            ["api"] => return Some(Self::Discovery { core: true }),
            ["apis"] => return Some(Self::Discovery { core: false }),
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let kind = |resource: &str| Kind::find(kinds, group, version, resource);
        match rest {
            ["namespaces", namespace, resource] => kind(resource)?.objects(Some(namespace), None),
            ["namespaces", namespace, resource, name] => kind(resource)?.objects(Some(namespace), Some(name)),
            [resource] => kind(resource)?.objects(None, None),
            [resource, name] => kind(resource)?.objects(None, Some(name)),
            _ => None,
        }
    }
}

/// The parameters of a list or a watch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Parameters {
    pub(crate) watch: bool,
    pub(crate) limit: usize,
    /// Empty for none.
    pub(crate) token: String,
    /// 0 for whichever.
    pub(crate) version: usize,
    pub(crate) matching: String,
    pub(crate) bookmarks: bool,
    pub(crate) seconds: Option<u64>,
    pub(crate) initial_events: bool,
}

impl Parameters {
    /// Reads a query.
    ///
    /// # Errors
    /// What API servers refuse too, and what would be answered wrongly here.
    pub(crate) fn parse(query: &str) -> Result<Self, Problem> {
        let mut read = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let flag = || matches!(&*value, "true" | "1");
            match &*name {
                "watch" => read.watch = flag(),
                "allowWatchBookmarks" => read.bookmarks = flag(),
                "sendInitialEvents" => read.initial_events = flag(),
                "limit" => read.limit = number(&name, &value)?.unwrap_or(0),
                "resourceVersion" => read.version = number(&name, &value)?.unwrap_or(0),
                "timeoutSeconds" => read.seconds = number(&name, &value)?.map(|seconds| seconds as u64),
                "continue" => read.token = value.into_owned(),
                "resourceVersionMatch" => read.matching = value.into_owned(),
                "labelSelector" | "fieldSelector" if !value.is_empty() => {
                    return Err(Problem::bad_request(format!("{name} is not supported by simulated clusters")));
                }
                // API servers pass over what they don't know as well.
                _ => {}
            }
        }
        if read.initial_events && !(read.watch && read.matching == "NotOlderThan") {
            let message = "sendInitialEvents: Forbidden: it is for watches with resourceVersionMatch=NotOlderThan";
            return Err(Problem::invalid(message));
        }
        Ok(read)
    }
}

fn number(name: &str, value: &str) -> Result<Option<usize>, Problem> {
    if value.is_empty() {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|_| Problem::bad_request(format!("{name}: {value:?} is no number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Option<Target> {
        Target::parse(5, &path.split('/').collect::<Vec<_>>())
    }

    #[test]
    fn paths_lead_to_what_is_served_there() {
        let objects = |kind, namespace: Option<&str>, name: Option<&str>| {
            let (namespace, name) = (namespace.map(str::to_owned), name.map(str::to_owned));
            Some(Target::Objects { kind, namespace, name })
        };
        assert_eq!(target("api/v1/pods"), objects(Kind::PODS, None, None));
        assert_eq!(target("api/v1/namespaces/a/pods/b"), objects(Kind::PODS, Some("a"), Some("b")));
        assert_eq!(target("apis/apps/v1/namespaces/a/deployments"), objects(Kind(1), Some("a"), None));
        assert_eq!(target("api/v1/nodes/b"), objects(Kind::NODES, None, Some("b")));
        for wrong in [
            "api/v1/pods/b",
            "api/v1/namespaces/a/nodes",
            "apis/apps/v1/replicasets",
            "apis/apps/v1/pods",
            "api/v1",
            "x",
        ] {
            assert_eq!(target(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_answered_as_asked_is_refused() {
        let refused = ["limit=x", "labelSelector=a%3Db", "watch=1&sendInitialEvents=1", "sendInitialEvents=true"];
        for query in refused {
            assert!(Parameters::parse(query).is_err(), "{query}");
        }
        let read = Parameters::parse("watch=true&resourceVersion=&timeoutSeconds=7&unknown=1").unwrap();
        assert_eq!(read, Parameters { watch: true, seconds: Some(7), ..Parameters::default() });
    }
}
