//! What can go wrong between us and a member, in words that name the cause and carry no credentials.

use std::error::Error;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::response::Parts;
use serde::Deserialize;

/// A request to a member that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// It answered, with something else than success.
    #[error("it answered {code} {reason}: {message}")]
    Status {
        /// HTTP status code.
        code: u16,
        /// Kubernetes' reason, or the HTTP one.
        reason: String,
        /// What it said.
        message: String,
        /// Seconds it asks us to wait.
        retry_after: Option<u64>,
    },
    /// It could not be reached, or the connection broke.
    #[error("{0}")]
    Transport(String),
    /// It took too long.
    #[error("waited {after:?} for {what}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// It sent more than is taken.
    #[error("the {what} is larger than {limit} bytes")]
    TooLarge {
        /// Answer or frame.
        what: &'static str,
        /// The bound, in bytes.
        limit: usize,
    },
    /// It ended its answer in the middle.
    #[error("the watch was cut off in the middle of an event")]
    CutOff,
    /// It sent something that is not what was asked for.
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
    /// The settings we have for it cannot be used.
    #[error("the connection settings cannot be used: {0}")]
    Settings(String),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    message: String,
    reason: String,
}

impl ConnectionError {
    /// The HTTP status code, if the member answered at all.
    pub fn status_code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The whole chain of causes: the outermost alone says little more than "client error".
    pub(super) fn from_kube(error: kube::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            let more = next.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = next.source();
        }
        Self::Transport(text)
    }

    pub(super) fn from_answer(head: &Parts, body: &[u8]) -> Self {
        let status: Status = serde_json::from_slice(body).unwrap_or_default();
        let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
        let excerpt: String = String::from_utf8_lossy(body).chars().take(200).collect();
        Self::Status {
            code: head.status.as_u16(),
            reason: or(status.reason, head.status.canonical_reason().unwrap_or_default()),
            message: or(status.message, excerpt.trim()),
            retry_after: head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok()),
        }
    }
}

impl From<serde_json::Error> for ConnectionError {
    fn from(error: serde_json::Error) -> Self {
        Self::Unreadable(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    fn error(code: u16, body: &str) -> ConnectionError {
        let (head, ()) = Response::builder().status(code).header(RETRY_AFTER, "7").body(()).unwrap().into_parts();
        ConnectionError::from_answer(&head, body.as_bytes())
    }

    #[test]
    fn a_members_refusal_is_told_in_its_own_words() {
        let refusal = error(403, r#"{"kind":"Status","message":"pods is forbidden","reason":"Forbidden","code":403}"#);
        assert_eq!(refusal.to_string(), "it answered 403 Forbidden: pods is forbidden");
    }

    #[test]
    fn an_answer_that_is_no_status_is_quoted_in_part() {
        let garbage = error(502, &"<html>".repeat(1000));
        assert!(garbage.to_string().starts_with("it answered 502 Bad Gateway: <html><html>"));
        assert!(garbage.to_string().len() < 300);
        assert!(matches!(garbage, ConnectionError::Status { retry_after: Some(7), .. }));
    }
}
