//! From flags to what the parts are set to. Files that flags name are read here, so that mistakes end the start.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use apiservice::audit::{AuditFormat, AuditMode, AuditSettings, LogSettings, LogTarget};
use apiservice::layers::Limits;
use apiservice::serve::ServeSettings;
use apiservice::storage::Storage;
use apiservice::storage::embedded::EmbeddedStorage;
use apiservice::storage::encryption::{EncryptedStorage, Encryption};
use apiservice::storage::etcd::{EtcdConfig, EtcdStorage};
use apiservice::tls::{MinVersion, TlsPolicy};
use indexer::backend::{Asked, BackendsSettings};
use indexer::connection::ConnectionLimits;
use indexer::index::IndexSettings;
use indexer::plan::SearchedIn;
use indexer::shard::election::Candidate;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::args::{self, Audit, AuditLogFormat, AuditLogMode, MinTlsVersion, ServeArgs};
use crate::observe::checks::StoreTimeouts;

/// How often the file with the encryption keys is looked at.
const REREAD_KEYS: Duration = Duration::from_secs(60);
/// What an index takes for what is not written yet.
const INDEX_MEMORY: usize = 64 << 20;
/// Tantivy takes no less and no more.
const SMALLEST_INDEX_MEMORY: usize = 16 << 20;
const LARGEST_INDEX_MEMORY: usize = 2 << 30;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How the API is served.
pub(crate) struct Settings {
    pub(crate) has_search: bool,
    pub(crate) tls: TlsPolicy,
    pub(crate) limits: Limits,
    pub(crate) serving: ServeSettings,
    pub(crate) stopping: Stopping,
    pub(crate) store_timeouts: StoreTimeouts,
    pub(crate) audit: Option<AuditSettings>,
    pub(crate) is_traced: bool,
    /// Where the cache is kept on disk; none if it is not to be.
    pub(crate) disk: Option<PathBuf>,
    /// The index that queries are answered from; none if there is to be none.
    pub(crate) index: Option<IndexSettings>,
    /// How registries' backends are written to.
    pub(crate) backends: BackendsSettings,
    /// Where answers come from.
    pub(crate) store: Store,
    /// Watches last this long at least, up to twice as long, unless the caller says otherwise.
    pub(crate) shortest_watch: Duration,
}

/// Where answers come from.
#[derive(Debug, Clone)]
pub(crate) enum Store {
    /// A cache of all clusters; queries also from the backends of registries that want it.
    Cache { by_default: SearchedIn },
    /// Backends, and nothing is held here but what is written there: the shards of clusters that this server gets.
    Backends { candidate: Option<Candidate> },
}

impl Store {
    /// Whether this server may write to backends.
    pub(crate) fn writes(&self) -> bool {
        !matches!(self, Self::Backends { candidate: None })
    }

    /// Which backends are read.
    pub(crate) fn asked(&self) -> Asked {
        match self {
            Self::Cache { by_default } => Asked::Chosen { by_default: *by_default },
            Self::Backends { .. } => Asked::All,
        }
    }
}

/// How the server ends.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stopping {
    /// How long to go on as if nothing was, but for readyz.
    pub(crate) delay: Duration,
    /// Whether to go on listening until requests under way are answered, and to tell new ones to come again.
    pub(crate) sends_retry_after: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            has_search: true,
            tls: TlsPolicy::default(),
            limits: Limits::default(),
            serving: ServeSettings::default(),
            stopping: Stopping::default(),
            store_timeouts: StoreTimeouts::default(),
            audit: None,
            is_traced: false,
            disk: None,
            index: None,
            backends: BackendsSettings {
                prefix: "fleetglass".to_owned(),
                may_be_plain: false,
                in_original_layout: false,
                dead_letters: None,
            },
            store: Store::Cache { by_default: SearchedIn::Index },
            shortest_watch: Duration::from_secs(1800),
        }
    }
}

