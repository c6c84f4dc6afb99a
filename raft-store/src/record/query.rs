//! What is asked of the record: pure functions that read it.

use serde::{Deserialize, Serialize};

use super::Record;
use super::updates::can_be_asked_again;
use crate::model::{Answer, BallotCast, NodeName, Phase, ProcessRef, Step, Timestamp, Update, UpdateId};

/// What an update is waiting for, since when, and what a user can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// For what.
    pub waiting_for: WaitingFor,
    /// Since when.
    pub since: Timestamp,
    /// What can be done, as commands.
    pub can: Vec<String>,
}

/// What an update is waiting for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "waiting_for")]
pub enum WaitingFor {
    /// Other updates that hold its nodes.
    Updates {
        /// Which.
        updates: Vec<UpdateId>,
    },
    /// Nodes whose processes have not all answered.
    Answers {
        /// Which.
        nodes: Vec<NodeName>,
        /// The processes that are being asked there, of which at least one on each node has not answered.
        asked: Vec<(NodeName, ProcessRef)>,
    },
    /// A user's decision about vetoes or a failure.
    Decision {
        /// What happened, one sentence each.
        about: Vec<String>,
    },
    /// Nodes that fetch and stage.
    Staging {
        /// Which.
        nodes: Vec<NodeName>,
    },
    /// Nodes that change over.
    Changeover {
        /// Which, with their step.
        nodes: Vec<(NodeName, Step)>,
    },
    /// A user who resumes it.
    Resume {
        /// The nodes that have not begun to change over.
        left: Vec<NodeName>,
        /// Those that still finish, with their step.
        finishing: Vec<(NodeName, Step)>,
    },
    /// The master's check of what is installed.
    Check,
    /// A user who persists what runs, or takes it back.
    Persist {
        /// Where it runs.
        nodes: Vec<NodeName>,
    },
    /// Nodes that install what runs.
    Installing {
        /// Which.
        nodes: Vec<NodeName>,
    },
    /// Nodes that go back.
    Regress {
        /// Which.
        nodes: Vec<NodeName>,
    },
    /// The master, which is about to tell the nodes.
    Master,
}

