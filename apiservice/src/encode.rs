//! Content negotiation, and answers in the form that was negotiated.
//!
//! In: the `Accept` header and what an endpoint can give ([`Offer`]). Out: an [`Accepted`], and through it responses:
//! whole objects as JSON or YAML, and watches as one JSON event a line. Streams pass through unbuffered.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::error::ApiError;

/// Media types of an endpoint that answers with objects, as its 406 names them.
const AVAILABLE: &str = "application/json, application/yaml, application/json;stream=watch";

/// What an endpoint can give beside plain JSON and YAML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Only the object itself.
    Plain,
    /// Also tables and metadata alone.
    Transformed,
    /// A stream of events, each object plain or transformed; JSON only.
    Watch,
}

/// How the answer's bytes are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    #[default]
    Json,
    /// YAML.
    Yaml,
}

/// What the answer shows of the object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum View {
    /// The object as it is.
    #[default]
    Whole,
    /// A `Table`.
    Table,
    /// A `PartialObjectMetadata`, or for a list its list form.
    Metadata,
}

/// What a caller and an endpoint agreed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accepted {
    /// How the bytes are written.
    pub format: Format,
    /// What is shown.
    pub view: View,
    /// Whether the caller named `stream=watch`, so that the content type must as well.
    pub stream: bool,
}

struct Clause {
    media_type: String,
    parameters: Vec<(String, String)>,
    quality: f32,
}

impl Clause {
    fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
    }

    fn accept(&self, offer: Offer) -> Option<Accepted> {
        let format = match self.media_type.as_str() {
            "*/*" | "application/*" | "application/json" => Format::Json,
            "application/yaml" if offer != Offer::Watch => Format::Yaml,
            _ => return None,
        };
        let stream = match self.parameter("stream") {
            "" => false,
            "watch" if offer == Offer::Watch => true,
            _ => return None,
        };
        Some(Accepted { format, view: self.view(offer)?, stream })
    }

    fn view(&self, offer: Offer) -> Option<View> {
        let meta_type = self.parameter("g") == "meta.k8s.io" && matches!(self.parameter("v"), "v1" | "v1beta1");
        match self.parameter("as") {
            "" => Some(View::Whole),
            _ if offer == Offer::Plain || !meta_type => None,
            "Table" => Some(View::Table),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(View::Metadata),
            _ => None,
        }
    }
}

fn parse_accept(header: &str) -> Vec<Clause> {
    let mut clauses: Vec<Clause> = header
        .split(',')
        .map(|clause| {
            let mut pieces = clause.split(';').map(str::trim);
            let media_type = pieces.next().unwrap_or_default().to_ascii_lowercase();
            let mut parameters = Vec::new();
            let mut quality = 1.0;
            for (key, value) in pieces.filter_map(|piece| piece.split_once('=')) {
                let (key, value) = (key.trim().to_ascii_lowercase(), value.trim().trim_matches('"').to_owned());
                if key == "q" {
                    quality = value.parse().unwrap_or(0.0);
                } else {
                    parameters.push((key, value));
                }
            }
            Clause { media_type, parameters, quality }
        })
        .filter(|clause| !clause.media_type.is_empty() && clause.quality > 0.0)
        .collect();
    // The sort is stable: among equals, what the caller named first wins.
    clauses.sort_by(|left, right| right.quality.total_cmp(&left.quality));
    clauses
}

/// Chooses the representation: the first in the caller's order of preference that the endpoint can give.
///
/// # Errors
/// 406 if there is none.
pub fn negotiate(headers: &HeaderMap, offer: Offer) -> Result<Accepted, ApiError> {
    let accept = joined_accept(headers);
    if accept.trim().is_empty() {
        return Ok(Accepted::default());
    }
    parse_accept(&accept)
        .iter()
        .find_map(|clause| clause.accept(offer))
        .ok_or_else(|| ApiError::not_acceptable(AVAILABLE))
}

