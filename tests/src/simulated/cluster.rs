//! One cluster's API server: from what is asked to the answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{Stream, iter, once};
use hyper::{Response, StatusCode};
use serde_json::Value;
use tokio::sync::watch::Sender;
use tokio::time::Instant;

use super::answer::{Body, JSON, NONSENSE, Problem, body, whole, with_type};
use super::collection::{Chunks, Collection, Form, frame};
use super::counters::{Counting, OpenWatch, Second};
use super::discovery;
use super::fault::Fault;
use super::list::{Page, page_of, write};
use super::names::below;
use super::request::{Parameters, Target};
use super::schedule::updates_until;
use super::state::State;
use super::watch::{Terms, Watch};
use super::world::{World, mix};

/// How long a watch goes on that doesn't say: half an hour, and so much more at most.
const LONG_SECONDS: u64 = 1800;

/// A cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    number: usize,
    world: Arc<World>,
    pub(crate) states: Sender<State>,
    pub(crate) second: Second,
    counting: Arc<Counting>,
}

impl Cluster {
    pub(crate) fn new(number: usize, world: &Arc<World>, counting: &Arc<Counting>, now: Instant) -> Self {
        let phase = below(mix(world.settings.seed, number as u64), 1000) as f64 / 1000.0;
        let (states, _) = tokio::sync::watch::channel(State::new(now, world.settings.updates_per_second, phase));
        Self { number, world: Arc::clone(world), states, second: Second::default(), counting: Arc::clone(counting) }
    }

    /// Answers a GET of a path below the cluster.
    pub(crate) async fn answer(&self, path: &[&str], query: &str) -> Response<Body> {
        match self.states.borrow().fault {
            Fault::Hang => {}
            Fault::Empty => return with_type(StatusCode::OK, JSON, whole("")),
            Fault::Nonsense => return with_type(StatusCode::OK, "text/html", whole(NONSENSE)),
            _ => return self.answer_path(path, query).unwrap_or_else(|problem| problem.response()),
        }
        // Who hangs has lost what was asked by the time that it is well again.
        std::future::pending().await
    }

    fn answer_path(&self, path: &[&str], query: &str) -> Result<Response<Body>, Problem> {
        let kinds = self.world.settings.kinds;
        match Target::parse(kinds, path).ok_or_else(Problem::no_such_path)? {
            Target::Version => Ok(self.document(JSON, &discovery::version())),
            Target::Health => Ok(self.send("text/plain", once(std::future::ready(Bytes::from_static(b"ok"))))),
            Target::Discovery { core } => Ok(self.document(discovery::CONTENT_TYPE, &discovery::document(kinds, core))),
            Target::Objects { kind, namespace, name } => {
                let collection = Collection::new(&self.world, self.number, kind, namespace.as_deref());
                match name {
                    Some(name) => self.object(&collection, &name),
                    None => self.collection(collection, &Parameters::parse(query)?),
                }
            }
        }
    }

    fn send(&self, content_type: &'static str, content: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
        let body = body(content, self.states.subscribe(), Arc::clone(&self.counting));
        with_type(StatusCode::OK, content_type, body)
    }

    fn document(&self, content_type: &'static str, document: &Value) -> Response<Body> {
        self.send(content_type, once(std::future::ready(Bytes::from(document.to_string()))))
    }

    fn object(&self, asked: &Collection, name: &str) -> Result<Response<Body>, Problem> {
        let state = *self.states.borrow();
        let found = asked.with(state.fault).find(name, state.updates(Instant::now()));
        let object = found.ok_or_else(|| Problem::no_such_object(asked.kind.description().resource, name))?;
        Ok(self.send(JSON, once(std::future::ready(object))))
    }

    fn collection(&self, asked: Collection, parameters: &Parameters) -> Result<Response<Body>, Problem> {
        let state = *self.states.borrow();
        let present = state.updates(Instant::now());
        if parameters.watch {
            return self.watch(asked, parameters, &state, present);
        }
        let collection = asked.with(state.fault);
        let page = self.page(&collection, parameters, &state, present)?;
        self.counting.page();
        // Who asks for one object asks for the version.
        if parameters.token.is_empty() && parameters.limit != 1 {
            self.counting.list();
        }
        Ok(self.send(JSON, iter(write(&collection, page))))
    }

    /// What can still be told from so many updates on.
    fn is_held(&self, updates: usize, state: &State, present: usize) -> bool {
        updates >= state.oldest.max(present.saturating_sub(self.world.settings.history))
    }

    fn page(
        &self,
        collection: &Collection,
        parameters: &Parameters,
        state: &State,
        present: usize,
    ) -> Result<Page, Problem> {
        if !parameters.token.is_empty() {
            let page = page_of(&parameters.token, parameters.limit);
            let page = page.ok_or_else(|| Problem::bad_request("continue key is not valid"))?;
            if !self.is_held(page.updates, state, present) {
                return Err(Problem::expired(
                    "The provided continue parameter is too old to display a consistent list result.",
                ));
            }
            return Ok(page);
        }
        let (version, newest) = (parameters.version, collection.version(present));
        if version > newest {
            return Err(Problem::too_new(version, newest));
        }
        let exact = parameters.matching == "Exact" && version > 0;
        let updates = if exact { updates_until(version) } else { present };
        if exact && !self.is_held(updates, state, present) {
            return Err(Problem::too_old(version));
        }
        Ok(Page { from: collection.range.start, limit: parameters.limit, updates })
    }

    fn watch(
        &self,
        asked: Collection,
        parameters: &Parameters,
        state: &State,
        present: usize,
    ) -> Result<Response<Body>, Problem> {
        let open = OpenWatch::new(&self.counting);
        let collection = asked.with(state.fault);
        let newest = collection.version(present);
        let initial = parameters.initial_events || parameters.version == 0;
        if initial && parameters.version > newest {
            return Err(Problem::too_new(parameters.version, newest));
        }
        let version = if initial { newest } else { parameters.version };
        if state.fault == Fault::Expired || !(initial || self.is_held(updates_until(version), state, present)) {
            return self.refuse_watch(&Problem::too_old(version), state.fault);
        }
        let waiting = initial.then(|| self.initial_events(&collection, parameters, present));
        let seconds = parameters.seconds.unwrap_or(LONG_SECONDS + present as u64 % LONG_SECONDS);
        let ends = Instant::now() + Duration::from_secs(seconds.min(LONG_SECONDS * 48));
        let terms = Terms { version, ends, bookmarks: parameters.bookmarks, restored: state.restored };
        let watch = Watch::new(asked, terms, self.states.subscribe(), open, waiting);
        Ok(self.send(JSON, watch.stream()))
    }

    /// API servers say within a watch that its version is too old; clients must understand the status as well.
    fn refuse_watch(&self, problem: &Problem, fault: Fault) -> Result<Response<Body>, Problem> {
        if fault == Fault::Expired && self.counting.now().watches_begun.is_multiple_of(2) {
            return Err(problem.clone());
        }
        Ok(self.send(JSON, once(std::future::ready(frame("ERROR", &problem.status())))))
    }

    fn initial_events(&self, collection: &Collection, parameters: &Parameters, present: usize) -> Chunks {
        self.counting.list();
        let objects = collection.objects(collection.range.clone(), present, Form::Added);
        let ends = parameters.initial_events && parameters.bookmarks;
        Box::new(objects.chain(ends.then(|| collection.bookmark(present, true))))
    }
}
