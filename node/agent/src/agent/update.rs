//! What comes next in one update on this node. Its one idea: [`decide`] is a pure function from where the node stands
//! (its [`Journal`]) and what it should come to (the master's [`Want`]) to the next thing to do; the task does it,
//! writes the new standing down, and asks again, until there is nothing to do but wait.

use tribune_messages::node::{Directive, Want};
use tribune_planted::{Bug, planted};
use tribune_raft_store::model::Outcome;

use super::journal::{Asking, Journal, ReadyState, Stage};
use super::registered::Seen;
use crate::processes::ProcessId;

/// What the task sees and the journal does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Processes that the update touches and that were not asked: they started since.
    pub unasked: &'a [ProcessId],
    /// Whether the processes that this node did not start were looked up just now.
    pub registered: Seen,
    /// Whether the master may still count on this node's readiness.
    pub lease: Lease,
}

/// Whether the master may count on a readiness that was reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// It may.
    Held,
    /// It has not heard of this node for too long.
    RanOut,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Do {
    /// Nothing: something has to happen first.
    Wait,
    /// Ask everybody whose answer does not stand.
    Ask,
    /// Ask those who started since.
    AskNewcomers,
    /// Put what is needed into local storage.
    Stage,
    /// What is being put into local storage is not wanted for now.
    StopStaging,
    /// Tell the processes that the changeover comes.
    Prepare,
    /// All are ready.
    BeReady,
    /// Let the processes go on as before; the attempt is over.
    Release,
    /// Start the new modules.
    ChangeOver,
    /// Put what runs into local storage.
    Persist,
    /// What runs is in local storage: make it what is installed.
    Install {
        /// The generation that has it.
        number: u64,
    },
    /// Let the old modules take over again.
    GoBack {
        /// Why, if that is this node's own doing.
        why: Option<String>,
    },
    /// Nothing was changed, so the old modules run already.
    StayBack {
        /// Why, if that is this node's own doing.
        why: Option<String>,
    },
    /// It is over.
    End {
        /// How.
        outcome: Outcome,
        /// Why.
        reason: Option<String>,
    },
}

/// What comes next.
pub fn decide(journal: &Journal, want: Option<&Want>, facts: Facts<'_>) -> Do {
    match want {
        Some(Want::Ended { outcome, reason }) => ended(journal, *outcome, reason.clone()),
        Some(Want::Regressed { .. }) => regressed(journal),
        Some(want) => forward(journal, Some(want), facts),
        None => forward(journal, None, facts),
    }
}

fn ended(journal: &Journal, outcome: Outcome, reason: Option<String>) -> Do {
    match &journal.stage {
        Stage::Ended { .. } | Stage::GoingBack { .. } => Do::Wait,
        // It went on without this node, which was away or late.
        Stage::Changing | Stage::Started => Do::GoBack { why: Some("the update ended before this node had settled".into()) },
        Stage::Running { .. } | Stage::Persisting { .. } => {
            Do::GoBack { why: Some("the update ended before it was installed on this node".into()) }
        }
        Stage::Pending { .. } | Stage::Ready { .. } => Do::Release,
        Stage::Asking
        | Stage::Staging
        | Stage::Staged
        | Stage::Settled { .. }
        | Stage::Regressed { .. }
        | Stage::Restarted { .. }
        | Stage::Failed { .. } => Do::End { outcome, reason },
    }
}

fn regressed(journal: &Journal) -> Do {
    match &journal.stage {
        Stage::Changing | Stage::Started | Stage::Running { .. } | Stage::Persisting { .. } | Stage::Settled { .. } => {
            Do::GoBack { why: None }
        }
        Stage::Pending { .. } | Stage::Ready { .. } => Do::Release,
        Stage::Asking | Stage::Staging | Stage::Staged => Do::StayBack { why: None },
        Stage::GoingBack { .. }
        | Stage::Regressed { .. }
        | Stage::Restarted { .. }
        | Stage::Failed { .. }
        | Stage::Ended { .. } => Do::Wait,
    }
}

