//! Wiring and shutdown: the only place where the parts meet.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use apiservice::audit::Audit;
use apiservice::health::Health;
use apiservice::layers::Draining;
use apiservice::metrics::Metrics;
use apiservice::registry::{RegistryApi, RegistryStore};
use apiservice::router::RouterParts;
use indexer::backend::{self, Backends, BackendsSettings, Readers, ReadersInputs, reports, secrets};
use indexer::cache::Cache;
use indexer::connection::ConnectionLimits;
use indexer::disk::{self, Disk, Restored};
use indexer::index::{self, Index, IndexSettings};
use indexer::shard::Shards;
use indexer::shard::election::{self, Candidate};
use indexer::source::MemberSet;
use indexer::source::sharded::sharded;
use indexer::supervise::{Overview, RegistrySet, Supervisor};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::args::{self, BackendCommand, Cli, Command, ServeArgs};
use crate::identity::{self, Identity};
use crate::kubeconfig::RequestRate;
use crate::observe::checks::Watched;
use crate::observe::metrics::Counted;
use crate::observe::traces::Traces;
use crate::routes::{BackendSource, SearchState, Source, Turns};
use crate::sent_to::SentTo;
use crate::settings::{Settings, Stopping, Store, Stores};
use crate::{client, conditions, dashboards, demo, kubeconfig, logging, members, observe, reconcile, routes, settings};

/// Carries out a command line; failures are told in one line.
pub fn run(cli: Cli) -> ExitCode {
    let outcome = match cli.command {
        Command::Serve(args) => in_runtime(logged(*args)),
        Command::Demo(args) => {
            logging::start_quiet();
            in_runtime(demo::run(args))
        }
        Command::Search(args) => return asking(client::search(args)),
        Command::Diff(args) => return asking(client::diff(args)),
        Command::Backend(BackendCommand::Check(args)) => return asking(client::check_backend(args)),
        Command::Backend(BackendCommand::Replay(args)) => return asking(client::replay(args)),
        Command::Dashboards(args) => in_runtime(dashboards::run(args)),
        Command::Version => writeln!(std::io::stdout(), "{}", args::version_text()).map_err(Into::into),
        Command::Completion { shell } => args::write_completion(shell, &mut std::io::stdout()).map_err(Into::into),
        Command::Man { command } => args::write_manual(command.as_deref(), &mut std::io::stdout()).map_err(Into::into),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads no further has seen enough.
        Err(error) if client::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; there is nobody left to tell then.
            let _ = writeln!(std::io::stderr(), "fleetglass: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Asks a running server; the exit code says what came of it.
fn asking(work: impl Future<Output = ExitCode>) -> ExitCode {
    let mut code = ExitCode::from(2);
    let asked = in_runtime(async {
        code = work.await;
        Ok(())
    });
    if let Err(error) = asked {
        let _ = writeln!(std::io::stderr(), "fleetglass: {error:#}");
    }
    code
}

fn in_runtime(work: impl Future<Output = Result<()>>) -> Result<()> {
    // A second call, as in tests, finds the provider installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(work)
}

/// When the program ends, in two steps: told to stop, it goes on as if nothing was for as long as load balancers need to notice;
/// only then does it close, and all that keeps its answers fresh ends with it.
#[derive(Debug, Clone)]
pub(crate) struct Lifetime {
    pub(crate) stop: CancellationToken,
    pub(crate) closing: CancellationToken,
}

impl Lifetime {
    /// Until the process is told to stop.
    ///
    /// # Errors
    /// If signals cannot be listened to.
    pub(crate) fn start() -> Result<Self> {
        Ok(Self { stop: stop_on_signal()?, closing: CancellationToken::new() })
    }
}

/// Cancelled when the process is told to stop.
///
/// # Errors
/// If signals cannot be listened to.
fn stop_on_signal() -> Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.cancel();
        }
    });
    Ok(stop)
}

/// Serves with log and traces as the flags want them.
async fn logged(args: ServeArgs) -> Result<()> {
    let traces = args.insight.otlp_endpoint.as_deref().map(Traces::start).transpose()?;
    logging::start(args.logging.format, args.logging.verbosity, traces.as_ref());
    let outcome = serve(args).await;
    if let Some(traces) = traces {
        traces.end().await;
    }
    outcome
}

