//! What one line of the audit log says: an `Event` of `audit.k8s.io/v1`, as JSON or in the old form.

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::policy::{Level, Stage};
use crate::request::{Caller, RequestInfo};

/// What stays the same through all stages of one request.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) audit_id: String,
    pub(super) level: Level,
    pub(super) uri: String,
    pub(super) method: String,
    pub(super) info: RequestInfo,
    pub(super) caller: Caller,
    pub(super) impersonated: Option<Caller>,
    pub(super) source_ips: Vec<String>,
    pub(super) user_agent: String,
    pub(super) received: Timestamp,
    pub(super) request_object: Option<Value>,
    /// Whether the caller was allowed to; unknown until it was asked.
    pub(super) is_allowed: Option<bool>,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    pub(super) code: Option<StatusCode>,
    /// `status`, `reason` and `message` of an answer that says no.
    pub(super) refusal: Map<String, Value>,
    pub(super) response_object: Option<Value>,
}

fn microseconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

fn user(caller: &Caller) -> Value {
    let mut user = Map::new();
    if !caller.username.is_empty() {
        user.insert("username".to_owned(), json!(caller.username));
    }
    if let Some(uid) = &caller.uid {
        user.insert("uid".to_owned(), json!(uid));
    }
    if !caller.groups.is_empty() {
        user.insert("groups".to_owned(), json!(caller.groups));
    }
    if !caller.extra.is_empty() {
        user.insert("extra".to_owned(), json!(caller.extra));
    }
    Value::Object(user)
}

fn object_reference(info: &RequestInfo) -> Value {
    let fields = [
        ("resource", &info.resource),
        ("namespace", &info.namespace),
        ("name", &info.name),
        ("apiGroup", &info.api_group),
        ("apiVersion", &info.api_version),
        ("subresource", &info.subresource),
    ];
    let given = fields.into_iter().filter(|(_, value)| !value.is_empty());
    Value::Object(given.map(|(field, value)| (field.to_owned(), json!(value))).collect())
}

/// The event, with the fields that API servers write.
pub(super) fn event(facts: &Facts, stage: Stage, outcome: &Outcome, at: Timestamp) -> Value {
    let mut event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": facts.level.as_str(), "auditID": facts.audit_id,
        "stage": stage.as_str(), "requestURI": facts.uri, "verb": facts.info.verb, "user": user(&facts.caller),
        "requestReceivedTimestamp": microseconds(facts.received), "stageTimestamp": microseconds(at),
    });
    if let Some(impersonated) = &facts.impersonated {
        event["impersonatedUser"] = user(impersonated);
    }
    if !facts.source_ips.is_empty() {
        event["sourceIPs"] = json!(facts.source_ips);
    }
    if !facts.user_agent.is_empty() {
        event["userAgent"] = json!(facts.user_agent);
    }
    if facts.info.is_resource_request {
        event["objectRef"] = object_reference(&facts.info);
    }
    if let Some(code) = outcome.code {
        let mut status = outcome.refusal.clone();
        status.insert("metadata".to_owned(), json!({}));
        status.insert("code".to_owned(), json!(code.as_u16()));
        event["responseStatus"] = Value::Object(status);
    }
    if let Some(object) = &facts.request_object {
        event["requestObject"] = object.clone();
    }
    if let Some(object) = &outcome.response_object {
        event["responseObject"] = object.clone();
    }
    if let Some(is_allowed) = facts.is_allowed {
        let decision = if is_allowed { "allow" } else { "forbid" };
        event["annotations"] = json!({ "authorization.k8s.io/decision": decision, "authorization.k8s.io/reason": "" });
    }
    event
}

/// The event without its bodies, and with a note that they are missing.
pub(super) fn truncated(mut event: Value) -> Value {
    if let Some(fields) = event.as_object_mut() {
        fields.remove("requestObject");
        fields.remove("responseObject");
    }
    event["annotations"]["audit.k8s.io/truncated"] = json!("true");
    event
}

/// The event as a line of old API servers.
pub(super) fn legacy(facts: &Facts, stage: Stage, outcome: &Outcome, at: Timestamp) -> String {
    let quoted_list = |list: &[String]| match list {
        [] => "\"<none>\"".to_owned(),
        words => words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(","),
    };
    let time = at.strftime("%Y-%m-%dT%H:%M:%S%.9fZ");
    let ip = facts.source_ips.first().map_or("<unknown>", String::as_str);
    let (groups, namespace) = (quoted_list(&facts.caller.groups), or_none(&facts.info.namespace));
    let response = outcome.code.map_or("<deferred>".to_owned(), |code| code.as_u16().to_string());
    let as_user = facts.impersonated.as_ref().map_or("<self>", |caller| caller.username.as_str());
    let as_groups = facts.impersonated.as_ref().map_or("\"<lookup>\"".to_owned(), |caller| quoted_list(&caller.groups));
    let Facts { audit_id, method, user_agent, uri, caller, .. } = facts;
    format!(
        "{time} AUDIT: id={audit_id:?} stage={:?} ip={ip:?} method={method:?} user={:?} groups={groups} as={as_user:?} \
         asgroups={as_groups} user-agent={user_agent:?} namespace={namespace:?} uri={uri:?} response={response:?}\n",
        stage.as_str(),
        or_none(&caller.username),
    )
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

/// Removes what says who wrote which field, of an object or of a list's objects.
pub(super) fn without_managed_fields(mut object: Value) -> Value {
    let strip = |object: &mut Value| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    strip(&mut object);
    object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(strip);
    object
}
