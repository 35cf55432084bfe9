//! The fleetglass program: an allocator that gives memory back, and the command line.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    search_server::run::run(search_server::args::Cli::from_process())
}
