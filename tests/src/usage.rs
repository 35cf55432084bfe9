//! What a process uses, looked at from outside, through /proc.

use std::time::Duration;

use anyhow::{Context, Result};

/// A process, by its id.
#[derive(Debug, Clone, Copy)]
pub struct Process(pub u32);

impl Process {
    /// Processor time used so far, in all threads.
    ///
    /// # Errors
    /// If it is gone.
    pub fn cpu(self) -> Result<Duration> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // The program's name, in brackets, may hold blanks.
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| -> Result<u64> { Ok(fields.get(at).context("a short stat file")?.parse()?) };
        // Linux counts in hundredths of a second here, whatever the kernel's own clock.
        Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
    }

    /// Resident memory.
    ///
    /// # Errors
    /// If it is gone.
    pub fn resident_bytes(self) -> Result<u64> {
        self.status("VmRSS:")
    }

    /// Of it, pages of files, which the system drops when others need the memory: the program itself, and what it has mapped.
    ///
    /// # Errors
    /// If it is gone.
    pub fn file_bytes(self) -> Result<u64> {
        self.status("RssFile:")
    }

    /// The most it was.
    ///
    /// # Errors
    /// If it is gone.
    pub fn peak_bytes(self) -> Result<u64> {
        self.status("VmHWM:")
    }

    /// Lets the peak begin anew.
    ///
    /// # Errors
    /// If it is gone.
    pub fn reset_peak(self) -> Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.0), "5")?)
    }

    fn status(self, field: &str) -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}
