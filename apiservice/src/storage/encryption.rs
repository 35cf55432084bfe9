//! Registries encrypted at rest: a store around another store.
//!
//! In: the file of `--encryption-provider-config`, in the form that kube-apiserver reads. Values are written by the first
//! provider's first key and read by any that the file names, told apart by their prefix (`k8s:enc:aescbc:v1:NAME:`). A value
//! that no provider can read is an error, never passed on as it is; plain text is only read if `identity` is named.
//!
//! What is stored under an older key than the one that writes now counts as outdated, so that an update which changes
//! nothing still writes it: that is how keys are rotated.

mod cipher;
mod configuration;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

pub use configuration::EncryptionConfigError;
use configuration::Provider;

use super::{Changes, Listing, Storage, StorageError, StorageEvent, Stored};

/// What every encrypted value of every API server begins with.
const ENCRYPTED: &[u8] = b"k8s:enc:";
/// How far a value is looked at to say by which key it was encrypted.
const PREFIX_BYTES: usize = 256;

/// The providers that a configuration file names.
#[derive(Debug)]
pub struct Encryption {
    path: PathBuf,
    current: ArcSwap<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    text: Vec<u8>,
    providers: Vec<Provider>,
}

/// A value as it is without encryption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The value.
    pub value: Bytes,
    /// Whether it would be written differently today.
    pub is_outdated: bool,
}

impl Encryption {
    /// Reads the file. None if it says nothing about registries.
    ///
    /// # Errors
    /// If it can't be read, or asks for what is not supported.
    pub fn from_file(path: PathBuf) -> Result<Option<Arc<Self>>, EncryptionConfigError> {
        let loaded = load(&path)?;
        Ok(loaded.map(|loaded| Arc::new(Self { path, current: ArcSwap::from_pointee(loaded) })))
    }

    /// Encrypts a value that is to be stored under the key `place`.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn seal(&self, value: Bytes, place: &str) -> Result<Bytes, StorageError> {
        let failed = |_| StorageError::Unavailable("a value could not be encrypted".to_owned());
        match self.current.load().providers.first() {
            Some(Provider::Encrypted(keys)) => {
                let key = keys.first().ok_or_else(|| failed(()))?;
                key.encrypt(&value, place).map(Bytes::from).map_err(|_| failed(()))
            }
            Some(Provider::Identity) => Ok(value),
            None => Err(failed(())),
        }
    }

    /// Reads a value that is stored under the key `place`.
    ///
    /// # Errors
    /// If none of the providers can read it.
    pub fn open(&self, stored: &Bytes, place: &str) -> Result<Opened, StorageError> {
        let loaded = self.current.load();
        for (number, provider) in loaded.providers.iter().enumerate() {
            let keys = match provider {
                Provider::Identity if stored.starts_with(ENCRYPTED) => continue,
                Provider::Identity => return Ok(Opened { value: stored.clone(), is_outdated: number > 0 }),
                Provider::Encrypted(keys) => keys,
            };
            for (position, key) in keys.iter().enumerate() {
                let Some(body) = stored.strip_prefix(key.prefix().as_bytes()) else { continue };
                if let Ok(value) = key.decrypt(body, place) {
                    return Ok(Opened { value: value.into(), is_outdated: number + position > 0 });
                }
            }
        }
        let start = String::from_utf8_lossy(stored.get(..PREFIX_BYTES).unwrap_or(stored));
        let why = match start.splitn(6, ':').collect::<Vec<_>>().as_slice() {
            ["k8s", "enc", algorithm, _, key, _] => format!("it was encrypted by {algorithm} with the key {key:?}"),
            _ => "it is not encrypted, and identity is not among the providers".to_owned(),
        };
        Err(StorageError::Corrupt(format!("no provider of --encryption-provider-config can read {place}: {why}")))
    }

    /// Reads the file again; true if it changed. On an error the old providers stay.
    ///
    /// # Errors
    /// If it can't be read, or asks for what is not supported, or no longer speaks of registries.
    pub fn reload(&self) -> Result<bool, EncryptionConfigError> {
        let gone = || "says nothing about registries any more".to_owned();
        let loaded =
            load(&self.path)?.ok_or_else(|| EncryptionConfigError::Invalid { path: self.path.clone(), why: gone() })?;
        let changed = loaded.text != self.current.load().text;
        if changed {
            self.current.store(Arc::new(loaded));
        }
        Ok(changed)
    }

    /// Calls [`Self::reload`] from time to time until told to stop.
    pub async fn keep_fresh(self: Arc<Self>, every: Duration, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            match self.reload() {
                Ok(true) => tracing::info!("encryption providers reloaded"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "encryption providers not reloaded, the old ones stay"),
            }
        }
    }
}

