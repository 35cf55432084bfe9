//! The results as a page: plots of cost against size, and the tables. One file that needs nothing else.

use std::fmt::Write;

use super::report::{Results, Table};

/// A plot: its title, the unit of its upright axis, and what is drawn.
struct Plot {
    title: &'static str,
    unit: &'static str,
    lines: &'static [&'static str],
}

const PLOTS: &[Plot] = &[
    Plot {
        title: "Memory",
        unit: "MiB",
        lines: &[
            "resident holding, MiB",
            "peak resident while syncing, MiB",
            "resident after the restart, MiB",
            "resident holding without the index, MiB",
        ],
    },
    Plot {
        title: "Following",
        unit: "s",
        lines: &["first sync, s", "first sync and index, CPU s", "killed to serving everything, s"],
    },
    Plot { title: "Lists of all", unit: "s", lines: &["list all, s", "list all, CPU s"] },
    Plot {
        title: "Pages",
        unit: "ms",
        lines: &[
            "first byte of a list of all, ms",
            "page of 500, p99, ms",
            "namespace of a cluster, p99, ms",
            "one object, p99, ms",
        ],
    },
    Plot {
        title: "Queries",
        unit: "ms",
        lines: &["filtered page of 500, p99, ms", "query with a page of 50, p99, ms", "images counted over all, ms"],
    },
];

const COLORS: [&str; 4] = ["#0b6e99", "#d9730d", "#0f7b6c", "#ad1a72"];
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
/// Left of and below the axes.
const MARGIN: f64 = 56.0;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2rem auto;padding:0 1rem;color:#222}\
    table{border-collapse:collapse;margin:.5rem 0 2rem}td,th{border-bottom:1px solid #ddd;padding:.2rem .8rem;text-align:right}\
    td{white-space:nowrap}\
    td:first-child,th:first-child{text-align:left}.plots{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0}\
    svg text{font:12px system-ui,sans-serif;fill:#444}";

/// The whole page.
pub(crate) fn page(results: &Results) -> String {
    let mut plots = String::new();
    for plot in PLOTS {
        plots.push_str(&plot.draw(results));
    }
    let mut tables = String::new();
    for (title, table) in results.tables() {
        let _ = write!(tables, "<h2>{}</h2>{}", escaped(&title), rows(&table));
    }
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>What Fleetglass costs</title><style>{STYLE}</style>\
         <h1>What Fleetglass costs</h1><p>{}. Both axes of the plots are logarithmic.</p>\
         <div class=plots>{plots}</div>{tables}</html>\n",
        escaped(&results.origin())
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn rows(table: &Table) -> String {
    let mut html = "<table>".to_owned();
    for (at, row) in table.iter().enumerate() {
        let cell = if at == 0 { "th" } else { "td" };
        let cells = row.iter().map(|text| format!("<{cell}>{}</{cell}>", escaped(text)));
        let _ = write!(html, "<tr>{}</tr>", cells.collect::<String>());
    }
    html + "</table>"
}

/// A logarithmic axis.
struct Axis {
    from: f64,
    to: f64,
    length: f64,
}

impl Axis {
    /// Of whole powers of ten around all values.
    fn around(values: impl Iterator<Item = f64>, length: f64) -> Self {
        let (mut from, mut to) = (f64::MAX, f64::MIN);
        for value in values.filter(|value| *value > 0.0) {
            (from, to) = (from.min(value.log10()), to.max(value.log10()));
        }
        Self { from: from.floor(), to: to.ceil().max(from.floor() + 1.0), length }
    }

    fn at(&self, value: f64) -> f64 {
        (value.max(f64::MIN_POSITIVE).log10() - self.from) / (self.to - self.from) * self.length
    }

    /// The powers of ten on it.
    fn ticks(&self) -> impl Iterator<Item = f64> {
        let first = self.from;
        (0..)
            .map(move |step| first + f64::from(step))
            .take_while(|power| *power <= self.to)
            .map(|power| 10_f64.powf(power))
    }
}

/// As axes name a power of ten.
fn named(value: f64) -> String {
    match value {
        1_000_000.0.. => format!("{:.0}M", value / 1e6),
        1000.0.. => format!("{:.0}k", value / 1e3),
        1.0.. => format!("{value:.0}"),
        _ => format!("{value}"),
    }
}

impl Plot {
    fn draw(&self, results: &Results) -> String {
        let of = |what: &str| -> Vec<(f64, f64)> {
            let figures = results.fleets.iter();
            figures.filter_map(|figures| Some((figures.get("objects")?, figures.get(what)?))).collect()
        };
        let lines: Vec<_> =
            self.lines.iter().map(|what| (*what, of(what))).filter(|(_, points)| !points.is_empty()).collect();
        if lines.is_empty() {
            return String::new();
        }
        let points = || lines.iter().flat_map(|(_, points)| points);
        let across = Axis::around(points().map(|point| point.0), WIDTH - 2.0 * MARGIN);
        let upright = Axis::around(points().map(|point| point.1), HEIGHT - 2.0 * MARGIN);
        let bottom = HEIGHT - MARGIN;
        let mut svg = format!("<figure><figcaption><b>{}</b>, {}</figcaption>", self.title, self.unit);
        let height = HEIGHT + 18.0 * lines.len() as f64;
        let _ = write!(svg, "<svg width={WIDTH} height={height} viewBox='0 0 {WIDTH} {height}'>");
        for value in upright.ticks() {
            let y = bottom - upright.at(value);
            let end = WIDTH - MARGIN;
            let _ = write!(
                svg,
                "<path d='M{MARGIN} {y}H{end}' stroke='#ddd'/><text x='{}' y='{}' text-anchor='end'>{}</text>",
                MARGIN - 6.0,
                y + 4.0,
                named(value)
            );
        }
        for value in across.ticks() {
            let x = MARGIN + across.at(value);
            let _ = write!(
                svg,
                "<path d='M{x} {MARGIN}V{bottom}' stroke='#eee'/><text x='{x}' y='{}' text-anchor='middle'>{} pods</text>",
                bottom + 18.0,
                named(value)
            );
        }
        for (at, ((what, points), color)) in lines.iter().zip(COLORS.iter().cycle()).enumerate() {
            let place = |(x, y): &(f64, f64)| format!("{:.1},{:.1}", MARGIN + across.at(*x), bottom - upright.at(*y));
            let path: Vec<String> = points.iter().map(place).collect();
            let _ =
                write!(svg, "<polyline points='{}' fill='none' stroke='{color}' stroke-width='2'/>", path.join(" "));
            for point in &path {
                let (x, y) = point.split_once(',').unwrap_or_default();
                let _ = write!(svg, "<circle cx='{x}' cy='{y}' r='3' fill='{color}'/>");
            }
            let y = HEIGHT - 8.0 + 18.0 * at as f64;
            let _ = write!(
                svg,
                "<circle cx='{MARGIN}' cy='{}' r='4' fill='{color}'/><text x='{}' y='{y}'>{}</text>",
                y - 4.0,
                MARGIN + 10.0,
                escaped(what)
            );
        }
        svg + "</svg></figure>"
    }
}
