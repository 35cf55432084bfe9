//! Looks a backend over and tells what is wrong with it, without changing anything there.

mod disk;

use std::collections::BTreeMap;

use bytes::Bytes;
use opensearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::BackendError;
use super::bulk;
use super::client::{Client, Request};
use super::layout::{self, Layout};
use super::reports;
use super::target::{SecretData, Target};
use crate::plan::BackendReference;

/// A sentence about a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found, and what to do about it.
    pub text: String,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Fine,
    /// It works, but will not for ever, or not for all.
    Doubtful,
    /// It doesn't work.
    Wrong,
}

/// What is found.
#[derive(Debug, Default)]
struct Report(Vec<Finding>);

impl Report {
    fn add(&mut self, subject: &'static str, verdict: Verdict, text: impl Into<String>) {
        self.0.push(Finding { subject, verdict, text: text.into() });
    }

    /// Something that could not be found out.
    fn add_error(&mut self, subject: &'static str, error: &BackendError) {
        let verdict = if error.status() == Some(403) { Verdict::Doubtful } else { Verdict::Wrong };
        self.add(subject, verdict, error.to_string());
    }
}

/// Looks over the backend that a registry names. Credentials are those of its Secret, if it has one; over http they go only where
/// that is allowed.
pub async fn check(
    reference: &BackendReference,
    secret: Option<&SecretData>,
    prefix: &str,
    may_be_plain: bool,
) -> Vec<Finding> {
    let mut report = Report::default();
    match Target::new(reference, secret, may_be_plain) {
        Err(error) => report.add("address", Verdict::Wrong, error.to_string()),
        Ok(target) => check_target(&target, prefix, &mut report).await,
    }
    report.0
}

async fn check_target(target: &Target, prefix: &str, report: &mut Report) {
    if let Err(error) = target.check_http() {
        report.add("credentials", Verdict::Doubtful, error.to_string());
    }
    let mut answering = 0;
    for node in &target.nodes {
        let alone = Target { nodes: vec![node.clone()], ..target.clone() };
        answering += usize::from(check_node(&alone, report).await);
    }
    let client = match Client::new(target) {
        Ok(client) => client,
        Err(error) => return report.add_error("connection", &error),
    };
    if answering > 0 {
        check_health(&client, report).await;
        disk::check(&client, report).await;
        check_index(&client, &Layout::new(prefix), report).await;
    }
}

async fn check_node(target: &Target, report: &mut Report) -> bool {
    let name = target.name();
    let asked = async { layout::identify(&Client::new(target)?).await };
    match asked.await {
        Ok(Some(id)) => report.add("node", Verdict::Fine, format!("{name} answers, cluster {id}")),
        Ok(None) => report.add(
            "node",
            Verdict::Doubtful,
            format!("{name} answers, but not who it is: permit GET / (cluster:monitor/main), without which what no registry selects stays there"),
        ),
        Err(error) => {
            report.add("node", Verdict::Wrong, error.to_string());
            return false;
        }
    }
    true
}

async fn check_health(client: &Client, report: &mut Report) {
    #[derive(Deserialize)]
    struct Health {
        status: String,
        number_of_nodes: u64,
        unassigned_shards: u64,
        number_of_pending_tasks: u64,
    }
    match client.ask::<Health>(Request::new(Method::Get, "_cluster/health")).await {
        Err(error) => report.add_error("health", &error),
        Ok(health) => {
            let verdict = match &*health.status {
                "green" => Verdict::Fine,
                "yellow" => Verdict::Doubtful,
                _ => Verdict::Wrong,
            };
            let Health { status, number_of_nodes, unassigned_shards, number_of_pending_tasks } = health;
            report.add(
                "health",
                verdict,
                format!("{status}: {number_of_nodes} nodes, {unassigned_shards} shards nowhere, {number_of_pending_tasks} tasks pending"),
            );
        }
    }
}

async fn check_index(client: &Client, layout: &Layout, report: &mut Report) {
    let present = match layout.present(client).await {
        Ok(present) => present,
        Err(error) => return report.add("index", Verdict::Wrong, error.to_string()),
    };
    let Some(index) = present.first() else {
        let text = format!("{} is not there yet: it is made with the first registry that sends here", layout.alias);
        return report.add("index", Verdict::Fine, text);
    };
    report.add("index", Verdict::Fine, format!("{} leads to {}", layout.alias, present.join(", ")));
    check_blocks(client, index, report).await;
    check_documents(client, &layout.alias, report).await;
    check_writing(client, ("writing", &layout.alias), report).await;
    check_writing(client, ("reports", &reports::alias_of(&layout.alias)), report).await;
}

async fn check_blocks(client: &Client, index: &str, report: &mut Report) {
    let path = format!("{index}/_settings/index.blocks.*");
    let parameters = [("flat_settings", "true")];
    match client.ask::<BTreeMap<String, Value>>(Request::new(Method::Get, &path).with(&parameters)).await {
        Err(error) => report.add_error("blocks", &error),
        Ok(indices) => {
            let settings = indices.values().filter_map(|index| index["settings"].as_object()).flatten();
            for (name, _) in settings.filter(|(_, value)| value.as_str() == Some("true")) {
                report.add("blocks", Verdict::Wrong, format!("{name} is set: the index can't be written to"));
            }
        }
    }
}

async fn check_documents(client: &Client, alias: &str, report: &mut Report) {
    let path = format!("{alias}/_search");
    let clusters = json!({ "cardinality": { "field": "cluster" } });
    let body = json!({ "size": 0, "track_total_hits": true, "aggs": { "clusters": clusters } });
    match client.ask::<Value>(Request::new(Method::Post, &path).json(&body)).await {
        Err(error) => report.add_error("documents", &error),
        Ok(answer) => {
            let (documents, clusters) =
                (&answer["hits"]["total"]["value"], &answer["aggregations"]["clusters"]["value"]);
            report.add("documents", Verdict::Fine, format!("{documents} of {clusters} clusters"));
        }
    }
}

/// Whether one may write: a deletion of what is not there changes nothing.
async fn check_writing(client: &Client, (subject, alias): (&'static str, &str), report: &mut Report) {
    let body = match bulk::zipped(b"{\"delete\":{\"_id\":\"fleetglass backend check\"}}\n") {
        Ok(body) => body,
        Err(error) => return report.add_error(subject, &error),
    };
    match bulk::send(client, alias, Bytes::clone(&body), 1).await {
        Err(error) => report.add(subject, Verdict::Wrong, error.to_string()),
        Ok(outcomes) => match outcomes.first() {
            Some(bulk::Outcome::Done) => report.add(subject, Verdict::Fine, format!("writing to {alias} is permitted")),
            Some(bulk::Outcome::Again { reason, .. } | bulk::Outcome::Rejected(reason)) => {
                report.add(subject, Verdict::Wrong, format!("{alias}: {reason}"));
            }
            Some(bulk::Outcome::Conflict(_)) | None => report.add(subject, Verdict::Doubtful, "no clear answer"),
        },
    }
}
