//! The boards for OpenSearch Dashboards: every panel is asked of a real node that holds the demo's estate, with the request that
//! Dashboards would make of it.

mod shared;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use shared::run;
use tempfile::TempDir;
use tests::estate::Estate;
use tests::eventually;
use tests::opensearch::OpenSearch;

/// Objects of the demo's estate.
const OBJECTS: usize = 119;

/// What a visualisation's aggregations are in OpenSearch's language: each split holds the next one, the last one the metric.
fn aggregations(state: &Value) -> Result<Value> {
    let all = state["aggs"].as_array().context("a panel without aggregations")?;
    let (metrics, splits): (Vec<&Value>, Vec<&Value>) = all.iter().partition(|one| one["schema"] == "metric");
    let metric = metrics.first().context("a panel that counts nothing")?;
    let mut inner = match metric["type"].as_str().context("a metric without a type")? {
        "count" => json!({}),
        kind => json!({ "1": { kind: { "field": metric["params"]["field"] } } }),
    };
    for split in splits.into_iter().rev() {
        let parameters = &split["params"];
        let one = match split["type"].as_str().context("a split without a type")? {
            "terms" => {
                let by = if metric["type"] == "count" { "_count" } else { "1" };
                json!({ "terms": { "field": parameters["field"], "size": parameters["size"], "order": { by: "desc" } } })
            }
            "date_histogram" => {
                json!({ "date_histogram": { "field": parameters["field"], "fixed_interval": "30d", "min_doc_count": 1 } })
            }
            other => anyhow::bail!("{other} is not known here"),
        };
        // A metric that a level is ordered by stands in it.
        let mut below = inner.clone();
        if let (Some(below), Some(kind)) =
            (below.as_object_mut(), metric["type"].as_str().filter(|kind| *kind != "count"))
        {
            below.insert("1".to_owned(), json!({ kind: { "field": metric["params"]["field"] } }));
        }
        let mut level = one;
        level["aggs"] = below;
        let name = split["id"].as_str().context("a split without an id")?;
        inner = json!({ name: level });
    }
    Ok(inner)
}

fn nested(text: &Value) -> Result<Value> {
    Ok(serde_json::from_str(text.as_str().context("no JSON within JSON")?)?)
}

/// The query of a panel or search, as Dashboards sends it.
fn query(object: &Value) -> Result<Value> {
    let source = nested(&object["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])?;
    let text = source["query"]["query"].as_str().context("no query")?;
    ensure!(source["query"]["language"] == "lucene", "{source}");
    Ok(match text {
        "" => json!({ "match_all": {} }),
        text => json!({ "query_string": { "query": text, "analyze_wildcard": true, "time_zone": "UTC" } }),
    })
}

/// The demo's estate, sent to a node.
async fn sent() -> Result<(Estate, OpenSearch, TempDir)> {
    let estate = Estate::start().await?;
    let folder = tempfile::Builder::new().prefix("fleetglass-boards-").tempdir()?;
    let node = OpenSearch::start(folder.path()).await?;
    let patch = json!({ "spec": { "backendStore": { "openSearch": { "addresses": [node.url] } } } }).to_string();
    let words = ["patch", "resourceregistry", "deployment-search", "--type=merge", "--patch", &patch];
    estate.kubectl.run(&words).await?;
    eventually(Duration::from_secs(60), async || {
        let found = node.documents("fleetglass-objects").await?.len();
        ensure!(found == OBJECTS, "{found} documents");
        Ok(())
    })
    .await?;
    Ok((estate, node, folder))
}

/// The estate's objects are years old; what changes is shown of the last days.
async fn roll_out_today(estate: &Estate, node: &OpenSearch) -> Result<()> {
    let metadata =
        json!({ "name": "today", "namespace": "default", "creationTimestamp": jiff::Timestamp::now().to_string() });
    let deployment = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {} });
    std::fs::write(estate.file("pegasus", "today.yaml"), deployment.to_string())?;
    eventually(Duration::from_secs(60), async || {
        let found = node.documents("fleetglass-objects").await?.len();
        ensure!(found == OBJECTS + 1, "{found} documents");
        Ok(())
    })
    .await
}

/// What a panel or a search asks, and what it must not find empty.
fn question(object: &Value) -> Result<Value> {
    let mut body = json!({ "size": 0, "track_total_hits": true, "query": query(object)? });
    if object["type"] == "visualization" {
        body["aggs"] = aggregations(&nested(&object["attributes"]["visState"])?)?;
    }
    Ok(body)
}

fn check(title: &str, answer: &Value) -> Result<()> {
    ensure!(answer["hits"]["total"]["value"].as_u64() > Some(0), "{title} finds nothing: {answer}");
    for (name, one) in answer["aggregations"].as_object().into_iter().flatten() {
        let is_something = match one["buckets"].as_array() {
            Some(buckets) => !buckets.is_empty(),
            // Nothing was restarted there; that it is counted is enough.
            None => one["value"].as_f64().is_some_and(|sum| sum > 0.0 || title == "Restarts"),
        };
        ensure!(is_something, "{title} has nothing in {name}: {one}");
    }
    Ok(())
}

