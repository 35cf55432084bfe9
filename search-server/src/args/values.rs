//! Kinds of flag values, read as the program we replace reads them.
//!
//! In: one word. Out: a value, or a sentence that says what is wrong with the word.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub use apiservice::tls::{CipherSuite, Curve};
use clap::ValueEnum;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For log collectors: one JSON object a line.
    Json,
}

/// The oldest TLS version that is spoken. Versions before 1.2 can be asked for, but 1.2 is the oldest there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MinTlsVersion {
    /// TLS 1.2
    #[default]
    Tls12,
    /// TLS 1.3
    Tls13,
}

impl FromStr for MinTlsVersion {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "VersionTLS10" | "VersionTLS11" | "VersionTLS12" => Ok(Self::Tls12),
            "VersionTLS13" => Ok(Self::Tls13),
            _ => Err("write VersionTLS12 or VersionTLS13".to_owned()),
        }
    }
}

/// How a record of the audit log looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum AuditLogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// Words and values, as old API servers wrote them.
    Legacy,
}

/// Whether requests wait for their record in the audit log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum AuditLogMode {
    /// They don't.
    Batch,
    /// They do.
    #[default]
    Blocking,
    /// They do, and are refused if it cannot be written.
    BlockingStrict,
}

/// A switch: `Gate=true`, or `component:Gate=true`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureGate {
    /// Which.
    pub name: String,
    /// On or off.
    pub enabled: bool,
}

impl FromStr for FeatureGate {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        const HELP: &str = "write Gate=true or component:Gate=false";
        let (name, enabled) = word.split_once('=').ok_or(HELP)?;
        let name = name.split_once(':').map_or(name, |(_, name)| name).trim();
        if name.is_empty() || !name.chars().all(|character| character.is_ascii_alphanumeric()) {
            return Err(HELP.to_owned());
        }
        Ok(Self { name: name.to_owned(), enabled: boolean(enabled.trim())? })
    }
}

/// Requests a second, 0 for any number.
pub(super) fn requests_a_second(word: &str) -> Result<f32, String> {
    let rate: f32 = word.parse().map_err(|_| "write a number, as 40".to_owned())?;
    // Less often than each quarter of an hour is a mistake, and nothing that could be waited for.
    let is_usable = rate.is_finite() && (rate <= 0.0 || rate >= 0.001);
    if is_usable { Ok(rate) } else { Err("write 0.001 or more, or 0 for any number".to_owned()) }
}

/// `HOST:PORT` or, for all addresses, `:PORT`.
pub(super) fn listen_address(word: &str) -> Result<SocketAddr, String> {
    let help = || "write ADDRESS:PORT or :PORT".to_owned();
    match word.strip_prefix(':') {
        Some(port) => Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.parse().map_err(|_| help())?))),
        None => word.replace("localhost", "127.0.0.1").parse().map_err(|_| help()),
    }
}

/// A further certificate: `CERT,KEY` or `CERT,KEY:NAME,NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SniCertificate {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// For which names; empty means those inside of the certificate.
    pub names: Vec<String>,
}

impl FromStr for SniCertificate {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let (files, names) = word.split_once(':').unwrap_or((word, ""));
        let (certificate, key) = files
            .split_once(',')
            .filter(|(certificate, key)| !certificate.is_empty() && !key.is_empty() && !key.contains(','))
            .ok_or("write CERT,KEY or CERT,KEY:NAME,NAME")?;
        let names = names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Ok(Self { certificate: certificate.into(), key: key.into(), names })
    }
}

/// Where member clusters come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberSource {
    /// `karmada`: the Cluster objects of the control plane that `--kubeconfig` names.
    Karmada,
    /// `contexts:A,B`: contexts of the kubeconfig that kubectl would use; the contexts' names are the clusters' names.
    Contexts(Vec<String>),
    /// `snapshot:DIR`: folders of manifests, one a cluster, named as the cluster.
    Snapshot(PathBuf),
}

impl FromStr for MemberSource {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let (source, rest) = word.split_once(':').unwrap_or((word, ""));
        match (source, rest) {
            ("karmada", "") if word == "karmada" => Ok(Self::Karmada),
            ("karmada", _) => Err("karmada takes nothing behind it: --kubeconfig names the control plane".to_owned()),
            ("contexts", "") => Err("name the contexts, as in contexts:a,b".to_owned()),
            ("contexts", names) => context_names(names),
            ("snapshot", "") => Err("name the folder, as in snapshot:DIR".to_owned()),
            ("snapshot", folder) => Ok(Self::Snapshot(folder.into())),
            _ => Err("write karmada, contexts:A,B or snapshot:DIR".to_owned()),
        }
    }
}

