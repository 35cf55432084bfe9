//! Flags that operators of API servers know, each seen to do on real servers what it says.

mod shared;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use shared::{CACHE, run};
use tests::api_server::{ADMIN_TOKEN, NOBODY_TOKEN};
use tests::eventually;
use tests::fleetglass::Fleetglass;
use tests::karmada::registry;
use tests::kubectl::Kubectl;
use tests::pki::Authority;
use tests::stage::{Plan, Stage};
use tokio::sync::mpsc;

const REGISTRIES: &str = "/apis/search.karmada.io/v1alpha1/resourceregistries";
const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";

async fn stage(fleetglass: bool, arguments: Vec<String>) -> Result<Stage> {
    Stage::start(&Plan { members: 1, applications: 1, pods: 0, fleetglass, arguments }).await
}

/// Status code and body.
async fn ask(request: RequestBuilder) -> Result<(u16, Value)> {
    let answer = request.send().await?;
    let code = answer.status().as_u16();
    let text = answer.text().await?;
    Ok((code, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

#[test]
fn authorities_and_header_names_that_flags_give_decide_who_is_believed() -> Result<()> {
    run(async || {
        let mut stage = stage(false, Vec::new()).await?;
        let folder = stage.folder().to_path_buf();
        let (clients, proxies) = (Authority::new("our clients")?, Authority::new("our proxies")?);
        let client_ca = clients.write(&folder.join("our-clients.crt"))?;
        // The control plane's own front proxy has to be believed too, or its availability check would find us closed.
        let control_planes = std::fs::read_to_string(folder.join("control-plane/front-proxy-ca.crt"))?;
        let proxy_ca = folder.join("our-proxies.crt");
        std::fs::write(&proxy_ca, format!("{}{control_planes}", proxies.certificate))?;
        let flags = [
            format!("--client-ca-file={}", client_ca.display()),
            format!("--requestheader-client-ca-file={}", proxy_ca.display()),
            "--requestheader-allowed-names=our-proxy,front-proxy-client".to_owned(),
            "--requestheader-username-headers=X-Our-User,X-Remote-User".to_owned(),
            "--requestheader-group-headers=X-Our-Group,X-Remote-Group".to_owned(),
            "--requestheader-extra-headers-prefix=X-Our-Extra-,X-Remote-Extra-".to_owned(),
            "--authorization-always-allow-paths=/livez,/readyz,/metrics".to_owned(),
        ];
        let joined = Fleetglass::join(&stage.control_plane, &stage.etcd.url, &folder, &flags).await?;
        let fleetglass = stage.fleetglass.insert(joined);
        let url = format!("{}{CACHE}{DEPLOYMENTS}", fleetglass.url);

        let ours = fleetglass.client_with(&clients.client(&folder, "operator", &["system:masters"])?)?;
        assert_eq!(ask(ours.get(&url)).await?.0, 200, "of the authority that the flag names");
        let theirs = fleetglass.client_with(&stage.control_plane.admin)?;
        let (code, refused) = ask(theirs.get(&url)).await?;
        ensure!(code == 401 || code == 403, "the flag takes the place of the control plane's authority: {refused}");

        let claims = |client: &Client, name: &str| client.get(&url).header("X-Our-User", name.to_owned());
        let proxy = fleetglass.client_with(&proxies.client(&folder, "our-proxy", &[])?)?;
        let (code, refused) = ask(claims(&proxy, "maria")).await?;
        ensure!(code == 403 && message(&refused).contains("User \"maria\""), "{refused}");
        assert_eq!(ask(claims(&proxy, "maria").header("X-Our-Group", "system:masters")).await?.0, 200);
        let other = fleetglass.client_with(&proxies.client(&folder, "another-proxy", &[])?)?;
        let (code, refused) = ask(claims(&other, "maria").header("X-Our-Group", "system:masters")).await?;
        ensure!(code == 401 || code == 403, "only names that are allowed: {refused}");
        ensure!(!message(&refused).contains("maria"), "{refused}");

        let anybody = fleetglass.client()?;
        assert_eq!(ask(anybody.get(format!("{}/metrics", fleetglass.url))).await?.0, 200, "always allowed");
        Ok(())
    })
}

/// Lets a user read what is cached, or no longer.
async fn set_reader(kubectl: &Kubectl, verb: &str, user: &str) -> Result<()> {
    let rules = json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "cache-reader" },
          "rules": [{ "apiGroups": ["search.karmada.io"], "resources": ["search", "search/apis"], "verbs": ["*"] }] },
        { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "cache-reader" },
          "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cache-reader" },
          "subjects": [{ "kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io" }] },
    ] });
    kubectl.run_with(&[verb, "-f", "-"], &rules.to_string()).await.map(drop)
}

