//! Wiring and shutdown: the only place where the parts meet.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use apiservice::audit::Audit;
use apiservice::health::Health;
use apiservice::layers::Draining;
use apiservice::metrics::Metrics;
use apiservice::registry::{RegistryApi, RegistryStore};
use apiservice::router::RouterParts;
use apiservice::storage::Storage;
use indexer::cache::Cache;
use indexer::connection::ConnectionLimits;
use indexer::index::{self, Index, IndexSettings};
use indexer::source::MemberSet;
use indexer::supervise::{Overview, RegistrySet, Supervisor};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::args::{self, Cli, Command, ServeArgs};
use crate::identity::{self, Identity};
use crate::kubeconfig::RequestRate;
use crate::observe::checks::Watched;
use crate::observe::metrics::Lookups;
use crate::observe::traces::Traces;
use crate::routes::{SearchState, Turns};
use crate::settings::{Settings, Stopping};
use crate::{client, conditions, demo, kubeconfig, logging, members, observe, reconcile, routes, settings};

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

async fn serve(args: ServeArgs) -> Result<()> {
    for flag in args.ignored_flags_given() {
        warn!(flag = flag.name, reason = flag.reason, "this flag does nothing here");
    }
    for gate in args.features.gates_without_meaning() {
        info!(gate, "this feature gate does nothing here");
    }
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
        storage: settings::storage(&args, closing)?,
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
    pub(crate) storage: Arc<dyn Storage>,
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
        let Self { listener, identity, storage, members, member_limits, settings } = self;
        let address = listener.local_addr()?;
        let metrics = Arc::new(Metrics::new());
        let following = Following::start(Arc::clone(&storage), members, member_limits, settings.index, &closing);
        let audit = settings.audit.map(|audit| Audit::start(audit, &metrics)).transpose()?;
        let lookups = Lookups::default();
        metrics.register(|registry| {
            let (cache, index) = (Arc::clone(&following.cache), Arc::clone(&following.index));
            observe::metrics::register(registry, cache, index, following.overview.clone(), &lookups);
        });
        let search = SearchState {
            cache: following.cache,
            index: following.index,
            overview: following.overview,
            shortest_watch: settings.shortest_watch,
            stopping: closing.clone(),
            lookups,
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
            search: settings.has_search.then(|| routes::router(search)),
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

/// What runs beside the requests: registries to plan, plan to watches, watches to cache, and back to the conditions.
struct Following {
    cache: Arc<Cache>,
    index: Arc<Index>,
    overview: watch::Receiver<Arc<Overview>>,
    watched: Watched,
    tasks: TaskTracker,
}

impl Following {
    fn start(
        storage: Arc<dyn Storage>,
        members: watch::Receiver<Arc<MemberSet>>,
        limits: ConnectionLimits,
        index_settings: Option<IndexSettings>,
        closing: &CancellationToken,
    ) -> Self {
        let cache = Arc::new(Cache::default());
        let store = RegistryStore::start(Arc::clone(&storage), closing.clone());
        let (registry_sets, registries) = watch::channel(Arc::<RegistrySet>::default());
        let (supervisor, overview) = Supervisor::new(Arc::clone(&cache), limits, members, registries);
        let tasks = TaskTracker::new();
        let supervisor = tasks.spawn(supervisor.run(closing.clone())).abort_handle();
        tasks.spawn(
            closing.clone().run_until_cancelled_owned(reconcile::follow_registries(store.subscribe(), registry_sets)),
        );
        let index = Arc::new(Index::default());
        if let Some(settings) = index_settings {
            tasks.spawn(index::follow(Arc::clone(&cache), Arc::clone(&index), settings, closing.clone()));
        }
        let report = conditions::report(store.clone(), Arc::clone(&cache), overview.clone(), closing.clone());
        let reporter = tasks.spawn(report).abort_handle();
        tasks.close();
        Self { cache, index, overview, watched: Watched { storage, registries: store, supervisor, reporter }, tasks }
    }
}
