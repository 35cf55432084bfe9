//! HorizontalPodAutoscalers: what each metric is, beside what it should be. Reads v2 objects, and the one metric of v1.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::read::{Count, Lenient, Object, Text, read};
use super::words::{AGE, Heading, NAME, first_of, text};

/// Metrics that are shown before the rest is counted.
const SHOWN: usize = 2;

pub(super) const AUTOSCALER: &[Heading] = &[
    NAME,
    text("Reference", "What is scaled."),
    text("Targets", "What each metric is, and should be."),
    text("MinPods", "Fewest pods."),
    text("MaxPods", "Most pods."),
    text("Replicas", "Pods that there are."),
    AGE,
];

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow)]
    scale_target_ref: Lenient<Target<'a>>,
    min_replicas: Lenient<Option<i64>>,
    max_replicas: Count,
    metrics: Lenient<Vec<Metric<'a>>>,
    #[serde(rename = "targetCPUUtilizationPercentage")]
    target_cpu: Lenient<Option<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Target<'a> {
    #[serde(borrow)]
    kind: Text<'a>,
    name: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status<'a> {
    current_replicas: Count,
    #[serde(borrow)]
    current_metrics: Lenient<Vec<Metric<'a>>>,
    #[serde(rename = "currentCPUUtilizationPercentage")]
    current_cpu: Lenient<Option<i64>>,
}

/// A metric as `spec` and `status` have it; one of the sources is filled.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metric<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    resource: Lenient<Source<'a>>,
    container_resource: Lenient<Source<'a>>,
    pods: Lenient<Source<'a>>,
    object: Lenient<Source<'a>>,
    external: Lenient<Source<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Source<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    target: Lenient<Amount<'a>>,
    current: Lenient<Amount<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Amount<'a> {
    #[serde(borrow)]
    value: Text<'a>,
    average_value: Text<'a>,
    average_utilization: Lenient<Option<i64>>,
}

impl<'a> Metric<'a> {
    fn source(&self) -> Option<&Source<'a>> {
        Some(match &*self.kind {
            "Resource" => &self.resource,
            "ContainerResource" => &self.container_resource,
            "Pods" => &self.pods,
            "Object" => &self.object,
            "External" => &self.external,
            _ => return None,
        })
    }

    /// The metric as it should be, beside what it is.
    fn beside(&self, present: Option<&Self>) -> String {
        let Some(wanted) = self.source() else { return "<unknown type>".to_owned() };
        let none = Amount::default();
        let present = present.filter(|present| present.kind == self.kind).and_then(Metric::source);
        let present = present.map_or(&none, |source| &source.current);
        let target = &wanted.target;
        let is_average = !target.average_value.is_empty();
        match &*self.kind {
            "Resource" | "ContainerResource" if is_average => {
                format!("{}: {}/{}", &*wanted.name, present.average_value.or("<unknown>"), &*target.average_value)
            }
            "Resource" | "ContainerResource" => format!(
                "{}: {}/{}",
                &*wanted.name,
                percent(*present.average_utilization, "<unknown>"),
                percent(*target.average_utilization, "<auto>")
            ),
            "Pods" => format!("{}/{}", present.average_value.or("<unknown>"), &*target.average_value),
            _ if is_average => {
                format!("{}/{} (avg)", present.average_value.or("<unknown>"), &*target.average_value)
            }
            _ => format!("{}/{}", present.value.or("<unknown>"), &*target.value),
        }
    }
}

fn percent(value: Option<i64>, none: &str) -> String {
    value.map_or_else(|| none.to_owned(), |value| format!("{value}%"))
}

pub(super) fn autoscaler(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Object<'_, Spec<'_>, Status<'_>> = read(object);
    let target = &it.spec.scale_target_ref;
    vec![
        (*it.metadata.name).into(),
        format!("{}/{}", &*target.kind, &*target.name).into(),
        targets(&it.spec, &it.status).into(),
        it.spec.min_replicas.map_or_else(|| "<unset>".to_owned(), |replicas| replicas.to_string()).into(),
        (*it.spec.max_replicas).into(),
        (*it.status.current_replicas).into(),
        it.metadata.age(now).into(),
    ]
}

fn targets(spec: &Spec<'_>, status: &Status<'_>) -> String {
    let shown = spec.metrics.iter().take(SHOWN).enumerate();
    let shown: Vec<String> =
        shown.map(|(position, metric)| metric.beside(status.current_metrics.get(position))).collect();
    match (shown.is_empty(), *spec.target_cpu) {
        (true, Some(target)) => format!("cpu: {}/{target}%", percent(*status.current_cpu, "<unknown>")),
        (true, None) => "<none>".to_owned(),
        _ => first_of(&shown, spec.metrics.len(), ", "),
    }
}
