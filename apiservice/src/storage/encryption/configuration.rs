//! The file that `--encryption-provider-config` names: an `EncryptionConfiguration` of `apiserver.config.k8s.io/v1`.
//!
//! In: YAML. Out: the providers for ResourceRegistry objects in their order, the first of which writes. What this server
//! can't do (KMS) is refused, never passed over: a registry must not end up as plain text because of a misread file.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::cipher::{Algorithm, Key};

/// Why the file cannot be used; for the operator, at start.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionConfigError {
    /// It cannot be read.
    #[error("--encryption-provider-config {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It says what this server does not understand or cannot do.
    #[error("--encryption-provider-config {path}: {why}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        why: String,
    },
}

/// A way to store a value.
#[derive(Debug)]
pub(super) enum Provider {
    /// As it is.
    Identity,
    /// Encrypted; the first key writes, all read.
    Encrypted(Vec<Key>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    resources: Vec<Resources>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    resources: Vec<String>,
    providers: Vec<FileProvider>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileProvider {
    aescbc: Option<Keys>,
    aesgcm: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<serde::de::IgnoredAny>,
    kms: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<FileKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileKey {
    name: String,
    secret: String,
}

/// The names under which the file may speak of registries, as API servers read them.
const NAMES: [&str; 3] = ["resourceregistries.search.karmada.io", "*.search.karmada.io", "*.*"];

/// The providers for registries. None if the file does not speak of them: then nothing asked for encryption.
pub(super) fn read(text: &[u8]) -> Result<Option<Vec<Provider>>, String> {
    let file: File = serde_yaml::from_slice(text).map_err(|error| error.to_string())?;
    if file.kind != "EncryptionConfiguration" || !file.api_version.starts_with("apiserver.config.k8s.io/") {
        let (kind, version) = (file.kind, file.api_version);
        return Err(format!("is a {kind} of {version}, not an EncryptionConfiguration of apiserver.config.k8s.io/v1"));
    }
    let ours = |entry: &&Resources| entry.resources.iter().any(|name| NAMES.contains(&name.as_str()));
    let Some(entry) = file.resources.iter().find(ours) else { return Ok(None) };
    if entry.providers.is_empty() {
        return Err(format!("resources {:?} have no providers", entry.resources));
    }
    entry.providers.iter().enumerate().map(|(at, given)| provider(given, at)).collect::<Result<_, _>>().map(Some)
}

fn provider(given: &FileProvider, at: usize) -> Result<Provider, String> {
    let encrypted = [
        (Algorithm::AesCbc, &given.aescbc),
        (Algorithm::AesGcm, &given.aesgcm),
        (Algorithm::Secretbox, &given.secretbox),
    ];
    let mut found = Vec::new();
    for (algorithm, keys) in encrypted {
        if let Some(keys) = keys {
            found.push(Provider::Encrypted(read_keys(algorithm, &keys.keys, at)?));
        }
    }
    if given.identity.is_some() {
        found.push(Provider::Identity);
    }
    if given.kms.is_some() {
        return Err(format!(
            "providers[{at}]: kms is not supported here; use secretbox, aesgcm or aescbc with keys in the file"
        ));
    }
    match found.len() {
        1 => found.pop().ok_or_else(String::new),
        0 => Err(format!("providers[{at}] names none of aescbc, aesgcm, secretbox and identity")),
        _ => Err(format!("providers[{at}] names more than one provider; write each as an entry of its own")),
    }
}

fn read_keys(algorithm: Algorithm, keys: &[FileKey], at: usize) -> Result<Vec<Key>, String> {
    if keys.is_empty() {
        return Err(format!("providers[{at}].{algorithm}.keys is empty"));
    }
    let mut read: Vec<Key> = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        let place = format!("providers[{at}].{algorithm}.keys[{number}]");
        if key.name.is_empty() || key.name.contains(':') {
            return Err(format!("{place}.name must be some text without a colon"));
        }
        if read.iter().any(|earlier| earlier.name() == key.name) {
            return Err(format!("{place}.name {:?} is there twice", key.name));
        }
        let secret = STANDARD.decode(key.secret.trim()).map_err(|_| format!("{place}.secret is not base64"))?;
        read.push(Key::new(algorithm, &key.name, &secret).map_err(|why| format!("{place}.secret: {why}"))?);
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn file(resources: &str, providers: &str) -> String {
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [{resources}]\n  providers: {providers}\n"
        )
    }

    const KEY: &str = "[{name: a, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]";

    #[rstest]
    #[case("resourceregistries.search.karmada.io", true)]
    #[case("secrets, '*.search.karmada.io'", true)]
    #[case("'*.*'", true)]
    #[case("secrets", false)]
    #[case("resourceregistries", false)]
    fn the_file_speaks_of_registries_by_the_names_that_api_servers_know(#[case] names: &str, #[case] ours: bool) {
        let providers = read(file(names, &format!("[{{aesgcm: {{keys: {KEY}}}}}]")).as_bytes()).unwrap();
        assert_eq!(providers.is_some(), ours);
    }

    #[rstest]
    #[case("[{kms: {name: x, endpoint: 'unix:///x'}}]", "kms is not supported")]
    #[case("[{}]", "names none of")]
    #[case("[]", "have no providers")]
    #[case("[{aescbc: {keys: []}}]", "aescbc.keys is empty")]
    #[case("[{aescbc: {keys: [{name: a, secret: '!'}]}}]", "not base64")]
    #[case("[{aescbc: {keys: [{name: a, secret: AAAA}]}}]", "16, 24 or 32 bytes")]
    #[case("[{secretbox: {keys: [{name: a, secret: AAAA}]}}]", "32 bytes")]
    #[case("[{aesgcm: {keys: [{name: 'a:b', secret: AAAA}]}}]", "without a colon")]
    #[case("[{rot13: {}}]", "unknown field")]
    fn what_cannot_be_done_is_refused_and_never_passed_over(#[case] providers: &str, #[case] says: &str) {
        let error = read(file("'*.*'", providers).as_bytes()).unwrap_err();
        assert!(error.contains(says), "{error}");
    }

    #[test]
    fn a_secret_never_stands_in_an_error_or_a_debug_line() {
        let text = file("'*.*'", &format!("[{{aescbc: {{keys: {KEY}}}}}, {{identity: {{}}}}]"));
        let shown = format!("{:?}", read(text.as_bytes()).unwrap());
        assert!(shown.contains("aescbc:v1:a") && shown.contains("Identity") && !shown.contains("48, 49"), "{shown}");
    }
}
