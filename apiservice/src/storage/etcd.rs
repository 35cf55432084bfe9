//! The store that karmada-search uses: etcd v3, under the same keys, with the same values.
//!
//! Several endpoints are balanced over; one that is down is passed by. A watch whose connection breaks goes on from the
//! revision it had reached, or says that it is too old if etcd compacted it meanwhile.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{iter, unfold};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Status, Streaming};
use tracing::{debug, warn};

use super::{Changes, Listing, Storage, StorageError, StorageEvent, Stored};

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated from the protocol definition"
)]
mod wire {
    tonic::include_proto!("etcdserverpb");
}

use wire::compare::{CompareResult, CompareTarget, TargetUnion};
use wire::request_op::Request as Operation;
use wire::watch_request::RequestUnion;

/// How long one request may take, all attempts together.
const REQUEST: Duration = Duration::from_secs(10);
/// How long one member of several may take to answer a read.
const ATTEMPT: Duration = Duration::from_secs(3);
const CONNECT: Duration = Duration::from_secs(3);
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Tries for each member that was named.
const ATTEMPTS_A_MEMBER: usize = 3;
/// Objects read at a time.
const PAGE: i64 = 500;
/// Largest answer that is taken: a page of objects of etcd's largest size is far below.
const ANSWER_BYTES: usize = 256 << 20;
/// Waits between attempts to go on with a watch.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Where etcd is and how it is spoken to.
#[derive(Debug, Clone, Default)]
pub struct EtcdConfig {
    /// `--etcd-servers`
    pub servers: Vec<String>,
    /// `--etcd-prefix`
    pub prefix: String,
    /// `--etcd-cafile`
    pub ca_file: Option<PathBuf>,
    /// `--etcd-certfile` and `--etcd-keyfile`
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

/// etcd as a store.
#[derive(Debug, Clone)]
pub struct EtcdStorage {
    channel: Channel,
    folder: String,
    /// How often to try before giving up; members are chosen by chance, so that more than there are may be needed.
    attempts: usize,
}

/// etcd is configured in a way that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum EtcdConfigError {
    /// No server was named.
    #[error("--etcd-servers names no server")]
    NoServer,
    /// A server's address is no URL.
    #[error("--etcd-servers: {server:?}: {error}")]
    Server {
        /// As it was given.
        server: String,
        /// What is wrong with it.
        error: String,
    },
    /// A certificate or key cannot be read.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
    },
}

fn read(path: &PathBuf) -> Result<Vec<u8>, EtcdConfigError> {
    std::fs::read(path).map_err(|error| EtcdConfigError::File { path: path.clone(), error: error.to_string() })
}

impl EtcdStorage {
    /// Prepares the connections; they are made when first needed. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// If addresses or certificate files cannot be used.
    pub fn open(config: &EtcdConfig) -> Result<Self, EtcdConfigError> {
        Self::open_for("search.karmada.io/resourceRegistries", config)
    }

    /// The same for other objects, which are kept below the prefix under `GROUP/RESOURCE`.
    ///
    /// # Errors
    /// If addresses or certificate files cannot be used.
    pub fn open_for(objects: &str, config: &EtcdConfig) -> Result<Self, EtcdConfigError> {
        let endpoints: Vec<Endpoint> =
            config.servers.iter().map(|server| endpoint(server, config)).collect::<Result<_, _>>()?;
        let attempts = if endpoints.len() > 1 { endpoints.len() * ATTEMPTS_A_MEMBER } else { 1 };
        let channel = match endpoints.as_slice() {
            [] => return Err(EtcdConfigError::NoServer),
            [only] => only.connect_lazy(),
            _ => Channel::balance_list(endpoints.into_iter()),
        };
        let prefix = config.prefix.trim_matches('/');
        let folder = format!("/{prefix}/{objects}/").replace("//", "/");
        Ok(Self { channel, folder, attempts })
    }

