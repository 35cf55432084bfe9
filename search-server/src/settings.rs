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
use indexer::connection::ConnectionLimits;
use indexer::index::IndexSettings;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::args::{Audit, AuditLogFormat, AuditLogMode, MinTlsVersion, ServeArgs};
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
    /// The index that queries are answered from; none if there is to be none.
    pub(crate) index: Option<IndexSettings>,
    /// Watches last this long at least, up to twice as long, unless the caller says otherwise.
    pub(crate) shortest_watch: Duration,
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
            index: None,
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
            index: index(args),
            shortest_watch: Duration::from_secs(u64::from(args.limits.min_request_timeout)),
        }
    }
}

/// An index in a folder, with the usual limits.
pub(crate) fn index_in(folder: PathBuf) -> IndexSettings {
    IndexSettings { folder: Some(folder), memory: INDEX_MEMORY, disk: None }
}

fn index(args: &ServeArgs) -> Option<IndexSettings> {
    let flags = &args.search_index;
    if !flags.search_index || args.features.disable_search {
        return None;
    }
    // What is kept in the data folder outlives the process, and so may the index.
    let beside = || args.etcd.etcd_servers.is_empty().then(|| args.own.data_dir().join("index"));
    let memory = usize::try_from(flags.search_index_memory).unwrap_or(usize::MAX);
    Some(IndexSettings {
        folder: flags.search_index_dir.clone().or_else(beside),
        memory: memory.clamp(SMALLEST_INDEX_MEMORY, LARGEST_INDEX_MEMORY),
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

/// Where registries are stored, encrypted if that is asked for.
pub(crate) fn storage(args: &ServeArgs, stop: &CancellationToken) -> Result<Arc<dyn Storage>> {
    let plain = plain_storage(args)?;
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
    Ok(Arc::new(EncryptedStorage::new(plain, encryption)))
}

fn plain_storage(args: &ServeArgs) -> Result<Arc<dyn Storage>> {
    if args.etcd.etcd_servers.is_empty() {
        let folder: PathBuf = args.own.data_dir();
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
