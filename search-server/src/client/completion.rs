//! Completion of queries: names of fields and their values, as the server knows them.
//!
//! A shell asks while somebody types, so the server has little time to answer; what it doesn't tell in time isn't offered.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap_complete::CompletionCandidate;
use indexer::query::{Expression, Field, Test, parse, parse_field};
use serde_json::Value;

use super::server::Server;
use crate::args::Connection;

/// How long somebody waits for a completion.
const PATIENCE: Duration = Duration::from_secs(2);
/// Values or names offered.
const MOST: &str = "50";

/// What the last word of a query may become; the words before it stay.
pub(crate) fn query(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(text) = current.to_str() else { return Vec::new() };
    // A quote that is not closed yet belongs to the shell.
    let text = text.trim_start_matches(['\'', '"']);
    let from = text.rfind(|character: char| character.is_whitespace() || character == '(').map_or(0, |at| at + 1);
    let (before, word) = text.split_at(from);
    let (negation, word) = word.strip_prefix('-').map_or(("", word), |word| ("-", word));
    let offered = match word.split_once(':') {
        Some((field, beginning)) => values(field, beginning),
        None => names(word),
    };
    offered.into_iter().map(|offered| CompletionCandidate::new(format!("{before}{negation}{offered}"))).collect()
}

/// What a field's name, or the last of several, may become.
pub(crate) fn fields(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(text) = current.to_str() else { return Vec::new() };
    let from = text.rfind(',').map_or(0, |at| at + 1);
    let (before, word) = text.split_at(from);
    let (sign, word) = word.strip_prefix('-').map_or(("", word), |word| ("-", word));
    let names = names(word).into_iter().map(|name| name.trim_end_matches(':').to_owned());
    names.map(|name| CompletionCandidate::new(format!("{before}{sign}{name}"))).collect()
}

/// Clusters, the last of several.
pub(crate) fn clusters(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(text) = current.to_str() else { return Vec::new() };
    let from = text.rfind(',').map_or(0, |at| at + 1);
    let (before, word) = text.split_at(from);
    let found = counted(&Field::Cluster, word).into_iter();
    found.map(|cluster| CompletionCandidate::new(format!("{before}{cluster}"))).collect()
}

fn names(beginning: &str) -> Vec<String> {
    let names = asked("fields", &[("prefix", beginning), ("limit", MOST)]);
    let Some(names) = names else {
        let own = Field::named().filter(|name| name.starts_with(beginning));
        return own.map(|name| format!("{name}:")).collect();
    };
    let names = names["items"].as_array().into_iter().flatten().filter_map(|item| item["name"].as_str());
    names.filter(|name| is_harmless(name)).map(|name| format!("{name}:")).collect()
}

fn values(field: &str, beginning: &str) -> Vec<String> {
    let Ok(known) = parse_field(field) else { return Vec::new() };
    let values = counted(&known, beginning).into_iter();
    values.map(|value| written(field, &known, &value)).collect()
}

/// Values of a field that begin so, the most frequent first.
fn counted(field: &Field, beginning: &str) -> Vec<String> {
    let name = field.to_string();
    let query = if beginning.is_empty() { format!("{name}:*") } else { format!("{name}:{beginning}*") };
    let counted = asked("facets", &[("q", &query), ("by", &name), ("limit", MOST)]);
    let values = counted.as_ref().and_then(|counted| counted["facets"][0]["values"].as_array());
    let values = values.into_iter().flatten().filter_map(|value| value["value"].as_str());
    values.filter(|value| value.starts_with(beginning) && is_harmless(value)).map(str::to_owned).collect()
}

/// A clause as people write it; with escapes only where it would be read as something else.
fn written(name: &str, field: &Field, value: &str) -> String {
    let plain = format!("{name}:{value}");
    let is_clear = matches!(parse(&plain), Ok(Expression::Field(clause))
        if clause.field == *field && clause.test == Test::Is(value.to_owned()));
    if is_clear { plain } else { format!("{name}:{}", Test::Is(value.to_owned())) }
}

/// What the server says; none if it doesn't, or not in time. On a thread of its own, which nobody waits for any longer: a name
/// that can't be resolved or a plugin that asks for a password must not hold the shell.
fn asked(what: &'static str, parameters: &[(&'static str, &str)]) -> Option<Value> {
    let parameters: Vec<(&'static str, String)> =
        parameters.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let connection = connection(std::env::args_os());
    let (answer, answered) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Only the first one of the process counts.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let parameters: Vec<(&str, &str)> = parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let asking = async { Server::find(&connection).await?.json(what, &parameters).await };
        // Who asked may have gone on already.
        answer.send(runtime.block_on(asking)).ok()
    });
    answered.recv_timeout(PATIENCE).ok()?.ok()
}

/// Whether a shell takes it as it is: what objects hold must not become commands.
fn is_harmless(text: &str) -> bool {
    text.chars().all(|character| character.is_alphanumeric() || "._/:@,+=%-\\".contains(character))
}

/// What the words typed so far say of the server.
fn connection(words: impl Iterator<Item = OsString>) -> Connection {
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let value = |flag: &str| {
        let behind = words.windows(2).find(|pair| pair[0] == flag).map(|pair| pair[1].clone());
        behind.or_else(|| words.iter().find_map(|word| Some(word.strip_prefix(flag)?.strip_prefix('=')?.to_owned())))
    };
    let file = value("--kubeconfig").map(|file| match (file.strip_prefix("~/"), std::env::var_os("HOME")) {
        // The shell has not read the word yet.
        (Some(below), Some(home)) => PathBuf::from(home).join(below),
        _ => PathBuf::from(file),
    });
    Connection { kubeconfig: file, context: value("--context") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_the_one_that_the_words_before_name() {
        let words = ["fleetglass", "search", "--kubeconfig", "a/b", "--context=east", "ki"].map(str::to_owned);
        let found = connection(words.into_iter().map(OsString::from));
        assert_eq!((found.kubeconfig.unwrap().to_str(), found.context.as_deref()), (Some("a/b"), Some("east")));
    }

    #[test]
    fn what_a_shell_would_obey_is_not_offered() {
        assert!(is_harmless("registry.example/app:1.2") && is_harmless("a\\-b"));
        for text in ["x;reboot", "$(id)", "a b", "a|b", "`id`", "a\nb", "a'b", "a&b", "\u{1b}[2J"] {
            assert!(!is_harmless(text), "{text}");
        }
    }

    #[test]
    fn values_are_escaped_only_where_they_would_be_read_otherwise() {
        assert_eq!(written("cluster", &Field::Cluster, "pegasus-2"), "cluster:pegasus-2");
        assert_eq!(written("image", &Field::Image, "a/b:1.2"), "image:a/b:1.2");
        assert_eq!(written("name", &Field::Name, "what is it?"), "name:what\\ is\\ it\\?");
    }
}