#[test]
fn answers_of_reviews_are_kept_as_long_as_flags_say() -> Result<()> {
    run(async || {
        let stage = stage(
            true,
            [
                "--authorization-webhook-cache-authorized-ttl=1h",
                "--authorization-webhook-cache-unauthorized-ttl=1s",
                "--authentication-token-webhook-cache-ttl=1h",
            ]
            .map(str::to_owned)
            .to_vec(),
        )
        .await?;
        let kubectl = stage.kubectl()?;
        let fleetglass = stage.fleetglass()?;
        let client = fleetglass.client()?;
        let code = async |token: &str| -> Result<u16> {
            Ok(ask(client.get(format!("{}{CACHE}{DEPLOYMENTS}", fleetglass.url)).bearer_auth(token)).await?.0)
        };
        assert_eq!(code(NOBODY_TOKEN).await?, 403);
        set_reader(&kubectl, "apply", "nobody").await?;
        // A no that were kept for as long as a yes would stand for an hour.
        eventually(Duration::from_secs(60), async || {
            ensure!(code(NOBODY_TOKEN).await? == 200, "the no is still kept");
            Ok(())
        })
        .await?;
        set_reader(&kubectl, "delete", "nobody").await?;
        let review = || kubectl.try_run(&["--as=nobody", "auth", "can-i", "get", "search/cache"], "");
        eventually(Duration::from_secs(60), async || {
            ensure!(!review().await?.success, "the control plane itself still says yes");
            Ok(())
        })
        .await?;
        assert_eq!(code(NOBODY_TOKEN).await?, 200, "a yes is kept");

        kubectl.run(&["create", "serviceaccount", "passing"]).await?;
        kubectl
            .run(&[
                "create",
                "clusterrolebinding",
                "passing",
                "--clusterrole=cluster-admin",
                "--serviceaccount=default:passing",
            ])
            .await?;
        let token = kubectl.run(&["create", "token", "passing"]).await?.trim().to_owned();
        eventually(Duration::from_secs(60), async || {
            ensure!(code(&token).await? == 200, "not yet bound");
            Ok(())
        })
        .await?;
        kubectl.run(&["delete", "serviceaccount", "passing"]).await?;
        let control_plane = stage.control_plane.client()?;
        eventually(Duration::from_secs(60), async || {
            let asked = control_plane.get(format!("{}/version", stage.control_plane.url)).bearer_auth(&token);
            ensure!(ask(asked).await?.0 == 401, "the control plane still knows the token");
            Ok(())
        })
        .await?;
        assert_eq!(code(&token).await?, 200, "a token's review is kept");
        Ok(())
    })
}

/// A write that is under way until its body ends.
struct SlowWrite {
    body: mpsc::Sender<Result<String, std::io::Error>>,
    rest: String,
    answer: tokio::task::JoinHandle<Result<(u16, Value)>>,
}

impl SlowWrite {
    async fn begin(fleetglass: &Fleetglass, name: &str) -> Result<Self> {
        let (body, chunks) = mpsc::channel(1);
        let request = fleetglass
            .client()?
            .post(format!("{}{REGISTRIES}", fleetglass.url))
            .bearer_auth(ADMIN_TOKEN)
            .header("content-type", "application/json")
            .body(reqwest::Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(chunks)));
        let answer = tokio::spawn(ask(request));
        let text = registry(name, &[], &["v1/Pod"]).to_string();
        let (first, rest) = text.split_at(20);
        body.send(Ok(first.to_owned())).await?;
        eventually(Duration::from_secs(60), async || {
            let metrics = fleetglass.client()?.get(format!("{}/metrics", fleetglass.url)).bearer_auth(ADMIN_TOKEN);
            let metrics = metrics.send().await?.text().await?;
            let is_under_way = metrics.contains("apiserver_current_inflight_requests{request_kind=\"mutating\"} 1");
            ensure!(is_under_way, "not yet under way");
            Ok(())
        })
        .await?;
        Ok(Self { body, rest: rest.to_owned(), answer })
    }

    async fn end(self) -> Result<(u16, Value)> {
        self.body.send(Ok(self.rest)).await?;
        drop(self.body);
        self.answer.await?
    }

    /// Its answer, although its body never ends.
    async fn wait(self) -> Result<(u16, Value)> {
        let answer = self.answer.await?;
        drop(self.body);
        answer
    }
}

