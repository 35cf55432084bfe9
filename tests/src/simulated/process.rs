//! Simulated members in a process of their own, and what tests tell them to do.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Certificate, Client, Method};
use serde_json::Value;

use super::counters::Counters;
use super::fault::Fault;
use crate::parts::{BuiltWith, cargo_program};
use crate::process::{Server, free_port};

/// A process may open as many files as it is let: each connection is one.
const WITH_MANY_FILES: &str = "ulimit -n \"$(ulimit -Hn)\"; exec \"$0\" \"$@\"";

/// Clusters that are simulated by a running process.
#[derive(Debug)]
pub struct SimulatedMembers {
    /// Has a context for each cluster.
    pub kubeconfig: PathBuf,
    contexts: Vec<String>,
    url: String,
    token: String,
    client: Client,
    server: Server,
}

/// The program, built with optimisation. Suites needn't: cargo has built it for them.
///
/// # Errors
/// If it cannot be built.
pub fn program() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build =
        || cargo_program(BuiltWith::Package("tests"), "simulated-members").map_err(|error| format!("{error:#}"));
    BUILT.get_or_init(build).clone().map_err(|error| anyhow!(error))
}

impl SimulatedMembers {
    /// Starts clusters of this program, with these flags beside the port and the folder; what they write goes below `folder`.
    ///
    /// # Errors
    /// If they don't come to serve.
    pub async fn start(program: &Path, folder: &Path, flags: &[&str]) -> Result<Self> {
        let folder = std::path::absolute(folder)?.join("simulated-members");
        std::fs::create_dir_all(&folder)?;
        let (kubeconfig, port) = (folder.join("kubeconfig"), free_port()?);
        let mut arguments = vec!["-c".to_owned(), WITH_MANY_FILES.to_owned(), program.display().to_string()];
        arguments.extend([format!("--port={port}"), format!("--folder={}", folder.display())]);
        arguments.extend(flags.iter().map(ToString::to_string));
        let mut server = Server::start("simulated-members", Path::new("/bin/sh"), arguments, &folder)?;
        // The file is written when the port is taken already.
        let written = async || Ok(std::fs::read_to_string(&kubeconfig)?);
        let text = server.until(Duration::from_secs(120), written).await?;
        let config: Value = serde_yaml::from_str(&text)?;
        let client = client(&config)?;
        let names = config["contexts"].as_array().into_iter().flatten();
        let contexts = names.filter_map(|context| context["name"].as_str().map(str::to_owned)).collect();
        let token = config["users"][0]["user"]["token"].as_str().context("a kubeconfig without a token")?.to_owned();
        let url = format!("https://127.0.0.1:{port}");
        let members = Self { kubeconfig, contexts, url, token, client, server };
        members.until_ready().await
    }

    async fn until_ready(mut self) -> Result<Self> {
        let (url, token, client) = (self.url.clone(), self.token.clone(), self.client.clone());
        let ready = async || control(&client, Method::GET, &url, &token, "counters").await;
        self.server.until(Duration::from_secs(120), ready).await?;
        Ok(self)
    }

    /// The contexts of the kubeconfig, one for each cluster.
    pub fn contexts(&self) -> Vec<String> {
        self.contexts.clone()
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// What the clusters were asked so far.
    ///
    /// # Errors
    /// If the process doesn't answer.
    pub async fn counters(&self) -> Result<Counters> {
        Ok(serde_json::from_value(self.ask(Method::GET, "counters").await?)?)
    }

    /// Lets a cluster have a fault from now on; [`Fault::None`] heals it.
    ///
    /// # Errors
    /// If there is no such cluster, or the process doesn't answer.
    pub async fn set(&self, cluster: usize, fault: Fault) -> Result<()> {
        self.ask(Method::POST, &format!("clusters/{cluster}/fault?kind={fault}")).await.map(drop)
    }

    /// How often from now on one of a cluster's pods is updated.
    ///
    /// # Errors
    /// If there is no such cluster, or the process doesn't answer.
    pub async fn set_rate(&self, cluster: usize, updates_per_second: f64) -> Result<()> {
        let what = format!("clusters/{cluster}/rate?updates-per-second={updates_per_second}");
        self.ask(Method::POST, &what).await.map(drop)
    }

    /// Updates so many of a cluster's pods at once; says at which version the cluster then is.
    ///
    /// # Errors
    /// If there is no such cluster, or the process doesn't answer.
    pub async fn update(&self, cluster: usize, count: u32) -> Result<u64> {
        let answer = self.ask(Method::POST, &format!("clusters/{cluster}/update?count={count}")).await?;
        Ok(answer["resourceVersion"].as_str().context("an answer without a version")?.parse()?)
    }

    /// Ends the process.
    ///
    /// # Errors
    /// If it can't be told to end.
    pub fn stop(self) -> Result<()> {
        self.server.stop()
    }

    async fn ask(&self, method: Method, what: &str) -> Result<Value> {
        control(&self.client, method, &self.url, &self.token, what).await
    }
}

async fn control(client: &Client, method: Method, url: &str, token: &str, what: &str) -> Result<Value> {
    let answer = client.request(method, format!("{url}/control/{what}")).bearer_auth(token).send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    ensure!(status.is_success(), "{what} is answered with {status}: {text}");
    Ok(serde_json::from_str(&text)?)
}

fn client(config: &Value) -> Result<Client> {
    let authority = config["clusters"][0]["cluster"]["certificate-authority-data"].as_str();
    let authority = STANDARD.decode(authority.context("a kubeconfig without an authority")?)?;
    Ok(Client::builder().tls_certs_only([Certificate::from_pem(&authority)?]).build()?)
}
