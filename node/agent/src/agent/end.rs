//! The end of an update on this node: whoever was asked hears the outcome, and what it left is cleared away. Its one
//! idea: the outcome is in the journal until everybody has heard it or has ended; only then is the journal removed.

use std::collections::BTreeSet;

use tribune_messages::node::Keep;
use tribune_process::protocol::{self, Aborted, NodeMessage, OutcomeTold};
use tribune_raft_store::model::{Outcome, Signature, UpdateId};

use super::LocalRegressError;
use super::journal::{Journal, Stage};
use super::task::{Moved, Stuck, Task};
use crate::launch::ChildLabel;
use crate::local::Software;
use crate::processes::ProcessId;
use crate::processes::outcome::Telling;

/// How many failed generations are remembered for `local show`.
const REMEMBERED_FAILURES: usize = 20;

impl Task {
    /// The update is over.
    pub(super) async fn end(&mut self, id: UpdateId, outcome: Outcome, reason: Option<String>) -> Result<Moved, Stuck> {
        let Some(mut journal) = self.journal(id) else { return Ok(Moved::No) };
        self.abort_staging(id);
        self.note_apart(&journal).await?;
        self.answer_local(&journal);
        self.remember_failure(&journal).await?;
        let told = OutcomeTold { update: journal.name.clone(), outcome: shown(outcome), reason: reason.clone() };
        // Who never spoke can hear nothing, and never says that it has.
        let telling = Telling::begin(told, journal.asked.keys().copied().filter(|process| self.speaks(*process)));
        tracing::info!(update = %journal.name, %outcome, reason = reason.as_deref().unwrap_or(""), "the update is over");
        journal.stage = Stage::Ended { telling };
        let asked: Vec<_> = journal.asked.keys().copied().collect();
        self.write(journal).await?;
        for process in asked {
            self.desk.watch(process).await;
            self.tell_outcome(id, process).await;
        }
        self.clear_away().await?;
        Ok(Moved::Yes)
    }

    /// Tells a process the outcome, if it has not acknowledged it: that nothing was changed also in the words for that.
    pub(super) async fn tell_outcome(&mut self, id: UpdateId, process: ProcessId) {
        let Some(open) = self.state.updates.get(&id) else { return };
        let Stage::Ended { telling } = &open.journal.stage else { return };
        if let Some(told) = telling.hello(process).cloned() {
            if told.outcome == protocol::Outcome::Aborted {
                let reason = told.reason.clone().unwrap_or_else(|| "it was given up".into());
                self.tell(process, NodeMessage::Aborted(Aborted { update: told.update.clone(), reason })).await;
            }
            self.tell(process, NodeMessage::Outcome(told)).await;
        }
    }

    /// A process has heard the outcome, or has ended.
    pub(super) fn settle_telling(&mut self, id: UpdateId, process: ProcessId) {
        let Some(open) = self.state.updates.get_mut(&id) else { return };
        let untold = matches!(&open.journal.stage, Stage::Ended { telling } if telling.untold().contains(&process));
        if untold && let Stage::Ended { telling } = &mut open.note().stage {
            telling.settled(process);
        }
    }

    /// Everybody has heard the outcome.
    pub(super) async fn forget(&mut self, id: UpdateId) -> Result<Moved, Stuck> {
        self.storage.remove_update(id).await?;
        self.state.updates.remove(&id);
        Ok(Moved::Yes)
    }

    /// Removes what no generation, open update or running child needs.
    pub(super) async fn clear_away(&mut self) -> Result<(), Stuck> {
        let mut keep = BTreeSet::new();
        let mut ephemeral = BTreeSet::new();
        let mut wanted: BTreeSet<Signature> = BTreeSet::new();
        for open in self.state.updates.values() {
            let journal = &open.journal;
            if !journal.has_ended() {
                keep.insert(journal.before);
                match journal.keep {
                    Keep::Installed => keep.extend(journal.staged),
                    Keep::UntilRestart => drop(ephemeral.insert(journal.update)),
                }
                if let Stage::Persisting { staged, .. } = &journal.stage {
                    keep.extend(staged);
                }
                wanted.extend(journal.plan.modules.values().map(|module| module.signature));
            }
        }
        for kid in &self.state.kids {
            match kid.label.parse::<ChildLabel>().map(|label| label.software) {
                Ok(Software::Generation(number)) => keep.insert(number),
                Ok(Software::Ephemeral(update, _)) => ephemeral.insert(update),
                Err(_) => false,
            };
        }
        self.storage.clear_away(&keep, &wanted).await?;
        self.ephemeral.keep_only(&ephemeral).await?;
        self.state.kept = self.storage.kept().await?;
        let (kept, current) = (&self.state.kept, self.state.current.number());
        self.state.software.retain(|software, _| match software {
            Software::Generation(number) => *number == current || keep.contains(number) || kept.contains_key(number),
            Software::Ephemeral(update, _) => ephemeral.contains(update),
        });
        self.release_sockets().await?;
        Ok(())
    }