#[test]
fn too_many_requests_at_once_and_too_slow_ones_are_refused_and_the_log_is_json() -> Result<()> {
    run(async || {
        let flags = ["--max-mutating-requests-inflight=1", "--request-timeout=30s", "--logging-format=json", "--v=4"];
        let stage = stage(true, flags.map(str::to_owned).to_vec()).await?;
        let fleetglass = stage.fleetglass()?;
        let slow = SlowWrite::begin(fleetglass, "slow").await?;
        let write = async |name: &str| -> Result<(u16, Value)> {
            let request = fleetglass.client()?.post(format!("{}{REGISTRIES}", fleetglass.url)).bearer_auth(ADMIN_TOKEN);
            ask(request.json(&registry(name, &[], &["v1/Pod"]))).await
        };
        let (code, refused) = write("second").await?;
        assert_eq!((code, &refused["reason"]), (429, &json!("TooManyRequests")), "{refused}");
        let list = fleetglass.client()?.get(format!("{}{REGISTRIES}", fleetglass.url)).bearer_auth(ADMIN_TOKEN);
        assert_eq!(ask(list).await?.0, 200, "reads have places of their own");
        assert_eq!(slow.end().await?.0, 201);

        let endless = SlowWrite::begin(fleetglass, "endless").await?;
        let (code, refused) = endless.wait().await?;
        assert_eq!((code, &refused["reason"]), (504, &json!("Timeout")), "{refused}");
        ensure!(message(&refused).contains("30 s"), "{refused}");
        assert_eq!(write("after").await?.0, 201, "its place is free again");

        let log = fleetglass.log()?;
        for line in log.lines() {
            let event: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
            ensure!(event["level"].is_string() && event["timestamp"].is_string(), "{line}");
        }
        Ok(())
    })
}

/// Backups of an audit log beside it.
fn backups(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name != "audit.log") {
            found.push(path);
        }
    }
    Ok(found)
}

#[test]
fn audit_logs_are_rotated_compressed_and_not_kept_for_ever() -> Result<()> {
    run(async || {
        let folder = tempfile::tempdir()?;
        let policy = folder.path().join("policy.yaml");
        std::fs::write(&policy, "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: RequestResponse}]}")?;
        let logs = folder.path().join("logs");
        let stage = stage(
            true,
            vec![
                format!("--audit-policy-file={}", policy.display()),
                format!("--audit-log-path={}", logs.join("audit.log").display()),
                "--audit-log-maxsize=1".to_owned(),
                "--audit-log-maxbackup=2".to_owned(),
                "--audit-log-compress".to_owned(),
            ],
        )
        .await?;
        let fleetglass = stage.fleetglass()?;
        let client = fleetglass.client()?;
        let mut large = registry("large", &[], &["v1/Pod"]);
        large["metadata"]["annotations"] = json!({ "filler": "x".repeat(200_000) });
        let mut written = 0;
        // Request and answer, four times in a megabyte's file or so: five files.
        for number in 0..12 {
            large["metadata"]["name"] = json!(format!("large-{number}"));
            let request = client.post(format!("{}{REGISTRIES}", fleetglass.url)).bearer_auth(ADMIN_TOKEN);
            let (code, answer) = ask(request.json(&large)).await?;
            ensure!(code == 201, "{code} {answer}");
            written += 1;
        }
        let kept = eventually(Duration::from_secs(60), async || {
            let kept = backups(&logs)?;
            let is_compressed = kept.iter().all(|path| path.extension().is_some_and(|extension| extension == "gz"));
            ensure!(kept.len() == 2 && is_compressed, "{kept:?}");
            Ok(kept)
        })
        .await?;
        let mut events = std::fs::read_to_string(logs.join("audit.log"))?;
        for path in kept {
            std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(std::fs::File::open(path)?), &mut events)?;
        }
        let mut seen = 0;
        for line in events.lines() {
            let event: Value = serde_json::from_str(line).context("a torn event")?;
            if event["verb"] == "create" && event["stage"] == "ResponseComplete" {
                let is_whole = ["requestObject", "responseObject"].iter().all(|body| event[body]["kind"].is_string());
                ensure!(is_whole, "what is sent compressed is recorded all the same");
                seen += 1;
            }
        }
        ensure!((3..written).contains(&seen), "{seen} of {written}: the oldest are gone, the newest are there");
        Ok(())
    })
}

