//! The flags of `serve` that have a meaning, in groups that each go to one part of the program.
//!
//! Names and defaults are those of the program that is replaced, but for [`Own`] and the member sources.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::accepted::{Given, IgnoredFlag};
use super::values::{
    self, AuditLogFormat, AuditLogMode, CipherSuite, Curve, FeatureGate, LogFormat, MemberSource, MinTlsVersion,
    SniCertificate,
};

/// Where a server with no control plane listens if no flag says so.
const STANDALONE_PORT: u16 = 7443;

/// Flags of `serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Address and certificates.
    #[command(flatten)]
    pub serving: Serving,
    /// How much at once, and for how long.
    #[command(flatten)]
    pub limits: Limits,
    /// Where registries are stored.
    #[command(flatten)]
    pub etcd: Etcd,
    /// Who callers are.
    #[command(flatten)]
    pub authentication: Authentication,
    /// What callers may do.
    #[command(flatten)]
    pub authorization: Authorization,
    /// The control plane.
    #[command(flatten)]
    pub control_plane: ControlPlane,
    /// The clusters.
    #[command(flatten)]
    pub members: Members,
    /// Parts that can be left out.
    #[command(flatten)]
    pub features: Features,
    /// What is recorded of requests.
    #[command(flatten)]
    pub audit: Audit,
    /// What this program says of itself.
    #[command(flatten)]
    pub insight: Insight,
    /// The log.
    #[command(flatten)]
    pub logging: Logging,
    /// The cache on disk.
    #[command(flatten)]
    pub kept_cache: KeptCache,
    /// The index that queries are answered from.
    #[command(flatten)]
    pub search_index: SearchIndex,
    /// Backends that registries send objects to.
    #[command(flatten)]
    pub backends: Backends,
    /// What only this program has.
    #[command(flatten)]
    pub own: Own,
    /// Filled in when all other fields have been read.
    #[arg(skip)]
    pub(super) given: Given,
}

/// Address and certificates.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Serving")]
pub struct Serving {
    /// Address to listen on; on loopback by default when there is no control plane
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port to listen on; 7443 by default when there is no control plane
    #[arg(long, default_value_t = 443)]
    pub secure_port: u16,
    /// Serving certificate, PEM, leaf first; self-signed if there is none
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// The serving certificate's key, PEM
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Folder for a self-signed certificate
    #[arg(long, default_value = "apiserver.local.config/certificates")]
    pub cert_dir: PathBuf,
    /// A further certificate for clients that ask for its names: CERT,KEY or CERT,KEY:NAME,NAME; repeatable
    #[arg(long)]
    pub tls_sni_cert_key: Vec<SniCertificate>,
    /// Oldest TLS version: VersionTLS12 or VersionTLS13
    #[arg(long)]
    tls_min_version: Option<MinTlsVersion>,
    /// Cipher suites for TLS 1.2, by the names of IANA; all that are safe by default
    #[arg(long, value_delimiter = ',')]
    pub tls_cipher_suites: Vec<CipherSuite>,
    /// Curves for the key exchange in the order of preference, by the numbers of IANA; all that are safe by default
    #[arg(long, value_delimiter = ',')]
    pub tls_curve_preferences: Vec<Curve>,
    /// Speak HTTP/1.1 only
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          value_parser = values::boolean, action = clap::ArgAction::Set)]
    pub disable_http2_serving: bool,
    /// Most requests at once on one HTTP/2 connection; 0 for a fitting number
    #[arg(long, default_value_t = 0)]
    pub http2_max_streams_per_connection: u32,
    /// How long to go on serving after readyz says no
    #[arg(long, default_value = "0s", value_parser = values::duration)]
    pub shutdown_delay_duration: Duration,
    /// Once it stops, go on listening until requests under way are answered, and tell new ones to come again later
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          value_parser = values::boolean, action = clap::ArgAction::Set)]
    pub shutdown_send_retry_after: bool,
    /// How long watches have to end when it stops
    #[arg(long, default_value = "0s", value_parser = values::duration)]
    pub shutdown_watch_termination_grace_period: Duration,
}

impl Serving {
    /// The oldest TLS version that is spoken.
    pub fn min_tls_version(&self) -> MinTlsVersion {
        self.tls_min_version.unwrap_or_default()
    }
}

/// How much at once, and for how long.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Most reads at once, watches not counted; 0 for any number
    #[arg(long, default_value_t = 400)]
    pub max_requests_inflight: usize,
    /// Most writes at once; 0 for any number
    #[arg(long, default_value_t = 200)]
    pub max_mutating_requests_inflight: usize,
    /// Longest time for a request that is no watch
    #[arg(long, default_value = "1m0s", value_parser = values::duration)]
    pub request_timeout: Duration,
    /// Seconds that a watch lasts at least if it doesn't say; at most twice as many
    #[arg(long, default_value_t = 1800)]
    pub min_request_timeout: u32,
}