    /// Closes listening sockets that no module has any more.
    async fn release_sockets(&mut self) -> Result<(), Stuck> {
        let (software, _) = self.target();
        let target = self.software(software).await?;
        let mut used = BTreeSet::new();
        for module in target.modules() {
            used.extend(module.module.listen.iter().map(|listen| listen.as_str().to_owned()));
        }
        for socket in self.children.list_sockets().await? {
            let known = used
                .iter()
                .any(|used| used.parse().is_ok_and(|address: tribune_keeper::SocketAddress| address == socket.address));
            if !known && let Err(error) = self.children.release_socket(socket.address).await {
                tracing::debug!(%error, "a socket stays open");
            }
        }
        Ok(())
    }

    /// A change of the node's own making is done: the cluster has to know that it was, also when it hears of it late.
    async fn note_apart(&mut self, journal: &Journal) -> Result<(), Stuck> {
        if journal.is_local() && matches!(journal.stage, Stage::Settled { .. }) {
            self.state.apart = Some(journal.name.clone());
            self.storage.save(super::start::APART, &self.state.apart).await?;
        }
        Ok(())
    }

    async fn remember_failure(&mut self, journal: &Journal) -> Result<(), Stuck> {
        let why = match &journal.stage {
            Stage::Regressed { why: Some(why), .. } | Stage::Failed { why, .. } => why,
            _ => return Ok(()),
        };
        let generation = match journal.after() {
            _ if journal.staged.is_none() => "nothing was staged".to_owned(),
            Software::Generation(number) => format!("generation {number}"),
            Software::Ephemeral(..) => "ephemeral".to_owned(),
        };
        let line = format!("{} ({generation}): {why}", journal.name);
        if self.state.failed.last() != Some(&line) {
            self.state.failed.push(line);
            let surplus = self.state.failed.len().saturating_sub(REMEMBERED_FAILURES);
            self.state.failed.drain(..surplus);
            self.storage.save(super::start::FAILED, &self.state.failed).await?;
        }
        Ok(())
    }

    /// Answers whoever waits for an update of the cluster's to be taken back on this node.
    pub(super) fn answer_undone(&mut self, journal: &Journal) {
        if journal.is_local() {
            return;
        }
        let Some(answer) = self.state.local_answers.remove(&journal.update) else { return };
        let result = match &journal.stage {
            Stage::Failed { why, .. } => Err(LocalRegressError::Failed(why.clone())),
            _ => Ok(self.state.current.generation.clone()),
        };
        // Whoever asked may have lost interest.
        let _ = answer.send(result);
    }

    /// Answers whoever waits for a change that the node made by itself.
    fn answer_local(&mut self, journal: &Journal) {
        let Some(answer) = self.state.local_answers.remove(&journal.update) else { return };
        let vetoes = journal.standing_vetoes();
        let result = match &journal.stage {
            Stage::Settled { current } => Ok(current.clone()),
            Stage::Regressed { why: Some(why), .. } | Stage::Failed { why, .. } => Err(LocalRegressError::Failed(why.clone())),
            _ if !vetoes.is_empty() => Err(LocalRegressError::Vetoed(vetoes)),
            _ => Err(LocalRegressError::Failed("it was given up".into())),
        };
        // Whoever asked may have lost interest.
        let _ = answer.send(result);
    }
}

/// The outcome as processes hear it.
fn shown(outcome: Outcome) -> protocol::Outcome {
    match outcome {
        Outcome::Completed => protocol::Outcome::Completed,
        Outcome::CompletedInPart => protocol::Outcome::CompletedInPart,
        Outcome::CompletedWithDiscrepancies => protocol::Outcome::CompletedWithDiscrepancies,
        Outcome::Aborted | Outcome::Rejected => protocol::Outcome::Aborted,
        Outcome::Regressed => protocol::Outcome::Regressed,
        Outcome::RegressFailed => protocol::Outcome::RegressFailed,
    }
}
