//! Clients that dawdle, lie or leave, and members that answer nonsense: none of it hurts anybody else.

mod shared;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use shared::{CACHE, on_stage, origins};
use tests::api_server::ADMIN_TOKEN;
use tests::eventually;
use tests::karmada::registry;
use tests::pki::Authority;
use tests::stage::Stage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Whether a plain request is answered while others are held up.
async fn is_well(stage: &Stage) -> Result<()> {
    let fleetglass = stage.fleetglass()?;
    eventually(Duration::from_secs(60), async || {
        // With a connection of its own each time.
        let request = fleetglass.client()?.get(format!("{}/readyz", fleetglass.url)).timeout(Duration::from_secs(20));
        let answer = request.send().await?;
        ensure!(answer.status().is_success(), "readyz answers {}", answer.status());
        Ok(())
    })
    .await
}

#[test]
fn clients_that_never_finish_what_they_began_hold_up_nobody() -> Result<()> {
    on_stage(async |stage| {
        let address = stage.fleetglass()?.url.trim_start_matches("https://").to_owned();
        let mut held = Vec::new();
        for number in 0..200 {
            let mut socket = TcpStream::connect(&address).await?;
            match number % 4 {
                0 => socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?,
                1 => socket.write_all(&[0x16, 3, 1, 0xff, 0xff, 1]).await?,
                2 => socket.shutdown().await?,
                _ => {}
            }
            held.push(socket);
        }
        is_well(stage).await?;
        // Those that were answered nothing are still there: the answer did not wait for their end.
        let mut open = 0;
        for socket in held.iter_mut().skip(3).step_by(4) {
            let read = tokio::time::timeout(Duration::from_millis(1), socket.read_u8()).await;
            open += usize::from(read.is_err());
        }
        ensure!(open > 40, "only {open} of 50 connections are still open: was their end waited for?");
        Ok(())
    })
}

#[test]
fn absurd_requests_get_a_clear_4xx() -> Result<()> {
    on_stage(async |stage| {
        let fleetglass = stage.fleetglass()?;
        let client = fleetglass.client()?;
        let status = async |path: &str| -> Result<u16> {
            let answer = client.get(format!("{}{path}", fleetglass.url)).bearer_auth(ADMIN_TOKEN).send().await?;
            Ok(answer.status().as_u16())
        };
        let terms = vec!["a"; 2000].join(",");
        for path in [
            format!("{CACHE}/api/v1/pods?labelSelector={terms}"),
            format!("{CACHE}/api/v1/pods?fieldSelector=a%5B0%5D%3D1"),
            format!("{CACHE}/api/v1/pods?continue=%00"),
            format!("{CACHE}/api/v1/pods?limit=99999999999999999999"),
            format!("{CACHE}/api/v1/pods?resourceVersion=1&resourceVersionMatch=Exact"),
            format!("{CACHE}/api/v1/pods?cluster=%20"),
        ] {
            let code = status(&path).await?;
            ensure!((400..500).contains(&code), "{path:.120} answers {code}");
        }
        let posted = client.post(format!("{}{CACHE}/api/v1/pods", fleetglass.url)).bearer_auth(ADMIN_TOKEN).body("{}");
        assert_eq!(posted.send().await?.status(), 405);
        is_well(stage).await
    })
}

/// A server that answers every request with the same bytes, over TLS that nobody vouches for.
async fn garbage_server(answer: &'static [u8]) -> Result<u16> {
    let folder = tempfile::tempdir()?;
    let pair = Authority::new("garbage")?.server(folder.path(), "garbage", &["127.0.0.1"])?;
    let chain = vec![CertificateDer::from_pem_file(&pair.certificate)?];
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&pair.key)?)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut socket = acceptor.accept(socket).await?;
                let mut request = [0; 4096];
                while socket.read(&mut request).await? > 0 {
                    socket.write_all(answer).await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    Ok(port)
}

#[test]
fn members_that_answer_garbage_are_reported_and_contained() -> Result<()> {
    on_stage(async |stage| {
        let kubectl = stage.kubectl()?;
        let answers: [(&str, &[u8]); 4] = [
            ("html", b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n<html>hi</html>"),
            ("null", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull"),
            ("bytes", b"\x00\xff\x00\xff nothing that is HTTP \r\n\r\n"),
            ("short", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"kind\":"),
        ];
        for (name, answer) in answers {
            let port = garbage_server(answer).await?;
            stage.karmada.join_as(name, &format!("https://127.0.0.1:{port}"), ADMIN_TOKEN, None).await?;
        }
        let clusters = ["member1", "html", "null", "bytes", "short"];
        kubectl.apply(&registry("garbage", &clusters, &["v1/Node"]).to_string()).await?;
        eventually(Duration::from_secs(60), async || {
            let nodes = kubectl.raw(&format!("{CACHE}/api/v1/nodes")).await?;
            ensure!(origins(&nodes) == ["member1/member1-node"], "{nodes}");
            let status = kubectl.raw("/apis/search.karmada.io/v1alpha1/search/status").await?;
            let items = status["items"].as_array().cloned().unwrap_or_default();
            for name in ["html", "null", "bytes"] {
                let told = items.iter().any(|item| item["cluster"] == name && item["error"].is_string());
                ensure!(told, "{name} is not reported: {status}");
            }
            Ok(())
        })
        .await?;
        kubectl.run(&["delete", "resourceregistry", "garbage"]).await?;
        for (name, _) in answers {
            stage.karmada.unjoin(name).await?;
        }
        is_well(stage).await
    })
}

#[test]
fn a_thousand_watches_that_come_and_go_leave_nothing_behind() -> Result<()> {
    on_stage(async |stage| {
        stage.kubectl()?.apply(&registry("watches", &["member1"], &["v1/Node"]).to_string()).await?;
        let fleetglass = stage.fleetglass()?;
        let url = format!("{}{CACHE}/api/v1/nodes?watch=true", fleetglass.url);
        let client = fleetglass.client()?;
        for _ in 0..10 {
            let watches = (0..100).map(|_| client.get(&url).bearer_auth(ADMIN_TOKEN).send());
            for answer in futures::future::try_join_all(watches).await? {
                ensure!(answer.status().is_success(), "{}", answer.status());
            }
        }
        is_well(stage).await
    })
}