/// Where registries are stored.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Storage")]
pub struct Etcd {
    /// URLs of etcd, separated by commas; without any, registries are stored under --data-dir
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// Where the keys begin
    #[arg(long, default_value = "/registry")]
    pub etcd_prefix: String,
    /// The authority of etcd's certificates
    #[arg(long)]
    pub etcd_cafile: Option<PathBuf>,
    /// The certificate to show to etcd
    #[arg(long, requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// How long etcd may take to answer in health endpoints
    #[arg(long, default_value = "2s", value_parser = values::duration)]
    pub etcd_healthcheck_timeout: Duration,
    /// How long etcd may take to answer in readyz
    #[arg(long, default_value = "2s", value_parser = values::duration)]
    pub etcd_readycheck_timeout: Duration,
    /// EncryptionConfiguration with the keys that registries are encrypted with
    #[arg(long)]
    pub encryption_provider_config: Option<PathBuf>,
    /// Read that file again when it changes
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          value_parser = values::boolean, action = clap::ArgAction::Set)]
    pub encryption_provider_config_automatic_reload: bool,
}

/// Who callers are.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Authentication")]
pub struct Authentication {
    /// Kubeconfig of the server that reviews tokens and holds the front proxy's settings
    #[arg(long)]
    pub authentication_kubeconfig: Option<PathBuf>,
    /// Don't read the front proxy's settings from that server
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          value_parser = values::boolean, action = clap::ArgAction::Set)]
    pub authentication_skip_lookup: bool,
    /// Start even if they cannot be read
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          value_parser = values::boolean, action = clap::ArgAction::Set)]
    pub authentication_tolerate_lookup_failure: bool,
    /// How long a token's review is kept
    #[arg(long, default_value = "10s", value_parser = values::duration)]
    pub authentication_token_webhook_cache_ttl: Duration,
    /// The authority of client certificates
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// The authority of front proxies
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names that a front proxy may have; without any, each that the authority signed
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers with the user's name
    #[arg(long, value_delimiter = ',', default_value = "x-remote-user")]
    pub requestheader_username_headers: Vec<String>,
    /// Headers with the user's groups
    #[arg(long, value_delimiter = ',', default_value = "x-remote-group")]
    pub requestheader_group_headers: Vec<String>,
    /// Headers with the user's unique id
    #[arg(long, value_delimiter = ',')]
    pub requestheader_uid_headers: Vec<String>,
    /// Prefixes of headers with more about the user
    #[arg(long, value_delimiter = ',', default_value = "x-remote-extra-")]
    pub requestheader_extra_headers_prefix: Vec<String>,
}

/// What callers may do.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Authorization")]
pub struct Authorization {
    /// Kubeconfig of the server that reviews access
    #[arg(long)]
    pub authorization_kubeconfig: Option<PathBuf>,
    /// Paths that anybody may read
    #[arg(long, value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    pub authorization_always_allow_paths: Vec<String>,
    /// How long a yes is kept
    #[arg(long, default_value = "10s", value_parser = values::duration)]
    pub authorization_webhook_cache_authorized_ttl: Duration,
    /// How long a no is kept
    #[arg(long, default_value = "10s", value_parser = values::duration)]
    pub authorization_webhook_cache_unauthorized_ttl: Duration,
}

/// The control plane.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Control plane")]
pub struct ControlPlane {
    /// Kubeconfig of the Karmada control plane, without it the one of the pod; if no cluster comes from Karmada, the
    /// kubeconfig with the contexts that --members names
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Requests a second to the control plane
    #[arg(long, default_value_t = 40.0, value_parser = super::values::requests_a_second)]
    pub kube_api_qps: f32,
    /// Requests at once to the control plane
    #[arg(long, default_value_t = 60)]
    pub kube_api_burst: u32,
}

/// The clusters.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Clusters")]
pub struct Members {
    /// Where clusters come from: karmada (the default), contexts:A,B (of your kubeconfig) or snapshot:DIR; repeatable
    #[arg(long = "members", value_name = "SOURCE")]
    given_sources: Vec<MemberSource>,
    /// Requests a second to each cluster
    #[arg(long, default_value_t = 40.0, value_parser = super::values::requests_a_second)]
    pub cluster_api_qps: f32,
    /// Requests at once to each cluster
    #[arg(long, default_value_t = 60)]
    pub cluster_api_burst: u32,
}

impl Members {
    /// Where clusters come from, in the order of the flags; never empty.
    pub fn sources(&self) -> &[MemberSource] {
        if self.given_sources.is_empty() { &[MemberSource::Karmada] } else { &self.given_sources }
    }

    /// Whether Karmada's Cluster objects are among the sources.
    pub fn from_karmada(&self) -> bool {
        self.sources().contains(&MemberSource::Karmada)
    }
}

