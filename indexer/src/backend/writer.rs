//! The one task that writes to a backend.
//!
//! In: what the backend is to hold ([`Assignment`]) and the cache with its feeds. Out: requests, and the backend's
//! [`BackendHealth`]. Feeds are followed whatever the backend does, so that they don't run over; what is to be written waits in
//! the [`Queue`]. A few requests are under way at a time, each as a task; what came of one is noted here.

mod outcomes;
mod pause;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::BackendError;
use super::assignment::Assignment;
use super::bulk::{self, Batch, Outcome};
use super::client::Client;
use super::comparison::{self, Comparison};
use super::conflicts::{self, Verdict};
use super::dead_letters::DeadLetters;
use super::document::Collection;
use super::feeds::Feeds;
use super::health::{BackendHealth, Progress};
use super::layout::{self, Layout};
use super::original::OriginalIndices;
use super::queue::Item;
use super::reports::{Reporter, WrittenReports};
use crate::cache::Cache;
use crate::supervise::Overview;
use pause::{Pause, jittered};

/// How long more changes are waited for: a request costs about the same for one as for a hundred.
const GATHERING: Duration = Duration::from_millis(100);
/// Items for which nothing more is waited for.
const MANY: usize = 500;
/// Bulk requests under way at a time.
const BULKS: usize = 2;
/// Items of a bulk request at most.
const ITEMS: usize = 2_000;
/// Bytes of a bulk request, before compression: at first, at least, at most.
const BYTES: (usize, usize, usize) = (1 << 20, 64 << 10, 8 << 20);
/// How many items may wait before a comparison adds more of them.
const ROOM: usize = 10_000;
/// Items that a comparison adds at once.
const CHUNK: usize = 5_000;
/// How long to leave a backend that fails alone, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long requests under way are waited for when the writer is told to stop: what comes after it must not be overtaken.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// How often a backend that is to be emptied is asked whether it is.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);
/// How often everything is compared without any reason.
const BETWEEN_COMPARISONS: Duration = Duration::from_secs(60 * 60);

/// What a writer is given.
pub(super) struct Job {
    pub(super) name: String,
    pub(super) client: Client,
    pub(super) layout: Layout,
    pub(super) cache: Arc<Cache>,
    pub(super) health: Arc<BackendHealth>,
    pub(super) dead_letters: Option<Arc<DeadLetters>>,
    pub(super) orders: watch::Receiver<Order>,
    /// How clusters are followed.
    pub(super) overview: watch::Receiver<Arc<Overview>>,
    /// The id of the cluster that is meant, where it tells that.
    pub(super) cluster: Option<String>,
}

/// Why a writer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It was told to.
    Stopped,
    /// It was to empty the backend, and has.
    Emptied,
    /// Its nodes belong to another cluster by now: whoever knows what is meant has to look again.
    OtherCluster,
}

/// What a writer is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// Keep the backend equal to this.
    Hold(Arc<Assignment>),
    /// Empty the backend of the clusters of this, which holds nothing, and end.
    Leave(Arc<Assignment>),
}

impl Order {
    pub(super) fn assignment(&self) -> Arc<Assignment> {
        match self {
            Self::Hold(assignment) | Self::Leave(assignment) => Arc::clone(assignment),
        }
    }
}

/// Writes until told to stop, or until the backend is empty and is to stay so.
pub(super) async fn run(job: Job, stop: CancellationToken) -> End {
    let mut news = job.cache.subscribe();
    let mut orders = job.orders.clone();
    let mut is_leaving = matches!(*orders.borrow_and_update(), Order::Leave(_));
    let mut writer = Writer::new(job);
    // Until then, news is only gathered.
    let mut gathering = None::<Instant>;
    loop {
        if gathering.is_none_or(|until| until <= Instant::now()) {
            gathering = None;
            news.mark_unchanged();
            writer.take_in();
        }
        let look = if is_leaving { writer.look_again() } else { None };
        writer.start_tasks(gathering.is_some());
        writer.report();
        if is_leaving && writer.is_empty() && writer.is_bare() && writer.reports.is_empty() {
            info!(backend = writer.name, "no registry names this backend any more; what was there is removed");
            return End::Emptied;
        }
        if writer.is_elsewhere {
            return End::OtherCluster;
        }
        let wake = [gathering, look, writer.next_wake()].into_iter().flatten().min();
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                let _ = tokio::time::timeout(LAST_WORDS, writer.finish()).await;
                return End::Stopped;
            }
            changed = orders.changed() => {
                // Whoever gave the orders is gone, and so is the reason to go on.
                if changed.is_err() {
                    return End::Stopped;
                }
                let order = orders.borrow_and_update().clone();
                is_leaving = matches!(order, Order::Leave(_));
                writer.assign(order.assignment());
            }
            Some(done) = writer.tasks.join_next() => writer.note(done),
            // The cache lives as long as the program.
            _ = news.changed(), if gathering.is_none() => gathering = Some(Instant::now() + GATHERING),
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => {}
        }
    }
}

