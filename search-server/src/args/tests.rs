//! What operators type, and what comes of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rstest::rstest;

use super::serve::default_data_dir;
use super::*;

/// Flag, kind of value and default of all that an installation of the replaced program may pass.
fn drop_in_flags() -> Vec<(&'static str, &'static str, &'static str)> {
    let lines = include_str!("drop_in_flags.txt").lines().filter(|line| !line.starts_with('#'));
    let flags: Vec<_> = lines
        .map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [name, kind, default] => (name, kind, if default == "-" { "" } else { default }),
            _ => panic!("a line of three words, not {line:?}"),
        })
        .collect();
    assert_eq!(flags.len(), 130);
    flags
}

/// A value of that kind that no default has.
fn sample(name: &str, kind: &str) -> &'static str {
    match (name, kind) {
        ("tls-min-version", _) => "VersionTLS13",
        ("logging-format", _) => "json",
        ("storage-backend", _) => "etcd3",
        ("audit-log-format", _) => "legacy",
        ("audit-log-mode" | "audit-webhook-mode", _) => "blocking-strict",
        ("feature-gates", _) => "WatchListClient=false,kube:AllAlpha=true",
        ("tls-cipher-suites", _) => "TLS_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        ("tls-curve-preferences", _) => "29,23",
        ("profiling-bind-address", _) => "127.0.0.1:6061",
        (_, "bool") => "true",
        (_, "duration") => "1h2m3.5s",
        (_, "int" | "uint" | "integer" | "numbers" | "severity") => "3",
        (_, "number") => "0.5",
        (_, "address") => "127.0.0.9",
        (_, "certificates") => "a.crt,a.key:host.example",
        (_, "list") => "one,two",
        (_, "text") => "some-text",
        (_, other) => panic!("no sample for the kind {other:?}"),
    }
}

fn serve(words: &[&str]) -> ServeArgs {
    let words = ["fleetglass", "serve"].iter().chain(words);
    match Cli::from_words(words).map(|cli| cli.command) {
        Ok(Command::Serve(serve)) => *serve,
        other => panic!("not serve: {other:?}"),
    }
}

fn refusal(words: &[&str]) -> String {
    Cli::from_words(["fleetglass", "serve"].iter().chain(words)).unwrap_err().to_string()
}

#[test]
fn the_command_line_is_well_defined() {
    command().debug_assert();
}

/// The other half of a pair of which one is of no use.
fn partner(name: &str) -> Option<String> {
    let pairs = [("tls-cert-file", "tls-private-key-file"), ("etcd-certfile", "etcd-keyfile")];
    let other = pairs.iter().find_map(|(one, other)| match name {
        _ if name == *one => Some(other),
        _ if name == *other => Some(one),
        _ => None,
    })?;
    Some(format!("--{other}=some-text"))
}

#[test]
fn every_flag_of_the_replaced_program_is_taken_under_both_names_and_spellings() {
    for (name, kind, _) in drop_in_flags() {
        let value = sample(name, kind);
        for flag in [name.to_owned(), name.replace('-', "_")] {
            for program in [&["/usr/local/bin/karmada-search"][..], &["fleetglass", "serve"]] {
                let partner = partner(name);
                let joined =
                    program.iter().map(ToString::to_string).chain([format!("--{flag}={value}")]).chain(partner.clone());
                Cli::from_words(joined).unwrap_or_else(|error| panic!("--{flag}={value}: {error}"));
                let bare = if kind == "bool" { None } else { Some(value.to_owned()) };
                let apart =
                    program.iter().map(ToString::to_string).chain([format!("--{flag}")]).chain(bare).chain(partner);
                Cli::from_words(apart).unwrap_or_else(|error| panic!("--{flag} {value}: {error}"));
            }
        }
    }
}

