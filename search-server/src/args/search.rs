//! Flags of `fleetglass search`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Ask a running server. Exits with 0 if something was found, 1 if nothing was, 2 if it could not be asked.
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// What to look for, as 'image:*nginx* spec.replicas:<2'; everything if empty. Quote it if it begins with -
    #[arg(value_name = "QUERY")]
    pub query: Vec<String>,
    /// How the answer looks
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// Only these clusters, separated by commas
    #[arg(long, value_name = "NAMES")]
    pub cluster: Option<String>,
    /// Fields to sort by, separated by commas; - before a name for the largest first
    #[arg(long, value_name = "FIELDS")]
    pub order_by: Option<String>,
    /// Objects at most, 0 for all
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
    /// Show these fields, separated by commas; without it, those that the query names
    #[arg(long, value_name = "FIELDS")]
    pub fields: Option<String>,
    /// Count objects by these fields instead of showing them, separated by commas
    #[arg(long, value_name = "FIELDS", conflicts_with_all = ["fields", "order_by"])]
    pub by: Option<String>,
    /// Only say how many there are
    #[arg(long, conflicts_with_all = ["fields", "order_by", "by"])]
    pub count: bool,
    /// Leave the head of a table out
    #[arg(long)]
    pub no_headers: bool,
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
