//! Saved objects in the form of Dashboards: much of it is JSON within JSON.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Board, Chart, Metric, Panel, Search, Shape, Source, Split, WHOLE_WIDTH};

/// Height of a chart and of a number, in the grid's units.
const HEIGHT: u32 = 15;
const LOW: u32 = 8;
/// The time that boards over a span of time are about.
const TIME: &str = "changed";
/// What rows need not carry: both are long, and in other fields as well.
const LEFT_OUT: [&str; 2] = ["object", "text"];
/// Where an object's index pattern is named.
const PATTERN_REFERENCE: &str = "kibanaSavedObjectMeta.searchSourceJSON.index";

/// The ids of a prefix's objects.
struct Names<'a> {
    prefix: &'a str,
}

impl Names<'_> {
    /// One pattern shows all documents, the other those of a span of time.
    fn pattern(&self, timed: bool) -> String {
        format!("{}-objects{}", self.prefix, if timed { "-by-time" } else { "" })
    }

    fn of(&self, kind: &str, name: &str) -> String {
        format!("{}-{kind}-{name}", self.prefix)
    }
}

pub(super) fn objects(source: &Source, prefix: &str) -> Result<Vec<Value>> {
    let names = Names { prefix };
    let mut objects = vec![pattern(&names, false)?, pattern(&names, true)?];
    objects.extend(source.searches.iter().map(|search| self::search(&names, search)));
    for board in &source.boards {
        let mut panels = Vec::new();
        for (number, panel) in board.panels.iter().enumerate() {
            let (kind, id) = match panel {
                Panel::Rows(rows) => {
                    let is_there = source.searches.iter().any(|search| search.name == rows.search);
                    ensure!(is_there, "board {}: there is no search {}", board.name, rows.search);
                    ("search", names.of("search", &rows.search))
                }
                Panel::Chart(chart) => {
                    let id = names.of("panel", &format!("{}-{number}", board.name));
                    objects.push(visualization(&names, &id, chart, board.timed));
                    ("visualization", id)
                }
            };
            panels.push((kind, id));
        }
        objects.push(dashboard(&names, board, &panels));
    }
    Ok(objects)
}

fn pattern(names: &Names<'_>, timed: bool) -> Result<Value> {
    let alias = format!("{}-objects", names.prefix);
    let left_out = LEFT_OUT.map(|name| json!({ "value": name }));
    let formats = json!({ "limits.memory": { "id": "bytes" }, "requests.memory": { "id": "bytes" } });
    let mut attributes = json!({
        "title": alias, "fields": fields()?.to_string(), "fieldFormatMap": formats.to_string(),
        "sourceFilters": Value::from(left_out.to_vec()).to_string(),
    });
    if timed {
        // Of two patterns with one title nobody could choose; this one means the alias too, and never an index that is being filled.
        attributes["title"] = json!(format!("{}-object*s", names.prefix));
        attributes["timeFieldName"] = json!(TIME);
    }
    Ok(json!({
        "type": "index-pattern", "id": names.pattern(timed), "attributes": attributes, "references": [],
        "migrationVersion": { "index-pattern": "7.6.0" },
    }))
}

/// The fields of documents as Dashboards lists them.
fn fields() -> Result<Value> {
    let mapping: Value = serde_json::from_str(indexer::backend::MAPPING).context("mapping.json")?;
    let mut types = BTreeMap::new();
    collect(&mapping["mappings"]["properties"], "", &mut types);
    let fields = types.into_iter().map(|(name, kind)| {
        let shown = match kind.as_str() {
            "keyword" | "text" | "flat_object" => "string",
            "long" | "double" => "number",
            other => other,
        };
        let is_aggregatable = !matches!(kind.as_str(), "text" | "flat_object");
        json!({ "name": name, "type": shown, "esTypes": [kind], "count": 0, "scripted": false, "searchable": true,
            "aggregatable": is_aggregatable, "readFromDocValues": is_aggregatable })
    });
    Ok(fields.chain(meta_fields()).collect())
}

/// What every document has.
fn meta_fields() -> impl Iterator<Item = Value> {
    let named = [
        ("_id", "string", true),
        ("_index", "string", true),
        ("_score", "number", false),
        ("_source", "_source", false),
    ];
    named.into_iter().map(|(name, kind, searchable)| {
        let types: &[&str] = if name == "_score" { &[] } else { &[name] };
        json!({ "name": name, "type": kind, "esTypes": types, "count": 0, "scripted": false, "searchable": searchable,
            "aggregatable": false, "readFromDocValues": false })
    })
}

fn collect(properties: &Value, path: &str, types: &mut BTreeMap<String, String>) {
    for (name, field) in properties.as_object().into_iter().flatten() {
        let name = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match field["type"].as_str() {
            // Kept, but not searched.
            Some("object") => {}
            Some(kind) => drop(types.insert(name, kind.to_owned())),
            None => collect(&field["properties"], &name, types),
        }
    }
}

fn search_source(query: &str) -> String {
    json!({ "query": { "query": query, "language": "lucene" }, "filter": [],
        "indexRefName": PATTERN_REFERENCE })
    .to_string()
}

