//! A real etcd of one member on loopback.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::parts::{Part, find};
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
        let (client, peer) = (free_port()?, free_port()?);
        Self::start_at(folder, client, peer).await
    }

    async fn start_at(folder: &Path, client: u16, peer: u16) -> Result<Self> {
        let (url, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let data = folder.join("etcd-data");
        let arguments = [
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        let mut server = Server::start("etcd", &find(Part::Etcd)?, arguments, folder)?;
        let health = format!("{url}/health");
        let check = async || {
            let answer = reqwest::get(&health).await?;
            ensure!(answer.status().is_success(), "etcd answers {}", answer.status());
            Ok(())
        };
        server.until(Duration::from_secs(30), check).await?;
        Ok(Self { url, server })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }
}