impl Settings {
    pub(crate) fn of(args: &ServeArgs) -> Self {
        let mut serving = ServeSettings::default();
        if args.serving.http2_max_streams_per_connection > 0 {
            serving.max_concurrent_streams = args.serving.http2_max_streams_per_connection;
        }
        serving.drain_timeout = serving.drain_timeout.max(args.serving.shutdown_watch_termination_grace_period);
        Self {
            has_search: !args.features.disable_search,
            tls: tls(args),
            limits: Limits {
                reads: args.limits.max_requests_inflight,
                writes: args.limits.max_mutating_requests_inflight,
                deadline: args.limits.request_timeout,
                ..Limits::default()
            },
            serving,
            stopping: Stopping {
                delay: args.serving.shutdown_delay_duration,
                sends_retry_after: args.serving.shutdown_send_retry_after,
            },
            store_timeouts: StoreTimeouts {
                health: args.etcd.etcd_healthcheck_timeout,
                ready: args.etcd.etcd_readycheck_timeout,
            },
            audit: audit(&args.audit),
            is_traced: args.insight.otlp_endpoint.is_some(),
            disk: disk(args),
            index: index(args),
            backends: backends(args),
            store: store(args),
            shortest_watch: Duration::from_secs(u64::from(args.limits.min_request_timeout)),
        }
    }
}

/// An index in a folder, with the usual limits.
pub(crate) fn index_in(folder: PathBuf) -> IndexSettings {
    IndexSettings { folder: Some(folder), memory: INDEX_MEMORY, disk: None }
}

fn store(args: &ServeArgs) -> Store {
    let flags = &args.backends;
    match flags.store {
        args::Store::Cache => Store::Cache { by_default: searched_in(flags.search_backend) },
        args::Store::Backend => {
            let candidate = Candidate {
                name: candidate_name(),
                group: flags.opensearch_index_prefix.clone(),
                namespace: flags.shard_lease_namespace.clone(),
                shards: flags.shards,
            };
            Store::Backends { candidate: Some(candidate).filter(|candidate| candidate.shards > 0) }
        }
    }
}

fn searched_in(backend: args::SearchBackend) -> SearchedIn {
    match backend {
        args::SearchBackend::Index => SearchedIn::Index,
        args::SearchBackend::Opensearch => SearchedIn::Backend,
    }
}

/// A name that no other server has, and that tells people which one it is.
fn candidate_name() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_default().to_lowercase();
    let host: String =
        host.chars().filter(|character| character.is_ascii_alphanumeric() || *character == '-').collect();
    let host = Some(host.trim_matches('-')).filter(|host| !host.is_empty()).unwrap_or("server").to_owned();
    format!("{}-{:08x}", &host[..host.len().min(40)], rand::random::<u32>())
}

/// What flags say that can't be had together.
///
/// # Errors
/// If they do.
pub(crate) fn check(args: &ServeArgs) -> Result<()> {
    let memory = args.search_index.search_index_memory;
    if memory < SMALLEST_INDEX_MEMORY as u64 || memory > LARGEST_INDEX_MEMORY as u64 {
        bail!("--search-index-memory: from 16Mi to 2Gi is expected, not {memory} bytes");
    }
    let flags = &args.backends;
    if flags.shards > 0 && flags.store == args::Store::Cache {
        bail!("--shards needs --store=backend: a server that answers from its cache follows all clusters");
    }
    let prefix = &flags.opensearch_index_prefix;
    let is_name = prefix.len() <= 40
        && prefix.chars().all(|character| character.is_ascii_alphanumeric() || character == '-')
        && !prefix.starts_with('-')
        && !prefix.ends_with('-');
    if flags.shards > 0 && !is_name {
        bail!("--opensearch-index-prefix begins the names of Leases with --shards: letters, digits and -, at most 40");
    }
    if flags.shards > 0 && !args.members.from_karmada() {
        bail!("--shards needs a control plane (--kubeconfig): servers share shards by Leases there");
    }
    Ok(())
}

