//! What members hold: applications as their controllers would have left them, made from numbers so that tests can count.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::stream::{StreamExt, TryStreamExt, iter};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::api_server::{ADMIN_TOKEN, ApiServer};

/// Requests under way while a member is filled.
const AT_ONCE: usize = 64;

/// One application: how many it is and where it lives.
#[derive(Debug, Clone)]
pub struct Application {
    /// Its number, from which its names follow.
    pub number: usize,
    /// Its namespace.
    pub namespace: String,
    /// Its pods.
    pub pods: usize,
}

impl Application {
    /// Its name.
    pub fn name(&self) -> String {
        format!("app-{:03}", self.number)
    }

    fn labels(&self) -> Value {
        let tier = ["web", "api", "data", "batch"][self.number % 4];
        json!({
            "app": self.name(), "app.kubernetes.io/name": self.name(), "app.kubernetes.io/part-of": self.namespace,
            "shard": self.number.to_string(), "tier": tier,
        })
    }

    fn pod_spec(&self) -> Value {
        json!({
            "serviceAccountName": "default", "automountServiceAccountToken": false,
            "containers": [container("main", &format!("registry.example/{}:1.{}", self.name(), self.number)),
                container("proxy", "registry.example/proxy:3.2")],
            "tolerations": [{ "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": 300 }],
            "volumes": [{ "name": "config", "configMap": { "name": self.name() } }],
        })
    }

    fn metadata(&self, name: &str) -> Value {
        json!({
            "name": name, "namespace": self.namespace, "labels": self.labels(),
            "annotations": { "meta.helm.sh/release-name": self.name(), "meta.helm.sh/release-namespace": self.namespace },
        })
    }

    /// Its Deployment.
    pub fn deployment(&self) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": self.metadata(&self.name()),
            "spec": {
                "replicas": self.pods, "selector": { "matchLabels": { "app": self.name() } },
                "template": { "metadata": { "labels": self.labels() }, "spec": self.pod_spec() },
            },
        })
    }

    /// Its Service.
    pub fn service(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": self.metadata(&self.name()),
            "spec": { "selector": { "app": self.name() }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
        })
    }

    /// Its ConfigMap.
    pub fn config_map(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": self.metadata(&self.name()),
            "data": { "settings.yaml": format!("name: {}\nworkers: {}\n", self.name(), self.pods) },
        })
    }

    /// One of its pods, running.
    pub fn pod(&self, index: usize) -> Value {
        let mut metadata = self.metadata(&format!("{}-{index:05}", self.name()));
        metadata["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": self.name(), "controller": true,
            "blockOwnerDeletion": true, "uid": format!("00000000-0000-4000-8000-{:012x}", self.number),
        }]);
        metadata["annotations"]["prometheus.io/scrape"] = json!("true");
        metadata["annotations"]["prometheus.io/port"] = json!("9090");
        let mut spec = self.pod_spec();
        spec["nodeName"] = json!(format!("node-{:03}", index % 50));
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status(index) })
    }
}

