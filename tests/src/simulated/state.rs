//! All that is kept of a cluster: how many updates it has seen and how fast they come, and what ails it.

use std::time::Duration;

use tokio::time::Instant;

use super::fault::Fault;

/// How a cluster stands. The number of its updates follows from the time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State {
    pub(crate) fault: Fault,
    /// Before so many updates, nothing can be watched from any more, whatever the history.
    pub(crate) oldest: usize,
    /// How often readers had to forget what they were told.
    pub(crate) restored: usize,
    base: usize,
    since: Instant,
    rate: f64,
    /// Part of an update that is due already, so that clusters don't all move at the same moment.
    phase: f64,
}

impl State {
    /// At the beginning, with so many updates a second.
    pub(crate) fn new(now: Instant, rate: f64, phase: f64) -> Self {
        Self { fault: Fault::None, oldest: 0, restored: 0, base: 0, since: now, rate, phase }
    }

    /// Updates up to a moment.
    pub(crate) fn updates(&self, now: Instant) -> usize {
        let due = self.rate * now.saturating_duration_since(self.since).as_secs_f64() + self.phase;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "only whole updates count, and there are far fewer than 2^53"
        )]
        let done = due as usize;
        self.base + done
    }

    /// When there will be so many, if ever.
    pub(crate) fn moment_of(&self, updates: usize) -> Option<Instant> {
        let missing = updates.saturating_sub(self.base) as f64 - self.phase;
        if self.rate <= 0.0 {
            return None;
        }
        let wait = Duration::try_from_secs_f64((missing / self.rate).max(0.0)).ok()?;
        self.since.checked_add(wait)
    }

    /// From now on at another rate.
    pub(crate) fn set_rate(&mut self, now: Instant, rate: f64) {
        self.base = self.updates(now);
        self.since = now;
        self.rate = rate;
    }

    /// So many more updates at once.
    pub(crate) fn add(&mut self, count: usize) {
        self.base += count;
    }

    /// From now on with another fault. Where readers were told what wasn't so, nobody may go on from there.
    pub(crate) fn set_fault(&mut self, now: Instant, fault: Fault) {
        if self.fault.lies() && fault != self.fault {
            self.add(1);
            self.oldest = self.updates(now);
            self.restored += 1;
        }
        self.fault = fault;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_go_on_where_they_were_when_the_rate_changes() {
        let begin = Instant::now();
        let after = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut state = State::new(begin, 10.0, 0.5);
        assert_eq!(state.updates(after(10)), 100);
        state.set_rate(after(10), 0.0);
        assert_eq!((state.updates(after(10)), state.updates(after(99))), (100, 100));
        assert_eq!(state.moment_of(101), None);
        state.add(5);
        state.set_rate(after(99), 2.0);
        assert_eq!(state.updates(after(99)), 105);
        let moment = state.moment_of(107).unwrap() + Duration::from_millis(1);
        assert_eq!(state.updates(moment), 107);
    }

    #[test]
    fn who_was_told_what_is_not_so_may_not_go_on_from_there() {
        let now = Instant::now();
        let mut state = State::new(now, 0.0, 0.0);
        state.set_fault(now, Fault::Hang);
        state.set_fault(now, Fault::WrongKind);
        assert_eq!((state.updates(now), state.oldest), (0, 0));
        state.set_fault(now, Fault::None);
        assert_eq!((state.updates(now), state.oldest, state.restored), (1, 1, 1));
    }
}