#[test]
fn every_flag_of_the_replaced_program_has_its_default() {
    let command = command();
    let known: BTreeMap<&str, String> = command
        .find_subcommand("serve")
        .unwrap()
        .get_arguments()
        .filter_map(|flag| {
            let default: Vec<_> = flag.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
            Some((flag.get_long()?, default.join(",")))
        })
        .collect();
    for (name, _, default) in drop_in_flags() {
        let ours = known.get(name).unwrap_or_else(|| panic!("--{name} is not known"));
        // No default and the zero of the flag's kind are the same to the replaced program.
        let ours = if matches!(ours.as_str(), "0" | "0s" | "false") { "" } else { ours };
        assert_eq!(ours, default, "--{name}");
    }
}

#[test]
fn what_differs_from_the_replaced_program_is_only_what_is_added() {
    let theirs: Vec<_> = drop_in_flags().iter().map(|flag| flag.0).collect();
    let command = command();
    let flags = command.find_subcommand("serve").unwrap().get_arguments();
    let added: Vec<_> = flags.filter_map(clap::Arg::get_long).filter(|name| !theirs.contains(name)).collect();
    assert_eq!(
        added,
        [
            "members",
            "otlp-endpoint",
            "keep-cache",
            "cache-dir",
            "search-index",
            "search-index-dir",
            "search-index-memory",
            "search-index-disk",
            "opensearch-index-prefix",
            "opensearch-plaintext-credentials",
            "opensearch-original-layout",
            "store",
            "search-backend",
            "shards",
            "shard-lease-namespace",
            "opensearch-dead-letters",
            "data-dir",
            "write-kubeconfig"
        ]
    );
}

#[test]
fn meaningful_values_arrive() {
    let serve = serve(&[
        "--etcd-servers=https://a:2379,https://b:2379",
        "--etcd-servers",
        "https://c:2379",
        "--request-timeout=1m30s",
        "--disable_search",
        "--disable-proxy=false",
        "--disable-proxy=T",
        "--v=2",
        "--logging-format=json",
        "--kube-api-qps",
        "12.5",
        "--tls-sni-cert-key=a.crt,a.key:x.example",
        "--tls-min-version=VersionTLS13",
        "--members=contexts:a,b",
        "--members",
        "snapshot:/srv/clusters",
    ]);
    assert_eq!(serve.etcd.etcd_servers, ["https://a:2379", "https://b:2379", "https://c:2379"]);
    assert_eq!(serve.limits.request_timeout, Duration::from_secs(90));
    assert!(serve.features.disable_search && serve.features.disable_proxy);
    assert_eq!((serve.logging.verbosity, serve.logging.format), (2, LogFormat::Json));
    assert!((serve.control_plane.kube_api_qps - 12.5).abs() < f32::EPSILON);
    assert_eq!(serve.serving.tls_sni_cert_key[0].names, ["x.example"]);
    assert_eq!(serve.serving.min_tls_version(), MinTlsVersion::Tls13);
    let contexts = MemberSource::Contexts(vec!["a".to_owned(), "b".to_owned()]);
    assert_eq!(serve.members.sources(), [contexts, MemberSource::Snapshot("/srv/clusters".into())]);
}

#[test]
fn of_a_flag_given_twice_the_last_counts() {
    assert_eq!(serve(&["--secure-port=1", "--secure-port=2"]).serving.secure_port, 2);
    assert_eq!(serve(&["-v=1", "--v=4"]).logging.verbosity, 4);
}

#[test]
fn an_empty_value_is_as_good_as_none() {
    let serve = serve(&["--kubeconfig=", "--etcd-cafile=", "--etcd-servers=", "--authorization-always-allow-paths="]);
    assert_eq!((serve.control_plane.kubeconfig, serve.etcd.etcd_cafile), (None, None));
    assert!(serve.etcd.etcd_servers.is_empty());
    // Here there is a default, and the empty value takes it away.
    assert!(serve.authorization.authorization_always_allow_paths.is_empty());
}

#[test]
fn flags_without_effect_are_told_with_the_reason() {
    let serve = serve(&["--audit-webhook-mode=batch", "--audit_log_version=v1", "--profiling", "--secure-port=1"]);
    let told: Vec<_> = serve.ignored_flags_given().iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "--audit-log-version: audit records go to a file or to standard output, one by one",
            "--audit-webhook-mode: audit records go to a file or to standard output, one by one",
            "--profiling: profiles are asked for on a listener of their own, with --enable-pprof",
        ]
    );
}

