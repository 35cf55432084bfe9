//! `fleetglass demo`: two clusters from manifests that come along, nothing else needed.
//!
//! The manifests are written to the data folder, so that they can be edited while the demo runs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use apiservice::registry::{RegistryApi, RegistryStore};
use apiservice::storage::Storage;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use include_dir::{Dir, include_dir};
use indexer::connection::ConnectionLimits;
use indexer::source::snapshot;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::args::DemoArgs;
use crate::run::{Lifetime, Server};
use crate::settings::{Settings, stores_in};
use crate::{identity, kubeconfig};

static MANIFESTS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../deploy/demo");
const CLUSTERS: [&str; 2] = ["pegasus", "pegasus-2"];
/// How long the demo may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs until told to stop.
///
/// # Errors
/// If the folder or the port cannot be used.
pub(crate) async fn run(args: DemoArgs) -> Result<()> {
    let temporary = match &args.data_dir {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("fleetglass-demo-").tempdir()?),
    };
    let folder = match (&args.data_dir, &temporary) {
        (Some(folder), _) => std::path::absolute(folder)?,
        (None, Some(temporary)) => temporary.path().to_path_buf(),
        (None, None) => bail!("there is no folder to work in"),
    };
    let lifetime = Lifetime::start()?;
    let stop = lifetime.stop.clone();
    let listener = TcpListener::bind(("127.0.0.1", args.port))
        .await
        .with_context(|| format!("cannot listen on 127.0.0.1:{}", args.port))?;
    let address = listener.local_addr()?;
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    // Whoever else serves from the same folder has it locked, and its files stay as they are.
    let stores = stores_in(&folder)?;
    let storage = Arc::clone(&stores.registries);
    let clusters = write_manifests(&folder)?;
    let identity = identity::standalone(address)?;
    let path = folder.join("kubeconfig");
    if let Some(pki) = &identity.standalone {
        kubeconfig::write(&path, &format!("https://{address}"), pki)?;
    }
    create_registry(&storage, &stop).await?;
    let server = Server {
        listener,
        identity,
        stores,
        control_plane: None,
        members: snapshot::start(clusters.clone(), stop.clone())?,
        member_limits: ConnectionLimits { qps: 0.0, burst: 0, streamed_lists: true },
        settings: Settings { index: Some(crate::settings::index_in(folder.join("index"))), ..Settings::default() },
    };
    let serving = tokio::spawn(server.run(lifetime));
    wait_until_ready(&storage, &stop).await?;
    introduce(&path, &clusters, address.port())?;
    serving.await??;
    Ok(())
}

/// Writes the clusters' manifests below the folder, as far as they are not there already.
fn write_manifests(folder: &Path) -> Result<PathBuf> {
    let clusters = folder.join("clusters");
    for name in CLUSTERS {
        let manifests =
            MANIFESTS.get_dir(name).with_context(|| format!("the demo's cluster {name} is not in the program"))?;
        for file in manifests.files() {
            let path = clusters.join(file.path());
            if !path.exists() {
                std::fs::create_dir_all(path.parent().unwrap_or(&clusters))?;
                std::fs::write(&path, file.contents()).with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
    }
    Ok(folder.join("clusters"))
}

/// Creates the demo's registry as a client would, so that it is checked and complete.
async fn create_registry(storage: &Arc<dyn Storage>, stop: &CancellationToken) -> Result<()> {
    let manifest = MANIFESTS.get_file("registry.yaml").context("the demo's registry is not in the program")?;
    let store = RegistryStore::start(Arc::clone(storage), stop.clone());
    let router = apiservice::registry::router(RegistryApi { store, stopping: stop.clone() });
    let request = Request::post(format!("{}/resourceregistries", apiservice::GROUP_VERSION_PATH))
        .header("content-type", "application/yaml")
        .header("user-agent", "fleetglass-demo")
        .body(Body::from(manifest.contents()))?;
    let response = router.oneshot(request).await?;
    match response.status() {
        StatusCode::CREATED | StatusCode::CONFLICT => Ok(()),
        status => {
            let body = response.into_body().collect().await?.to_bytes();
            bail!("the demo's registry was refused with {status}: {}", String::from_utf8_lossy(&body))
        }
    }
}

/// Waits until the registry says that it is ready, so that the first command shows everything.
async fn wait_until_ready(storage: &Arc<dyn Storage>, stop: &CancellationToken) -> Result<()> {
    let is_ready = async {
        loop {
            if let Some(stored) = storage.list().await?.items.first() {
                let document: serde_json::Value = serde_json::from_slice(&stored.value)?;
                if document["status"]["conditions"][0]["status"] == "True" {
                    return Ok::<(), anyhow::Error>(());
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        outcome = tokio::time::timeout(PATIENCE, is_ready) => outcome.context("the demo's clusters were not read in time")?,
    }
}

fn introduce(kubeconfig: &Path, clusters: &Path, port: u16) -> Result<()> {
    let kubeconfig = kubeconfig.display();
    let program = std::env::current_exe().unwrap_or_else(|_| "fleetglass".into());
    let program = program.display();
    let cache = format!("{}/search/cache", apiservice::GROUP_VERSION_PATH);
    let mut output = std::io::stdout().lock();
    writeln!(
        output,
        "Fleetglass shows two clusters, pegasus and pegasus-2. Try, in another terminal:\n\n\
         kubectl --kubeconfig {kubeconfig} get resourceregistries\n\
         kubectl --kubeconfig {kubeconfig} get --raw {cache}/apis/apps/v1/deployments\n\
         kubectl --kubeconfig {kubeconfig} --server https://127.0.0.1:{port}{cache} get deployments -A\n\
         {program} search --kubeconfig {kubeconfig} 'image:*nginx*'\n\n\
         Their manifests are in {}: edit them and look again. Ctrl-C ends the demo.",
        clusters.display()
    )?;
    output.flush()?;
    Ok(())
}
