//! How often a member may be asked: so many requests at once, so many a second in the long run.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::ConnectionLimits;

/// Spaces requests out. Each request takes the next free moment, so none overtakes another.
pub(super) struct Pace {
    interval: Option<Duration>,
    allowance: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        let interval = (limits.qps > 0.0).then(|| Duration::from_secs_f32(1.0 / limits.qps));
        let allowance = interval.unwrap_or_default() * limits.burst.saturating_sub(1);
        let now = Instant::now();
        Self { interval, allowance, next: Mutex::new(now.checked_sub(allowance).unwrap_or(now)) }
    }

    /// Returns when the next request may be made.
    pub(super) async fn wait(&self) {
        let Some(interval) = self.interval else { return };
        let moment = {
            let mut next = self.next.lock();
            let now = Instant::now();
            // What was not used for a while may be used at once, up to the allowance.
            let earliest = now.checked_sub(self.allowance).unwrap_or(now);
            let moment = (*next).max(earliest);
            *next = moment + interval;
            moment
        };
        sleep_until(moment).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_through_at_once_and_the_rest_is_spaced_out() {
        let pace = Pace::new(ConnectionLimits { qps: 10.0, burst: 5, streamed_lists: true });
        let begin = Instant::now();
        for _ in 0..5 {
            pace.wait().await;
        }
        assert!(begin.elapsed() < Duration::from_millis(5));
        for _ in 0..10 {
            pace.wait().await;
        }
        let elapsed = begin.elapsed();
        assert!((Duration::from_millis(950)..Duration::from_millis(1050)).contains(&elapsed), "{elapsed:?}");
    }
}
