//! Kubeconfig files: reading those that flags name, writing one for a server without a control plane.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use apiservice::tls::StandalonePki;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use tower::limit::RateLimitLayer;

/// A client for the current context of a kubeconfig, or for the cluster this process runs in.
///
/// # Errors
/// If the file cannot be read, or there is none and no cluster around.
pub(crate) async fn client(path: Option<&Path>) -> Result<Client> {
    Client::try_from(config(path).await?).context(UNUSABLE)
}

/// As [`client`], for a client that asks only so often.
///
/// # Errors
/// As [`client`].
pub(crate) async fn paced_client(path: Option<&Path>, rate: RequestRate) -> Result<Client> {
    let builder = ClientBuilder::try_from(config(path).await?).context(UNUSABLE)?;
    Ok(match rate.layer() {
        Some(layer) => builder.with_layer(&layer).build(),
        None => builder.build(),
    })
}

const UNUSABLE: &str = "the control plane's connection settings cannot be used";

/// How often a server may be asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestRate {
    /// Requests a second in the long run; 0 or less for any number.
    pub(crate) qps: f32,
    /// Requests at once.
    pub(crate) burst: u32,
}

impl RequestRate {
    /// So many at once, and then only as fast as the rate allows: a burst each time that it takes to earn one.
    fn layer(self) -> Option<RateLimitLayer> {
        let burst = self.burst.max(1);
        #[expect(clippy::cast_precision_loss, reason = "bursts are small numbers")]
        let time = (self.qps > 0.0).then(|| Duration::from_secs_f32(burst as f32 / self.qps))?;
        Some(RateLimitLayer::new(u64::from(burst), time))
    }
}

async fn config(path: Option<&Path>) -> Result<Config> {
    Ok(match path {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("kubeconfig {}", path.display()))?
        }
        None => Config::incluster().context("no --kubeconfig is given and this is not a pod of a cluster")?,
    })
}

/// Writes a kubeconfig for the administrator of a server at `url`, readable by its owner only.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn write(path: &Path, url: &str, pki: &StandalonePki) -> Result<()> {
    let encoded = |pem: &str| STANDARD.encode(pem);
    let document = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "fleetglass",
        "clusters": [{ "name": "fleetglass", "cluster": {
            "server": url, "certificate-authority-data": encoded(&pki.authority) } }],
        "users": [{ "name": "admin", "user": {
            "client-certificate-data": encoded(&pki.admin_certificate), "client-key-data": encoded(&pki.admin_key) } }],
        "contexts": [{ "name": "fleetglass", "context": { "cluster": "fleetglass", "user": "admin" } }],
    });
    let text = serde_yaml::to_string(&document)?;
    write_private(path, &text).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a file that only its owner can read, and the folders above it.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rate_is_no_limit_and_a_burst_is_earned_over_time() {
        assert!(RequestRate { qps: 0.0, burst: 60 }.layer().is_none());
        let layer = RequestRate { qps: 40.0, burst: 60 }.layer();
        assert!(format!("{layer:?}").contains("1.5s"), "{layer:?}");
    }
}
