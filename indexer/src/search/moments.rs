//! Which moments of backends the pages of an answer show: carried from one page to the next, so that what changes in between
//! moves nothing from one page to another.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What backends call the moments that an answer is of, by the backends' names. None are known before the first page, and where
/// the cache answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moments(BTreeMap<String, String>);

impl Moments {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The moment of a backend.
    pub(crate) fn of(&self, backend: &str) -> Option<&str> {
        self.0.get(backend).map(String::as_str)
    }

    /// Remembers the moment of a backend.
    pub(crate) fn note(&mut self, backend: &str, moment: String) {
        self.0.insert(backend.to_owned(), moment);
    }
}
