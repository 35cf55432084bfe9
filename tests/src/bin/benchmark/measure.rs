//! The clock and the scales: times of requests, processor time and memory of the process that answers them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use parking_lot::Mutex;
use reqwest::{Certificate, Client, Response};
use serde_json::{Value, json};
use tests::usage::Process;

/// A server that answers API paths below a URL.
pub(crate) struct Target {
    url: String,
    authority: String,
    token: String,
    pub(crate) process: Process,
}

impl Target {
    pub(crate) fn new(url: &str, authority: &str, token: &str, pid: u32) -> Result<Self> {
        let target = Self { url: url.into(), authority: authority.into(), token: token.into(), process: Process(pid) };
        target.client(false)?;
        Ok(target)
    }

    fn client(&self, gzip: bool) -> Result<Client> {
        let mut builder = Client::builder()
            .gzip(false)
            .http2_initial_stream_window_size(8 << 20)
            .http2_initial_connection_window_size(64 << 20);
        if !self.authority.is_empty() {
            builder = builder.tls_certs_only([Certificate::from_pem(self.authority.as_bytes())?]);
        }
        if gzip {
            let headers = [(reqwest::header::ACCEPT_ENCODING, reqwest::header::HeaderValue::from_static("gzip"))];
            builder = builder.default_headers(headers.into_iter().collect());
        }
        Ok(builder.build()?)
    }

    async fn get(&self, client: &Client, path: &str) -> Result<Response> {
        let answer = client.get(format!("{}{path}", self.url)).bearer_auth(&self.token).send().await?;
        ensure!(answer.status().is_success(), "{path} answers {}", answer.status());
        Ok(answer)
    }
}

/// Reads a target, throwing the answers away.
pub(crate) struct Reader<'a> {
    target: &'a Target,
    gzip: bool,
}

/// What a row of equal requests cost.
pub(crate) struct Cost {
    pub(crate) median: Duration,
    /// Processor time of the server for one request.
    pub(crate) cpu: Duration,
    /// Of one answer.
    pub(crate) bytes: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(target: &'a Target) -> Self {
        Self { target, gzip: false }
    }

    pub(crate) fn compressed(target: &'a Target) -> Result<Self> {
        Ok(Self { target, gzip: true })
    }

    async fn read(&self, client: &Client, path: &str) -> Result<usize> {
        let mut answer = self.target.get(client, path).await?;
        let mut bytes = 0;
        while let Some(chunk) = answer.chunk().await? {
            bytes += chunk.len();
        }
        Ok(bytes)
    }

    /// How many objects a list shows; none if it is refused.
    pub(crate) async fn objects(&self, path: &str) -> Result<Option<usize>> {
        let request = self.target.client(self.gzip)?.get(format!("{}{path}", self.target.url));
        let answer = request.bearer_auth(&self.target.token).send().await?;
        if !answer.status().is_success() {
            return Ok(None);
        }
        let list: Value = serde_json::from_str(&answer.text().await?)?;
        Ok(Some(list["items"].as_array().context("a list without items")?.len()))
    }

    /// The same request again and again, after one to warm up.
    pub(crate) async fn repeat(&self, path: &str, times: u32) -> Result<Cost> {
        let client = self.target.client(self.gzip)?;
        let bytes = self.read(&client, path).await?;
        let cpu = self.target.process.cpu()?;
        let mut took = Vec::new();
        for _ in 0..times {
            let begun = Instant::now();
            self.read(&client, path).await?;
            took.push(begun.elapsed());
        }
        took.sort();
        let median = took.get(took.len() / 2).copied().unwrap_or_default();
        Ok(Cost { median, cpu: (self.target.process.cpu()? - cpu) / times, bytes })
    }

