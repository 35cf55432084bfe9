//! What tests tell the clusters to do, and what they ask about them.

use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::answer::{Body, JSON, Problem, whole, with_type};
use super::cluster::Cluster;
use super::counters::Counting;
use super::fault::Fault;
use super::schedule::version_after;

/// Answers a request to a path below `/control`.
pub(crate) fn answer(
    clusters: &[Cluster],
    counting: &Counting,
    method: &Method,
    path: &[&str],
    query: &str,
) -> Result<Response<Body>, Problem> {
    let document = match (method, path) {
        (&Method::GET, ["counters"]) => {
            serde_json::to_value(counting.now()).map_err(|error| Problem::bad_request(error.to_string()))?
        }
        (&Method::POST, ["clusters", number, what]) => {
            let cluster = number.parse().ok().and_then(|number: usize| clusters.get(number));
            change(cluster.ok_or_else(|| Problem::no_such_object("clusters", number))?, what, query)?
        }
        _ => return Err(Problem::no_such_path()),
    };
    Ok(with_type(StatusCode::OK, JSON, whole(document.to_string())))
}

fn change(cluster: &Cluster, what: &str, query: &str) -> Result<Value, Problem> {
    let value = |name: &str| {
        let found = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name);
        found.map(|(_, value)| value.into_owned()).ok_or_else(|| Problem::bad_request(format!("{name} is missing")))
    };
    let unreadable = |error: String| Problem::bad_request(error);
    let now = Instant::now();
    match what {
        "rate" => {
            let rate: f64 = value("updates-per-second")?.parse().map_err(|_| unreadable("no number".to_owned()))?;
            if !(0.0..=1e6).contains(&rate) {
                return Err(unreadable(format!("a rate of {rate}")));
            }
            cluster.states.send_modify(|state| state.set_rate(now, rate));
        }
        "update" => {
            let count: u32 = value("count")?.parse().map_err(|_| unreadable("no number".to_owned()))?;
            cluster.states.send_modify(|state| state.add(count as usize));
        }
        "fault" => {
            let fault: Fault = value("kind")?.parse().map_err(|error| unreadable(format!("{error:#}")))?;
            cluster.states.send_modify(|state| state.set_fault(now, fault));
        }
        _ => return Err(Problem::no_such_path()),
    }
    let updates = cluster.states.borrow().updates(now);
    Ok(json!({ "resourceVersion": version_after(updates).to_string() }))
}
