//! Answers from a backend beside a cache: the backend proposes, the cache disposes.
//!
//! Objects come from the cache as they are now; what is gone or no longer passes is left out, so that a backend that lags by a
//! second may miss the newest change and never shows an old one. Counts are the backend's.

use std::sync::Arc;

use super::BackendAnswers;
use crate::cache::Cache;
use crate::entry::EntryKey;
use crate::query::Field;
use crate::search::facets::{Facets, FacetsError};
use crate::search::{Answers, Hit, Page, Question, Scope, Unavailable};

/// A backend's answers, made of what the cache holds.
#[derive(Debug, Clone)]
pub struct VerifiedAnswers {
    /// Who proposes.
    pub proposed: BackendAnswers,
    /// What there is.
    pub cache: Arc<Cache>,
}

impl Answers for VerifiedAnswers {
    fn waits(&self) -> bool {
        true
    }

    fn page(&self, question: &Question) -> Result<Page, Unavailable> {
        let mut page = self.proposed.page(question)?;
        page.hits = page.hits.into_iter().filter_map(|hit| self.present(&question.scope, &hit)).collect();
        Ok(page)
    }

    fn facets(&self, scope: &Scope, by: &[Field], size: usize) -> Result<Facets, FacetsError> {
        self.proposed.facets(scope, by, size)
    }
}

impl VerifiedAnswers {
    /// The object as it is now, if it is there and passes.
    fn present(&self, scope: &Scope, hit: &Hit) -> Option<Hit> {
        let gvr = &hit.served.gvr;
        let key = EntryKey::new(hit.entry.namespace(), hit.entry.name());
        let caches = self.cache.all();
        let same = caches.iter().filter(|cache| {
            let resource = cache.resource();
            (&resource.group, &resource.resource) == (&gvr.group, &gvr.resource)
        });
        same.filter_map(|cache| {
            let part = cache.part(&hit.cluster)?;
            let entry = part.objects.get(&key)?.clone();
            Some(Hit {
                cluster: hit.cluster.clone(),
                served: part.served.clone(),
                entry,
                decoder: cache.codec().decoder(),
            })
        })
        .find(|present| passes(scope, present))
    }
}

fn passes(scope: &Scope, hit: &Hit) -> bool {
    let facts = hit.facts();
    let decided = scope.evaluator.on_facts(&facts);
    decided.unwrap_or_else(|| hit.document().is_some_and(|document| scope.evaluator.matches(&facts, &document)))
}
