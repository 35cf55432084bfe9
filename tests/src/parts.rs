//! The programs a stage is made of: looked for, else built once from their Go modules into a cache folder.
//!
//! Looked for in `$FLEETGLASS_TESTBED`, `$KUBEBUILDER_ASSETS`, the cache folder, then `PATH`. The cache folder is
//! `$FLEETGLASS_CACHE`, else `fleetglass/testbed` in the user's cache. Building needs Go and takes a few minutes.

use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use parking_lot::Mutex;
use serde_json::json;

const KUBERNETES: &str = "v1.35.4";
const HELM: &str = "v3.22.0";
const PROMETHEUS: &str = "3.15.0";

/// A program of the testbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// etcd 3.6
    Etcd,
    /// kube-apiserver 1.35
    KubeApiServer,
    /// kubectl 1.35, or the machine's own if it is not older than 1.30
    Kubectl,
    /// kube-controller-manager 1.35
    KubeControllerManager,
    /// helm 3.22
    Helm,
    /// Prometheus 3.15
    Prometheus,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiServer => "kube-apiserver",
            Self::Kubectl => "kubectl",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::Helm => "helm",
            Self::Prometheus => "prometheus",
        }
    }

    fn module(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiServer | Self::Kubectl | Self::KubeControllerManager => "kubernetes",
            Self::Helm => "helm",
            Self::Prometheus => "prometheus",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Etcd => "go.etcd.io/etcd/server/v3",
            Self::KubeApiServer => "k8s.io/kubernetes/cmd/kube-apiserver",
            Self::Kubectl => "k8s.io/kubernetes/cmd/kubectl",
            Self::KubeControllerManager => "k8s.io/kubernetes/cmd/kube-controller-manager",
            Self::Helm => "helm.sh/helm/v3/cmd/helm",
            Self::Prometheus => "github.com/prometheus/prometheus/cmd/prometheus",
        }
    }

    fn link_flags(self) -> String {
        let stamp = |package: &str| {
            format!(
                "-X {package}.gitVersion={KUBERNETES} -X {package}.gitMajor=1 -X {package}.gitMinor=35 \
                 -X {package}.gitTreeState=clean"
            )
        };
        match self {
            Self::Etcd => "-s -w".to_owned(),
            Self::Helm => format!(
                "-s -w -X helm.sh/helm/v3/internal/version.version={HELM} \
                 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=35"
            ),
            Self::Prometheus => format!("-s -w -X github.com/prometheus/common/version.Version={PROMETHEUS}"),
            Self::KubeApiServer | Self::Kubectl | Self::KubeControllerManager => {
                format!("-s -w {} {}", stamp("k8s.io/component-base/version"), stamp("k8s.io/client-go/pkg/version"))
            }
        }
    }
}

/// The program's path; built if it is nowhere.
///
/// # Errors
/// If it is nowhere and cannot be built.
pub fn find(part: Part) -> Result<PathBuf> {
    // Within a process one part is looked for at a time; between processes a lock file sees to it.
    static ONE_AT_A_TIME: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);
    let _guard = ONE_AT_A_TIME.lock();
    if let Some(found) = look(part)? {
        return Ok(found);
    }
    let folder = cache_folder()?;
    std::fs::create_dir_all(&folder)?;
    let lock = std::fs::File::create(folder.join(format!("{}.lock", part.name())))?;
    lock.lock().context("cannot lock the cache folder")?;
    // Somebody else may have built it while we waited for the lock.
    match look(part)? {
        Some(found) => Ok(found),
        None => build(part, &folder),
    }
}

/// What a program of this workspace is built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BuiltWith<'a> {
    /// The features that its package asks for: as users build it.
    Package(&'a str),
    /// Those of all tests too, so that what cargo has built for them is not built once more.
    Tests,
}

/// A program of this workspace, built with optimisation.
pub(crate) fn cargo_program(with: BuiltWith<'_>, program: &str) -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace's folder")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(workspace)
        .args(["build", "--release", "--bin", program])
        .args(match with {
            BuiltWith::Package(package) => vec!["--package", package],
            // Any suite brings the features of all.
            BuiltWith::Tests => vec!["--workspace", "--test", "demo"],
        })
        .args(["--message-format", "json-render-diagnostics"])
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "building {program} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == program && message["target"]["kind"] == json!(["bin"]);
        message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
    });
    executable.with_context(|| format!("cargo did not say where it put {program}"))
}

pub(crate) fn cache_folder() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("FLEETGLASS_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("fleetglass/testbed")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/fleetglass/testbed")))
        .context("neither FLEETGLASS_CACHE nor HOME says where the testbed's programs can be kept")
}

fn look(part: Part) -> Result<Option<PathBuf>> {
    let mut folders: Vec<PathBuf> = ["FLEETGLASS_TESTBED", "KUBEBUILDER_ASSETS"]
        .iter()
        .filter_map(|name| std::env::var_os(name).map(PathBuf::from))
        .collect();
    folders.push(cache_folder()?);
    let chosen = folders.iter().map(|folder| folder.join(part.name())).find(|path| path.is_file());
    if chosen.is_some() {
        return Ok(chosen);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut on_path = std::env::split_paths(&path).map(|folder| folder.join(part.name())).filter(|path| path.is_file());
    Ok(on_path.find(|path| part != Part::Kubectl || is_recent(path)))
}

/// Older kubectls lack flags that the tests use.
fn is_recent(kubectl: &Path) -> bool {
    let output = Command::new(kubectl).args(["version", "--client", "-o", "json"]).output();
    let version: Option<serde_json::Value> = output.ok().and_then(|output| serde_json::from_slice(&output.stdout).ok());
    let minor = version.and_then(|version| version["clientVersion"]["minor"].as_str()?.parse::<u32>().ok());
    minor.is_some_and(|minor| minor >= 30)
}

fn build(part: Part, folder: &Path) -> Result<PathBuf> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("parts").join(part.module());
    let (target, unfinished) =
        (folder.join(part.name()), folder.join(format!("{}.{}", part.name(), std::process::id())));
    let mut command = Command::new("go");
    command
        .current_dir(&module)
        .env("CGO_ENABLED", "0")
        .args(["build", "-mod=readonly", "-trimpath", "-v", "-ldflags", &part.link_flags(), "-o"])
        .arg(&unfinished)
        .arg(part.package())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| {
        format!("{} is nowhere on this machine and building it needs Go: install Go 1.25 or newer", part.name())
    })?;
    let log = follow(part, child.stderr.take());
    if !child.wait()?.success() {
        bail!("building {} failed:\n{}", part.name(), log.lock().join("\n"));
    }
    std::fs::rename(&unfinished, &target)?;
    Ok(target)
}

/// Shows progress of a build and keeps its last lines.
fn follow(part: Part, output: Option<std::process::ChildStderr>) -> Arc<Mutex<Vec<String>>> {
    let last_lines = Arc::new(Mutex::new(Vec::new()));
    let Some(output) = output else { return last_lines };
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(200));
    let (begun, mut told) = (Instant::now(), Instant::now());
    let mut packages = 0_usize;
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        packages += 1;
        let message =
            format!("building {} for {} s: {packages} packages, {line}", part.name(), begun.elapsed().as_secs());
        if std::io::stderr().is_terminal() {
            bar.set_message(message);
        } else if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            tracing::info!("{message}");
        }
        let mut lines = last_lines.lock();
        lines.push(line);
        if lines.len() > 40 {
            lines.remove(0);
        }
    }
    bar.finish_and_clear();
    last_lines
}
