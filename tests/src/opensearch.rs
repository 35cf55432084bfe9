//! A real OpenSearch node on loopback: 3.3 on a JDK 21 or newer, 2.19 on a JDK 17.
//!
//! Its libraries are fetched once by Maven into the cache folder. A JDK is looked for in `JAVA_HOME`, on `PATH`, and where
//! distributions install them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use parking_lot::Mutex;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::parts::cache_folder;
use crate::process::{Server, free_port};

/// Documents that are read at once; more than any test writes.
const MOST: usize = 10_000;

/// Which OpenSearch, by what the machine's JDK can run.
#[derive(Debug, Clone)]
struct Java {
    program: PathBuf,
    major: u32,
}

impl Java {
    fn runner(&self) -> &'static str {
        if self.major >= 21 { "3.3.0.0" } else { "2.19.1.0" }
    }
}

/// The newest JDK that can run some OpenSearch.
fn java() -> Result<Java> {
    let home = std::env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("java"));
    let installed = std::fs::read_dir("/usr/lib/jvm").into_iter().flatten();
    let installed = installed.filter_map(|entry| Some(entry.ok()?.path().join("bin/java")));
    let candidates = home.into_iter().chain(on_path).chain(installed).filter(|program| program.is_file());
    let usable = candidates.filter_map(|program| Some(Java { major: major(&program)?, program }));
    usable
        .filter(|java| java.major >= 17)
        .max_by_key(|java| java.major)
        .context("no JDK is on this machine: OpenSearch needs one of version 17 or newer")
}

/// `openjdk version "21.0.4"` is 21.
fn major(program: &Path) -> Option<u32> {
    let output = Command::new(program).arg("-version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.split('"').nth(1)?.split(['.', '-']).next()?.parse().ok()
}

/// The folder with all libraries.
fn libraries(java: &Java) -> Result<PathBuf> {
    static ONE_AT_A_TIME: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);
    let _guard = ONE_AT_A_TIME.lock();
    let folder = cache_folder()?;
    let target = folder.join(format!("opensearch-{}", java.runner()));
    if target.is_dir() {
        return Ok(target);
    }
    std::fs::create_dir_all(&folder)?;
    let lock = std::fs::File::create(folder.join("opensearch.lock"))?;
    lock.lock().context("cannot lock the cache folder")?;
    if target.is_dir() {
        return Ok(target);
    }
    let unfinished = folder.join(format!("opensearch.{}", std::process::id()));
    tracing::info!("fetching OpenSearch");
    let output = Command::new("mvn")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("parts/opensearch"))
        .args(["-q", "-B", &format!("-Drunner.version={}", java.runner())])
        .arg("org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies")
        .arg(format!("-DoutputDirectory={}", unfinished.display()))
        .output()
        .context("OpenSearch is not in the cache and fetching it needs Maven")?;
    if !output.status.success() {
        bail!("fetching OpenSearch failed:\n{}", String::from_utf8_lossy(&output.stdout));
    }
    std::fs::rename(&unfinished, &target)?;
    Ok(target)
}

/// A running node.
#[derive(Debug)]
pub struct OpenSearch {
    /// Where clients reach it.
    pub url: String,
    port: u16,
    folder: PathBuf,
    settings: Vec<String>,
    client: Client,
    server: Option<Server>,
}

