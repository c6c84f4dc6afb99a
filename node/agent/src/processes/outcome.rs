//! Tells every process that was asked how its update ended. Its one idea: what has to be told is data on disk until the
//! process has said `seen` or has ended, so each hears it at least once, and always the same.

use serde::{Deserialize, Serialize};
use tribune_planted::{Bug, planted};
use tribune_process::protocol::{Outcome, OutcomeTold};

use super::identity::ProcessId;

/// One outcome on its way to those who were asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Telling {
    told: OutcomeTold,
    untold: Vec<ProcessId>,
}

impl Telling {
    /// An outcome for these processes. Write it to disk, then send [`Telling::message`] to each of [`Telling::untold`].
    #[must_use]
    pub fn begin(told: OutcomeTold, asked: impl IntoIterator<Item = ProcessId>) -> Self {
        let mut untold: Vec<_> = asked.into_iter().collect();
        if planted(Bug::OutcomeNotTold) && told.outcome == Outcome::Aborted {
            untold.clear();
        }
        untold.sort_unstable();
        untold.dedup();
        Self { told, untold }
    }

    /// What to tell.
    #[must_use]
    pub fn message(&self) -> &OutcomeTold {
        &self.told
    }

    /// Who has not acknowledged it yet.
    #[must_use]
    pub fn untold(&self) -> &[ProcessId] {
        &self.untold
    }

    /// A process said hello: what to send it now.
    #[must_use]
    pub fn hello(&self, process: ProcessId) -> Option<&OutcomeTold> {
        self.untold.contains(&process).then_some(&self.told)
    }

    /// A process has acknowledged it, or has ended.
    pub fn settled(&mut self, process: ProcessId) {
        self.untold.retain(|other| *other != process);
    }

    /// Whether nobody is left to tell, so that it may be forgotten.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.untold.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_told_on_each_hello_until_it_was_seen() {
        let id = |pid| ProcessId { pid, start_time: 1 };
        let told = OutcomeTold { update: "u".into(), outcome: Outcome::Completed, reason: None };
        let mut telling = Telling::begin(told.clone(), [id(1), id(2), id(1)]);
        assert_eq!(telling.untold(), [id(1), id(2)]);
        assert_eq!(telling.hello(id(1)), Some(&told));
        telling.settled(id(1));
        assert_eq!(telling.hello(id(1)), None);
        assert_eq!(telling.hello(id(3)), None, "was not asked");
        telling.settled(id(2));
        assert!(telling.is_over());
    }
}