#[test]
fn every_panel_of_every_board_shows_something_of_the_demos_estate() -> Result<()> {
    run(async || {
        let (estate, node, _folder) = sent().await?;
        roll_out_today(&estate, &node).await?;
        let told = estate.fleetglass(&["dashboards"])?;
        assert_eq!(told.code, Some(0), "{}", told.complaints);
        let objects: Vec<Value> = told.output.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let id = |object: &Value| (object["type"].to_string(), object["id"].to_string());
        let attributes: BTreeMap<_, _> = objects.iter().map(|object| (id(object), &object["attributes"])).collect();
        let timed = attributes.values().find(|board| board["timeRestore"] == true).context("no board over time")?;
        let shown = objects.iter().filter(|object| matches!(object["type"].as_str(), Some("visualization" | "search")));
        let (mut asked, mut over_time) = (0, 0);
        for object in shown {
            let title = object["attributes"]["title"].as_str().context("no title")?;
            let pattern = attributes.get(&id(&object["references"][0])).context("no pattern")?;
            let mut body = question(object)?;
            if let Some(time) = pattern["timeFieldName"].as_str() {
                let span = json!({ "range": { time: { "gte": timed["timeFrom"], "lte": timed["timeTo"] } } });
                body["query"] = json!({ "bool": { "must": body["query"], "filter": span } });
                over_time += 1;
            }
            let name = pattern["title"].as_str().context("a pattern without a title")?;
            let answer = node.ask(Method::POST, &format!("{name}/_search"), Some(body)).await?;
            check(title, &answer)?;
            asked += 1;
        }
        assert_eq!((asked, over_time), (41, 5));
        estate.stop()
    })
}

#[test]
fn a_check_tells_on_one_page_what_is_wrong_with_a_backend() -> Result<()> {
    run(async || {
        let (estate, node, _folder) = sent().await?;
        let checked = estate.fleetglass(&["backend", "check", &node.url])?;
        assert_eq!(checked.code, Some(0), "{}{}", checked.output, checked.complaints);
        ensure!(
            checked.output.contains("119 of 2 clusters")
                && checked.output.contains("writing to fleetglass-objects is permitted")
                && checked.output.contains("writing to fleetglass-status is permitted"),
            "{}",
            checked.output
        );
        let by_registry = estate.fleetglass(&["backend", "check", "--registry", "deployment-search"])?;
        ensure!(by_registry.output.contains("Following"), "{}{}", by_registry.output, by_registry.complaints);
        node.ask(Method::PUT, "fleetglass-objects/_settings", Some(json!({ "index.blocks.write": true }))).await?;
        let blocked = estate.fleetglass(&["backend", "check", &node.url])?;
        assert_eq!(blocked.code, Some(1), "{}{}", blocked.output, blocked.complaints);
        ensure!(blocked.output.contains("index.blocks.write is set"), "{}", blocked.output);
        let nobody = estate.fleetglass(&["backend", "check", "http://127.0.0.1:1"])?;
        ensure!(nobody.code == Some(1) && nobody.output.contains("does not answer"), "{}", nobody.output);
        estate.stop()
    })
}

#[test]
fn refused_documents_are_sent_once_more_out_of_their_log() -> Result<()> {
    run(async || {
        let (estate, node, folder) = sent().await?;
        let letter = |id: &str, document: Value| json!({ "time": "2026-01-02T03:04:05Z", "backend": node.url, "id": id, "reason": "no room", "document": document });
        let there = node.documents("fleetglass-objects").await?.into_keys().next().context("no documents")?;
        let log = folder.path().join("dead-letters.ndjson");
        let letters = [
            letter(&there, json!({ "name": "old", "resourceVersion": "0" })),
            letter("pegasus//pods/shop/late", json!({ "name": "late", "created": "no time", "resourceVersion": "6" })),
            letter("pegasus//pods/shop/late", json!({ "name": "late", "resourceVersion": "7" })),
            letter("pegasus//pods/shop/gone", Value::Null),
        ];
        std::fs::write(&log, letters.map(|letter| letter.to_string()).join("\n"))?;
        let file = log.display().to_string();
        let told = estate.fleetglass(&["backend", "replay", "--file", &file, &node.url])?;
        assert_eq!(told.code, Some(0), "{}{}", told.output, told.complaints);
        assert_eq!(told.output, "1 taken, 1 there in a newer state, 0 refused again, 1 of objects that had gone\n");
        let documents = node.documents("fleetglass-objects").await?;
        ensure!(documents["pegasus//pods/shop/late"]["name"] == "late" && documents[&there]["name"] != "old");
        std::fs::write(
            &log,
            letter("x", json!({ "name": "x", "created": "no time", "resourceVersion": "7" })).to_string(),
        )?;
        let told = estate.fleetglass(&["backend", "replay", "--file", &file, &node.url])?;
        ensure!(
            told.code == Some(1) && told.output.contains("refused  x: mapper_parsing_exception"),
            "{}",
            told.output
        );
        std::fs::write(&log, "no letter")?;
        let told = estate.fleetglass(&["backend", "replay", "--file", &file, &node.url])?;
        ensure!(told.code == Some(2) && told.complaints.contains("line 1"), "{}", told.complaints);
        estate.stop()
    })
}
