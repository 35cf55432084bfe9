//! Writing registries: every write is checked, remembers who wrote what, and never overwrites a version it has not seen.

use axum::response::Response;
use http::header::{CONTENT_TYPE, USER_AGENT, WARNING};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::read::{Selection, find, present};
use super::store::{ATTEMPTS, api_error, document, now, stored_form, subject};
use super::{Call, Part, RegistryApi};
use crate::encode::{Accepted, object};
use crate::error::ApiError;
use crate::managed_fields::{self, Manager};
use crate::patch::Patch;
use crate::request::ListOptions;
use crate::storage::{StorageError, Stored};
use crate::validation::{KIND, read, unknown_fields, validate};
use crate::{GROUP, VERSION};

/// How strict a body is read: `fieldValidation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// What a write asks for beyond its body.
struct WriteOptions {
    is_dry_run: bool,
    field_validation: FieldValidation,
    manager: Manager,
    force: bool,
}

impl WriteOptions {
    fn read(call: &Call, part: Part) -> Result<Self, ApiError> {
        let is_dry_run = match call.parameter("dryRun").as_deref() {
            None => false,
            Some("All") => true,
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "dryRun: Unsupported value: {other:?}: supported values: \"All\""
                )));
            }
        };
        let field_validation = match call.parameter("fieldValidation").as_deref() {
            None | Some("" | "Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                let supported = "supported values: \"Ignore\", \"Warn\", \"Strict\"";
                return Err(ApiError::bad_request(format!(
                    "fieldValidation: Unsupported value: {other:?}: {supported}"
                )));
            }
        };
        let agent = call.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        let name = call.parameter("fieldManager").filter(|name| !name.is_empty()).unwrap_or_else(|| {
            agent.split(['/', ' ']).next().filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned()
        });
        if name.len() > 128 || name.chars().any(char::is_control) {
            return Err(ApiError::bad_request("fieldManager: at most 128 printable characters are expected"));
        }
        let subresource = if part == Part::Status { "status" } else { "" };
        let force = call.parameter("force").is_some_and(|force| force == "true" || force == "1");
        Ok(Self { is_dry_run, field_validation, manager: Manager { name, subresource, time: now() }, force })
    }
}

/// A document and what the caller is to be told about it.
struct Body {
    document: Value,
    warnings: Vec<String>,
}

/// Reads a whole object from a request's body.
fn read_body(call: &Call, options: &WriteOptions, known: Option<&Value>) -> Result<Body, ApiError> {
    let content_type =
        call.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/json");
    let unreadable = |error: &dyn std::fmt::Display| {
        ApiError::bad_request(format!("the object provided is unrecognized (must be of type {KIND}): {error}"))
    };
    let document: Value = match content_type.split(';').next().unwrap_or_default().trim() {
        "application/json" | "" => serde_json::from_slice(&call.body).map_err(|error| unreadable(&error))?,
        "application/yaml" => serde_yaml::from_slice(&call.body).map_err(|error| unreadable(&error))?,
        other => {
            return Err(ApiError::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: application/json, \
                 application/yaml; found {other:?}"
            )));
        }
    };
    if !document.is_object() {
        return Err(unreadable(&"it is not an object"));
    }
    let warnings = check_fields(&document, options, known)?;
    Ok(Body { document, warnings })
}

/// Fields this type does not have: an error, a warning or nothing, as the caller asked. Those that are stored already, by
/// a server that knows more, are no mistake of the caller's.
fn check_fields(document: &Value, options: &WriteOptions, known: Option<&Value>) -> Result<Vec<String>, ApiError> {
    if options.field_validation == FieldValidation::Ignore {
        return Ok(Vec::new());
    }
    let stored = known.map(unknown_fields).unwrap_or_default();
    let unknown: Vec<String> = unknown_fields(document)
        .into_iter()
        .filter(|field| !stored.contains(field))
        .map(|field| format!("unknown field {field:?}"))
        .collect();
    if options.field_validation == FieldValidation::Strict && !unknown.is_empty() {
        return Err(ApiError::bad_request(format!(
            "{KIND} in version \"{VERSION}\" cannot be handled as a {KIND}: strict decoding error: {}",
            unknown.join(", ")
        )));
    }
    Ok(unknown)
}

fn respond(call: &Call, status: StatusCode, document: &Value, warnings: &[String]) -> Result<Response, ApiError> {
    let mut response = present(call, status, document)?;
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
    Ok(response)
}