/// Each member takes connections, and many systems let a process open 1,024 files unless it asks for more.
fn allow_many_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit })
    {
        warn!(%error, "the number of files that may be open could not be raised");
    }
}

async fn serve(args: ServeArgs) -> Result<()> {
    allow_many_files();
    for flag in args.ignored_flags_given() {
        warn!(flag = flag.name, reason = flag.reason, "this flag does nothing here");
    }
    for gate in args.features.gates_without_meaning() {
        info!(gate, "this feature gate does nothing here");
    }
    settings::check(&args)?;
    let lifetime = Lifetime::start()?;
    let closing = &lifetime.closing;
    if args.insight.enable_pprof {
        observe::profiles::start(args.insight.profiling_bind_address, closing.clone()).await?;
    }
    let listener = TcpListener::bind(args.listen_address())
        .await
        .with_context(|| format!("cannot listen on {}", args.listen_address()))?;
    let address = listener.local_addr()?;
    let identity = if args.is_standalone() {
        identity::standalone(address)?
    } else {
        identity::aggregated(&args, address, closing).await?
    };
    // Whoever else serves from the same folder has it locked, and its kubeconfig stays as it is.
    let stores = settings::stores(&args, closing)?;
    if let Some(pki) = &identity.standalone {
        let path = args.own.kubeconfig_to_write();
        kubeconfig::write(&path, &format!("https://{}", loopback_url(address)), pki)?;
        info!(kubeconfig = %path.display(), "wrote a kubeconfig for this server");
    }
    let control_plane = match args.members.from_karmada() {
        true => {
            let rate = RequestRate { qps: args.control_plane.kube_api_qps, burst: args.control_plane.kube_api_burst };
            Some(kubeconfig::paced_client(args.control_plane.kubeconfig.as_deref(), rate).await?)
        }
        false => None,
    };
    let sources = args.members.sources();
    let members = members::start(sources, control_plane.as_ref(), args.contexts_kubeconfig(), closing).await?;
    let server = Server {
        listener,
        identity,
        stores,
        control_plane,
        members,
        member_limits: settings::member_limits(&args),
        settings: Settings::of(&args),
    };
    server.run(lifetime).await
}

/// Where a client on this machine reaches an address.
pub(crate) fn loopback_url(address: std::net::SocketAddr) -> String {
    if address.ip().is_unspecified() { format!("127.0.0.1:{}", address.port()) } else { address.to_string() }
}

/// All parts of a server, ready to run.
pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) identity: Identity,
    pub(crate) stores: Stores,
    /// Where backends' Secrets are; none without a control plane.
    pub(crate) control_plane: Option<kube::Client>,
    pub(crate) members: watch::Receiver<Arc<MemberSet>>,
    pub(crate) member_limits: ConnectionLimits,
    pub(crate) settings: Settings,
}

