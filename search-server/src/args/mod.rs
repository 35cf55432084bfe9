//! What the program is told when it starts: subcommands and flags.
//!
//! In: the words of a command line, and the name the program was called by. Out: [`Cli`], read and checked, or clap's
//! error, which names the word that is wrong. Nothing in here acts on what it reads.
//!
//! Called `karmada-search`, the program takes the flags of `fleetglass serve` without that word, as the program it
//! replaces does. Flags may be spelt with underscores, as Kubernetes programs allow.

mod accepted;
mod backend;
mod search;
mod serve;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use accepted::Given;
pub use accepted::IgnoredFlag;
pub use backend::{BackendCommand, CheckArgs, DashboardsArgs, ReplayArgs};
pub use clap_complete::Shell;
use clap_complete::env::{CompleteEnv, Shells};
pub use search::{Connection, DiffArgs, Only, Output, SearchArgs};
pub use serve::{
    Audit, Authentication, Authorization, ControlPlane, Etcd, Features, Insight, Limits, Logging, Members, Own,
    SearchBackend, ServeArgs, Serving, Store,
};
pub use values::{
    AuditLogFormat, AuditLogMode, CipherSuite, Curve, FeatureGate, LogFormat, MemberSource, MinTlsVersion,
    SniCertificate,
};

const PROGRAM: &str = "fleetglass";
/// The name under which the program takes the arguments of `serve` directly.
const DROP_IN_NAME: &str = "karmada-search";
/// The subcommands that the drop-in name knows beside its flags.
const DROP_IN_SUBCOMMANDS: [&str; 3] = ["completion", "help", "version"];

/// One lookout over every cluster: reads, watches and searches over many Kubernetes clusters as one API.
#[derive(Debug, Parser)]
#[command(
    name = "fleetglass",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    args_override_self = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the API over the clusters that flags name
    Serve(Box<ServeArgs>),
    /// Show it on two clusters that come along: nothing else is needed
    Demo(DemoArgs),
    /// Ask a running server for objects, and show them; ends with 0 if something was found, 1 if nothing was, 2 on trouble
    Search(SearchArgs),
    /// Compare clusters: objects that some lack, and fields that differ; ends with 0 if they are alike, 1 if not, 2 on trouble
    Diff(DiffArgs),
    /// Look after OpenSearch clusters that registries send to
    #[command(subcommand)]
    Backend(BackendCommand),
    /// Print boards for OpenSearch Dashboards, or import them
    Dashboards(DashboardsArgs),
    /// Print the version
    Version,
    /// Print a completion script for a shell; it asks the server for names of fields and for their values
    Completion {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page, of the program or of one of its commands
    Man {
        /// Which command
        command: Option<String>,
    },
}

/// Flags of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Where registries and keys are kept; without it, in a temporary folder that is removed at the end
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
}

impl Cli {
    /// Reads the command line of this process. Ends the process if it asks for help or cannot be understood, and once a shell
    /// that asks for completions has them.
    pub fn from_process() -> Self {
        CompleteEnv::with_factory(command).complete();
        Self::from_words(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Reads a command line, the program's name first.
    ///
    /// # Errors
    /// If it asks for help or cannot be understood; the error's text is for the user.
    pub fn from_words<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Result<Self, clap::Error> {
        let mut command = command();
        let words = prepared(words.into_iter().map(Into::into).collect(), &command);
        let matches = command.try_get_matches_from_mut(words)?;
        let mut cli = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        if let Command::Serve(serve) = &mut cli.command {
            serve.given = matches.subcommand_matches("serve").map(Given::of).unwrap_or_default();
            serve.drop_empty_words();
        }
        Ok(cli)
    }
}

/// All that clap needs to know, the flags without effect included.
fn command() -> clap::Command {
    Cli::command().mut_subcommand("serve", |serve| serve.args(accepted::arguments()))
}

/// The kubeconfig that a server without a control plane writes if no flag says otherwise.
pub fn default_kubeconfig() -> PathBuf {
    serve::default_data_dir(|name| std::env::var_os(name).map(PathBuf::from)).join("kubeconfig")
}

/// Writes a shell's completion script, which asks the program itself what may follow.
///
/// # Errors
/// If it can't be written.
pub fn write_completion(shell: Shell, output: &mut dyn Write) -> std::io::Result<()> {
    let shells = Shells::builtins();
    let name = shell.to_string();
    let completer =
        shells.completer(&name).ok_or_else(|| std::io::Error::other(format!("no completion for {name}")))?;
    if shell == Shell::Bash {
        // Else the shell takes each side of a colon for a word of its own.
        writeln!(output, "COMP_WORDBREAKS=${{COMP_WORDBREAKS//:}}")?;
    }
    completer.write_registration("COMPLETE", PROGRAM, PROGRAM, PROGRAM, output)
}

/// Writes a manual page.
///
/// # Errors
/// If there is no such command, or the page can't be written.
pub fn write_manual(of: Option<&str>, output: &mut dyn Write) -> std::io::Result<()> {
    let mut program = command();
    program.build();
    let page = match of {
        None => program,
        Some(name) => {
            let command = program.get_subcommands().find(|command| command.get_name() == name);
            let command = command.ok_or_else(|| std::io::Error::other(format!("there is no command {name}")))?;
            command.clone().name(format!("{PROGRAM}-{name}"))
        }
    };
    clap_mangen::Man::new(page).render(output)
}

/// What `version` prints.
pub fn version_text() -> String {
    format!("fleetglass {} ({}/{})", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH)
}

/// The words as clap takes them: `serve` added under the drop-in name, hyphens for underscores, and empty values that mean
/// "not given" left out.
fn prepared(mut words: Vec<OsString>, command: &clap::Command) -> Vec<OsString> {
    let drop_in = words.first().is_some_and(|program| Path::new(program).file_stem() == Some(OsStr::new(DROP_IN_NAME)));
    let names_subcommand = words.get(1).is_some_and(|word| DROP_IN_SUBCOMMANDS.iter().any(|name| word == *name));
    if drop_in && !names_subcommand {
        words.insert(1, OsString::from("serve"));
    }
    let blankable = blankable(command);
    let mut flags_ended = false;
    words.retain_mut(|word| {
        flags_ended |= word == "--";
        if flags_ended {
            return true;
        }
        *word = hyphenated(word);
        !word.to_str().and_then(|word| word.strip_suffix('=')).is_some_and(|flag| blankable.contains(flag))
    });
    words
}

/// A flag's name with hyphens; its value, and what is no flag, as it is.
fn hyphenated(word: &OsStr) -> OsString {
    match word.to_str() {
        Some(text) if text.starts_with("--") => match text.split_once('=') {
            Some((flag, value)) => format!("{}={value}", flag.replace('_', "-")).into(),
            None => text.replace('_', "-").into(),
        },
        _ => word.to_owned(),
    }
}

/// The flags of `serve` for which an empty value says the same as no flag: those with no default.
fn blankable(command: &clap::Command) -> BTreeSet<String> {
    let flags = command.find_subcommand("serve").into_iter().flat_map(clap::Command::get_arguments);
    flags
        .filter(|flag| flag.get_default_values().is_empty())
        .filter_map(|flag| flag.get_long())
        .map(|name| format!("--{name}"))
        .collect()
}