/// Parts that can be left out.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Parts")]
pub struct Features {
    /// Leave out the search resource
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          value_parser = values::boolean, action = clap::ArgAction::Set)]
    pub disable_search: bool,
    /// Leave out the proxying resource
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          value_parser = values::boolean, action = clap::ArgAction::Set)]
    pub disable_proxy: bool,
    /// Switches, as Gate=true or component:Gate=false; WatchListClient says whether clusters are asked for streamed lists
    #[arg(long, value_delimiter = ',')]
    pub feature_gates: Vec<FeatureGate>,
}

impl Features {
    /// Whether a cluster that can stream its lists is asked to.
    pub fn streams_lists(&self) -> bool {
        let said = self.feature_gates.iter().rev().find(|gate| gate.name == "WatchListClient");
        said.is_none_or(|gate| gate.enabled)
    }

    /// Names of switches that switch nothing.
    pub fn gates_without_meaning(&self) -> impl Iterator<Item = &str> {
        self.feature_gates.iter().map(|gate| gate.name.as_str()).filter(|name| *name != "WatchListClient")
    }
}

/// What is recorded of requests.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Audit log")]
pub struct Audit {
    /// Policy that says what is recorded; without it, nothing is
    #[arg(long)]
    pub audit_policy_file: Option<PathBuf>,
    /// File for the records, - for standard output
    #[arg(long)]
    pub audit_log_path: Option<PathBuf>,
    /// How a record looks
    #[arg(long, value_enum, default_value = "json")]
    pub audit_log_format: AuditLogFormat,
    /// Whether requests wait for their record
    #[arg(long, value_enum, default_value = "blocking")]
    pub audit_log_mode: AuditLogMode,
    /// Records that may wait to be written
    #[arg(long, default_value_t = 10_000)]
    pub audit_log_batch_buffer_size: usize,
    /// Megabytes after which a new file is begun
    #[arg(long, default_value_t = 100)]
    pub audit_log_maxsize: u32,
    /// Old files that are kept, 0 for all
    #[arg(long, default_value_t = 100)]
    pub audit_log_maxbackup: u32,
    /// Days that old files are kept, 0 for ever
    #[arg(long, default_value_t = 366)]
    pub audit_log_maxage: u32,
    /// Compress old files
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          value_parser = values::boolean, action = clap::ArgAction::Set)]
    pub audit_log_compress: bool,
    /// Leave bodies out of records that are too large
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          value_parser = values::boolean, action = clap::ArgAction::Set)]
    pub audit_log_truncate_enabled: bool,
    /// From how many bytes on a record is too large
    #[arg(long, default_value_t = 102_400)]
    pub audit_log_truncate_max_event_size: usize,
}

/// What this program says of itself.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Traces and profiles")]
pub struct Insight {
    /// Collector that spans of requests are sent to over gRPC, as http://127.0.0.1:4317; without it, none are made
    #[arg(long)]
    pub otlp_endpoint: Option<String>,
    /// Listen for requests of profiles, in plain HTTP
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          value_parser = values::boolean, action = clap::ArgAction::Set)]
    pub enable_pprof: bool,
    /// Where to listen for them
    #[arg(long, default_value = ":6060", value_parser = values::listen_address)]
    pub profiling_bind_address: SocketAddr,
}

/// The log.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Log")]
pub struct Logging {
    /// How lines look
    #[arg(long = "logging-format", value_enum, default_value = "text")]
    pub format: LogFormat,
    /// How much is said; 4 and more is for finding faults
    #[arg(short = 'v', long = "v", default_value_t = 0)]
    pub verbosity: u32,
}

/// Where a restart finds the cache as it was.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cache")]
pub struct KeptCache {
    /// Whether the cache is kept on disk, so that a restart goes on from it
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true",
          value_parser = values::boolean, action = clap::ArgAction::Set)]
    pub keep_cache: bool,
    /// Folder for it; by default in the data folder, or with etcd none
    #[arg(long)]
    pub cache_dir: Option<PathBuf>,
}

/// The index that queries are answered from.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Search index")]
pub struct SearchIndex {
    /// Whether there is one; without it, queries look at each object
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true",
          value_parser = values::boolean, action = clap::ArgAction::Set)]
    pub search_index: bool,
    /// Folder for it; by default in the data folder, or with etcd one of its own that is gone with the process
    #[arg(long)]
    pub search_index_dir: Option<PathBuf>,
    /// Bytes of memory for what is not written to it yet, as 64Mi
    #[arg(long, default_value = "64Mi", value_parser = values::bytes)]
    pub search_index_memory: u64,
    /// Bytes that it may take on the disk, 0 for no limit; above, there is none
    #[arg(long, default_value = "0", value_parser = values::bytes)]
    pub search_index_disk: u64,
}

