//! Sends refused documents once more, out of their log, after whatever stood in their way was put right.
//!
//! Each goes under the version that its object had. What the backend has of a later version stays as it is; what has gone since is
//! deleted again by the next comparison of the server that writes there.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::BackendError;
use super::bulk::{self, Lines, Outcome};
use super::client::Client;
use super::layout::{self, Layout};
use super::target::{SecretData, Target};
use crate::plan::BackendReference;

/// Documents of one request.
const AT_ONCE: usize = 200;

/// What came of a log.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Documents that the backend has taken.
    pub taken: usize,
    /// Documents of which the backend has something newer.
    pub outdated: usize,
    /// Documents that were refused again, each with the reason.
    pub refused: Vec<(String, String)>,
    /// Lines that hold no document, as those of objects that have gone.
    pub empty: usize,
}

#[derive(Deserialize)]
struct Letter {
    id: String,
    document: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Written {
    #[serde(default, rename = "resourceVersion")]
    resource_version: String,
}

/// Sends the documents of a log to the backend that a registry names. Of a document that was refused several times, the last one
/// counts. Credentials go over http only where that is allowed.
///
/// # Errors
/// If the backend can't be used, or a line is none of the log.
pub async fn replay(
    reference: &BackendReference,
    secret: Option<&SecretData>,
    prefix: &str,
    log: &str,
    may_be_plain: bool,
) -> Result<Replayed, BackendError> {
    let target = Target::new(reference, secret, may_be_plain)?;
    let client = Client::new(&target)?;
    layout::identify(&client).await?;
    let alias = Layout::new(prefix).alias;
    let mut letters = BTreeMap::new();
    let mut replayed = Replayed::default();
    for (number, line) in log.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let letter: Letter = serde_json::from_str(line).map_err(|error| {
            BackendError::Unsuitable(format!("line {} is none of a log of refused documents: {error}", number + 1))
        })?;
        match letter.document {
            Some(document) => drop(letters.insert(letter.id, document)),
            None => replayed.empty += 1,
        }
    }
    let letters: Vec<(String, Box<RawValue>)> = letters.into_iter().collect();
    for some in letters.chunks(AT_ONCE) {
        send(&client, &alias, some, &mut replayed).await?;
    }
    Ok(replayed)
}

async fn send(
    client: &Client,
    alias: &str,
    letters: &[(String, Box<RawValue>)],
    replayed: &mut Replayed,
) -> Result<(), BackendError> {
    let mut lines = Lines::new();
    for (id, document) in letters {
        let version = serde_json::from_str::<Written>(document.get()).ok();
        let version: i64 = version.and_then(|written| written.resource_version.parse().ok()).unwrap_or_default();
        let head = json!({ "index": { "_id": id, "version": version, "version_type": "external_gte" } });
        lines.add(head.to_string().as_bytes())?;
        lines.add(document.get().as_bytes())?;
    }
    let outcomes = bulk::send(client, alias, lines.finish()?, letters.len()).await?;
    for ((id, _), outcome) in letters.iter().zip(outcomes) {
        match outcome {
            Outcome::Done => replayed.taken += 1,
            Outcome::Conflict(_) => replayed.outdated += 1,
            Outcome::Again { reason, .. } | Outcome::Rejected(reason) => replayed.refused.push((id.clone(), reason)),
        }
    }
    Ok(())
}
