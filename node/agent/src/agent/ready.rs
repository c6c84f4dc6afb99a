//! Brings the touched processes to their safe points, and lets them go again. Its one idea: a process that speaks must
//! say that it is ready; one that does not speak is ready; one that was overruled is changed over when its time is up.

use tribune_process::protocol::{ChangeoverPending, NodeMessage, Resume};
use tribune_raft_store::model::{NodeReport, Step, UpdateId};

use super::ask::Touchee;
use super::journal::{Journal, ReadyState, Readying, Stage};
use super::task::{Moved, Stuck, Task};
use crate::processes::ProcessId;
use crate::processes::ballot::Moment;

impl Task {
    /// Tells the touched processes that the changeover comes.
    pub(super) async fn prepare(&mut self, id: UpdateId) -> Result<Moved, Stuck> {
        let (Some(scope), Some(mut journal)) = (self.scope(id), self.journal(id)) else { return Ok(Moved::No) };
        let now = self.now();
        let mut touchees = self.touchees(&scope);
        // Who could not be found cannot be told, and was gone past, or its silence is consent.
        touchees.retain(|one| one.missing.is_none());
        journal.tries += 1;
        journal.mark(NodeReport::Pending);
        journal.stage = Stage::Pending { processes: touchees.iter().map(|one| self.readying(one, now)).collect() };
        self.write(journal.clone()).await?;
        for touchee in touchees {
            self.desk.watch(touchee.process).await;
            self.remind_pending(&journal, touchee.process).await;
        }
        Ok(Moved::Yes)
    }

    fn readying(&self, touchee: &Touchee, now: Moment) -> Readying {
        let within = touchee.manners.ready_within;
        let state = match self.speaks(touchee.process) {
            true => ReadyState::Told { until: now.saturating_add(within.as_millis()) },
            false => ReadyState::DoesNotSpeak,
        };
        Readying { process: touchee.process, name: touchee.name.clone(), role: touchee.role, within, state }
    }

    /// Says again to a process that the changeover comes, if it has not said that it is ready.
    pub(super) async fn remind_pending(&mut self, journal: &Journal, process: ProcessId) {
        let Stage::Pending { processes } = &journal.stage else { return };
        let now = self.now();
        let told = processes.iter().find(|one| one.process == process);
        let Some((one, ReadyState::Told { until })) = told.map(|one| (one, one.state)) else { return };
        let pending = ChangeoverPending {
            update: journal.name.clone(),
            attempt: journal.attempt(),
            role: one.role,
            within_ms: until.saturating_sub(now),
        };
        self.tell(process, NodeMessage::ChangeoverPending(pending)).await;
    }

    /// A process can hand over.
    pub(super) fn note_ready(&mut self, process: ProcessId, update: &str, attempt: u32) {
        let Some(open) = self.named(update) else { return };
        if open.journal.attempt() != attempt {
            return;
        }
        self.move_readying(process, update, ReadyState::Ready);
    }

    /// Notes how far a process is.
    pub(super) fn move_readying(&mut self, process: ProcessId, update: &str, to: ReadyState) {
        let Some(open) = self.named(update) else { return };
        let Stage::Pending { processes } = &open.journal.stage else { return };
        let Some(place) = processes.iter().position(|one| one.process == process && one.state != to) else { return };
        if let Stage::Pending { processes } = &mut open.note().stage {
            processes[place].state = to;
        }
    }

    /// Sees to those whose time is up: who was overruled is changed over as it is, for anyone else the update fails here.
    pub(super) async fn give_up_late(&mut self, id: UpdateId) -> Result<Moved, Stuck> {
        let now = self.now();
        let Some(open) = self.state.updates.get(&id) else { return Ok(Moved::No) };
        let Stage::Pending { processes } = &open.journal.stage else { return Ok(Moved::No) };
        let late = |one: &&Readying| matches!(one.state, ReadyState::Told { until } if until <= now);
        let Some(one) = processes.iter().find(late).cloned() else { return Ok(Moved::No) };
        let forced = open.journal.local.as_ref().is_some_and(|order| order.force.is_some());
        let name = open.journal.name.clone();
        if forced || open.journal.overruled.contains_key(&one.process) {
            self.move_readying(one.process, &name, ReadyState::Overruled);
            return Ok(Moved::Yes);
        }
        let why = format!("{} ({}) was not ready within {}", one.name, one.process, one.within);
        tracing::warn!(update = name, why, "the update fails on this node");
        let Some(mut journal) = self.journal(id) else { return Ok(Moved::No) };
        journal.stage = Stage::Failed { step: Step::Pending, why };
        self.let_go(id, journal).await
    }

    /// All are at their safe points.
    pub(super) async fn be_ready(&mut self, id: UpdateId) -> Result<Moved, Stuck> {
        let Some(mut journal) = self.journal(id) else { return Ok(Moved::No) };
        let Stage::Pending { processes } = &journal.stage else { return Ok(Moved::No) };
        let told = processes.iter().filter(|one| matches!(one.state, ReadyState::Ready | ReadyState::Overruled));
        journal.stage = Stage::Ready { processes: told.map(|one| one.process).collect() };
        journal.mark(NodeReport::Ready);
        tracing::info!(update = %journal.name, "all processes are ready for the changeover");
        self.write(journal).await?;
        Ok(Moved::Yes)
    }

    /// The attempt is over before anything was changed: the processes go on as before.
    pub(super) async fn release(&mut self, id: UpdateId) -> Result<Moved, Stuck> {
        let Some(mut journal) = self.journal(id) else { return Ok(Moved::No) };
        if journal.standing_vetoes().is_empty() {
            journal.mark(NodeReport::Released);
        } else {
            // The master hears of the veto first; all that follows it in the reports is said again.
            journal.attempts.clear();
        }
        journal.stage = Stage::Staged;
        tracing::info!(update = %journal.name, "the processes go on as before; the attempt is over");
        self.let_go(id, journal).await
    }

    /// Writes the new standing down and tells those who wait at their safe points to go on.
    async fn let_go(&mut self, id: UpdateId, journal: Journal) -> Result<Moved, Stuck> {
        let told = self.journal(id).map(|before| told_pending(&before)).unwrap_or_default();
        let resume = Resume { update: journal.name.clone(), attempt: journal.attempt() };
        self.write(journal).await?;
        for process in told {
            self.tell(process, NodeMessage::Resume(resume.clone())).await;
        }
        Ok(Moved::Yes)
    }
}

/// Who was told that the changeover comes.
pub(super) fn told_pending(journal: &Journal) -> Vec<ProcessId> {
    let speaks = |one: &&Readying| !matches!(one.state, ReadyState::DoesNotSpeak | ReadyState::Gone);
    match &journal.stage {
        Stage::Pending { processes } => processes.iter().filter(speaks).map(|one| one.process).collect(),
        Stage::Ready { processes } => processes.clone(),
        _ => Vec::new(),
    }
}
