//! Which documents of a segment have an element that passes alone: `container:{NOT resources.limits:*}`.
//!
//! The terms don't say which of an object's elements a value is of. But they say that none of them has one, which often decides;
//! where they don't, the object is looked at.

use roaring::RoaringBitmap;

use super::IndexError;
use super::matching::{Matcher, Matches};
use super::terms;
use crate::query::{ElementClause, Expression, Field, FieldClause};

/// What is known of the elements at a path.
#[derive(Default)]
struct Elements {
    /// Documents of which some element passes.
    some: Matches,
    /// Documents that surely have elements, all of which pass.
    every: RoaringBitmap,
}

impl Matcher<'_> {
    pub(super) fn element(&self, clause: &ElementClause) -> Result<Matches, IndexError> {
        let unknown = &self.segment.lacks_values & self.all;
        if let Field::Path(steps) = &clause.of {
            let Matches { sure, possible } = self.elements(steps, &clause.inner)?.some;
            return Ok(Matches { sure, possible: possible | unknown });
        }
        let mut found = Matches { sure: RoaringBitmap::new(), possible: unknown };
        for (path, documents) in self.container_lists()? {
            let Matches { sure, possible } = self.elements(&path, &clause.inner)?.some;
            // What stands there in others are no containers.
            found.sure |= sure & &documents;
            found.possible |= possible & documents;
        }
        Ok(found)
    }

    /// Where containers stand, and in which documents.
    fn container_lists(&self) -> Result<Vec<(Vec<String>, RoaringBitmap)>, IndexError> {
        let mut lists = Vec::new();
        let (path_at, range) = terms::container_lists();
        self.segment.for_each_term(&range, |term| {
            lists.push((terms::path_of(&term.text[path_at..]), term.documents()?));
            Ok(true)
        })?;
        Ok(lists)
    }

    /// Documents that have an element.
    fn with_elements(&self, path: &[String]) -> Result<Matches, IndexError> {
        let Some(term) = terms::object_at(path) else {
            return Ok(Matches { sure: RoaringBitmap::new(), possible: self.all.clone() });
        };
        let sure = self.segment.documents_of(&term)? & self.all;
        Ok(Matches { possible: (&self.segment.lacks_values & self.all) | &sure, sure })
    }

    fn elements(&self, path: &[String], asked: &Expression) -> Result<Elements, IndexError> {
        let below = |field: &Field| match field {
            Field::Path(steps) => [path, steps].concat(),
            _ => path.to_vec(),
        };
        Ok(match asked {
            Expression::Everything => {
                let some = self.with_elements(path)?;
                Elements { every: some.sure.clone(), some }
            }
            Expression::Field(FieldClause { field, test, span }) => {
                let clause = FieldClause { field: Field::Path(below(field)), test: test.clone(), span: *span };
                Elements { some: self.field(&clause)?, every: RoaringBitmap::new() }
            }
            Expression::Element(clause) => {
                let some = self.elements(&below(&clause.of), &clause.inner)?.some;
                Elements { some, every: RoaringBitmap::new() }
            }
            Expression::Not(part) => {
                let (here, inner) = (self.with_elements(path)?, self.elements(path, part)?);
                let none = here.sure - inner.some.possible;
                Elements { some: Matches { sure: none.clone(), possible: here.possible - inner.every }, every: none }
            }
            Expression::Any(parts) => {
                let mut any = Elements::default();
                for part in parts {
                    let next = self.elements(path, part)?;
                    any.some.sure |= next.some.sure;
                    any.some.possible |= next.some.possible;
                    any.every |= next.every;
                }
                any
            }
            Expression::All(parts) => self.all_of(path, parts)?,
            // The grammar has no words in elements.
            Expression::Text(_) => Elements::default(),
        })
    }

    /// One element has to pass each part: surely so where some element passes one of them, and every element the others.
    fn all_of(&self, path: &[String], parts: &[Expression]) -> Result<Elements, IndexError> {
        let mut all = Elements {
            some: Matches { sure: RoaringBitmap::new(), possible: self.all.clone() },
            every: self.all.clone(),
        };
        for part in parts {
            let next = self.elements(path, part)?;
            all.some.sure = (&all.some.sure & &next.every) | (&next.some.sure & &all.every);
            all.some.possible &= next.some.possible;
            all.every &= next.every;
        }
        Ok(all)
    }
}
