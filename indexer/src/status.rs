//! What follows its cluster, what lags, and why: the facts behind `search/status`, the registries' conditions, the metrics
//! and the `Warning` headers.
//!
//! Pure: an [`Overview`] and the cache in, facts out.

use std::collections::BTreeSet;

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Part, Refused, Snapshot};
use crate::member::MemberHealth;
use crate::plan::{Unserved, UnservedReason};
use crate::resource::{ClusterName, GroupVersionResource};
use crate::supervise::Overview;
use crate::view::Query;

/// How well one (cluster, resource) is followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncStatus {
    /// The cluster.
    pub cluster: ClusterName,
    /// API group.
    pub group: String,
    /// API version, as the registries name it.
    pub version: String,
    /// Plural resource name; the kind where the cluster does not serve it.
    pub resource: String,
    /// The registries that asked for it.
    pub registries: BTreeSet<String>,
    /// Whether a whole list has been taken and nothing has failed since.
    pub synced: bool,
    /// Objects held.
    pub objects: usize,
    /// When the cluster was last heard from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
    /// What is wrong. It may be synced all the same, where single objects can't be taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl SyncStatus {
    /// Whether both are about the same resource of the same cluster.
    pub(crate) fn is_about_same(&self, other: &Self) -> bool {
        (&self.cluster, &self.group, &self.version, &self.resource)
            == (&other.cluster, &other.group, &other.version, &other.resource)
    }
}

/// A cluster whose part of an answer is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// It does not answer, or its source says so; what was last seen is shown.
    OutOfTouch {
        /// The cluster.
        cluster: ClusterName,
        /// Since when.
        since: Timestamp,
        /// How many of its objects the resource has.
        objects: usize,
    },
    /// Its first list is not complete, or it was never reached.
    NotSynced {
        /// The cluster.
        cluster: ClusterName,
        /// How many of its objects are there already.
        objects: usize,
        /// What keeps it.
        reason: Option<String>,
    },
    /// It sends objects that can't be taken.
    Refused {
        /// The cluster.
        cluster: ClusterName,
        /// How many, and what is wrong with them.
        told: String,
    },
    /// Some of its files can't be read.
    UnreadableFiles {
        /// The cluster.
        cluster: ClusterName,
        /// How many.
        files: usize,
        /// What is wrong with one of them.
        first: String,
    },
    /// It serves the resource in another version only.
    OtherVersion {
        /// The cluster.
        cluster: ClusterName,
        /// The version its objects have.
        api_version: String,
    },
}

impl Notice {
    /// The cluster it is about.
    pub fn cluster(&self) -> &ClusterName {
        match self {
            Self::OutOfTouch { cluster, .. }
            | Self::NotSynced { cluster, .. }
            | Self::Refused { cluster, .. }
            | Self::UnreadableFiles { cluster, .. }
            | Self::OtherVersion { cluster, .. } => cluster,
        }
    }

    /// The sentence that a client reads.
    pub fn text(&self) -> String {
        match self {
            Self::OutOfTouch { cluster, since, objects } => {
                let since = seconds(*since);
                format!("cluster {cluster} out of touch since {since}; showing its {objects} objects as last seen")
            }
            Self::NotSynced { cluster, objects, reason: None } => {
                format!("cluster {cluster} is still being read; showing the {objects} of its objects read so far")
            }
            Self::NotSynced { cluster, reason: Some(reason), .. } => {
                format!("cluster {cluster} has not been read yet, its objects are missing: {reason}")
            }
            Self::Refused { cluster, told } => format!("cluster {cluster}: {told}"),
            Self::UnreadableFiles { cluster, files: 1, first } => {
                format!("cluster {cluster}: a file can't be read, its objects are missing: {first}")
            }
            Self::UnreadableFiles { cluster, files, first } => {
                format!(
                    "cluster {cluster}: {files} files can't be read, their objects are missing: {first}, and others"
                )
            }
            Self::OtherVersion { cluster, api_version } => {
                format!(
                    "cluster {cluster} serves this resource as {api_version}; its objects are shown in that version"
                )
            }
        }
    }
}

