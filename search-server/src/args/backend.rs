//! Flags of `fleetglass backend` and `fleetglass dashboards`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Connection, values};

/// What to do with a backend.
#[derive(Debug, Subcommand)]
pub enum BackendCommand {
    /// Tell what is wrong with an OpenSearch that registries send to; ends with 0 if nothing is, 1 if something is, 2 on trouble
    Check(CheckArgs),
    /// Send refused documents once more, out of their log; ends with 0 if all were taken, 1 if not, 2 on trouble
    Replay(ReplayArgs),
}

/// Which log, and where to.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The log, as the server's --opensearch-dead-letters names it
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// Which backend.
    #[command(flatten)]
    pub backend: CheckArgs,
}

/// Which backend: by its addresses, or as a registry names it.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// URLs of its nodes
    #[arg(value_name = "URL", required_unless_present = "registry", conflicts_with = "registry")]
    pub addresses: Vec<String>,
    /// Take addresses and Secret of this ResourceRegistry, and tell how the server that writes there sees it
    #[arg(long, value_name = "NAME")]
    pub registry: Option<String>,
    /// Who to log in as
    #[arg(long, value_name = "NAME", requires = "password_file", conflicts_with = "registry")]
    pub user: Option<String>,
    /// File with the user's password
    #[arg(long, value_name = "FILE", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// File with a token to log in with
    #[arg(long, value_name = "FILE", conflicts_with_all = ["registry", "user"])]
    pub token_file: Option<PathBuf>,
    /// File with authorities that sign the nodes' certificates, PEM
    #[arg(long, value_name = "FILE", conflicts_with = "registry")]
    pub ca: Option<PathBuf>,
    /// Name that the nodes' certificates bear, if it isn't that of their URLs
    #[arg(long, value_name = "NAME", conflicts_with = "registry")]
    pub tls_server_name: Option<String>,
    /// Send credentials over http, where everybody on the way can read them
    #[arg(long)]
    pub opensearch_plaintext_credentials: bool,
    /// Beginning of all names of indices, as the server has it
    #[arg(long, value_name = "NAME", default_value = "fleetglass", value_parser = values::index_prefix)]
    pub index_prefix: String,
    /// Where registries are.
    #[command(flatten)]
    pub connection: Connection,
}

/// Boards for OpenSearch Dashboards.
#[derive(Debug, Args)]
pub struct DashboardsArgs {
    /// Import them into the Dashboards at this URL; without it, they are printed as a file to be imported
    #[arg(long, value_name = "URL")]
    pub import: Option<String>,
    /// Keep objects that are there already instead of replacing them
    #[arg(long, requires = "import")]
    pub keep: bool,
    /// Beginning of all names of indices, as the server has it
    #[arg(long, value_name = "NAME", default_value = "fleetglass", value_parser = values::index_prefix)]
    pub index_prefix: String,
    /// Who to log in as
    #[arg(long, value_name = "NAME", requires_all = ["import", "password_file"])]
    pub user: Option<String>,
    /// File with the user's password
    #[arg(long, value_name = "FILE", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// Send credentials over http, where everybody on the way can read them
    #[arg(long, requires = "user")]
    pub opensearch_plaintext_credentials: bool,
    /// Tenant of Dashboards to import into
    #[arg(long, value_name = "NAME", requires = "import")]
    pub tenant: Option<String>,
    /// File with authorities that sign Dashboards' certificate, PEM
    #[arg(long, value_name = "FILE", requires = "import")]
    pub ca: Option<PathBuf>,
}
