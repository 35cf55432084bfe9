//! Who is asked: a server found by a kubeconfig, and what it answers.

use std::cell::Cell;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use form_urlencoded::Serializer;
use http::header::{ACCEPT, WARNING};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

use crate::args::{Connection, default_kubeconfig};
use crate::routes::warning;

const SEARCH: &str = "/apis/search.karmada.io/v1alpha1/search";
pub(super) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
/// The largest page that a server gives.
pub(super) const PAGE: usize = 10_000;

async fn client(connection: &Connection) -> Result<Client> {
    let options = KubeConfigOptions { context: connection.context.clone(), ..KubeConfigOptions::default() };
    let file = connection.kubeconfig.clone().or_else(own_kubeconfig);
    let config = match file {
        Some(file) => {
            let kubeconfig = Kubeconfig::read_from(&file).with_context(|| format!("kubeconfig {}", file.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &options).await?
        }
        None => Config::from_kubeconfig(&options).await.context("no kubeconfig to find the server by")?,
    };
    Ok(Client::try_from(config)?)
}

/// That of a server without a control plane, where kubectl has none of its own.
fn own_kubeconfig() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let has_kubectls =
        variable("KUBECONFIG").is_some() || variable("HOME").is_some_and(|home| home.join(".kube/config").exists());
    let own = default_kubeconfig();
    (!has_kubectls && own.exists()).then_some(own)
}

/// Who is asked.
pub(super) struct Server {
    client: Client,
    /// Whether an answer was cut by the server's deadline.
    is_partial: Cell<bool>,
}

impl Server {
    /// Finds the server.
    pub(super) async fn find(connection: &Connection) -> Result<Self> {
        Ok(Self { client: client(connection).await?, is_partial: Cell::new(false) })
    }

    /// For what is no search.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// A ResourceRegistry.
    pub(super) async fn registry(&self, name: &str) -> Result<Value> {
        let path = format!("{}/resourceregistries/{name}", apiservice::GROUP_VERSION_PATH);
        let request = Request::get(path).body(Vec::new())?;
        match self.client.request(request).await {
            Err(kube::Error::Api(status)) => bail!("registry {name} can't be read: {}", status.message),
            other => other.with_context(|| format!("registry {name} can't be read")),
        }
    }

    /// Fails if an answer was not whole.
    pub(super) fn check_complete(&self) -> Result<()> {
        if self.is_partial.get() { bail!("not all could be looked at") } else { Ok(()) }
    }

    /// Asks for something, and gives the answer as it begins.
    pub(super) async fn open(&self, what: &str, parameters: &[(&str, &str)], accept: &str) -> Result<Response<Body>> {
        let given = parameters.iter().filter(|(_, value)| !value.is_empty());
        let query = Serializer::new(String::new()).extend_pairs(given).finish();
        let request = Request::get(format!("{SEARCH}/{what}?{query}")).header(ACCEPT, accept).body(Body::empty())?;
        let response = self.client.send(request).await.context("the server can't be reached")?;
        if response.status().is_success() {
            self.show_warnings(response.headers())?;
            return Ok(response);
        }
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Err(refusal(status, &serde_json::from_slice(&body).unwrap_or_default()).into())
    }

    /// A whole answer.
    pub(super) async fn get(
        &self,
        what: &str,
        parameters: &[(&str, &str)],
        accept: &str,
    ) -> Result<(HeaderMap, String)> {
        let (parts, body) = self.open(what, parameters, accept).await?.into_parts();
        Ok((parts.headers, String::from_utf8(body.collect().await?.to_bytes().to_vec())?))
    }

    /// A whole answer that is JSON.
    pub(super) async fn json(&self, what: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let (_, text) = self.get(what, parameters, "application/json").await?;
        serde_json::from_str(&text).context("the answer is no JSON")
    }

    /// As kubectl shows them: only what stands in quotes.
    fn show_warnings(&self, headers: &HeaderMap) -> Result<()> {
        for warning in headers.get_all(WARNING) {
            let text = warning.to_str().unwrap_or_default();
            if text.contains(warning::PARTIAL) {
                self.is_partial.set(true);
            }
            let text = text.split_once('"').map_or(text, |(_, quoted)| quoted.trim_end_matches('"'));
            writeln!(std::io::stderr(), "Warning: {}", text.replace("\\\"", "\""))?;
        }
        Ok(())
    }
}

/// The server did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Refused {
    /// The answer's code.
    pub(super) code: StatusCode,
    message: String,
}

/// What the server says of why it doesn't answer.
fn refusal(code: StatusCode, status: &Value) -> Refused {
    let message = status["message"].as_str().or_else(|| status["error"].as_str());
    let mut message = message.map_or_else(|| format!("the server answers {code}"), str::to_owned);
    if code == StatusCode::NOT_FOUND && message.contains("could not find") {
        let own = default_kubeconfig();
        message =
            format!("{message}: this server has no search API; for one of your own: --kubeconfig {}", own.display());
    }
    Refused { code, message }
}
