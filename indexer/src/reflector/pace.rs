//! How long to wait between attempts: growing, bounded, jittered so that a thousand tasks do not knock at once.

use std::time::Duration;

use rand::Rng;
use tokio::sync::Notify;

const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);

/// The wait before the next attempt.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: SHORTEST }
    }
}

impl Backoff {
    /// After a success the next failure is retried quickly again.
    pub(super) fn reset(&mut self) {
        self.next = SHORTEST;
    }

    /// Waits between half and the whole of the present delay, or until notified; then doubles the delay.
    pub(super) async fn wait(&mut self, retry_now: &Notify) {
        let delay = self.next.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.next = (self.next * 2).min(LONGEST);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = retry_now.notified() => self.reset(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_grow_up_to_a_bound_and_a_notice_ends_them() {
        let (mut backoff, notice) = (Backoff::default(), Notify::new());
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            let begin = Instant::now();
            backoff.wait(&notice).await;
            longest = longest.max(begin.elapsed());
        }
        assert!(longest > LONGEST / 2 && longest <= LONGEST + Duration::from_millis(2));
        notice.notify_one();
        let begin = Instant::now();
        backoff.wait(&notice).await;
        assert!(begin.elapsed() < Duration::from_millis(1));
        assert_eq!(backoff.next, SHORTEST);
    }
}
