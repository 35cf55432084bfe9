//! Starts a whole stage by hand: a control plane, members with workloads, Fleetglass joined; stays up until Ctrl-C.

use std::io::Write;

use anyhow::Result;
use clap::Parser;
use tests::karmada::registry;
use tests::stage::{Plan, Stage};

/// A stage to try things on.
#[derive(Debug, Parser)]
struct Arguments {
    /// Member clusters
    #[arg(long, default_value_t = 2)]
    members: usize,
    /// Applications in each member
    #[arg(long, default_value_t = 6)]
    applications: usize,
    /// Pods of each application
    #[arg(long, default_value_t = 3)]
    pods: usize,
    /// Leave Fleetglass out, e.g. to start it in a debugger
    #[arg(long)]
    without_fleetglass: bool,
    /// Flags for Fleetglass, behind `--`
    #[arg(last = true)]
    fleetglass_flags: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    tracing::info!("starting etcd, a control plane and {} members", arguments.members);
    let plan = Plan {
        members: arguments.members,
        applications: arguments.applications,
        pods: arguments.pods,
        fleetglass: !arguments.without_fleetglass,
        arguments: arguments.fleetglass_flags,
    };
    let stage = Stage::start(&plan).await?;
    if plan.fleetglass {
        let everything = registry("everything", &[], &["apps/v1/Deployment", "v1/Pod", "v1/Service", "v1/Node"]);
        stage.kubectl()?.apply(&everything.to_string()).await?;
    }
    introduce(&stage)?;
    tokio::signal::ctrl_c().await?;
    Ok(())
}

fn introduce(stage: &Stage) -> Result<()> {
    let mut output = std::io::stdout().lock();
    let kubeconfig = |path: &std::path::Path| path.display().to_string();
    let control_plane = stage.kubectl()?;
    writeln!(output, "control plane: {}", kubeconfig(control_plane.kubeconfig()))?;
    for member in &stage.members {
        writeln!(output, "{}: {}", member.name, kubeconfig(member.kubectl()?.kubeconfig()))?;
    }
    let cache = "/apis/search.karmada.io/v1alpha1/search/cache";
    writeln!(
        output,
        "\nTry:\nexport KUBECONFIG={0}\nkubectl get resourceregistries\n\
         kubectl get --raw {cache}/apis/apps/v1/deployments\n\
         kubectl --server {1}{cache} get pods -A\n\nCtrl-C ends everything.",
        kubeconfig(control_plane.kubeconfig()),
        stage.control_plane.url,
    )?;
    output.flush()?;
    Ok(())
}