fn container(name: &str, image: &str) -> Value {
    let variable = |name: &str, value: &str| json!({ "name": name, "value": value });
    json!({
        "name": name, "image": image, "args": ["--listen=:8080", "--log-level=info"],
        "env": [variable("DB_HOST", "db.internal.example"), variable("LOG_LEVEL", "info"), variable("REGION", "north"),
            { "name": "DB_PASSWORD", "valueFrom": { "secretKeyRef": { "name": "db", "key": "password" } } },
            { "name": "POD_IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } }],
        "ports": [{ "name": "http", "containerPort": 8080 }, { "name": "metrics", "containerPort": 9090 }],
        "readinessProbe": { "httpGet": { "path": "/readyz", "port": 8080 }, "initialDelaySeconds": 5 },
        "livenessProbe": { "httpGet": { "path": "/livez", "port": 8080 }, "periodSeconds": 20 },
        "resources": { "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "cpu": "500m", "memory": "256Mi" } },
        "securityContext": { "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] } },
        "volumeMounts": [{ "name": "config", "mountPath": "/etc/app" }],
    })
}

fn status(index: usize) -> Value {
    let since = format!("2026-01-02T03:{:02}:{:02}Z", index / 60 % 60, index % 60);
    let condition = |kind: &str| json!({ "type": kind, "status": "True", "lastTransitionTime": since });
    let container = |name: &str, image: &str| {
        json!({
            "name": name, "image": image, "ready": true, "started": true, "restartCount": index % 3,
            "imageID": format!("{image}@sha256:{:064x}", index), "containerID": format!("containerd://{:064x}", index * 7919),
            "state": { "running": { "startedAt": since } },
        })
    };
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
    json!({
        "phase": "Running", "startTime": since, "qosClass": "Burstable", "hostIP": format!("10.1.0.{}", index % 50),
        "podIP": format!("10.2.{}.{}", index / 250 % 250, index % 250),
        "podIPs": [{ "ip": format!("10.2.{}.{}", index / 250 % 250, index % 250) }],
        "conditions": conditions,
        "containerStatuses": [container("main", "registry.example/main:1"), container("proxy", "registry.example/proxy:3.2")],
    })
}

/// Sends a request again while the server says that it is busy or does not say anything.
async fn patiently(request: impl Fn() -> RequestBuilder) -> Result<(StatusCode, String)> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let answer = async {
            let answer = request().send().await?;
            anyhow::Ok((answer.status(), answer.text().await?))
        };
        match answer.await {
            Ok((status, _)) if attempts < 8 && (status == 429 || status.is_server_error()) => {}
            Err(_) if attempts < 8 => {}
            other => return other,
        }
        tokio::time::sleep(Duration::from_millis(200 * attempts)).await;
    }
}

/// A member being filled.
pub struct Filler {
    client: Client,
    url: String,
}

impl Filler {
    /// Fills `member`.
    ///
    /// # Errors
    /// If its authority cannot be read.
    pub fn new(member: &ApiServer) -> Result<Self> {
        Ok(Self { client: member.client()?, url: member.url.clone() })
    }

    async fn post(&self, path: &str, object: &Value) -> Result<Value> {
        let request = || self.client.post(format!("{}{path}", self.url)).bearer_auth(ADMIN_TOKEN).json(object);
        let (status, text) = patiently(request).await?;
        ensure!(status.is_success() || status == 409, "POST {path}: {status} {text}");
        serde_json::from_str(&text).with_context(|| format!("POST {path}: {text}"))
    }

    /// Creates a namespace, if it is not there.
    ///
    /// # Errors
    /// If the member refuses.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        self.post("/api/v1/namespaces", &namespace).await.map(drop)
    }

    /// Creates an application without its pods.
    ///
    /// # Errors
    /// If the member refuses.
    pub async fn application(&self, application: &Application) -> Result<()> {
        let namespace = &application.namespace;
        self.post(&format!("/apis/apps/v1/namespaces/{namespace}/deployments"), &application.deployment()).await?;
        self.post(&format!("/api/v1/namespaces/{namespace}/services"), &application.service()).await?;
        self.post(&format!("/api/v1/namespaces/{namespace}/configmaps"), &application.config_map()).await.map(drop)
    }

    /// Creates pods, many at a time, and their status; `progress` is told after each.
    ///
    /// # Errors
    /// If the member refuses one.
    pub async fn pods(self: &Arc<Self>, pods: Vec<Value>, progress: impl Fn() + Sync) -> Result<()> {
        let created = iter(pods).map(|pod| {
            let filler = Arc::clone(self);
            async move { filler.pod(&pod).await }
        });
        created
            .buffer_unordered(AT_ONCE)
            .try_for_each(|()| {
                progress();
                std::future::ready(Ok(()))
            })
            .await
    }

    async fn pod(&self, pod: &Value) -> Result<()> {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        self.post(&path, pod).await?;
        let patch = json!({ "status": pod["status"] });
        let request = || {
            self.client
                .patch(format!("{}{path}/{name}/status", self.url))
                .bearer_auth(ADMIN_TOKEN)
                .header("content-type", "application/merge-patch+json")
                .body(patch.to_string())
        };
        let (status, text) = patiently(request).await?;
        ensure!(status.is_success(), "status of pod {name}: {status} {text}");
        Ok(())
    }

    /// A node.
    ///
    /// # Errors
    /// If the member refuses.
    pub async fn node(&self, name: &str) -> Result<()> {
        let node = json!({ "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } } });
        self.post("/api/v1/nodes", &node).await.map(drop)
    }
}

/// A CustomResourceDefinition `widgets.example.io` with a printed column.
pub fn widget_definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "widgets.example.io" },
        "spec": {
            "group": "example.io", "scope": "Namespaced",
            "names": { "plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList" },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "additionalPrinterColumns": [{ "name": "Size", "type": "integer", "jsonPath": ".spec.size" }],
                "schema": { "openAPIV3Schema": { "type": "object",
                    "properties": { "spec": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } } } },
            }],
        },
    })
}