    fn values(&self) -> wire::kv_client::KvClient<Channel> {
        wire::kv_client::KvClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES)
    }

    /// Reads; of several members, one that is down or stuck is passed by.
    async fn range(&self, request: wire::RangeRequest) -> Result<wire::RangeResponse, StorageError> {
        let mut values = self.values();
        let reading = async {
            for _ in 1..self.attempts {
                match timeout(ATTEMPT, values.range(request.clone())).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(status)) => debug!(%status, "reading again, from another member"),
                    Err(_) => debug!("reading again, from another member: no answer within {ATTEMPT:?}"),
                }
            }
            values.range(request.clone()).await
        };
        bounded(reading).await
    }

    /// Writes; tries again only if the member was never reached: a write that may have been carried out must not be twice.
    async fn transact(&self, request: wire::TxnRequest) -> Result<wire::TxnResponse, StorageError> {
        let mut values = self.values();
        let writing = async {
            for _ in 1..self.attempts {
                match values.txn(request.clone()).await {
                    Err(status) if never_reached(&status) => debug!(%status, "writing again, to another member"),
                    outcome => return outcome,
                }
            }
            values.txn(request.clone()).await
        };
        bounded(writing).await
    }

    /// A write that happens only if the key's last revision is `expected` (0: it is not there).
    async fn write_if(&self, name: &str, expected: u64, write: Operation) -> Result<Option<u64>, StorageError> {
        let compare = wire::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: self.key(name).into_bytes(),
            target_union: Some(TargetUnion::ModRevision(signed(expected))),
        };
        let success = vec![wire::RequestOp { request: Some(write) }];
        let request = wire::TxnRequest { compare: vec![compare], success, failure: Vec::new() };
        let answer = self.transact(request).await?;
        Ok(answer.succeeded.then(|| revision(answer.header.as_ref())))
    }

    fn stored(&self, pair: &wire::KeyValue) -> Result<Stored, StorageError> {
        let key = str::from_utf8(&pair.key).map_err(|error| StorageError::Corrupt(error.to_string()))?;
        let name = key.strip_prefix(&self.folder).unwrap_or(key).to_owned();
        let (value, revision) = (Bytes::copy_from_slice(&pair.value), unsigned(pair.mod_revision));
        Ok(Stored { name, value, revision, is_outdated: false })
    }
}

