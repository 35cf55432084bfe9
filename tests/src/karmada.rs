//! What a Karmada control plane adds to an API server, as far as Fleetglass looks at it: `Cluster` objects and their Secrets.

use std::time::Duration;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::api_server::{ADMIN_TOKEN, ApiServer};
use crate::eventually;
use crate::kubectl::Kubectl;

/// The namespace of the clusters' Secrets.
pub const NAMESPACE: &str = "karmada-cluster";

/// The definition of `clusters.cluster.karmada.io`, open for any spec and status.
pub fn cluster_definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "clusters.cluster.karmada.io" },
        "spec": {
            "group": "cluster.karmada.io", "scope": "Cluster",
            "names": { "plural": "clusters", "singular": "cluster", "kind": "Cluster", "listKind": "ClusterList" },
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true, "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": { "type": "object", "properties": {
                    "spec": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                    "status": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                } } },
            }],
        },
    })
}

/// A control plane that knows clusters.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    kubectl: Kubectl,
}

impl ControlPlane {
    /// Teaches an API server what clusters are.
    ///
    /// # Errors
    /// If it refuses.
    pub async fn install(kubectl: Kubectl) -> Result<Self> {
        kubectl.apply(&cluster_definition().to_string()).await?;
        kubectl
            .run(&["wait", "--for=condition=Established", "crd/clusters.cluster.karmada.io", "--timeout=120s"])
            .await?;
        // Established is not yet served.
        let served = async || kubectl.run(&["get", "clusters.cluster.karmada.io"]).await.map(drop);
        eventually(Duration::from_secs(60), served).await?;
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
        kubectl.apply(&namespace.to_string()).await?;
        Ok(Self { kubectl })
    }

    /// Joins a member with its administrator's token; it is ready at once.
    ///
    /// # Errors
    /// If the control plane refuses.
    pub async fn join(&self, member: &ApiServer) -> Result<()> {
        self.join_as(&member.name, &member.url, ADMIN_TOKEN, Some(&member.authority)).await
    }

    /// Joins any endpoint under a name. Without an authority its certificate is not checked.
    ///
    /// # Errors
    /// If the control plane refuses.
    pub async fn join_as(&self, name: &str, url: &str, token: &str, authority: Option<&str>) -> Result<()> {
        self.set_secret(name, token, authority).await?;
        let cluster = json!({
            "apiVersion": "cluster.karmada.io/v1alpha1", "kind": "Cluster", "metadata": { "name": name },
            "spec": {
                "apiEndpoint": url, "syncMode": "Push", "provider": "acme", "region": "north",
                "secretRef": { "namespace": NAMESPACE, "name": name },
                "insecureSkipTLSVerification": authority.is_none(),
            },
        });
        self.kubectl.apply(&cluster.to_string()).await?;
        self.set_ready(name, true).await
    }

    /// Writes the Secret of a member, which is how its token is rotated.
    ///
    /// # Errors
    /// If the control plane refuses.
    pub async fn set_secret(&self, name: &str, token: &str, authority: Option<&str>) -> Result<()> {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": NAMESPACE },
            "data": { "token": STANDARD.encode(token), "caBundle": STANDARD.encode(authority.unwrap_or_default()) },
        });
        self.kubectl.apply(&secret.to_string()).await
    }

    /// Sets a member's Ready condition.
    ///
    /// # Errors
    /// If the control plane refuses.
    pub async fn set_ready(&self, name: &str, ready: bool) -> Result<()> {
        let status = if ready { "True" } else { "False" };
        let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())?.to_string();
        let patch = json!({ "status": { "conditions": [{
            "type": "Ready", "status": status, "reason": "Testbed", "message": "set by a test", "lastTransitionTime": now,
        }] } });
        let arguments =
            ["patch", "cluster", name, "--subresource=status", "--type=merge", "--patch", &patch.to_string()];
        self.kubectl.run(&arguments).await.map(drop)
    }

    /// Removes a member.
    ///
    /// # Errors
    /// If the control plane refuses.
    pub async fn unjoin(&self, name: &str) -> Result<()> {
        self.kubectl.run(&["delete", "cluster", name]).await.map(drop)
    }

    /// Sets (`team=a`) or removes (`team-`) a member's label.
    ///
    /// # Errors
    /// If the control plane refuses.
    pub async fn label(&self, name: &str, label: &str) -> Result<()> {
        self.kubectl.run(&["label", "--overwrite", "cluster", name, label]).await.map(drop)
    }
}

/// A ResourceRegistry manifest: clusters by name (all if none), kinds as `apiVersion/Kind`.
pub fn registry(name: &str, clusters: &[&str], kinds: &[&str]) -> Value {
    let selectors: Vec<Value> = kinds
        .iter()
        .map(|kind| {
            let (api_version, kind) = kind.rsplit_once('/').unwrap_or(("v1", kind));
            json!({ "apiVersion": api_version, "kind": kind })
        })
        .collect();
    json!({
        "apiVersion": "search.karmada.io/v1alpha1", "kind": "ResourceRegistry", "metadata": { "name": name },
        "spec": { "targetCluster": { "clusterNames": clusters }, "resourceSelectors": selectors },
    })
}
