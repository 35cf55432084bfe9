//! How a member's API server is spoken to: HTTP/2, raw bytes, bounded waits, bounded sizes.
//!
//! In: an [`ApiAccess`]. Out: whole answers for lists and discovery, and [`WatchStream`]s, one frame at a time. Each
//! connection carries a bounded number of watches, because a server that allows fewer streams than it is asked for leaves
//! the rest hanging without a word. Lists have a connection of their own, which is closed when they are done; what is small
//! and asked for again and again goes over one of the watches.

mod discovery;
mod error;
mod pace;
mod transport;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, header};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex as SyncMutex;
use tokio::sync::{Mutex, OnceCell, Semaphore};
use tokio::time::timeout;

pub(crate) use discovery::columns_of;
pub use discovery::{Discovery, PrinterColumn};
pub use error::ConnectionError;
pub use watch::WatchStream;

use crate::member::ApiAccess;
use pace::Pace;

/// Watches on one connection; servers allow a hundred streams or more.
const WATCHES_PER_CONNECTION: usize = 80;
/// How long a connection stays that only lists need.
const UNUSED: Duration = Duration::from_secs(15);
/// How long an answer may take to begin.
const HEAD: Duration = Duration::from_secs(30);
/// How long a plugin may take to tell credentials.
const CREDENTIALS: Duration = Duration::from_secs(20);
/// How long nothing is tried beside a plugin that doesn't end.
const BETWEEN_PLUGINS: Duration = Duration::from_secs(300);
/// How long a new connection for watches may take.
const WARM_UP: Duration = Duration::from_secs(10);
/// How long an answer's body may pause.
const STALL: Duration = Duration::from_secs(30);
/// Largest answer that is taken in one piece.
const ANSWER_BYTES: usize = 512 << 20;
/// Largest error body that is looked at.
const ERROR_BYTES: usize = 64 << 10;

/// How a member may be asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConnectionLimits {
    /// Requests a second in the long run; 0 is no limit.
    pub qps: f32,
    /// Requests that may be made at once.
    pub burst: u32,
    /// Whether it is asked to stream its lists, if it can.
    pub streamed_lists: bool,
}

/// A member's API server, ready to be asked. Clones share everything.
#[derive(Debug, Clone)]
pub struct MemberConnection(Arc<Inner>);

struct Inner {
    access: Arc<ApiAccess>,
    requests: OnceCell<Client>,
    shards: Mutex<Vec<Shard>>,
    /// Held while a client is made: a plugin that hangs holds up few threads.
    making: Arc<Semaphore>,
    /// When a plugin that hangs was last given up.
    given_up: SyncMutex<Option<Instant>>,
    pace: Pace,
    streamed_lists: bool,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("MemberConnection").field("url", &self.access.config.cluster_url).finish_non_exhaustive()
    }
}

/// One HTTP/2 connection for watches; a watch holds a lease on it.
struct Shard {
    client: Client,
    leases: Arc<()>,
}

