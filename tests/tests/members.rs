//! Members of every sort: chosen by where they run, served in their own versions, behind a proxy, with odd certificates.

mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shared::{CACHE, on_stage, origins};
use tests::api_server::ADMIN_TOKEN;
use tests::eventually;
use tests::karmada::{NAMESPACE, registry};
use tests::kubectl::Kubectl;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

const SOON: Duration = Duration::from_secs(120);

async fn shows(kubectl: &Kubectl, path: &str, expected: &[&str]) -> Result<()> {
    eventually(SOON, async || {
        let found = origins(&kubectl.raw(&format!("{CACHE}{path}")).await?);
        ensure!(found == expected, "{path} shows {found:?} instead of {expected:?}");
        Ok(())
    })
    .await
}

#[test]
fn clusters_are_chosen_by_where_they_run_and_excluded_by_name() -> Result<()> {
    on_stage(async |stage| {
        let kubectl = stage.kubectl()?;
        // Nobody else follows this kind on this stage, and these clusters come and go.
        let mut chosen = registry("regional", &[], &["v1/ServiceAccount"]);
        let north = json!([{ "key": "region", "operator": "In", "values": ["north"] }]);
        chosen["spec"]["targetCluster"] =
            json!({ "fieldSelector": { "matchExpressions": north }, "exclude": ["proxied", "impostor"] });
        for member in &stage.members {
            member.kubectl()?.run(&["create", "serviceaccount", "chosen", "-n", "team-000"]).await?;
        }
        let path = "/api/v1/namespaces/team-000/serviceaccounts?fieldSelector=metadata.name%3Dchosen";
        kubectl.apply(&chosen.to_string()).await?;
        shows(&kubectl, path, &["member1/chosen", "member2/chosen"]).await?;
        chosen["spec"]["targetCluster"]["exclude"] = json!(["member1", "proxied", "impostor"]);
        kubectl.apply(&chosen.to_string()).await?;
        shows(&kubectl, path, &["member2/chosen"]).await?;
        let patch = json!([{ "op": "replace", "path": "/spec/region", "value": "south" }]).to_string();
        kubectl.run(&["patch", "cluster", "member2", "--type=json", "--patch", &patch]).await?;
        shows(&kubectl, path, &[]).await?;
        kubectl
            .run(&["patch", "cluster", "member2", "--type=json", "--patch", &patch.replace("south", "north")])
            .await?;
        kubectl.run(&["delete", "resourceregistry", "regional"]).await.map(drop)
    })
}

fn gadgets(version: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "gadgets.example.io" },
        "spec": {
            "group": "example.io", "scope": "Cluster",
            "names": { "plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList" },
            "versions": [{ "name": version, "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } } }],
        },
    })
}

#[test]
fn each_member_is_read_in_the_version_that_it_serves_and_the_answer_says_so() -> Result<()> {
    on_stage(async |stage| {
        for (member, version) in stage.members.iter().zip(["v1", "v1beta1"]) {
            let own = member.kubectl()?;
            own.apply(&gadgets(version).to_string()).await?;
            own.run(&["wait", "--for=condition=Established", "crd/gadgets.example.io", "--timeout=120s"]).await?;
            let gadget =
                json!({ "apiVersion": format!("example.io/{version}"), "kind": "Gadget", "metadata": { "name": "g" } });
            eventually(SOON, async || own.apply(&gadget.to_string()).await).await?;
        }
        let kubectl = stage.kubectl()?;
        kubectl.apply(&registry("gadgets", &["member1", "member2"], &["example.io/v1/Gadget"]).to_string()).await?;
        let path = format!("{CACHE}/apis/example.io/v1/gadgets");
        let output = eventually(Duration::from_secs(60), async || {
            let output = kubectl.try_run(&["get", "--raw", &path], "").await?;
            ensure!(output.success, "{}", output.stderr);
            ensure!(origins(&serde_json::from_str(&output.stdout)?) == ["member1/g", "member2/g"], "{}", output.stdout);
            Ok(output)
        })
        .await?;
        let list: Value = serde_json::from_str(&output.stdout)?;
        assert_eq!(list["items"][1]["apiVersion"], "example.io/v1beta1");
        ensure!(
            output.stderr.contains("cluster member2 serves this resource as example.io/v1beta1"),
            "{}",
            output.stderr
        );
        kubectl.run(&["delete", "resourceregistry", "gadgets"]).await.map(drop)
    })
}