/// Creates a registry.
pub(super) async fn create(api: &RegistryApi, call: &Call) -> Result<Response, ApiError> {
    let options = WriteOptions::read(call, Part::Whole)?;
    let Body { document: body, warnings } = read_body(call, &options, None)?;
    let version = body["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if !version.is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let generated_from = body["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
    let has_name = !body["metadata"]["name"].as_str().unwrap_or_default().is_empty();
    for _ in 0..ATTEMPTS {
        let mut new = body.clone();
        if !has_name && !generated_from.is_empty() {
            let random = uuid::Uuid::new_v4().simple().to_string();
            let name = format!("{}{}", generated_from.chars().take(58).collect::<String>(), &random[..5]);
            new["metadata"]["name"] = json!(name);
        }
        match create_once(api, new, &options).await {
            Err(error) if !has_name && error.reason() == Some("AlreadyExists") => {}
            created => return respond(call, StatusCode::CREATED, &created?, &warnings),
        }
    }
    Err(ApiError::unavailable("no free name could be generated"))
}

async fn create_once(api: &RegistryApi, mut new: Value, options: &WriteOptions) -> Result<Value, ApiError> {
    validate(&read(&new)?)?;
    fill_spec(&mut new);
    new["status"] = json!({});
    let name = new["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let Some(metadata) = new["metadata"].as_object_mut() else {
        return Err(ApiError::bad_request("metadata is missing"));
    };
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields", "resourceVersion"] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), json!(uuid::Uuid::new_v4().to_string()));
    metadata.insert("creationTimestamp".to_owned(), json!(now()));
    metadata.insert("generation".to_owned(), json!(1));
    managed_fields::updated(&Value::Null, &mut new, &options.manager);
    finish_create(api, &name, new, options.is_dry_run).await
}

/// Writes out what the original's type always has, so that what is stored is what it would have stored.
fn fill_spec(document: &mut Value) {
    if document["spec"].is_null() {
        document["spec"] = json!({});
    }
    if let Some(spec) = document["spec"].as_object_mut() {
        let target = spec.entry("targetCluster").or_insert(Value::Null);
        if target.is_null() {
            *target = json!({});
        }
        spec.entry("resourceSelectors").or_insert(Value::Null);
    }
}

async fn finish_create(api: &RegistryApi, name: &str, mut new: Value, is_dry_run: bool) -> Result<Value, ApiError> {
    let storage = api.store.storage();
    if is_dry_run {
        if storage.get(name).await.map_err(|error| api_error(&error, name))?.is_some() {
            return Err(api_error(&StorageError::Exists, name));
        }
        return Ok(new);
    }
    let revision = storage.create(name, stored_form(new.clone())).await.map_err(|error| api_error(&error, name))?;
    new["metadata"]["resourceVersion"] = json!(revision.to_string());
    Ok(new)
}

/// Replaces a registry, or its status.
pub(super) async fn update(api: &RegistryApi, call: &Call, name: &str, part: Part) -> Result<Response, ApiError> {
    let options = WriteOptions::read(call, part)?;
    for _ in 0..ATTEMPTS {
        let stored = find(api, name).await?;
        let old = document(&stored)?;
        let Body { document: mut new, warnings } = read_body(call, &options, Some(&old))?;
        let is_unconditional = new["metadata"]["resourceVersion"].as_str().unwrap_or_default().is_empty();
        prepare_update(&old, &mut new, name, part)?;
        managed_fields::updated(&old, &mut new, &options.manager);
        match save(api, &stored, &old, new, &options).await {
            Err(error) if is_unconditional && error.reason() == Some("Conflict") => {}
            saved => return respond(call, StatusCode::OK, &saved?, &warnings),
        }
    }
    Err(api_error(&StorageError::Conflict, name))
}

/// Changes a registry, or its status; an apply patch may also create one.
pub(super) async fn patch(api: &RegistryApi, call: &Call, name: &str, part: Part) -> Result<Response, ApiError> {
    let options = WriteOptions::read(call, part)?;
    let patch = Patch::read(&call.headers, &call.body)?;
    if matches!(patch, Patch::Apply(_)) && call.parameter("fieldManager").unwrap_or_default().is_empty() {
        return Err(ApiError::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    for _ in 0..ATTEMPTS {
        let stored = match find(api, name).await {
            Ok(stored) => stored,
            Err(error) => match &patch {
                Patch::Apply(configuration) if error.code() == 404 && part == Part::Whole => {
                    return apply_new(api, call, name, configuration, &options).await;
                }
                _ => return Err(error),
            },
        };
        let old = document(&stored)?;
        let mut new = patched(&old, &patch, &options, name)?;
        let warnings = check_fields(&new, &options, Some(&old))?;
        prepare_update(&old, &mut new, name, part)?;
        if !matches!(patch, Patch::Apply(_)) {
            managed_fields::updated(&old, &mut new, &options.manager);
        }
        match save(api, &stored, &old, new, &options).await {
            Err(error) if !patch.names_version() && error.reason() == Some("Conflict") => {}
            saved => return respond(call, StatusCode::OK, &saved?, &warnings),
        }
    }
    Err(api_error(&StorageError::Conflict, name))
}

fn patched(old: &Value, patch: &Patch, options: &WriteOptions, name: &str) -> Result<Value, ApiError> {
    let Patch::Apply(configuration) = patch else { return patch.apply(old) };
    check_configuration(configuration, name)?;
    managed_fields::applied(old, configuration, &options.manager, options.force).map_err(ApiError::apply_conflict)
}

fn check_configuration(configuration: &Value, name: &str) -> Result<(), ApiError> {
    if !configuration["metadata"]["managedFields"].is_null() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let given = configuration["metadata"]["name"].as_str().unwrap_or_default();
    if !given.is_empty() && given != name {
        return Err(name_differs(given, name));
    }
    Ok(())
}

fn name_differs(given: &str, name: &str) -> ApiError {
    ApiError::bad_request(format!("the name of the object ({given}) does not match the name on the URL ({name})"))
}

async fn apply_new(
    api: &RegistryApi,
    call: &Call,
    name: &str,
    configuration: &Value,
    options: &WriteOptions,
) -> Result<Response, ApiError> {
    check_configuration(configuration, name)?;
    let warnings = check_fields(configuration, options, None)?;
    let mut base = json!({
        "apiVersion": configuration["apiVersion"], "kind": configuration["kind"], "status": {},
        "metadata": { "name": name, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": now(), "generation": 1 },
    });
    base["spec"] = json!({});
    let mut new = managed_fields::applied(&base, configuration, &options.manager, options.force)
        .map_err(ApiError::apply_conflict)?;
    new["status"] = json!({});
    validate(&read(&new)?)?;
    fill_spec(&mut new);
    let created = finish_create(api, name, new, options.is_dry_run).await?;
    respond(call, StatusCode::CREATED, &created, &warnings)
}

/// Checks a new document against the old one and keeps what is not the caller's to change.
fn prepare_update(old: &Value, new: &mut Value, name: &str, part: Part) -> Result<(), ApiError> {
    let registry = read(new)?;
    fill_spec(new);
    if registry.name() != name {
        return Err(name_differs(registry.name(), name));
    }
    let text = |document: &Value, field: &str| document["metadata"][field].as_str().unwrap_or_default().to_owned();
    let version = text(new, "resourceVersion");
    if !version.is_empty() && version != text(old, "resourceVersion") {
        return Err(api_error(&StorageError::Conflict, name));
    }
    let uid = text(new, "uid");
    if !uid.is_empty() && uid != text(old, "uid") {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", text(old, "uid"));
        return Err(ApiError::conflict(subject(name), &why));
    }
    match part {
        Part::Whole => new["status"] = old["status"].clone(),
        Part::Status => {
            let status = new["status"].take();
            let managed = new["metadata"]["managedFields"].take();
            *new = old.clone();
            new["status"] = if status.is_object() { status } else { json!({}) };
            if managed.is_array() {
                new["metadata"]["managedFields"] = managed;
            }
        }
    }
    for field in
        ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "resourceVersion"]
    {
        match old["metadata"].get(field) {
            Some(value) => new["metadata"][field] = value.clone(),
            None => drop(new["metadata"].as_object_mut().and_then(|metadata| metadata.remove(field))),
        }
    }
    if new["spec"] != old["spec"] {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or_default();
        new["metadata"]["generation"] = json!(generation + 1);
    }
    validate(&read(new)?)
}

/// Stores a changed document; one whose last finalizer went while it was being deleted goes for good.
async fn save(
    api: &RegistryApi,
    stored: &Stored,
    old: &Value,
    mut new: Value,
    options: &WriteOptions,
) -> Result<Value, ApiError> {
    let name = &stored.name;
    let failed = |error: StorageError| api_error(&error, name);
    if options.is_dry_run || (is_same(old, &new) && !stored.is_outdated) {
        return Ok(if options.is_dry_run { new } else { old.clone() });
    }
    let storage = api.store.storage();
    let is_leaving = !new["metadata"]["deletionTimestamp"].is_null();
    if is_leaving && !has_finalizers(&new) {
        storage.delete(name, stored.revision).await.map_err(failed)?;
        return Ok(new);
    }
    let revision = storage.update(name, stored_form(new.clone()), stored.revision).await.map_err(failed)?;
    new["metadata"]["resourceVersion"] = json!(revision.to_string());
    Ok(new)
}

/// Whether nothing but times of managed fields differs: such a write would only wake watchers.
fn is_same(old: &Value, new: &Value) -> bool {
    let without_times = |document: &Value| {
        let mut document = document.clone();
        for entry in document["metadata"]["managedFields"].as_array_mut().into_iter().flatten() {
            entry.as_object_mut().map(|entry| entry.remove("time"));
        }
        document
    };
    without_times(old) == without_times(new)
}

fn has_finalizers(document: &Value) -> bool {
    document["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty())
}

/// What a deletion demands and how it is to be done.
struct DeleteOptions {
    uid: Option<String>,
    resource_version: Option<String>,
    is_dry_run: bool,
}

impl DeleteOptions {
    fn read(call: &Call) -> Result<Self, ApiError> {
        let body: Value = if call.body.is_empty() {
            Value::Null
        } else {
            serde_yaml::from_slice(&call.body)
                .map_err(|error| ApiError::bad_request(format!("the DeleteOptions cannot be read: {error}")))?
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let dry_run =
            body["dryRun"].as_array().and_then(|values| values.first()).and_then(text).or(call.parameter("dryRun"));
        match dry_run.as_deref() {
            None | Some("All") => {}
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "dryRun: Unsupported value: {other:?}: supported values: \"All\""
                )));
            }
        }
        let preconditions = &body["preconditions"];
        Ok(Self {
            uid: text(&preconditions["uid"]),
            resource_version: text(&preconditions["resourceVersion"]),
            is_dry_run: dry_run.is_some(),
        })
    }

    fn check(&self, document: &Value, name: &str) -> Result<(), ApiError> {
        let present = |field: &str| document["metadata"][field].as_str().unwrap_or_default();
        for (wanted, field, label) in
            [(&self.uid, "uid", "UID"), (&self.resource_version, "resourceVersion", "ResourceVersion")]
        {
            if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != present(field)) {
                let found = present(field);
                let why =
                    format!("Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {found}");
                return Err(ApiError::conflict(subject(name), &why));
            }
        }
        Ok(())
    }
}