fn endpoint(server: &str, config: &EtcdConfig) -> Result<Endpoint, EtcdConfigError> {
    let invalid = |error: String| EtcdConfigError::Server { server: server.to_owned(), error };
    let url = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    let is_secure = url.starts_with("https://");
    let endpoint = Endpoint::from_shared(url)
        .map_err(|error| invalid(error.to_string()))?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    if !is_secure {
        return Ok(endpoint);
    }
    let mut tls = ClientTlsConfig::new();
    if let Some(path) = &config.ca_file {
        tls = tls.ca_certificate(Certificate::from_pem(read(path)?));
    }
    if let Some((certificate, key)) = &config.client_certificate {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    endpoint.tls_config(tls).map_err(|error| invalid(error.to_string()))
}

async fn bounded<T>(request: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, StorageError> {
    match timeout(REQUEST, request).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(unavailable(&status)),
        Err(_) => Err(StorageError::Unavailable(format!("etcd took longer than {REQUEST:?}"))),
    }
}

/// Whether a request failed before it was sent.
fn never_reached(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let refused = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
        if error.is::<tonic::ConnectError>() || error.downcast_ref().is_some_and(refused) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn unavailable(status: &Status) -> StorageError {
    if status.message().contains("required revision has been compacted") {
        return StorageError::Compacted;
    }
    let cause = std::error::Error::source(status).map(|cause| format!(": {cause}")).unwrap_or_default();
    StorageError::Unavailable(format!("etcd: {}{cause}", status.message()))
}

fn revision(header: Option<&wire::ResponseHeader>) -> u64 {
    header.map_or(0, |header| unsigned(header.revision))
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The end of the range of all keys that begin with `prefix`.
fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        // The prefix ends with a slash, so there is a next byte.
        *last += 1;
    }
    end
}

#[async_trait]
impl Storage for EtcdStorage {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.folder)
    }

    async fn get(&self, name: &str) -> Result<Option<Stored>, StorageError> {
        let answer = self.range(wire::RangeRequest { key: self.key(name).into_bytes(), ..Default::default() }).await?;
        answer.kvs.first().map(|pair| self.stored(pair)).transpose()
    }

    async fn list(&self) -> Result<Listing, StorageError> {
        let mut listing = Listing { items: Vec::new(), revision: 0 };
        let mut key = self.folder.clone().into_bytes();
        loop {
            let range_end = range_end(&self.folder);
            let request = wire::RangeRequest {
                key,
                range_end,
                limit: PAGE,
                // Later pages are read at the first one's revision.
                revision: signed(listing.revision),
                keys_only: false,
            };
            let answer = self.range(request).await?;
            if listing.revision == 0 {
                listing.revision = revision(answer.header.as_ref());
            }
            for pair in &answer.kvs {
                listing.items.push(self.stored(pair)?);
            }
            match answer.kvs.last().filter(|_| answer.more) {
                Some(last) => key = [&*last.key, &[0]].concat(),
                None => return Ok(listing),
            }
        }
    }

    async fn create(&self, name: &str, value: Bytes) -> Result<u64, StorageError> {
        let put = wire::PutRequest { key: self.key(name).into_bytes(), value: value.into() };
        self.write_if(name, 0, Operation::RequestPut(put)).await?.ok_or(StorageError::Exists)
    }

    async fn update(&self, name: &str, value: Bytes, expected: u64) -> Result<u64, StorageError> {
        let put = wire::PutRequest { key: self.key(name).into_bytes(), value: value.into() };
        self.write_if(name, expected, Operation::RequestPut(put)).await?.ok_or(StorageError::Conflict)
    }

    async fn delete(&self, name: &str, expected: u64) -> Result<u64, StorageError> {
        let delete = wire::DeleteRangeRequest { key: self.key(name).into_bytes() };
        self.write_if(name, expected, Operation::RequestDeleteRange(delete)).await?.ok_or(StorageError::Conflict)
    }

    async fn watch(&self, after: u64) -> Result<Changes, StorageError> {
        let watch = Watch { storage: self.clone(), reached: after, stream: None, ended: false };
        let batches = unfold(watch, |mut watch| async move { Some((watch.next().await?, watch)) });
        Ok(batches.flat_map(|batch| iter(batch).boxed()).boxed())
    }

    async fn ping(&self) -> Result<(), StorageError> {
        let request =
            wire::RangeRequest { key: self.key("").into_bytes(), keys_only: true, limit: 1, ..Default::default() };
        self.range(request).await.map(drop)
    }
}

/// A watch that outlives its connections.
struct Watch {
    storage: EtcdStorage,
    /// Every change up to this revision has been given.
    reached: u64,
    stream: Option<(Streaming<wire::WatchResponse>, mpsc::Sender<wire::WatchRequest>)>,
    ended: bool,
}

type Batch = Vec<Result<StorageEvent, StorageError>>;

impl Watch {
    async fn next(&mut self) -> Option<Batch> {
        let mut delay = RETRY.0;
        loop {
            if self.ended {
                return None;
            }
            match self.receive().await {
                Ok(batch) => return Some(batch),
                Err(StorageError::Unavailable(error)) => {
                    debug!(%error, "a watch on etcd broke, going on");
                    self.stream = None;
                    sleep(delay).await;
                    delay = (delay * 2).min(RETRY.1);
                }
                Err(final_error) => {
                    self.ended = true;
                    return Some(vec![Err(final_error)]);
                }
            }
        }
    }