fn backends(args: &ServeArgs) -> BackendsSettings {
    let flags = &args.backends;
    let beside = || args.etcd.etcd_servers.is_empty().then(|| args.own.data_dir().join("dead-letters.ndjson"));
    BackendsSettings {
        prefix: flags.opensearch_index_prefix.clone(),
        may_be_plain: flags.opensearch_plaintext_credentials,
        in_original_layout: flags.opensearch_original_layout,
        dead_letters: flags.opensearch_dead_letters.clone().or_else(beside),
    }
}

fn disk(args: &ServeArgs) -> Option<PathBuf> {
    let is_elsewhere = args.backends.store == args::Store::Backend;
    if !args.kept_cache.keep_cache || is_elsewhere {
        return None;
    }
    let beside = || args.etcd.etcd_servers.is_empty().then(|| args.own.data_dir().join("cache"));
    args.kept_cache.cache_dir.clone().or_else(beside)
}

fn index(args: &ServeArgs) -> Option<IndexSettings> {
    let flags = &args.search_index;
    let is_elsewhere = args.backends.store == args::Store::Backend;
    if !flags.search_index || args.features.disable_search || is_elsewhere {
        return None;
    }
    // What is kept in the data folder outlives the process, and so may the index.
    let beside = || args.etcd.etcd_servers.is_empty().then(|| args.own.data_dir().join("index"));
    let memory = usize::try_from(flags.search_index_memory).unwrap_or(usize::MAX);
    Some(IndexSettings {
        folder: flags.search_index_dir.clone().or_else(beside),
        memory,
        disk: Some(flags.search_index_disk).filter(|limit| *limit > 0),
    })
}

fn tls(args: &ServeArgs) -> TlsPolicy {
    let policy = TlsPolicy {
        min_version: match args.serving.min_tls_version() {
            MinTlsVersion::Tls12 => MinVersion::Tls12,
            MinTlsVersion::Tls13 => MinVersion::Tls13,
        },
        cipher_suites: args.serving.tls_cipher_suites.clone(),
        curves: args.serving.tls_curve_preferences.clone(),
        http2: !args.serving.disable_http2_serving,
    };
    for suite in policy.suites_not_offered() {
        warn!(%suite, "this cipher suite is not chosen by flag or is not safe any more; it is not offered");
    }
    policy
}

fn audit(flags: &Audit) -> Option<AuditSettings> {
    let target = match flags.audit_log_path.as_deref() {
        None => {
            if flags.audit_policy_file.is_some() {
                warn!("--audit-policy-file without --audit-log-path: nothing is recorded");
            }
            return None;
        }
        Some(path) if path == Path::new("-") => LogTarget::Stdout,
        Some(path) => LogTarget::File(path.to_owned()),
    };
    let Some(policy) = flags.audit_policy_file.clone() else {
        info!("--audit-log-path without --audit-policy-file: nothing is recorded, as in every API server");
        return None;
    };
    Some(AuditSettings {
        policy,
        mode: match flags.audit_log_mode {
            AuditLogMode::Batch => AuditMode::Batch,
            AuditLogMode::Blocking => AuditMode::Blocking,
            AuditLogMode::BlockingStrict => AuditMode::BlockingStrict,
        },
        queue: flags.audit_log_batch_buffer_size,
        truncate: flags.audit_log_truncate_enabled.then_some(flags.audit_log_truncate_max_event_size),
        log: LogSettings {
            target,
            format: match flags.audit_log_format {
                AuditLogFormat::Json => AuditFormat::Json,
                AuditLogFormat::Legacy => AuditFormat::Legacy,
            },
            // Zero stands for the usual size, as in the library that API servers use.
            max_size: u64::from(if flags.audit_log_maxsize == 0 { 100 } else { flags.audit_log_maxsize }) << 20,
            max_backups: flags.audit_log_maxbackup as usize,
            max_age: DAY * flags.audit_log_maxage,
            compress: flags.audit_log_compress,
        },
    })
}