#[rstest]
#[case(&["--etcd-server=x"], "'--etcd-servers'")]
#[case(&["--audit-logpath=-"], "'--audit-log-path'")]
#[case(&["--secure-port=70000"], "70000 is not in 0..=65535")]
#[case(&["--request-timeout=soon"], "write a duration such as 500ms, 30s or 1m30s")]
#[case(&["--audit-webhook-batch-max-wait=soon"], "write a duration such as 500ms, 30s or 1m30s")]
#[case(&["--disable-search=maybe"], "write true or false")]
#[case(&["--bind-address=here"], "invalid IP address syntax")]
#[case(&["--members=folder:x"], "write karmada, contexts:A,B or snapshot:DIR")]
#[case(&["--tls-min-version=1.3"], "write VersionTLS12 or VersionTLS13")]
#[case(&["--logging-format=xml"], "[possible values: text, json]")]
#[case(&["--storage-backend=etcd2"], "[possible values: etcd3]")]
#[case(&["--tls-cipher-suites=TLS_NONE"], "offered here are TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")]
#[case(&["--feature-gates=WatchListClient"], "write Gate=true")]
#[case(&["--audit-log-mode=never"], "[possible values: batch, blocking, blocking-strict]")]
#[case(&["--etcd-cafile"], "a value is required")]
#[case(&["--tls-cert-file=a"], "--tls-private-key-file <TLS_PRIVATE_KEY_FILE>")]
#[case(&["stray"], "unexpected argument 'stray'")]
fn a_mistake_is_named_with_what_would_be_right(#[case] words: &[&str], #[case] says: &str) {
    let refusal = refusal(words);
    assert!(refusal.contains(says), "{words:?} says: {refusal}");
}

/// What the four installers of Karmada pass.
#[rstest]
#[case("/etc/karmada/config/karmada.config", "/etc/karmada/pki", &["--logging-format=json"])]
#[case("/etc/karmada/config/karmada.config", "/etc/karmada/pki", &["--etcd-prefix=/other"])]
#[case("/etc/kubeconfig", "/etc/kubernetes/pki", &["--v=2", "--etcd-prefix=/registry"])]
#[case("/etc/karmada/config/karmada.config", "/etc/karmada/pki", &["--feature-gates=AllAlpha=true", "--v", "4"])]
fn the_installers_argument_lists_start_the_server(#[case] kubeconfig: &str, #[case] pki: &str, #[case] extra: &[&str]) {
    let words = [
        "/bin/karmada-search".to_owned(),
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--etcd-servers=https://etcd-0.etcd.karmada-system.svc:2379,https://etcd-1.etcd.karmada-system.svc:2379"
            .to_owned(),
        format!("--etcd-cafile={pki}/etcd-client/ca.crt"),
        format!("--etcd-certfile={pki}/etcd-client/tls.crt"),
        format!("--etcd-keyfile={pki}/etcd-client/tls.key"),
        format!("--tls-cert-file={pki}/server/tls.crt"),
        format!("--tls-private-key-file={pki}/server/tls.key"),
        "--tls-min-version=VersionTLS13".to_owned(),
        "--audit-log-path=-".to_owned(),
        "--audit-log-maxage=0".to_owned(),
        "--audit-log-maxbackup=0".to_owned(),
        "--bind-address=10.0.0.7".to_owned(),
    ];
    let words = words.into_iter().chain(extra.iter().map(ToString::to_string));
    let Command::Serve(serve) = Cli::from_words(words).unwrap().command else { panic!("not serve") };
    assert!(!serve.is_standalone());
    assert_eq!(serve.listen_address().to_string(), "10.0.0.7:443");
    assert_eq!(serve.control_plane.kubeconfig, Some(kubeconfig.into()));
    assert_eq!(serve.etcd.etcd_servers.len(), 2);
    assert_eq!(serve.etcd.etcd_keyfile, Some(format!("{pki}/etcd-client/tls.key").into()));
}

