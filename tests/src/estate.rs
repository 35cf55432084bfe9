//! The demo's estate, as users see it: Fleetglass over a copy of its two clusters, which tests may edit, and its client.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::fleetglass::program;
use crate::kubectl::Kubectl;
use crate::process::{Server, free_port};

/// Below the server's address.
pub const SEARCH: &str = "/apis/search.karmada.io/v1alpha1/search";

/// A server over the demo's clusters that has read all of them.
#[derive(Debug)]
pub struct Estate {
    /// Asks it as kubectl does.
    pub kubectl: Kubectl,
    server: Server,
    folder: tempfile::TempDir,
}

/// What a command printed, complained of, and ended with.
#[derive(Debug, Clone)]
pub struct Told {
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub complaints: String,
    /// The exit code.
    pub code: Option<i32>,
}

impl Estate {
    /// Starts it.
    ///
    /// # Errors
    /// If it doesn't come to serve.
    pub async fn start() -> Result<Self> {
        let demo =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace's folder")?.join("deploy/demo");
        let folder = tempfile::tempdir()?;
        let clusters = folder.path().join("clusters");
        for cluster in ["pegasus", "pegasus-2"] {
            copy(&demo.join(cluster), &clusters.join(cluster))?;
        }
        let arguments = [
            "serve".to_owned(),
            format!("--members=snapshot:{}", clusters.display()),
            format!("--data-dir={}", folder.path().display()),
            format!("--secure-port={}", free_port()?),
        ];
        let mut server = Server::start("estate", &program()?, arguments, folder.path())?;
        let kubectl = Kubectl::new(&folder.path().join("kubeconfig"));
        let ready = async || kubectl.run(&["get", "--raw", "/readyz"]).await.map(drop);
        server.until(Duration::from_secs(180), ready).await?;
        kubectl.run(&["apply", "-f", &demo.join("registry.yaml").display().to_string()]).await?;
        let wait = ["wait", "--for=condition=Ready", "resourceregistry/deployment-search", "--timeout=120s"];
        kubectl.run(&wait).await?;
        Ok(Self { kubectl, server, folder })
    }

    /// A file of a cluster, which is taken up when it is written.
    pub fn file(&self, cluster: &str, name: &str) -> PathBuf {
        self.folder.path().join("clusters").join(cluster).join(name)
    }

    /// What a path below `search` answers.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn ask(&self, what: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let query: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        self.kubectl.raw(&format!("{SEARCH}/{what}?{query}")).await
    }

    /// What kubectl takes for an API server over all clusters.
    ///
    /// # Errors
    /// If the kubeconfig can't be read.
    pub async fn cache(&self) -> Result<String> {
        let config = self.kubectl.run(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]).await?;
        Ok(format!("{config}{SEARCH}/cache"))
    }

    /// Runs `fleetglass` with these words.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn fleetglass(&self, words: &[&str]) -> Result<Told> {
        let mut command = std::process::Command::new(program()?);
        told(command.args(words).env("KUBECONFIG", self.kubectl.kubeconfig()))
    }

    /// Runs a line of a shell in which `fleetglass` is a command.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn shell(&self, line: &str) -> Result<Told> {
        let program = program()?;
        let mut path = OsString::from(program.parent().context("the program's folder")?);
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = std::process::Command::new("sh");
        told(command.args(["-c", line]).env("PATH", path).env("KUBECONFIG", self.kubectl.kubeconfig()))
    }

    /// Ends the server.
    ///
    /// # Errors
    /// If it can't be told to end.
    pub fn stop(self) -> Result<()> {
        self.server.stop()
    }
}

fn told(command: &mut std::process::Command) -> Result<Told> {
    let output = command.output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Told { output: text(output.stdout), complaints: text(output.stderr), code: output.status.code() })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