struct Writer {
    name: String,
    client: Arc<Client>,
    layout: Arc<Layout>,
    originals: Arc<OriginalIndices>,
    health: Arc<BackendHealth>,
    dead_letters: Option<Arc<DeadLetters>>,
    feeds: Feeds,
    reports: Reporter,
    comparison: Option<Comparison>,
    tasks: JoinSet<Done>,
    /// Bulk requests under way.
    bulks: usize,
    /// Whether another request is under way.
    is_asking: bool,
    is_prepared: bool,
    /// Whether the backend has been asked for collections that it isn't to hold any more.
    knows_leftovers: bool,
    /// Whether it had any documents then, of whatever shard, and when it said so.
    left: Option<(bool, Instant)>,
    /// Whether bulk requests of an earlier assignment have to end before anything else is done.
    must_drain: bool,
    cluster: Option<String>,
    /// Whether the nodes belong to another cluster than is meant.
    is_elsewhere: bool,
    batch_bytes: usize,
    /// What was found to be too much is not tried again.
    largest_bytes: usize,
    batch_items: usize,
    /// When it may be written again, and when something may be asked again.
    writing: Pause,
    asking: Pause,
    /// Whether something that was asked last is something about refused items.
    has_judged: bool,
    compare_at: Instant,
    /// Whether it was ever known what the backend has.
    was_connected: bool,
}

/// What a task came to.
enum Done {
    /// Whether it is the cluster that is meant.
    Prepared(Result<bool, BackendError>),
    Leftovers(Result<Vec<Collection>, BackendError>),
    Scanned(Box<Comparison>, Result<Vec<Item>, BackendError>),
    Judged(Result<Verdict, (Vec<Item>, BackendError)>),
    Reported(Result<WrittenReports, BackendError>),
    Written(Box<Written>),
    /// Nothing could be put together; the items are as they were.
    Unwritable(Vec<Item>, BackendError),
}

struct Written {
    batch: Batch,
    result: Result<Vec<Outcome>, BackendError>,
    took: Duration,
}

impl Writer {
    fn new(job: Job) -> Self {
        let assignment = job.orders.borrow().assignment();
        Self {
            name: job.name,
            client: Arc::new(job.client),
            layout: Arc::new(job.layout),
            originals: Arc::default(),
            health: job.health,
            dead_letters: job.dead_letters,
            reports: Reporter::new(Arc::clone(&job.cache), job.overview),
            feeds: Feeds::new(job.cache, assignment),
            comparison: None,
            tasks: JoinSet::new(),
            bulks: 0,
            is_asking: false,
            is_prepared: false,
            knows_leftovers: false,
            left: None,
            must_drain: false,
            cluster: job.cluster,
            is_elsewhere: false,
            batch_bytes: BYTES.0,
            largest_bytes: BYTES.2,
            batch_items: ITEMS,
            writing: Pause::NONE,
            asking: Pause::NONE,
            has_judged: false,
            compare_at: Instant::now() + BETWEEN_COMPARISONS,
            was_connected: false,
        }
    }

    fn assign(&mut self, assignment: Arc<Assignment>) {
        self.feeds.assign(assignment);
        self.reports.forget();
        // What an earlier assignment still writes would be overlooked when leftovers are looked for.
        (self.knows_leftovers, self.must_drain) = (false, true);
        // Whatever is deleted next, it is not to be deleted elsewhere.
        self.is_prepared = false;
    }

    fn take_in(&mut self) {
        if self.feeds.take_in() {
            self.knows_leftovers = false;
        }
        if self.compare_at <= Instant::now() {
            self.compare_at = Instant::now() + BETWEEN_COMPARISONS;
            self.feeds.compare_all_again();
            self.knows_leftovers = false;
            // What stood in the way may have been changed.
            self.largest_bytes = BYTES.2;
        }
    }

    /// Whether the backend has nothing any more and nothing is under way.
    fn is_empty(&self) -> bool {
        self.is_prepared && self.knows_leftovers && self.tasks.is_empty() && self.feeds.is_empty()
    }

