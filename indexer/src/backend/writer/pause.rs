//! How long a backend that failed is left alone: longer each time, never the same for two, and as long as it asks for.

use std::time::{Duration, Instant};

use rand::Rng as _;

use super::PAUSE;

/// The longest that a backend may ask to be left alone.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// At most so long, and never the same for two.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// A backend that failed, and when it is to be asked again.
#[derive(Debug)]
pub(super) struct Pause {
    pub(super) until: Option<Instant>,
    next: Duration,
}

impl Pause {
    pub(super) const NONE: Self = Self { until: None, next: PAUSE.0 };

    pub(super) fn begin(&mut self, asked: Option<Duration>) {
        let asked = asked.unwrap_or_default().min(LONGEST_RETRY_AFTER);
        self.until = Some(Instant::now() + jittered(self.next).max(asked));
        self.next = (self.next * 2).min(PAUSE.1);
    }

    pub(super) fn is_over(&self) -> bool {
        self.until.is_none_or(|until| until <= Instant::now())
    }

    pub(super) fn has_failed(&self) -> bool {
        self.until.is_some()
    }
}
