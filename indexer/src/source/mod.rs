//! Which member clusters there are: Karmada Cluster objects, kubeconfig contexts, snapshot folders, or a mix.
//!
//! Each source keeps a channel that holds the present [`MemberSet`]; [`merge`] makes one of several. A member that cannot be
//! read is still a member: it says why, and the others are not touched.

pub mod builtin;
pub mod contexts;
pub mod karmada;
pub mod sharded;
pub mod snapshot;
pub mod snapshot_folder;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use futures::future::select_all;
use http::{HeaderName, HeaderValue};
use kube::Config;
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tracing::warn;

use crate::member::{ApiAccess, Member};
use crate::resource::ClusterName;
use crate::shard::Shards;

/// The members of one or all sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberSet {
    /// Each member by its name.
    pub members: BTreeMap<ClusterName, Member>,
    /// Whether the source has been read at all.
    pub loaded: bool,
    /// Whether some source has not been read, so that there may be more.
    pub is_partial: bool,
    /// Whose clusters these are, where several servers share them.
    pub shards: Shards,
}

/// A source that cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The kubeconfig cannot be read.
    #[error("the kubeconfig cannot be read: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// A context is not in the kubeconfig.
    #[error("there is no context {name:?} in the kubeconfig; there are: {known}")]
    UnknownContext {
        /// The one asked for.
        name: String,
        /// The ones there are.
        known: String,
    },
    /// The folder of snapshots cannot be read.
    #[error("the snapshot folder {path} cannot be read: {error}")]
    Folder {
        /// Where.
        path: String,
        /// Why.
        error: std::io::Error,
    },
}

/// One set of several. Of two members with the same name the one from the first source counts. A source that has not been
/// read yet holds the others' members back no more than one that has ended.
pub fn merge(mut sources: Vec<watch::Receiver<Arc<MemberSet>>>) -> watch::Receiver<Arc<MemberSet>> {
    let (sender, receiver) = watch::channel(Arc::default());
    tokio::spawn(async move {
        let (mut ended, mut told) = (BTreeSet::new(), BTreeSet::new());
        loop {
            tell(&sender, merged(&mut sources, &mut told));
            let alive = sources.iter_mut().enumerate().filter(|(number, _)| !ended.contains(number));
            let changes: Vec<_> =
                alive.map(|(number, source)| Box::pin(async move { (number, source.changed().await) })).collect();
            if changes.is_empty() {
                // The last state of each source stays in force for as long as somebody reads it.
                return sender.closed().await;
            }
            let (number, change) = select_all(changes).await.0;
            if change.is_err() {
                ended.insert(number);
            }
        }
    });
    receiver
}

/// Tells the members, unless they are as they were: whoever is told plans anew.
fn tell(members: &watch::Sender<Arc<MemberSet>>, present: MemberSet) {
    members.send_if_modified(|known| {
        let is_news = **known != present;
        if is_news {
            *known = Arc::new(present);
        }
        is_news
    });
}

fn merged(sources: &mut [watch::Receiver<Arc<MemberSet>>], told: &mut BTreeSet<ClusterName>) -> MemberSet {
    let mut all = MemberSet::default();
    for source in sources {
        let set = source.borrow_and_update().clone();
        all.loaded |= set.loaded;
        all.is_partial |= !set.loaded;
        for (name, member) in &set.members {
            if !all.members.contains_key(name) {
                all.members.insert(name.clone(), member.clone());
            } else if told.insert(name.clone()) {
                warn!(cluster = %name, "two sources name a cluster so; the first one counts");
            }
        }
    }
    all
}

/// Settings with a fingerprint of all that makes a connection another one.
pub(crate) fn access(config: Config, proxy_headers: Vec<(HeaderName, HeaderValue)>) -> Arc<ApiAccess> {
    let mut hasher = DefaultHasher::new();
    config.cluster_url.to_string().hash(&mut hasher);
    config.root_cert.hash(&mut hasher);
    config.accept_invalid_certs.hash(&mut hasher);
    config.proxy_url.as_ref().map(ToString::to_string).hash(&mut hasher);
    config.tls_server_name.hash(&mut hasher);
    for (name, value) in config.headers.iter().chain(&proxy_headers) {
        (name.as_str(), value.as_bytes()).hash(&mut hasher);
    }
    let auth = &config.auth_info;
    auth.token.as_ref().map(ExposeSecret::expose_secret).hash(&mut hasher);
    auth.password.as_ref().map(ExposeSecret::expose_secret).hash(&mut hasher);
    auth.client_key_data.as_ref().map(ExposeSecret::expose_secret).hash(&mut hasher);
    (&auth.username, &auth.token_file, &auth.client_certificate, &auth.client_certificate_data, &auth.client_key)
        .hash(&mut hasher);
    // Certificates named by path may be renewed in place.
    for path in [&auth.client_certificate, &auth.client_key].into_iter().flatten() {
        std::fs::read(path).ok().hash(&mut hasher);
    }
    (&auth.impersonate, &auth.impersonate_uid, &auth.impersonate_groups).hash(&mut hasher);
    auth.impersonate_user_extra.iter().flatten().collect::<BTreeMap<_, _>>().hash(&mut hasher);
    let provider = auth.auth_provider.as_ref();
    provider.map(|provider| (&provider.name, provider.config.iter().collect::<BTreeMap<_, _>>())).hash(&mut hasher);
    auth.exec.as_ref().map(|exec| format!("{:?} {:?} {:?}", exec.command, exec.args, exec.env)).hash(&mut hasher);
    Arc::new(ApiAccess { fingerprint: hasher.finish(), config, proxy_headers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_are_as_they_were_are_told_to_nobody() {
        let (sender, mut receiver) = watch::channel(Arc::default());
        let set = |token: &str| {
            let mut config = Config::new(http::Uri::from_static("https://127.0.0.1:1"));
            config.auth_info.token = Some(token.to_owned().into());
            let member = Member {
                name: "m1".into(),
                labels: BTreeMap::new(),
                location: crate::member::Location::default(),
                health: crate::member::MemberHealth::Ready,
                access: crate::member::MemberAccess::Api(access(config, Vec::new())),
            };
            MemberSet { members: [(member.name.clone(), member)].into(), loaded: true, ..MemberSet::default() }
        };
        for (token, is_news) in [("first", true), ("first", false), ("second", true)] {
            tell(&sender, set(token));
            assert_eq!(receiver.has_changed().unwrap(), is_news, "{token}");
            receiver.mark_unchanged();
        }
    }
}
