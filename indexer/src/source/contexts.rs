//! Members from kubeconfig contexts: one a context, with whatever credentials the kubeconfig gives it.
//!
//! The file is read again when it changes. While it cannot be read, the members stay as they were.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{MemberSet, SourceError, access};
use crate::member::{Location, Member, MemberAccess, MemberHealth};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// Starts following the contexts `names` of the kubeconfig at `path`, or of the one that kubectl would use.
///
/// # Errors
/// If the kubeconfig cannot be read or a context is not in it.
pub async fn start(
    path: Option<PathBuf>,
    names: Vec<String>,
    cancelled: CancellationToken,
) -> Result<watch::Receiver<Arc<MemberSet>>, SourceError> {
    let kubeconfig = read(path.as_deref())?;
    check_names(&kubeconfig, &names)?;
    let (sender, receiver) = watch::channel(Arc::new(members(&kubeconfig, &names).await));
    tokio::spawn(cancelled.run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match read(path.as_deref()) {
                Ok(kubeconfig) => {
                    let present = members(&kubeconfig, &names).await;
                    if fingerprints(&present) != fingerprints(&sender.borrow()) {
                        info!("the kubeconfig changed");
                        sender.send_replace(Arc::new(present));
                    }
                }
                Err(error) => warn!(%error, "keeping the members as they were"),
            }
        }
    }));
    Ok(receiver)
}

fn read(path: Option<&Path>) -> Result<Kubeconfig, SourceError> {
    Ok(match path {
        Some(path) => Kubeconfig::read_from(path)?,
        None => Kubeconfig::read()?,
    })
}

fn check_names(kubeconfig: &Kubeconfig, names: &[String]) -> Result<(), SourceError> {
    let known: Vec<&str> = kubeconfig.contexts.iter().map(|context| context.name.as_str()).collect();
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(SourceError::UnknownContext { name: name.clone(), known: known.join(", ") }),
        None => Ok(()),
    }
}

fn fingerprints(set: &MemberSet) -> Vec<Result<u64, String>> {
    let of = |member: &Member| match &member.access {
        MemberAccess::Api(access) => Ok(access.fingerprint),
        MemberAccess::Unusable(reason) => Err(reason.clone()),
        MemberAccess::Snapshot(_) => Ok(0),
    };
    set.members.values().map(of).collect()
}

async fn members(kubeconfig: &Kubeconfig, names: &[String]) -> MemberSet {
    let mut members = BTreeMap::new();
    for name in names {
        let options = KubeConfigOptions { context: Some(name.clone()), ..KubeConfigOptions::default() };
        let access = match Config::from_custom_kubeconfig(kubeconfig.clone(), &options).await {
            Ok(config) => MemberAccess::Api(access(config, Vec::new())),
            Err(error) => MemberAccess::Unusable(format!("context {name}: {error}")),
        };
        let member = Member {
            name: name.as_str().into(),
            labels: BTreeMap::new(),
            location: Location::default(),
            health: MemberHealth::Ready,
            access,
        };
        members.insert(member.name.clone(), member);
    }
    MemberSet { members, loaded: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECONFIG: &str = r#"
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: secret}}]
contexts: [{name: north, context: {cluster: c, user: u}}, {name: south, context: {cluster: gone, user: u}}]
"#;

    #[tokio::test]
    async fn each_context_is_a_member_and_a_broken_one_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, KUBECONFIG).unwrap();
        let names = vec!["north".to_owned(), "south".to_owned()];
        let members = start(Some(path), names, CancellationToken::new()).await.unwrap().borrow().clone();
        assert!(matches!(members.members["north"].access, MemberAccess::Api(_)));
        assert!(matches!(&members.members["south"].access, MemberAccess::Unusable(why) if why.contains("south")));
    }

    #[tokio::test]
    async fn an_unknown_context_is_refused_naming_the_known_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, KUBECONFIG).unwrap();
        let error = start(Some(path), vec!["east".to_owned()], CancellationToken::new()).await.unwrap_err();
        assert_eq!(error.to_string(), "there is no context \"east\" in the kubeconfig; there are: north, south");
    }
}
