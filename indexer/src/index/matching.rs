//! Which documents of a segment pass a query: those that surely do, and those that may.
//!
//! Every value of a field stands once among the terms, with the documents that have it; the evaluator's own rules decide about
//! each value, so a document surely passes where the evaluator says yes to the object. Where the terms don't know – a value too
//! long to be kept, words that must stand side by side, time that ran out – a document may pass, and its object is looked at.

use std::time::Instant;

use roaring::RoaringBitmap;

use super::IndexError;
use super::segment::Segment;
use super::terms::{self, PartKey};
use crate::query::document::Weight;
use crate::query::evaluate::Evaluator;
use crate::query::{Expression, Field, FieldClause, Test, TextClause};
use crate::resource::ApiResource;

/// Terms looked at between two looks at the clock.
const BETWEEN_LOOKS: u32 = 4096;

/// Documents that pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Matches {
    /// Surely.
    pub(crate) sure: RoaringBitmap,
    /// Perhaps; the sure ones among them.
    pub(crate) possible: RoaringBitmap,
}

impl Matches {
    fn exactly(documents: RoaringBitmap) -> Self {
        Self { sure: documents.clone(), possible: documents }
    }
}

/// What is asked of a segment.
pub(crate) struct Matcher<'a> {
    pub(crate) segment: &'a Segment,
    pub(crate) evaluator: &'a Evaluator,
    /// The documents that count at all.
    pub(crate) all: &'a RoaringBitmap,
    /// What the objects of each of the segment's parts are, as their cluster serves them; none if the part doesn't count.
    pub(crate) served: &'a [Option<&'a ApiResource>],
    /// When to stop looking at terms.
    pub(crate) deadline: Instant,
}

