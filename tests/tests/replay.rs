//! What the original answered, asked of Fleetglass again: each answer is the same, or differs in what
//! `deploy/differences.yaml` lists, with the reason.
//!
//! Compared are status, the headers that clients act on, and bodies field by field. What differs from run to run (ids,
//! versions, times) is replaced on both sides by what it is. Objects of members are compared with the member's own.

mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::run;
use tests::api_server::{ADMIN_TOKEN, NOBODY_TOKEN};
use tests::eventually;
use tests::karmada::registry;
use tests::stage::{Plan, Stage};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exchange {
    request: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(rename = "as", default)]
    caller: Option<String>,
    body: Option<Value>,
    #[serde(default)]
    status: u16,
    #[serde(default)]
    answers: BTreeMap<String, String>,
    json: Option<Value>,
    lines: Option<Vec<Value>>,
    text: Option<String>,
    kubectl: Option<String>,
    output: Option<String>,
}

/// Something that is answered otherwise on purpose.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    name: String,
    /// Requests, or kubectl's arguments, that it is about.
    requests: String,
    /// What of the answer it is about, as patterns: `status`, `header NAME`, `body`, `output` of kubectl, or a path into the
    /// body, with what is below it.
    parts: Vec<String>,
    original: String,
    here: String,
    reason: String,
}

/// Where an answer is not what the original's was.
#[derive(Debug)]
struct Finding {
    part: String,
    original: String,
    here: String,
}

fn workspace() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace's folder")?.to_path_buf())
}

fn fixtures() -> Result<Vec<(String, Vec<Exchange>)>> {
    let folder = workspace()?.join("tests/fixtures/original");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let read = |path: PathBuf| {
        let exchanges = serde_yaml::from_str(&std::fs::read_to_string(&path)?);
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok((name, exchanges.with_context(|| path.display().to_string())?))
    };
    files.into_iter().map(read).collect()
}

/// Replaces what no two runs have in common by what it is.
fn placeholders(text: &str) -> String {
    static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        [
            (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uid>"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "<time>"),
            (r"gen-[a-z0-9]{5}\b", "gen-<random>"),
            (r"(?i)(resource ?version:\s+)(\S+)", "$1<version>"),
            (r"\?hash=[0-9A-F]+", "?hash=<hash>"),
        ]
        .into_iter()
        .filter_map(|(pattern, with)| Some((Regex::new(pattern).ok()?, with)))
        .collect()
    });
    let text =
        RULES.iter().fold(text.to_owned(), |text, (pattern, with)| pattern.replace_all(&text, *with).into_owned());
    // kubectl pads columns to the widest cell.
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
}

fn normal(value: &Value, key: &str) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (key.clone(), normal(value, key)));
            Value::Object(fields.collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(|item| normal(item, key)).collect()),
        Value::String(text) if key == "resourceVersion" && !text.is_empty() => json!("<version>"),
        Value::String(text) if key == "serverAddress" && !text.is_empty() => json!("<address>"),
        Value::String(text) if !text.contains('\n') => json!(placeholders(text).trim_end()),
        other => other.clone(),
    }
}