    async fn receive(&mut self) -> Result<Batch, StorageError> {
        if self.stream.is_none() {
            self.stream = Some(self.open().await?);
        }
        let Some((stream, _)) = &mut self.stream else { return Ok(Vec::new()) };
        let answer = stream.message().await.map_err(|status| unavailable(&status))?;
        let answer = answer.ok_or_else(|| StorageError::Unavailable("etcd closed the watch".to_owned()))?;
        if answer.compact_revision > 0 {
            return Err(StorageError::Compacted);
        }
        if answer.canceled {
            return Err(StorageError::Unavailable(format!("etcd ended the watch: {}", answer.cancel_reason)));
        }
        let at = revision(answer.header.as_ref());
        let mut batch = Vec::with_capacity(answer.events.len());
        for event in &answer.events {
            batch.push(self.event(event));
        }
        if answer.events.is_empty() && !answer.created && at > self.reached {
            batch.push(Ok(StorageEvent::Progress(at)));
        }
        // A freshly opened watch tells etcd's revision before older changes were sent, so that one does not count.
        if !answer.created {
            self.reached = self.reached.max(at);
        }
        Ok(batch)
    }

    fn event(&mut self, event: &wire::Event) -> Result<StorageEvent, StorageError> {
        let pair = event.kv.as_ref().ok_or_else(|| StorageError::Corrupt("an event without a key".to_owned()))?;
        self.reached = self.reached.max(unsigned(pair.mod_revision));
        let mut object = self.storage.stored(pair)?;
        let previous = event.prev_kv.as_ref().map(|previous| Bytes::copy_from_slice(&previous.value));
        if event.r#type() == wire::event::EventType::Put {
            return Ok(StorageEvent::Written { object, previous });
        }
        object.value = previous.unwrap_or_else(|| {
            warn!(name = %object.name, "etcd no longer knows what a deleted object was");
            Bytes::from_static(b"{}")
        });
        Ok(StorageEvent::Deleted { object })
    }

    async fn open(&self) -> Result<(Streaming<wire::WatchResponse>, mpsc::Sender<wire::WatchRequest>), StorageError> {
        let create = wire::WatchCreateRequest {
            key: self.storage.folder.clone().into_bytes(),
            range_end: range_end(&self.storage.folder),
            start_revision: signed(self.reached + 1),
            progress_notify: true,
            prev_kv: true,
        };
        // The request stream has to stay open, or etcd ends the watch.
        let (sender, receiver) = mpsc::channel(1);
        let request = wire::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        sender.try_send(request).map_err(|error| StorageError::Unavailable(error.to_string()))?;
        let mut client =
            wire::watch_client::WatchClient::new(self.storage.channel.clone()).max_decoding_message_size(ANSWER_BYTES);
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        // A member that is cut off from the others ends the watch then, instead of staying silent.
        request.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
        let stream = bounded(client.watch(request)).await?;
        Ok((stream, sender))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(prefix: &str) -> EtcdStorage {
        let servers = vec!["http://127.0.0.1:1".to_owned()];
        EtcdStorage::open(&EtcdConfig { servers, prefix: prefix.into(), ..EtcdConfig::default() }).unwrap()
    }

    #[tokio::test]
    async fn keys_are_those_of_karmada_search() {
        for prefix in ["/registry", "registry/"] {
            let key = open(prefix).key("deployments");
            assert_eq!(key, "/registry/search.karmada.io/resourceRegistries/deployments");
        }
        assert_eq!(range_end("/a/"), b"/a0");
    }

    #[tokio::test]
    async fn an_etcd_that_is_not_there_is_an_error_not_a_hang() {
        let error = open("/registry").get("a").await.unwrap_err();
        assert!(matches!(error, StorageError::Unavailable(_)), "{error}");
    }

    #[test]
    fn bad_settings_are_named() {
        let config = |servers: &[&str]| EtcdConfig {
            servers: servers.iter().map(|server| (*server).to_owned()).collect(),
            ca_file: Some("/no/such/ca.crt".into()),
            ..EtcdConfig::default()
        };
        assert!(EtcdStorage::open(&config(&[])).unwrap_err().to_string().contains("--etcd-servers"));
        let missing = EtcdStorage::open(&config(&["https://127.0.0.1:1"])).unwrap_err();
        assert!(missing.to_string().contains("/no/such/ca.crt"));
    }
}