fn left_out(refused: &Refused) -> String {
    let Refused { times, reason } = refused;
    match times {
        1 => format!("an object of it is left out: {reason}"),
        _ => format!("objects of it are left out, {times} times so far, the last one because {reason}"),
    }
}

/// A time as Kubernetes writes it, to the second.
pub fn seconds(time: Timestamp) -> String {
    let whole = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Trunc);
    time.round(whole).unwrap_or(time).to_string()
}

/// What a reader of `snapshot` must be told: of a cluster how it is followed, and of its files.
pub fn notices(
    overview: &Overview,
    resource: &GroupVersionResource,
    snapshot: &Snapshot,
    query: &Query,
) -> Vec<Notice> {
    let present = snapshot.parts.iter().filter(|(cluster, _)| query.wants_cluster(cluster));
    let mut notices: Vec<Notice> =
        present.filter_map(|(cluster, part)| part_notice(overview, resource, cluster, part)).collect();
    let missing: BTreeSet<&ClusterName> = overview
        .plan
        .unserved
        .iter()
        .filter(|unserved| unserved.reason == UnservedReason::NotDiscovered)
        .filter(|unserved| unserved.selector.api_version == resource.api_version())
        .filter(|unserved| may_be(&unserved.selector.kind, &resource.resource))
        .map(|unserved| &unserved.cluster)
        .filter(|cluster| query.wants_cluster(cluster) && !snapshot.parts.contains_key(*cluster))
        .collect();
    notices.extend(missing.into_iter().map(|cluster| Notice::NotSynced {
        cluster: cluster.clone(),
        objects: 0,
        reason: Some(why_missing(overview, cluster)),
    }));
    notices.extend(unreadable_files(overview, |cluster| query.wants_cluster(cluster)));
    notices
}

fn unreadable_files(overview: &Overview, is_wanted: impl Fn(&ClusterName) -> bool) -> impl Iterator<Item = Notice> {
    let files = overview.unreadable_files.iter().filter(move |(cluster, _)| is_wanted(cluster));
    files.filter_map(|(cluster, files)| {
        let first = files.first()?.clone();
        Some(Notice::UnreadableFiles { cluster: cluster.clone(), files: files.len(), first })
    })
}

fn part_notice(
    overview: &Overview,
    resource: &GroupVersionResource,
    cluster: &ClusterName,
    part: &Part,
) -> Option<Notice> {
    if !part.sync.synced {
        let reason = part.sync.failure.as_ref().map(|failure| failure.message.clone());
        return Some(Notice::NotSynced { objects: part.objects.len(), cluster: cluster.clone(), reason });
    }
    if let Some(since) = out_of_touch_since(overview, cluster, part) {
        return Some(Notice::OutOfTouch { cluster: cluster.clone(), since, objects: part.objects.len() });
    }
    if let Some(refused) = &part.sync.refused {
        return Some(Notice::Refused { cluster: cluster.clone(), told: left_out(refused) });
    }
    let is_other = part.served.gvr.version != resource.version;
    is_other.then(|| Notice::OtherVersion { cluster: cluster.clone(), api_version: part.served.gvr.api_version() })
}

fn out_of_touch_since(overview: &Overview, cluster: &ClusterName, part: &Part) -> Option<Timestamp> {
    let by_source = overview.members.members.get(cluster).and_then(|member| match &member.health {
        MemberHealth::NotReady { since, .. } => Some(*since),
        MemberHealth::Ready => None,
    });
    let by_failure = || part.sync.failure.as_ref().map(|failure| part.sync.last_seen.unwrap_or(failure.since));
    // A watch on which nothing comes looks like one on which nothing happens; the prober knows better.
    let by_prober = || overview.unreachable.get(cluster).and(part.sync.last_seen);
    by_source.or_else(by_failure).or_else(by_prober)
}

/// Whether a plural resource name may belong to a kind that no cluster in reach describes: a plural begins like its kind.
fn may_be(kind: &str, resource: &str) -> bool {
    let kind = kind.to_lowercase();
    let stem = kind.strip_suffix(['y', 's', 'f']).unwrap_or(&kind);
    resource.starts_with(stem) && resource.len() <= kind.len() + 3
}

