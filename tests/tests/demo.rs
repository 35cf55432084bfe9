//! The demo, as somebody new sees it: one command, and the commands that it prints.

mod shared;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shared::run;
use tests::eventually;
use tests::fleetglass::program;
use tests::parts::{Part, find};
use tests::process::Server;

#[test]
fn every_command_that_the_demo_prints_works_with_stock_kubectl() -> Result<()> {
    run(async || {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let arguments = ["demo".to_owned(), format!("--data-dir={}", data.display())];
        let mut server = Server::start("demo", &program()?, arguments, folder.path())?;
        let log = server.log().to_path_buf();
        let commands = server
            .until(Duration::from_secs(60), async || {
                let text = std::fs::read_to_string(&log)?;
                let commands: Vec<String> =
                    text.lines().filter(|line| line.starts_with("kubectl ")).map(str::to_owned).collect();
                ensure!(commands.len() == 3 && text.contains("Ctrl-C"), "{text}");
                Ok(commands)
            })
            .await?;
        let mut outputs = Vec::new();
        for command in &commands {
            outputs.push(shell(command).await?);
        }
        ensure!(outputs[0].contains("deployment-search") && outputs[0].contains("True"), "{}", outputs[0]);
        ensure!(
            outputs[1].contains("\"kind\":\"DeploymentList\"") && outputs[1].contains("pegasus-2"),
            "{}",
            outputs[1]
        );
        let table = &outputs[2];
        ensure!(table.starts_with("NAMESPACE") && table.contains("CLUSTER") && table.contains("pegasus-2"), "{table}");
        edit(&data, &commands).await?;
        server.stop()
    })
}

/// Manifests can be edited while the demo runs.
async fn edit(data: &std::path::Path, commands: &[String]) -> Result<()> {
    let added = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: added-by-hand, namespace: nginx}\n";
    std::fs::write(data.join("clusters/pegasus/added.yaml"), added)?;
    eventually(Duration::from_secs(60), async || {
        let table = shell(commands.last().context("no commands")?).await?;
        ensure!(table.contains("added-by-hand"), "{table}");
        Ok(())
    })
    .await
}

async fn shell(command: &str) -> Result<String> {
    let kubectl = find(Part::Kubectl)?;
    let command = command.replacen("kubectl", &kubectl.display().to_string(), 1);
    let output = tokio::process::Command::new("sh").args(["-c", &command]).output().await?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
