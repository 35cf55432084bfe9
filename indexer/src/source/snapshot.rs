//! Members from folders: each direct subfolder of a snapshot folder is a cluster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{MemberSet, SourceError};
use crate::member::{Location, Member, MemberAccess, MemberHealth};

/// How often the set of subfolders is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Starts following the subfolders of `folder`.
///
/// # Errors
/// If the folder cannot be read now. If it cannot be read later, the members stay as they were.
pub fn start(folder: PathBuf, cancelled: CancellationToken) -> Result<watch::Receiver<Arc<MemberSet>>, SourceError> {
    let mut names = clusters(&folder)?;
    let (sender, receiver) = watch::channel(Arc::new(members(&names)));
    tokio::spawn(cancelled.run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match clusters(&folder) {
                Ok(present) if present != names => {
                    names = present;
                    sender.send_replace(Arc::new(members(&names)));
                }
                Ok(_) => {}
                Err(error) => warn!(%error, "keeping the members as they were"),
            }
        }
    }));
    Ok(receiver)
}

fn clusters(folder: &Path) -> Result<BTreeMap<String, PathBuf>, SourceError> {
    let failed = |error| SourceError::Folder { path: folder.display().to_string(), error };
    let mut clusters = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.'));
        if let Some(name) = name.filter(|_| path.is_dir()) {
            clusters.insert(name.to_owned(), path.clone());
        }
    }
    Ok(clusters)
}

fn members(clusters: &BTreeMap<String, PathBuf>) -> MemberSet {
    let member = |(name, path): (&String, &PathBuf)| Member {
        name: name.as_str().into(),
        labels: BTreeMap::new(),
        location: Location::default(),
        health: MemberHealth::Ready,
        access: MemberAccess::Snapshot(path.clone()),
    };
    let members = clusters.iter().map(member).map(|member| (member.name.clone(), member)).collect();
    MemberSet { members, loaded: true, ..MemberSet::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clusters_come_and_go_with_their_folders() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("pegasus")).unwrap();
        std::fs::write(folder.path().join("registry.yaml"), "kind: X").unwrap();
        let mut members = start(folder.path().to_path_buf(), CancellationToken::new()).unwrap();
        let names = |set: &MemberSet| set.members.keys().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&members.borrow_and_update().clone()), ["pegasus"]);
        std::fs::create_dir(folder.path().join("pegasus-2")).unwrap();
        members.changed().await.unwrap();
        assert_eq!(names(&members.borrow_and_update().clone()), ["pegasus", "pegasus-2"]);
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_an_error_that_names_it() {
        let error = start(PathBuf::from("/no/such/folder"), CancellationToken::new()).unwrap_err();
        assert!(error.to_string().contains("/no/such/folder"));
    }
}
