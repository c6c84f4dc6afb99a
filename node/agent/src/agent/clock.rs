//! The time since the machine started, in milliseconds: a clock that never goes back and outlives the agent.

use tokio::time::Instant;

use crate::processes::ballot::Moment;

/// Tells [`Moment`]s, on tokio's clock from the moment it was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    began: Instant,
    at: Moment,
}

impl Clock {
    /// Reads how long the machine has been up.
    pub(super) fn new() -> Self {
        let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds: f64 = text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default();
        // Not negative, and far below what an integer holds.
        Self { began: Instant::now(), at: (seconds * 1000.0) as Moment }
    }

    /// Now.
    pub(super) fn now(&self) -> Moment {
        self.at.saturating_add(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// When this moment comes, on tokio's clock.
    pub(super) fn instant(&self, moment: Moment) -> Instant {
        self.began + std::time::Duration::from_millis(moment.saturating_sub(self.at))
    }
}
