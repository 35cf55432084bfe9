//! The kubeconfig with which the clusters are reached: a context and a cluster entry for each, one user for all.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What a cluster and its context are called.
pub(crate) fn context(number: usize) -> String {
    format!("cluster-{number:04}")
}

/// Writes `folder/kubeconfig`.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn write(folder: &Path, clusters: usize, address: SocketAddr, authority: &str, token: &str) -> Result<()> {
    let authority = STANDARD.encode(authority);
    let mut text = "apiVersion: v1\nkind: Config\nclusters:\n".to_owned();
    for number in 0..clusters {
        let name = context(number);
        writeln!(
            text,
            "- name: {name}\n  cluster:\n    server: https://{address}/clusters/{number:04}\n    \
             certificate-authority-data: {authority}"
        )?;
    }
    text.push_str("contexts:\n");
    for name in (0..clusters).map(context) {
        writeln!(text, "- name: {name}\n  context:\n    cluster: {name}\n    user: reader")?;
    }
    writeln!(text, "current-context: {}", context(0))?;
    writeln!(text, "users:\n- name: reader\n  user:\n    token: {token}")?;
    // Whoever waits for the file shall find it whole.
    let (unfinished, path) = (folder.join("kubeconfig.new"), folder.join("kubeconfig"));
    std::fs::write(&unfinished, text)?;
    Ok(std::fs::rename(&unfinished, &path)?)
}
