//! What operators set and look at: audit log, certificates, ciphers, shutdown, metrics, traces, profiles.

mod shared;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use serde_json::{Value, json};
use shared::{CACHE, run};
use tests::api_server::{ADMIN_TOKEN, ApiServer, NOBODY_TOKEN};
use tests::eventually;
use tests::karmada::registry;
use tests::pki::Authority;
use tests::process::free_port;
use tests::stage::{Plan, Stage};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::TcpListenerStream;

const REGISTRIES: &str = "/apis/search.karmada.io/v1alpha1/resourceregistries";

/// A stage with one member whose Fleetglass has further flags.
async fn stage_with(arguments: Vec<String>) -> Result<Stage> {
    Stage::start(&Plan { members: 1, applications: 2, pods: 0, arguments, ..Plan::default() }).await
}

const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  nonResourceURLs: ['/readyz*', '/livez*', '/openapi*', '/apis*', '/version']
- level: None
  users: ['system:kube-aggregator', 'system:aggregator']
- level: RequestResponse
  verbs: [create, update, patch, delete]
  resources: [{group: search.karmada.io, resources: [resourceregistries]}]
- level: Metadata
";

fn events(log: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(log)?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

#[test]
fn the_audit_log_tells_who_did_what_through_the_control_plane() -> Result<()> {
    run(async || {
        let folder = tempfile::tempdir()?;
        let (policy, log) = (folder.path().join("policy.yaml"), folder.path().join("logs/audit.log"));
        std::fs::write(&policy, POLICY)?;
        let stage = stage_with(vec![
            format!("--audit-policy-file={}", policy.display()),
            format!("--audit-log-path={}", log.display()),
            "--audit-log-mode=blocking-strict".to_owned(),
        ])
        .await?;
        let kubectl = stage.kubectl()?;
        kubectl.apply(&registry("audited", &[], &["apps/v1/Deployment"]).to_string()).await?;
        // The control plane would refuse this itself; who comes directly is refused here.
        let fleetglass = stage.fleetglass()?;
        let url = format!("{}{CACHE}/apis/apps/v1/deployments", fleetglass.url);
        let refused = fleetglass.client()?.get(url).bearer_auth(NOBODY_TOKEN).send().await?;
        assert_eq!(refused.status().as_u16(), 403);
        kubectl.run(&["delete", "resourceregistry", "audited"]).await?;

        let seen = eventually(Duration::from_secs(60), async || {
            let seen = events(&log)?;
            ensure!(seen.iter().any(|event| event["verb"] == "delete"), "{seen:?}");
            Ok(seen)
        })
        .await?;
        let of = |verb: &str, user: &str| {
            seen.iter().find(|event| event["verb"] == verb && event["user"]["username"] == user)
        };
        let created = of("create", "admin").context("no create")?;
        assert_eq!((&created["stage"], &created["level"]), (&json!("ResponseComplete"), &json!("RequestResponse")));
        assert_eq!(created["objectRef"]["resource"], "resourceregistries");
        assert_eq!((&created["responseStatus"]["code"], &created["kind"]), (&json!(201), &json!("Event")));
        assert_eq!(created["requestObject"]["metadata"]["name"], "audited");
        ensure!(created["responseObject"]["metadata"]["uid"].is_string(), "{created}");
        ensure!(created["responseObject"]["metadata"]["managedFields"].is_null(), "{created}");
        ensure!(created["user"]["groups"].to_string().contains("system:masters"), "{created}");
        ensure!(created["sourceIPs"].to_string().contains("127.0.0.1"), "{created}");
        let refused = of("get", "nobody").context("no refusal")?;
        assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
        assert_eq!(refused["objectRef"]["subresource"], "apis");
        assert_eq!(
            (&refused["responseStatus"]["code"], &refused["responseStatus"]["reason"]),
            (&json!(403), &json!("Forbidden"))
        );
        ensure!(!seen.iter().any(|event| event["requestURI"].as_str().is_some_and(|uri| uri.starts_with("/readyz"))));
        Ok(())
    })
}

/// What a handshake came to: version, cipher suite, and the names of the certificate that was shown.
async fn handshake(
    port: u16,
    authority: &str,
    versions: &[&'static SupportedProtocolVersion],
    name: &'static str,
) -> Result<(String, String, String)> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).context("no authority")?)?;
    let config = ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots);
    let socket = TcpStream::connect(("127.0.0.1", port)).await?;
    let stream =
        TlsConnector::from(Arc::new(config.with_no_client_auth())).connect(ServerName::try_from(name)?, socket).await?;
    let session = stream.get_ref().1;
    let shown = session.peer_certificates().and_then(<[_]>::first).context("no certificate")?;
    let (_, certificate) = x509_parser::parse_x509_certificate(shown)?;
    let names = certificate.subject().to_string();
    let suite = session.negotiated_cipher_suite().context("no suite")?.suite();
    Ok((format!("{:?}", session.protocol_version().context("no version")?), format!("{suite:?}"), names))
}