fn why_missing(overview: &Overview, cluster: &ClusterName) -> String {
    if let Some(reason) = overview.unreachable.get(cluster) {
        return reason.clone();
    }
    "it has not answered yet".to_owned()
}

/// Everything that is or should be followed, in order of cluster and resource.
pub fn sync_statuses(overview: &Overview, cache: &Cache) -> Vec<SyncStatus> {
    let watched = overview.plan.watches.iter().map(|(key, target)| {
        let part = cache.get(&key.resource).and_then(|cache| cache.part(&key.cluster));
        let failure = part.as_ref().and_then(|part| failure_of(overview, &key.cluster, part));
        let is_synced = failure.is_none() && part.as_ref().is_some_and(|part| part.sync.synced);
        let refused = || part.as_ref()?.sync.refused.as_ref().map(left_out);
        SyncStatus {
            cluster: key.cluster.clone(),
            group: key.resource.group.to_string(),
            version: key.resource.version.to_string(),
            resource: key.resource.resource.to_string(),
            registries: target.registries.clone(),
            synced: is_synced,
            objects: part.as_ref().map_or(0, |part| part.objects.len()),
            last_seen: part.as_ref().and_then(|part| part.sync.last_seen).map(seconds),
            error: failure.or_else(refused),
        }
    });
    let unserved = overview.plan.unserved.iter().map(|unserved| unserved_status(overview, unserved));
    let mut statuses: Vec<SyncStatus> = watched.chain(unserved).collect();
    statuses.extend(overview.unreadable_files.iter().flat_map(|(cluster, files)| {
        files.iter().map(|file| SyncStatus {
            cluster: cluster.clone(),
            group: String::new(),
            version: String::new(),
            resource: String::new(),
            registries: BTreeSet::new(),
            synced: false,
            objects: 0,
            last_seen: None,
            error: Some(file.clone()),
        })
    }));
    statuses.sort_by(|left, right| {
        (&left.cluster, &left.group, &left.resource).cmp(&(&right.cluster, &right.group, &right.resource))
    });
    statuses
}

fn failure_of(overview: &Overview, cluster: &ClusterName, part: &Part) -> Option<String> {
    if let Some(failure) = &part.sync.failure {
        return Some(failure.message.clone());
    }
    match overview.members.members.get(cluster).map(|member| &member.health) {
        Some(MemberHealth::NotReady { since, reason }) => {
            Some(format!("the cluster is not ready since {}: {reason}", seconds(*since)))
        }
        _ => overview.unreachable.get(cluster).cloned(),
    }
}

fn unserved_status(overview: &Overview, unserved: &Unserved) -> SyncStatus {
    let (group, version) = match unserved.selector.api_version.split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", unserved.selector.api_version.as_str()),
    };
    let error = match unserved.reason {
        UnservedReason::NoSuchKind => "the cluster does not serve this kind".to_owned(),
        UnservedReason::NotWatchable => "this kind cannot be listed and watched".to_owned(),
        UnservedReason::NotDiscovered => why_missing(overview, &unserved.cluster),
    };
    SyncStatus {
        cluster: unserved.cluster.clone(),
        group: group.to_owned(),
        version: version.to_owned(),
        resource: unserved.selector.kind.clone(),
        registries: [unserved.registry.clone()].into(),
        synced: false,
        objects: 0,
        last_seen: None,
        error: Some(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_reads_as_documented() {
        let since = "2026-01-02T03:04:05.678Z".parse().unwrap();
        let notice = Notice::OutOfTouch { cluster: "member1".into(), since, objects: 29 };
        assert_eq!(
            notice.text(),
            "cluster member1 out of touch since 2026-01-02T03:04:05Z; showing its 29 objects as last seen"
        );
    }

    #[test]
    fn a_plural_is_recognised_by_its_kind() {
        for (kind, plural) in
            [("Deployment", "deployments"), ("NetworkPolicy", "networkpolicies"), ("Ingress", "ingresses")]
        {
            assert!(may_be(kind, plural), "{kind}");
        }
        assert!(!may_be("Pod", "poddisruptionbudgets") && !may_be("Deployment", "pods"));
    }
}