impl OpenSearch {
    /// Starts one that keeps its data below `folder`.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start(folder: &Path) -> Result<Self> {
        Self::start_with(folder, &[]).await
    }

    /// Starts one with further settings, as `NAME=VALUE`.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start_with(folder: &Path, settings: &[&str]) -> Result<Self> {
        let port = free_port()?;
        let folder = folder.join(format!("opensearch-{port}"));
        std::fs::create_dir_all(&folder)?;
        let url = format!("http://127.0.0.1:{port}");
        let settings = settings.iter().map(ToString::to_string).collect();
        let mut node = Self { url, port, folder, settings, client: Client::new(), server: None };
        node.restart().await?;
        Ok(node)
    }

    /// Ends it at once (`kill -9`).
    pub fn kill(&mut self) {
        // Dropping it kills it.
        self.server = None;
    }

    /// Starts it after it was killed, and waits until it answers.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.start_until("wait_for_status=yellow").await
    }

    /// Takes the data of all shards away, or brings it back, while the node is down: without it their indices are red.
    ///
    /// # Errors
    /// If they can't be moved.
    pub fn hide_shards(&self, is_hidden: bool) -> Result<()> {
        ensure!(self.server.is_none(), "the node has them open");
        let (shown, hidden) = (self.folder.join("node/node_1/data/nodes/0/indices"), self.folder.join("hidden"));
        let (from, to) = if is_hidden { (&shown, &hidden) } else { (&hidden, &shown) };
        for index in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
            let shard = Path::new(&index?.file_name()).join("0");
            let place = to.join(&shard);
            std::fs::create_dir_all(place.parent().context("a place without a parent")?)?;
            if from.join(&shard).exists() {
                // What it has made of them meanwhile is nothing.
                let _ = std::fs::remove_dir_all(&place);
                std::fs::rename(from.join(&shard), place)?;
            }
        }
        Ok(())
    }

    /// Starts it after it was killed, and waits until it answers, though its indices may be red.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn restart_as_it_is(&mut self) -> Result<()> {
        self.start_until("local=true").await
    }

    async fn start_until(&mut self, condition: &str) -> Result<()> {
        let java = java()?;
        let class_path = libraries(&java)?.join("*");
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("parts/opensearch/Node.java");
        let mut arguments = vec![
            "-Xms256m".to_owned(),
            "-Xmx768m".to_owned(),
            "-cp".to_owned(),
            class_path.display().to_string(),
            program.display().to_string(),
            self.folder.join("node").display().to_string(),
            format!("http.port={}", self.port),
            // Nodes of one name would find each other.
            format!("cluster.name=fleetglass-{}", self.port),
        ];
        arguments.extend(self.settings.iter().cloned());
        let mut server = Server::start("opensearch", &java.program, arguments, &self.folder)?;
        let health = format!("{}/_cluster/health?{condition}&timeout=1s", self.url);
        let check = async || {
            let answer = self.client.get(&health).send().await?;
            ensure!(answer.status().is_success(), "OpenSearch answers {}", answer.status());
            Ok(())
        };
        server.until(Duration::from_secs(300), check).await?;
        self.server = Some(server);
        Ok(())
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::pid)
    }

    /// Asks it something.
    ///
    /// # Errors
    /// If it refuses.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let mut request = self.client.request(method, format!("{}/{path}", self.url));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "OpenSearch answers {path} with {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// All documents of an index or alias that there are at this moment, by their ids; none if there is no such index.
    ///
    /// # Errors
    /// If it can't be asked.
    pub async fn documents(&self, index: &str) -> Result<BTreeMap<String, Value>> {
        let exists = self.client.head(format!("{}/{index}", self.url)).send().await?.status();
        if exists.as_u16() == 404 {
            return Ok(BTreeMap::new());
        }
        self.ask(Method::POST, &format!("{index}/_refresh"), None).await?;
        let query = json!({ "size": MOST, "query": { "match_all": {} } });
        let answer = self.ask(Method::POST, &format!("{index}/_search"), Some(query)).await?;
        let hits = answer["hits"]["hits"].as_array().context("an answer without hits")?;
        ensure!(hits.len() < MOST, "more documents than are read at once");
        Ok(hits
            .iter()
            .map(|hit| (hit["_id"].as_str().unwrap_or_default().to_owned(), hit["_source"].clone()))
            .collect())
    }

    /// How many points in time were ever opened: readers of the program open one for each question, and nobody else does.
    ///
    /// # Errors
    /// If it can't be asked.
    pub async fn points_in_time(&self) -> Result<u64> {
        let stats = self.ask(Method::GET, "_nodes/stats/indices/search", None).await?;
        let nodes = stats["nodes"].as_object().context("an answer without nodes")?;
        let of = |node: &Value| node["indices"]["search"]["point_in_time_total"].as_u64();
        nodes.values().map(|node| of(node).context("no count of points in time")).sum()
    }

    /// How many documents match a query.
    ///
    /// # Errors
    /// If it can't be asked.
    pub async fn count(&self, index: &str, query: Value) -> Result<u64> {
        self.ask(Method::POST, &format!("{index}/_refresh"), None).await?;
        let answer = self.ask(Method::POST, &format!("{index}/_count"), Some(json!({ "query": query }))).await?;
        answer["count"].as_u64().context("an answer without a count")
    }
}
