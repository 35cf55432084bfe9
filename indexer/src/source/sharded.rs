//! Of all members, those that are ours, where several servers share them.

use std::sync::Arc;

use tokio::sync::watch;

use super::MemberSet;
use crate::shard::Shards;

/// The members whose shards are held, as these change.
pub fn sharded(
    mut members: watch::Receiver<Arc<MemberSet>>,
    mut shards: watch::Receiver<Shards>,
) -> watch::Receiver<Arc<MemberSet>> {
    let (sender, receiver) = watch::channel(Arc::default());
    tokio::spawn(async move {
        loop {
            let held = shards.borrow_and_update().clone();
            let ours = ours(&members.borrow_and_update(), held);
            super::tell(&sender, ours);
            tokio::select! {
                changed = members.changed() => if changed.is_err() { return sender.closed().await },
                changed = shards.changed() => if changed.is_err() { return sender.closed().await },
                () = sender.closed() => return,
            }
        }
    });
    receiver
}

/// Which members are ours is told with them, so that nobody takes another's cluster for one that has left.
fn ours(all: &MemberSet, shards: Shards) -> MemberSet {
    let members = all.members.iter().filter(|(cluster, _)| shards.is_ours(cluster));
    let members = members.map(|(cluster, member)| (cluster.clone(), member.clone())).collect();
    MemberSet { members, loaded: all.loaded, is_partial: all.is_partial, shards }
}