fn pattern_reference(names: &Names<'_>, timed: bool) -> Value {
    json!({ "name": PATTERN_REFERENCE, "type": "index-pattern", "id": names.pattern(timed) })
}

fn search(names: &Names<'_>, search: &Search) -> Value {
    let sort = if search.timed { json!([["changed", "desc"]]) } else { json!([]) };
    json!({
        "type": "search", "id": names.of("search", &search.name), "migrationVersion": { "search": "7.9.3" },
        "attributes": {
            "title": search.title, "description": "", "hits": 0, "columns": search.columns, "sort": sort, "version": 1,
            "kibanaSavedObjectMeta": { "searchSourceJSON": search_source(&search.query) },
        },
        "references": [pattern_reference(names, search.timed)],
    })
}

fn visualization(names: &Names<'_>, id: &str, chart: &Chart, timed: bool) -> Value {
    let state = json!({
        "title": chart.title, "type": kind(chart.shape), "params": parameters(chart), "aggs": aggregations(chart),
    });
    json!({
        "type": "visualization", "id": id, "migrationVersion": { "visualization": "7.10.0" },
        "attributes": {
            "title": chart.title, "description": "", "uiStateJSON": "{}", "version": 1, "visState": state.to_string(),
            "kibanaSavedObjectMeta": { "searchSourceJSON": search_source(&chart.query) },
        },
        "references": [pattern_reference(names, timed)],
    })
}

fn kind(shape: Shape) -> &'static str {
    match shape {
        Shape::Metric => "metric",
        Shape::Bar => "histogram",
        Shape::Line => "line",
        Shape::Pie => "pie",
        Shape::Table => "table",
    }
}

/// What a split of a shape is called: the first one makes slices, rows or places on the axis, the second one the series.
fn role(shape: Shape, place: usize) -> &'static str {
    match (shape, place) {
        (Shape::Table, _) => "bucket",
        (Shape::Bar | Shape::Line, 1..) => "group",
        _ => "segment",
    }
}

fn aggregations(chart: &Chart) -> Vec<Value> {
    let (kind, parameters) = match &chart.metric {
        Metric::Count => ("count", json!({})),
        Metric::CountOf(field) => ("cardinality", json!({ "field": field })),
        Metric::Sum(field) => ("sum", json!({ "field": field })),
    };
    let metric = json!({ "id": "1", "enabled": true, "type": kind, "schema": "metric", "params": parameters });
    let splits = chart.by.iter().enumerate().map(|(place, split)| {
        let (kind, parameters) = match split {
            Split::Field { field, size } => (
                "terms",
                json!({ "field": field, "size": size, "orderBy": "1", "order": "desc", "otherBucket": false,
                    "otherBucketLabel": "Other", "missingBucket": false, "missingBucketLabel": "Missing" }),
            ),
            Split::Date { date } => (
                "date_histogram",
                json!({ "field": date, "interval": interval(date), "useNormalizedOpenSearchInterval": true, "min_doc_count": 1,
                    "drop_partials": false, "scaleMetricValues": false, "extended_bounds": {} }),
            ),
        };
        let id = (place + 2).to_string();
        json!({ "id": id, "enabled": true, "type": kind, "schema": role(chart.shape, place), "params": parameters })
    });
    std::iter::once(metric).chain(splits).collect()
}

/// Only the pattern's own time is bounded by the board's; any other may span years.
fn interval(date: &str) -> &'static str {
    if date == TIME { "auto" } else { "w" }
}

fn parameters(chart: &Chart) -> Value {
    match chart.shape {
        Shape::Metric => json!({ "addTooltip": true, "addLegend": false, "type": "metric", "metric": {
            "percentageMode": false, "useRanges": false, "colorSchema": "Green to Red", "metricColorMode": "None",
            "colorsRange": [{ "from": 0, "to": 1_000_000_000 }], "labels": { "show": true }, "invertColors": false,
            "style": { "bgFill": "#000", "bgColor": false, "labelColor": false, "subText": "", "fontSize": 36 } } }),
        Shape::Pie => json!({ "type": "pie", "addTooltip": true, "addLegend": true, "legendPosition": "right",
            "isDonut": true, "labels": { "show": false, "values": true, "last_level": true, "truncate": 100 } }),
        Shape::Table => json!({ "perPage": 10, "showPartialRows": false, "showMetricsAtAllLevels": false,
            "showTotal": true, "totalFunc": "sum", "percentageCol": "" }),
        Shape::Bar | Shape::Line => axes(chart.shape),
    }
}