    /// Requests a second that so many readers get, each on a connection of its own.
    pub(crate) async fn throughput(&self, path: &str, readers: usize, time: Duration) -> Result<f64> {
        let begun = Instant::now();
        let counts = (0..readers).map(|_| async {
            let client = self.target.client(self.gzip)?;
            let mut count = 0_u32;
            while begun.elapsed() < time {
                self.read(&client, path).await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
        let total: u32 = try_join_all(counts).await?.into_iter().sum();
        Ok(f64::from(total) / begun.elapsed().as_secs_f64())
    }
}

/// What came of updating as fast as a rate allows.
pub(crate) struct Storm {
    /// Updates in a second.
    pub(crate) rate: f64,
    /// How long after an update's answer a query found it.
    pub(crate) delays: Vec<Duration>,
}

/// Writers of a storm, each with one request under way.
const WRITERS: usize = 8;

/// Small objects that a storm updates: with large ones, the API server and not the search would be what is measured.
const LIGHT: usize = 500;

fn light(number: usize, turn: &str) -> String {
    let metadata = json!({ "name": format!("light-{number}"), "annotations": { "benchmark/storm": turn } });
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata }).to_string()
}

/// Updates small ConfigMaps of `origin`, at most so many in a second, and asks `search` for some of them until they are found.
pub(crate) async fn storm(search: &Target, origin: &Target, rate: f64, time: Duration) -> Result<Storm> {
    let collection = format!("{}/api/v1/namespaces/space-000/configmaps", origin.url);
    let maker = origin.client(false)?;
    for number in 0..LIGHT {
        let request = maker.post(&collection).bearer_auth(&origin.token).header("content-type", "application/json");
        request.body(light(number, "new")).send().await?.error_for_status()?;
    }
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    let delays = Mutex::new(Vec::new());
    let writers = (0..WRITERS).map(|_| async {
        let (writer, reader) = (origin.client(false)?, search.client(false)?);
        while begun.elapsed() < time {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let due = Duration::from_secs_f64(number as f64 / rate);
            tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
            let request = writer
                .put(format!("{collection}/light-{}", number % LIGHT))
                .bearer_auth(&origin.token)
                .header("content-type", "application/json")
                .body(light(number % LIGHT, &format!("turn-{number}")));
            request.send().await?.error_for_status()?;
            if number.is_multiple_of(50) {
                let committed = Instant::now();
                let query = format!("/query?limit=1&q=annotation.benchmark/storm:turn-{number}");
                while search.get(&reader, &query).await?.json::<Value>().await?["items"] == json!([]) {
                    ensure!(committed.elapsed() < Duration::from_secs(10), "an update was not found");
                }
                delays.lock().push(committed.elapsed());
            }
        }
        anyhow::Ok(())
    });
    try_join_all(writers).await?;
    let rate = next.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    Ok(Storm { rate, delays: delays.into_inner() })
}

/// Updates pods of `origin` one by one; how long after each answer a watch on `target` shows it.
pub(crate) async fn update_delays(
    target: &Target,
    origin: &Target,
    pods: Vec<(String, String)>,
) -> Result<Vec<Duration>> {
    let client = target.client(false)?;
    let list: Value = target.get(&client, "/api/v1/pods?limit=1").await?.json().await?;
    let version = list["metadata"]["resourceVersion"].as_str().context("no version")?;
    let watch = format!("/api/v1/pods?watch=true&resourceVersion={version}&timeoutSeconds=600");
    let mut watch = target.get(&client, &watch).await?;
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut pending = Vec::new();
        while let Ok(Some(chunk)) = watch.chunk().await {
            pending.extend_from_slice(&chunk);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        }
    });
    let writer = origin.client(false)?;
    let mut delays = Vec::new();
    // Pods that another round has marked must change all the same.
    let round = jiff::Timestamp::now().as_millisecond();
    for (number, (namespace, name)) in pods.into_iter().enumerate() {
        let value = format!("{round}-{number}");
        let mark = format!("\"benchmark/mark\":\"{value}\"");
        let patch = json!({ "metadata": { "annotations": { "benchmark/mark": value } } });
        let request = writer
            .patch(format!("{}/api/v1/namespaces/{namespace}/pods/{name}", origin.url))
            .bearer_auth(&origin.token)
            .header("content-type", "application/merge-patch+json")
            .body(patch.to_string());
        let answer = request.send().await?;
        let committed = Instant::now();
        ensure!(answer.status().is_success(), "{name}: {}", answer.status());
        loop {
            let wait = tokio::time::timeout(Duration::from_secs(10), seen.recv()).await;
            let (at, line) = wait.context("an update was not seen")?.context("the watch ended")?;
            if String::from_utf8_lossy(&line).contains(&mark) {
                delays.push(at.saturating_duration_since(committed));
                break;
            }
        }
    }
    Ok(delays)
}
