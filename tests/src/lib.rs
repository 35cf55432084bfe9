//! The testbed: real servers on loopback, started for a test or by hand, gone when the process that started them is.
//!
//! - [`parts`] finds or builds the programs; [`process`] runs them.
//! - [`etcd`], [`api_server`], [`controllers`] and [`fleetglass`] are servers; [`pki`] makes their certificates.
//! - [`karmada`] is what a Karmada control plane adds; [`workloads`] fills members.
//! - [`estate`] is Fleetglass over the demo's clusters; [`simulated`] stands for members by the thousand.
//! - [`stage`] puts it all together: a control plane, members, Fleetglass joined.

pub mod api_server;
pub mod controllers;
pub mod crowd;
pub mod estate;
pub mod etcd;
pub mod fleetglass;
pub mod gate;
pub mod installers;
pub mod karmada;
pub mod kubectl;
pub mod opensearch;
pub mod parts;
pub mod pki;
pub mod process;
pub mod simulated;
pub mod stage;
pub mod standalone;
pub mod usage;
pub mod workloads;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Repeats a check until it passes; fails with its last error when the time is over.
///
/// # Errors
/// The check's last error.
pub async fn eventually<T>(within: Duration, mut check: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match check().await {
            Ok(value) => return Ok(value),
            Err(error) if begun.elapsed() > within => bail!("not within {within:?}: {error:#}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
