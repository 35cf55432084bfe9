//! Several servers share the work: some follow shards of the clusters and write them to OpenSearch, others only read there.
//! Whichever of them is killed, nothing is lost.

mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shared::{CACHE, run};
use tests::eventually;
use tests::fleetglass::{Fleetglass, program, serve_arguments, serving_pair};
use tests::karmada::registry;
use tests::opensearch::OpenSearch;
use tests::stage::{Plan, Stage};

/// A server that died is noticed when its leases have run out.
const TAKEN_OVER: Duration = Duration::from_secs(180);
const OBJECTS: &str = "fleetglass-objects";
const KINDS: [&str; 2] = ["v1/ConfigMap", "apps/v1/Deployment"];
const SHARDS: u32 = 4;

struct Scene {
    stage: Stage,
    node: OpenSearch,
    servers: BTreeMap<&'static str, Fleetglass>,
}

impl Scene {
    async fn start() -> Result<Self> {
        tokio::task::spawn_blocking(program).await??;
        let plan = Plan { members: 3, fleetglass: false, ..Plan::default() };
        let stage = Stage::start(&plan).await?;
        let node = OpenSearch::start(stage.folder()).await?;
        let mut scene = Self { stage, node, servers: BTreeMap::new() };
        for (name, shards) in [("reader 1", 0), ("reader 2", 0), ("writer 1", SHARDS), ("writer 2", SHARDS)] {
            let server = scene.server(name, shards).await?;
            scene.servers.insert(name, server);
        }
        Ok(scene)
    }

    async fn server(&self, name: &str, shards: u32) -> Result<Fleetglass> {
        let folder = self.stage.folder().join(name.replace(' ', "-"));
        std::fs::create_dir_all(&folder)?;
        let (authority, serving) = serving_pair(&folder)?;
        let port = tests::process::free_port()?;
        let kubectl = self.stage.kubectl()?;
        let prefix = &self.stage.control_plane.name;
        let mut arguments = serve_arguments(kubectl.kubeconfig(), &self.stage.etcd.url, prefix, port, &serving);
        arguments.push("--store=backend".to_owned());
        arguments.push(format!("--shards={shards}"));
        Fleetglass::start(&program()?, folder, authority, port, arguments).await
    }

    /// Requests go to this server from now on, as a Service would send them.
    async fn ask_through(&self, name: &str) -> Result<()> {
        self.servers.get(name).context("no such server")?.register(&self.stage.control_plane).await
    }

    fn kill(&mut self, name: &str) -> Result<()> {
        self.servers.get_mut(name).context("no such server")?.kill()
    }

    async fn restart(&mut self, name: &str) -> Result<()> {
        self.servers.get_mut(name).context("no such server")?.restart().await
    }

    /// Who holds the shards that are held.
    async fn holders(&self) -> Result<Vec<String>> {
        let list = ["get", "leases", "-n", "karmada-system", "-o", "json"];
        let leases: Value = serde_json::from_str(&self.stage.kubectl()?.run(&list).await?)?;
        let items = leases["items"].as_array().cloned().unwrap_or_default();
        let of_shards = items.iter().filter(|lease| lease["metadata"]["name"].to_string().contains("-shard-"));
        let holders = of_shards.map(|lease| lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned());
        Ok(holders.filter(|holder| !holder.is_empty()).collect())
    }

    /// Waits until so many servers hold all shards together.
    async fn shared_by(&self, servers: usize) -> Result<BTreeSet<String>> {
        eventually(TAKEN_OVER, async || {
            let holders = self.holders().await?;
            let distinct: BTreeSet<String> = holders.iter().cloned().collect();
            ensure!(holders.len() == SHARDS as usize && distinct.len() == servers, "{holders:?}");
            Ok(distinct)
        })
        .await
    }

    /// Writes something to each member, deletes what it wrote before, and waits until readers show just what members have.
    async fn churn(&self, round: usize) -> Result<()> {
        for member in &self.stage.members {
            let kubectl = member.kubectl()?;
            let written = json!({ "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": { "name": format!("round-{round}"), "namespace": "team-000" }, "data": { "round": round.to_string() } });
            kubectl.apply(&written.to_string()).await?;
            let earlier = format!("round-{}", round.wrapping_sub(1));
            kubectl.run(&["delete", "configmap", "-n", "team-000", "--ignore-not-found", &earlier]).await?;
        }
        self.shows_what_there_is().await
    }

