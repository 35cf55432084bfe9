//! Objects, queries and orders that bring out what an index may get wrong. Kept apart so that every index is tested with them.

use proptest::prelude::*;
use serde_json::{Value, json};

/// API group, version and kind.
pub(crate) const KINDS: [(&str, &str, &str); 4] =
    [("", "v1", "Pod"), ("apps", "v1", "Deployment"), ("", "v1", "ConfigMap"), ("", "v1", "Secret")];

/// An object written, or deleted where it has no body.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) cluster: &'static str,
    /// Which of the kinds.
    pub(crate) kind: usize,
    pub(crate) namespace: &'static str,
    pub(crate) name: String,
    pub(crate) body: Option<Value>,
}

fn text() -> impl Strategy<Value = Value> {
    let texts = [
        "web",
        "Web site",
        "1",
        "10",
        "1.10",
        "500m",
        "0.5",
        "1Gi",
        "true",
        "",
        "2026-03-04T11:00:00Z",
        "nginx:1.27",
        "10.0.0.1",
        "rolling update",
        "a\u{1}b",
    ];
    prop_oneof![
        14 => prop::sample::select(texts.to_vec()).prop_map(|text| json!(text)),
        1 => Just(json!("long ".repeat(80))),
    ]
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        9 => text(),
        3 => prop::sample::select(vec![json!(1), json!(0.5), json!(10), json!(-2), json!(1_073_741_824)]),
        1 => any::<bool>().prop_map(|truth| json!(truth)),
        1 => Just(Value::Null),
        1 => Just(json!({})),
    ]
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["app", "app.name", "a.b/c", "x", "\u{2}"]).prop_map(str::to_owned)
}

fn body() -> impl Strategy<Value = Value> {
    let map = || prop::collection::btree_map(key(), text(), 0..3);
    let labels = prop::collection::btree_map(key(), prop_oneof![4 => text(), 1 => Just(Value::Null)], 0..3);
    let created = prop::sample::select(vec![
        json!("2026-03-04T11:30:00Z"),
        json!("2026-03-01T00:00:00Z"),
        json!("2026-03-01T01:00:00+01:00"),
        json!("yesterday"),
        Value::Null,
    ]);
    let owner = prop::sample::select(vec![json!([]), json!([{ "kind": "App", "name": "web", "uid": "1" }])]);
    let element = prop::collection::btree_map(key(), scalar(), 0..3).prop_map(|fields| json!(fields));
    let list = prop::collection::vec(prop_oneof![scalar(), element], 0..3);
    let image = (prop_oneof![3 => text(), 1 => Just(json!(7))], prop::bool::weighted(0.8));
    (labels, map(), created, owner, scalar(), list, image).prop_map(
        |(labels, annotations, created, owners, replicas, list, (image, are_containers))| {
            // In a kind that somebody defined, what is called so may be something else.
            let containers = match are_containers {
                true => json!([{ "name": "web", "image": image, "args": ["rolling update"] }, { "name": "db", "app": replicas }]),
                false => json!({ "name": "web", "image": image, "list": [{ "name": "db", "app": replicas }] }),
            };
            json!({
                "metadata": { "labels": labels, "annotations": annotations, "creationTimestamp": created,
                    "ownerReferences": owners,
                    "managedFields": [{ "manager": "web" }, { "time": created }, { "time": "2026-02-01T00:00:00Z" }] },
                "spec": { "replicas": replicas, "list": list, "containers": containers },
                "data": { "web": replicas },
            })
        },
    )
}

pub(crate) fn written() -> impl Strategy<Value = Written> {
    let body = prop_oneof![5 => body().prop_map(Some), 1 => Just(None)];
    (
        prop::sample::select(vec!["east", "west"]),
        0..KINDS.len(),
        prop::sample::select(vec!["shop", ""]),
        "(web|db|x)-[ab]",
        body,
    )
        .prop_map(|(cluster, kind, namespace, name, body)| Written { cluster, kind, namespace, name, body })
}