impl Server {
    /// Serves until told to stop.
    ///
    /// # Errors
    /// If the API cannot be served at all.
    pub(crate) async fn run(self, lifetime: Lifetime) -> Result<()> {
        let Lifetime { stop, closing } = lifetime;
        let Self { listener, identity, stores, control_plane, members, member_limits, settings } = self;
        let address = listener.local_addr()?;
        let metrics = Arc::new(Metrics::new());
        let kept = KeptCache::open(settings.disk).await?;
        let wishes =
            Wishes { limits: member_limits, index: settings.index, backends: settings.backends, store: settings.store };
        let following = Following::start(kept, stores, control_plane, members, wishes, &closing);
        let audit = settings.audit.map(|audit| Audit::start(audit, &metrics)).transpose()?;
        let counted = Counted::default();
        metrics.register(|registry| {
            let followed = observe::metrics::Sources {
                cache: Arc::clone(&following.cache),
                disk: Arc::clone(&following.disk),
                index: Arc::clone(&following.index),
                backends: Arc::clone(&following.backends),
                overview: following.overview.clone(),
            };
            observe::metrics::register(registry, followed, &counted);
        });
        let search = SearchState {
            cache: following.cache,
            disk: following.disk,
            index: following.index,
            backends: following.backends,
            overview: following.shown,
            source: following.source,
            shortest_watch: settings.shortest_watch,
            stopping: closing.clone(),
            counted,
            turns: Turns::default(),
        };
        let health = observe::checks::health(&following.watched, settings.store_timeouts);
        let draining = Draining::default();
        let registries = RegistryApi { store: following.watched.registries, stopping: closing.clone() };
        let router = apiservice::router::router(RouterParts {
            authenticator: identity.authenticator,
            authorizer: identity.authorizer,
            health: health.clone(),
            metrics,
            audit: audit.clone(),
            registries: apiservice::registry::router(registries),
            search: settings.has_search.then(|| routes::search(search)),
            limits: settings.limits,
            draining: draining.clone(),
            server_address: address.to_string(),
        });
        let router = if settings.is_traced { observe::traces::traced(router) } else { router };
        let tls = apiservice::tls::server_config(identity.certificates, &settings.tls)?;
        info!(%address, "serving");
        tokio::spawn(close_in_order(stop, health, draining, settings.stopping, closing.clone()));
        apiservice::serve::serve(listener, tls, router, settings.serving, closing).await?;
        following.tasks.wait().await;
        if let Some(audit) = audit {
            audit.flush().await;
        }
        info!("stopped");
        Ok(())
    }
}

/// Told to stop, the server first looks unready, for as long as load balancers need to notice; then it closes.
async fn close_in_order(
    stop: CancellationToken,
    health: Health,
    draining: Draining,
    stopping: Stopping,
    closing: CancellationToken,
) {
    stop.cancelled().await;
    health.begin_shutdown();
    tokio::time::sleep(stopping.delay).await;
    if stopping.sends_retry_after {
        draining.begin().await;
    }
    closing.cancel();
}

/// The cache as it was before the start, and what keeps it on disk.
struct KeptCache {
    cache: Arc<Cache>,
    disk: Arc<Disk>,
    opened: Option<disk::Opened>,
    restored: Restored,
}

impl KeptCache {
    async fn open(folder: Option<PathBuf>) -> Result<Self> {
        let (cache, disk) = (Arc::new(Cache::default()), Arc::new(Disk::default()));
        let Some(folder) = folder else {
            return Ok(Self { cache, disk, opened: None, restored: Restored::default() });
        };
        let opening = move || {
            let (opened, restored) = disk::open(folder, &cache, &disk);
            Self { cache, disk, opened: Some(opened), restored }
        };
        Ok(tokio::task::spawn_blocking(opening).await?)
    }
}

/// How what runs beside the requests is wanted.
struct Wishes {
    limits: ConnectionLimits,
    index: Option<IndexSettings>,
    backends: BackendsSettings,
    store: Store,
}

/// What runs beside the requests: registries to plan, plan to watches, watches to cache, cache to index and backends, and back to
/// the conditions.
struct Following {
    cache: Arc<Cache>,
    disk: Arc<Disk>,
    index: Arc<Index>,
    backends: Arc<Backends>,
    /// What is followed here.
    overview: watch::Receiver<Arc<Overview>>,
    /// What is followed here or elsewhere, as answers tell of it.
    shown: watch::Receiver<Arc<Overview>>,
    /// Where answers come from.
    source: Source,
    watched: Watched,
    tasks: TaskTracker,
}

