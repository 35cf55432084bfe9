//! What is there after a restart, whatever ended the process before.

use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::cache::{PreparedChange, ResourceCache, Writer};
use crate::entry::{Entries, EntryKey};
use crate::plan::Scope;
use crate::raw::ObjectReader;
use crate::resource::{ApiResource, GroupVersionResource};

fn served(group: &str, resource: &str, kind: &str) -> ApiResource {
    let gvr = GroupVersionResource::new(group, "v1", resource);
    ApiResource { gvr, kind: kind.into(), namespaced: true, watchable: true }
}

fn pods() -> ApiResource {
    served("", "pods", "Pod")
}

/// A process: its cache, and what keeps that on disk.
struct Process {
    cache: Arc<Cache>,
    disk: Arc<Disk>,
    keeper: Option<Box<Keeper>>,
    restored: Restored,
    folder: PathBuf,
}

impl Process {
    fn start(folder: &Path) -> Self {
        let (cache, disk) = (Arc::new(Cache::default()), Arc::new(Disk::default()));
        let (Opened { keeper, folder }, restored) = open(folder.to_path_buf(), &cache, &disk);
        Self { cache, disk, keeper, restored, folder }
    }

    fn flush(&mut self) {
        self.keeper = keep_once(self.keeper.take(), &self.folder, &self.cache, &self.disk);
    }

    fn writer(&self, cluster: &str, served: &ApiResource) -> Writer {
        self.cache.open(&served.gvr).writer(&cluster.into(), served)
    }

    fn pods(&self) -> Arc<ResourceCache> {
        self.cache.open(&pods().gvr)
    }

    /// Takes in a first list of so many pods, at version 1000.
    fn list(&self, cluster: &str, count: u64) {
        let mut writer = self.writer(cluster, &pods());
        let listed: Entries = (0..count).map(|number| entry(&mut writer, cluster, number, number + 1)).collect();
        writer.apply(listed.iter().cloned().map(PreparedChange::Upsert));
        writer.finish_list(&listed, "1000".into());
    }
}

fn entry(writer: &mut Writer, cluster: &str, number: u64, version: u64) -> crate::entry::Entry {
    let text = format!(
        r#"{{"metadata":{{"namespace":"shop","name":"pod-{number:03}","resourceVersion":"{version}","labels":{{"app":"a{}"}}}},"spec":{{"nodeName":"node-{version}"}}}}"#,
        number % 3
    );
    writer.prepare(ObjectReader::new(&cluster.into(), "v1", "Pod").read(&text).unwrap()).unwrap()
}

/// Everything that readers could see of a resource.
fn shown(cache: &ResourceCache) -> Vec<String> {
    let (snapshot, decoder) = (cache.snapshot(None), cache.codec().decoder());
    let mut lines = Vec::new();
    for (cluster, part) in &snapshot.parts {
        lines.push(format!("{cluster} at {:?}", part.version));
        for entry in &part.objects {
            let mut object = Vec::new();
            decoder.append(entry.frame(), &mut object).unwrap();
            let labels: Vec<_> = entry.labels().iter().collect();
            lines.push(format!("{:?} {:?} {}", entry.version(), labels, String::from_utf8(object).unwrap()));
        }
    }
    lines
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("fleetglass-disk-").tempdir().unwrap()
}

/// The files of parts.
fn files(folder: &Path) -> Vec<PathBuf> {
    let all = walkdir::WalkDir::new(folder).into_iter().map(|entry| entry.unwrap().into_path());
    all.filter(|path| path.extension().is_some_and(|end| end == "part")).collect()
}

#[tokio::test]
async fn a_restart_goes_on_from_the_objects_and_the_versions_there_were() {
    let folder = folder();
    let mut before = Process::start(folder.path());
    before.list("east", 30);
    before.list("west", 2);
    before.flush();
    let mut writer = before.writer("east", &pods());
    let (changed, gone) = (entry(&mut writer, "east", 1, 1001), entry(&mut writer, "east", 2, 1002));
    writer.apply([PreparedChange::Upsert(changed), PreparedChange::Delete(gone)]);
    before.flush();
    let expected = shown(&before.pods());
    drop(before);
    let after = Process::start(folder.path());
    assert_eq!(shown(&after.pods()), expected);
    let part = after.pods().part(&"east".into()).unwrap();
    assert_eq!((part.version.as_deref(), part.floor, part.objects.len()), (Some("1002"), 1002, 29));
    assert!(part.sync.synced && part.sync.failure.is_some(), "it is out of touch until its cluster is heard");
    assert_eq!(after.restored.watches.len(), 2);
    let discovery = &after.restored.discoveries["east"];
    assert!(discovery.is_remembered() && discovery.find_kind("v1", "Pod").is_some());
    assert_eq!(after.disk.status().restored.unwrap().objects, 31);
}

