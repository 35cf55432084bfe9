//! What was asked of the clusters, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// What the clusters were asked so far. What controls them is not counted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Connections over which a cluster was asked something, and that are open.
    pub connections_open: usize,
    /// All of them so far.
    pub connections_total: usize,
    /// The most that were open at a time.
    pub connections_peak: usize,
    /// Requests.
    pub requests: usize,
    /// Lists that were begun, by their first page or as a stream; who asks for one object asks for the version only.
    pub lists: usize,
    /// Pages of lists.
    pub list_pages: usize,
    /// Watches that were begun.
    pub watches_begun: usize,
    /// Watches that are open.
    pub watches_open: usize,
    /// The most that were open at a time.
    pub watches_peak: usize,
    /// The most requests in one second, of all clusters together.
    pub requests_of_busiest_second: usize,
    /// The most requests in one second that a single cluster had.
    pub most_requests_in_a_second_of_one_cluster: usize,
    /// Bytes of answers, before encryption.
    pub bytes_sent: usize,
}

/// A number of things that come and go.
#[derive(Debug, Default)]
struct Gauge {
    open: AtomicUsize,
    total: AtomicUsize,
    peak: AtomicUsize,
}

impl Gauge {
    fn open(&self) {
        self.total.fetch_add(1, Ordering::Relaxed);
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(open, Ordering::Relaxed);
    }

    fn close(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many there were in the present second: its number, and the count in the lower half.
#[derive(Debug, Default)]
pub(crate) struct Second(AtomicU64);

impl Second {
    fn count(&self, second: u64) -> usize {
        let next = |held: u64| if held >> 32 == second { held + 1 } else { (second << 32) | 1 };
        let held = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| Some(next(held)));
        usize::try_from(next(held.unwrap_or_default()) & u64::from(u32::MAX)).unwrap_or(usize::MAX)
    }
}

/// The counters while they count.
#[derive(Debug)]
pub(crate) struct Counting {
    begun: Instant,
    connections: Gauge,
    watches: Gauge,
    requests: AtomicUsize,
    lists: AtomicUsize,
    list_pages: AtomicUsize,
    second: Second,
    busiest: AtomicUsize,
    busiest_of_one: AtomicUsize,
    bytes_sent: AtomicUsize,
}

impl Counting {
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            connections: Gauge::default(),
            watches: Gauge::default(),
            requests: AtomicUsize::new(0),
            lists: AtomicUsize::new(0),
            list_pages: AtomicUsize::new(0),
            second: Second::default(),
            busiest: AtomicUsize::new(0),
            busiest_of_one: AtomicUsize::new(0),
            bytes_sent: AtomicUsize::new(0),
        }
    }

    /// A request to a cluster, whose own second is `of_cluster`.
    pub(crate) fn request(&self, of_cluster: &Second) {
        let second = self.begun.elapsed().as_secs() + 1;
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.busiest.fetch_max(self.second.count(second), Ordering::Relaxed);
        self.busiest_of_one.fetch_max(of_cluster.count(second), Ordering::Relaxed);
    }

    pub(crate) fn list(&self) {
        self.lists.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn page(&self) {
        self.list_pages.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> Counters {
        let read = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        Counters {
            connections_open: read(&self.connections.open),
            connections_total: read(&self.connections.total),
            connections_peak: read(&self.connections.peak),
            requests: read(&self.requests),
            lists: read(&self.lists),
            list_pages: read(&self.list_pages),
            watches_begun: read(&self.watches.total),
            watches_open: read(&self.watches.open),
            watches_peak: read(&self.watches.peak),
            requests_of_busiest_second: read(&self.busiest),
            most_requests_in_a_second_of_one_cluster: read(&self.busiest_of_one),
            bytes_sent: read(&self.bytes_sent),
        }
    }
}

/// A connection; counted from its first request to a cluster on.
#[derive(Debug)]
pub(crate) struct Connection {
    counting: Arc<Counting>,
    counted: AtomicBool,
}

impl Connection {
    pub(crate) fn new(counting: &Arc<Counting>) -> Self {
        Self { counting: Arc::clone(counting), counted: AtomicBool::new(false) }
    }

    pub(crate) fn count(&self) {
        if !self.counted.swap(true, Ordering::Relaxed) {
            self.counting.connections.open();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if *self.counted.get_mut() {
            self.counting.connections.close();
        }
    }
}

/// A watch that is open for as long as this is held.
#[derive(Debug)]
pub(crate) struct OpenWatch(Arc<Counting>);

impl OpenWatch {
    pub(crate) fn new(counting: &Arc<Counting>) -> Self {
        counting.watches.open();
        Self(Arc::clone(counting))
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.watches.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_counts_from_one_again_when_it_is_another() {
        let second = Second::default();
        assert_eq!([second.count(1), second.count(1), second.count(2), second.count(2)], [1, 2, 1, 2]);
    }

    #[test]
    fn what_is_open_comes_and_goes_and_its_peak_stays() {
        let counting = Arc::new(Counting::new());
        let (one, other) = (OpenWatch::new(&counting), OpenWatch::new(&counting));
        let idle = Connection::new(&counting);
        drop((one, other, idle));
        let now = counting.now();
        assert_eq!((now.watches_open, now.watches_begun, now.watches_peak), (0, 2, 2));
        assert_eq!(now.connections_total, 0, "nothing was asked over it");
    }
}