/// How members may be asked.
pub(crate) fn member_limits(args: &ServeArgs) -> ConnectionLimits {
    ConnectionLimits {
        qps: args.members.cluster_api_qps,
        burst: args.members.cluster_api_burst,
        streamed_lists: args.features.streams_lists(),
    }
}

/// Where etcd keeps which backends were sent to: apart from what karmada-search keeps there.
const SENT_TO: &str = "search.fleetglass.io/backends";

/// What is stored.
#[derive(Debug, Clone)]
pub(crate) struct Stores {
    /// Registries.
    pub(crate) registries: Arc<dyn Storage>,
    /// Which backends they were sent to.
    pub(crate) sent_to: Arc<dyn Storage>,
}

/// Where registries are stored, and what is remembered beside them; encrypted if that is asked for.
pub(crate) fn stores(args: &ServeArgs, stop: &CancellationToken) -> Result<Stores> {
    let plain = plain_stores(args)?;
    let Some(path) = args.etcd.encryption_provider_config.clone() else {
        if args.etcd.encryption_provider_config_automatic_reload {
            bail!("--encryption-provider-config-automatic-reload needs --encryption-provider-config");
        }
        return Ok(plain);
    };
    let Some(encryption) = Encryption::from_file(path.clone())? else {
        let path = path.display();
        warn!(%path, "--encryption-provider-config says nothing about resourceregistries.search.karmada.io: they are not encrypted");
        return Ok(plain);
    };
    if args.etcd.encryption_provider_config_automatic_reload {
        tokio::spawn(Arc::clone(&encryption).keep_fresh(REREAD_KEYS, stop.clone()));
    }
    let encrypted = |plain| -> Arc<dyn Storage> { Arc::new(EncryptedStorage::new(plain, Arc::clone(&encryption))) };
    Ok(Stores { registries: encrypted(plain.registries), sent_to: encrypted(plain.sent_to) })
}

/// Opens the embedded stores of a folder.
pub(crate) fn stores_in(folder: &Path) -> Result<Stores> {
    let registries = Arc::new(EmbeddedStorage::open(folder)?);
    Ok(Stores { registries, sent_to: Arc::new(EmbeddedStorage::open_for("sent-to", folder)?) })
}

fn plain_stores(args: &ServeArgs) -> Result<Stores> {
    if args.etcd.etcd_servers.is_empty() {
        let folder: PathBuf = args.own.data_dir();
        info!(folder = %folder.display(), "no --etcd-servers: keeping registries in this folder");
        return stores_in(&folder);
    }
    let config = EtcdConfig {
        servers: args.etcd.etcd_servers.clone(),
        prefix: args.etcd.etcd_prefix.clone(),
        ca_file: args.etcd.etcd_cafile.clone(),
        client_certificate: args.etcd.etcd_certfile.clone().zip(args.etcd.etcd_keyfile.clone()),
    };
    let sent_to = Arc::new(EtcdStorage::open_for(SENT_TO, &config)?);
    Ok(Stores { registries: Arc::new(EtcdStorage::open(&config)?), sent_to })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::args::{Cli, Command};

    #[rstest]
    #[case(&["--search-index-memory=1Mi"], "from 16Mi to 2Gi")]
    #[case(&["--search-index-memory=3Gi"], "from 16Mi to 2Gi")]
    #[case(&["--shards=2"], "--store=backend")]
    #[case(&["--shards=2", "--store=backend", "--opensearch-index-prefix=a_b"], "letters, digits and -")]
    #[case(&["--shards=2", "--store=backend", "--members=snapshot:x"], "control plane")]
    fn what_cannot_be_had_ends_the_start_with_the_reason(#[case] words: &[&str], #[case] says: &str) {
        let words = ["fleetglass", "serve"].iter().chain(words);
        let Command::Serve(serve) = Cli::from_words(words).unwrap().command else { panic!("not serve") };
        let refusal = check(&serve).unwrap_err().to_string();
        assert!(refusal.contains(says), "{refusal}");
    }
}