fn forward(journal: &Journal, want: Option<&Want>, facts: Facts<'_>) -> Do {
    let go_on = matches!(want, Some(Want::Ready | Want::Settled));
    match &journal.stage {
        Stage::Asking if journal.asking == Asking::ToBegin && facts.registered == Seen::Before => Do::Wait,
        Stage::Asking if journal.asking == Asking::ToBegin => Do::Ask,
        Stage::Asking if !journal.all_answered() => Do::Wait,
        Stage::Asking if go_on || want == Some(&Want::Staged) => Do::Stage,
        Stage::Staging if matches!(want, Some(Want::Hold | Want::Voted)) => Do::StopStaging,
        Stage::Staged if go_on => before_changeover(journal, want, facts),
        Stage::Pending { .. } | Stage::Ready { .. } if facts.lease == Lease::RanOut => Do::Release,
        Stage::Pending { .. } | Stage::Ready { .. } if want.is_some() && !go_on => Do::Release,
        Stage::Pending { .. } if !facts.unasked.is_empty() => Do::Release,
        Stage::Pending { .. } if !journal.standing_vetoes().is_empty() => Do::Release,
        // Also when the go is there: it was committed before the master could hear of the veto.
        Stage::Ready { .. } if !journal.standing_vetoes().is_empty() && !planted(Bug::GoPastOwnVeto) => Do::Release,
        Stage::Pending { processes } => {
            let waits = |state| matches!(state, ReadyState::Told { .. });
            if processes.iter().any(|one| waits(one.state)) { Do::Wait } else { Do::BeReady }
        }
        Stage::Ready { .. } if want == Some(&Want::Settled) => Do::ChangeOver,
        Stage::Ready { .. } if !facts.unasked.is_empty() => Do::Release,
        Stage::Running { .. } if want == Some(&Want::Persisted) => match &journal.unpersistable {
            None => Do::Persist,
            Some(why) => Do::GoBack { why: Some(why.clone()) },
        },
        Stage::Persisting { staged: Some(number), .. } => Do::Install { number: *number },
        Stage::Asking
        | Stage::Staging
        | Stage::Staged
        | Stage::Ready { .. }
        | Stage::Changing
        | Stage::Started
        | Stage::Running { .. }
        | Stage::Persisting { staged: None, .. }
        | Stage::Settled { .. }
        | Stage::GoingBack { .. }
        | Stage::Regressed { .. }
        | Stage::Restarted { .. }
        | Stage::Failed { .. }
        | Stage::Ended { .. } => Do::Wait,
    }
}

/// Everything is staged, and the changeover should come: whoever started since is asked first.
fn before_changeover(journal: &Journal, want: Option<&Want>, facts: Facts<'_>) -> Do {
    if want == Some(&Want::Settled) {
        // A go comes only for a readiness that was reported: this node has taken it back. It does not wait for answers, as the
        // record takes none after a go.
        return Do::StayBack { why: Some(no_longer_ready(journal)) };
    }
    if facts.lease == Lease::RanOut || !journal.all_answered() || facts.registered == Seen::Before {
        Do::Wait
    } else if !facts.unasked.is_empty() {
        Do::AskNewcomers
    } else if !journal.standing_vetoes().is_empty() {
        Do::Wait
    } else {
        Do::Prepare
    }
}

fn no_longer_ready(journal: &Journal) -> String {
    let why = "the go came when this node was no longer ready";
    match journal.standing_vetoes() {
        vetoes if vetoes.is_empty() => why.into(),
        vetoes => format!("{why}; vetoed by {}", vetoes.join("; ")),
    }
}

/// Whether it matters now who the processes are that this node did not start: before anybody is asked, while one of them could
/// not be found to be asked, and from just before the changeover on.
pub fn looks(journal: &Journal, want: Option<&Want>) -> bool {
    match &journal.stage {
        _ if journal.is_early() && journal.awaits_stand_in() => true,
        Stage::Asking => journal.asking == Asking::ToBegin,
        Stage::Staged => matches!(want, Some(Want::Ready | Want::Settled)),
        Stage::Pending { .. } | Stage::Ready { .. } => true,
        _ => false,
    }
}

/// What a new directive means for what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anew {
    /// Nothing has changed.
    Nothing,
    /// The plan has another number and changes the same here: answers stand.
    Renumbered,
    /// Those that did not accept are asked again.
    Round,
    /// Something else changes here: everybody is asked.
    Plan,
}

/// Compares a directive with what is under way. What is past its changeover is not asked about any more.
pub fn anew(journal: &Journal, directive: &Directive) -> Anew {
    let newer = (directive.revision, directive.round) > (journal.revision, journal.round);
    if !newer {
        Anew::Nothing
    } else if !journal.is_early() {
        Anew::Renumbered
    } else if directive.plan != journal.plan || directive.kind != journal.kind {
        Anew::Plan
    } else if directive.round > journal.round {
        Anew::Round
    } else {
        Anew::Renumbered
    }
}

/// What a change that this node makes by itself should come to: the part of the master, for one node.
pub fn local_want(journal: &Journal) -> Option<Want> {
    let order = journal.local.as_ref()?;
    let end = |outcome, reason: Option<String>| Some(Want::Ended { outcome, reason });
    match &journal.stage {
        Stage::Asking | Stage::Staging | Stage::Staged | Stage::Pending { .. } | Stage::Ready { .. }
            if order.force.is_none() && journal.all_answered() && !journal.standing_vetoes().is_empty() =>
        {
            end(Outcome::Aborted, Some(format!("vetoed by {}", journal.standing_vetoes().join("; "))))
        }
        Stage::Asking if !journal.all_answered() => Some(Want::Voted),
        Stage::Asking | Stage::Staging => Some(Want::Staged),
        Stage::Staged | Stage::Pending { .. } => Some(Want::Ready),
        Stage::Ready { .. } | Stage::Changing | Stage::Started => Some(Want::Settled),
        Stage::Settled { .. } => end(Outcome::Regressed, None),
        Stage::GoingBack { .. } => Some(Want::Regressed { why: "it failed".into() }),
        Stage::Regressed { why, .. } => end(Outcome::Aborted, why.clone()),
        // What a node does by itself is always installed.
        Stage::Running { .. } | Stage::Persisting { .. } => Some(Want::Persisted),
        Stage::Restarted { .. } => end(Outcome::Aborted, None),
        Stage::Failed { why, .. } => end(Outcome::Aborted, Some(why.clone())),
        Stage::Ended { .. } => None,
    }
}
