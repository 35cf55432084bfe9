//! Stock kubectl, as a user runs it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::parts::{Part, find};

/// kubectl with a kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
}

/// What a command printed.
#[derive(Debug, Clone)]
pub struct Output {
    /// Whether it succeeded.
    pub success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error, which is where warnings go.
    pub stderr: String,
}

impl Kubectl {
    /// kubectl with the kubeconfig at `path`.
    pub fn new(path: &Path) -> Self {
        Self { kubeconfig: path.to_path_buf() }
    }

    /// Its kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs a command, whatever becomes of it.
    ///
    /// # Errors
    /// If kubectl cannot be run.
    pub async fn try_run(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut child = Command::new(find(Part::Kubectl)?)
            .env("KUBECONFIG", &self.kubeconfig)
            // A cache of discovery kept over tests would hide what a server says now.
            .env("KUBECACHEDIR", self.kubeconfig.with_extension("cache"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        let output = child.wait_with_output().await?;
        Ok(Output {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a command that has to succeed; returns what it printed.
    ///
    /// # Errors
    /// If it fails.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_with(arguments, "").await
    }

    /// The same, with something on standard input.
    ///
    /// # Errors
    /// If it fails.
    pub async fn run_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        let output = self.try_run(arguments, input).await?;
        ensure!(output.success, "kubectl {}: {}{}", arguments.join(" "), output.stdout, output.stderr);
        Ok(output.stdout)
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// If one is refused.
    pub async fn apply(&self, manifests: &str) -> Result<()> {
        self.run_with(&["apply", "-f", "-"], manifests).await.map(drop)
    }

    /// `get --raw`, read as JSON.
    ///
    /// # Errors
    /// If it fails or prints no JSON.
    pub async fn raw(&self, path: &str) -> Result<Value> {
        let text = self.run(&["get", "--raw", path]).await?;
        serde_json::from_str(&text).with_context(|| format!("{path} answered no JSON: {text}"))
    }
}
