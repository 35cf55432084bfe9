//! What pods read and keep: ConfigMaps, Secrets, volumes and their classes. Of data only the number of entries is shown.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::read::{Lenient, Map, Metadata, Object, Text, read};
use super::words::{AGE, Heading, NAME, join, text, wide};

pub(super) const CONFIG_MAP: &[Heading] = &[NAME, text("Data", "Number of entries."), AGE];

pub(super) const SECRET: &[Heading] =
    &[NAME, text("Type", "What the secret is for."), text("Data", "Number of entries."), AGE];

pub(super) const VOLUME: &[Heading] = &[
    NAME,
    text("Capacity", "Size of the volume."),
    text("Access Modes", "How it may be mounted."),
    text("Reclaim Policy", "What becomes of it when its claim is gone."),
    text("Status", "Whether it is claimed."),
    text("Claim", "The claim that has it."),
    text("StorageClass", "Class of the volume."),
    text("VolumeAttributesClass", "Class of the volume's settings that can change."),
    text("Reason", "Why it is in its status."),
    AGE,
    wide("VolumeMode", "Whether it is a file system or a raw device."),
];

pub(super) const VOLUME_CLAIM: &[Heading] = &[
    NAME,
    text("Status", "Whether there is a volume for it."),
    text("Volume", "The volume."),
    text("Capacity", "Size of the volume."),
    text("Access Modes", "How it may be mounted."),
    text("StorageClass", "Class of the volume."),
    text("VolumeAttributesClass", "Class of the volume's settings that can change."),
    AGE,
    wide("VolumeMode", "Whether it is a file system or a raw device."),
];

pub(super) const STORAGE_CLASS: &[Heading] = &[
    NAME,
    text("Provisioner", "What makes volumes of this class."),
    text("ReclaimPolicy", "What becomes of a volume when its claim is gone."),
    text("VolumeBindingMode", "When a claim gets its volume."),
    text("AllowVolumeExpansion", "Whether volumes can grow."),
    AGE,
];

const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Entries<'a> {
    #[serde(borrow)]
    metadata: Lenient<Metadata<'a>>,
    #[serde(rename = "type")]
    kind: Text<'a>,
    data: Map<'a>,
    binary_data: Map<'a>,
}

pub(super) fn config_map(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Entries<'_> = read(object);
    let entries = it.data.len() + it.binary_data.len();
    vec![(*it.metadata.name).into(), entries.into(), it.metadata.age(now).into()]
}

pub(super) fn secret(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Entries<'_> = read(object);
    vec![(*it.metadata.name).into(), (*it.kind).into(), it.data.len().into(), it.metadata.age(now).into()]
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow)]
    capacity: Lenient<Sizes<'a>>,
    access_modes: Lenient<Vec<Text<'a>>>,
    persistent_volume_reclaim_policy: Text<'a>,
    claim_ref: Lenient<Option<Claim<'a>>>,
    storage_class_name: Text<'a>,
    volume_attributes_class_name: Text<'a>,
    volume_mode: Text<'a>,
    volume_name: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Claim<'a> {
    #[serde(borrow)]
    namespace: Text<'a>,
    name: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status<'a> {
    #[serde(borrow)]
    phase: Text<'a>,
    reason: Text<'a>,
    capacity: Lenient<Sizes<'a>>,
    access_modes: Lenient<Vec<Text<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Sizes<'a> {
    #[serde(borrow)]
    storage: Text<'a>,
}

type Stored<'a> = Object<'a, Spec<'a>, Status<'a>>;

fn phase<'a>(it: &'a Stored<'_>) -> &'a str {
    if it.metadata.is_being_deleted() { "Terminating" } else { &it.status.phase }
}

fn class(it: &Stored<'_>) -> String {
    it.metadata.annotations.get(OLD_CLASS).as_ref().unwrap_or(&it.spec.storage_class_name).to_string()
}

fn modes(modes: &[Text<'_>]) -> String {
    const SHORT: [(&str, &str); 4] =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let has = |wanted: &str| modes.iter().any(|mode| **mode == *wanted);
    join(SHORT.into_iter().filter(|(mode, _)| has(mode)).map(|(_, short)| short), ",")
}

pub(super) fn volume(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Stored<'_> = read(object);
    let claim = it.spec.claim_ref.as_ref();
    vec![
        (*it.metadata.name).into(),
        it.spec.capacity.storage.or("0").into(),
        modes(&it.spec.access_modes).into(),
        (*it.spec.persistent_volume_reclaim_policy).into(),
        phase(&it).into(),
        claim.map(|claim| format!("{}/{}", &*claim.namespace, &*claim.name)).unwrap_or_default().into(),
        class(&it).into(),
        it.spec.volume_attributes_class_name.or("<unset>").into(),
        (*it.status.reason).into(),
        it.metadata.age(now).into(),
        it.spec.volume_mode.or("<unset>").into(),
    ]
}

pub(super) fn volume_claim(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Stored<'_> = read(object);
    let bound = !it.spec.volume_name.is_empty();
    vec![
        (*it.metadata.name).into(),
        phase(&it).into(),
        (*it.spec.volume_name).into(),
        if bound { it.status.capacity.storage.or("0").into() } else { "".into() },
        if bound { modes(&it.status.access_modes).into() } else { "".into() },
        class(&it).into(),
        it.spec.volume_attributes_class_name.or("<unset>").into(),
        it.metadata.age(now).into(),
        it.spec.volume_mode.or("<unset>").into(),
    ]
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StorageClass<'a> {
    #[serde(borrow)]
    metadata: Lenient<Metadata<'a>>,
    provisioner: Text<'a>,
    reclaim_policy: Text<'a>,
    volume_binding_mode: Text<'a>,
    allow_volume_expansion: Lenient<bool>,
}

pub(super) fn storage_class(object: &[u8], now: Timestamp) -> Vec<Value> {
    const DEFAULT: [&str; 2] =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    let it: StorageClass<'_> = read(object);
    let annotations = it.metadata.annotations.entries();
    let is_default = DEFAULT.iter().any(|key| annotations.get(*key).is_some_and(|value| **value == *"true"));
    let suffix = if is_default { " (default)" } else { "" };
    vec![
        format!("{}{suffix}", &*it.metadata.name).into(),
        (*it.provisioner).into(),
        it.reclaim_policy.or("Delete").into(),
        it.volume_binding_mode.or("Immediate").into(),
        (*it.allow_volume_expansion).into(),
        it.metadata.age(now).into(),
    ]
}
