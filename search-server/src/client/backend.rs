//! `fleetglass backend check`: what is wrong with a backend, on one page.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use indexer::backend::check::{Finding, Verdict, check};
use indexer::backend::replay;
use indexer::plan::{BackendReference, SecretReference};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::Value;
use tabwriter::TabWriter;

use super::server::Server;
use crate::args::{CheckArgs, ReplayArgs};

/// Keys of a Secret and what they hold.
type SecretData = BTreeMap<String, Vec<u8>>;

/// Looks a backend over, and prints what was found; whether nothing is wrong.
///
/// # Errors
/// If it isn't known which backend, or what was found can't be printed.
pub(super) async fn check_backend(args: &CheckArgs, output: &mut impl Write) -> Result<bool> {
    let (reference, secret, seen) = match &args.registry {
        Some(registry) => named_by(registry, args).await?,
        None => (BackendReference { addresses: args.addresses.clone(), secret: secret_name(args) }, given(args)?, None),
    };
    let findings = check(&reference, secret.as_ref(), &args.index_prefix, args.opensearch_plaintext_credentials).await;
    let worst = findings.iter().map(|finding| finding.verdict).max();
    print(&findings, seen.as_ref(), output)?;
    let is_stuck = seen.is_some_and(|seen| matches!(seen["state"].as_str(), Some("Failing" | "Refused")));
    Ok(worst != Some(Verdict::Wrong) && !is_stuck)
}

/// Sends refused documents once more, and prints what came of it; whether all were taken.
///
/// # Errors
/// If it isn't known which backend, it can't be used, or the log can't be read.
pub(super) async fn replay(args: &ReplayArgs, output: &mut impl Write) -> Result<bool> {
    let (reference, secret) = match &args.backend.registry {
        Some(registry) => named_by(registry, &args.backend).await.map(|(reference, secret, _)| (reference, secret))?,
        None => {
            let addresses = args.backend.addresses.clone();
            (BackendReference { addresses, secret: secret_name(&args.backend) }, given(&args.backend)?)
        }
    };
    let log = std::fs::read_to_string(&args.file).with_context(|| format!("{} can't be read", args.file.display()))?;
    let (prefix, may_be_plain) = (&args.backend.index_prefix, args.backend.opensearch_plaintext_credentials);
    let replayed = replay::replay(&reference, secret.as_ref(), prefix, &log, may_be_plain).await?;
    for (id, reason) in &replayed.refused {
        writeln!(output, "refused  {id}: {reason}")?;
    }
    let (taken, outdated, empty) = (replayed.taken, replayed.outdated, replayed.empty);
    writeln!(
        output,
        "{taken} taken, {outdated} there in a newer state, {} refused again, {empty} of objects that had gone",
        replayed.refused.len()
    )?;
    Ok(replayed.refused.is_empty())
}

/// What flags say takes the place of a Secret.
fn secret_name(args: &CheckArgs) -> Option<SecretReference> {
    let is_given = [args.user.is_some(), args.token_file.is_some(), args.ca.is_some(), args.tls_server_name.is_some()];
    let is_given = is_given.contains(&true);
    is_given.then(|| SecretReference { namespace: "the".to_owned(), name: "flags".to_owned() })
}

fn given(args: &CheckArgs) -> Result<Option<SecretData>> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("{} can't be read", path.display()));
    let mut data = SecretData::new();
    if let (Some(user), Some(path)) = (&args.user, &args.password_file) {
        data.insert("username".to_owned(), user.clone().into_bytes());
        data.insert("password".to_owned(), read(path)?);
    }
    if let Some(path) = &args.token_file {
        data.insert("token".to_owned(), read(path)?);
    }
    if let Some(path) = &args.ca {
        data.insert("ca.crt".to_owned(), read(path)?);
    }
    if let Some(name) = &args.tls_server_name {
        data.insert("tlsServerName".to_owned(), name.clone().into_bytes());
    }
    Ok(Some(data).filter(|data| !data.is_empty()))
}

type Named = (BackendReference, Option<SecretData>, Option<Value>);

/// Addresses and Secret of a registry, and what the server says of the backend.
async fn named_by(registry: &str, args: &CheckArgs) -> Result<Named> {
    let server = Server::find(&args.connection).await?;
    let found = server.registry(registry).await?;
    let store = &found["spec"]["backendStore"]["openSearch"];
    let Some(addresses) = store["addresses"].as_array() else {
        bail!("registry {registry} sends its objects nowhere: it has no spec.backendStore.openSearch");
    };
    let addresses = addresses.iter().filter_map(|address| Some(address.as_str()?.to_owned())).collect();
    let text = |name: &str| store["secretRef"][name].as_str().unwrap_or_default().to_owned();
    let secret = Some(SecretReference { namespace: text("namespace"), name: text("name") });
    let secret = secret.filter(|secret| !secret.name.is_empty());
    let data = match &secret {
        Some(name) => Some(secret_data(&server, name).await?),
        None => None,
    };
    let status = server.json("status", &[]).await?;
    let backends = status["backends"].as_array().cloned().unwrap_or_default();
    let is_named = |backend: &Value| {
        backend["registries"].as_array().is_some_and(|names| names.iter().any(|name| name.as_str() == Some(registry)))
    };
    Ok((BackendReference { addresses, secret }, data, backends.into_iter().find(is_named)))
}

async fn secret_data(server: &Server, name: &SecretReference) -> Result<SecretData> {
    let api: Api<Secret> = Api::namespaced(server.client(), &name.namespace);
    let secret = api.get(&name.name).await.with_context(|| format!("Secret {name} can't be read"))?;
    Ok(secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect())
}

fn print(findings: &[Finding], seen: Option<&Value>, output: &mut impl Write) -> Result<()> {
    let mut table = TabWriter::new(output).padding(2);
    for Finding { subject, verdict, text } in findings {
        let verdict = match verdict {
            Verdict::Fine => "ok",
            Verdict::Doubtful => "doubt",
            Verdict::Wrong => "WRONG",
        };
        writeln!(table, "{verdict}\t{subject}\t{text}")?;
    }
    if let Some(seen) = seen {
        let text = |name: &str| seen[name].as_str().unwrap_or_default().to_owned();
        let state = text("state");
        let verdict = match &*state {
            "Following" => "ok",
            "Failing" | "Refused" => "WRONG",
            _ => "doubt",
        };
        writeln!(table, "{verdict}\twriter\t{state} {}", text("message"))?;
        let number = |name: &str| seen[name].to_string();
        writeln!(
            table,
            "{}\tqueue\t{} wait, the oldest for {} s; written {}, deleted {}, retried {}, refused {}",
            if seen["rejected"] == 0 { "ok" } else { "doubt" },
            number("queue"),
            number("lagSeconds"),
            number("written"),
            number("deleted"),
            number("retries"),
            number("rejected"),
        )?;
        for rejection in seen["rejections"].as_array().into_iter().flatten() {
            let of = |name: &str| rejection[name].as_str().unwrap_or_default().to_owned();
            writeln!(table, "doubt\trefused\t{}: {}", of("document"), of("reason"))?;
        }
    }
    table.flush()?;
    Ok(())
}
