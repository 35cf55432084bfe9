//! The member sources that flags name, as one.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use indexer::source::{self, MemberSet};
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::args::MemberSource;

/// Starts all sources; the channel holds what they say together.
///
/// # Errors
/// If a source cannot be used as it is named: an unknown context, a folder that is not there.
pub(crate) async fn start(
    sources: &[MemberSource],
    control_plane: Option<&Client>,
    kubeconfig: Option<&Path>,
    stop: &CancellationToken,
) -> Result<watch::Receiver<Arc<MemberSet>>> {
    let mut receivers = Vec::new();
    for named in sources {
        receivers.push(match named {
            MemberSource::Karmada => {
                let client = control_plane.ok_or_else(|| anyhow::anyhow!("--members=karmada needs a control plane"))?;
                source::karmada::start(client.clone(), stop.clone())
            }
            MemberSource::Contexts(names) => {
                source::contexts::start(kubeconfig.map(Path::to_path_buf), names.clone(), stop.clone()).await?
            }
            MemberSource::Snapshot(folder) => source::snapshot::start(folder.clone(), stop.clone())?,
        });
    }
    Ok(source::merge(receivers))
}
