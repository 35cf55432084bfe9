//! Where documents stand in a backend: an index template, one index for the present form of documents, and an alias that leads to it.
//!
//! All writing and reading goes through the alias. A new form gets an index of its own: what the old one has is copied there,
//! then the alias moves on in one step, and comparing writes anew what is of the old form.

use std::collections::BTreeMap;
use std::time::Duration;

use opensearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;

use super::BackendError;
use super::client::{Client, Request};

/// Raised with every change of [`super::document`] or of the mapping.
pub(super) const FORM: u32 = 2;
/// Settings of an index and the fields of its documents, as OpenSearch takes them.
pub const MAPPING: &str = include_str!("mapping.json");
/// How often a running copy is asked how far it is.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// Names of what a backend has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// What readers and writers name.
    pub(super) alias: String,
    /// The index of the present form.
    index: String,
}

/// What a server says of itself.
#[derive(Debug, Deserialize)]
struct About {
    #[serde(default)]
    cluster_uuid: String,
    version: AboutVersion,
}

#[derive(Debug, Deserialize)]
struct AboutVersion {
    #[serde(default)]
    distribution: String,
    number: String,
}

/// The oldest OpenSearch that has `flat_object` fields.
const OLDEST: (u32, u32) = (2, 7);

/// Makes sure that the server is one that can be written to; its cluster's id, where it tells that.
pub(super) async fn identify(client: &Client) -> Result<Option<String>, BackendError> {
    let about: About = match client.ask(Request::new(Method::Get, "")).await {
        Ok(about) => about,
        // Some are permitted to write but not to ask this.
        Err(error) if matches!(error.status(), Some(403)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (distribution, number) = (&about.version.distribution, &about.version.number);
    let mut numbers = number.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if distribution != "opensearch" || version < OLDEST {
        let name = if distribution.is_empty() { "a server" } else { distribution.as_str() };
        return Err(BackendError::Unsuitable(format!(
            "the server is {name} {number}, and what is needed is opensearch {}.{} or newer",
            OLDEST.0, OLDEST.1
        )));
    }
    if about.cluster_uuid.is_empty() || about.cluster_uuid == "_na_" {
        return Err(BackendError::Unsuitable("the server is not part of a cluster yet".to_owned()));
    }
    Ok(Some(about.cluster_uuid))
}

/// The first number of the server's version; the oldest one that is known to work if we may not ask.
pub(super) async fn major_version(client: &Client) -> Result<u32, BackendError> {
    match client.ask::<About>(Request::new(Method::Get, "")).await {
        Ok(about) => {
            Ok(about.version.number.split('.').next().and_then(|number| number.parse().ok()).unwrap_or(OLDEST.0))
        }
        Err(error) if matches!(error.status(), Some(403)) => Ok(OLDEST.0),
        Err(error) => Err(error),
    }
}

impl Layout {
    pub(super) fn new(prefix: &str) -> Self {
        Self { alias: format!("{prefix}-objects"), index: format!("{prefix}-objects-{FORM}") }
    }

    /// Makes sure that the alias leads to an index of the present form.
    pub(super) async fn prepare(&self, client: &Client) -> Result<(), BackendError> {
        let present = self.present(client).await?;
        if let Some(later) = present.iter().find(|index| self.form_of(index).is_some_and(|form| form > FORM)) {
            return Err(BackendError::Unsuitable(format!(
                "{} leads to {later}, which a newer version of this program writes: update this one",
                self.alias
            )));
        }
        if present.contains(&self.index) {
            return Ok(());
        }
        self.put_template(client).await?;
        self.create_index(client).await?;
        let earlier: Vec<&String> = present.iter().filter(|index| self.form_of(index).is_some()).collect();
        for earlier in &earlier {
            info!(from = earlier, to = self.index, "copying documents to an index of the present form");
            self.copy(client, earlier).await?;
        }
        let removed = earlier.iter().map(|index| json!({ "remove_index": { "index": index } }));
        let added = json!({ "add": { "index": self.index, "alias": self.alias, "is_write_index": true } });
        let actions: Vec<Value> = std::iter::once(added).chain(removed).collect();
        let request = Request::new(Method::Post, "_aliases").json(&json!({ "actions": actions }));
        client.ask::<Value>(request).await?;
        info!(index = self.index, alias = self.alias, "the index is ready");
        Ok(())
    }

    /// The form of an index of ours; none of what others have put behind the alias.
    fn form_of(&self, index: &str) -> Option<u32> {
        index.strip_prefix(&self.alias)?.strip_prefix('-')?.parse().ok()
    }

    /// The indices that the alias leads to.
    pub(super) async fn present(&self, client: &Client) -> Result<Vec<String>, BackendError> {
        let path = format!("_alias/{}", self.alias);
        match client.ask::<BTreeMap<String, Value>>(Request::new(Method::Get, &path)).await {
            Ok(indices) => Ok(indices.into_keys().collect()),
            Err(error) if error.status() == Some(404) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn put_template(&self, client: &Client) -> Result<(), BackendError> {
        let path = format!("_index_template/{}", self.alias);
        let body = json!({
            "index_patterns": [format!("{}-*", self.alias)],
            // Above the usual ones, below those that an operator adds to change something.
            "priority": 100,
            "version": FORM,
            "template": mapping()?,
        });
        client.ask::<Value>(Request::new(Method::Put, &path).json(&body)).await.map(drop)
    }

    async fn create_index(&self, client: &Client) -> Result<(), BackendError> {
        // With the fields, which an operator's template may have replaced, and what they need; its other settings count.
        let Value::Object(whole) = mapping()? else { return Ok(()) };
        let body = json!({ "mappings": whole["mappings"], "settings": { "analysis": whole["settings"]["analysis"] } });
        match client.ask::<Value>(Request::new(Method::Put, &self.index).json(&body)).await {
            Err(BackendError::Refused { status: 400, reason, .. })
                if reason.contains("resource_already_exists_exception") =>
            {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    async fn copy(&self, client: &Client, earlier: &str) -> Result<(), BackendError> {
        #[derive(Deserialize)]
        struct Started {
            task: String,
        }
        #[derive(Deserialize)]
        struct Task {
            completed: bool,
            #[serde(default)]
            error: Option<Value>,
            #[serde(default)]
            response: Copied,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Copied {
            failures: Vec<Value>,
        }
        let body = json!({
            "conflicts": "proceed",
            "source": { "index": earlier },
            "dest": { "index": self.index, "version_type": "external_gte" },
        });
        let parameters = [("wait_for_completion", "false")];
        let started: Started = client.ask(Request::new(Method::Post, "_reindex").with(&parameters).json(&body)).await?;
        let path = format!("_tasks/{}", started.task);
        loop {
            let task: Task = client.ask(Request::new(Method::Get, &path)).await?;
            match task.error.or_else(|| task.response.failures.into_iter().next()) {
                Some(error) => return Err(BackendError::Unsuitable(format!("copying {earlier} failed: {error}"))),
                None if task.completed => return Ok(()),
                None => tokio::time::sleep(BETWEEN_LOOKS).await,
            }
        }
    }
}

fn mapping() -> Result<Value, BackendError> {
    serde_json::from_str(MAPPING).map_err(|error| BackendError::Unsuitable(format!("mapping.json: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mapping_lets_no_key_of_an_object_become_a_field() {
        let mapping = mapping().unwrap();
        assert_eq!(mapping["mappings"]["dynamic"], false);
        for name in ["labels", "annotations", "body"] {
            assert_eq!(mapping["mappings"]["properties"][name]["type"], "flat_object", "{name}");
        }
    }
}
