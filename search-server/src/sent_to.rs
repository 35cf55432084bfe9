//! Which backends hold something of ours, remembered until they are empty: a server that dies while it empties one, or before,
//! leaves nothing there for good.
//!
//! In: the backends that registries name, which clusters answer there, and which ones have been emptied. Out: records in a store of
//! their own beside the registries, and the backends that no registry names any more. Several servers share the records: whoever
//! comes second finds done what it wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apiservice::storage::{Storage, StorageError};
use bytes::Bytes;
use indexer::backend::Told;
use indexer::plan::{BackendReference, SecretReference};
use indexer::supervise::LeftBackend;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

/// The backends that were ever sent to and are not known to be empty.
#[derive(Debug)]
pub(crate) struct SentTo {
    storage: Arc<dyn Storage>,
    known: BTreeMap<String, Record>,
    /// Whether the records of earlier servers have been read.
    is_loaded: bool,
}

/// What is kept of a backend: how a registry named it, and the id of the cluster that answered there. Until that is known, nothing
/// was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    addresses: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret_namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
}

impl Record {
    fn of(reference: &BackendReference) -> Self {
        let secret = reference.secret.as_ref();
        Self {
            addresses: reference.addresses.clone(),
            secret_namespace: secret.map(|secret| secret.namespace.clone()),
            secret_name: secret.map(|secret| secret.name.clone()),
            cluster: None,
        }
    }

    fn reference(&self) -> BackendReference {
        let secret = self.secret_namespace.clone().zip(self.secret_name.clone());
        let secret = secret.map(|(namespace, name)| SecretReference { namespace, name });
        BackendReference { addresses: self.addresses.clone(), secret }
    }

    fn value(&self) -> Bytes {
        // Strings always serialize.
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

/// What the record of a backend is called.
fn name_of(reference: &BackendReference) -> String {
    format!("{:016x}", XxHash3_64::oneshot(&Record::of(reference).value()))
}

impl SentTo {
    /// Backed by these records; nothing is read yet.
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage, known: BTreeMap::new(), is_loaded: false }
    }

