//! Lists, page by page. All pages of a list are as of the version of its first.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

use super::collection::{Chunks, Collection, Form};
use super::fault::Fault;

/// Where a page begins, how long it is and after how many updates it shows the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) from: usize,
    /// Objects at most; 0 is all that there are.
    pub(crate) limit: usize,
    pub(crate) updates: usize,
}

/// The token with which the page behind this one is asked for.
pub(crate) fn token(page: Page) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}.{}", page.updates, page.from))
}

/// The page that a token asks for.
pub(crate) fn page_of(token: &str, limit: usize) -> Option<Page> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (updates, from) = text.split_once('.')?;
    Some(Page { from: from.parse().ok()?, limit, updates: updates.parse().ok()? })
}

/// A page's JSON.
pub(crate) fn write(collection: &Collection, page: Page) -> Chunks {
    let range = &collection.range;
    let from = page.from.clamp(range.start, range.end);
    let end = if page.limit == 0 { range.end } else { from.saturating_add(page.limit).min(range.end) };
    let items = collection.objects(from..end, page.updates, Form::Items);
    let more = if end == range.end && collection.fault == Fault::Huge {
        collection.huge(page.updates, Form::Items, end > from)
    } else {
        Box::new(std::iter::empty())
    };
    let start = std::iter::once(Bytes::from(start(collection, page, end)));
    Box::new(start.chain(items).chain(more).chain(std::iter::once(Bytes::from_static(b"]}\n"))))
}

fn start(collection: &Collection, page: Page, end: usize) -> String {
    let (kind, version) = (collection.kind_of("List"), collection.version(page.updates));
    let left = collection.range.end - end;
    let next = if left == 0 {
        String::new()
    } else {
        let token = token(Page { from: end, ..page });
        format!(",\"continue\":\"{token}\",\"remainingItemCount\":{left}")
    };
    format!("{{{kind},\"metadata\":{{\"resourceVersion\":\"{version}\"{next}}},\"items\":[")
}
