//! A whole stage: etcd, a control plane, members with workloads, Fleetglass joined. Gone when dropped.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use tempfile::TempDir;

use crate::api_server::{ApiServer, Options};
use crate::etcd::Etcd;
use crate::fleetglass::{Fleetglass, program};
use crate::karmada::ControlPlane;
use crate::kubectl::Kubectl;
use crate::process::Sweeper;
use crate::workloads::{Application, Filler};

/// What a stage is to have.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Members, `member1` and so on.
    pub members: usize,
    /// Applications in each member; the first in namespace `team-000`, spread over two namespaces.
    pub applications: usize,
    /// Pods of each application.
    pub pods: usize,
    /// Whether Fleetglass is started and joined.
    pub fleetglass: bool,
    /// Its further flags.
    pub arguments: Vec<String>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { members: 2, applications: 4, pods: 2, fleetglass: true, arguments: Vec::new() }
    }
}

/// A running stage.
#[derive(Debug)]
pub struct Stage {
    /// The control plane.
    pub control_plane: ApiServer,
    /// What it knows of clusters.
    pub karmada: ControlPlane,
    /// The members.
    pub members: Vec<ApiServer>,
    /// The program under test.
    pub fleetglass: Option<Fleetglass>,
    /// Where all of them keep their data.
    pub etcd: Etcd,
    _sweeper: Sweeper,
    folder: TempDir,
}

impl Stage {
    /// Starts everything, as much at once as can be.
    ///
    /// # Errors
    /// If a part does not come up.
    pub async fn start(plan: &Plan) -> Result<Self> {
        if plan.fleetglass {
            // Building takes its time; servers need not wait for it.
            tokio::task::spawn_blocking(program).await??;
        }
        let folder = tempfile::Builder::new().prefix("fleetglass-stage-").tempdir()?;
        let sweeper = Sweeper::start(folder.path())?;
        let etcd = Etcd::start(folder.path()).await?;
        let members = (1..=plan.members).map(|number| start_member(number, &etcd.url, folder.path(), plan));
        let control_plane = ApiServer::start("control-plane", &etcd.url, folder.path(), Options::default());
        let (control_plane, members) = tokio::try_join!(control_plane, try_join_all(members))?;
        let karmada = ControlPlane::install(control_plane.kubectl()?).await?;
        for member in &members {
            karmada.join(member).await?;
        }
        let fleetglass = match plan.fleetglass {
            true => Some(Fleetglass::join(&control_plane, &etcd.url, folder.path(), &plan.arguments).await?),
            false => None,
        };
        Ok(Self { control_plane, karmada, members, fleetglass, etcd, _sweeper: sweeper, folder })
    }

    /// kubectl on the control plane, as its administrator.
    ///
    /// # Errors
    /// If the kubeconfig cannot be written.
    pub fn kubectl(&self) -> Result<Kubectl> {
        self.control_plane.kubectl()
    }

    /// The program under test.
    ///
    /// # Errors
    /// If the stage was planned without it.
    pub fn fleetglass(&self) -> Result<&Fleetglass> {
        self.fleetglass.as_ref().context("this stage has no Fleetglass")
    }

    /// The program under test, to end it and to start it again.
    ///
    /// # Errors
    /// If the stage was planned without it.
    pub fn fleetglass_mut(&mut self) -> Result<&mut Fleetglass> {
        self.fleetglass.as_mut().context("this stage has no Fleetglass")
    }

    /// Where the stage keeps its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a further API server that nobody knows yet.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn further_member(&self, name: &str, options: Options) -> Result<ApiServer> {
        ApiServer::start(name, &self.etcd.url, self.folder.path(), options).await
    }
}

async fn start_member(number: usize, etcd: &str, folder: &Path, plan: &Plan) -> Result<ApiServer> {
    // Every second member is as old as those that cannot stream lists, so that both ways are always trodden.
    let options = Options { without_streamed_lists: number.is_multiple_of(2), ..Options::default() };
    let member = ApiServer::start(&format!("member{number}"), etcd, folder, options).await?;
    fill(&member, plan).await?;
    Ok(member)
}

async fn fill(member: &ApiServer, plan: &Plan) -> Result<()> {
    let filler = Arc::new(Filler::new(member)?);
    for namespace in ["team-000", "team-001"] {
        filler.namespace(namespace).await?;
    }
    filler.node(&format!("{}-node", member.name)).await?;
    for number in 0..plan.applications {
        let namespace = format!("team-{:03}", number % 2);
        let application = Application { number, namespace, pods: plan.pods };
        filler.application(&application).await?;
        filler.pods((0..plan.pods).map(|index| application.pod(index)).collect(), || {}).await?;
    }
    Ok(())
}
