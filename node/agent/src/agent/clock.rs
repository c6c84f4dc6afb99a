//! The time since the machine started, in milliseconds: a clock that never goes back and outlives the agent.

use std::time::Duration;

use tokio::time::Instant;

use crate::processes::ballot::Moment;

/// Tells [`Moment`]s, on tokio's clock from the moment it was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    began: Instant,
    at: Moment,
}

impl Clock {
    /// Begins where the machine has been up for so long.
    pub(super) fn new(uptime: Duration) -> Self {
        Self { began: Instant::now(), at: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX) }
    }

    /// Now.
    pub(super) fn now(&self) -> Moment {
        self.at.saturating_add(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// When this moment comes, on tokio's clock.
    pub(super) fn instant(&self, moment: Moment) -> Instant {
        self.began + Duration::from_millis(moment.saturating_sub(self.at))
    }
}
