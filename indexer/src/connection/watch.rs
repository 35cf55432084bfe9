//! A watch's answer, cut into frames: one line of JSON each.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt, unfold};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::{ConnectionError, Lease};

/// Largest frame that is taken: many times what an API server stores as one object.
const FRAME_BYTES: usize = 64 << 20;

/// A watch in progress; frames come without their line end.
pub struct WatchStream(BoxStream<'static, Result<Bytes, ConnectionError>>);

impl std::fmt::Debug for WatchStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("WatchStream")
    }
}

impl futures::Stream for WatchStream {
    type Item = Result<Bytes, ConnectionError>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

struct Frames<B> {
    body: B,
    idle: Duration,
    pending: BytesMut,
    // How much of `pending` is known to hold no line end.
    searched: usize,
    ended: bool,
    _lease: Lease,
}

impl WatchStream {
    pub(super) fn new<B>(body: B, idle: Duration, lease: Lease) -> Self
    where
        B: Body<Data = Bytes, Error = kube::Error> + Send + Unpin + 'static,
    {
        let frames = Frames { body, idle, pending: BytesMut::new(), searched: 0, ended: false, _lease: lease };
        Self(unfold(frames, |mut frames| async move { Some((frames.next().await?, frames)) }).boxed())
    }
}

impl<B: Body<Data = Bytes, Error = kube::Error> + Unpin> Frames<B> {
    async fn next(&mut self) -> Option<Result<Bytes, ConnectionError>> {
        loop {
            if self.ended {
                return None;
            }
            if let Some(frame) = self.take_line() {
                return Some(Ok(frame));
            }
            match self.read_more().await {
                Ok(true) => {}
                Ok(false) => {
                    self.ended = true;
                    return self.last_line();
                }
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
    }

    /// What stands behind the last line's end: nothing, an event that lacks only that, or half of one.
    fn last_line(&mut self) -> Option<Result<Bytes, ConnectionError>> {
        let last = self.pending.split().freeze();
        if last.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        let is_whole = serde_json::from_slice::<serde::de::IgnoredAny>(&last).is_ok();
        // The next watch will bring it whole.
        Some(if is_whole { Ok(last) } else { Err(ConnectionError::CutOff) })
    }

    fn take_line(&mut self) -> Option<Bytes> {
        let Some(end) = memchr::memchr(b'\n', &self.pending[self.searched..]) else {
            self.searched = self.pending.len();
            return None;
        };
        let mut line = self.pending.split_to(self.searched + end + 1);
        line.truncate(line.len() - 1);
        self.searched = 0;
        Some(line.freeze())
    }

    async fn read_more(&mut self) -> Result<bool, ConnectionError> {
        let frame = timeout(self.idle, self.body.frame())
            .await
            .map_err(|_| ConnectionError::Timeout { what: "a sign of life in a watch", after: self.idle })?;
        let Some(frame) = frame else { return Ok(false) };
        if let Ok(data) = frame.map_err(ConnectionError::from_kube)?.into_data() {
            if self.pending.len() + data.len() > FRAME_BYTES && memchr::memchr(b'\n', &data).is_none() {
                return Err(ConnectionError::TooLarge { what: "frame of a watch", limit: FRAME_BYTES });
            }
            self.pending.extend_from_slice(&data);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn stream(chunks: &[&'static [u8]]) -> WatchStream {
        let chunks: Vec<_> = chunks
            .iter()
            .map(|chunk| Ok::<_, kube::Error>(http_body::Frame::data(Bytes::from_static(chunk))))
            .collect();
        let body = http_body_util::StreamBody::new(futures::stream::iter(chunks));
        WatchStream::new(body, Duration::from_secs(1), Lease(Arc::new(())))
    }

    #[tokio::test]
    async fn frames_are_lines_however_they_arrive() {
        let frames: Vec<_> = stream(&[b"{\"a\"", b":1}\n{\"b\":2}\n{", b"}\n"]).collect().await;
        let frames: Vec<_> =
            frames.into_iter().map(|frame| String::from_utf8(frame.unwrap().to_vec()).unwrap()).collect();
        assert_eq!(frames, ["{\"a\":1}", "{\"b\":2}", "{}"]);
    }

    #[tokio::test]
    async fn half_a_frame_at_the_end_is_told_of_as_what_it_is() {
        let frames: Vec<_> = stream(&[b"{\"a\":1}\n{\"b\""]).collect().await;
        assert!(matches!(&frames[..], [Ok(_), Err(ConnectionError::CutOff)]), "{frames:?}");
        let frames: Vec<_> = stream(&[b"{\"a\":1}\n{\"b\":2}"]).collect().await;
        assert!(matches!(&frames[..], [Ok(_), Ok(_)]), "only its end is missing: {frames:?}");
    }

    #[tokio::test]
    async fn a_frame_without_end_is_refused_in_bounded_memory() {
        static CHUNK: [u8; 1 << 20] = [b'x'; 1 << 20];
        let chunks: Vec<&'static [u8]> = vec![&CHUNK; 70];
        let last = stream(&chunks).collect::<Vec<_>>().await.pop();
        assert!(matches!(last, Some(Err(ConnectionError::TooLarge { .. }))));
    }
}
