//! Who asks: through the front proxy, with a client certificate, with a token, or with nothing at all.

mod shared;

use anyhow::{Context, Result, ensure};
use reqwest::Client;
use serde_json::{Value, json};
use shared::{CACHE, on_stage};
use tests::api_server::{ADMIN_TOKEN, NOBODY_TOKEN};
use tests::karmada::registry;
use tests::pki::Authority;
use tests::stage::Stage;

/// Status code and body of a request that goes straight to Fleetglass.
async fn ask(stage: &Stage, client: &Client, path: &str, headers: &[(&str, &str)]) -> Result<(u16, Value)> {
    let mut request = client.get(format!("{}{path}", stage.fleetglass()?.url));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await?;
    let code = answer.status().as_u16();
    let text = answer.text().await?;
    Ok((code, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";

#[test]
fn a_certificate_of_the_control_planes_authority_is_an_identity() -> Result<()> {
    on_stage(async |stage| {
        let client = stage.fleetglass()?.client_with(&stage.control_plane.admin)?;
        let (code, list) = ask(stage, &client, &format!("{CACHE}{DEPLOYMENTS}"), &[]).await?;
        assert_eq!((code, &list["kind"]), (200, &json!("DeploymentList")), "{list}");
        let stranger = Authority::new("stranger")?.client(stage.folder(), "stranger", &["system:masters"])?;
        let client = stage.fleetglass()?.client_with(&stranger)?;
        let (code, refused) = ask(stage, &client, &format!("{CACHE}{DEPLOYMENTS}"), &[]).await?;
        ensure!(code == 401 || code == 403, "{code} {refused}");
        Ok(())
    })
}

#[test]
fn tokens_are_reviewed_and_nobody_in_particular_may_only_ask_how_it_is() -> Result<()> {
    on_stage(async |stage| {
        let client = stage.fleetglass()?.client()?;
        let path = format!("{CACHE}{DEPLOYMENTS}");
        let bearer = |token: &str| format!("Bearer {token}");
        assert_eq!(ask(stage, &client, &path, &[("authorization", &bearer(ADMIN_TOKEN))]).await?.0, 200);
        let (code, refused) = ask(stage, &client, &path, &[("authorization", &bearer("wrong"))]).await?;
        assert_eq!((code, &refused["reason"]), (401, &json!("Unauthorized")));
        let (code, refused) = ask(stage, &client, &path, &[("authorization", &bearer(NOBODY_TOKEN))]).await?;
        assert_eq!(code, 403);
        ensure!(refused["message"].as_str().unwrap_or_default().contains("User \"nobody\""), "{refused}");
        let (code, refused) = ask(stage, &client, &path, &[]).await?;
        assert_eq!(code, 403);
        ensure!(refused["message"].as_str().unwrap_or_default().contains("system:anonymous"), "{refused}");
        assert_eq!(ask(stage, &client, "/metrics", &[]).await?.0, 403);
        for path in ["/livez", "/readyz?verbose", "/healthz/ping"] {
            assert_eq!(ask(stage, &client, path, &[]).await?.0, 200, "{path}");
        }
        Ok(())
    })
}

#[test]
fn headers_of_the_front_proxy_are_believed_from_the_front_proxy_only() -> Result<()> {
    on_stage(async |stage| {
        let path = format!("{CACHE}{DEPLOYMENTS}");
        let claim = [("x-remote-user", "admin"), ("x-remote-group", "system:masters")];
        let client = stage.fleetglass()?.client()?;
        let (code, refused) = ask(stage, &client, &path, &claim).await?;
        assert_eq!(code, 403);
        ensure!(refused["message"].as_str().unwrap_or_default().contains("system:anonymous"), "{refused}");
        let client = stage.control_plane.client()?;
        let url = format!("{}{path}", stage.control_plane.url);
        let spoofed =
            client.get(url).bearer_auth(NOBODY_TOKEN).header("x-remote-group", "system:masters").send().await?;
        assert_eq!(spoofed.status(), 403, "the control plane's word counts, not the caller's");
        Ok(())
    })
}

#[test]
fn readers_of_registries_cannot_write_them() -> Result<()> {
    on_stage(async |stage| {
        let kubectl = stage.kubectl()?;
        let rules = json!({ "apiVersion": "v1", "kind": "List", "items": [
            { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "registry-viewer" },
              "rules": [{ "apiGroups": ["search.karmada.io"], "resources": ["resourceregistries"], "verbs": ["get", "list"] }] },
            { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "registry-viewer" },
              "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "registry-viewer" },
              "subjects": [{ "kind": "User", "name": "viewer", "apiGroup": "rbac.authorization.k8s.io" }] },
        ] });
        kubectl.apply(&rules.to_string()).await?;
        tests::eventually(std::time::Duration::from_secs(60), async || {
            kubectl.run(&["--as=viewer", "get", "resourceregistries"]).await.map(drop)
        })
        .await?;
        let manifest = registry("not-mine", &[], &["v1/Pod"]).to_string();
        let refused = kubectl.try_run(&["--as=viewer", "create", "-f", "-"], &manifest).await?;
        let words = "User \"viewer\" cannot create resource \"resourceregistries\"";
        ensure!(!refused.success && refused.stderr.contains(words), "{}", refused.stderr);
        Ok(())
    })
}

#[test]
fn metrics_are_there_for_who_may_read_them() -> Result<()> {
    on_stage(async |stage| {
        let metrics = stage.fleetglass()?.client()?.get(format!("{}/metrics", stage.fleetglass()?.url));
        let text = metrics.bearer_auth(ADMIN_TOKEN).send().await?.text().await?;
        let requests = text.lines().find(|line| line.starts_with("apiserver_request")).context("no request metric")?;
        ensure!(requests.contains("verb="), "{requests}");
        Ok(())
    })
}