#[rstest]
#[case(&["karmada-search", "version"], "Version")]
#[case(&["karmada-search.exe", "completion", "bash"], "Completion")]
#[case(&["karmada-search"], "Serve")]
#[case(&["fleetglass", "demo", "--port=7443", "--data_dir=/tmp/x"], "Demo")]
fn the_name_it_is_called_by_decides_what_it_takes(#[case] words: &[&str], #[case] expected: &str) {
    let command = Cli::from_words(words).unwrap().command;
    assert!(format!("{command:?}").starts_with(expected), "{command:?}");
}

#[test]
fn help_is_there_under_both_names() {
    for words in [&["fleetglass", "--help"][..], &["karmada-search", "help"], &["karmada-search", "--help"]] {
        let error = Cli::from_words(words).unwrap_err();
        assert_eq!(error.kind(), clap::error::ErrorKind::DisplayHelp, "{words:?}");
    }
    let short = Cli::from_words(["karmada-search", "-h"]).unwrap_err().to_string();
    assert!(short.contains("--etcd-servers") && !short.contains("--audit-webhook-mode"), "{short}");
}

#[test]
fn without_a_control_plane_it_listens_on_loopback_unless_told_otherwise() {
    let standalone = serve(&["--members=snapshot:/srv"]);
    assert!(standalone.is_standalone());
    assert_eq!(standalone.listen_address().to_string(), "127.0.0.1:7443");
    let told = serve(&["--members=snapshot:/srv", "--bind_address=0.0.0.0", "--secure-port=443"]);
    assert_eq!(told.listen_address().to_string(), "0.0.0.0:443");
    assert_eq!(serve(&[]).listen_address().to_string(), "0.0.0.0:443");
}

#[test]
fn the_kubeconfig_is_the_control_planes_unless_there_is_none() {
    let contexts = serve(&["--members=contexts:a", "--kubeconfig=/home/me/config"]);
    assert_eq!(contexts.contexts_kubeconfig(), Some(Path::new("/home/me/config")));
    let mixed = serve(&["--members=contexts:a", "--members=karmada", "--kubeconfig=/etc/karmada.config"]);
    assert_eq!((mixed.contexts_kubeconfig(), mixed.is_standalone()), (None, false));
}

#[test]
fn data_goes_where_the_desktops_rules_say() {
    let of = |variables: &[(&str, &str)]| {
        default_data_dir(|wanted| variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.into()))
    };
    assert_eq!(of(&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")]), PathBuf::from("/x/fleetglass"));
    assert_eq!(of(&[("XDG_DATA_HOME", "relative"), ("HOME", "/h")]), PathBuf::from("/h/.local/share/fleetglass"));
    assert_eq!(of(&[]), PathBuf::from("fleetglass-data"));
    let told = serve(&["--data-dir=/d"]);
    assert_eq!((told.own.data_dir(), told.own.kubeconfig_to_write()), ("/d".into(), "/d/kubeconfig".into()));
}

#[test]
fn a_completion_script_asks_the_program() {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell, Shell::Elvish] {
        let mut script = Vec::new();
        write_completion(shell, &mut script).unwrap();
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains("COMPLETE") && script.contains("fleetglass"), "{shell}: {script}");
    }
}

#[test]
fn each_command_has_a_manual_page() {
    let page = |of: Option<&str>| {
        let mut page = Vec::new();
        write_manual(of, &mut page).map(|()| String::from_utf8(page).unwrap())
    };
    assert!(page(None).unwrap().contains(".TH fleetglass 1"));
    let search = page(Some("search")).unwrap();
    assert!(search.contains(".TH fleetglass-search 1") && search.contains("explain"), "{search}");
    assert!(page(Some("serve")).unwrap().contains("etcd"));
    assert!(page(Some("sreve")).unwrap_err().to_string().contains("no command sreve"));
}
