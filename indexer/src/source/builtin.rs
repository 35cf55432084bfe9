//! The kinds that come with Kubernetes: plural names and scopes, for where no API server can be asked.

use crate::resource::{ApiResource, GroupVersionResource};

/// (group, versions, plural, kind, namespaced)
type Row = (&'static str, &'static [&'static str], &'static str, &'static str, bool);

const KINDS: &[Row] = &[
    ("", &["v1"], "bindings", "Binding", true),
    ("", &["v1"], "configmaps", "ConfigMap", true),
    ("", &["v1"], "endpoints", "Endpoints", true),
    ("", &["v1"], "events", "Event", true),
    ("", &["v1"], "limitranges", "LimitRange", true),
    ("", &["v1"], "namespaces", "Namespace", false),
    ("", &["v1"], "nodes", "Node", false),
    ("", &["v1"], "persistentvolumeclaims", "PersistentVolumeClaim", true),
    ("", &["v1"], "persistentvolumes", "PersistentVolume", false),
    ("", &["v1"], "pods", "Pod", true),
    ("", &["v1"], "podtemplates", "PodTemplate", true),
    ("", &["v1"], "replicationcontrollers", "ReplicationController", true),
    ("", &["v1"], "resourcequotas", "ResourceQuota", true),
    ("", &["v1"], "secrets", "Secret", true),
    ("", &["v1"], "serviceaccounts", "ServiceAccount", true),
    ("", &["v1"], "services", "Service", true),
    ("admissionregistration.k8s.io", &["v1"], "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", false),
    ("admissionregistration.k8s.io", &["v1"], "validatingadmissionpolicies", "ValidatingAdmissionPolicy", false),
    (
        "admissionregistration.k8s.io",
        &["v1"],
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        false,
    ),
    (
        "admissionregistration.k8s.io",
        &["v1"],
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        false,
    ),
    ("apiextensions.k8s.io", &["v1"], "customresourcedefinitions", "CustomResourceDefinition", false),
    ("apiregistration.k8s.io", &["v1"], "apiservices", "APIService", false),
    ("apps", &["v1"], "controllerrevisions", "ControllerRevision", true),
    ("apps", &["v1"], "daemonsets", "DaemonSet", true),
    ("apps", &["v1"], "deployments", "Deployment", true),
    ("apps", &["v1"], "replicasets", "ReplicaSet", true),
    ("apps", &["v1"], "statefulsets", "StatefulSet", true),
    ("autoscaling", &["v1", "v2"], "horizontalpodautoscalers", "HorizontalPodAutoscaler", true),
    ("batch", &["v1"], "cronjobs", "CronJob", true),
    ("batch", &["v1"], "jobs", "Job", true),
    ("certificates.k8s.io", &["v1"], "certificatesigningrequests", "CertificateSigningRequest", false),
    ("coordination.k8s.io", &["v1"], "leases", "Lease", true),
    ("discovery.k8s.io", &["v1"], "endpointslices", "EndpointSlice", true),
    ("events.k8s.io", &["v1"], "events", "Event", true),
    ("flowcontrol.apiserver.k8s.io", &["v1"], "flowschemas", "FlowSchema", false),
    ("flowcontrol.apiserver.k8s.io", &["v1"], "prioritylevelconfigurations", "PriorityLevelConfiguration", false),
    ("networking.k8s.io", &["v1"], "ingressclasses", "IngressClass", false),
    ("networking.k8s.io", &["v1"], "ingresses", "Ingress", true),
    ("networking.k8s.io", &["v1"], "networkpolicies", "NetworkPolicy", true),
    ("node.k8s.io", &["v1"], "runtimeclasses", "RuntimeClass", false),
    ("policy", &["v1"], "poddisruptionbudgets", "PodDisruptionBudget", true),
    ("rbac.authorization.k8s.io", &["v1"], "clusterrolebindings", "ClusterRoleBinding", false),
    ("rbac.authorization.k8s.io", &["v1"], "clusterroles", "ClusterRole", false),
    ("rbac.authorization.k8s.io", &["v1"], "rolebindings", "RoleBinding", true),
    ("rbac.authorization.k8s.io", &["v1"], "roles", "Role", true),
    ("scheduling.k8s.io", &["v1"], "priorityclasses", "PriorityClass", false),
    ("storage.k8s.io", &["v1"], "csidrivers", "CSIDriver", false),
    ("storage.k8s.io", &["v1"], "csinodes", "CSINode", false),
    ("storage.k8s.io", &["v1"], "csistoragecapacities", "CSIStorageCapacity", true),
    ("storage.k8s.io", &["v1"], "storageclasses", "StorageClass", false),
    ("storage.k8s.io", &["v1"], "volumeattachments", "VolumeAttachment", false),
];

fn describe(row: &Row, version: &str) -> ApiResource {
    let (group, _, plural, kind, namespaced) = *row;
    ApiResource {
        gvr: GroupVersionResource::new(group, version, plural),
        kind: kind.into(),
        namespaced,
        // A binding is created and never read.
        watchable: kind != "Binding",
    }
}

/// The built-in resource of this name, in a version that Kubernetes has.
pub fn built_in_resource(resource: &GroupVersionResource) -> Option<ApiResource> {
    KINDS
        .iter()
        .find(|(group, versions, plural, ..)| {
            *group == &*resource.group && *plural == &*resource.resource && versions.contains(&&*resource.version)
        })
        .map(|row| describe(row, &resource.version))
}

/// Whether a group comes with Kubernetes, so that no CustomResourceDefinition describes its kinds.
pub fn is_built_in_group(group: &str) -> bool {
    KINDS.iter().any(|row| row.0 == group)
}

/// The built-in resource of this kind, whatever the version.
pub fn built_in_kind(group: &str, version: &str, kind: &str) -> Option<ApiResource> {
    KINDS.iter().find(|row| row.0 == group && row.3 == kind).map(|row| describe(row, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_kinds_are_found_by_either_name() {
        let ingress = built_in_kind("networking.k8s.io", "v1", "Ingress").unwrap();
        assert_eq!((&*ingress.gvr.resource, ingress.namespaced), ("ingresses", true));
        assert_eq!(&*built_in_resource(&ingress.gvr).unwrap().kind, "Ingress");
        assert!(built_in_resource(&GroupVersionResource::new("apps", "v9", "deployments")).is_none());
        assert!(built_in_kind("", "v1", "Deployment").is_none());
    }
}
