//! Who may do what, and who is asked: role bindings, certificate requests, admission webhooks.

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::read::{Conditions, Lenient, Metadata, Object, Text, read};
use super::words::{AGE, Heading, NAME, number, text, wide};

pub(super) const ROLE_BINDING: &[Heading] = &[
    NAME,
    text("Role", "The role that is given."),
    AGE,
    wide("Users", "Users who have it."),
    wide("Groups", "Groups that have it."),
    wide("ServiceAccounts", "Service accounts that have it."),
];

pub(super) const SIGNING_REQUEST: &[Heading] = &[
    NAME,
    AGE,
    text("SignerName", "Who should sign."),
    text("Requestor", "Who asks."),
    text("RequestedDuration", "For how long the certificate should be good."),
    text("Condition", "What has become of the request."),
];

pub(super) const WEBHOOKS: &[Heading] = &[NAME, number("Webhooks", "How many webhooks are called."), AGE];

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RoleBinding<'a> {
    #[serde(borrow)]
    metadata: Lenient<Metadata<'a>>,
    role_ref: Lenient<Named<'a>>,
    subjects: Lenient<Vec<Named<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named<'a> {
    #[serde(borrow)]
    kind: Text<'a>,
    namespace: Text<'a>,
    name: Text<'a>,
}

impl RoleBinding<'_> {
    fn subjects(&self, kind: &str) -> String {
        let subjects = self.subjects.iter().filter(|subject| *subject.kind == *kind);
        let words = subjects.map(|subject| match &*subject.namespace {
            namespace if kind == "ServiceAccount" => format!("{namespace}/{}", &*subject.name),
            _ => subject.name.to_string(),
        });
        words.collect::<Vec<_>>().join(", ")
    }
}

pub(super) fn role_binding(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: RoleBinding<'_> = read(object);
    vec![
        (*it.metadata.name).into(),
        format!("{}/{}", &*it.role_ref.kind, &*it.role_ref.name).into(),
        it.metadata.age(now).into(),
        it.subjects("User").into(),
        it.subjects("Group").into(),
        it.subjects("ServiceAccount").into(),
    ]
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RequestSpec<'a> {
    #[serde(borrow)]
    signer_name: Text<'a>,
    username: Text<'a>,
    expiration_seconds: Lenient<Option<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RequestStatus<'a> {
    #[serde(borrow)]
    conditions: Conditions<'a>,
    certificate: Text<'a>,
}

pub(super) fn signing_request(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: Object<'_, RequestSpec<'_>, RequestStatus<'_>> = read(object);
    let duration = it.spec.expiration_seconds.map_or_else(|| "<none>".to_owned(), apiservice::table::human_duration);
    vec![
        (*it.metadata.name).into(),
        it.metadata.age(now).into(),
        it.spec.signer_name.or("<none>").into(),
        (*it.spec.username).into(),
        duration.into(),
        condition(&it.status).into(),
    ]
}

fn condition(status: &RequestStatus<'_>) -> String {
    let has = |kind: &str| status.conditions.iter().any(|condition| *condition.kind == *kind);
    let decided = ["Denied", "Approved"].into_iter().find(|kind| has(kind)).unwrap_or("Pending");
    let failed = has("Failed").then_some("Failed");
    let issued = (!status.certificate.is_empty()).then_some("Issued");
    [Some(decided), failed, issued].into_iter().flatten().collect::<Vec<_>>().join(",")
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WebhookConfiguration<'a> {
    #[serde(borrow)]
    metadata: Lenient<Metadata<'a>>,
    webhooks: Lenient<Vec<IgnoredAny>>,
}

pub(super) fn webhooks(object: &[u8], now: Timestamp) -> Vec<Value> {
    let it: WebhookConfiguration<'_> = read(object);
    vec![(*it.metadata.name).into(), it.webhooks.len().into(), it.metadata.age(now).into()]
}
