//! Time as the keeper counts it. Its one idea: the machine's monotonic clock, not the process's, so that a moment that
//! one keeper wrote down means the same to the next one, as long as the machine was not started anew in between.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A moment, in milliseconds of `CLOCK_MONOTONIC`; comparable between processes until the machine starts anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(u64);

impl Moment {
    /// The moment that many milliseconds after the clock's beginning.
    pub fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The present one.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Monotonic);
        // This clock starts at zero with the machine and never goes back: neither part is negative.
        Self(time.tv_sec.unsigned_abs().saturating_mul(1000).saturating_add(time.tv_nsec.unsigned_abs() / 1_000_000))
    }

    /// The moment this much later.
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(millis(wait)))
    }

    /// How long ago `earlier` was; zero when it was not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A duration in whole milliseconds, at most what a `u64` holds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_later_than_the_one_before_and_never_a_negative_time_ago() {
        let first = Moment::now();
        let later = first.after(Duration::from_millis(1500));
        assert_eq!(later.since(first), Duration::from_millis(1500));
        assert_eq!(first.since(later), Duration::ZERO);
        assert_eq!(Moment(u64::MAX).after(Duration::MAX), Moment(u64::MAX));
    }
}