#[test]
fn the_control_plane_is_asked_no_more_often_than_allowed() -> Result<()> {
    run(async || {
        let mut stage = stage(false, Vec::new()).await?;
        let kubectl = stage.kubectl()?;
        let member = stage.members.first().context("no member")?;
        let mut names = Vec::new();
        // Each cluster's Secret in a namespace of its own: each is a watch on the control plane.
        for number in 1..=8 {
            let name = format!("twin-{number}");
            kubectl.run(&["create", "namespace", &name]).await?;
            stage.karmada.join_as(&name, &member.url, "wrong", Some(&member.authority)).await?;
            let token = format!("--from-literal=token={ADMIN_TOKEN}");
            kubectl.run(&["create", "secret", "generic", &name, "--namespace", &name, &token]).await?;
            let patch = json!({ "spec": { "insecureSkipTLSVerification": true, "secretRef": { "namespace": name } } });
            kubectl.run(&["patch", "cluster", &name, "--type=merge", "--patch", &patch.to_string()]).await?;
            names.push(name);
        }
        let begun = Instant::now();
        let flags = ["--kube-api-qps=1", "--kube-api-burst=1"].map(str::to_owned);
        let joined = Fleetglass::join(&stage.control_plane, &stage.etcd.url, stage.folder(), &flags).await?;
        stage.fleetglass = Some(joined);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        kubectl.apply(&registry("twins", &names, &["apps/v1/Deployment"]).to_string()).await?;
        eventually(Duration::from_secs(90), async || {
            let list = kubectl.raw(&format!("{CACHE}{DEPLOYMENTS}")).await?;
            ensure!(shared::origins(&list).len() == 8, "{list}");
            Ok(())
        })
        .await?;
        // The clusters and eight namespaces are nine requests at least, which one a second can't bring sooner.
        ensure!(begun.elapsed() >= Duration::from_secs(8), "{:?}", begun.elapsed());
        Ok(())
    })
}

#[test]
fn a_member_is_asked_no_more_often_than_allowed() -> Result<()> {
    run(async || {
        let stage = stage(true, ["--cluster-api-qps=1", "--cluster-api-burst=1"].map(str::to_owned).to_vec()).await?;
        let kubectl = stage.kubectl()?;
        let kinds = [
            "apps/v1/Deployment",
            "apps/v1/ReplicaSet",
            "apps/v1/StatefulSet",
            "apps/v1/DaemonSet",
            "v1/Pod",
            "v1/Node",
            "v1/Service",
            "v1/ConfigMap",
        ];
        let begun = Instant::now();
        kubectl.apply(&registry("many", &[], &kinds).to_string()).await?;
        kubectl.run(&["wait", "--for=condition=Ready", "resourceregistry/many", "--timeout=90s"]).await?;
        // A request a kind at least, which one a second can't bring sooner.
        ensure!(begun.elapsed() >= Duration::from_secs(7), "{:?}", begun.elapsed());
        Ok(())
    })
}

#[test]
fn without_search_registries_are_all_there_is() -> Result<()> {
    run(async || {
        let stage = stage(true, vec!["--disable-search".to_owned()]).await?;
        let kubectl = stage.kubectl()?;
        kubectl.apply(&registry("idle", &[], &["apps/v1/Deployment"]).to_string()).await?;
        let resources = kubectl.run(&["api-resources", "--api-group=search.karmada.io", "-o", "name"]).await?;
        assert_eq!(resources, "resourceregistries.search.karmada.io\n");
        for path in ["search/cache/apis/apps/v1/deployments", "search/query?q=kind:Deployment"] {
            let refused = kubectl.raw(&format!("/apis/search.karmada.io/v1alpha1/{path}")).await;
            let error = format!("{:#}", refused.err().context("it answered")?);
            ensure!(error.contains("NotFound") || error.contains("could not find"), "{error}");
        }
        // No member is asked for anything.
        let member = stage.members.first().context("no member")?.kubectl()?;
        let metrics = member.run(&["get", "--raw", "/metrics"]).await?;
        let lists = metrics.lines().any(|line| {
            line.starts_with("apiserver_request_total{")
                && line.contains("resource=\"deployments\"")
                && (line.contains("verb=\"LIST\"") || line.contains("verb=\"WATCH\""))
        });
        ensure!(!lists, "a member was asked");
        Ok(())
    })
}