fn load(path: &PathBuf) -> Result<Option<Loaded>, EncryptionConfigError> {
    let text = std::fs::read(path).map_err(|source| EncryptionConfigError::Read { path: path.clone(), source })?;
    let providers =
        configuration::read(&text).map_err(|why| EncryptionConfigError::Invalid { path: path.clone(), why })?;
    Ok(providers.map(|providers| Loaded { text, providers }))
}

/// A store whose values are encrypted.
#[derive(Debug, Clone)]
pub struct EncryptedStorage {
    inner: Arc<dyn Storage>,
    encryption: Arc<Encryption>,
}

impl EncryptedStorage {
    /// Around another store.
    pub fn new(inner: Arc<dyn Storage>, encryption: Arc<Encryption>) -> Self {
        Self { inner, encryption }
    }

    fn opened(&self, stored: Stored) -> Result<Stored, StorageError> {
        let Opened { value, is_outdated } = self.encryption.open(&stored.value, &self.inner.key(&stored.name))?;
        Ok(Stored { value, is_outdated, ..stored })
    }

    fn event(&self, event: StorageEvent) -> Result<StorageEvent, StorageError> {
        Ok(match event {
            StorageEvent::Written { object, previous } => {
                let place = self.inner.key(&object.name);
                let open = |value: Bytes| Ok(self.encryption.open(&value, &place)?.value);
                let previous = previous.map(open).transpose()?;
                StorageEvent::Written { object: self.opened(object)?, previous }
            }
            // That it is gone matters more than what it was, which etcd may have forgotten already.
            StorageEvent::Deleted { object } => StorageEvent::Deleted {
                object: self.opened(object.clone()).unwrap_or(Stored { value: Bytes::from_static(b"{}"), ..object }),
            },
            StorageEvent::Progress(revision) => StorageEvent::Progress(revision),
        })
    }
}

#[async_trait]
impl Storage for EncryptedStorage {
    fn key(&self, name: &str) -> String {
        self.inner.key(name)
    }

    async fn get(&self, name: &str) -> Result<Option<Stored>, StorageError> {
        self.inner.get(name).await?.map(|stored| self.opened(stored)).transpose()
    }

    async fn list(&self) -> Result<Listing, StorageError> {
        let Listing { items, revision } = self.inner.list().await?;
        let items = items.into_iter().map(|stored| self.opened(stored)).collect::<Result<_, _>>()?;
        Ok(Listing { items, revision })
    }

    async fn create(&self, name: &str, value: Bytes) -> Result<u64, StorageError> {
        self.inner.create(name, self.encryption.seal(value, &self.key(name))?).await
    }

    async fn update(&self, name: &str, value: Bytes, expected: u64) -> Result<u64, StorageError> {
        self.inner.update(name, self.encryption.seal(value, &self.key(name))?, expected).await
    }

    async fn delete(&self, name: &str, expected: u64) -> Result<u64, StorageError> {
        self.inner.delete(name, expected).await
    }

    async fn watch(&self, after: u64) -> Result<Changes, StorageError> {
        let changes = self.inner.watch(after).await?;
        let this = self.clone();
        Ok(changes.map(move |event| this.event(event?)).boxed())
    }

    async fn ping(&self) -> Result<(), StorageError> {
        self.inner.ping().await
    }
}

#[cfg(test)]
mod tests {
    use super::super::embedded::EmbeddedStorage;
    use super::*;

    const AESCBC: &str = "aescbc: {keys: [{name: one, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}";
    const SECRETBOX: &str = "secretbox: {keys: [{name: two, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}";