fn axes(shape: Shape) -> Value {
    let kind = kind(shape);
    json!({
        "type": kind, "addTooltip": true, "addLegend": true, "legendPosition": "right", "times": [], "addTimeMarker": false,
        "grid": { "categoryLines": false }, "labels": { "show": false },
        "thresholdLine": { "show": false, "value": 10, "width": 1, "style": "full", "color": "#E7664C" },
        "categoryAxes": [{ "id": "CategoryAxis-1", "type": "category", "position": "bottom", "show": true, "style": {},
            "scale": { "type": "linear" }, "labels": { "show": true, "filter": true, "truncate": 100 }, "title": {} }],
        "valueAxes": [{ "id": "ValueAxis-1", "name": "LeftAxis-1", "type": "value", "position": "left", "show": true,
            "style": {}, "scale": { "type": "linear", "mode": "normal" },
            "labels": { "show": true, "rotate": 0, "filter": false, "truncate": 100 }, "title": { "text": "" } }],
        "seriesParams": [{ "show": true, "type": kind, "mode": "stacked", "data": { "label": "", "id": "1" },
            "valueAxis": "ValueAxis-1", "drawLinesBetweenPoints": true, "lineWidth": 2, "showCircles": true }],
    })
}

fn dashboard(names: &Names<'_>, board: &Board, panels: &[(&str, String)]) -> Value {
    let shown: Vec<Value> = places(board)
        .into_iter()
        .enumerate()
        .map(|(number, (x, y, w, h))| {
            let index = (number + 1).to_string();
            json!({ "version": "7.10.0", "panelIndex": index, "panelRefName": format!("panel_{number}"),
                "gridData": { "x": x, "y": y, "w": w, "h": h, "i": index }, "embeddableConfig": {} })
        })
        .collect();
    let references = panels
        .iter()
        .enumerate()
        .map(|(number, (kind, id))| json!({ "name": format!("panel_{number}"), "type": kind, "id": id }));
    let mut attributes = json!({
        "title": board.title, "description": "", "hits": 0, "version": 1, "timeRestore": board.timed,
        "panelsJSON": Value::from(shown).to_string(),
        "optionsJSON": json!({ "hidePanelTitles": false, "useMargins": true }).to_string(),
        "kibanaSavedObjectMeta": { "searchSourceJSON":
            json!({ "query": { "query": "", "language": "lucene" }, "filter": [] }).to_string() },
    });
    if board.timed {
        attributes["timeFrom"] = json!("now-7d");
        attributes["timeTo"] = json!("now");
    }
    json!({
        "type": "dashboard", "id": names.of("board", &board.name), "migrationVersion": { "dashboard": "7.9.3" },
        "attributes": attributes, "references": references.collect::<Vec<_>>(),
    })
}

/// Where each panel stands: side by side as long as there is room, as `(x, y, width, height)`.
fn places(board: &Board) -> Vec<(u32, u32, u32, u32)> {
    let (mut x, mut y, mut row) = (0, 0, 0);
    let mut places = Vec::new();
    for panel in &board.panels {
        let (width, height) = match panel {
            Panel::Chart(chart) if chart.shape == Shape::Metric => (chart.width, LOW),
            Panel::Chart(chart) => (chart.width, HEIGHT),
            Panel::Rows(rows) => (rows.width, HEIGHT),
        };
        if x + width > WHOLE_WIDTH {
            (x, y, row) = (0, y + row, 0);
        }
        places.push((x, y, width, height));
        (x, row) = (x + width, row.max(height));
    }
    places
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::dashboards::saved_objects;

    fn id(object: &Value) -> (String, String) {
        let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
        (text("type"), text("id"))
    }

    #[test]
    fn every_reference_leads_to_an_object_that_comes_along() {
        let objects = saved_objects("fleetglass").unwrap();
        let ids: BTreeSet<_> = objects.iter().map(id).collect();
        assert_eq!(ids.len(), objects.len(), "ids are different");
        for object in &objects {
            for reference in object["references"].as_array().unwrap() {
                assert!(ids.contains(&id(reference)), "{reference}");
            }
        }
        assert_eq!(ids.iter().filter(|(kind, _)| kind == "dashboard").count(), 5);
    }

    #[test]
    fn panels_ask_for_fields_that_documents_have() {
        let fields = fields().unwrap().to_string();
        for object in saved_objects("fleetglass").unwrap() {
            let Some(state) = object["attributes"]["visState"].as_str() else { continue };
            let state: Value = serde_json::from_str(state).unwrap();
            for aggregation in state["aggs"].as_array().unwrap() {
                let Some(field) = aggregation["params"]["field"].as_str() else { continue };
                assert!(fields.contains(&format!("\"name\":\"{field}\"")), "{field} in {}", state["title"]);
            }
        }
    }

    #[test]
    fn panels_stand_beside_and_below_each_other_and_never_on_each_other() {
        for object in saved_objects("fleetglass").unwrap() {
            let Some(panels) = object["attributes"]["panelsJSON"].as_str() else { continue };
            let panels: Vec<Value> = serde_json::from_str(panels).unwrap();
            let mut taken = BTreeSet::new();
            for panel in panels {
                let at = |name: &str| panel["gridData"][name].as_u64().unwrap();
                for x in at("x")..at("x") + at("w") {
                    for y in at("y")..at("y") + at("h") {
                        assert!(x < 48 && taken.insert((x, y)), "{} at {x}, {y}", object["id"]);
                    }
                }
            }
        }
    }
}
