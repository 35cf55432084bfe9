//! `fleetglass diff`: what is not the same in all clusters.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::check;
use super::server::{PAGE, Server};
use super::tables::{aligned, cell};
use crate::args::DiffArgs;

/// Clusters that have a column each; of more, values tell where they are.
const MOST_COLUMNS: usize = 4;
/// Characters shown of a value.
const LONGEST_VALUE: usize = 60;

/// Shows the differences; whether there are any.
pub(super) async fn show(args: &DiffArgs, output: &mut (impl Write + IsTerminal)) -> Result<bool> {
    let query = args.query();
    check(&query)?;
    let server = Server::find(&args.connection).await?;
    let (mut items, mut token) = (Vec::new(), String::new());
    let (mut compared, mut not_compared) = (0, 0);
    loop {
        let left = if args.limit == 0 { PAGE } else { args.limit - items.len() };
        let limit = left.clamp(1, PAGE).to_string();
        let cluster = args.cluster.as_deref().unwrap_or_default();
        let only = args.only.map_or("", |only| only.parameter());
        let parameters =
            [("q", query.as_str()), ("cluster", cluster), ("only", only), ("limit", &limit), ("continue", &token)];
        let list = server.json("differences", &parameters).await?;
        compared += list["compared"].as_u64().unwrap_or_default();
        not_compared += list["notCompared"].as_u64().unwrap_or_default();
        items.extend(list["items"].as_array().into_iter().flatten().cloned());
        token = list["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() || (args.limit > 0 && items.len() >= args.limit) {
            break;
        }
    }
    if args.json {
        writeln!(output, "{}", Value::Array(items.clone()))?;
    } else {
        aligned(output, &rows(&items), true)?;
    }
    if !token.is_empty() {
        writeln!(std::io::stderr(), "There may be more; --limit says how many are shown, 0 for all")?;
    }
    if not_compared > 0 {
        writeln!(std::io::stderr(), "{not_compared} objects are of kinds that fewer than two of the clusters follow")?;
    }
    server.check_complete()?;
    // That nothing differs would be no answer where nothing was looked at.
    ensure!(compared > 0, "nothing was compared: see search/status for what each cluster has, or --explain the query");
    Ok(!items.is_empty())
}

fn names(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn rows(items: &[Value]) -> Vec<Vec<String>> {
    let clusters: BTreeSet<&str> =
        items.iter().flat_map(|item| names(&item["presentIn"]).chain(names(&item["missingIn"]))).collect();
    let clusters = Some(clusters).filter(|clusters| clusters.len() <= MOST_COLUMNS);
    let mut head: Vec<String> = ["KIND", "NAMESPACE", "NAME", "DIFFERENCE"].map(str::to_owned).to_vec();
    match &clusters {
        Some(clusters) => head.extend(clusters.iter().map(|cluster| cluster.to_uppercase())),
        None => head.push("WHERE".to_owned()),
    }
    let mut rows = vec![head];
    for item in items {
        let identity = ["kind", "namespace", "name"].map(|field| item[field].as_str().unwrap_or_default().to_owned());
        let mut push = |difference: &str, shown: &dyn Fn(&str) -> Option<String>| {
            let mut row = identity.to_vec();
            row.push(difference.to_owned());
            match &clusters {
                Some(clusters) => row.extend(clusters.iter().map(|cluster| shown(cluster).unwrap_or_default())),
                None => row.push(grouped(item, shown)),
            }
            rows.push(row);
        };
        if item["missingIn"].is_array() {
            push("(object)", &|cluster| {
                let is_missing = names(&item["missingIn"]).any(|name| name == cluster);
                let is_present = names(&item["presentIn"]).any(|name| name == cluster);
                (is_missing || is_present).then(|| if is_missing { "missing" } else { "there" }.to_owned())
            });
        }
        for field in item["fields"].as_array().into_iter().flatten() {
            push(field["path"].as_str().unwrap_or_default(), &|cluster| {
                let is_present = names(&item["presentIn"]).any(|name| name == cluster);
                let value = field["values"].get(cluster).map(|value| shortened(&cell(value)));
                value.or_else(|| is_present.then(|| "<none>".to_owned()))
            });
        }
    }
    rows
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_VALUE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// `3 in a, b; 2 in c`
fn grouped(item: &Value, shown: &dyn Fn(&str) -> Option<String>) -> String {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for cluster in names(&item["presentIn"]).chain(names(&item["missingIn"])) {
        let Some(value) = shown(cluster) else { continue };
        match groups.iter_mut().find(|(other, _)| *other == value) {
            Some((_, clusters)) => clusters.push(cluster),
            None => groups.push((value, vec![cluster])),
        }
    }
    let groups = groups.into_iter().map(|(value, clusters)| match clusters.len() {
        0..=3 => format!("{value} in {}", clusters.join(", ")),
        more => format!("{value} in {more} clusters"),
    });
    groups.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn few_clusters_have_a_column_each_and_of_many_it_is_told_where_values_are() {
        let field = json!({"path": "spec.replicas", "values": {"a": 1, "b": 2}});
        let item = |clusters: &[&str]| json!({"kind": "Deployment", "namespace": "shop", "name": "web", "presentIn": clusters, "fields": [field.clone()]});
        let few = rows(&[item(&["a", "b"])]);
        assert_eq!(few[1], ["Deployment", "shop", "web", "spec.replicas", "1", "2"]);
        let many = rows(&[item(&["a", "b", "c", "d", "e"])]);
        assert_eq!(many[1][4], "1 in a; 2 in b; <none> in c, d, e");
    }
}