    fn write(folder: &tempfile::TempDir, providers: &[&str]) -> PathBuf {
        let path = folder.path().join("encryption.yaml");
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n";
        let entries: String = providers.iter().map(|provider| format!("  - {provider}\n")).collect();
        let text = format!("{head}resources:\n- resources: ['*.search.karmada.io']\n  providers:\n{entries}");
        std::fs::write(&path, text).unwrap();
        path
    }

    #[tokio::test]
    async fn nothing_readable_reaches_the_disk_and_everything_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let plain: Arc<dyn Storage> = Arc::new(EmbeddedStorage::open(folder.path()).unwrap());
        for (number, provider) in [AESCBC, SECRETBOX, &AESCBC.replace("aescbc", "aesgcm")].into_iter().enumerate() {
            let encryption = Encryption::from_file(write(&folder, &[provider])).unwrap().unwrap();
            let store = EncryptedStorage::new(Arc::clone(&plain), encryption);
            let name = format!("registry-{number}");
            let mut changes = store.watch(plain.list().await.unwrap().revision).await.unwrap();
            store.create(&name, Bytes::from_static(b"{\"hidden\":1}")).await.unwrap();
            let raw = plain.get(&name).await.unwrap().unwrap().value;
            assert!(raw.starts_with(b"k8s:enc:") && !raw.windows(6).any(|part| part == b"hidden"), "{raw:?}");
            let read = store.get(&name).await.unwrap().unwrap();
            assert_eq!((&read.value[..], read.is_outdated), (&b"{\"hidden\":1}"[..], false));
            let Some(Ok(StorageEvent::Written { object, .. })) = changes.next().await else { panic!("no event") };
            assert_eq!(object.value, read.value);
        }
    }

    #[tokio::test]
    async fn plain_text_is_refused_unless_identity_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let plain: Arc<dyn Storage> = Arc::new(EmbeddedStorage::open(folder.path()).unwrap());
        plain.create("old", Bytes::from_static(b"{}")).await.unwrap();
        let strict = Encryption::from_file(write(&folder, &[AESCBC])).unwrap().unwrap();
        let error = EncryptedStorage::new(Arc::clone(&plain), strict).get("old").await.unwrap_err();
        assert!(error.to_string().contains("it is not encrypted"), "{error}");
        let lenient = Encryption::from_file(write(&folder, &[AESCBC, "identity: {}"])).unwrap().unwrap();
        let read = EncryptedStorage::new(plain, lenient).get("old").await.unwrap().unwrap();
        assert!(read.is_outdated, "the next write encrypts it");
    }

    #[tokio::test]
    async fn a_rotated_key_takes_over_without_a_restart_and_a_forgotten_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let plain: Arc<dyn Storage> = Arc::new(EmbeddedStorage::open(folder.path()).unwrap());
        let encryption = Encryption::from_file(write(&folder, &[AESCBC])).unwrap().unwrap();
        let store = EncryptedStorage::new(plain, Arc::clone(&encryption));
        let revision = store.create("a", Bytes::from_static(b"{}")).await.unwrap();
        write(&folder, &[SECRETBOX, AESCBC]);
        assert!(encryption.reload().unwrap() && !encryption.reload().unwrap());
        assert!(store.get("a").await.unwrap().unwrap().is_outdated);
        store.update("a", Bytes::from_static(b"{}"), revision).await.unwrap();
        assert!(!store.get("a").await.unwrap().unwrap().is_outdated);
        write(&folder, &[AESCBC]);
        encryption.reload().unwrap();
        let error = store.get("a").await.unwrap_err().to_string();
        assert!(error.contains("encrypted by secretbox with the key \"two\""), "{error}");
    }

    #[test]
    fn a_broken_file_stays_out_while_running_and_stops_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(&folder, &[AESCBC]);
        let encryption = Encryption::from_file(path.clone()).unwrap().unwrap();
        write(&folder, &["kms: {}"]);
        assert!(encryption.reload().is_err() && Encryption::from_file(path.clone()).is_err());
        encryption.seal(Bytes::new(), "a").unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(Encryption::from_file(path).unwrap_err().to_string().contains("encryption.yaml"));
    }
}
