//! A real etcd on loopback: one member without certificates, or several that ask for them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::parts::{Part, find};
use crate::pki::{Authority, Pair};
use crate::process::{Server, free_port};

/// A running etcd.
#[derive(Debug)]
pub struct Etcd {
    /// Where clients reach it.
    pub url: String,
    server: Server,
}

impl Etcd {
    /// Starts one that keeps its data below `folder`.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start(folder: &Path) -> Result<Self> {
        let url = format!("http://127.0.0.1:{}", free_port()?);
        let peer = format!("http://127.0.0.1:{}", free_port()?);
        let arguments = arguments(&folder.join("etcd-data"), "default", &url, &peer, &format!("default={peer}"));
        let mut server = Server::start("etcd", &find(Part::Etcd)?, arguments, folder)?;
        let health = format!("{url}/health");
        let check = async || {
            let answer = reqwest::get(&health).await?;
            ensure!(answer.status().is_success(), "etcd answers {}", answer.status());
            Ok(())
        };
        server.until(Duration::from_secs(180), check).await?;
        Ok(Self { url, server })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Asks its HTTP gateway for one of the key-value operations.
    ///
    /// # Errors
    /// If it refuses.
    pub async fn key_values(&self, operation: &str, body: Value) -> Result<Value> {
        let url = format!("{}/v3/kv/{operation}", self.url);
        let answer = reqwest::Client::new().post(url).json(&body).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// What stands under a key.
    ///
    /// # Errors
    /// If there is nothing.
    pub async fn get(&self, key: &str) -> Result<Vec<u8>> {
        let answer = self.key_values("range", json!({ "key": encoded(key) })).await?;
        let value = answer["kvs"][0]["value"].as_str().with_context(|| format!("etcd has nothing under {key}"))?;
        Ok(base64::Engine::decode(&base64::engine::general_purpose::STANDARD, value)?)
    }

    /// Forgets all that was before now, as API servers have it done every few minutes.
    ///
    /// # Errors
    /// If etcd refuses.
    pub async fn compact(&self) -> Result<()> {
        let present = self.key_values("range", json!({ "key": encoded("/") })).await?;
        let revision = present["header"]["revision"].as_str().context("etcd names no revision")?;
        self.key_values("compaction", json!({ "revision": revision })).await.map(drop)
    }

    /// Puts a value under a key, as another program would.
    ///
    /// # Errors
    /// If etcd refuses.
    pub async fn put(&self, key: &str, value: &str) -> Result<()> {
        self.key_values("put", json!({ "key": encoded(key), "value": encoded(value) })).await.map(drop)
    }

    /// Puts a value under a key for a time: when its lease runs out, the key is gone.
    ///
    /// # Errors
    /// If etcd refuses.
    pub async fn put_for(&self, key: &str, value: &str, seconds: u32) -> Result<()> {
        let url = format!("{}/v3/lease/grant", self.url);
        let answer = reqwest::Client::new().post(url).json(&json!({ "TTL": seconds })).send().await?;
        let granted: Value = answer.error_for_status()?.json().await?;
        let body = json!({ "key": encoded(key), "value": encoded(value), "lease": granted["ID"] });
        self.key_values("put", body).await.map(drop)
    }
}

fn encoded(text: &str) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text)
}

fn arguments(data: &Path, name: &str, url: &str, peer: &str, cluster: &str) -> Vec<String> {
    vec![
        format!("--name={name}"),
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster={cluster}"),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

/// Several etcd members that ask clients for a certificate.
#[derive(Debug)]
pub struct SecureCluster {
    /// Where clients reach the members.
    pub urls: Vec<String>,
    /// The authority of the members' certificates, PEM.
    pub authority: PathBuf,
    /// The certificate that clients have to show.
    pub client: Pair,
    servers: Vec<Option<(Server, Vec<String>)>>,
    folder: PathBuf,
}

impl SecureCluster {
    /// Starts `members` of them below `folder`.
    ///
    /// # Errors
    /// If they don't come up.
    pub async fn start(folder: &Path, members: usize) -> Result<Self> {
        let folder = folder.join("etcd-cluster");
        std::fs::create_dir_all(&folder)?;
        let authority = Authority::new("etcd")?;
        let authority_file = authority.write(&folder.join("ca.crt"))?;
        let serving = authority.server(&folder, "serving", &["127.0.0.1", "localhost"])?;
        let client = authority.client(&folder, "etcd-client", &[])?;
        let mut urls = Vec::new();
        let mut peers = Vec::new();
        for _ in 0..members {
            urls.push(format!("https://127.0.0.1:{}", free_port()?));
            peers.push(format!("http://127.0.0.1:{}", free_port()?));
        }
        let named: Vec<String> = peers.iter().enumerate().map(|(at, peer)| format!("etcd-{at}={peer}")).collect();
        let mut cluster = Self { urls, authority: authority_file, client, servers: Vec::new(), folder };
        for (at, peer) in peers.iter().enumerate() {
            let name = format!("etcd-{at}");
            let mut flags = arguments(&cluster.folder.join(&name), &name, &cluster.urls[at], peer, &named.join(","));
            flags.extend([
                format!("--cert-file={}", serving.certificate.display()),
                format!("--key-file={}", serving.key.display()),
                format!("--trusted-ca-file={}", cluster.authority.display()),
                "--client-cert-auth".to_owned(),
            ]);
            let server = Server::start(&name, &find(Part::Etcd)?, &flags, &cluster.folder)?;
            cluster.servers.push(Some((server, flags)));
        }
        Ok(cluster)
    }

    /// The flags by which a server trusts it and is trusted.
    pub fn client_flags(&self) -> Vec<String> {
        vec![
            format!("--etcd-cafile={}", self.authority.display()),
            format!("--etcd-certfile={}", self.client.certificate.display()),
            format!("--etcd-keyfile={}", self.client.key.display()),
        ]
    }

    /// Ends a member at once; returns what [`Self::restart`] needs.
    ///
    /// # Errors
    /// If there is no such member running.
    pub fn kill(&mut self, member: usize) -> Result<Vec<String>> {
        let slot = self.servers.get_mut(member).context("no such member")?;
        let (server, flags) = slot.take().context("it is not running")?;
        drop(server);
        Ok(flags)
    }

    /// Starts a member again that was ended.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn restart(&mut self, member: usize, flags: Vec<String>) -> Result<()> {
        let server = Server::start(&format!("etcd-{member}"), &find(Part::Etcd)?, &flags, &self.folder)?;
        *self.servers.get_mut(member).context("no such member")? = Some((server, flags));
        Ok(())
    }
}