fn context_names(names: &str) -> Result<MemberSource, String> {
    let names: Vec<String> = names.split(',').map(|name| name.trim().to_owned()).collect();
    if names.iter().any(String::is_empty) {
        return Err("a context's name is empty between its commas".to_owned());
    }
    if let Some(name) = names.iter().enumerate().find_map(|(at, name)| names[..at].contains(name).then_some(name)) {
        return Err(format!("the context {name:?} is named twice"));
    }
    Ok(MemberSource::Contexts(names))
}

/// The words that Go takes for yes and no.
pub(super) fn boolean(word: &str) -> Result<bool, String> {
    match word {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// Bytes, as `1000`, `64Mi` or `2G`.
pub(super) fn bytes(word: &str) -> Result<u64, String> {
    let wrong = || format!("{word:?} is no number of bytes; write it as 1000, 64Mi or 2G");
    let quantity = indexer::query::value::Quantity::parse(word).ok_or_else(wrong)?;
    u64::try_from(quantity.billionths() / 1_000_000_000).map_err(|_| wrong())
}

/// What names of indices in OpenSearch may begin with.
pub(super) fn index_prefix(word: &str) -> Result<String, String> {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let begins_well = word.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit());
    if begins_well && word.len() <= 100 && word.bytes().all(is_allowed) {
        return Ok(word.to_owned());
    }
    Err(format!("{word:?} can't begin the name of an index; write small letters, digits, -, _ and ., as fleetglass"))
}

/// A Go duration such as `1m30s`, `500ms` or `1.5h`.
pub(super) fn duration(word: &str) -> Result<Duration, String> {
    const HELP: &str = "write a duration such as 500ms, 30s or 1m30s";
    if word.starts_with('-') {
        return Err("a duration here cannot be negative".to_owned());
    }
    let mut rest = word.strip_prefix('+').unwrap_or(word);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(HELP.to_owned());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (part, behind) = duration_part(rest).ok_or(HELP)?;
        total = total.checked_add(part).ok_or("that is too long")?;
        rest = behind;
    }
    Ok(total)
}