    async fn shows_what_there_is(&self) -> Result<()> {
        eventually(TAKEN_OVER, async || {
            for path in ["api/v1/configmaps", "apis/apps/v1/deployments"] {
                let mut live = BTreeMap::new();
                for member in &self.stage.members {
                    let list = member.kubectl()?.raw(&format!("/{path}")).await?;
                    live.extend(items(&list).iter().map(|item| (key(&member.name, item), state(item))));
                }
                let list = self.stage.kubectl()?.raw(&format!("{CACHE}/{path}")).await?;
                let cluster = |item: &Value| {
                    let annotation = &item["metadata"]["annotations"]["resource.karmada.io/cached-from-cluster"];
                    annotation.as_str().unwrap_or_default().to_owned()
                };
                let shown: BTreeMap<String, Value> =
                    items(&list).iter().map(|item| (key(&cluster(item), item), state(item))).collect();
                ensure!(shown.len() == items(&list).len(), "{path}: something is shown twice");
                ensure!(shown == live, "{path}: {shown:?} and not {live:?}");
            }
            Ok(())
        })
        .await
    }
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn key(cluster: &str, item: &Value) -> String {
    let metadata = &item["metadata"];
    format!("{cluster}/{}/{}", metadata["namespace"], metadata["name"])
}

/// Which object it is, and in which state.
fn state(item: &Value) -> Value {
    json!([item["metadata"]["uid"], item["data"], item["spec"], item["status"]])
}

#[test]
fn writers_and_readers_are_killed_one_after_the_other_and_nothing_is_lost() -> Result<()> {
    run(async || {
        let mut scene = Scene::start().await?;
        scene.ask_through("reader 1").await?;
        let mut registry = registry("all", &[], &KINDS);
        registry["spec"]["targetCluster"] = json!({});
        registry["spec"]["backendStore"] = json!({ "openSearch": { "addresses": [scene.node.url] } });
        scene.stage.kubectl()?.apply(&registry.to_string()).await?;
        let both = scene.shared_by(2).await?;
        scene.churn(1).await?;
        let wait = ["wait", "--for=condition=Ready", "resourceregistry/all", "--timeout=120s"];
        scene.stage.kubectl()?.run(&wait).await?;

        // What no one touches is there at every moment from now on.
        let deployments = json!({ "term": { "kind": "Deployment" } });
        let expected = scene.node.count(OBJECTS, deployments.clone()).await?;
        assert_eq!(expected, 12, "four applications in each of three members");

        scene.kill("writer 1")?;
        let left = scene.shared_by(1).await?;
        ensure!(left.is_subset(&both), "{left:?} of {both:?}");
        scene.churn(2).await?;
        assert_eq!(scene.node.count(OBJECTS, deployments.clone()).await?, expected);

        scene.restart("writer 1").await?;
        scene.shared_by(2).await?;
        scene.churn(3).await?;
        assert_eq!(scene.node.count(OBJECTS, deployments.clone()).await?, expected);

        scene.kill("writer 2")?;
        scene.churn(4).await?;
        scene.shared_by(1).await?;

        scene.kill("reader 1")?;
        scene.ask_through("reader 2").await?;
        scene.churn(5).await?;

        scene.restart("reader 1").await?;
        scene.kill("reader 2")?;
        scene.ask_through("reader 1").await?;
        scene.churn(6).await?;
        assert_eq!(scene.node.count(OBJECTS, deployments).await?, expected);
        // Writers tell readers every few seconds how well clusters are followed.
        eventually(TAKEN_OVER, async || {
            let status = scene.stage.kubectl()?.raw("/apis/search.karmada.io/v1alpha1/search/status").await?;
            let items = status["items"].as_array().context("no items")?;
            ensure!(items.len() == 6 && items.iter().all(|item| item["synced"] == true), "{status}");
            Ok(())
        })
        .await?;

        // Who has emptied its own shards stays until those of one that died are empty too.
        scene.restart("writer 2").await?;
        scene.shared_by(2).await?;
        scene.kill("writer 2")?;
        scene.stage.kubectl()?.run(&["delete", "resourceregistry", "all"]).await?;
        eventually(TAKEN_OVER, async || {
            let left = scene.node.documents(OBJECTS).await?;
            ensure!(left.is_empty(), "{} documents are left", left.len());
            Ok(())
        })
        .await
    })
}
