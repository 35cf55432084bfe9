//! The program under test, built once and run as users run it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Certificate, Client, Identity};
use serde_json::json;

use crate::api_server::{ApiServer, client};
use crate::eventually;
use crate::parts::{BuiltWith, cargo_program};
use crate::pki::{Authority, Pair};
use crate::process::{Server, free_port};

/// Where the control plane thinks that Fleetglass runs.
const NAMESPACE: &str = "karmada-system";
const SERVICE: &str = "fleetglass";

/// The program, built with optimisation.
///
/// # Errors
/// If it cannot be built.
pub fn program() -> Result<PathBuf> {
    built(BuiltWith::Tests)
}

/// The program as users build it; from then on, [`program`] is that one. For what measures it.
///
/// # Errors
/// If it cannot be built.
pub fn program_of_users() -> Result<PathBuf> {
    built(BuiltWith::Package("search-server"))
}

fn built(with: BuiltWith<'_>) -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || cargo_program(with, "fleetglass").map_err(|error| format!("{error:#}"));
    BUILT.get_or_init(build).clone().map_err(|error| anyhow!(error))
}

/// A running Fleetglass.
#[derive(Debug)]
pub struct Fleetglass {
    /// Where it listens.
    pub url: String,
    /// The authority of its certificate, PEM.
    pub authority: String,
    port: u16,
    folder: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    // How many of the arguments, the last ones, are not the usual ones.
    further: usize,
    server: Server,
}

impl Fleetglass {
    /// Starts it below a control plane, its registries in `etcd`, and registers its APIService. `further` are flags beside
    /// the usual ones.
    ///
    /// # Errors
    /// If it does not come up or the control plane does not reach it.
    pub async fn join(control_plane: &ApiServer, etcd: &str, folder: &Path, further: &[String]) -> Result<Self> {
        let folder = folder.join("fleetglass");
        std::fs::create_dir_all(&folder)?;
        let (authority, serving) = serving_pair(&folder)?;
        let port = free_port()?;
        let kubectl = control_plane.kubectl()?;
        let mut arguments = serve_arguments(kubectl.kubeconfig(), etcd, &control_plane.name, port, &serving);
        arguments.extend(further.iter().cloned());
        let mut started = Self::start(&program()?, folder, authority, port, arguments).await?;
        started.further = further.len();
        started.register(control_plane).await?;
        Ok(started)
    }

    /// Tells a control plane where it is, and waits until that reaches it.
    ///
    /// # Errors
    /// If the control plane does not reach it.
    pub async fn register(&self, control_plane: &ApiServer) -> Result<()> {
        let kubectl = control_plane.kubectl()?;
        kubectl.apply(&registration(self.port, &self.authority)).await?;
        let wait = ["wait", "--for=condition=Available", "apiservice/v1alpha1.search.karmada.io", "--timeout=120s"];
        kubectl.run(&wait).await?;
        // That may be said of the one before, and what a server serves is asked for a moment later.
        eventually(Duration::from_secs(60), async || {
            let resources = kubectl.run(&["api-resources", "--api-group=search.karmada.io", "-o", "name"]).await?;
            ensure!(resources.contains("resourceregistries"), "not discovered yet: {resources}");
            kubectl.run(&["get", "resourceregistries"]).await.map(drop)
        })
        .await
    }

