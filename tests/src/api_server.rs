//! A real kube-apiserver: RBAC, service accounts, aggregation; no kubelets, no controllers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Certificate, Client};
use serde_json::json;

use crate::kubectl::Kubectl;
use crate::parts::{Part, find};
use crate::pki::{Authority, Pair, write_keys};
use crate::process::{Server, free_port};

/// Token of a member of `system:masters` on every API server of the testbed.
pub const ADMIN_TOKEN: &str = "admin-token";
/// Token of a user who may do nothing.
pub const NOBODY_TOKEN: &str = "nobody-token";

/// Token of the user as whom a Fleetglass with few permissions speaks to its control plane.
pub const SEARCH_TOKEN: &str = "search-token";
/// That user's name, which installers of Karmada put into its certificate.
pub const SEARCH_USER: &str = "system:karmada:karmada-search";

/// How a server differs from the others.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Whether lists cannot be streamed, as before Kubernetes 1.32.
    pub without_streamed_lists: bool,
    /// Port to listen on; a free one if none.
    pub port: Option<u16>,
    /// Further flags.
    pub arguments: Vec<String>,
}

/// A running kube-apiserver.
#[derive(Debug)]
pub struct ApiServer {
    /// What it is called.
    pub name: String,
    /// Where clients reach it.
    pub url: String,
    /// The authority of its certificate, PEM.
    pub authority: String,
    /// A client certificate of an administrator.
    pub admin: Pair,
    port: u16,
    folder: PathBuf,
    arguments: Vec<String>,
    server: Server,
}

impl ApiServer {
    /// Starts one that keeps its data in `etcd` under its own name, and its files in `folder/NAME`.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start(name: &str, etcd: &str, folder: &Path, options: Options) -> Result<Self> {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let port = match options.port {
            Some(port) => port,
            None => free_port()?,
        };
        let authority = Authority::new("testbed")?;
        let admin = authority.client(&folder, "admin", &["system:masters"])?;
        let arguments = arguments(&folder, name, etcd, port, &authority, &options)?;
        let server = Server::start(name, &find(Part::KubeApiServer)?, &arguments, &folder)?;
        let url = format!("https://127.0.0.1:{port}");
        let authority = authority.certificate;
        let mut started = Self { name: name.to_owned(), url, authority, admin, port, folder, arguments, server };
        started.wait_until_ready().await?;
        Ok(started)
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let client = client(&self.authority)?;
        let url = format!("{}/readyz", self.url);
        let check = async || {
            let answer = client.get(&url).bearer_auth(ADMIN_TOKEN).send().await?;
            ensure!(answer.status().is_success(), "readyz answers {}", answer.status());
            Ok(())
        };
        self.server.until(Duration::from_secs(180), check).await
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(self) -> Stopped {
        let Self { name, url, authority, admin, port, folder, arguments, server } = self;
        drop(server);
        Stopped { name, url, authority, admin, port, folder, arguments }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// kubectl as its administrator.
    ///
    /// # Errors
    /// If the kubeconfig cannot be written.
    pub fn kubectl(&self) -> Result<Kubectl> {
        self.kubectl_as("admin", ADMIN_TOKEN)
    }

    /// kubectl with a token.
    ///
    /// # Errors
    /// If the kubeconfig cannot be written.
    pub fn kubectl_as(&self, user: &str, token: &str) -> Result<Kubectl> {
        let path = self.folder.join(format!("{user}.kubeconfig"));
        let document = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": self.name,
            "clusters": [{ "name": self.name, "cluster": {
                "server": self.url, "certificate-authority-data": STANDARD.encode(&self.authority) } }],
            "users": [{ "name": user, "user": { "token": token } }],
            "contexts": [{ "name": self.name, "context": { "cluster": self.name, "user": user } }],
        });
        let text = document.to_string();
        if std::fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            std::fs::write(&path, text)?;
        }
        Ok(Kubectl::new(&path))
    }

    /// An HTTP client that trusts it.
    ///
    /// # Errors
    /// If the authority cannot be read.
    pub fn client(&self) -> Result<Client> {
        client(&self.authority)
    }
}

/// A server that was killed and can come back.
#[derive(Debug)]
pub struct Stopped {
    name: String,
    url: String,
    authority: String,
    admin: Pair,
    port: u16,
    folder: PathBuf,
    arguments: Vec<String>,
}

impl Stopped {
    /// Starts it again with the same port, certificates and data.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn restart(self) -> Result<ApiServer> {
        let Self { name, url, authority, admin, port, folder, arguments } = self;
        let server = Server::start(&name, &find(Part::KubeApiServer)?, &arguments, &folder)?;
        let mut started = ApiServer { name, url, authority, admin, port, folder, arguments, server };
        started.wait_until_ready().await?;
        Ok(started)
    }
}

/// An HTTP client that trusts an authority.
///
/// # Errors
/// If the authority cannot be read.
pub fn client(authority: &str) -> Result<Client> {
    let certificate = Certificate::from_pem(authority.as_bytes()).context("the authority is no certificate")?;
    Ok(Client::builder().tls_certs_only([certificate]).timeout(Duration::from_secs(60)).build()?)
}

fn arguments(
    folder: &Path,
    name: &str,
    etcd: &str,
    port: u16,
    authority: &Authority,
    options: &Options,
) -> Result<Vec<String>> {
    let proxy_authority = Authority::new("front-proxy")?;
    let serving = authority.server(folder, "serving", &["127.0.0.1", "localhost"])?;
    let client_ca = authority.write(&folder.join("ca.crt"))?;
    let proxy_ca = proxy_authority.write(&folder.join("front-proxy-ca.crt"))?;
    let proxy = proxy_authority.client(folder, "front-proxy-client", &[])?;
    let (account_key, account_public_key) = write_keys(folder, "service-account")?;
    let tokens = folder.join("tokens.csv");
    std::fs::write(
        &tokens,
        format!("{ADMIN_TOKEN},admin,1,system:masters\n{NOBODY_TOKEN},nobody,2\n{SEARCH_TOKEN},{SEARCH_USER},3\n"),
    )?;
    let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
    let mut arguments = vec![
        format!("--etcd-servers={etcd}"),
        format!("--etcd-prefix=/{name}"),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        // Published to nobody: the reconciler that would publish it is off.
        "--advertise-address=10.255.255.1".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/16".to_owned(),
        file("tls-cert-file", &serving.certificate),
        file("tls-private-key-file", &serving.key),
        file("client-ca-file", &client_ca),
        file("token-auth-file", &tokens),
        "--authorization-mode=RBAC".to_owned(),
        file("service-account-key-file", &account_public_key),
        file("service-account-signing-key-file", &account_key),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        file("requestheader-client-ca-file", &proxy_ca),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        file("proxy-client-cert-file", &proxy.certificate),
        file("proxy-client-key-file", &proxy.key),
        // Pods are stored as they are written: no controller makes their accounts.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--max-requests-inflight=3000".to_owned(),
        "--max-mutating-requests-inflight=1500".to_owned(),
        "--enable-priority-and-fairness=false".to_owned(),
    ];
    if options.without_streamed_lists {
        arguments.push("--feature-gates=WatchList=false".to_owned());
    }
    arguments.extend(options.arguments.iter().cloned());
    Ok(arguments)
}
