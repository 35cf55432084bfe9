//! `fleetglass search`, `diff` and `backend check`: ask a running server and show the answer, for people on a terminal and for
//! programs behind a pipe.
//!
//! The server is reached like any Kubernetes API server, by a kubeconfig: directly, or through the control plane it is part of.

mod backend;
pub(crate) mod completion;
mod differences;
mod explain;
mod pages;
mod server;
mod tables;
mod watch;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use indexer::query::{QueryError, parse};

use crate::args::{CheckArgs, DiffArgs, Output, ReplayArgs, SearchArgs};
use pages::{list, name_of, pages};
use server::{PAGE, Server};
use tables::{count, facets, table};

/// What was asked could not be asked.
const TROUBLE: u8 = 2;

/// Asks, shows, and says by its exit code whether something was found.
pub(crate) async fn search(args: SearchArgs) -> ExitCode {
    exit_code(ask(&args, &mut std::io::stdout()).await)
}

/// Compares clusters, and says by its exit code whether they are alike.
pub(crate) async fn diff(args: DiffArgs) -> ExitCode {
    exit_code(differences::show(&args, &mut std::io::stdout()).await.map(|differ| !differ))
}

/// Looks a backend over, and says by its exit code whether something is wrong with it.
pub(crate) async fn check_backend(args: CheckArgs) -> ExitCode {
    exit_code(backend::check_backend(&args, &mut std::io::stdout()).await)
}

/// Sends refused documents once more, and says by its exit code whether all were taken.
pub(crate) async fn replay(args: ReplayArgs) -> ExitCode {
    exit_code(backend::replay(&args, &mut std::io::stdout()).await)
}

/// Success if it came to what was hoped for.
fn exit_code(outcome: anyhow::Result<bool>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => in_trouble(&error),
    }
}

fn in_trouble(error: &anyhow::Error) -> ExitCode {
    // Who reads no further has seen enough.
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    // Standard error may be closed; there is nobody left to tell then.
    let _ = writeln!(std::io::stderr(), "fleetglass: {error:#}");
    ExitCode::from(TROUBLE)
}

/// Whether nobody reads what is written.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe)
}

/// Whether something was found.
async fn ask(args: &SearchArgs, output: &mut (impl Write + IsTerminal)) -> Result<bool> {
    check(&args.query())?;
    let shows_objects = args.by.is_none() && !args.count && args.explain.is_none() && !args.watch;
    let is_list = shows_objects && matches!(args.output, Output::Json | Output::Yaml);
    if is_list && !(1..=PAGE).contains(&args.limit) {
        bail!("a list has one page, of {PAGE} objects at most; take -o table, ndjson, csv or name for more");
    }
    let server = Server::find(&args.connection).await?;
    let found = show(&server, args, output).await?;
    server.check_complete()?;
    Ok(found)
}

/// Shows what was asked for; whether something was found.
async fn show(server: &Server, args: &SearchArgs, output: &mut (impl Write + IsTerminal)) -> Result<bool> {
    if let Some(of) = &args.explain {
        return explain::show(server, args, of, output).await;
    }
    if args.watch {
        return watch::follow(server, args, output).await;
    }
    if let Some(by) = &args.by {
        return facets(server, args, by, output).await;
    }
    if args.count {
        return count(server, args, output).await;
    }
    match args.output {
        Output::Table | Output::Wide => table(server, args, output).await,
        Output::Name => pages(server, args, "ndjson", output, name_of).await,
        Output::Ndjson => pages(server, args, "ndjson", output, |line| Some(line.to_owned())).await,
        Output::Csv => pages(server, args, "csv", output, |line| Some(line.to_owned())).await,
        Output::Json => list(server, args, "json", output).await,
        Output::Yaml => list(server, args, "yaml", output).await,
    }
}

/// Finds mistakes before the server is asked.
fn check(query: &str) -> Result<()> {
    parse(query).map(drop).map_err(|error| anyhow!("{}", pointed_out(query, &error)))
}

/// The query with a mark below the character that is wrong.
fn pointed_out(query: &str, error: &QueryError) -> String {
    let before: String = query.chars().take(error.character.saturating_sub(1)).map(|_| ' ').collect();
    format!("{error}\n  {query}\n  {before}^")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_marked_below_its_character() {
        let query = "kind:Pod namspace:shop";
        let shown = pointed_out(query, &parse(query).unwrap_err());
        assert!(shown.ends_with("\n  kind:Pod namspace:shop\n           ^"), "{shown}");
    }
}