#[test]
fn certificates_are_chosen_by_name_and_exchanged_while_it_runs_and_old_tls_is_refused() -> Result<()> {
    run(async || {
        let folder = tempfile::tempdir()?;
        let authority = Authority::new("further")?;
        let further = authority.server(folder.path(), "further-1", &["further.example", "localhost"])?;
        let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        std::fs::copy(&further.certificate, &certificate)?;
        std::fs::copy(&further.key, &key)?;
        let suite = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256";
        let stage = stage_with(vec![
            format!("--tls-sni-cert-key={},{}:further.example", certificate.display(), key.display()),
            format!("--tls-cipher-suites={suite}"),
        ])
        .await?;
        let fleetglass = stage.fleetglass()?;
        let port = fleetglass.port();
        let (tls12, tls13) = ([&rustls::version::TLS12], [&rustls::version::TLS13]);
        let (version, chosen, names) = handshake(port, &fleetglass.authority, &tls12, "localhost").await?;
        assert_eq!((&*version, &*chosen, &*names), ("TLSv1_2", suite, "CN=serving"));
        let (version, _, names) = handshake(port, &authority.certificate, &tls13, "further.example").await?;
        assert_eq!((&*version, &*names), ("TLSv1_3", "CN=further-1"));

        let newer = authority.server(folder.path(), "further-2", &["further.example"])?;
        std::fs::copy(&newer.key, &key)?;
        // Between the two files the pair doesn't fit; the old one goes on being shown.
        tokio::time::sleep(Duration::from_secs(1)).await;
        std::fs::copy(&newer.certificate, &certificate)?;
        eventually(Duration::from_secs(60), async || {
            let (.., names) = handshake(port, &authority.certificate, &tls13, "further.example").await?;
            ensure!(names == "CN=further-2", "{names}");
            Ok(())
        })
        .await?;
        drop(stage);

        let strict = stage_with(vec!["--tls-min-version=VersionTLS13".to_owned()]).await?;
        let fleetglass = strict.fleetglass()?;
        handshake(fleetglass.port(), &fleetglass.authority, &tls13, "localhost").await?;
        let refused = handshake(fleetglass.port(), &fleetglass.authority, &tls12, "localhost").await;
        ensure!(refused.is_err(), "TLS 1.2 was spoken");
        Ok(())
    })
}