impl Record {
    /// What this update is waiting for; `None` if it has ended.
    pub fn waiting(&self, update: &Update) -> Option<Waiting> {
        let below =
            |step: Step| update.nodes.iter().filter(move |(_, node)| node.step < step).map(|(name, _)| name.clone()).collect();
        let cancel = format!("tribune update cancel {}", update.id);
        let decide = |what: &str| format!("tribune update decide {} {what}", update.id);
        let force = || decide(&format!("--force --seen {} --why TEXT", update.ballot_revision));
        let (waiting_for, can) = match &update.phase {
            Phase::Queued { .. } => match self.waits_for(update) {
                updates if updates.is_empty() => (WaitingFor::Master, vec![cancel]),
                updates => {
                    let shown = updates.iter().map(|other| format!("tribune update show {other}"));
                    let can = shown.chain([cancel]).collect();
                    (WaitingFor::Updates { updates }, can)
                }
            },
            Phase::Planned => (WaitingFor::Master, vec![cancel]),
            Phase::Asking => (WaitingFor::Answers { nodes: below(Step::Voted), asked: asked(update) }, vec![cancel]),
            Phase::Vetoed => {
                let about = vetoes(update);
                let rest = [decide("--only NODE"), decide("--without NODE"), decide("--ask-again"), decide("--abort")];
                if about.is_empty() {
                    // Who vetoed is gone: there is nothing to overrule.
                    (WaitingFor::Decision { about: lapsed(update) }, rest.to_vec())
                } else {
                    let can = [force()].into_iter().chain(rest).collect();
                    (WaitingFor::Decision { about }, can)
                }
            }
            Phase::Distributing => (WaitingFor::Staging { nodes: below(Step::Staged) }, vec![cancel]),
            Phase::Wave { wave } => {
                let nodes = update.plan.as_ref().and_then(|plan| plan.waves.get(*wave as usize)).cloned().unwrap_or_default();
                let nodes = nodes.into_iter().filter_map(|name| {
                    let step = update.nodes.get(&name)?.step;
                    (step < Step::Settled).then_some((name, step))
                });
                (WaitingFor::Changeover { nodes: nodes.collect() }, vec![format!("tribune update pause {}", update.id), cancel])
            }
            Phase::Paused { .. } => {
                let finishing = update.nodes.iter().filter(|(_, node)| matches!(node.step, Step::Go | Step::Started));
                let finishing = finishing.map(|(name, node)| (name.clone(), node.step)).collect();
                let resume = format!("tribune update resume {}", update.id);
                (WaitingFor::Resume { left: below(Step::Go), finishing }, vec![resume, cancel])
            }
            Phase::Held { .. } => {
                let again = update.nodes.values().any(can_be_asked_again).then(|| decide("--ask-again"));
                let can = [Some(force()), again, Some(decide("--abort"))];
                (WaitingFor::Decision { about: failures(update) }, can.into_iter().flatten().collect())
            }
            Phase::Verifying => (WaitingFor::Check, vec![cancel]),
            Phase::Unpersisted => {
                let persist = format!("tribune update persist {}", update.id);
                (WaitingFor::Persist { nodes: running(update) }, vec![persist, cancel])
            }
            Phase::Persisting => (WaitingFor::Installing { nodes: running(update) }, vec![cancel]),
            Phase::Regressing => {
                let open = update.nodes.iter().filter(|(_, node)| node.changed && node.step < Step::Regressed);
                let nodes = open.map(|(name, _)| name.clone()).collect();
                (WaitingFor::Regress { nodes }, vec![format!("tribune update watch {}", update.id)])
            }
            Phase::Ended { .. } => return None,
        };
        Some(Waiting { waiting_for, since: update.since, can })
    }
}

/// Where an ephemeral update runs and is not installed.
fn running(update: &Update) -> Vec<NodeName> {
    let running = update.nodes.iter().filter(|(_, node)| node.step == Step::Settled);
    running.map(|(name, _)| name.clone()).collect()
}

/// Who is being asked where not all have answered.
fn asked(update: &Update) -> Vec<(NodeName, ProcessRef)> {
    let open = update.nodes.iter().filter(|(_, node)| node.step == Step::Asked);
    open.flat_map(|(name, node)| node.asked.iter().map(|process| (name.clone(), process.clone()))).collect()
}

/// One sentence for each veto whose process is gone.
fn lapsed(update: &Update) -> Vec<String> {
    let mut sentences = Vec::new();
    for (name, node) in &update.nodes {
        for BallotCast { process, answer, lapsed, overruled } in &node.ballots {
            if let (Answer::Veto { reason }, true, false) = (answer, lapsed, overruled) {
                let ProcessRef { name: process, pid, .. } = process;
                sentences.push(format!("{process} (pid {pid}) on node {name} vetoed and is gone since: {reason}"));
            }
        }
    }
    sentences
}

/// One sentence for each veto that stands.
pub(super) fn vetoes(update: &Update) -> Vec<String> {
    let mut sentences = Vec::new();
    for (name, node) in &update.nodes {
        for ballot in &node.ballots {
            if let Some(reason) = ballot.standing_veto() {
                if ballot.process.pid == 0 {
                    sentences.push(reason.to_owned());
                    continue;
                }
                sentences.push(format!("{} (pid {}) on node {name}: {reason}", ballot.process.name, ballot.process.pid));
            }
        }
    }
    sentences
}

/// One sentence for each failure, and each late veto.
fn failures(update: &Update) -> Vec<String> {
    let failed = update.nodes.iter().filter_map(|(name, node)| Some(format!("node {name}: {}", node.failure.as_ref()?)));
    failed.chain(vetoes(update)).chain(lapsed(update)).collect()
}
