//! Flags of `fleetglass search` and `fleetglass diff`.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

use crate::client::completion;

/// Ask a running server. Exits with 0 if something was found, 1 if nothing was, 2 if it could not be asked.
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// What to look for, as 'image:*nginx* spec.replicas:<2'; everything if empty. Write -- before it if it begins with -
    #[arg(value_name = "QUERY", add = ArgValueCompleter::new(completion::query))]
    pub query: Vec<String>,
    /// How the answer looks
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// Only these clusters, separated by commas
    #[arg(long, value_name = "NAMES", value_parser = NonEmptyStringValueParser::new(), add = ArgValueCompleter::new(completion::clusters))]
    pub cluster: Option<String>,
    /// Fields to sort by, separated by commas; - before a name for the largest first
    #[arg(long, value_name = "FIELDS", value_parser = NonEmptyStringValueParser::new(), add = ArgValueCompleter::new(completion::fields))]
    pub order_by: Option<String>,
    /// Objects at most, 0 for all
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
    /// Show these fields, separated by commas; without it, those that the query names
    #[arg(long, value_name = "FIELDS", value_parser = NonEmptyStringValueParser::new(), add = ArgValueCompleter::new(completion::fields))]
    pub fields: Option<String>,
    /// Count objects by these fields instead of showing them, separated by commas
    #[arg(
        long,
        value_name = "FIELDS",
        conflicts_with_all = ["fields", "order_by"],
        add = ArgValueCompleter::new(completion::fields)
    )]
    pub by: Option<String>,
    /// Only say how many there are
    #[arg(long, conflicts_with_all = ["fields", "order_by", "by"])]
    pub count: bool,
    /// Show what is found, then how that changes; without a limit
    #[arg(short, long, conflicts_with_all = ["order_by", "by", "count", "explain", "limit"])]
    pub watch: bool,
    /// Say how many objects each part of the query takes, or of one object why it is found or not: =CLUSTER/NAMESPACE/KIND/NAME
    #[arg(
        long,
        value_name = "OBJECT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        conflicts_with_all = ["fields", "order_by", "by", "count"]
    )]
    pub explain: Option<String>,
    /// Leave the head of a table out
    #[arg(long)]
    pub no_headers: bool,
    /// Who is asked.
    #[command(flatten)]
    pub connection: Connection,
}

/// Compare clusters. Exits with 0 if they are alike, 1 if they differ, 2 if they could not be compared.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Which objects, as 'kind:Deployment namespace:shop'; all that no controller made if empty. What Secrets keep is not compared
    #[arg(value_name = "QUERY", add = ArgValueCompleter::new(completion::query))]
    pub query: Vec<String>,
    /// The clusters to compare, separated by commas; all of them without it
    #[arg(long, value_name = "NAMES", value_parser = NonEmptyStringValueParser::new(), add = ArgValueCompleter::new(completion::clusters))]
    pub cluster: Option<String>,
    /// Only objects that some cluster lacks, or only those of which fields differ
    #[arg(long, value_enum)]
    pub only: Option<Only>,
    /// Objects at most, 0 for all
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Who is asked.
    #[command(flatten)]
    pub connection: Connection,
}

/// Which differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Only {
    /// Objects that some cluster lacks
    Missing,
    /// Objects of which fields differ
    Changed,
}

impl Only {
    /// As the server's parameter has it.
    pub fn parameter(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Changed => "changed",
        }
    }
}

/// Where the server is.
#[derive(Debug, Args)]
pub struct Connection {
    /// Kubeconfig of the server or of the control plane it is part of; by default kubectl's, else that of a server of yours
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// How an answer looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Aligned columns
    Table,
    /// Aligned columns, with images, owners and the time of the last change
    Wide,
    /// A list of whole objects
    Json,
    /// A list of whole objects
    Yaml,
    /// An object a line
    Ndjson,
    /// Rows for a spreadsheet
    Csv,
    /// Cluster, namespace, kind and name of each
    Name,
}

impl SearchArgs {
    /// The whole query.
    pub fn query(&self) -> String {
        self.query.join(" ")
    }
}

impl DiffArgs {
    /// The whole query.
    pub fn query(&self) -> String {
        self.query.join(" ")
    }
}