const ASKED: [&str; 28] = [
    "cluster",
    "group",
    "version",
    "kind",
    "resource",
    "namespace",
    "name",
    "uid",
    "owner",
    "image",
    "container",
    "spec.containers.name",
    "label.app",
    "label.app.name",
    "label.x",
    "annotation.a.b/c",
    "annotation.app",
    "spec.replicas",
    "spec.list",
    "spec.list.x",
    "spec",
    "spec.list.app",
    "data.web",
    "metadata.managedFields.manager",
    "metadata.labels.app",
    "metadata.name",
    "metadata.annotations",
    "missing",
];

const VALUES: [&str; 28] = [
    "*",
    "web",
    "west",
    "Pod",
    "1",
    "10",
    "0.5",
    "500m",
    ">0",
    "<=1",
    "[1 TO 10]",
    "true",
    "w*",
    "*e*",
    "?eb",
    "nginx:1.27",
    "App/web",
    "web-a",
    "\"\"",
    ">a",
    "10.0.0.1",
    "1*",
    "long*",
    ">now-1d",
    "{0.5 TO *]",
    "\"Web site\"",
    "shop",
    "*-a",
];

fn clause() -> impl Strategy<Value = String> {
    let of_field = (prop::sample::select(ASKED.to_vec()), prop::sample::select(VALUES.to_vec()));
    let times = prop::sample::select(vec![
        "created:>now-1d",
        "created:2026-03-01",
        "created:*",
        "created:<now-2d",
        "changed:>now-1d",
        "changed:*",
        "changed:2026-02-01",
    ]);
    let words = prop::sample::select(vec![
        "web",
        "WEB",
        "rolling",
        "\"rolling update\"",
        "\"update rolling\"",
        "w*",
        "*o*",
        "lon?",
        "nginx",
        "\"web site\"",
        "missing",
    ]);
    prop_oneof![
        6 => of_field.prop_map(|(field, value)| format!("{field}:{value}")),
        3 => element(),
        1 => times.prop_map(str::to_owned),
        3 => words.prop_map(str::to_owned),
    ]
}

fn element() -> impl Strategy<Value = String> {
    let of = prop::sample::select(vec!["container", "spec.containers", "spec.list", "spec", "metadata.managedFields"]);
    let field = prop::sample::select(vec!["name", "app", "x", "image", "app\\.name", "list.app"]);
    let leaf = (field, prop::sample::select(VALUES.to_vec())).prop_map(|(field, value)| format!("{field}:{value}"));
    let inner = leaf.prop_recursive(2, 5, 3, |inner| {
        prop_oneof![
            2 => inner.clone().prop_map(|part| format!("(NOT {part})")),
            1 => inner.clone().prop_map(|part| format!("list:{{{part}}}")),
            2 => prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" "))),
            1 => prop::collection::vec(inner, 2..4).prop_map(|parts| format!("({})", parts.join(" OR "))),
        ]
    });
    (of, inner).prop_map(|(of, inner)| format!("{of}:{{{inner}}}"))
}

/// A whole query.
pub(crate) fn expression() -> impl Strategy<Value = String> {
    clause().prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" AND "))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" OR "))),
            inner.prop_map(|part| format!("(NOT {part})")),
        ]
    })
}

/// Fields to sort and count by.
pub(crate) const FIELDS: [&str; 15] = [
    "name",
    "cluster",
    "kind",
    "created",
    "spec.replicas",
    "label.app",
    "annotation.app",
    "image",
    "container",
    "changed",
    "owner",
    "spec.list",
    "namespace",
    "data.web",
    "metadata.managedFields.manager",
];

/// An order.
pub(crate) fn order() -> impl Strategy<Value = String> {
    let field = (prop::sample::select(FIELDS.to_vec()), any::<bool>());
    let field = field.prop_map(|(field, down)| format!("{}{field}", if down { "-" } else { "" }));
    prop::collection::vec(field, 0..3).prop_map(|fields| fields.join(","))
}