/// Where registries with `spec.backendStore` send their objects.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "OpenSearch")]
pub struct Backends {
    /// Beginning of all names of indices; servers of different control planes that share an OpenSearch need different ones
    #[arg(long, default_value = "fleetglass", value_parser = values::index_prefix)]
    pub opensearch_index_prefix: String,
    /// Whether credentials may go over http, where everybody on the way can read them
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          value_parser = values::boolean, action = clap::ArgAction::Set)]
    pub opensearch_plaintext_credentials: bool,
    /// Whether to write objects to kubernetes-KIND indices too, as karmada-search does, for dashboards made for it
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          value_parser = values::boolean, action = clap::ArgAction::Set)]
    pub opensearch_original_layout: bool,
    /// Where answers come from: a cache of all clusters, followed here; or OpenSearch, so that nothing is held here
    #[arg(long, value_enum, default_value = "cache")]
    pub store: Store,
    /// What queries are answered from, where a registry says nothing else: the index of this program; or OpenSearch, while that has
    /// all that is asked for
    #[arg(long, value_enum, default_value = "index")]
    pub search_backend: SearchBackend,
    /// With --store=backend, how many shards clusters are divided into, which servers share by Leases; 0 to follow none
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub shards: u32,
    /// Namespace of the control plane in which those Leases stand
    #[arg(long, default_value = "karmada-system")]
    pub shard_lease_namespace: String,
    /// File for documents that OpenSearch refuses, each with the reason; by default in the data folder, or with etcd none
    #[arg(long)]
    pub opensearch_dead_letters: Option<PathBuf>,
}

/// Where answers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Store {
    /// A cache of all clusters
    Cache,
    /// The backends that registries name
    Backend,
}

/// What queries are answered from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SearchBackend {
    /// The index of this program
    Index,
    /// The backend that registries name
    Opensearch,
}

/// What only this program has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Without a control plane")]
pub struct Own {
    /// Folder for registries and keys when there is no etcd or no control plane; a folder of the user by default
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Where to write a kubeconfig for this server; by default in the data folder
    #[arg(long)]
    write_kubeconfig: Option<PathBuf>,
}

impl Own {
    /// The folder for registries and keys.
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| default_data_dir(|name| std::env::var_os(name).map(PathBuf::from)))
    }

    /// Where a kubeconfig for this server is written if there is no control plane.
    pub fn kubeconfig_to_write(&self) -> PathBuf {
        self.write_kubeconfig.clone().unwrap_or_else(|| self.data_dir().join("kubeconfig"))
    }
}

/// Where the desktop's rules keep a program's data, else beside the working directory.
pub(super) fn default_data_dir(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map_or_else(|| PathBuf::from("fleetglass-data"), |data| data.join("fleetglass"))
}

impl ServeArgs {
    /// Whether there is no control plane: no cluster comes from Karmada, and no other server says who callers are.
    pub fn is_standalone(&self) -> bool {
        !self.members.from_karmada()
            && self.authentication.authentication_kubeconfig.is_none()
            && self.authorization.authorization_kubeconfig.is_none()
    }

    /// The kubeconfig with the contexts of `contexts:`, if not the one that kubectl would use. With Karmada,
    /// `--kubeconfig` is the control plane's; without, it can only mean this.
    pub fn contexts_kubeconfig(&self) -> Option<&Path> {
        self.control_plane.kubeconfig.as_deref().filter(|_| !self.members.from_karmada())
    }

    /// Where to listen: what the flags say; with no control plane and no flag, port 7443 on loopback.
    pub fn listen_address(&self) -> SocketAddr {
        let standalone = self.is_standalone();
        let address = if standalone && !self.given.contains("bind-address") {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            self.serving.bind_address
        };
        let port =
            if standalone && !self.given.contains("secure-port") { STANDALONE_PORT } else { self.serving.secure_port };
        SocketAddr::new(address, port)
    }

    /// The flags that were given and do nothing, to say so once.
    pub fn ignored_flags_given(&self) -> Vec<IgnoredFlag> {
        self.given.ignored()
    }

    /// Removes the empty words that `--flag=` and stray commas leave in lists.
    pub(super) fn drop_empty_words(&mut self) {
        let lists = [
            &mut self.etcd.etcd_servers,
            &mut self.authentication.requestheader_allowed_names,
            &mut self.authentication.requestheader_username_headers,
            &mut self.authentication.requestheader_group_headers,
            &mut self.authentication.requestheader_uid_headers,
            &mut self.authentication.requestheader_extra_headers_prefix,
            &mut self.authorization.authorization_always_allow_paths,
        ];
        for list in lists {
            list.iter_mut().for_each(|word| *word = word.trim().to_owned());
            list.retain(|word| !word.is_empty());
        }
    }
}
