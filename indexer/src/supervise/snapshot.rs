//! Follows one resource of a snapshot member: each time the folder was read, its objects are taken in as a whole list.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::warn;

use crate::cache::{PreparedChange, Refused, Writer};
use crate::entry::{Entries, EntryKey};
use crate::plan::{WatchKey, WatchTarget};
use crate::raw::ObjectReader;
use crate::source::snapshot_folder::SnapshotContents;

/// Takes in the folder's objects now and whenever they changed, until the folder is no longer watched.
pub(super) async fn follow(
    key: WatchKey,
    target: WatchTarget,
    mut contents: watch::Receiver<Arc<SnapshotContents>>,
    mut writer: Writer,
) {
    let reader = ObjectReader::new(&key.cluster, &target.served.gvr.api_version(), &target.served.kind);
    loop {
        let present = contents.borrow_and_update().clone();
        if present.generation > 0 {
            take_in(&key, &target, &reader, &present, &mut writer);
        }
        if contents.changed().await.is_err() {
            return;
        }
    }
}

fn take_in(
    key: &WatchKey,
    target: &WatchTarget,
    reader: &ObjectReader,
    contents: &SnapshotContents,
    writer: &mut Writer,
) {
    writer.set_printer_columns(contents.printer_columns(&target.served).into());
    let known = writer.objects();
    let (mut listed, mut refused) = (Entries::new(), None);
    let objects = contents.resources.get(&target.served.gvr).map(|resource| &*resource.objects).unwrap_or_default();
    for object in objects {
        let mut parsed = match str::from_utf8(object)
            .map_err(|error| error.to_string())
            .and_then(|text| reader.read(text).map_err(|error| error.to_string()))
        {
            Ok(parsed) => parsed,
            Err(error) => {
                leave_out(key, &mut refused, &error);
                continue;
            }
        };
        if target.served.namespaced && !target.scope.contains(&parsed.namespace) {
            continue;
        }
        let held = known.get(&EntryKey::new(&parsed.namespace, &parsed.name)).cloned();
        // A folder's versions are the times it was read: the objects' own come from another world, and manifests are
        // edited without a new one. So only the bytes tell whether an object is the same.
        parsed.resource_version = contents.generation;
        match writer.prepare(parsed) {
            Ok(entry) => match held.filter(|held| held.frame().bytes == entry.frame().bytes) {
                Some(same) => drop(listed.insert(same)),
                None => {
                    listed.insert(entry.clone());
                    writer.apply([PreparedChange::Upsert(entry)]);
                }
            },
            Err(error) => leave_out(key, &mut refused, &error.to_string()),
        }
    }
    writer.set_refused(refused);
    writer.finish_list(&listed, contents.generation.to_string().into());
}

fn leave_out(key: &WatchKey, refused: &mut Option<Refused>, reason: &str) {
    let reason = Refused::shortened(reason);
    warn!(cluster = %key.cluster, resource = %key.resource, reason, "an object was left out");
    Refused::add(refused, reason);
}