    /// Remembers the backends that are named and which clusters they are, and forgets those that are empty. False if that has to be
    /// tried again.
    pub(crate) async fn follow(&mut self, named: &BTreeSet<BackendReference>, told: &Told) -> bool {
        match self.try_follow(named, told).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "which backends were sent to can't be kept, trying again");
                false
            }
        }
    }

    /// The backends that no registry names any more.
    pub(crate) fn left(&self, named: &BTreeSet<BackendReference>) -> Vec<LeftBackend> {
        let records = self.known.values().map(|record| (record.reference(), record));
        let left = records.filter(|(reference, _)| !named.contains(reference));
        left.filter_map(|(reference, record)| Some(LeftBackend { reference, cluster: record.cluster.clone()? }))
            .collect()
    }

    async fn try_follow(&mut self, named: &BTreeSet<BackendReference>, told: &Told) -> Result<(), StorageError> {
        self.load().await?;
        for reference in named {
            let cluster = told.clusters.get(reference).cloned();
            self.remember(reference, cluster).await?;
        }
        let is_over = |record: &Record| {
            let reference = record.reference();
            let is_emptied = |cluster: &String| {
                told.emptied.contains(&LeftBackend { reference: reference.clone(), cluster: cluster.clone() })
            };
            // What is sent to by another name is not left.
            let is_named = |cluster: &String| {
                told.clusters.iter().any(|(reference, known)| known == cluster && named.contains(reference))
            };
            !named.contains(&reference)
                && record.cluster.as_ref().is_none_or(|cluster| is_emptied(cluster) || is_named(cluster))
        };
        let over: Vec<String> =
            self.known.iter().filter(|(_, record)| is_over(record)).map(|(name, _)| name.clone()).collect();
        for name in over {
            self.forget(&name).await?;
        }
        Ok(())
    }

    async fn load(&mut self) -> Result<(), StorageError> {
        if self.is_loaded {
            return Ok(());
        }
        for stored in self.storage.list().await?.items {
            match serde_json::from_slice::<Record>(&stored.value) {
                Ok(record) => {
                    if stored.is_outdated {
                        // With the present key; whoever comes second finds it done.
                        self.storage.update(&stored.name, record.value(), stored.revision).await.ok();
                    }
                    self.known.insert(stored.name, record);
                }
                Err(error) => tracing::warn!(record = stored.name, %error, "a record of a backend can't be read"),
            }
        }
        self.is_loaded = true;
        Ok(())
    }

    async fn remember(&mut self, reference: &BackendReference, cluster: Option<String>) -> Result<(), StorageError> {
        let name = name_of(reference);
        let known = self.known.get(&name);
        let cluster = cluster.or_else(|| known?.cluster.clone());
        if known.is_some_and(|known| known.cluster == cluster) {
            return Ok(());
        }
        let record = Record { cluster, ..Record::of(reference) };
        let written = match self.storage.get(&name).await? {
            Some(stored) if stored.value == record.value() => Ok(stored.revision),
            Some(stored) => self.storage.update(&name, record.value(), stored.revision).await,
            None => self.storage.create(&name, record.value()).await,
        };
        match written {
            // Another server writes the same now.
            Ok(_) | Err(StorageError::Exists | StorageError::Conflict) => {
                self.known.insert(name, record);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn forget(&mut self, name: &str) -> Result<(), StorageError> {
        if let Some(stored) = self.storage.get(name).await? {
            match self.storage.delete(name, stored.revision).await {
                // Another server has it gone already.
                Ok(_) | Err(StorageError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        self.known.remove(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use apiservice::storage::embedded::EmbeddedStorage;

    use super::*;

    fn at(address: &str, secret: Option<&str>) -> BackendReference {
        let secret = secret.map(|name| SecretReference { namespace: "default".to_owned(), name: name.to_owned() });
        BackendReference { addresses: vec![address.to_owned()], secret }
    }

    fn left(reference: &BackendReference) -> LeftBackend {
        LeftBackend { reference: reference.clone(), cluster: format!("id of {}", reference.addresses[0]) }
    }

    fn told(identified: &[&BackendReference], emptied: &[&BackendReference]) -> Told {
        let identified = identified.iter().map(|one| ((*one).clone(), left(one).cluster));
        Told { clusters: identified.collect(), emptied: emptied.iter().map(|one| left(one)).collect() }
    }

    #[tokio::test]
    async fn a_backend_is_remembered_over_restarts_until_it_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(EmbeddedStorage::open(folder.path()).unwrap());
        let (one, other, mute) = (at("http://one", None), at("https://other", Some("login")), at("http://mute", None));
        let (all, none) = (BTreeSet::from([one.clone(), other.clone(), mute.clone()]), BTreeSet::new());
        let only_one = BTreeSet::from([one.clone()]);
        let mut first = SentTo::new(Arc::clone(&storage));
        assert!(first.follow(&all, &told(&[], &[])).await);
        assert!(first.follow(&all, &told(&[&one, &other], &[])).await);
        assert_eq!(first.left(&all), []);
        let mut second = SentTo::new(Arc::clone(&storage));
        assert!(second.follow(&only_one, &told(&[], &[])).await);
        assert_eq!(second.left(&only_one), [left(&other)], "one that never said who it is was never sent to");
        // Who is named again is not forgotten, whatever was emptied before.
        assert!(second.follow(&only_one, &told(&[], &[&one, &other])).await);
        assert_eq!(second.left(&none), [left(&one)]);
        assert!(
            first.follow(&none, &told(&[], &[&one, &other])).await,
            "what another server has forgotten is forgotten"
        );
        assert_eq!(first.left(&none), []);
        // The same cluster by another name.
        let renamed = at("http://one.example", None);
        let called = Told { clusters: [(renamed.clone(), left(&one).cluster)].into(), ..Told::default() };
        assert!(second.follow(&[renamed.clone()].into(), &called).await);
        assert_eq!(second.left(&none), [LeftBackend { reference: renamed.clone(), cluster: left(&one).cluster }]);
        assert!(
            second.follow(&none, &Told { emptied: second.left(&none).into_iter().collect(), ..Told::default() }).await
        );
        let mut third = SentTo::new(storage);
        assert!(third.follow(&none, &told(&[], &[])).await);
        assert_eq!(third.left(&none), []);
    }
}
