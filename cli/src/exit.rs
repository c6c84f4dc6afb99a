//! What the exit codes mean. One idea: a script that knows the code knows what happened, without reading any text.

use std::process::ExitCode;

use tribune_raft_store::model::{Outcome, Phase, Update};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was done. (An update that was completed in part is done as well; a note says so.)
    Done,
    /// It was not done.
    Error,
    /// The arguments are wrong.
    Usage,
    /// The update was vetoed, is held or paused, and waits for a user.
    Undecided,
    /// The update is done, and needs are not met.
    Discrepancies,
    /// What the update changed went back.
    Regressed,
    /// The update changed nothing.
    Aborted,
    /// There is no master, or no answer came in time. An order may have been carried out.
    NoAnswer,
    /// The plan has blockers.
    Blocked,
    /// Something could not go back: a person must look.
    RegressFailed,
}

impl Exit {
    /// The exit code.
    pub fn number(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Error => 1,
            Exit::Usage => 2,
            Exit::Undecided => 3,
            Exit::Discrepancies => 4,
            Exit::Regressed => 5,
            Exit::Aborted => 6,
            Exit::NoAnswer => 7,
            Exit::Blocked => 8,
            Exit::RegressFailed => 9,
        }
    }

    /// What an update that ended so means for who waited for it.
    pub fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Completed | Outcome::CompletedInPart => Exit::Done,
            Outcome::CompletedWithDiscrepancies => Exit::Discrepancies,
            Outcome::Aborted => Exit::Aborted,
            Outcome::Regressed => Exit::Regressed,
            Outcome::RegressFailed => Exit::RegressFailed,
            Outcome::Rejected => Exit::Blocked,
        }
    }

    /// What it means for who watches an update that it has come to this; `None`: it goes on by itself.
    pub fn at(update: &Update) -> Option<Self> {
        match &update.phase {
            Phase::Vetoed | Phase::Held { .. } | Phase::Paused { .. } => Some(Exit::Undecided),
            Phase::Unpersisted if update.discrepancies.is_empty() => Some(Exit::Done),
            Phase::Unpersisted => Some(Exit::Discrepancies),
            Phase::Ended { outcome } => Some(Exit::of(*outcome)),
            Phase::Queued { .. }
            | Phase::Planned
            | Phase::Asking
            | Phase::Distributing
            | Phase::Wave { .. }
            | Phase::Verifying
            | Phase::Persisting
            | Phase::Regressing => None,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn every_end_of_an_update_has_its_exit_code() {
        let ended = |outcome| Phase::Ended { outcome };
        for (phase, code) in [
            (ended(Outcome::Completed), Some(0)),
            (ended(Outcome::CompletedInPart), Some(0)),
            (ended(Outcome::CompletedWithDiscrepancies), Some(4)),
            (ended(Outcome::Regressed), Some(5)),
            (ended(Outcome::Aborted), Some(6)),
            (ended(Outcome::Rejected), Some(8)),
            (ended(Outcome::RegressFailed), Some(9)),
            (Phase::Vetoed, Some(3)),
            (Phase::Held { wave: 0 }, Some(3)),
            (Phase::Paused { wave: 0, by: "ada".into() }, Some(3)),
            (Phase::Asking, None),
            (Phase::Wave { wave: 2 }, None),
            (Phase::Unpersisted, Some(0)),
            (Phase::Persisting, None),
            (Phase::Regressing, None),
        ] {
            assert_eq!(Exit::at(&sample::update(phase.clone())).map(Exit::number), code, "{phase}");
        }
    }
}