#[tokio::test]
async fn a_second_life_adds_to_what_the_first_has_left() {
    let folder = folder();
    let mut first = Process::start(folder.path());
    first.list("east", 500);
    // The dictionary is trained meanwhile; frames before and after it are read alike.
    for _ in 0..500 {
        if first.pods().codec().newest_dictionary() > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut writer = first.writer("east", &pods());
    let entries: Vec<_> = (0..20).map(|number| entry(&mut writer, "east", number, 2000 + number)).collect();
    writer.apply(entries.into_iter().map(PreparedChange::Upsert));
    first.flush();
    drop((first, writer));
    let mut second = Process::start(folder.path());
    assert_eq!(second.pods().codec().newest_dictionary(), 1);
    let before = files(folder.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum::<u64>();
    let mut writer = second.writer("east", &pods());
    let changed = entry(&mut writer, "east", 3, 3000);
    writer.apply([PreparedChange::Upsert(changed)]);
    second.flush();
    let grown = files(folder.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum::<u64>() - before;
    assert!((1..1000).contains(&grown), "one change is added, not all written anew: {grown} bytes");
    let expected = shown(&second.pods());
    drop((second, writer));
    assert_eq!(shown(&Process::start(folder.path()).pods()), expected);
}

#[tokio::test]
async fn a_file_that_most_of_is_outdated_is_begun_anew() {
    let folder = folder();
    let mut process = Process::start(folder.path());
    process.list("east", 10);
    let mut writer = process.writer("east", &pods());
    for round in 0..300 {
        let changed: Vec<_> = (0..10).map(|number| entry(&mut writer, "east", number, 2000 + round)).collect();
        writer.apply(changed.into_iter().map(PreparedChange::Upsert));
        process.flush();
    }
    let bytes = fs::metadata(&files(folder.path())[0]).unwrap().len();
    assert!(bytes < 400_000, "{bytes} bytes for ten objects");
    assert_eq!(process.disk.status().bytes, bytes);
}

#[tokio::test]
async fn who_fell_behind_the_feed_writes_what_there_is_now() {
    let folder = folder();
    let mut process = Process::start(folder.path());
    process.list("east", 3);
    process.flush();
    let mut writer = process.writer("east", &pods());
    for version in 0..20_000 {
        let changed = entry(&mut writer, "east", 1, 2000 + version);
        writer.apply([PreparedChange::Upsert(changed)]);
    }
    process.flush();
    let expected = shown(&process.pods());
    drop((process, writer));
    assert_eq!(shown(&Process::start(folder.path()).pods()), expected);
}

#[tokio::test]
async fn what_left_what_is_secret_and_what_is_not_complete_is_not_on_disk() {
    let folder = folder();
    let mut process = Process::start(folder.path());
    process.list("east", 3);
    process.list("west", 3);
    let secrets = served("", "secrets", "Secret");
    let writer = process.writer("east", &secrets);
    writer.finish_list(&Entries::new(), "5".into());
    let folders = process.writer("files", &pods());
    folders.set_volatile(true);
    folders.finish_list(&Entries::new(), "5".into());
    let mut begun = process.writer("begun", &pods());
    let first = entry(&mut begun, "begun", 1, 1);
    begun.apply([PreparedChange::Upsert(first)]);
    process.flush();
    let names = |folder: &Path| -> Vec<_> {
        let mut names: Vec<_> =
            files(folder).iter().map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(folder.path()), ["east", "west"]);
    process.pods().remove(&"west".into());
    process.flush();
    assert_eq!(names(folder.path()), ["east"]);
    let parts = fs::read_dir(folder.path().join("fleetglass-cache")).unwrap();
    let entries: Vec<_> = parts.map(|entry| entry.unwrap().file_name()).collect();
    assert!(entries.iter().all(|name| !name.to_string_lossy().contains("secret")), "{entries:?}");
}

#[tokio::test]
async fn a_wider_scope_than_before_the_restart_is_listed_again() {
    let folder = folder();
    let narrow = Scope::Namespaces(["shop".to_owned()].into());
    let mut process = Process::start(folder.path());
    process.writer("east", &pods()).follow(&narrow, "https://east");
    process.list("east", 3);
    process.flush();
    drop(process);
    let after = Process::start(folder.path());
    let writer = after.writer("east", &pods());
    writer.follow(&narrow, "https://east");
    assert_eq!(writer.version().as_deref(), Some("1000"));
    writer.follow(&Scope::All, "https://east");
    assert_eq!((writer.version(), writer.objects().len()), (None, 3));
    let again = Process::start(folder.path());
    assert!(again.disk.status().failure.is_some(), "the folder is still in use");
    drop((after, again));
    let elsewhere = Process::start(folder.path());
    let writer = elsewhere.writer("east", &pods());
    writer.follow(&narrow, "https://other");
    assert_eq!(writer.version(), None, "another cluster of the same name");
}

#[tokio::test]
async fn what_an_earlier_life_of_a_cluster_has_left_is_never_added_to() {
    let folder = folder();
    let mut process = Process::start(folder.path());
    process.list("other", 2);
    process.list("east", 30);
    process.flush();
    // It leaves and comes back between two writes; the second write finds it in the middle of its list.
    process.pods().remove(&"east".into());
    let mut writer = process.writer("east", &pods());
    let first = entry(&mut writer, "east", 1, 2001);
    writer.apply([PreparedChange::Upsert(first.clone())]);
    process.flush();
    writer.finish_list(&[first].into_iter().collect(), "2001".into());
    process.flush();
    let expected = shown(&process.pods());
    drop((process, writer));
    assert_eq!(shown(&Process::start(folder.path()).pods()), expected);
}

#[tokio::test]
async fn a_resource_that_was_away_for_a_moment_leaves_nothing_of_before() {
    let folder = folder();
    let mut process = Process::start(folder.path());
    process.list("east", 3);
    process.list("west", 3);
    process.flush();
    process.pods().remove(&"east".into());
    process.pods().remove(&"west".into());
    process.cache.tidy(Duration::ZERO);
    process.list("east", 2);
    process.flush();
    let expected = shown(&process.pods());
    drop(process);
    assert_eq!(shown(&Process::start(folder.path()).pods()), expected);
}

#[tokio::test]
async fn what_lies_beside_is_left_alone() {
    let folder = folder();
    fs::create_dir_all(folder.path().join("index/deeper")).unwrap();
    fs::write(folder.path().join("index/deeper/file"), "somebody's").unwrap();
    let mut process = Process::start(folder.path());
    process.list("east", 3);
    process.flush();
    assert!(folder.path().join("index/deeper/file").exists());
}

#[tokio::test]
async fn two_processes_never_share_a_folder() {
    let folder = folder();
    let first = Process::start(folder.path());
    let second = Process::start(folder.path());
    assert!(first.disk.status().failure.is_none());
    let (_, reason) = second.disk.status().failure.unwrap();
    assert!(reason.contains("used by another process"), "{reason}");
}

#[tokio::test]
async fn a_full_disk_is_said_and_taken_into_use_again_when_there_is_room() {
    let folder = folder();
    let mut process = Process::start(folder.path());
    process.list("east", 3);
    process.flush();
    // What is begun for the next cluster goes to a device that is always full.
    let parts = files(folder.path())[0].parent().unwrap().to_path_buf();
    std::os::unix::fs::symlink("/dev/full", parts.join("west.part.new")).unwrap();
    process.list("west", 3000);
    process.flush();
    let (_, reason) = process.disk.status().failure.unwrap();
    assert!(reason.contains("No space left on device"), "{reason}");
    process.flush();
    assert!(process.disk.status().failure.is_none(), "{:?}", process.disk.status());
    let expected = shown(&process.pods());
    drop(process);
    assert_eq!(shown(&Process::start(folder.path()).pods()), expected);
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_leaves_the_cache_in_memory() {
    let folder = folder();
    let file = folder.path().join("file");
    fs::write(&file, "not a folder").unwrap();
    let mut process = Process::start(&file.join("cache"));
    process.list("east", 3);
    process.flush();
    let status = process.disk.status();
    assert!(status.failure.unwrap().1.contains("file/cache"), "the path is named");
    assert_eq!(process.disk.failures.load(Ordering::Relaxed), 2);
    fs::remove_file(&file).unwrap();
    process.flush();
    assert!(process.disk.status().failure.is_none());
    assert_eq!(files(folder.path()).len(), 1);
}

#[tokio::test]
async fn without_its_dictionary_a_file_is_set_aside() {
    let folder = folder();
    let mut process = Process::start(folder.path());
    process.list("east", 500);
    for _ in 0..500 {
        let snapshot = process.pods().snapshot(None);
        if snapshot.parts.values().all(|part| part.objects.iter().all(|entry| entry.frame().dictionary == 1)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    process.flush();
    let beside = fs::read_dir(files(folder.path())[0].parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let dictionary = beside.into_iter().find(|path| path.extension().is_none()).unwrap();
    drop(process);
    let mut bytes = fs::read(&dictionary).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&dictionary, bytes).unwrap();
    let mut after = Process::start(folder.path());
    assert!(shown(&after.pods()).is_empty());
    assert_eq!(after.disk.set_aside.load(Ordering::Relaxed), 2, "the dictionary and the file that needs it");
    // Read again from its cluster, it is kept again.
    after.list("east", 3);
    after.flush();
    let expected = shown(&after.pods());
    drop(after);
    assert_eq!(shown(&Process::start(folder.path()).pods()), expected);
}

/// A history: what happens between two writes to disk.
fn history() -> impl Strategy<Value = Vec<Vec<(bool, u64)>>> {
    let change = (prop::bool::weighted(0.7), 0u64..12);
    prop::collection::vec(prop::collection::vec(change, 1..6), 1..8)
}

/// Lives through a history, and returns what was shown after each write.
async fn live(folder: &Path, history: &[Vec<(bool, u64)>]) -> Vec<Vec<String>> {
    let mut process = Process::start(folder);
    process.list("east", 8);
    process.flush();
    let mut written = vec![shown(&process.pods())];
    let (mut writer, mut version) = (process.writer("east", &pods()), 1000);
    for changes in history {
        for (is_there, number) in changes {
            version += 1;
            let entry = entry(&mut writer, "east", *number, version);
            let key = EntryKey::new("shop", entry.name());
            let change = match *is_there || writer.objects().get(&key).is_none() {
                true => PreparedChange::Upsert(entry),
                false => PreparedChange::Delete(entry),
            };
            writer.apply([change]);
        }
        process.flush();
        written.push(shown(&process.pods()));
    }
    written
}

fn damage(history: &[Vec<(bool, u64)>], spoil: impl Fn(&mut Vec<u8>)) -> (Vec<Vec<String>>, Vec<String>, bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let folder = folder();
    let written = runtime.block_on(live(folder.path(), history));
    let file = &files(folder.path())[0];
    let mut bytes = fs::read(file).unwrap();
    spoil(&mut bytes);
    fs::write(file, bytes).unwrap();
    let after = Process::start(folder.path());
    (written, shown(&after.pods()), after.disk.set_aside.load(Ordering::Relaxed) > 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_file_cut_anywhere_is_as_it_was_after_some_write_or_set_aside(history in history(), at in any::<prop::sample::Index>()) {
        let cut = |bytes: &mut Vec<u8>| bytes.truncate(at.index(bytes.len()));
        let (written, shown, was_set_aside) = damage(&history, cut);
        prop_assert!(if was_set_aside { shown.is_empty() } else { written.contains(&shown) }, "{:?}", shown);
    }

    #[test]
    fn a_changed_byte_is_never_believed(history in history(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let flip = |bytes: &mut Vec<u8>| {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        };
        let (written, shown, was_set_aside) = damage(&history, flip);
        prop_assert!(if was_set_aside { shown.is_empty() } else { written.contains(&shown) }, "{:?}", shown);
    }
}
