//! Brings saved objects into a running OpenSearch Dashboards, over its own import API.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use reqwest::multipart::{Form, Part};
use reqwest::{Certificate, Client, RequestBuilder, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::args::DashboardsArgs;

/// What Dashboards says of an import.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Imported {
    success: bool,
    #[serde(default)]
    success_count: usize,
    #[serde(default)]
    errors: Vec<Refused>,
}

/// An object that was not taken.
#[derive(Debug, Deserialize)]
struct Refused {
    #[serde(rename = "type")]
    kind: String,
    id: String,
    error: Value,
}

impl Refused {
    fn is_there_already(&self) -> bool {
        self.error["type"] == "conflict"
    }
}

/// What the security plugin says of who asks.
#[derive(Debug, Deserialize)]
struct Caller {
    #[serde(default)]
    tenants: BTreeMap<String, bool>,
}

/// A running Dashboards.
struct Dashboards<'a> {
    url: &'a str,
    args: &'a DashboardsArgs,
    client: Client,
    password: Option<String>,
}

/// Imports; how many objects were written.
///
/// # Errors
/// If Dashboards can't be asked, or doesn't take an object.
pub(super) async fn import(url: &str, objects: Vec<Value>, args: &DashboardsArgs) -> Result<usize> {
    let dashboards = Dashboards::at(url, args)?;
    dashboards.check_tenant().await?;
    let imported = dashboards.import(&objects).await?;
    if imported.success {
        return Ok(imported.success_count);
    }
    if !args.keep || !imported.errors.iter().all(Refused::is_there_already) {
        bail!("nothing was written: {}", told(&imported.errors));
    }
    // Where one is there already, none is written: what is left is asked for again.
    let is_there = |object: &Value| {
        imported.errors.iter().any(|there| object["type"] == there.kind.as_str() && object["id"] == there.id.as_str())
    };
    let missing: Vec<Value> = objects.into_iter().filter(|object| !is_there(object)).collect();
    if missing.is_empty() {
        return Ok(0);
    }
    let imported = dashboards.import(&missing).await?;
    ensure!(imported.success, "nothing was written: {}", told(&imported.errors));
    Ok(imported.success_count)
}

fn told(errors: &[Refused]) -> String {
    let one = |refused: &Refused| format!("\n{} {}: {}", refused.kind, refused.id, refused.error);
    errors.iter().map(one).collect()
}

/// Credentials are neither shown nor sent for others to read.
fn check_url(url: &str, args: &DashboardsArgs) -> Result<()> {
    let read: Url = url.parse().context("--import is no URL")?;
    ensure!(
        read.username().is_empty() && read.password().is_none(),
        "the URL has credentials in it: put them into --user and --password-file"
    );
    ensure!(
        read.scheme() == "https" || args.user.is_none() || args.opensearch_plaintext_credentials,
        "{url} is http, and the password would be sent in plain text: use https, or allow it with \
         --opensearch-plaintext-credentials"
    );
    Ok(())
}

impl<'a> Dashboards<'a> {
    fn at(url: &'a str, args: &'a DashboardsArgs) -> Result<Self> {
        check_url(url, args)?;
        let mut builder = Client::builder();
        if let Some(path) = &args.ca {
            let pem = std::fs::read(path).with_context(|| format!("{} can't be read", path.display()))?;
            builder = builder.tls_certs_merge([Certificate::from_pem(&pem).context("--ca is no certificate")?]);
        }
        let password = match &args.password_file {
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("{} can't be read", path.display()))?;
                Some(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            None => None,
        };
        Ok(Self { url: url.trim_end_matches('/'), args, client: builder.build()?, password })
    }

    /// Dashboards imports into another tenant where it doesn't know the one that is named.
    async fn check_tenant(&self) -> Result<()> {
        let Some(tenant) = &self.args.tenant else { return Ok(()) };
        if matches!(tenant.as_str(), "global" | "private" | "__user__") {
            return Ok(());
        }
        let request = self.client.get(format!("{}/api/v1/auth/authinfo", self.url));
        let caller: Caller = self.send(request).await.context("whether there is such a tenant can't be asked")?;
        match caller.tenants.get(tenant) {
            Some(true) => Ok(()),
            Some(false) => bail!("tenant {tenant} may not be written to"),
            None => {
                let known: Vec<&str> = caller.tenants.keys().map(String::as_str).collect();
                bail!("there is no tenant {tenant}; there are global, private, {}", known.join(", "))
            }
        }
    }

    async fn import(&self, objects: &[Value]) -> Result<Imported> {
        let lines: String = objects.iter().map(|object| format!("{object}\n")).collect();
        let how = if self.args.keep { "" } else { "?overwrite=true" };
        let file = Part::text(lines).file_name("fleetglass.ndjson").mime_str("application/ndjson")?;
        let request = self.client.post(format!("{}/api/saved_objects/_import{how}", self.url));
        self.send(request.multipart(Form::new().part("file", file))).await
    }

    async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let url = self.url;
        // Without this header Dashboards takes no writes: a browser would not send it for somebody else's page.
        let mut request = request.header("osd-xsrf", "true");
        if let Some(user) = &self.args.user {
            request = request.basic_auth(user, self.password.as_ref());
        }
        if let Some(tenant) = &self.args.tenant {
            request = request.header("securitytenant", tenant);
        }
        let answer = request.send().await.with_context(|| format!("{url} does not answer"))?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{url} refuses with {status}: {text}");
        serde_json::from_str(&text)
            .with_context(|| format!("{url} answers with something else than Dashboards does: {text}"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: DashboardsArgs,
    }

    fn checked(words: &[&str]) -> Result<()> {
        let Line { args } = Line::try_parse_from(["dashboards"].iter().chain(words))?;
        check_url(args.import.as_deref().unwrap_or_default(), &args)
    }

    #[test]
    fn credentials_are_neither_sent_in_plain_text_nor_taken_out_of_a_url() {
        let login = ["--user=me", "--password-file=password"];
        let with = |url: &'static str, further: &[&'static str]| {
            let words: Vec<&str> = ["--import", url].iter().chain(&login).chain(further).copied().collect();
            checked(&words)
        };
        assert!(with("https://boards:5601", &[]).is_ok() && checked(&["--import=http://boards:5601"]).is_ok());
        let refused = with("http://boards:5601", &[]).unwrap_err().to_string();
        assert!(refused.contains("--opensearch-plaintext-credentials"), "{refused}");
        assert!(with("http://boards:5601", &["--opensearch-plaintext-credentials"]).is_ok());
        let refused = checked(&["--import=https://me:secret@boards"]).unwrap_err().to_string();
        assert!(refused.contains("--password-file") && !refused.contains("secret@"), "{refused}");
    }
}
