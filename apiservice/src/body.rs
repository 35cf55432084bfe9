//! The body of an answer while it is being sent: it keeps its request's place among those under way, and notices a
//! reader who stopped reading.
//!
//! In: a handler's body. Out: the same bytes. On HTTP/1.1 a stuck reader blocks the socket, which [`crate::serve`]
//! watches. On HTTP/2 the socket stays busy with others while one stream waits, and a waiting body is not asked for
//! more; so a small task looks at it from outside and cuts the stream.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

tokio::task_local! {
    /// How to cut the HTTP/2 stream that the current task serves.
    static STREAM: StreamCut;
}

/// Ends one HTTP/2 stream from outside of it.
#[derive(Debug, Clone)]
pub(crate) struct StreamCut {
    token: CancellationToken,
    after: Duration,
}

/// Runs the stream's task so that its body can cut it after it has been stuck for `after`.
pub(crate) async fn cuttable(stream: impl Future<Output = ()>, after: Duration) {
    let token = CancellationToken::new();
    let cut = StreamCut { token: token.clone(), after };
    token.run_until_cancelled(STREAM.scope(cut, stream)).await;
}

/// Is told how much was sent.
pub(crate) trait Sent {
    /// So many bytes more.
    fn sent(&mut self, bytes: usize);
}

/// A body that holds something until the last byte was sent or the reader is gone.
pub(crate) struct Held<T> {
    inner: Body,
    held: T,
    stream: Option<StreamCut>,
    watched: Option<Arc<Waiting>>,
}

/// Since when a chunk has been waiting to be taken, in milliseconds after `began`; 0 if none is.
#[derive(Debug)]
struct Waiting {
    began: Instant,
    since: AtomicU64,
}

impl Waiting {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

impl<T> Held<T> {
    /// Must be called from within the task that serves the stream.
    pub(crate) fn new(inner: Body, held: T) -> Self {
        Self { inner, held, stream: STREAM.try_with(StreamCut::clone).ok(), watched: None }
    }

    /// A chunk was handed over. If more will follow, somebody has to see whether it is ever asked for.
    fn handed_over(&mut self) {
        if self.inner.is_end_stream() {
            return;
        }
        let Some(cut) = &self.stream else { return };
        let watched = self.watched.get_or_insert_with(|| {
            let waiting = Arc::new(Waiting { began: Instant::now(), since: AtomicU64::new(0) });
            tokio::spawn(watch_over(Arc::downgrade(&waiting), cut.clone()));
            waiting
        });
        watched.since.store(watched.now(), Ordering::Relaxed);
    }
}

/// Ends when the body is gone.
async fn watch_over(waiting: Weak<Waiting>, cut: StreamCut) {
    let limit = u64::try_from(cut.after.as_millis()).unwrap_or(u64::MAX);
    loop {
        tokio::time::sleep(cut.after / 2).await;
        let Some(waiting) = waiting.upgrade() else { return };
        let since = waiting.since.load(Ordering::Relaxed);
        if since != 0 && waiting.now().saturating_sub(since) >= limit {
            tracing::debug!("cutting a stream whose reader stopped reading");
            return cut.token.cancel();
        }
    }
}

impl<T: Sent + Unpin> http_body::Body for Held<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(waiting) = &self.watched {
            waiting.since.store(0, Ordering::Relaxed);
        }
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.held.sent(frame.data_ref().map_or(0, Bytes::len));
            self.handed_over();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
