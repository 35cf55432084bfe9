//! Whether nodes have room on their disks, by the watermarks that the cluster itself goes by.

use std::collections::BTreeMap;

use opensearch::http::Method;
use serde::Deserialize;
use serde_json::Value;

use super::{Report, Verdict};
use crate::backend::BackendError;
use crate::backend::client::{Client, Request};

/// How full a disk may be: by share, or by what must stay free.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Watermark {
    /// Percent used, at most.
    Used(f64),
    /// Bytes free, at least.
    Free(f64),
}

/// A disk, as a node tells of it.
#[derive(Debug, Clone, Copy)]
struct Disk {
    /// Percent used.
    used: f64,
    /// Bytes free.
    free: f64,
}

impl Watermark {
    /// Reads `90%`, `0.9` or `20gb`, which are the forms of OpenSearch's settings.
    fn parse(text: &str) -> Option<Watermark> {
        let text = text.trim().to_ascii_lowercase();
        if let Some(percent) = text.strip_suffix('%') {
            return percent.trim().parse().ok().map(Watermark::Used);
        }
        if let Ok(ratio) = text.parse::<f64>() {
            return Some(Watermark::Used(ratio * 100.0));
        }
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let power = ["b", "kb", "mb", "gb", "tb", "pb"].iter().position(|unit| *unit == text[digits..].trim())?;
        let number: f64 = text[..digits].parse().ok()?;
        Some(Watermark::Free(number * 1024_f64.powi(i32::try_from(power).ok()?)))
    }

    fn is_passed(self, disk: Disk) -> bool {
        match self {
            Watermark::Used(percent) => disk.used >= percent,
            Watermark::Free(bytes) => disk.free <= bytes,
        }
    }
}

/// What the cluster's settings say of full disks.
struct Limits {
    /// From here on shards are moved away.
    high: Watermark,
    /// From here on indices can't be written to.
    flood: Watermark,
}

/// OpenSearch's defaults, for who may not read the settings.
const LIMITS: Limits = Limits { high: Watermark::Used(90.0), flood: Watermark::Used(95.0) };

/// The limits of a cluster; none if it looks at no disks.
async fn limits(client: &Client) -> Result<Option<Limits>, BackendError> {
    type Settings = BTreeMap<String, Value>;
    #[derive(Deserialize)]
    struct All {
        #[serde(default)]
        transient: Settings,
        #[serde(default)]
        persistent: Settings,
        #[serde(default)]
        defaults: Settings,
    }
    let parameters = [("include_defaults", "true"), ("flat_settings", "true")];
    let all: All = match client.ask(Request::new(Method::Get, "_cluster/settings").with(&parameters)).await {
        Ok(all) => all,
        Err(error) if error.status() == Some(403) => return Ok(Some(LIMITS)),
        Err(error) => return Err(error),
    };
    let setting = |name: &str| {
        let name = format!("cluster.routing.allocation.disk.{name}");
        [&all.transient, &all.persistent, &all.defaults].into_iter().find_map(|settings| settings.get(&name)?.as_str())
    };
    if setting("threshold_enabled") == Some("false") {
        return Ok(None);
    }
    let watermark = |name: &str, default| setting(name).and_then(Watermark::parse).unwrap_or(default);
    Ok(Some(Limits {
        high: watermark("watermark.high", LIMITS.high),
        flood: watermark("watermark.flood_stage", LIMITS.flood),
    }))
}

fn judge(disk: Disk, limits: Option<&Limits>) -> (Verdict, &'static str) {
    match limits {
        None if disk.used >= 90.0 => {
            (Verdict::Doubtful, "; the cluster's settings let it write until nothing is free (disk.threshold_enabled)")
        }
        Some(limits) if limits.flood.is_passed(disk) => {
            (Verdict::Wrong, "; past the flood stage OpenSearch takes no writes: make room")
        }
        Some(limits) if limits.high.is_passed(disk) => (
            Verdict::Doubtful,
            "; past the high watermark shards are moved away, past the flood stage nothing is written",
        ),
        _ => (Verdict::Fine, ""),
    }
}

/// Tells of every node's disk.
pub(super) async fn check(client: &Client, report: &mut Report) {
    #[derive(Deserialize)]
    struct Allocation {
        node: String,
        #[serde(rename = "disk.percent")]
        used: Option<String>,
        #[serde(rename = "disk.avail")]
        free: Option<String>,
    }
    let request = Request::new(Method::Get, "_cat/allocation").with(&[("format", "json"), ("bytes", "b")]);
    let asked = async { Ok((limits(client).await?, client.ask::<Vec<Allocation>>(request).await?)) };
    let (limits, nodes) = match asked.await {
        Ok(answers) => answers,
        Err(error) => return report.add_error("disk", &error),
    };
    let number = |text: Option<String>| text.and_then(|text| text.parse::<f64>().ok());
    for Allocation { node, used, free } in nodes {
        // A row of shards that are nowhere has no disk.
        let (Some(used), Some(free)) = (number(used), number(free)) else { continue };
        let (verdict, hint) = judge(Disk { used, free }, limits.as_ref());
        report.add("disk", verdict, format!("{node}: {used} % full{hint}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watermarks_are_read_in_each_form_that_settings_have() {
        for (text, expected) in [
            ("90%", Some(Watermark::Used(90.0))),
            ("0.85", Some(Watermark::Used(85.0))),
            ("2kb", Some(Watermark::Free(2048.0))),
            ("1.5gb", Some(Watermark::Free(1.5 * 1024.0 * 1024.0 * 1024.0))),
            ("much", None),
            ("10 apples", None),
        ] {
            assert_eq!(Watermark::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_full_disk_is_wrong_only_where_the_cluster_looks_at_disks() {
        let full = Disk { used: 98.0, free: 1e9 };
        assert_eq!(judge(full, Some(&LIMITS)).0, Verdict::Wrong);
        assert_eq!(judge(full, None).0, Verdict::Doubtful);
        let by_room = Limits { high: Watermark::Free(2e9), flood: Watermark::Free(1e8) };
        assert_eq!(judge(full, Some(&by_room)).0, Verdict::Doubtful);
        assert_eq!(judge(Disk { used: 40.0, free: 1e12 }, Some(&LIMITS)).0, Verdict::Fine);
    }
}
