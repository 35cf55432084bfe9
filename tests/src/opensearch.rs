//! A real OpenSearch node on loopback: 3.3 on a JDK 21 or newer, 2.19 on a JDK 17.

mod installation;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use installation::Installation;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::process::{Server, free_port};

/// Documents that are read at once; more than any test writes.
const MOST: usize = 10_000;

/// A running node.
#[derive(Debug)]
pub struct OpenSearch {
    /// Where clients reach it.
    pub url: String,
    port: u16,
    folder: PathBuf,
    pace: Pace,
    client: Client,
    server: Option<Server>,
}

/// What a node's machine code is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// To be there soon.
    Start,
    /// To work fast for long.
    Work,
}

impl Pace {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Start => &["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"],
            Self::Work => &[],
        }
    }
}

impl OpenSearch {
    /// Starts one that keeps its data below `folder`, and is there soon rather than fast.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start(folder: &Path) -> Result<Self> {
        Self::start_at(Pace::Start, folder).await
    }

    /// Starts one as operators do, to be measured.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start_for_measuring(folder: &Path) -> Result<Self> {
        Self::start_at(Pace::Work, folder).await
    }

    async fn start_at(pace: Pace, folder: &Path) -> Result<Self> {
        let port = free_port()?;
        let folder = folder.join(format!("opensearch-{port}"));
        std::fs::create_dir_all(&folder)?;
        let url = format!("http://127.0.0.1:{port}");
        let mut node = Self { url, port, folder, pace, client: Client::new(), server: None };
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
        let installation = Installation::find()?;
        let mut arguments = vec!["-Xms256m".to_owned(), "-Xmx768m".to_owned()];
        arguments.extend(self.pace.arguments().iter().map(ToString::to_string));
        arguments.extend(installation.arguments());
        arguments.push(self.folder.join("node").display().to_string());
        arguments.push(format!("http.port={}", self.port));
        // Nodes of one name would find each other.
        arguments.push(format!("cluster.name=fleetglass-{}", self.port));
        let mut server = Server::start("opensearch", installation.program(), arguments, &self.folder)?;
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
        self.search_count("point_in_time_total").await
    }

    /// How many points in time are open.
    ///
    /// # Errors
    /// If it can't be asked.
    pub async fn open_points_in_time(&self) -> Result<u64> {
        self.search_count("point_in_time_current").await
    }

    async fn search_count(&self, name: &str) -> Result<u64> {
        let stats = self.ask(Method::GET, "_nodes/stats/indices/search", None).await?;
        let nodes = stats["nodes"].as_object().context("an answer without nodes")?;
        let of = |node: &Value| node["indices"]["search"][name].as_u64();
        nodes.values().map(|node| of(node).with_context(|| format!("no {name}"))).sum()
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
