//! How many documents of a segment have which value of a field.

use std::collections::{BTreeMap, HashMap};

use roaring::RoaringBitmap;

use super::IndexError;
use super::matching::{Clock, Matcher};
use super::terms;
use crate::query::Field;
use crate::query::evaluate::shared_by_all;

/// Counts by a field, of documents whose values are all known.
pub(crate) type Counts<'a> = &'a mut dyn FnMut(String, u64) -> bool;

impl Matcher<'_> {
    /// Counts documents by a field's values; false if who counts wants no more.
    pub(crate) fn count(&self, documents: &RoaringBitmap, field: &Field, add: Counts<'_>) -> Result<bool, IndexError> {
        let mut shared: BTreeMap<&str, u64> = BTreeMap::new();
        for (part, served, of_part) in self.parts() {
            let Some(text) = shared_by_all(field, &part.cluster, served) else { continue };
            *shared.entry(text).or_default() += of_part.intersection_len(documents);
        }
        for (text, count) in shared.into_iter().filter(|(_, count)| *count > 0) {
            if !add(text.to_owned(), count) {
                return Ok(false);
            }
        }
        let Some((tag_at, range)) = terms::shown(field) else { return Ok(true) };
        // A number and a text may be written alike; an object that has both counts once.
        let mut alike: HashMap<String, RoaringBitmap> = HashMap::new();
        let mut clock = Clock::new(self.deadline);
        let (mut is_late, mut is_wanted) = (false, true);
        self.segment.for_each_term(&range, |term| {
            is_late = clock.has_struck();
            let tagged = &term.text[tag_at..];
            let Some(text) = terms::shown_text(field, tagged) else { return Ok(!is_late) };
            let mut found = term.documents()? & documents;
            if terms::may_be_alike(tagged) {
                *alike.entry(text).or_default() |= found;
                return Ok(!is_late);
            }
            if let Some(other) = alike.remove(&text) {
                found |= other;
            }
            is_wanted = found.is_empty() || add(text, found.len());
            Ok(is_wanted && !is_late)
        })?;
        if is_late {
            return Err(IndexError::Late);
        }
        for (text, found) in alike {
            is_wanted = is_wanted && (found.is_empty() || add(text, found.len()));
        }
        Ok(is_wanted)
    }

    /// Documents whose value of a field only the object tells.
    pub(crate) fn unknown(&self, field: &Field, documents: &RoaringBitmap) -> Result<RoaringBitmap, IndexError> {
        if matches!(field, Field::Cluster | Field::Group | Field::Version | Field::Kind | Field::Resource) {
            return Ok(RoaringBitmap::new());
        }
        match terms::cut(field) {
            Some(cut) => Ok((self.segment.documents_of(&cut)? | &self.segment.lacks_values) & documents),
            None => Ok(documents.clone()),
        }
    }
}
