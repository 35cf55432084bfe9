//! What a node needs to run: a JDK, looked for on this machine; OpenSearch's libraries, fetched once by Maven into the cache
//! folder; and, beside them, an archive of their loaded classes, with which a node starts in half of the time.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;

use crate::parts::cache_folder;
use crate::process::free_port;

/// The node, run from its source.
const NODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/parts/opensearch/Node.java");

/// A JDK.
#[derive(Debug, Clone)]
struct Java {
    program: PathBuf,
    major: u32,
}

impl Java {
    /// The newest that can run some OpenSearch: in `JAVA_HOME`, on `PATH`, or where distributions install them.
    fn find() -> Result<Self> {
        let home = std::env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let on_path = std::env::split_paths(&path).map(|folder| folder.join("java"));
        let installed = std::fs::read_dir("/usr/lib/jvm").into_iter().flatten();
        let installed = installed.filter_map(|entry| Some(entry.ok()?.path().join("bin/java")));
        let candidates = home.into_iter().chain(on_path).chain(installed).filter(|program| program.is_file());
        let usable = candidates.filter_map(|program| Some(Self { major: major(&program)?, program }));
        usable
            .filter(|java| java.major >= 17)
            .max_by_key(|java| java.major)
            .context("no JDK is on this machine: OpenSearch needs one of version 17 or newer")
    }

    /// The newest OpenSearch that it can run.
    fn runner(&self) -> &'static str {
        if self.major >= 21 { "3.3.0.0" } else { "2.19.1.0" }
    }
}

/// `openjdk version "21.0.4"` is 21.
fn major(program: &Path) -> Option<u32> {
    let output = Command::new(program).arg("-version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.split('"').nth(1)?.split(['.', '-']).next()?.parse().ok()
}

/// All that a node needs.
#[derive(Debug)]
pub(super) struct Installation {
    java: Java,
    libraries: PathBuf,
}

impl Installation {
    /// Finds or fetches everything.
    ///
    /// # Errors
    /// If there is no JDK, or Maven is needed and fails.
    pub(super) fn find() -> Result<Self> {
        static ONE_AT_A_TIME: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);
        let _guard = ONE_AT_A_TIME.lock();
        let folder = cache_folder()?;
        let java = Java::find()?;
        let libraries = folder.join(format!("opensearch-{}", java.runner()));
        let found = Self { java, libraries };
        if found.is_complete() {
            return Ok(found);
        }
        std::fs::create_dir_all(&folder)?;
        let lock = std::fs::File::create(folder.join("opensearch.lock"))?;
        lock.lock().context("cannot lock the cache folder")?;
        if !found.libraries.is_dir() {
            found.fetch(&folder)?;
        }
        if !found.archive().is_file() {
            found.make_archive()?;
        }
        Ok(found)
    }

    /// The program that runs a node.
    pub(super) fn program(&self) -> &Path {
        &self.java.program
    }

    /// Its arguments, before those of the node itself.
    pub(super) fn arguments(&self) -> Vec<String> {
        let archive = format!("-XX:SharedArchiveFile={}", self.archive().display());
        vec![archive, "-cp".to_owned(), self.class_path(), NODE.to_owned()]
    }

    fn is_complete(&self) -> bool {
        self.libraries.is_dir() && self.archive().is_file()
    }

    fn class_path(&self) -> String {
        self.libraries.join("*").display().to_string()
    }

    fn archive(&self) -> PathBuf {
        self.libraries.join(format!("classes-{}.jsa", self.java.major))
    }

    fn fetch(&self, folder: &Path) -> Result<()> {
        let unfinished = folder.join(format!("opensearch.{}", std::process::id()));
        tracing::info!("fetching OpenSearch");
        let output = Command::new("mvn")
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("parts/opensearch"))
            .args(["-q", "-B", &format!("-Drunner.version={}", self.java.runner())])
            .arg("org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies")
            .arg(format!("-DoutputDirectory={}", unfinished.display()))
            .output()
            .context("OpenSearch is not in the cache and fetching it needs Maven")?;
        succeeded("fetching OpenSearch", &output)?;
        Ok(std::fs::rename(&unfinished, &self.libraries)?)
    }

    /// Starts a node once, only to remember which classes it loads.
    fn make_archive(&self) -> Result<()> {
        tracing::info!("making an archive of OpenSearch's classes");
        let folder = tempfile::Builder::new().prefix("fleetglass-opensearch-").tempdir()?;
        let unfinished = self.libraries.join(format!("classes.{}", std::process::id()));
        let output = Command::new(&self.java.program)
            .arg(format!("-XX:ArchiveClassesAtExit={}", unfinished.display()))
            .args(["-cp", &self.class_path(), NODE])
            .arg(folder.path().join("node"))
            .arg(format!("http.port={}", free_port()?))
            .env("FLEETGLASS_NODE_ENDS", "once it has started")
            .current_dir(folder.path())
            .output()?;
        succeeded("making an archive of OpenSearch's classes", &output)?;
        Ok(std::fs::rename(&unfinished, self.archive())?)
    }
}

fn succeeded(what: &str, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let told = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    bail!("{what} failed:\n{}", String::from_utf8_lossy(&told))
}