#[test]
fn a_server_that_stops_answers_what_is_under_way_and_sends_others_away() -> Result<()> {
    run(async || {
        let arguments = ["--shutdown-delay-duration=20s", "--shutdown-send-retry-after"].map(str::to_owned).to_vec();
        let mut stage = Stage::start(&Plan { members: 0, arguments, ..Plan::default() }).await?;
        let fleetglass = stage.fleetglass.take().context("no fleetglass")?;
        let client = fleetglass.client()?;
        let url = |path: &str| format!("{}{path}", fleetglass.url);
        // A write whose body takes its time.
        let (body, chunks) = mpsc::channel::<Result<String, std::io::Error>>(1);
        let slow = client
            .post(url(REGISTRIES))
            .bearer_auth(ADMIN_TOKEN)
            .header("content-type", "application/json")
            .body(reqwest::Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(chunks)));
        let slow = tokio::spawn(slow.send());
        let text = registry("slow", &[], &["v1/Pod"]).to_string();
        let (first, rest) = text.split_at(20);
        body.send(Ok(first.to_owned())).await?;
        let status = async |path: &str| -> Result<(u16, Option<String>)> {
            // A connection of its own, as a load balancer's next client has.
            let answer = fleetglass.client()?.get(url(path)).bearer_auth(ADMIN_TOKEN).send().await?;
            let after = answer.headers().get("retry-after").and_then(|after| after.to_str().ok()).map(str::to_owned);
            Ok((answer.status().as_u16(), after))
        };
        assert_eq!(status("/readyz").await?.0, 200);
        std::process::Command::new("kill").args(["-TERM", &fleetglass.pid().to_string()]).status()?;
        eventually(Duration::from_secs(60), async || {
            ensure!(status("/readyz").await?.0 == 500, "still ready");
            Ok(())
        })
        .await?;
        assert_eq!(status(REGISTRIES).await?.0, 200, "within the delay it serves as ever");
        let refused = eventually(Duration::from_secs(60), async || {
            let (code, after) = status(REGISTRIES).await?;
            ensure!(code == 429, "{code}");
            Ok(after)
        })
        .await?;
        assert_eq!(refused.as_deref(), Some("5"));
        body.send(Ok(rest.to_owned())).await?;
        drop(body);
        assert_eq!(slow.await??.status().as_u16(), 201, "what was under way is answered");
        fleetglass.stop()
    })
}

#[test]
fn metrics_tell_requests_objects_and_the_process_in_the_forms_that_collectors_know() -> Result<()> {
    run(async || {
        let stage = stage_with(Vec::new()).await?;
        let kubectl = stage.kubectl()?;
        kubectl.apply(&registry("measured", &[], &["apps/v1/Deployment"]).to_string()).await?;
        kubectl.run(&["wait", "--for=condition=Ready", "resourceregistry/measured", "--timeout=120s"]).await?;
        for name in ["app-000", "nothing"] {
            kubectl.raw(&format!("{CACHE}/apis/apps/v1/namespaces/team-000/deployments/{name}")).await?;
        }
        let fleetglass = stage.fleetglass()?;
        let ask = async |token: &str, accept: &str| -> Result<(u16, String, String)> {
            let request = fleetglass.client()?.get(format!("{}/metrics", fleetglass.url));
            let answer = request.bearer_auth(token).header("accept", accept).send().await?;
            let kind = answer.headers().get("content-type").context("no type")?.to_str()?.to_owned();
            Ok((answer.status().as_u16(), kind, answer.text().await?))
        };
        let (code, kind, text) = ask(ADMIN_TOKEN, "text/plain").await?;
        assert_eq!((code, &*kind), (200, "text/plain; version=0.0.4; charset=utf-8"));
        let part = r#"{cluster="member1",group="apps",version="v1",resource="deployments"}"#;
        for line in [
            &format!("fleetglass_objects{part} 2"),
            &format!("fleetglass_synced{part} 1"),
            &format!("fleetglass_watch_starts_total{part} "),
            "# TYPE fleetglass_watch_starts_total counter",
            "fleetglass_cluster_ready{cluster=\"member1\"} 1",
            "fleetglass_cache_lookups_total{result=\"hit\"} 1",
            "fleetglass_cache_lookups_total{result=\"miss\"} 1",
            "# TYPE apiserver_request_duration_seconds histogram",
            "apiserver_current_inflight_requests{request_kind=\"readOnly\"}",
            "process_resident_memory_bytes ",
            "process_cpu_seconds_total ",
        ] {
            ensure!(text.contains(line), "{line} is not in\n{text}");
        }
        let requests =
            r#"apiserver_request_total{verb="GET",group="search.karmada.io",version="v1alpha1",resource="search""#;
        ensure!(text.contains(requests) && !text.contains("# EOF"), "{text}");
        let (_, kind, text) = ask(ADMIN_TOKEN, "application/openmetrics-text;version=1.0.0").await?;
        ensure!(kind.starts_with("application/openmetrics-text") && text.ends_with("# EOF\n"), "{kind}");
        assert_eq!(ask(NOBODY_TOKEN, "text/plain").await?.0, 403);
        Ok(())
    })
}

