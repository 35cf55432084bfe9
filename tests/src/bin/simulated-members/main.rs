//! Stands for many member clusters at once, with objects made from a seed: lists, watches, and on demand what sick members do.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use tests::simulated::{Members, Settings, measure};

/// Many small allocations in many threads.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Stands for many member clusters at once.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    settings: Settings,
    /// Port on 127.0.0.1; 0 for a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Where to write the kubeconfig with a context for each cluster
    #[arg(long, required_unless_present = "measure")]
    folder: Option<PathBuf>,
    /// Only say how fast pods are made
    #[arg(long)]
    measure: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut output = std::io::stdout();
    if arguments.measure {
        let (pods, bytes) = measure(&arguments.settings)?;
        writeln!(output, "{pods:.0} pods/s, {:.0} MB/s in one thread", bytes / 1e6)?;
        return Ok(());
    }
    let folder = arguments.folder.context("--folder is missing")?;
    std::fs::create_dir_all(&folder)?;
    let members = Members::open(&arguments.settings, arguments.port, &folder).await?;
    let (clusters, address) = (arguments.settings.clusters, members.address()?);
    writeln!(output, "{clusters} clusters at https://{address}, in {}", folder.join("kubeconfig").display())?;
    output.flush()?;
    members.serve().await;
    Ok(())
}