/// A proxy that tunnels, and counts the tunnels for which the right header was given.
async fn tunnel_proxy(used: Arc<AtomicUsize>) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(tunnel(socket, Arc::clone(&used)));
        }
    });
    Ok(port)
}

async fn tunnel(socket: TcpStream, used: Arc<AtomicUsize>) -> Result<()> {
    let mut client = BufReader::new(socket);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(client.read_line(&mut head).await? > 0, "the client left");
    }
    let target = head.split_whitespace().nth(1).context("no target")?.to_owned();
    if head.starts_with("CONNECT") && head.to_lowercase().contains("x-team: lab") {
        used.fetch_add(1, Ordering::Relaxed);
    }
    let mut server = TcpStream::connect(target).await?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

#[test]
fn a_member_behind_a_proxy_is_reached_through_it() -> Result<()> {
    on_stage(async |stage| {
        let (kubectl, member) = (stage.kubectl()?, stage.members.first().context("no member")?);
        let used = Arc::new(AtomicUsize::new(0));
        let port = tunnel_proxy(Arc::clone(&used)).await?;
        stage.karmada.join_as("proxied", &member.url, ADMIN_TOKEN, Some(&member.authority)).await?;
        let patch =
            json!({ "spec": { "proxyURL": format!("http://127.0.0.1:{port}"), "proxyHeader": { "x-team": "lab" } } });
        kubectl.run(&["patch", "cluster", "proxied", "--type=merge", "--patch", &patch.to_string()]).await?;
        kubectl.apply(&registry("proxied", &["proxied"], &["v1/PersistentVolume", "v1/Node"]).to_string()).await?;
        shows(&kubectl, "/api/v1/nodes?cluster=proxied", &["proxied/member1-node"]).await?;
        ensure!(used.load(Ordering::Relaxed) > 0, "nothing went through the proxy");
        kubectl.run(&["delete", "resourceregistry", "proxied"]).await?;
        stage.karmada.unjoin("proxied").await
    })
}

#[test]
fn a_member_whose_certificate_is_not_vouched_for_is_not_read() -> Result<()> {
    on_stage(async |stage| {
        let (kubectl, members) = (stage.kubectl()?, &stage.members);
        let (one, two) = (members.first().context("no member")?, members.get(1).context("no second member")?);
        stage.karmada.join_as("impostor", &one.url, ADMIN_TOKEN, Some(&two.authority)).await?;
        kubectl.apply(&registry("impostor", &["impostor"], &["v1/Node"]).to_string()).await?;
        eventually(SOON, async || {
            let status = kubectl.raw("/apis/search.karmada.io/v1alpha1/search/status").await?;
            let items = status["items"].as_array().context("no items")?;
            let told = items.iter().find(|item| item["cluster"] == "impostor").and_then(|item| item["error"].as_str());
            ensure!(told.is_some_and(|error| error.to_lowercase().contains("certificate")), "{status}");
            Ok(())
        })
        .await?;
        stage.karmada.set_secret("impostor", ADMIN_TOKEN, Some(&one.authority)).await?;
        shows(&kubectl, "/api/v1/nodes?cluster=impostor", &["impostor/member1-node"]).await?;
        kubectl.run(&["-n", NAMESPACE, "delete", "secret", "impostor"]).await?;
        kubectl.run(&["delete", "resourceregistry", "impostor"]).await?;
        stage.karmada.unjoin("impostor").await
    })
}

#[test]
fn the_log_holds_no_credentials() -> Result<()> {
    on_stage(async |stage| {
        stage.kubectl()?.apply(&registry("logged", &["member1"], &["v1/Node"]).to_string()).await?;
        let log = stage.fleetglass()?.log()?;
        ensure!(log.contains("serving") && !log.contains(ADMIN_TOKEN), "{log}");
        Ok(())
    })
}