    /// Whether the backend had nothing at all when it was asked last.
    fn is_bare(&self) -> bool {
        self.left.is_some_and(|(has_documents, _)| !has_documents)
    }

    /// Asks the backend from time to time what is left, and says when it is to be asked next: what another server has to delete may come
    /// to be ours.
    fn look_again(&mut self) -> Option<Instant> {
        let (has_documents, asked) = self.left?;
        let next = asked + BETWEEN_LOOKS;
        if has_documents && next <= Instant::now() && self.is_empty() {
            self.knows_leftovers = false;
        }
        has_documents.then_some(next).filter(|next| *next > Instant::now())
    }

    /// Waits for requests under way.
    async fn finish(&mut self) {
        while self.bulks > 0
            && let Some(done) = self.tasks.join_next().await
        {
            self.note(done);
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let may_ask = !self.is_asking && self.is_prepared && self.knows_leftovers;
        let due = self.feeds.queue.next_due().filter(|_| may_ask);
        let paused =
            [self.writing.until, self.asking.until].into_iter().flatten().filter(|until| *until > Instant::now());
        // They are not written while nothing may be.
        let reports =
            may_ask.then(|| self.writing.until.map_or(self.reports.due(), |until| until.max(self.reports.due())));
        let asking = [due, reports, Some(self.compare_at)].into_iter().flatten().map(|wake| match self.asking.until {
            Some(until) => wake.max(until),
            None => wake,
        });
        let refilling = self.can_refill().then(Instant::now);
        paused.chain(asking).chain(refilling).min()
    }

    fn start_tasks(&mut self, is_gathering: bool) {
        self.must_drain &= self.bulks > 0;
        if !self.is_asking && self.asking.is_over() {
            self.ask();
        }
        if !self.is_prepared || self.must_drain {
            return;
        }
        self.refill();
        while self.bulks < BULKS && self.writing.is_over() && self.has_enough(is_gathering) {
            let items = self.feeds.queue.take(self.batch_items);
            if items.is_empty() {
                return;
            }
            self.start_bulk(items);
        }
    }

    fn has_enough(&self, is_gathering: bool) -> bool {
        let waiting = self.feeds.queue.waiting();
        waiting > 0 && (!is_gathering || waiting >= MANY)
    }

    /// Starts whatever has to be asked next.
    fn ask(&mut self) {
        let (client, layout) = (Arc::clone(&self.client), Arc::clone(&self.layout));
        if !self.is_prepared {
            if self.bulks == 0 {
                let cluster = self.cluster.clone();
                self.start(async move { Done::Prepared(prepare(&client, &layout, cluster.as_deref()).await) });
            }
        } else if !self.knows_leftovers {
            if !self.must_drain {
                self.start(async move { Done::Leftovers(comparison::collections(&client, &layout.alias).await) });
            }
        } else if !(self.writing.is_over() && self.report_clusters()) {
            self.has_judged = !self.has_judged && self.judge();
            if !self.has_judged {
                self.compare();
            }
        }
    }

    /// Tells readers how well clusters are followed, if it is time for that.
    fn report_clusters(&mut self) -> bool {
        let assignment = self.feeds.assignment();
        let Some(report) = self.reports.next(&assignment, &|collection| self.feeds.is_following(collection)) else {
            return false;
        };
        let (client, layout) = (Arc::clone(&self.client), Arc::clone(&self.layout));
        self.start(async move { Done::Reported(report.write(&client, &layout.alias).await) });
        true
    }

    /// Looks at items that were refused; false if there are none to be looked at now.
    fn judge(&mut self) -> bool {
        let mut due = self.feeds.queue.due(conflicts::AT_ONCE);
        // Of what is another's by now, nothing has to be known.
        let sources = self.feeds.sources();
        due.retain(|item| sources.assignment.shards.is_ours(&item.collection.cluster));
        let (refused, failed): (Vec<Item>, Vec<Item>) = due.into_iter().partition(|item| item.conflicts > 0);
        failed.into_iter().for_each(|item| self.feeds.queue.push(item));
        if refused.is_empty() {
            return false;
        }
        let (client, layout) = (Arc::clone(&self.client), Arc::clone(&self.layout));
        self.start(async move { Done::Judged(conflicts::judge(&client, &layout.alias, &sources, refused).await) });
        true
    }

    fn compare(&mut self) {
        if self.feeds.queue.len() >= ROOM {
            return;
        }
        let Some(mut comparison) = self.comparison.take().or_else(|| self.feeds.next_comparison()) else { return };
        if comparison.is_scanned() {
            self.comparison = Some(comparison);
            return;
        }
        let (client, layout) = (Arc::clone(&self.client), Arc::clone(&self.layout));
        self.start(async move {
            let found = comparison.scan(&client, &layout.alias).await;
            Done::Scanned(Box::new(comparison), found)
        });
    }

    fn start(&mut self, task: impl Future<Output = Done> + Send + 'static) {
        self.is_asking = true;
        self.tasks.spawn(task);
    }

    fn can_refill(&self) -> bool {
        let has_more = self.comparison.as_ref().is_some_and(Comparison::is_scanned);
        has_more && self.feeds.queue.len() < ROOM && self.is_prepared && !self.must_drain
    }

    /// Takes some of what the comparison found missing.
    fn refill(&mut self) {
        if !self.can_refill() {
            return;
        }
        let Some(comparison) = &mut self.comparison else { return };
        if let Some(missing) = comparison.next_missing(CHUNK) {
            missing.into_iter().for_each(|item| self.feeds.queue.push(item));
            return;
        }
        debug!(collection = %comparison.collection, objects = comparison.objects(), "compared");
        self.feeds.compared(&comparison.collection);
        self.comparison = None;
        if !self.is_asking && self.asking.is_over() && self.knows_leftovers {
            self.compare();
        }
    }

    fn start_bulk(&mut self, items: Vec<Item>) {
        let (client, layout, sources) = (Arc::clone(&self.client), Arc::clone(&self.layout), self.feeds.sources());
        let (most, originals) = (self.batch_bytes, Arc::clone(&self.originals));
        self.bulks += 1;
        self.tasks.spawn(async move {
            let kept = items.clone();
            let building = tokio::task::spawn_blocking(move || sources.batch(items, most)).await;
            let mut batch = match building.unwrap_or_else(|error| Err(BackendError::Task(error.to_string()))) {
                Ok(batch) => batch,
                Err(error) => return Done::Unwritable(kept, error),
            };
            let began = Instant::now();
            // Before our own documents: those are what a later comparison goes by.
            let original = match batch.original.take() {
                Some(original) => original.send(&client, &originals).await,
                None => Ok(()),
            };
            let result = match (original, batch.actions.len()) {
                (Err(error), _) => Err(error),
                (Ok(()), 0) => Ok(Vec::new()),
                (Ok(()), actions) => bulk::send(&client, &layout.alias, batch.body.clone(), actions).await,
            };
            Done::Written(Box::new(Written { batch, result, took: began.elapsed() }))
        });
    }

    fn note(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Written(written)) => {
                self.bulks -= 1;
                self.note_written(*written);
            }
            Ok(Done::Unwritable(items, error)) => {
                self.bulks -= 1;
                self.note_bad_request(items, &error);
            }
            Ok(asked) => {
                self.is_asking = false;
                self.note_asked(asked);
            }
            Err(error) => {
                // A task that panicked has taken its items along: everything is begun anew.
                warn!(backend = self.name, %error, "a task of the backend's writer ended unexpectedly");
                self.tasks = JoinSet::new();
                (self.bulks, self.is_asking, self.comparison) = (0, false, None);
                self.feeds.queue.abandon();
                self.begin_anew();
                self.fail_writing(&BackendError::Task(error.to_string()), 0);
            }
        }
    }

    fn note_asked(&mut self, done: Done) {
        let failure = match done {
            Done::Prepared(Ok(is_meant)) => {
                (self.is_prepared, self.is_elsewhere) = (is_meant, !is_meant);
                self.knows_leftovers = false;
                None
            }
            Done::Leftovers(Ok(present)) => {
                (self.knows_leftovers, self.was_connected) = (true, true);
                self.left = Some((!present.is_empty(), Instant::now()));
                self.feeds.empty_all_but_assigned(present);
                None
            }
            Done::Scanned(comparison, Ok(too_many)) => {
                self.note_scanned(*comparison, too_many);
                None
            }
            Done::Scanned(comparison, Err(error)) => {
                self.note_scanned(*comparison, Vec::new());
                Some(error)
            }
            Done::Judged(Ok(verdict)) => {
                self.note_judged(verdict);
                None
            }
            Done::Judged(Err((items, error))) => {
                items.into_iter().for_each(|item| self.feeds.queue.delay(item, PAUSE.0));
                Some(error)
            }
            Done::Reported(Ok(written)) => {
                self.reports.note(written);
                None
            }
            Done::Reported(Err(error)) => {
                self.note_unreported(&error);
                return;
            }
            Done::Prepared(Err(error)) | Done::Leftovers(Err(error)) => Some(error),
            // Noted elsewhere.
            Done::Written(_) | Done::Unwritable(..) => None,
        };
        match failure {
            None => self.recover_asking(),
            Some(error) => {
                if is_index_missing(&error.to_string()) {
                    self.begin_anew();
                }
                self.asking.begin(error.retry_after());
                // Who asks to be left alone is left alone with everything.
                if error.retry_after().is_some() {
                    self.writing.begin(error.retry_after());
                }
                self.tell_failure(&error);
            }
        }
    }

    /// Objects don't wait for reports, unless the backend asks to be left alone.
    fn note_unreported(&mut self, error: &BackendError) {
        self.reports.fail();
        if error.retry_after().is_some() {
            self.asking.begin(error.retry_after());
            self.writing.begin(error.retry_after());
        }
        self.tell_failure(error);
    }

    fn note_scanned(&mut self, comparison: Comparison, too_many: Vec<Item>) {
        // It may have been called off meanwhile.
        if self.feeds.is_comparing(&comparison.collection) {
            too_many.into_iter().for_each(|item| self.feeds.queue.push(item));
            self.comparison = Some(comparison);
        } else {
            self.abandon(comparison);
        }
    }

    /// Lets the backend forget a scan that nobody goes on with.
    fn abandon(&self, mut comparison: Comparison) {
        let client = Arc::clone(&self.client);
        tokio::spawn(async move { comparison.abandon(&client).await });
    }

    fn note_judged(&mut self, verdict: Verdict) {
        for (item, raised) in verdict.overwrite {
            if raised > 0 {
                self.feeds.raise(&item.collection, raised);
            }
            self.feeds.queue.push(item);
        }
        for item in verdict.later {
            let pause = jittered(conflicts::pause(item.conflicts));
            self.feeds.queue.delay(Item { conflicts: item.conflicts.saturating_add(1), ..item }, pause);
        }
    }

    fn put_back(&mut self, items: Vec<Item>) {
        items.into_iter().rev().for_each(|item| self.feeds.queue.put_back(item));
    }

    /// The index is not what it was: all that was known of it counts for nothing.
    fn begin_anew(&mut self) {
        self.is_prepared = false;
        if let Some(comparison) = self.comparison.take() {
            self.abandon(comparison);
        }
        self.feeds.compare_all();
    }

    /// So many items have to be tried again.
    fn fail_writing(&mut self, error: &BackendError, tried: usize) {
        self.writing.begin(error.retry_after());
        if error.retry_after().is_some() {
            self.asking.begin(error.retry_after());
        }
        count(&self.health.counters.retries, tried);
        self.tell_failure(error);
    }

    fn tell_failure(&self, error: &BackendError) {
        if self.health.fail(error) {
            warn!(backend = self.name, %error, "the backend can't be used, retrying");
        }
    }

    fn recover_writing(&mut self) {
        self.writing = Pause::NONE;
        self.tell_recovery();
    }

    fn recover_asking(&mut self) {
        self.asking = Pause::NONE;
        // Where nothing has to be written, nothing else would tell that it could be.
        if self.writing.is_over() && self.bulks == 0 && self.feeds.queue.waiting() == 0 {
            self.writing = Pause::NONE;
        }
        self.tell_recovery();
    }

    fn tell_recovery(&self) {
        let has_failed = self.writing.has_failed() || self.asking.has_failed() || self.reports.has_failed();
        if !has_failed && self.health.recover() {
            info!(backend = self.name, "the backend can be used again");
        }
    }

    fn report(&self) {
        let queue = &self.feeds.queue;
        self.health.set_progress(Progress {
            is_connected: self.was_connected,
            to_compare: self.feeds.to_compare(),
            collections: self.feeds.count(|_| true),
            queue: queue.len(),
            delayed: queue.delayed(),
            oldest: queue.oldest(),
        });
    }
}

/// Makes sure that the index is there; false where the nodes belong to another cluster than the one that is meant.
async fn prepare(client: &Client, layout: &Layout, cluster: Option<&str>) -> Result<bool, BackendError> {
    if let Some(meant) = cluster
        && let Some(found) = layout::identify(client).await?
        && found != meant
    {
        return Ok(false);
    }
    layout.prepare(client).await.map(|()| true)
}

/// Whether it is the index that is not there; a scan may be missing, too.
fn is_index_missing(reason: &str) -> bool {
    reason.contains("index_not_found_exception")
}

fn count(counter: &AtomicU64, number: usize) {
    counter.fetch_add(number as u64, Ordering::Relaxed);
}
