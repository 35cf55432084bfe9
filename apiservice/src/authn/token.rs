//! Bearer tokens: the control plane says whose they are.
//!
//! In: a token. Out: a [`Caller`], or nothing if the control plane does not accept it. Answers are kept for some
//! seconds under a hash of the token, so tokens themselves are never stored; the same token asked for by many requests
//! at once is reviewed once.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::api::{Api, PostParams};
use moka::future::Cache;
use sha2::{Digest as _, Sha256};

use crate::error::ApiError;
use crate::request::Caller;

const TIMEOUT: Duration = Duration::from_secs(10);
const MOST_TOKENS: u64 = 10_000;

/// Asks the control plane whose a token is.
pub struct TokenReviewer {
    reviews: Api<TokenReview>,
    known: Cache<[u8; 32], Option<Caller>>,
}

impl fmt::Debug for TokenReviewer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TokenReviewer").finish_non_exhaustive()
    }
}

impl TokenReviewer {
    /// Through this client; answers are kept for `ttl`.
    pub fn new(client: kube::Client, ttl: Duration) -> Self {
        let known = Cache::builder().max_capacity(MOST_TOKENS).time_to_live(ttl).build();
        Self { reviews: Api::all(client), known }
    }

    /// Whose the token is.
    ///
    /// # Errors
    /// 503 if the control plane does not answer; that says nothing about the token and is not remembered.
    pub async fn review(&self, token: &str) -> Result<Option<Caller>, ApiError> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        self.known.try_get_with(key, self.ask(token)).await.map_err(|error| (*error).clone())
    }

    async fn ask(&self, token: &str) -> Result<Option<Caller>, ApiError> {
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let parameters = PostParams::default();
        let unavailable = |why: &dyn fmt::Display| {
            tracing::warn!(%why, "TokenReview failed");
            ApiError::unavailable("the bearer token cannot be checked: the control plane did not answer")
        };
        let answer = tokio::time::timeout(TIMEOUT, self.reviews.create(&parameters, &review)).await;
        let review = answer.map_err(|late| unavailable(&late))?.map_err(|error| unavailable(&error))?;
        let status = review.status.unwrap_or_default();
        Ok(status.user.filter(|_| status.authenticated == Some(true)).and_then(caller))
    }
}

fn caller(user: UserInfo) -> Option<Caller> {
    let username = user.username.filter(|name| !name.is_empty())?;
    let caller = Caller::authenticated(username, user.groups.unwrap_or_default());
    Some(Caller { uid: user.uid.filter(|uid| !uid.is_empty()), extra: user.extra.unwrap_or_default(), ..caller })
}