/// A collector that hands on what it gets.
struct Collector(mpsc::UnboundedSender<Span>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let spans = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        for span in spans.flat_map(|scope| scope.spans) {
            // Nobody waits for more than the first few.
            let _ = self.0.send(span);
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

#[test]
fn spans_of_requests_reach_a_collector_and_continue_the_callers_trace() -> Result<()> {
    run(async || {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let (spans, mut received) = mpsc::unbounded_channel();
        let service = TraceServiceServer::new(Collector(spans));
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        let stage = stage_with(vec![format!("--otlp-endpoint={endpoint}")]).await?;
        let fleetglass = stage.fleetglass()?;
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let request = fleetglass.client()?.get(format!("{}{REGISTRIES}", fleetglass.url)).bearer_auth(ADMIN_TOKEN);
        request.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01")).send().await?.error_for_status()?;
        let ours = async {
            while let Some(span) = received.recv().await {
                let id: String = span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
                if id == trace {
                    return Some(span);
                }
            }
            None
        };
        let span = tokio::time::timeout(Duration::from_secs(30), ours).await?.context("the collector ended")?;
        assert_eq!(span.name, format!("GET {REGISTRIES}"));
        let attribute = |key: &str| span.attributes.iter().find(|attribute| attribute.key == key);
        ensure!(format!("{:?}", attribute("http.response.status_code")).contains("200"), "{span:?}");
        ensure!(!fleetglass.log()?.contains(trace), "spans are for the collector, not for the log");
        Ok(())
    })
}

#[test]
fn a_profile_can_be_taken_while_it_serves() -> Result<()> {
    run(async || {
        let port = free_port()?;
        let arguments = vec!["--enable-pprof".to_owned(), format!("--profiling-bind-address=127.0.0.1:{port}")];
        let stage = stage_with(arguments).await?;
        let url = format!("http://127.0.0.1:{port}/debug/pprof/profile?seconds=2");
        let taking = tokio::spawn(reqwest::get(url));
        let kubectl = stage.kubectl()?;
        for _ in 0..5 {
            kubectl.raw(REGISTRIES).await?;
        }
        let bytes = taking.await??.error_for_status()?.bytes().await?;
        let mut profile = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut profile)?;
        ensure!(profile.windows(7).any(|part| part == b"samples"), "{} bytes that are no profile", profile.len());
        stage
            .fleetglass()?
            .client()?
            .get(format!("{}/readyz", stage.fleetglass()?.url))
            .send()
            .await?
            .error_for_status()?;
        Ok(())
    })
}

/// Whether an API server was asked for a whole list of Deployments.
async fn was_asked_for_a_list(member: &ApiServer) -> Result<bool> {
    let metrics = member.kubectl()?.run(&["get", "--raw", "/metrics"]).await?;
    let about_deployments = metrics
        .lines()
        .filter(|line| line.starts_with("apiserver_request_total{") && line.contains("resource=\"deployments\""));
    Ok(about_deployments.into_iter().any(|line| line.contains("verb=\"LIST\"")))
}

#[test]
fn a_member_that_streams_its_lists_is_asked_to_unless_a_gate_says_otherwise() -> Result<()> {
    run(async || {
        for (gate, lists) in [("--feature-gates=WatchListClient=false", true), ("--feature-gates=Other=true", false)] {
            let stage = stage_with(vec![gate.to_owned()]).await?;
            let kubectl = stage.kubectl()?;
            kubectl.apply(&registry("gated", &[], &["apps/v1/Deployment"]).to_string()).await?;
            kubectl.run(&["wait", "--for=condition=Ready", "resourceregistry/gated", "--timeout=120s"]).await?;
            let member = stage.members.first().context("no member")?;
            assert_eq!(was_asked_for_a_list(member).await?, lists, "{gate}");
        }
        Ok(())
    })
}