/// The first number and unit of a duration, and what comes behind.
fn duration_part(text: &str) -> Option<(Duration, &str)> {
    let unit_at = text.find(|character: char| !character.is_ascii_digit() && character != '.')?;
    let (number, behind) = text.split_at(unit_at);
    let unit_end =
        behind.find(|character: char| character.is_ascii_digit() || character == '.').unwrap_or(behind.len());
    let (unit, behind) = behind.split_at(unit_end);
    let nanoseconds: u32 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" | "m" | "h" => 1_000_000_000,
        _ => return None,
    };
    let seconds: u32 = match unit {
        "m" => 60,
        "h" => 3600,
        _ => 1,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if !number.contains(|character: char| character.is_ascii_digit()) || fraction.contains('.') {
        return None;
    }
    let one = Duration::from_nanos(u64::from(nanoseconds)).checked_mul(seconds)?;
    let whole: u32 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: f64 = format!("0.{fraction}0").parse().ok()?;
    Some((one.checked_mul(whole)?.checked_add(one.mul_f64(fraction))?, behind))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0", 0)]
    #[case("0s", 0)]
    #[case("500ms", 500)]
    #[case("1m30s", 90_000)]
    #[case("1m0s", 60_000)]
    #[case("1.5h", 5_400_000)]
    #[case(".5s", 500)]
    #[case("+2s", 2_000)]
    #[case("2h45m0.5s", 9_900_500)]
    fn a_duration_reads_as_in_go(#[case] word: &str, #[case] milliseconds: u64) {
        assert_eq!(duration(word), Ok(Duration::from_millis(milliseconds)));
    }

    #[rstest]
    #[case("")]
    #[case("5")]
    #[case("s")]
    #[case("5 s")]
    #[case("5x")]
    #[case(".s")]
    #[case("1.2.3s")]
    #[case("-1s")]
    #[case("99999999999h")]
    fn what_is_no_duration_is_refused(#[case] word: &str) {
        assert!(duration(word).is_err(), "{word:?} was taken");
    }

    proptest! {
        #[test]
        fn a_duration_written_in_parts_is_their_sum(hours in 0u32..1000, minutes in 0u32..1000, millis in 0u32..100_000) {
            let expected = Duration::from_secs(u64::from(hours) * 3600 + u64::from(minutes) * 60)
                + Duration::from_millis(u64::from(millis));
            prop_assert_eq!(duration(&format!("{hours}h{minutes}m{millis}ms")), Ok(expected));
        }

        #[test]
        fn no_word_makes_the_readers_panic(word in ".*") {
            let _ = duration(&word);
            let _ = boolean(&word);
            let _ = word.parse::<MemberSource>();
            let _ = word.parse::<SniCertificate>();
            let _ = word.parse::<FeatureGate>();
            let _ = listen_address(&word);
        }
    }

    #[rstest]
    #[case("0", Some(0))]
    #[case("1000", Some(1000))]
    #[case("64Mi", Some(64 << 20))]
    #[case("2G", Some(2_000_000_000))]
    #[case("-1", None)]
    #[case("many", None)]
    #[case("", None)]
    fn bytes_are_written_as_in_kubernetes(#[case] word: &str, #[case] expected: Option<u64>) {
        assert_eq!(bytes(word).ok(), expected);
    }

    #[rstest]
    #[case("fleetglass", true)]
    #[case("team-1.search", true)]
    #[case("", false)]
    #[case("-team", false)]
    #[case("Team", false)]
    #[case("a*", false)]
    fn index_prefixes_are_those_that_opensearch_takes(#[case] word: &str, #[case] is_taken: bool) {
        assert_eq!(index_prefix(word).is_ok(), is_taken);
    }

    #[test]
    fn member_sources_are_told_apart() {
        let contexts = MemberSource::Contexts(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!("contexts:a,b".parse(), Ok(contexts));
        assert_eq!("snapshot:/tmp/c:d".parse(), Ok(MemberSource::Snapshot("/tmp/c:d".into())));
        assert_eq!("karmada".parse(), Ok(MemberSource::Karmada));
    }

    #[rstest]
    #[case("contexts:", "name the contexts")]
    #[case("contexts", "name the contexts")]
    #[case("contexts:a,,b", "empty between its commas")]
    #[case("contexts:a,b,a", "named twice")]
    #[case("snapshot:", "name the folder")]
    #[case("karmada:x", "takes nothing behind it")]
    #[case("folder:/tmp", "write karmada, contexts:A,B or snapshot:DIR")]
    #[case("", "write karmada, contexts:A,B or snapshot:DIR")]
    fn a_wrong_member_source_says_what_is_missing(#[case] word: &str, #[case] says: &str) {
        let error = word.parse::<MemberSource>().unwrap_err();
        assert!(error.contains(says), "{word:?} says {error:?}");
    }

    #[rstest]
    #[case("WatchListClient=false", "WatchListClient", false)]
    #[case("kube:AllAlpha=true", "AllAlpha", true)]
    fn a_switch_may_name_its_component(#[case] word: &str, #[case] name: &str, #[case] enabled: bool) {
        assert_eq!(word.parse(), Ok(FeatureGate { name: name.to_owned(), enabled }));
        for wrong in ["WatchListClient", "=true", "a b=true", "WatchListClient=maybe"] {
            assert!(wrong.parse::<FeatureGate>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn profiles_are_listened_for_on_all_addresses_or_on_one() {
        assert_eq!(listen_address(":6060").unwrap().to_string(), "0.0.0.0:6060");
        assert_eq!(listen_address("localhost:1").unwrap().to_string(), "127.0.0.1:1");
        assert!(listen_address("6060").is_err());
    }

    #[test]
    fn a_further_certificate_names_its_files_and_hosts() {
        let with_names: SniCertificate = "a.crt,a.key:x.example,*.example".parse().unwrap();
        assert_eq!(with_names.names, ["x.example", "*.example"]);
        let without: SniCertificate = "a.crt,a.key".parse().unwrap();
        assert_eq!((without.certificate, without.key, without.names), ("a.crt".into(), "a.key".into(), vec![]));
        assert!("a.crt".parse::<SniCertificate>().is_err());
        assert!("a,b,c".parse::<SniCertificate>().is_err());
    }
}