    /// Starts it with these arguments, under the program's path.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start(
        program: &Path,
        folder: PathBuf,
        authority: String,
        port: u16,
        arguments: Vec<String>,
    ) -> Result<Self> {
        let server = Server::start("fleetglass", program, &arguments, &folder)?;
        let url = format!("https://127.0.0.1:{port}");
        let program = program.to_path_buf();
        let mut started = Self { url, authority, port, folder, program, arguments, further: 0, server };
        started.wait_until_ready().await?;
        Ok(started)
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let client = client(&self.authority)?;
        let url = format!("{}/readyz", self.url);
        let check = async || {
            let answer = client.get(&url).send().await?;
            ensure!(answer.status().is_success(), "readyz answers {}", answer.status());
            Ok(())
        };
        self.server.until(Duration::from_secs(180), check).await
    }

    /// Ends it at once (`kill -9`) and starts it again.
    ///
    /// # Errors
    /// If it does not come up again.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.kill()?;
        self.restart().await
    }

    /// Ends it at once (`kill -9`) and starts it again, with these flags beside the usual ones.
    ///
    /// # Errors
    /// If it does not come up again.
    pub async fn kill_and_restart_with(&mut self, further: &[&str]) -> Result<()> {
        self.arguments.truncate(self.arguments.len() - self.further);
        self.arguments.extend(further.iter().map(ToString::to_string));
        self.further = further.len();
        self.kill_and_restart().await
    }

    /// Ends it at once (`kill -9`).
    ///
    /// # Errors
    /// If what stands in for it can't be started.
    pub fn kill(&mut self) -> Result<()> {
        // Replacing it drops the old one, which is killed.
        let stand_in = Server::start("stand-in", Path::new("/bin/sleep"), ["600"], &self.folder)?;
        drop(std::mem::replace(&mut self.server, stand_in));
        Ok(())
    }

    /// Starts it after it was killed.
    ///
    /// # Errors
    /// If it does not come up again.
    pub async fn restart(&mut self) -> Result<()> {
        self.server = Server::start("fleetglass", &self.program, &self.arguments, &self.folder)?;
        self.wait_until_ready().await
    }

    /// An HTTP client that trusts it.
    ///
    /// # Errors
    /// If the authority cannot be read.
    pub fn client(&self) -> Result<Client> {
        client(&self.authority)
    }

    /// An HTTP client that trusts it and shows a certificate.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn client_with(&self, pair: &Pair) -> Result<Client> {
        let pem = [std::fs::read(&pair.certificate)?, std::fs::read(&pair.key)?].concat();
        let authority = Certificate::from_pem(self.authority.as_bytes())?;
        Ok(Client::builder().tls_certs_only([authority]).identity(Identity::from_pem(&pem)?).build()?)
    }

    /// Asks it to stop and waits until it has.
    ///
    /// # Errors
    /// If it cannot be signalled.
    pub fn stop(self) -> Result<()> {
        self.server.stop()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// What it has logged.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.server.log())?)
    }
}

/// An authority and a serving certificate that it signed, for every name under which tests reach Fleetglass.
///
/// # Errors
/// If files cannot be written.
pub fn serving_pair(folder: &Path) -> Result<(String, Pair)> {
    let authority = Authority::new("fleetglass")?;
    let service_name = format!("{SERVICE}.{NAMESPACE}.svc");
    let names = [&*service_name, "karmada-search.karmada-system.svc", "localhost", "127.0.0.1"];
    let serving = authority.server(folder, "serving", &names)?;
    Ok((authority.certificate, serving))
}

/// The flags of a Fleetglass below a control plane, which installers pass in this or another order.
pub fn serve_arguments(kubeconfig: &Path, etcd: &str, prefix: &str, port: u16, serving: &Pair) -> Vec<String> {
    let kubeconfig = kubeconfig.display();
    vec![
        "serve".to_owned(),
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        format!("--etcd-servers={etcd}"),
        format!("--etcd-prefix=/{prefix}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        format!("--tls-cert-file={}", serving.certificate.display()),
        format!("--tls-private-key-file={}", serving.key.display()),
    ]
}

/// The Service that leads to loopback, and the APIService that leads to the Service.
fn registration(port: u16, authority: &str) -> String {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } },
        { "apiVersion": "v1", "kind": "Service", "metadata": { "name": SERVICE, "namespace": NAMESPACE },
          "spec": { "type": "ExternalName", "externalName": "localhost", "ports": [{ "port": port }] } },
        { "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
          "metadata": { "name": "v1alpha1.search.karmada.io" },
          "spec": { "group": "search.karmada.io", "version": "v1alpha1", "groupPriorityMinimum": 2000,
            "versionPriority": 10, "caBundle": STANDARD.encode(authority),
            "service": { "namespace": NAMESPACE, "name": SERVICE, "port": port } } },
    ] });
    list.to_string()
}
