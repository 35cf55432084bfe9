//! What `kubectl get resourceregistries` prints.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::read::raw;
use crate::error::ApiError;
use crate::table::{Column, IncludeObject, Row, RowObject, Table, TableMeta, age};
use crate::types::ResourceRegistry;

/// Names shown in a cell; the rest are counted.
const NAMED: usize = 3;

/// A table of registries.
pub(super) fn table(metadata: TableMeta, documents: &[Value], include: IncludeObject) -> Result<Table, ApiError> {
    let now = Timestamp::now();
    let rows = documents.iter().map(|document| row(document, include, now)).collect::<Result<_, _>>()?;
    Ok(Table::new(metadata, columns(), rows))
}

fn columns() -> Vec<Column> {
    vec![
        Column::name("Name of the registry."),
        Column::new("Clusters", "string", "The clusters it selects; * is all of them."),
        Column::new("Resources", "string", "The kinds it caches."),
        Column::new("Ready", "string", "Whether all of them are followed; the reason where not."),
        Column::new("Age", "string", "Time since it was created."),
        Column::new("Created At", "date", "When it was created.").wide(),
    ]
}

fn row(document: &Value, include: IncludeObject, now: Timestamp) -> Result<Row, ApiError> {
    let registry: ResourceRegistry = serde_json::from_value(document.clone()).unwrap_or_default();
    let created = registry.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let cells = vec![
        json!(registry.name()),
        json!(clusters(&registry)),
        json!(resources(&registry)),
        json!(ready(&registry)),
        json!(created.map_or_else(|| "<unknown>".to_owned(), |created| age(created, now))),
        json!(created.map(|created| created.to_string())),
    ];
    let object = match include {
        IncludeObject::None => RowObject::None,
        IncludeObject::Metadata => RowObject::Metadata(raw(&document["metadata"])?),
        IncludeObject::Object => RowObject::Object(raw(document)?),
    };
    Ok(Row { cells, object })
}

fn clusters(registry: &ResourceRegistry) -> String {
    let target = &registry.spec.target_cluster;
    let mut parts = Vec::new();
    if !target.cluster_names.is_empty() {
        parts.push(shortened(&target.cluster_names));
    }
    if target.label_selector.is_some() || target.field_selector.is_some() {
        parts.push("<selector>".to_owned());
    }
    if parts.is_empty() {
        parts.push("*".to_owned());
    }
    parts.extend(target.exclude.iter().take(NAMED).map(|name| format!("!{name}")));
    parts.join(",")
}

fn resources(registry: &ResourceRegistry) -> String {
    let kinds: BTreeSet<&str> =
        registry.spec.resource_selectors.iter().map(|selector| selector.kind.as_str()).collect();
    let kinds: Vec<String> = kinds.into_iter().map(str::to_owned).collect();
    if kinds.is_empty() { "<none>".to_owned() } else { shortened(&kinds) }
}

fn shortened(names: &[String]) -> String {
    let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(",");
    if names.len() > NAMED { format!("{shown} +{} more", names.len() - NAMED) } else { shown }
}

fn ready(registry: &ResourceRegistry) -> String {
    let condition = registry.status.conditions.iter().find(|condition| condition.type_ == "Ready");
    match condition {
        Some(condition) if condition.status == "True" => "True".to_owned(),
        Some(condition) => format!("{} ({})", condition.status, condition.reason),
        None => "Unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_is_cached_and_whether_it_is() {
        let document = json!({"metadata": {"name": "all", "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {"targetCluster": {"clusterNames": ["a", "b", "c", "d"], "exclude": ["x"]},
                "resourceSelectors": [{"apiVersion": "v1", "kind": "Pod"}, {"apiVersion": "apps/v1", "kind": "Deployment"}]},
            "status": {"conditions": [{"type": "Ready", "status": "False", "reason": "OutOfTouch", "message": "",
                "lastTransitionTime": "2026-01-02T03:04:05Z"}]}});
        let now = "2026-01-02T03:09:05Z".parse().unwrap();
        let row = row(&document, IncludeObject::None, now).unwrap();
        assert_eq!(
            row.cells,
            [
                json!("all"),
                json!("a,b,c +1 more,!x"),
                json!("Deployment,Pod"),
                json!("False (OutOfTouch)"),
                json!("5m"),
                json!("2026-01-02T03:04:05Z")
            ]
        );
    }
}
