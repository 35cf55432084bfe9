//! Pages in another order than that of names: all that a query asks for is looked at, and only the page is kept.

use std::collections::BinaryHeap;

use super::Search;
use super::list::{ListCursor, Listed};
use crate::query::document::{Document, Facts};
use crate::search::order::{Order, Ranked, SortKey};

/// A page in the order that was asked for.
#[derive(Debug)]
pub struct SortedPage {
    /// Its objects.
    pub objects: Vec<Listed>,
    /// Behind which the next page begins, if there is one.
    pub next: Option<SortKey>,
    /// Objects behind it.
    pub remaining: u64,
}

/// The first objects in an order, behind a key. None if the walk's deadline came first. The work is for
/// a blocking thread.
pub fn sorted_page(
    mut cursor: ListCursor,
    search: &Search,
    order: &Order,
    after: Option<&SortKey>,
    limit: usize,
) -> Option<SortedPage> {
    let decoder = cursor.decoder().clone();
    let mut kept: BinaryHeap<Ranked<Listed>> = BinaryHeap::new();
    let (mut passed, mut object) = (0, Vec::new());
    for listed in cursor.by_ref() {
        let entry = &listed.entry;
        object.clear();
        let opens = order.needs_document() && decoder.append(entry.frame(), &mut object).is_ok();
        let document = if opens { Document::read(&object) } else { None };
        let facts = Facts {
            cluster: &listed.cluster,
            served: &search.served,
            namespace: entry.namespace(),
            name: entry.name(),
            labels: entry.labels(),
        };
        let key = order.key_of(&search.evaluator, &facts, document.as_ref());
        if after.is_some_and(|after| order.compare(&key, after).is_le()) {
            continue;
        }
        passed += 1;
        kept.push(Ranked::new(key, order, listed));
        if kept.len() > limit {
            kept.pop();
        }
    }
    if cursor.is_late() {
        return None;
    }
    let ranked = kept.into_sorted_vec();
    let remaining = passed - ranked.len() as u64;
    let next = ranked.last().map(|last| last.key().clone()).filter(|_| remaining > 0);
    Some(SortedPage { objects: ranked.into_iter().map(Ranked::into_value).collect(), next, remaining })
}