fn compare(path: &str, original: &Value, here: &Value, findings: &mut Vec<Finding>) {
    match (original, here) {
        (Value::Object(one), Value::Object(other)) => {
            for key in one.keys().chain(other.keys()).collect::<BTreeSet<_>>() {
                let below = format!("{path}/{key}");
                compare(&below, one.get(key).unwrap_or(&Value::Null), other.get(key).unwrap_or(&Value::Null), findings);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (at, (one, other)) in one.iter().zip(other).enumerate() {
                compare(&format!("{path}/{at}"), one, other, findings);
            }
        }
        (one, other) if one != other => {
            findings.push(Finding { part: path.to_owned(), original: one.to_string(), here: other.to_string() });
        }
        _ => {}
    }
}

struct Replay {
    stage: Stage,
}

impl Replay {
    async fn start() -> Result<Self> {
        let stage = Stage::start(&Plan { members: 1, applications: 3, pods: 1, ..Plan::default() }).await?;
        Ok(Self { stage })
    }

    /// Checks that objects are the member's own plus one annotation, and puts a word in their place.
    async fn put_objects_aside(&self, request: &str, list: &mut Value) -> Result<()> {
        let items = list["items"].as_array().cloned().unwrap_or_default();
        if items.is_empty() || !request.contains("/search/cache/") {
            return Ok(());
        }
        let member = self.stage.members.first().context("no member")?.kubectl()?;
        for item in items {
            let metadata = &item["metadata"];
            let (name, namespace) = (metadata["name"].as_str(), metadata["namespace"].as_str());
            let (name, namespace) = (name.context("no name")?, namespace.context("no namespace")?);
            let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}");
            let mut own = member.raw(&path).await?;
            own["metadata"]["annotations"]["resource.karmada.io/cached-from-cluster"] = json!("member1");
            ensure!(own == item, "{name} is not the member's own: {own}\n{item}");
        }
        list["items"] = json!("<objects>");
        Ok(())
    }

    async fn ask(&self, exchange: &Exchange, request: &str) -> Result<Vec<Finding>> {
        let (method, path) = request.split_once(' ').context("a method and a path")?;
        let fleetglass = self.stage.fleetglass()?;
        let url = format!("{}{path}", fleetglass.url);
        let mut asked = fleetglass.client()?.request(method.parse()?, url).timeout(Duration::from_secs(30));
        asked = match exchange.caller.as_deref() {
            None => asked.bearer_auth(ADMIN_TOKEN),
            Some("anonymous") => asked,
            Some("nobody") => asked.bearer_auth(NOBODY_TOKEN),
            Some(_) => asked.bearer_auth("a-token-that-nobody-has"),
        };
        // The recording's client called itself so, which shows in managed fields.
        asked = asked.header("user-agent", "lab");
        for (name, value) in &exchange.headers {
            asked = asked.header(name, value);
        }
        if let Some(body) = &exchange.body {
            asked = asked.body(body.to_string());
        }
        let answer = asked.send().await?;
        let mut findings = Vec::new();
        let status = answer.status().as_u16();
        if status != exchange.status {
            let (original, here) = (exchange.status.to_string(), status.to_string());
            findings.push(Finding { part: "status".to_owned(), original, here });
        }
        for (name, original) in &exchange.answers {
            let here = answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
            if here != original {
                let (original, here) = (original.clone(), here.to_owned());
                findings.push(Finding { part: format!("header {name}"), original, here });
            }
        }
        let is_watch = request.contains("watch=");
        let body = if is_watch { read_for_a_while(answer).await } else { answer.text().await? };
        self.compare_body(exchange, request, &body, &mut findings).await?;
        Ok(findings)
    }

    async fn compare_body(
        &self,
        exchange: &Exchange,
        request: &str,
        body: &str,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        if let Some(original) = &exchange.json {
            // A watch that the original answered with a list sends lines; there is nothing to compare but that.
            let mut here: Value = serde_json::from_str(body).unwrap_or_else(|_| json!(body));
            if here["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) {
                self.put_objects_aside(request, &mut here).await?;
            }
            compare("", &normal(original, ""), &normal(&here, ""), findings);
        } else if let Some(original) = &exchange.lines {
            let mut here: Vec<Value> = body.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            // The registry's condition may be written while we look; its difference is listed.
            here.retain(|event| event["type"] != "MODIFIED");
            compare("", &normal(&json!(original), ""), &normal(&json!(here), ""), findings);
        } else if let Some(original) = &exchange.text {
            compare("body", &json!(placeholders(original)), &json!(placeholders(body)), findings);
        }
        Ok(())
    }

    async fn run_kubectl(&self, exchange: &Exchange, command: &str) -> Result<Vec<Finding>> {
        let mut manifest = registry("deployments", &["member1"], &["apps/v1/Deployment"]);
        manifest["metadata"]["labels"] = json!({ "team": "lab" });
        let arguments: Vec<&str> = command.split_whitespace().collect();
        if command.starts_with("explain") {
            // The control plane takes its time to ask a new server for its schemas.
            eventually(Duration::from_secs(90), async || self.stage.kubectl()?.run(&arguments).await).await?;
        }
        let printed = self.stage.kubectl()?.try_run(&arguments, &manifest.to_string()).await?;
        let here = placeholders(&format!("{}{}", printed.stdout, printed.stderr));
        let original = placeholders(exchange.output.as_deref().unwrap_or_default());
        let mut findings = Vec::new();
        if command.starts_with("explain") {
            // Names and types of fields, whatever is said of them.
            let fields =
                |text: &str| text.lines().filter(|line| line.contains('<')).map(str::to_owned).collect::<Vec<_>>();
            compare("fields", &json!(fields(&original)), &json!(fields(&here)), &mut findings);
        }
        compare("output", &json!(original), &json!(here), &mut findings);
        Ok(findings)
    }

    /// What happened between two files of the recording.
    async fn prepare(&self, file: &str) -> Result<()> {
        let kubectl = self.stage.kubectl()?;
        match file {
            "3-cache" => {
                eventually(Duration::from_secs(60), async || {
                    let list = kubectl.raw(&format!("{}/apis/apps/v1/deployments", shared::CACHE)).await?;
                    ensure!(shared::origins(&list).len() == 3, "{list}");
                    Ok(())
                })
                .await
            }
            "8-granted" => {
                let role = json!({
                    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                    "metadata": { "name": "everything-below" },
                    "rules": [{
                        "apiGroups": ["search.karmada.io"], "resources": ["search/apis", "proxying/proxy"],
                        "verbs": ["get", "create"],
                    }],
                });
                kubectl.apply(&role.to_string()).await?;
                let bind = ["create", "clusterrolebinding", "everything-below", "--clusterrole=everything-below"];
                kubectl.run(&[&bind[..], &["--user=nobody"]].concat()).await?;
                // A refusal is remembered for ten seconds.
                tokio::time::sleep(Duration::from_secs(11)).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// What of a watch comes soon.
async fn read_for_a_while(mut answer: reqwest::Response) -> String {
    let mut body = Vec::new();
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(Duration::from_secs(3), answer.chunk()).await {
        body.extend_from_slice(&chunk);
    }
    String::from_utf8_lossy(&body).into_owned()
}

/// A difference with its patterns, ready to be looked up.
struct Explained {
    difference: Difference,
    requests: Regex,
    parts: Vec<Regex>,
}

impl Explained {
    fn read() -> Result<Vec<Self>> {
        let text = std::fs::read_to_string(workspace()?.join("deploy/differences.yaml"))?;
        let differences: Vec<Difference> = serde_yaml::from_str(&text)?;
        let compiled = differences.into_iter().map(|difference| {
            let told = [&difference.original, &difference.here, &difference.reason];
            ensure!(told.iter().all(|text| !text.trim().is_empty()), "{} is not explained", difference.name);
            let whole = |pattern: &String| Regex::new(&format!("^(?:{pattern})(?:/.*)?$"));
            let parts = difference.parts.iter().map(whole).collect::<Result<_, _>>()?;
            Ok(Self { requests: Regex::new(&difference.requests)?, parts, difference })
        });
        compiled.collect()
    }

    fn covers(&self, asked: &str, finding: &Finding) -> bool {
        self.requests.is_match(asked) && self.parts.iter().any(|part| part.is_match(&finding.part))
    }
}

#[test]
fn every_recorded_answer_is_the_same_or_differs_as_documented() -> Result<()> {
    run(async || {
        let replay = Replay::start().await?;
        let differences = Explained::read()?;
        let mut used = BTreeSet::new();
        let mut unexplained = Vec::new();
        let mut asked_in_all = 0;
        for (file, exchanges) in fixtures()? {
            replay.prepare(&file).await?;
            for exchange in exchanges {
                asked_in_all += 1;
                let (asked, findings) = match (&exchange.request, &exchange.kubectl) {
                    (Some(request), None) => (request.clone(), replay.ask(&exchange, request).await?),
                    (None, Some(command)) => (command.clone(), replay.run_kubectl(&exchange, command).await?),
                    _ => bail!("{file}: an exchange is either a request or a command of kubectl"),
                };
                let caller = exchange.caller.as_deref().unwrap_or("admin");
                let headers: Vec<&str> = exchange.headers.values().map(String::as_str).collect();
                let asked = format!("{asked} {} as {caller}", headers.join(" "));
                for finding in findings {
                    match differences.iter().find(|explained| explained.covers(&asked, &finding)) {
                        Some(explained) => drop(used.insert(explained.difference.name.clone())),
                        None => unexplained.push(format!(
                            "{file}: {asked}\n  {}\n    original: {}\n    here:     {}",
                            finding.part, finding.original, finding.here
                        )),
                    }
                }
            }
        }
        ensure!(asked_in_all > 130, "only {asked_in_all} requests");
        ensure!(unexplained.is_empty(), "{} unexplained:\n{}", unexplained.len(), unexplained.join("\n"));
        let names = differences.iter().map(|explained| &*explained.difference.name);
        let stale: Vec<&str> = names.filter(|name| !used.contains(*name)).collect();
        ensure!(stale.is_empty(), "listed, but not seen: {stale:?}");
        Ok(())
    })
}
