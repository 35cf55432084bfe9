//! What people look at: every query of every board is asked of a real Prometheus that scrapes a running Fleetglass.

mod shared;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shared::{CACHE, run};
use tests::api_server::ADMIN_TOKEN;
use tests::eventually;
use tests::karmada::registry;
use tests::parts::{Part, find};
use tests::process::{Server, free_port};
use tests::stage::{Plan, Stage};

/// Title, and queries with the board's variables filled in.
fn queries() -> Result<Vec<(String, String)>> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace's folder")?;
    let text = std::fs::read_to_string(workspace.join("dashboards/grafana/fleetglass.json"))?;
    let board: Value = serde_json::from_str(&text)?;
    let mut queries = Vec::new();
    for panel in board["panels"].as_array().context("no panels")? {
        let title = panel["title"].as_str().context("a panel without a title")?;
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().context("a target without a query")?;
            let query = query.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$cluster", ".*");
            ensure!(!query.contains('$'), "{title}: a variable that Grafana would not know: {query}");
            queries.push((title.to_owned(), query));
        }
    }
    Ok(queries)
}

/// A Prometheus that scrapes a stage's Fleetglass each second; its URL.
async fn prometheus(stage: &Stage) -> Result<(Server, String)> {
    let folder = stage.folder().join("prometheus");
    std::fs::create_dir_all(&folder)?;
    let fleetglass = stage.fleetglass()?;
    std::fs::write(folder.join("ca.crt"), &fleetglass.authority)?;
    let configuration = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: fleetglass\n  scheme: https\n  \
         authorization: {{credentials: {ADMIN_TOKEN}}}\n  tls_config: {{ca_file: ca.crt}}\n  \
         static_configs: [{{targets: ['127.0.0.1:{}']}}]\n",
        fleetglass.port()
    );
    std::fs::write(folder.join("prometheus.yaml"), configuration)?;
    let port = free_port()?;
    let arguments = [
        format!("--config.file={}", folder.join("prometheus.yaml").display()),
        format!("--storage.tsdb.path={}", folder.join("data").display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
    ];
    let mut server = Server::start("prometheus", &find(Part::Prometheus)?, arguments, &folder)?;
    let url = format!("http://127.0.0.1:{port}");
    let ready = format!("{url}/-/ready");
    server
        .until(Duration::from_secs(60), async || {
            reqwest::get(&ready).await?.error_for_status()?;
            Ok(())
        })
        .await?;
    Ok((server, url))
}

/// Requests of every kind, so that there is something to see.
async fn make_traffic(stage: &Stage) -> Result<()> {
    let kubectl = stage.kubectl()?;
    kubectl.apply(&registry("shown", &[], &["apps/v1/Deployment", "v1/Pod"]).to_string()).await?;
    kubectl.run(&["wait", "--for=condition=Ready", "resourceregistry/shown", "--timeout=120s"]).await?;
    // A backend that nobody answers for has figures, too.
    let mut sent = registry("sent", &[], &["v1/Node"]);
    sent["spec"]["backendStore"] = json!({ "openSearch": { "addresses": ["http://127.0.0.1:1"] } });
    kubectl.apply(&sent.to_string()).await?;
    for name in ["app-000", "nothing"] {
        kubectl.raw(&format!("{CACHE}/apis/apps/v1/namespaces/team-000/deployments/{name}")).await?;
    }
    kubectl.raw(&format!("{CACHE}/api/v1/pods")).await?;
    kubectl.run(&["get", "--raw", &format!("{CACHE}/api/v1/pods?watch=true&timeoutSeconds=2")]).await?;
    // Larger than any registry may be: turned away before it is read.
    let fleetglass = stage.fleetglass()?;
    let url = format!("{}/apis/search.karmada.io/v1alpha1/resourceregistries", fleetglass.url);
    let post = fleetglass.client()?.post(url).bearer_auth(ADMIN_TOKEN).header("content-type", "application/json");
    assert_eq!(post.body("x".repeat(4 << 20)).send().await?.status().as_u16(), 413);
    Ok(())
}

#[test]
fn every_query_of_the_board_returns_data() -> Result<()> {
    run(async || {
        let stage = Stage::start(&Plan { members: 2, applications: 2, pods: 1, ..Plan::default() }).await?;
        let (_server, url) = prometheus(&stage).await?;
        make_traffic(&stage).await?;
        let client = reqwest::Client::new();
        let queries = queries()?;
        ensure!(queries.len() > 25, "only {} queries", queries.len());
        for (title, query) in queries {
            eventually(Duration::from_secs(60), async || {
                let asked = client.get(format!("{url}/api/v1/query")).query(&[("query", &query)]);
                let answer: Value = asked.send().await?.json().await?;
                ensure!(answer["status"] == "success", "{title}: {answer}");
                let result = answer["data"]["result"].as_array().cloned().unwrap_or_default();
                let numbers = result.iter().filter_map(|series| series["value"][1].as_str()?.parse::<f64>().ok());
                ensure!(numbers.clone().count() > 0, "{title}: {query} returns nothing");
                ensure!(numbers.clone().any(|number| !number.is_nan()), "{title}: {query} returns no number");
                Ok(())
            })
            .await?;
        }
        Ok(())
    })
}
