//! Fleetglass without a control plane, over snapshot folders, and a client that asks it many things quickly.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Certificate, Client, ClientBuilder, Identity, Response};
use serde_json::Value;

use crate::estate::SEARCH;
use crate::fleetglass::program;
use crate::kubectl::Kubectl;
use crate::process::{Server, free_port};

/// A running server.
#[derive(Debug)]
pub struct Standalone {
    /// Asks it as kubectl does.
    pub kubectl: Kubectl,
    url: String,
    client: Client,
    folder: PathBuf,
    arguments: Vec<String>,
    server: Server,
}

impl Standalone {
    /// Starts one that keeps what it has below `folder`, with these flags.
    ///
    /// # Errors
    /// If it doesn't come to serve.
    pub async fn start(folder: &Path, flags: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let port = free_port()?;
        let mut arguments =
            vec!["serve".to_owned(), format!("--data-dir={}", folder.display()), format!("--secure-port={port}")];
        arguments.extend(flags.iter().map(ToString::to_string));
        let mut server = Server::start("standalone", &program()?, &arguments, folder)?;
        let kubectl = Kubectl::new(&folder.join("kubeconfig"));
        let ready = async || kubectl.run(&["get", "--raw", "/readyz"]).await.map(drop);
        server.until(Duration::from_secs(180), ready).await?;
        let client = client(kubectl.kubeconfig())?;
        let (url, folder) = (format!("https://127.0.0.1:{port}"), folder.to_path_buf());
        Ok(Self { kubectl, url, client, folder, arguments, server })
    }

    /// Ends it at once (`kill -9`) and starts it again; returns when it takes requests, without asking whether it is ready.
    ///
    /// # Errors
    /// If it doesn't come to listen.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        // Replacing it drops the old one, which is killed.
        let stand_in = Server::start("stand-in", Path::new("/bin/sleep"), ["600"], &self.folder)?;
        drop(std::mem::replace(&mut self.server, stand_in));
        self.server = Server::start("standalone", &program()?, &self.arguments, &self.folder)?;
        let (kubeconfig, url) = (self.kubectl.kubeconfig().to_path_buf(), self.url.clone());
        // It makes itself another authority with each start.
        let listens = async || {
            let client = client(&kubeconfig)?;
            client.get(format!("{url}/livez")).send().await?;
            Ok(client)
        };
        self.client = self.server.until(Duration::from_secs(120), listens).await?;
        Ok(())
    }

    /// The same, with one flag more from now on.
    ///
    /// # Errors
    /// If it doesn't come to listen.
    pub async fn kill_and_restart_with(&mut self, flag: &str) -> Result<()> {
        self.arguments.push(flag.to_owned());
        self.kill_and_restart().await
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// What it has logged.
    ///
    /// # Errors
    /// If the log can't be read.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.server.log())?)
    }

    /// What a path below `search` answers, whatever that is.
    ///
    /// # Errors
    /// If it doesn't answer.
    pub async fn answer(&self, what: &str, parameters: &[(&str, &str)]) -> Result<Response> {
        self.answer_to(&self.client, what, parameters).await
    }

    /// The same on a connection of its own, and as it is: who doesn't read on holds up nobody else.
    ///
    /// # Errors
    /// If it doesn't answer.
    pub async fn answer_apart(&self, what: &str, parameters: &[(&str, &str)]) -> Result<Response> {
        let client = builder(self.kubectl.kubeconfig())?.no_gzip().build()?;
        self.answer_to(&client, what, parameters).await
    }

    /// How soon the first byte of an answer comes, on a connection that is there already. Over HTTP/1.1: where an answer comes fast, a
    /// client of HTTP/2 hands out its beginning only when it has taken in all that has come.
    ///
    /// # Errors
    /// If it doesn't answer.
    pub async fn first_byte(&self, what: &str) -> Result<Duration> {
        let client = builder(self.kubectl.kubeconfig())?.no_gzip().http1_only().build()?;
        self.answer_to(&client, what, &[("limit", "1")]).await?.bytes().await?;
        let begun = Instant::now();
        let mut answer = self.answer_to(&client, what, &[]).await?;
        answer.chunk().await?.context("an empty answer")?;
        Ok(begun.elapsed())
    }

    async fn answer_to(&self, client: &Client, what: &str, parameters: &[(&str, &str)]) -> Result<Response> {
        let query: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        Ok(client.get(format!("{}{SEARCH}/{what}?{query}", self.url)).send().await?)
    }

    /// What a path below `search` answers.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn ask(&self, what: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let answer = self.answer(what, parameters).await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{what} {parameters:?} is answered with {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Ends the server.
    ///
    /// # Errors
    /// If it can't be told to end.
    pub fn stop(self) -> Result<()> {
        self.server.stop()
    }
}

fn client(kubeconfig: &Path) -> Result<Client> {
    Ok(builder(kubeconfig)?.build()?)
}

fn builder(kubeconfig: &Path) -> Result<ClientBuilder> {
    let config: Value = serde_yaml::from_str(&std::fs::read_to_string(kubeconfig)?)?;
    let data = |value: &Value| -> Result<Vec<u8>> {
        Ok(STANDARD.decode(value.as_str().context("a kubeconfig without certificates")?)?)
    };
    let user = &config["users"][0]["user"];
    let authority = Certificate::from_pem(&data(&config["clusters"][0]["cluster"]["certificate-authority-data"])?)?;
    let pem = [data(&user["client-certificate-data"])?, data(&user["client-key-data"])?].concat();
    Ok(Client::builder().tls_certs_only([authority]).identity(Identity::from_pem(&pem)?))
}