impl Following {
    fn start(
        kept: KeptCache,
        stores: Stores,
        control_plane: Option<kube::Client>,
        members: watch::Receiver<Arc<MemberSet>>,
        wishes: Wishes,
        closing: &CancellationToken,
    ) -> Self {
        let KeptCache { cache, disk, opened, restored } = kept;
        let store = RegistryStore::start(Arc::clone(&stores.registries), closing.clone());
        let backends = Arc::new(Backends::default());
        let (registry_sets, registries) = watch::channel(Arc::<RegistrySet>::default());
        let tasks = TaskTracker::new();
        tasks.spawn(closing.clone().run_until_cancelled_owned(reconcile::follow_registries(
            store.subscribe(),
            wishes.store.writes().then(|| (SentTo::new(stores.sent_to), backends.told())),
            registry_sets,
        )));
        let members = match &wishes.store {
            Store::Cache { .. } => members,
            Store::Backends { candidate } => {
                shared(candidate.clone(), control_plane.as_ref(), members, &tasks, closing)
            }
        };
        let (supervisor, overview) = Supervisor::new(Arc::clone(&cache), wishes.limits, members, registries.clone());
        let supervisor = tasks.spawn(supervisor.going_on_from(restored).run(closing.clone())).abort_handle();
        if let Some(opened) = opened {
            tasks.spawn(disk::follow(opened, Arc::clone(&cache), Arc::clone(&disk), closing.clone()));
        }
        let index = Arc::new(Index::default());
        if let Some(settings) = wishes.index {
            tasks.spawn(index::follow(Arc::clone(&cache), Arc::clone(&index), settings, closing.clone()));
        }
        let secrets = secrets::follow(control_plane, registries.clone(), closing.clone());
        let reading = ReadersInputs {
            registries: registries.clone(),
            secrets: secrets.clone(),
            prefix: wishes.backends.prefix.clone(),
            may_be_plain: wishes.backends.may_be_plain,
            asked: wishes.store.asked(),
        };
        let inputs = backend::Inputs { cache: Arc::clone(&cache), overview: overview.clone(), secrets, registries };
        if wishes.store.writes() {
            tasks.spawn(backend::follow(inputs, Arc::clone(&backends), wishes.backends, closing.clone()));
        }
        let source = match &wishes.store {
            Store::Cache { .. } => Source::Cache { backends: readers(reading, &tasks, closing) },
            Store::Backends { .. } => {
                Source::Backends(with_reports(readers(reading, &tasks, closing), &tasks, closing))
            }
        };
        let shown = match &source {
            Source::Cache { .. } => overview.clone(),
            Source::Backends(source) => source.overview(closing),
        };
        let looked_at = match &source {
            Source::Backends(source) => {
                conditions::LookedAt::Reported { reports: source.reports.clone(), followed: overview.clone() }
            }
            Source::Cache { .. } => {
                conditions::LookedAt::Followed { cache: Arc::clone(&cache), overview: overview.clone() }
            }
        };
        let facts = conditions::Facts { backends: Arc::clone(&backends), looked_at };
        let reporter = tasks.spawn(conditions::report(store.clone(), facts, closing.clone())).abort_handle();
        tasks.close();
        let watched = Watched { storage: stores.registries, registries: store, supervisor, reporter };
        Self { cache, disk, index, backends, overview, shown, source, watched, tasks }
    }
}

/// The members whose shards this server gets, if it takes part.
fn shared(
    candidate: Option<Candidate>,
    control_plane: Option<&kube::Client>,
    members: watch::Receiver<Arc<MemberSet>>,
    tasks: &TaskTracker,
    closing: &CancellationToken,
) -> watch::Receiver<Arc<MemberSet>> {
    let (held, shards) = watch::channel(Shards::none(candidate.as_ref().map_or(1, |candidate| candidate.shards)));
    match (candidate, control_plane) {
        (Some(candidate), Some(client)) => {
            info!(server = candidate.name, shards = candidate.shards, "sharing clusters with other servers");
            tasks.spawn(election::take_part(candidate, client.clone(), held, closing.clone()));
        }
        // None is ours, for as long as somebody listens.
        _ => drop(tokio::spawn(async move { held.closed().await })),
    }
    sharded(members, shards)
}

fn readers(inputs: ReadersInputs, tasks: &TaskTracker, closing: &CancellationToken) -> watch::Receiver<Readers> {
    let (sender, receiver) = watch::channel(Readers::default());
    tasks.spawn(inputs.follow(sender, closing.clone()));
    receiver
}

fn with_reports(readers: watch::Receiver<Readers>, tasks: &TaskTracker, closing: &CancellationToken) -> BackendSource {
    let (sender, reports) = watch::channel(Arc::default());
    tasks.spawn(reports::follow(readers.clone(), sender, closing.clone()));
    BackendSource { readers, reports }
}
