//! The kinds that clusters serve, under their true groups, versions and scopes.

/// A kind, by its place among all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind(pub(crate) usize);

/// What is known of a kind.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) resource: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) namespaced: bool,
    pub(crate) template: &'static str,
}

impl Description {
    /// `group/version`, as objects say it.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }
}

const fn described(
    resource: &'static str,
    singular: &'static str,
    kind: &'static str,
    group: &'static str,
    template: &'static str,
) -> Description {
    Description { resource, singular, kind, group, version: "v1", namespaced: true, template }
}

/// All of them, in the order in which `--kinds` adds them.
pub(crate) const ALL: [Description; 10] = [
    described("pods", "pod", "Pod", "", include_str!("templates/pod.json")),
    described("deployments", "deployment", "Deployment", "apps", include_str!("templates/deployment.json")),
    described("services", "service", "Service", "", include_str!("templates/service.json")),
    described("configmaps", "configmap", "ConfigMap", "", include_str!("templates/configmap.json")),
    Description { namespaced: false, ..described("nodes", "node", "Node", "", include_str!("templates/node.json")) },
    described("replicasets", "replicaset", "ReplicaSet", "apps", include_str!("templates/replicaset.json")),
    described("statefulsets", "statefulset", "StatefulSet", "apps", include_str!("templates/statefulset.json")),
    described("daemonsets", "daemonset", "DaemonSet", "apps", include_str!("templates/daemonset.json")),
    described("jobs", "job", "Job", "batch", include_str!("templates/job.json")),
    described("ingresses", "ingress", "Ingress", "networking.k8s.io", include_str!("templates/ingress.json")),
];

impl Kind {
    /// The one that changes.
    pub(crate) const PODS: Self = Self(0);
    /// What pods are owned by.
    pub(crate) const REPLICA_SETS: Self = Self(5);
    /// What has no namespace.
    pub(crate) const NODES: Self = Self(4);

    pub(crate) fn description(self) -> &'static Description {
        &ALL[self.0 % ALL.len()]
    }

    /// Another kind, which a server that mixes them up takes instead.
    pub(crate) fn other(self) -> Self {
        Self((self.0 + 1) % ALL.len())
    }

    /// The kind of a resource, among the first so many.
    pub(crate) fn find(served: usize, group: &str, version: &str, resource: &str) -> Option<Self> {
        let is_it =
            |known: &Description| known.group == group && known.version == version && known.resource == resource;
        ALL.iter().take(served).position(is_it).map(Self)
    }
}
