//! What a process decides for itself. Its one idea: every answer has a default, and the default never stands in an
//! update's way.

use std::time::Duration;

use crate::protocol::{Aborted, ChangeoverDone, ChangeoverPending, HandOver, OutcomeTold, Overruled, Proposal, Resume, Welcome};

/// A process's answer to a proposed update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ballot {
    /// The update may go on.
    Accept,
    /// It may not, and this is why. The operator reads the reason word for word.
    Veto(String),
    /// Ask again after this time, and this is why. The node caps the time for the update as a whole.
    Defer(Duration, String),
}

/// A process's side of an update's life. All methods run on one background thread, one after another, in the order in
/// which the node spoke; a method that takes long delays the ones after it, not the process.
///
/// The library drops repeats: no method is called twice for the same thing.
pub trait Handler: Send + 'static {
    /// The connection stands: called for the first one and after each loss.
    fn on_welcome(&mut self, welcome: &Welcome) {
        let _ = welcome;
    }

    /// May this update touch the process? Answer before `within_ms` has passed.
    fn on_proposal(&mut self, proposal: &Proposal) -> Ballot {
        let _ = proposal;
        Ballot::Accept
    }

    /// The user went past this process's veto.
    fn on_overruled(&mut self, overruled: &Overruled) {
        let _ = overruled;
    }

    /// Come to a safe point; the process is ready when this returns, and goes on serving.
    fn on_changeover_pending(&mut self, pending: &ChangeoverPending) {
        let _ = pending;
    }

    /// Stop accepting work and finish what is open; what this returns is given to the successor, at most
    /// [`MAX_STATE`](crate::protocol::MAX_STATE) bytes. The node then stops the process.
    fn on_hand_over(&mut self, hand_over: &HandOver) -> Option<String> {
        let _ = hand_over;
        None
    }

    /// The changeover did not happen: go on as before.
    fn on_resume(&mut self, resume: &Resume) {
        let _ = resume;
    }

    /// What this process depends on has changed.
    fn on_changeover_done(&mut self, done: &ChangeoverDone) {
        let _ = done;
    }

    /// The update was given up before it touched this process.
    fn on_aborted(&mut self, aborted: &Aborted) {
        let _ = aborted;
    }

    /// How the update ended. Called once for each update.
    fn on_outcome(&mut self, outcome: &OutcomeTold) {
        let _ = outcome;
    }

    /// The node refused something, or it could not be said.
    fn on_error(&mut self, message: &str) {
        let _ = message;
    }
}
