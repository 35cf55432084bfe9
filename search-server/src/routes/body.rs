//! Bodies of lists: written out while they are made, a chunk at a time, so that a reader costs one small buffer.
//!
//! The body pulls from the cache when the connection asks for more. A frame that cannot be opened breaks the body off: a
//! client sees a truncated answer, never a valid-looking short one.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use indexer::codec::CodecError;
use indexer::entry::Entry;
use indexer::query::document::Document;
use indexer::resource::ClusterName;
use indexer::search::Hit;
use indexer::view::list::{ListCursor, Listed};

/// Chunks are given out when they reach this size.
const CHUNK: usize = 128 << 10;

/// Bytes of objects that are opened for one chunk, where little is shown of each.
const MOST_OPENED: usize = 512 << 10;

/// Where a list's objects come from.
pub(super) enum Objects {
    /// All that a cursor finds.
    All(Box<ListCursor>),
    /// A page that was already chosen; the cursor only opens them.
    Page(std::vec::IntoIter<Listed>, indexer::codec::Decoder),
    /// What a query found; each brings what opens it.
    Found(std::vec::IntoIter<Hit>),
}

impl Objects {
    /// Whether there is nothing to look at.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::All(cursor) => cursor.is_at_end(),
            Self::Page(listed, _) => listed.as_slice().is_empty(),
            Self::Found(hits) => hits.as_slice().is_empty(),
        }
    }

    /// The next one; nothing if some were looked at in vain. None at the end.
    fn append_next(&mut self, output: &mut Vec<u8>) -> Option<Result<Option<Listed>, CodecError>> {
        match self {
            Self::All(cursor) => cursor.append_next(output),
            Self::Page(listed, decoder) => {
                let listed = listed.next()?;
                Some(decoder.append(listed.entry.frame(), output).map(|()| Some(listed)))
            }
            Self::Found(hits) => {
                let hit = hits.next()?;
                let begun = output.len();
                let opened = hit.decoder.append(hit.entry.frame(), output);
                if hit.is_secret() {
                    leave_out_secrets(output, begun);
                }
                Some(opened.map(|()| Some(Listed { cluster: hit.cluster, entry: hit.entry })))
            }
        }
    }
}

/// Puts what may be seen of a Secret in its place.
pub(super) fn leave_out_secrets(output: &mut Vec<u8>, begun: usize) {
    let seen = Document::read(output.get(begun..).unwrap_or_default()).map(|document| document.to_json());
    output.truncate(begun);
    output.extend(seen.unwrap_or_else(|| b"null".to_vec()));
}

/// How one object is written.
pub(super) trait Render: Send + Unpin {
    /// Appends one object, given its bytes.
    fn render(&mut self, cluster: &ClusterName, entry: &Entry, object: &[u8], output: &mut Vec<u8>);

    /// Whether the object's own bytes are what is written, so that nothing has to be copied.
    fn is_verbatim(&self) -> bool {
        false
    }
}

/// Writes objects as they are.
pub(super) struct Verbatim;

impl Render for Verbatim {
    fn render(&mut self, _cluster: &ClusterName, _entry: &Entry, object: &[u8], output: &mut Vec<u8>) {
        output.extend_from_slice(object);
    }

    fn is_verbatim(&self) -> bool {
        true
    }
}

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Appended {
    Object,
    /// Objects were looked at, and none of them is asked for.
    Nothing,
    End,
}

/// A list being written: a head, the objects separated by commas, a tail.
pub(super) struct ListBody<R> {
    objects: Objects,
    render: R,
    chunk: Vec<u8>,
    scratch: Vec<u8>,
    separator: &'static str,
    tail: Option<&'static str>,
    first: bool,
    may_go_on: bool,
}

impl<R: Render> ListBody<R> {
    pub(super) fn new(head: String, objects: Objects, render: R, tail: &'static str) -> Self {
        let (chunk, scratch) = (head.into_bytes(), Vec::new());
        Self { objects, render, chunk, scratch, separator: ",", tail: Some(tail), first: true, may_go_on: true }
    }

    /// With something else than commas between the objects.
    pub(super) fn separated_by(self, separator: &'static str) -> Self {
        Self { separator, ..self }
    }

    /// Fills the chunk; false when nothing is left.
    fn fill(&mut self) -> Result<bool, CodecError> {
        let mut opened = 0;
        while self.chunk.len() < CHUNK && opened < MOST_OPENED {
            let before = self.chunk.len();
            if !self.first {
                self.chunk.extend_from_slice(self.separator.as_bytes());
            }
            match self.append_object()? {
                Appended::Object => self.first = false,
                nothing => {
                    self.chunk.truncate(before);
                    return Ok(nothing == Appended::Nothing);
                }
            }
            opened += self.scratch.len();
        }
        Ok(true)
    }

    fn append_object(&mut self) -> Result<Appended, CodecError> {
        self.scratch.clear();
        let is_verbatim = self.render.is_verbatim();
        let output = if is_verbatim { &mut self.chunk } else { &mut self.scratch };
        let Some(listed) = self.objects.append_next(output) else { return Ok(Appended::End) };
        let Some(Listed { cluster, entry }) = listed? else { return Ok(Appended::Nothing) };
        if !is_verbatim {
            self.render.render(&cluster, &entry, &self.scratch, &mut self.chunk);
        }
        Ok(Appended::Object)
    }

    fn next_chunk(&mut self) -> Option<Result<Bytes, CodecError>> {
        let tail = self.tail?;
        match self.fill() {
            Ok(true) if self.chunk.is_empty() => Some(Ok(Bytes::new())),
            Ok(true) => {
                let next = Vec::with_capacity(CHUNK + CHUNK / 8);
                Some(Ok(std::mem::replace(&mut self.chunk, next).into()))
            }
            Ok(false) => {
                self.tail = None;
                self.chunk.extend_from_slice(tail.as_bytes());
                Some(Ok(std::mem::take(&mut self.chunk).into()))
            }
            Err(error) => {
                self.tail = None;
                tracing::error!(%error, "a cached object cannot be opened; the answer is broken off");
                Some(Err(error))
            }
        }
    }
}

impl<R: Render> Body for ListBody<R> {
    type Data = Bytes;
    type Error = CodecError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CodecError>>> {
        // A chunk is work; others have their turn before the next one.
        if !std::mem::replace(&mut self.may_go_on, false) {
            self.may_go_on = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.next_chunk() {
            // Nothing yet, but not the end.
            Some(Ok(chunk)) if chunk.is_empty() => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            chunk => Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.tail.is_none()
    }
}
