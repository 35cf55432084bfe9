//! Members from kubeconfig contexts: one a context, with whatever credentials the kubeconfig gives it.
//!
//! The file is read again when it changes. While it cannot be read, the members stay as they were.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{MemberSet, SourceError, access};
use crate::member::{Location, Member, MemberAccess, MemberHealth};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How often it is read though it looks as before.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Starts following the contexts `names` of the kubeconfig at `path`, or of the one that kubectl would use.
///
/// # Errors
/// If the kubeconfig cannot be read or a context is not in it.
pub async fn start(
    path: Option<PathBuf>,
    names: Vec<String>,
    cancelled: CancellationToken,
) -> Result<watch::Receiver<Arc<MemberSet>>, SourceError> {
    let mut looked = Looked::at(path.as_deref());
    let kubeconfig = read(path.as_deref())?;
    check_names(&kubeconfig, &names)?;
    let (sender, receiver) = watch::channel(Arc::new(members(&kubeconfig, &names).await));
    tokio::spawn(cancelled.run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let present = Looked::at(path.as_deref());
            if present.is_as(&looked) {
                continue;
            }
            looked = present;
            match read(path.as_deref()) {
                Ok(kubeconfig) => {
                    let present = members(&kubeconfig, &names).await;
                    if present != **sender.borrow() {
                        info!("the kubeconfig changed");
                    }
                    super::tell(&sender, present);
                }
                Err(error) => warn!(%error, "keeping the members as they were"),
            }
        }
    }));
    Ok(receiver)
}

/// What was seen of the kubeconfig's files, which tells whether they have to be read again: with a thousand contexts, that is work.
struct Looked {
    files: Vec<(PathBuf, Option<(SystemTime, u64)>)>,
    at: Instant,
}

impl Looked {
    fn at(path: Option<&Path>) -> Self {
        let paths = match path {
            Some(path) => vec![path.to_path_buf()],
            None => {
                std::env::var_os("KUBECONFIG").map(|paths| std::env::split_paths(&paths).collect()).unwrap_or_default()
            }
        };
        let state = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        let files = paths.into_iter().map(|path| (state(&path), path)).map(|(state, path)| (path, state)).collect();
        Self { files, at: Instant::now() }
    }

    /// Whether nothing can have changed since. What its files name – certificates, tokens – is not looked at, so not for long.
    fn is_as(&self, earlier: &Self) -> bool {
        !self.files.is_empty() && self.files == earlier.files && self.at - earlier.at < LOOK_AGAIN
    }
}

/// One context and what it names, so that nobody has to look through all of them.
fn only(kubeconfig: &Kubeconfig, name: &str) -> Kubeconfig {
    let context = kubeconfig.contexts.iter().find(|context| context.name == name);
    let named = context.and_then(|context| context.context.as_ref());
    let is_cluster = |cluster: &&NamedCluster| named.is_some_and(|named| named.cluster == cluster.name);
    let is_user = |user: &&NamedAuthInfo| named.is_some_and(|named| named.user.as_ref() == Some(&user.name));
    Kubeconfig {
        contexts: context.cloned().into_iter().collect(),
        clusters: kubeconfig.clusters.iter().find(is_cluster).cloned().into_iter().collect(),
        auth_infos: kubeconfig.auth_infos.iter().find(is_user).cloned().into_iter().collect(),
        ..Kubeconfig::default()
    }
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

async fn members(kubeconfig: &Kubeconfig, names: &[String]) -> MemberSet {
    let mut members = BTreeMap::new();
    for name in names {
        let options = KubeConfigOptions { context: Some(name.clone()), ..KubeConfigOptions::default() };
        let access = match Config::from_custom_kubeconfig(only(kubeconfig, name), &options).await {
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
    MemberSet { members, loaded: true, ..MemberSet::default() }
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
