//! Kubeconfig files: reading those that flags name, writing one for a server without a control plane.

use std::path::Path;

use anyhow::{Context, Result};
use apiservice::tls::StandalonePki;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;

/// A client for the current context of a kubeconfig, or for the cluster this process runs in.
///
/// # Errors
/// If the file cannot be read, or there is none and no cluster around.
pub(crate) async fn client(path: Option<&Path>) -> Result<Client> {
    let config = match path {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("kubeconfig {}", path.display()))?
        }
        None => Config::incluster().context("no --kubeconfig is given and this is not a pod of a cluster")?,
    };
    Client::try_from(config).context("the control plane's connection settings cannot be used")
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

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
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