/// All `Accept` headers as one: a client may send several.
pub(crate) fn joined_accept(headers: &HeaderMap) -> String {
    let values: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

/// Whether a media type, parameters aside, is one that every object can be given in.
pub(crate) fn is_plain(media_type: &str) -> bool {
    matches!(media_type, "*/*" | "application/*" | "application/json" | "application/yaml")
}

/// The first clause, in order of preference, that `choose` takes; its argument are media type and parameter lookup.
pub(crate) fn choose_accept<T>(accept: &str, choose: impl Fn(&str, &dyn Fn(&str) -> String) -> Option<T>) -> Option<T> {
    parse_accept(accept).iter().find_map(|clause| choose(&clause.media_type, &|name| clause.parameter(name).to_owned()))
}

/// A whole object in the negotiated format.
///
/// # Errors
/// 500 if the object cannot be written.
pub fn object<T: Serialize>(accepted: Accepted, status: StatusCode, object: &T) -> Result<Response, ApiError> {
    let failed = |error: &dyn std::fmt::Display| ApiError::internal(format!("cannot encode the answer: {error}"));
    match accepted.format {
        Format::Json => {
            let mut body = serde_json::to_vec(object).map_err(|error| failed(&error))?;
            body.push(b'\n');
            Ok((status, [(header::CONTENT_TYPE, "application/json")], body).into_response())
        }
        Format::Yaml => {
            // Through JSON, because raw JSON inside of the object has no YAML form of its own.
            let text = serde_json::to_vec(object).map_err(|error| failed(&error))?;
            let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
            let body = serde_yaml::to_string(&value).map_err(|error| failed(&error))?;
            Ok((status, [(header::CONTENT_TYPE, "application/yaml")], body).into_response())
        }
    }
}

/// A body of events that goes out as they come, until the stream ends.
pub fn watch<S, E>(accepted: Accepted, events: S) -> Response
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: Into<axum::BoxError>,
{
    let content_type = if accepted.stream { "application/json;stream=watch" } else { "application/json" };
    stream(content_type, events)
}

/// A body that goes out as it comes, never buffered, never compressed on the way.
pub fn stream<S, E>(content_type: &'static str, chunks: S) -> Response
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: Into<axum::BoxError>,
{
    let mut response = Response::new(Body::from_stream(chunks));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// One event of a watch, with its line end. `kind` is `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
///
/// # Errors
/// 500 if the object cannot be written.
pub fn watch_event<T: Serialize>(kind: &str, object: &T) -> Result<Bytes, ApiError> {
    let mut line = Vec::with_capacity(512);
    line.extend_from_slice(br#"{"type":""#);
    line.extend_from_slice(kind.as_bytes());
    line.extend_from_slice(br#"","object":"#);
    serde_json::to_writer(&mut line, object)
        .map_err(|error| ApiError::internal(format!("cannot encode the event: {error}")))?;
    line.extend_from_slice(b"}\n");
    Ok(Bytes::from(line))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
    const KUBECTL: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
    const METADATA: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

    fn headers(accept: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())])
    }

    #[rstest]
    #[case("", Offer::Transformed, "Json Whole")]
    #[case("*/*", Offer::Transformed, "Json Whole")]
    #[case("application/*;q=0.5, text/html", Offer::Plain, "Json Whole")]
    #[case("application/yaml", Offer::Plain, "Yaml Whole")]
    #[case("application/json;q=0.5,application/yaml;q=0.9", Offer::Plain, "Yaml Whole")]
    #[case("application/vnd.kubernetes.protobuf,application/json", Offer::Transformed, "Json Whole")]
    #[case(TABLE, Offer::Transformed, "Json Table")]
    #[case(KUBECTL, Offer::Transformed, "Json Table")]
    #[case(KUBECTL, Offer::Watch, "Json Table")]
    #[case(KUBECTL, Offer::Plain, "Json Whole")]
    #[case(METADATA, Offer::Transformed, "Json Metadata")]
    #[case("application/json;charset=utf-8", Offer::Plain, "Json Whole")]
    #[case("Application/JSON", Offer::Plain, "Json Whole")]
    fn the_caller_gets_what_it_prefers(#[case] accept: &str, #[case] offer: Offer, #[case] expected: &str) {
        let accepted = negotiate(&headers(accept), offer).unwrap();
        assert_eq!(format!("{:?} {:?}", accepted.format, accepted.view), expected);
    }

    #[rstest]
    #[case("application/cbor", Offer::Transformed)]
    #[case("application/vnd.kubernetes.protobuf", Offer::Transformed)]
    #[case("text/html", Offer::Plain)]
    #[case("application/json;q=0", Offer::Plain)]
    #[case("application/yaml", Offer::Watch)]
    #[case(TABLE, Offer::Plain)]
    #[case("application/json;as=Table;v=v2;g=meta.k8s.io", Offer::Transformed)]
    fn what_cannot_be_given_is_406_and_says_what_can(#[case] accept: &str, #[case] offer: Offer) {
        let refused = negotiate(&headers(accept), offer).unwrap_err();
        assert_eq!(refused.code(), 406);
        assert!(refused.to_string().starts_with("406: Not Acceptable\n\nAvailable representations: application/json"));
    }

    #[tokio::test]
    async fn yaml_is_what_kubectl_would_print() {
        let accepted = Accepted { format: Format::Yaml, ..Accepted::default() };
        let response = object(accepted, StatusCode::OK, &json!({"kind": "Thing", "items": ["true", 1]})).unwrap();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/yaml");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "items:\n- 'true'\n- 1\nkind: Thing\n");
    }

    #[test]
    fn an_event_is_one_line() {
        let line = watch_event("ADDED", &json!({"a": "line\nend"})).unwrap();
        assert_eq!(line, "{\"type\":\"ADDED\",\"object\":{\"a\":\"line\\nend\"}}\n");
    }
}
