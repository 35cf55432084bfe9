//! Parameters of a question, read and checked. What is not known here is refused, never ignored.

use std::collections::BTreeSet;

use apiservice::error::ApiError;
use indexer::query::{Expression, Field, QueryError, parse, parse_field};
use indexer::resource::ClusterName;

use crate::routes::options;

/// Parameters that clients send along and that change nothing here.
const HARMLESS: [&str; 4] = ["pretty", "timeout", "timeoutSeconds", "allowWatchBookmarks"];

/// Parameters of a request, each name at most once.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(super) fn read(query: &str, known: &[&str]) -> Result<Self, ApiError> {
        let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let mut seen = BTreeSet::new();
        for (name, _) in &pairs {
            if !known.contains(&name.as_str()) && !HARMLESS.contains(&name.as_str()) {
                let known = known.join(", ");
                return Err(ApiError::bad_request(format!(
                    "{name}: there is no such parameter here; there are {known}"
                )));
            }
            if !seen.insert(name) {
                return Err(ApiError::bad_request(format!("{name}: is given twice")));
            }
        }
        Ok(Self(pairs))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// Refuses parameters that mean nothing together with another one.
    pub(super) fn refuse(&self, names: &[&str], with: &str) -> Result<(), ApiError> {
        match names.iter().find(|name| self.get(name).is_some_and(|value| !value.is_empty())) {
            Some(name) => Err(ApiError::bad_request(format!("{name}: means nothing together with {with}"))),
            None => Ok(()),
        }
    }

    pub(super) fn number(&self, name: &str, default: usize, most: usize) -> Result<usize, ApiError> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else { return Ok(default) };
        let number = text.parse().ok().filter(|number| (1..=most).contains(number));
        number.ok_or_else(|| {
            ApiError::bad_request(format!("{name}: a number from 1 to {most} is expected, not {text:?}"))
        })
    }

    pub(super) fn is_set(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(ApiError::bad_request(format!("{name}: true or false is expected, not {other:?}"))),
        }
    }

    pub(super) fn clusters(&self) -> Result<Option<BTreeSet<ClusterName>>, ApiError> {
        self.get("cluster").map(options::read_clusters).transpose()
    }

    /// Fields by name, separated by commas; none if the parameter isn't there.
    pub(super) fn fields(&self, name: &str, most: usize) -> Result<Option<Vec<Field>>, ApiError> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let names: Vec<&str> = text.split(',').map(str::trim).collect();
        if names.len() > most {
            return Err(ApiError::bad_request(format!("{name}: there are more than {most} fields")));
        }
        let fields: Result<Vec<Field>, QueryError> = names.iter().map(|name| parse_field(name)).collect();
        let fields = fields.map_err(|error| refused(name, &error))?;
        if fields.iter().collect::<BTreeSet<_>>().len() < fields.len() {
            return Err(ApiError::bad_request(format!("{name}: a field is named twice")));
        }
        Ok(Some(fields))
    }

    pub(super) fn expression(&self) -> Result<Expression, ApiError> {
        parse(self.get("q").unwrap_or_default()).map_err(|error| refused("q", &error))
    }
}

pub(super) fn refused(parameter: &str, error: &QueryError) -> ApiError {
    ApiError::bad_request(format!("{parameter}: {error}"))
}
