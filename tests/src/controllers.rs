//! A real kube-controller-manager, with the controllers that look at every API: namespaces and garbage.

use std::path::Path;

use anyhow::Result;

use crate::api_server::ApiServer;
use crate::parts::{Part, find};
use crate::process::{Server, free_port};

/// A running kube-controller-manager.
#[derive(Debug)]
pub struct Controllers {
    _server: Server,
}

impl Controllers {
    /// Starts it for an API server, its files in `folder`.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(api_server: &ApiServer, folder: &Path) -> Result<Self> {
        let kubeconfig = api_server.kubectl()?.kubeconfig().display().to_string();
        let arguments = [
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--controllers=namespace-controller,garbage-collector-controller".to_owned(),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", free_port()?),
            format!("--cert-dir={}", folder.join("controller-manager-certificates").display()),
        ];
        let server = Server::start("kube-controller-manager", &find(Part::KubeControllerManager)?, arguments, folder)?;
        Ok(Self { _server: server })
    }
}