impl Matcher<'_> {
    /// The documents that pass the query.
    pub(crate) fn matches(&self) -> Result<Matches, IndexError> {
        self.of(self.evaluator.expression())
    }

    fn of(&self, expression: &Expression) -> Result<Matches, IndexError> {
        if Instant::now() >= self.deadline {
            return Err(IndexError::Late);
        }
        Ok(match expression {
            Expression::Everything => Matches::exactly(self.all.clone()),
            Expression::Not(part) => {
                let inner = self.of(part)?;
                Matches { sure: self.all - inner.possible, possible: self.all - inner.sure }
            }
            Expression::All(parts) => {
                let mut all = Matches::exactly(self.all.clone());
                for part in parts {
                    if all.possible.is_empty() {
                        break;
                    }
                    let next = self.of(part)?;
                    all.sure &= next.sure;
                    all.possible &= next.possible;
                }
                all
            }
            Expression::Any(parts) => {
                let mut any = Matches::default();
                for part in parts {
                    let next = self.of(part)?;
                    any.sure |= next.sure;
                    any.possible |= next.possible;
                }
                any
            }
            Expression::Text(clause) => self.text(clause)?,
            Expression::Field(clause) => self.field(clause)?,
            Expression::Element(clause) => self.element(clause)?,
        })
    }

    pub(super) fn field(&self, clause: &FieldClause) -> Result<Matches, IndexError> {
        if matches!(clause.field, Field::Cluster | Field::Group | Field::Version | Field::Kind | Field::Resource) {
            return Ok(Matches::exactly(self.of_parts(clause)));
        }
        let (Some((tag_at, ranges)), Some(cut)) =
            (terms::ranges(&clause.field, &clause.test), terms::cut(&clause.field))
        else {
            return Ok(Matches { sure: RoaringBitmap::new(), possible: self.all.clone() });
        };
        let mut sure = RoaringBitmap::new();
        let mut is_complete = true;
        let mut clock = Clock::new(self.deadline);
        for range in ranges {
            self.segment.for_each_term(&range, |term| {
                is_complete = !clock.has_struck();
                let value = terms::scalar(&clause.field, &term.text[tag_at..]);
                if value.is_some_and(|value| self.evaluator.takes(&clause.field, &clause.test, value)) {
                    term.add_to(&mut sure)?;
                }
                Ok(is_complete)
            })?;
            if !is_complete {
                return Ok(Matches { sure: sure & self.all, possible: self.all.clone() });
            }
        }
        let cut = self.segment.documents_of(&cut)?;
        // Of other fields, it may be another thing than a text that was cut.
        if clause.test == Test::Exists && matches!(clause.field, Field::Path(_)) {
            sure |= &cut;
        }
        sure &= self.all;
        let unknown = (cut | &self.segment.lacks_values) & self.all;
        Ok(Matches { possible: &sure | unknown, sure })
    }

    /// The segment's parts that count.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&PartKey, &ApiResource, &RoaringBitmap)> {
        let parts = self.segment.parts.iter().zip(self.served);
        parts.filter_map(|((part, documents), served)| Some((part, (*served)?, documents)))
    }

    /// What all objects of a part have in common decides about all its documents.
    fn of_parts(&self, clause: &FieldClause) -> RoaringBitmap {
        let mut passing = RoaringBitmap::new();
        for (part, served, documents) in self.parts() {
            if self.evaluator.takes_all(&clause.field, &clause.test, &part.cluster, served) == Some(true) {
                passing |= documents;
            }
        }
        passing & self.all
    }

    fn text(&self, clause: &TextClause) -> Result<Matches, IndexError> {
        let mut possible = self.all.clone();
        for at in 0..clause.words.len() {
            possible &= self.word(clause, at, &Weight::ALL)?;
        }
        // Of several words the index knows that they are there, but not that they stand side by side.
        let sure = if clause.words.len() == 1 { possible.clone() } else { RoaringBitmap::new() };
        possible |= &self.segment.lacks_words & self.all;
        Ok(Matches { sure, possible })
    }

    /// Documents with a word of these weights. Where time runs out, what was found is less than there is: then the words that
    /// were not looked at make every document lack some.
    fn word(&self, clause: &TextClause, at: usize, weights: &[Weight]) -> Result<RoaringBitmap, IndexError> {
        let mut found = RoaringBitmap::new();
        let Some(pattern) = clause.words.get(at) else { return Ok(found) };
        let mut clock = Clock::new(self.deadline);
        for weight in weights {
            if let Some(word) = pattern.as_plain() {
                found |= self.segment.documents_of(&terms::word(*weight, word))?;
                continue;
            }
            let (word_at, range) = terms::words(*weight, pattern.beginning());
            let mut is_late = false;
            self.segment.for_each_term(&range, |term| {
                if pattern.matches(&term.text[word_at..]) {
                    term.add_to(&mut found)?;
                }
                is_late = clock.has_struck();
                Ok(!is_late)
            })?;
            if is_late {
                return Err(IndexError::Late);
            }
        }
        Ok(found)
    }

    /// How well documents fit the words of the query, and those of which only the object tells.
    pub(crate) fn scores(&self, documents: &RoaringBitmap) -> Result<(Vec<u32>, RoaringBitmap), IndexError> {
        let mut scores = vec![0; self.segment.size() as usize];
        let mut unknown = RoaringBitmap::new();
        self.score(self.evaluator.expression(), documents, &mut scores, &mut unknown)?;
        Ok((scores, unknown))
    }

    fn score(
        &self,
        expression: &Expression,
        documents: &RoaringBitmap,
        scores: &mut [u32],
        unknown: &mut RoaringBitmap,
    ) -> Result<(), IndexError> {
        match expression {
            Expression::Not(_) | Expression::Everything | Expression::Field(_) | Expression::Element(_) => Ok(()),
            Expression::All(parts) | Expression::Any(parts) => {
                parts.iter().try_for_each(|part| self.score(part, documents, scores, unknown))
            }
            Expression::Text(clause) if clause.words.len() != 1 => {
                *unknown |= self.text(clause)?.possible & documents;
                Ok(())
            }
            Expression::Text(clause) => {
                *unknown |= &self.segment.lacks_words & documents;
                let mut left = documents.clone();
                for weight in Weight::ALL {
                    let found = self.word(clause, 0, &[weight])? & &left;
                    for document in &found {
                        if let Some(score) = scores.get_mut(document as usize) {
                            *score += weight as u32;
                        }
                    }
                    left -= found;
                }
                Ok(())
            }
        }
    }
}

/// Says when time is up, without looking at the clock each time.
pub(super) struct Clock {
    deadline: Instant,
    looked_at: u32,
}

impl Clock {
    pub(super) fn new(deadline: Instant) -> Self {
        Self { deadline, looked_at: 0 }
    }

    pub(super) fn has_struck(&mut self) -> bool {
        self.looked_at = self.looked_at.wrapping_add(1);
        self.looked_at.is_multiple_of(BETWEEN_LOOKS) && Instant::now() >= self.deadline
    }
}
