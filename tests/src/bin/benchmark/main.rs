//! Measures Fleetglass: on real API servers, beside the API server it reads from, and over fleets of simulated members up to
//! two million pods. Prints the tables of aims with this run's figures, and writes them as JSON and as a page with plots.

mod fleet;
mod measure;
mod page;
mod real;
mod report;
mod storm;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use tests::api_server::ADMIN_TOKEN;
use tests::fleetglass;

use fleet::Size;
use report::Results;

/// Pods of each simulated cluster.
const PODS_OF_CLUSTER: usize = 2000;

/// What is measured.
#[derive(Debug, Parser)]
struct Arguments {
    /// Pods in one member that is a real API server; several sizes by commas, none by an empty value
    #[arg(long, value_delimiter = ',', default_value = "10000,50000", value_parser = size)]
    real: Vec<usize>,
    /// Pods in simulated clusters of 2,000 pods each; several sizes by commas, none by an empty value
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000,2000000", value_parser = size)]
    simulated: Vec<usize>,
    /// Simulated clusters whose ten kinds are watched while nothing happens and while one floods, 0 for none
    #[arg(long, default_value_t = 1000)]
    storm: usize,
    /// Where to write the figures as JSON
    #[arg(long, default_value = "target/benchmark/results.json")]
    output: PathBuf,
    /// Where to write the page with the plots
    #[arg(long, default_value = "target/benchmark/results.html")]
    page: PathBuf,
    /// Make the page of figures that were written before, and measure nothing
    #[arg(long)]
    only_page: bool,
    #[command(flatten)]
    other: Other,
}

/// Another server that answers the same paths.
#[derive(Debug, clap::Args)]
struct Other {
    /// Measure this server's reads too: the URL below which it answers API paths
    #[arg(long, requires = "pid")]
    url: Option<String>,
    /// Process of the server at --url
    #[arg(long)]
    pid: Option<u32>,
    /// Bearer token for the server at --url
    #[arg(long, default_value = ADMIN_TOKEN)]
    token: String,
    /// PEM file of the authority of the server at --url
    #[arg(long, requires = "url")]
    ca: Option<PathBuf>,
}

/// A number of pods; 0 for an empty value.
fn size(text: &str) -> Result<usize, std::num::ParseIntError> {
    if text.is_empty() { Ok(0) } else { text.parse() }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let results = if arguments.only_page {
        let text = std::fs::read_to_string(&arguments.output).context("no figures were written before")?;
        serde_json::from_str(&text)?
    } else {
        tracing::info!("building the program");
        fleetglass::program_of_users()?;
        let results = measured(&arguments).await?;
        write(&arguments.output, &serde_json::to_string_pretty(&results)?)?;
        results
    };
    results.print()?;
    write(&arguments.page, &page::page(&results))
}

fn write(path: &PathBuf, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text)?;
    tracing::info!("wrote {}", path.display());
    Ok(())
}

async fn measured(arguments: &Arguments) -> Result<Results> {
    let mut results = Results::new();
    for pods in arguments.real.iter().copied().filter(|pods| *pods > 0) {
        tracing::info!("{pods} pods in a real API server");
        results.real.push(real::measure(pods, &arguments.other).await?);
    }
    for pods in arguments.simulated.iter().copied().filter(|pods| *pods > 0) {
        let size = Size { clusters: pods.div_ceil(PODS_OF_CLUSTER), pods };
        tracing::info!("{pods} pods in {} simulated clusters", size.clusters);
        results.fleets.push(fleet::measure(size).await?);
        // What is measured next may fail; this must not be lost.
        write(&arguments.output, &serde_json::to_string_pretty(&results)?)?;
    }
    if arguments.storm > 0 {
        tracing::info!("ten watches on each of {} simulated clusters", arguments.storm);
        results.storm = Some(storm::measure(arguments.storm).await?);
    }
    Ok(results)
}