/// Deletes a registry; one with finalizers is marked and goes when they are gone.
pub(super) async fn delete(api: &RegistryApi, call: &Call, name: &str) -> Result<Response, ApiError> {
    let options = DeleteOptions::read(call)?;
    for _ in 0..ATTEMPTS {
        let stored = find(api, name).await?;
        let old = document(&stored)?;
        options.check(&old, name)?;
        match delete_once(api, &stored, &old, &options).await {
            Err(StorageError::Conflict) => {}
            Err(error) => return Err(api_error(&error, name)),
            Ok(Some(marked)) => return present(call, StatusCode::OK, &marked),
            Ok(None) => {
                let details = json!({
                    "name": name, "group": GROUP, "kind": super::RESOURCE, "uid": old["metadata"]["uid"],
                });
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
                });
                return object(Accepted::default(), StatusCode::OK, &status);
            }
        }
    }
    Err(api_error(&StorageError::Conflict, name))
}

/// The marked document if finalizers hold it, none if it is gone.
async fn delete_once(
    api: &RegistryApi,
    stored: &Stored,
    old: &Value,
    options: &DeleteOptions,
) -> Result<Option<Value>, StorageError> {
    let storage = api.store.storage();
    if !has_finalizers(old) {
        if !options.is_dry_run {
            storage.delete(&stored.name, stored.revision).await?;
        }
        return Ok(None);
    }
    let mut marked = old.clone();
    if marked["metadata"]["deletionTimestamp"].is_null() {
        marked["metadata"]["deletionTimestamp"] = json!(now());
        marked["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        if !options.is_dry_run {
            let revision = storage.update(&stored.name, stored_form(marked.clone()), stored.revision).await?;
            marked["metadata"]["resourceVersion"] = json!(revision.to_string());
        }
    }
    Ok(Some(marked))
}

/// Deletes all registries that the selectors choose; answers with what was deleted.
pub(super) async fn delete_collection(api: &RegistryApi, call: &Call) -> Result<Response, ApiError> {
    let options = DeleteOptions::read(call)?;
    let selection = Selection::parse(&ListOptions::parse(&call.query)?, None)?;
    let listing = api.store.storage().list().await.map_err(|error| api_error(&error, ""))?;
    let mut deleted = Vec::new();
    for stored in &listing.items {
        let old = document(stored)?;
        if !selection.is_met_by(&old) {
            continue;
        }
        match delete_once(api, stored, &old, &options).await {
            Ok(marked) => deleted.push(marked.unwrap_or(old)),
            // Somebody wrote or deleted it meanwhile; deleting the newer one is a decision of its own.
            Err(StorageError::Conflict) => {}
            Err(error) => return Err(api_error(&error, &stored.name)),
        }
    }
    let metadata = json!({ "resourceVersion": listing.revision.to_string() });
    let list = json!({
        "kind": "ResourceRegistryList", "apiVersion": crate::GROUP_VERSION, "metadata": metadata, "items": deleted,
    });
    object(Accepted::default(), StatusCode::OK, &list)
}
