//! Wiring and shutdown: the only place where the parts meet.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use apiservice::health::{Health, Probe};
use apiservice::layers::Limits;
use apiservice::metrics::Metrics;
use apiservice::registry::{RegistryApi, RegistryStore};
use apiservice::router::RouterParts;
use apiservice::serve::ServeSettings;
use apiservice::storage::Storage;
use apiservice::storage::embedded::EmbeddedStorage;
use apiservice::storage::etcd::{EtcdConfig, EtcdStorage};
use apiservice::tls::MinVersion;
use indexer::cache::Cache;
use indexer::connection::ConnectionLimits;
use indexer::source::MemberSet;
use indexer::supervise::{RegistrySet, Supervisor};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::args::{self, Cli, Command, MinTlsVersion, ServeArgs};
use crate::identity::{self, Identity};
use crate::routes::SearchState;
use crate::{conditions, demo, kubeconfig, logging, members, reconcile, routes};

/// Asked for and not done, this flag would leave secrets in the open; every other flag without meaning does no harm.
const ENCRYPTION_FLAG: &str = "encryption-provider-config";

/// Carries out a command line; failures are told in one line.
pub fn run(cli: Cli) -> ExitCode {
    let outcome = match cli.command {
        Command::Serve(args) => {
            logging::start(args.logging.format, args.logging.verbosity);
            in_runtime(serve(*args))
        }
        Command::Demo(args) => {
            logging::start_quiet();
            in_runtime(demo::run(args))
        }
        Command::Version => writeln!(std::io::stdout(), "{}", args::version_text()).map_err(Into::into),
        Command::Completion { shell } => {
            args::write_completion(shell, &mut std::io::stdout());
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; there is nobody left to tell then.
            let _ = writeln!(std::io::stderr(), "fleetglass: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn in_runtime(work: impl Future<Output = Result<()>>) -> Result<()> {
    // A second call, as in tests, finds the provider installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(work)
}

/// Cancelled when the process is told to stop.
///
/// # Errors
/// If signals cannot be listened to.
pub(crate) fn stop_on_signal() -> Result<CancellationToken> {
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

async fn serve(args: ServeArgs) -> Result<()> {
    let ignored = args.ignored_flags_given();
    if ignored.iter().any(|flag| flag.name.trim_start_matches('-') == ENCRYPTION_FLAG) {
        bail!(
            "--{ENCRYPTION_FLAG} is not supported yet: registries would be stored as plain text, so this is as far as it goes"
        );
    }
    for flag in ignored {
        warn!(flag = flag.name, reason = flag.reason, "this flag does nothing here");
    }
    let stop = stop_on_signal()?;
    let listener = TcpListener::bind(args.listen_address())
        .await
        .with_context(|| format!("cannot listen on {}", args.listen_address()))?;
    let address = listener.local_addr()?;
    let identity = if args.is_standalone() {
        identity::standalone(address)?
    } else {
        identity::aggregated(&args, address, &stop).await?
    };
    if let Some(pki) = &identity.standalone {
        let path = args.own.kubeconfig_to_write();
        kubeconfig::write(&path, &format!("https://{}", loopback_url(address)), pki)?;
        info!(kubeconfig = %path.display(), "wrote a kubeconfig for this server");
    }
    let control_plane = match args.members.from_karmada() {
        true => Some(kubeconfig::client(args.control_plane.kubeconfig.as_deref()).await?),
        false => None,
    };
    let sources = args.members.sources();
    let members = members::start(sources, control_plane.as_ref(), args.contexts_kubeconfig(), &stop).await?;
    let (qps, burst) = (args.members.cluster_api_qps, args.members.cluster_api_burst);
    let server = Server {
        listener,
        identity,
        storage: storage(&args)?,
        members,
        member_limits: ConnectionLimits { qps, burst },
        settings: Settings::of(&args),
    };
    server.run(stop).await
}

/// Where a client on this machine reaches an address.
pub(crate) fn loopback_url(address: std::net::SocketAddr) -> String {
    if address.ip().is_unspecified() { format!("127.0.0.1:{}", address.port()) } else { address.to_string() }
}

fn storage(args: &ServeArgs) -> Result<Arc<dyn Storage>> {
    if args.etcd.etcd_servers.is_empty() {
        let folder = args.own.data_dir();
        info!(folder = %folder.display(), "no --etcd-servers: keeping registries in this folder");
        return Ok(Arc::new(EmbeddedStorage::open(&folder)?));
    }
    let config = EtcdConfig {
        servers: args.etcd.etcd_servers.clone(),
        prefix: args.etcd.etcd_prefix.clone(),
        ca_file: args.etcd.etcd_cafile.clone(),
        client_certificate: args.etcd.etcd_certfile.clone().zip(args.etcd.etcd_keyfile.clone()),
    };
    Ok(Arc::new(EtcdStorage::open(&config)?))
}

/// How the API is served.
pub(crate) struct Settings {
    pub(crate) has_search: bool,
    pub(crate) min_tls: MinVersion,
    pub(crate) http2: bool,
    pub(crate) limits: Limits,
    pub(crate) serving: ServeSettings,
    pub(crate) shutdown_delay: Duration,
    /// Watches last this long at least, up to twice as long, unless the caller says otherwise.
    pub(crate) shortest_watch: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            has_search: true,
            min_tls: MinVersion::Tls12,
            http2: true,
            limits: Limits::default(),
            serving: ServeSettings::default(),
            shutdown_delay: Duration::ZERO,
            shortest_watch: Duration::from_secs(1800),
        }
    }
}

impl Settings {
    fn of(args: &ServeArgs) -> Self {
        let mut serving = ServeSettings::default();
        if args.serving.http2_max_streams_per_connection > 0 {
            serving.max_concurrent_streams = args.serving.http2_max_streams_per_connection;
        }
        Self {
            has_search: !args.features.disable_search,
            min_tls: match args.serving.min_tls_version() {
                MinTlsVersion::Tls12 => MinVersion::Tls12,
                MinTlsVersion::Tls13 => MinVersion::Tls13,
            },
            http2: !args.serving.disable_http2_serving,
            limits: Limits {
                reads: args.limits.max_requests_inflight,
                writes: args.limits.max_mutating_requests_inflight,
                deadline: args.limits.request_timeout,
                ..Limits::default()
            },
            serving,
            shutdown_delay: args.serving.shutdown_delay_duration,
            shortest_watch: Duration::from_secs(u64::from(args.limits.min_request_timeout)),
        }
    }
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
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<()> {
        let address = self.listener.local_addr()?;
        let cache = Arc::new(Cache::default());
        let store = RegistryStore::start(Arc::clone(&self.storage), stop.clone());
        let (registry_sets, registries) = watch::channel(Arc::<RegistrySet>::default());
        let (supervisor, overview) = Supervisor::new(Arc::clone(&cache), self.member_limits, self.members, registries);
        let tasks = TaskTracker::new();
        tasks.spawn(supervisor.run(stop.clone()));
        tasks.spawn(
            stop.clone().run_until_cancelled_owned(reconcile::follow_registries(store.subscribe(), registry_sets)),
        );
        tasks.spawn(conditions::report(store.clone(), Arc::clone(&cache), overview.clone(), stop.clone()));
        tasks.close();
        // Watches and requests end only when the delay that a load balancer needs is over.
        let closing = CancellationToken::new();
        let shortest_watch = self.settings.shortest_watch;
        let search = SearchState { cache, overview, shortest_watch, stopping: closing.clone() };
        let health = health(&self.storage);
        let router = apiservice::router::router(RouterParts {
            authenticator: self.identity.authenticator,
            authorizer: self.identity.authorizer,
            health: health.clone(),
            metrics: Arc::new(Metrics::new()),
            registries: apiservice::registry::router(RegistryApi { store, stopping: closing.clone() }),
            search: self.settings.has_search.then(|| routes::router(search)),
            limits: self.settings.limits,
            server_address: address.to_string(),
        });
        let tls =
            apiservice::tls::server_config(self.identity.certificates, self.settings.min_tls, self.settings.http2)?;
        info!(%address, "serving");
        tokio::spawn({
            let (delay, closing) = (self.settings.shutdown_delay, closing.clone());
            async move {
                stop.cancelled().await;
                health.begin_shutdown();
                tokio::time::sleep(delay).await;
                closing.cancel();
            }
        });
        apiservice::serve::serve(self.listener, tls, router, self.settings.serving, closing).await?;
        tasks.wait().await;
        info!("stopped");
        Ok(())
    }
}

/// Ready means that registries can be read. Nothing here waits for aggregation: the control plane reaches us only once we
/// are ready.
fn health(storage: &Arc<dyn Storage>) -> Health {
    let health = Health::new();
    for name in ["etcd", "etcd-readiness"] {
        let storage = Arc::clone(storage);
        health.register(Probe::Ready, name, move || {
            let storage = Arc::clone(&storage);
            async move { storage.ping().await.map_err(|error| error.to_string()) }
        });
    }
    health
}
