//! A server over folders of manifests, as somebody runs it on their own machine: what goes wrong there is told, and harms nothing.

mod shared;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use shared::{CACHE, run};
use tempfile::TempDir;
use tests::eventually;
use tests::fleetglass::program;
use tests::karmada::registry;
use tests::process::free_port;
use tests::standalone::Standalone;

const SOON: Duration = Duration::from_secs(60);
const MAPS: &str = "api/v1/configmaps";

struct Scene {
    server: Standalone,
    folder: TempDir,
}

impl Scene {
    async fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("fleetglass-standalone-").tempdir()?;
        for cluster in ["east", "west"] {
            write(&folder.path().join(format!("clusters/{cluster}/web.yaml")), &map("web"))?;
        }
        let members = format!("--members=snapshot:{}", folder.path().join("clusters").display());
        let server = Standalone::start(&folder.path().join("data"), &[&members]).await?;
        let scene = Self { server, folder };
        scene.server.kubectl.apply(&registry("maps", &[], &["v1/ConfigMap"]).to_string()).await?;
        scene.is_ready("2 clusters followed").await?;
        Ok(scene)
    }

    async fn is_ready(&self, message: &str) -> Result<()> {
        let path = "jsonpath={.status.conditions[0].status} {.status.conditions[0].message}";
        eventually(SOON, async || {
            let told = self.server.kubectl.run(&["get", "resourceregistry", "maps", "-o", path]).await?;
            ensure!(told == format!("True {message}"), "{told}");
            Ok(())
        })
        .await
    }
}

fn map(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: shop}}\n")
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    Ok(std::fs::write(path, text)?)
}

#[test]
fn a_registry_that_is_made_anew_says_again_that_it_is_ready() -> Result<()> {
    run(async || {
        let scene = Scene::start().await?;
        let maps = registry("maps", &[], &["v1/ConfigMap"]).to_string();
        for _ in 0..3 {
            scene.server.kubectl.run(&["delete", "resourceregistry", "maps"]).await?;
            scene.server.kubectl.apply(&maps).await?;
            scene.is_ready("2 clusters followed").await?;
        }
        let named = registry("maps", &["east", "atlantis"], &["v1/ConfigMap"]).to_string();
        scene.server.kubectl.apply(&named).await?;
        scene.is_ready("1 clusters followed; there is no cluster atlantis").await?;
        scene.server.stop()
    })
}

#[test]
fn a_second_server_in_the_same_folder_is_refused_and_the_first_one_is_reached_as_before() -> Result<()> {
    run(async || {
        let scene = Scene::start().await?;
        let (data, port) = (scene.folder.path().join("data"), free_port()?);
        let flags = [format!("--data-dir={}", data.display()), format!("--secure-port={port}")];
        let members = format!("--members=snapshot:{}", scene.folder.path().join("clusters").display());
        for command in [vec!["serve", &flags[0], &flags[1], &members], vec!["demo", &flags[0]]] {
            let second = Command::new(program()?).args(&command).output()?;
            let told = [second.stdout, second.stderr].concat();
            let told = String::from_utf8_lossy(&told);
            ensure!(!second.status.success() && told.contains("in use by another process"), "{command:?}: {told}");
            scene.server.kubectl.run(&["get", "resourceregistries"]).await?;
        }
        scene.server.stop()
    })
}

#[test]
fn a_file_that_can_no_longer_be_read_is_told_of_wherever_its_objects_are_missed() -> Result<()> {
    run(async || {
        let scene = Scene::start().await?;
        let broken = scene.folder.path().join("clusters/east/web.yaml");
        write(&broken, "a: [b\n")?;
        let list = format!("{CACHE}/{MAPS}");
        let query = "/apis/search.karmada.io/v1alpha1/search/query";
        for path in [&list, query] {
            eventually(SOON, async || {
                let answer = scene.server.kubectl.try_run(&["get", "--raw", path], "").await?;
                let told = &answer.stderr;
                ensure!(answer.success && told.contains("cluster east") && told.contains("web.yaml"), "{told:?}");
                Ok(())
            })
            .await?;
        }
        ensure!(scene.server.log()?.contains("files of the cluster can't be read"), "nothing is logged");
        write(&broken, &map("web"))?;
        eventually(SOON, async || {
            let answer = scene.server.kubectl.try_run(&["get", "--raw", &list], "").await?;
            ensure!(answer.success && answer.stderr.is_empty() && answer.stdout.contains("east"), "{answer:?}");
            Ok(())
        })
        .await?;
        scene.server.stop()
    })
}
