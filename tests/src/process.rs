//! Servers as child processes: they log to files and never outlive the process that started them, however it ends.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use parking_lot::Mutex;

/// A running server.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    // Reads a pipe that we hold: when we are gone, however that came, it ends the server.
    watchdog: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a program, its output in `folder/NAME.log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        folder: &Path,
    ) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir(folder)
            // What it leaves behind when it is killed goes with the folder.
            .env("TMPDIR", folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let watchdog = Command::new("sh")
            .args(["-c", "read -r _; kill -9 \"$0\" 2>/dev/null", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let watchdog = match watchdog {
            Ok(watchdog) => watchdog,
            Err(error) => {
                let _ = child.kill();
                return Err(error).context("cannot start sh");
            }
        };
        Ok(Self { name: name.to_owned(), child, watchdog, log })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it logs.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Fails with the end of its log if it has ended.
    ///
    /// # Errors
    /// If it has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(15).collect();
            let tail = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
            bail!("{} ended with {status}:\n{tail}", self.name);
        }
        Ok(())
    }

    /// Repeats a check until it passes; fails when the time is over, and at once if the server has ended.
    ///
    /// # Errors
    /// The check's last error, or the end of the server's log.
    pub async fn until<T>(&mut self, within: Duration, mut check: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        loop {
            match check().await {
                Ok(value) => return Ok(value),
                Err(error) => {
                    self.check()?;
                    ensure!(begun.elapsed() < within, "{} not within {within:?}: {error:#}", self.name);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Asks it to stop and waits until it has.
    ///
    /// # Errors
    /// If it cannot be signalled or waited for.
    pub fn stop(mut self) -> Result<()> {
        Command::new("kill").args(["-TERM", &self.pid().to_string()]).status()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The watchdog first: afterwards the process id may be somebody else's.
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Removes a folder when this process is gone, however it went: what a static holds is never dropped.
#[derive(Debug)]
pub struct Sweeper(Child);

impl Sweeper {
    /// Begins to wait for our end.
    ///
    /// # Errors
    /// If sh cannot be started.
    pub fn start(folder: &Path) -> Result<Self> {
        // Servers that end at the same moment may still write for a while.
        let script = "read -r _; for pause in 1 2 4; do sleep $pause; rm -rf \"$0\" 2>/dev/null && exit; done";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(folder).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().context("cannot start sh")?))
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        // Dropped, the folder's owner removes it itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that is free on loopback at this moment.
///
/// # Errors
/// If there is none.
pub fn free_port() -> Result<u16> {
    // Nobody holds it until its server does; at least none is given out twice.
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        if GIVEN.lock().insert(port) {
            return Ok(port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ends_is_reported_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut server =
            Server::start("liar", Path::new("/bin/sh"), ["-c", "echo no port left; exit 3"], folder.path()).unwrap();
        server.child.wait().unwrap();
        let error = server.check().unwrap_err().to_string();
        assert!(error.contains("no port left"), "{error}");
    }

    #[test]
    fn a_server_is_gone_after_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let pid = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let seen = pid.clone();
        let path = folder.path().to_path_buf();
        let thread = std::thread::spawn(move || {
            let server = Server::start("sleeper", Path::new("/bin/sleep"), ["600"], &path).unwrap();
            seen.store(server.pid(), std::sync::atomic::Ordering::Relaxed);
            panic!("a test fails");
        });
        assert!(thread.join().is_err());
        let pid = pid.load(std::sync::atomic::Ordering::Relaxed);
        assert!(pid > 0 && !Path::new(&format!("/proc/{pid}")).exists());
    }
}