/// The place of a watch on its connection, given back when dropped.
pub(super) struct Lease(#[expect(dead_code, reason = "held for its reference count")] Arc<()>);

impl MemberConnection {
    /// Prepares a connection; everything is done when first asked, so that nothing waits here.
    pub fn open(access: &Arc<ApiAccess>, limits: ConnectionLimits) -> Self {
        Self(Arc::new(Inner {
            access: Arc::clone(access),
            requests: OnceCell::new(),
            shards: Mutex::default(),
            making: Arc::new(Semaphore::new(1)),
            given_up: SyncMutex::new(None),
            pace: Pace::new(limits),
            streamed_lists: limits.streamed_lists,
        }))
    }

    /// Whether the member may be asked to stream its lists.
    pub fn streams_lists(&self) -> bool {
        self.0.streamed_lists
    }

    /// Asks for something and takes the whole answer.
    ///
    /// # Errors
    /// Whatever is not a 2xx answer that arrived whole and in time.
    pub async fn get(&self, path_and_query: &str, accept: &str) -> Result<Bytes, ConnectionError> {
        let client = self.0.requests.get_or_try_init(|| self.client(Some(UNUSED))).await?;
        self.get_over(client, path_and_query, accept).await
    }

    /// The same for what is small: over a connection that watches keep, if there is one, so that no other is kept for it.
    ///
    /// # Errors
    /// Whatever is not a 2xx answer that arrived whole and in time.
    pub async fn get_small(&self, path_and_query: &str, accept: &str) -> Result<Bytes, ConnectionError> {
        let of_watches = self.0.shards.try_lock().ok().and_then(|shards| Some(shards.first()?.client.clone()));
        match of_watches {
            Some(client) => self.get_over(&client, path_and_query, accept).await,
            None => self.get(path_and_query, accept).await,
        }
    }

    async fn get_over(&self, client: &Client, path_and_query: &str, accept: &str) -> Result<Bytes, ConnectionError> {
        self.0.pace.wait().await;
        let response = send(client, path_and_query, accept, None).await?;
        read_whole(response.into_body(), ANSWER_BYTES).await
    }

    /// Opens a watch. `idle` is how long it may stay silent before it is given up.
    ///
    /// # Errors
    /// Whatever is not a 2xx answer that began in time.
    pub async fn watch(&self, path_and_query: &str, idle: Duration) -> Result<WatchStream, ConnectionError> {
        self.0.pace.wait().await;
        let (client, lease) = self.lease().await?;
        let response = send(&client, path_and_query, "application/json", Some("identity")).await?;
        Ok(WatchStream::new(response.into_body(), idle, lease))
    }

    /// A client of its own. Credential plugins may run for it, so it is made where blocking does no harm.
    async fn client(&self, unused_for: Option<Duration>) -> Result<Client, ConnectionError> {
        let access = Arc::clone(&self.0.access);
        let made = async {
            let permit = Arc::clone(&self.0.making).acquire_owned().await;
            let making = tokio::task::spawn_blocking(move || {
                let _held = permit;
                transport::client(&access, unused_for)
            });
            making.await.map_err(|error| ConnectionError::Settings(error.to_string()))?
        };
        timeout(CREDENTIALS, made).await.unwrap_or_else(|_| {
            self.give_up_plugin();
            Err(ConnectionError::Timeout { what: "the credentials", after: CREDENTIALS })
        })
    }

    /// A plugin that never ends can't be ended from here: now and then another one is tried beside it.
    fn give_up_plugin(&self) {
        let mut given_up = self.0.given_up.lock();
        if given_up.is_none_or(|at| at.elapsed() > BETWEEN_PLUGINS) {
            *given_up = Some(Instant::now());
            self.0.making.add_permits(1);
        }
    }

    /// A place on a connection that has one. A new connection is made by one watch alone while the others wait: asked by
    /// many at once, a client opens many connections before it sees that one would do.
    async fn lease(&self) -> Result<(Client, Lease), ConnectionError> {
        let mut shards = self.0.shards.lock().await;
        // One reference is the shard's own.
        let free = shards.iter().find(|shard| Arc::strong_count(&shard.leases) <= WATCHES_PER_CONNECTION);
        if let Some(shard) = free {
            return Ok((shard.client.clone(), Lease(Arc::clone(&shard.leases))));
        }
        let client = self.client(None).await?;
        match timeout(WARM_UP, send(&client, "/version", "application/json", None)).await {
            // Whatever it says, it is connected.
            Ok(Ok(_) | Err(ConnectionError::Status { .. })) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(ConnectionError::Timeout { what: "a connection for watches", after: WARM_UP }),
        }
        let leases = Arc::new(());
        let lease = Lease(Arc::clone(&leases));
        shards.push(Shard { client: client.clone(), leases });
        Ok((client, lease))
    }
}

async fn send(
    client: &Client,
    path_and_query: &str,
    accept: &str,
    accept_encoding: Option<&str>,
) -> Result<Response<Body>, ConnectionError> {
    let mut request = Request::get(path_and_query).header(header::ACCEPT, accept);
    if let Some(encoding) = accept_encoding {
        request = request.header(header::ACCEPT_ENCODING, encoding);
    }
    let request = request.body(Body::empty()).map_err(|error| ConnectionError::Settings(error.to_string()))?;
    let response = timeout(HEAD, client.send(request))
        .await
        .map_err(|_| ConnectionError::Timeout { what: "the answer to begin", after: HEAD })?
        .map_err(ConnectionError::from_kube)?;
    if response.status().is_success() {
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    let text = read_whole(body, ERROR_BYTES).await.unwrap_or_default();
    Err(ConnectionError::from_answer(&head, &text))
}

async fn read_whole(mut body: Body, limit: usize) -> Result<Bytes, ConnectionError> {
    let mut whole = BytesMut::new();
    loop {
        let frame = timeout(STALL, body.frame())
            .await
            .map_err(|_| ConnectionError::Timeout { what: "the rest of the answer", after: STALL })?;
        let Some(frame) = frame else { return Ok(whole.freeze()) };
        if let Ok(data) = frame.map_err(ConnectionError::from_kube)?.into_data() {
            if whole.len() + data.len() > limit {
                return Err(ConnectionError::TooLarge { what: "answer", limit });
            }
            whole.extend_from_slice(&data);
        }
    }
}
