//! Reading: one registry, or all of them, as JSON, YAML, metadata alone, or a table.

use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::store::{api_error, document, subject};
use super::{Call, RegistryApi, table};
use crate::GROUP_VERSION;
use crate::encode::{Accepted, Offer, View, negotiate, object};
use crate::error::ApiError;
use crate::request::ListOptions;
use crate::selector::{FieldOperator, FieldSelector, LabelSelector};
use crate::storage::{Listing, Stored};
use crate::table::{IncludeObject, PartialObjectMetadata, PartialObjectMetadataList, TableMeta};

/// Which registries a request is about.
#[derive(Debug, Default)]
pub(super) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    pub(super) fn parse(options: &ListOptions, name: Option<&str>) -> Result<Self, ApiError> {
        let bad = |selector: &str, error: &dyn std::fmt::Display| ApiError::bad_request(format!("{selector}: {error}"));
        let label_text = options.label_selector.as_deref().unwrap_or_default();
        let field_text = match name {
            Some(name) => format!("metadata.name={name}"),
            None => options.field_selector.clone().unwrap_or_default(),
        };
        let labels = LabelSelector::parse(label_text).map_err(|error| bad("unable to parse requirement", &error))?;
        let fields =
            FieldSelector::parse(&field_text).map_err(|error| bad("unable to parse field selector", &error))?;
        let unknown =
            fields.requirements().iter().find(|one| !matches!(one.path(), "metadata.name" | "metadata.namespace"));
        if let Some(unknown) = unknown {
            return Err(ApiError::bad_request(format!(
                "{:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                unknown.path(),
            )));
        }
        Ok(Self { labels, fields })
    }

    pub(super) fn is_met_by(&self, document: &Value) -> bool {
        let metadata = &document["metadata"];
        let fields = self.fields.requirements().iter().all(|requirement| {
            let value = match requirement.path() {
                "metadata.name" => metadata["name"].as_str().unwrap_or_default(),
                _ => "",
            };
            (value == requirement.value()) == (requirement.operator() == FieldOperator::Equals)
        });
        fields && self.labels.matches(|key| metadata["labels"][key].as_str())
    }
}

/// Reads one registry.
pub(super) async fn get(api: &RegistryApi, call: &Call, name: &str) -> Result<Response, ApiError> {
    let stored = find(api, name).await?;
    present(call, StatusCode::OK, &document(&stored)?)
}

/// The stored object of a name.
pub(super) async fn find(api: &RegistryApi, name: &str) -> Result<Stored, ApiError> {
    let stored = api.store.storage().get(name).await.map_err(|error| api_error(&error, name))?;
    stored.ok_or_else(|| ApiError::not_found(subject(name)))
}

/// One document in the form that the caller accepts.
pub(super) fn present(call: &Call, status: StatusCode, document: &Value) -> Result<Response, ApiError> {
    let accepted = negotiate(&call.headers, Offer::Transformed)?;
    match accepted.view {
        View::Whole => object(accepted, status, document),
        View::Metadata => object(accepted, status, &PartialObjectMetadata::new(&raw(&document["metadata"])?)),
        View::Table => {
            let version = document["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
            let metadata = TableMeta { resource_version: version, ..TableMeta::default() };
            let include = IncludeObject::parse(&call.query)?;
            object(accepted, status, &table::table(metadata, std::slice::from_ref(document), include)?)
        }
    }
}

pub(super) fn raw(value: &Value) -> Result<Box<RawValue>, ApiError> {
    serde_json::value::to_raw_value(value).map_err(|error| ApiError::internal(error.to_string()))
}

/// Where the next page begins; the form API servers give theirs.
#[derive(Serialize, Deserialize)]
struct PageToken {
    v: String,
    rv: u64,
    start: String,
}

/// Lists registries.
pub(super) async fn list(api: &RegistryApi, call: &Call, options: &ListOptions) -> Result<Response, ApiError> {
    options.check()?;
    let accepted = negotiate(&call.headers, Offer::Transformed)?;
    let selection = Selection::parse(options, None)?;
    let listing = api.store.storage().list().await.map_err(|error| api_error(&error, ""))?;
    let documents = listing.items.iter().map(document).collect::<Result<Vec<_>, _>>()?;
    let matching: Vec<Value> = documents.into_iter().filter(|document| selection.is_met_by(document)).collect();
    let (page, metadata) = page(options, &listing, matching)?;
    answer(call, accepted, &page, metadata)
}

fn page(options: &ListOptions, listing: &Listing, matching: Vec<Value>) -> Result<(Vec<Value>, TableMeta), ApiError> {
    let mut metadata = TableMeta { resource_version: listing.revision.to_string(), ..TableMeta::default() };
    let start = match options.continue_token.as_str() {
        "" => String::new(),
        token => {
            let token =
                URL_SAFE_NO_PAD.decode(token).ok().and_then(|text| serde_json::from_slice::<PageToken>(&text).ok());
            let token =
                token.ok_or_else(|| ApiError::bad_request("continue key is not valid: not a token of this server"))?;
            metadata.resource_version = token.rv.to_string();
            token.start
        }
    };
    let name = |document: &Value| document["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut rest: Vec<Value> = matching.into_iter().filter(|document| name(document) >= start).collect();
    let limit = usize::try_from(options.limit).unwrap_or(0);
    if limit > 0 && rest.len() > limit {
        let cut = rest.split_off(limit);
        let token = PageToken {
            v: "meta.k8s.io/v1".to_owned(),
            rv: metadata.resource_version.parse().unwrap_or(listing.revision),
            start: cut.first().map(name).unwrap_or_default(),
        };
        metadata.continue_token = URL_SAFE_NO_PAD.encode(json!(token).to_string());
        metadata.remaining_item_count = i64::try_from(cut.len()).ok();
    }
    Ok((rest, metadata))
}

fn answer(call: &Call, accepted: Accepted, page: &[Value], metadata: TableMeta) -> Result<Response, ApiError> {
    match accepted.view {
        View::Whole => {
            // Items of a typed list carry no type of their own, as API servers write them.
            let items: Vec<Value> = page.iter().map(without_type).collect();
            let list = json!({
                "kind": "ResourceRegistryList", "apiVersion": GROUP_VERSION, "metadata": metadata, "items": items,
            });
            object(accepted, StatusCode::OK, &list)
        }
        View::Metadata => {
            let items = page.iter().map(|document| raw(&document["metadata"])).collect::<Result<Vec<_>, _>>()?;
            let list = PartialObjectMetadataList::new(metadata, items.iter().map(|item| &**item));
            object(accepted, StatusCode::OK, &list)
        }
        View::Table => {
            let include = IncludeObject::parse(&call.query)?;
            object(accepted, StatusCode::OK, &table::table(metadata, page, include)?)
        }
    }
}

fn without_type(document: &Value) -> Value {
    let mut document = document.clone();
    if let Some(fields) = document.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    document
}
