//! Which update touches which pod, in closed form, so that nothing need be remembered.
//!
//! Update `u` touches pod `u × stride mod pods`, the stride being coprime with the pods: every `pods` updates touch each of them
//! once. So what a pod went through follows from the number of updates alone. Each update has two versions of its own, since one
//! that replaces a pod is a deletion and a creation.

/// Version of a cluster that has seen no update.
pub(crate) const FIRST_VERSION: usize = 1_000_000;
/// Version of the first object of a cluster that was never updated.
pub(crate) const FIRST_OBJECT: usize = 1000;
/// A pod is replaced by another each time it was touched so often.
pub(crate) const LIFE: usize = 16;

/// How often an object was touched, and its version since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) generation: usize,
    pub(crate) version: usize,
}

/// The order in which the pods of a cluster are touched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    pods: usize,
    stride: usize,
    inverse: usize,
}

impl Schedule {
    pub(crate) fn new(pods: usize) -> Self {
        let pods = pods.max(1);
        // About the golden section of all: neighbours are far from each other in time.
        let stride =
            (pods * 618 / 1000..).find(|stride| *stride > 0 && common_divisor(*stride, pods) == 1).unwrap_or(1);
        let inverse = (0..pods).find(|number| number * stride % pods == 1 % pods).unwrap_or(0);
        Self { pods, stride, inverse }
    }

    /// The pod that an update touches.
    pub(crate) fn index_of(&self, update: usize) -> usize {
        update % self.pods * self.stride % self.pods
    }

    /// What the touched pod is after an update.
    pub(crate) fn after(&self, update: usize) -> Standing {
        Standing { generation: update / self.pods + 1, version: version_after(update + 1) }
    }

    /// What a pod is after so many updates of its cluster.
    pub(crate) fn standing(&self, index: usize, updates: usize) -> Standing {
        let first = index * self.inverse % self.pods;
        if updates <= first {
            return Standing { generation: 0, version: FIRST_OBJECT + index };
        }
        let earlier = (updates - 1 - first) / self.pods;
        self.after(first + earlier * self.pods)
    }
}

fn common_divisor(one: usize, other: usize) -> usize {
    if other == 0 { one } else { common_divisor(other, one % other) }
}

/// The version of a cluster after so many updates.
pub(crate) fn version_after(updates: usize) -> usize {
    FIRST_VERSION + 2 * updates
}

/// The updates that somebody has seen whole who has seen a version.
pub(crate) fn updates_until(version: usize) -> usize {
    version.saturating_sub(FIRST_VERSION) / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_follows_from_the_number_of_updates_is_what_they_did(pods in 1_usize..90, updates in 0_usize..1000) {
            let schedule = Schedule::new(pods);
            let unchanged = |index| Standing { generation: 0, version: FIRST_OBJECT + index };
            let mut done: Vec<Standing> = (0..pods).map(unchanged).collect();
            for update in 0..updates {
                let touched = &mut done[schedule.index_of(update)];
                prop_assert_eq!(touched.generation + 1, schedule.after(update).generation);
                prop_assert!(touched.version < schedule.after(update).version);
                *touched = schedule.after(update);
            }
            for (index, standing) in done.iter().enumerate() {
                prop_assert_eq!(*standing, schedule.standing(index, updates));
            }
        }
    }

    #[test]
    fn whoever_saw_half_an_update_has_not_seen_it_whole() {
        assert_eq!(updates_until(version_after(7)), 7);
        assert_eq!(updates_until(version_after(7) + 1), 7);
        assert_eq!(updates_until(17), 0);
    }
}
