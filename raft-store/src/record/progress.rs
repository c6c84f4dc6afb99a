//! How an update moves: what nodes report of it, and the phases that follow.
//!
//! One idea: a report changes one node's step, and after each the phase is worked out anew from all nodes' steps. No
//! other code moves a phase or a step.

use tribune_planted::{Bug, planted};

use std::collections::BTreeSet;

use super::Record;
use super::apply::{About, At};
use crate::command::{Accepted, Rejection, Response};
use crate::model::{
    Answer, BallotCast, Discrepancy, EventKind, Generation, LeftOut, NodeName, NodePlan, NodeProgress, NodeReport, OnFailure,
    Outcome, Phase, ProcessRef, Regress, Step, Update, UpdateId, UpdateKind,
};

/// The most processes of a node that are asked.
pub const MAX_BALLOTS: usize = 4096;
/// The longest reason that is kept, in bytes.
pub const MAX_REASON_BYTES: usize = 4096;

impl Record {
    pub(super) fn report(
        &mut self,
        at: At,
        id: UpdateId,
        name: &NodeName,
        (revision, round): (u32, u32),
        report: &NodeReport,
    ) -> Response {
        check_report(report)?;
        let update = self.update(id)?;
        let progress = update.nodes.get(name).ok_or(Rejection::Outdated)?;
        let about_this = update.plan.as_ref().is_some_and(|plan| plan.revision >= revision) && progress.round == round;
        let went_back = matches!(report, NodeReport::Regressed { .. } | NodeReport::Restarted { .. });
        if update.phase.ended() || progress.gone || progress.left_behind || (!about_this && !went_back) {
            return Err(Rejection::Outdated);
        }
        match report {
            NodeReport::Asked { processes } => {
                self.step(at, id, name, &[Step::Planned], Step::Asked)?;
                self.change_progress(id, name, |progress| {
                    progress.asked.clone_from(processes);
                    Ok(())
                })
            }
            NodeReport::Voted { ballots } => self.voted(at, id, name, ballots),
            NodeReport::Staged => {
                self.step(at, id, name, &[Step::Voted], Step::Staged)?;
                self.when_all_staged(at, id)
            }
            NodeReport::Released => self.step(at, id, name, &[Step::Pending, Step::Ready], Step::Staged),
            NodeReport::Pending => self.step(at, id, name, &[Step::Staged], Step::Pending),
            NodeReport::Ready => self.step(at, id, name, &[Step::Staged, Step::Pending], Step::Ready),
            NodeReport::Started => self.step(at, id, name, &[Step::Go], Step::Started),
            NodeReport::Running { software } => self.running(at, id, name, software),
            NodeReport::Settled { current } => self.settled(at, id, name, current),
            NodeReport::Restarted { .. } => self.restarted(at, id, name),
            NodeReport::Regressed { current, why } => self.regressed(at, id, name, current, why.as_deref()),
            NodeReport::Failed { step, why } => self.failed(at, id, name, *step, why),
        }?;
        Ok(Accepted::Done)
    }

    pub(super) fn step(&mut self, at: At, id: UpdateId, name: &NodeName, from: &[Step], to: Step) -> Result<(), Rejection> {
        self.change_progress(id, name, |progress| {
            if !from.contains(&progress.step) {
                return Err(Rejection::Outdated);
            }
            progress.step = to;
            progress.since = at.time;
            Ok(())
        })
    }

    pub(super) fn change_progress(
        &mut self,
        id: UpdateId,
        name: &NodeName,
        change: impl FnOnce(&mut NodeProgress) -> Result<(), Rejection>,
    ) -> Result<(), Rejection> {
        let mut update = self.update(id)?.clone();
        change(update.nodes.get_mut(name).ok_or(Rejection::Outdated)?)?;
        self.updates.put(id, update);
        Ok(())
    }

    fn voted(&mut self, at: At, id: UpdateId, name: &NodeName, ballots: &[BallotCast]) -> Result<(), Rejection> {
        let mut update = self.update(id)?.clone();
        let merged = merge_ballots(&update, name, ballots);
        let progress = update.nodes.get_mut(name).ok_or(Rejection::Outdated)?;
        if progress.changed || progress.step > Step::Ready {
            return Err(Rejection::Outdated);
        }
        let first = progress.step < Step::Voted;
        if !first && (progress.ballots == merged || planted(Bug::LateVetoNotCounted)) {
            return Ok(());
        }
        let new_vetoes: Vec<String> = merged
            .iter()
            .filter(|ballot| !progress.ballots.contains(ballot))
            .filter_map(|ballot| Some(format!("{} on node {name} vetoed {id}: {}", ballot.process.name, ballot.standing_veto()?)))
            .collect();
        progress.ballots = merged;
        progress.asked.clear();
        if first {
            progress.step = Step::Voted;
            progress.since = at.time;
        }
        update.ballot_revision += 1;
        self.updates.put(id, update);
        for text in new_vetoes {
            self.note(at, EventKind::Veto, About::both(id, name), text);
        }
        self.count_again(at, id)
    }

    /// Works out what the ballots mean for the phase where nobody decided anything. A veto that lapsed moves nothing by itself: the
    /// user who was called decides.
    pub(super) fn count_again(&mut self, at: At, id: UpdateId) -> Result<(), Rejection> {
        let update = self.update(id)?;
        if update.phase == Phase::Vetoed && has_lapsed_veto(update) { Ok(()) } else { self.count_ballots(at, id) }
    }

    /// Works out what the ballots mean for the phase.
    pub(super) fn count_ballots(&mut self, at: At, id: UpdateId) -> Result<(), Rejection> {
        let update = self.update(id)?;
        let vetoed = update.nodes.values().any(|node| node.ballots.iter().any(|ballot| ballot.standing_veto().is_some()));
        let all_voted = update.nodes.values().all(|node| node.step >= Step::Voted);
        let changed = update.nodes.values().any(|node| node.changed);
        let by_itself = update.request.kind == UpdateKind::Converge;
        match update.phase {
            Phase::Asking | Phase::Distributing | Phase::Wave { .. } | Phase::Paused { .. }
                if all_voted && vetoed && !changed && by_itself =>
            {
                // Nobody was asked to decide: it is tried again.
                let why = format!("vetoed by {}", super::query::vetoes(update).join("; "));
                self.end(at, id, Outcome::Aborted, Some(why))
            }
            Phase::Asking if all_voted && vetoed && changed => self.hold(at, id, open_wave(update)),
            Phase::Asking if all_voted && changed => {
                let wave = open_wave(update);
                self.enter(at, id, Phase::Wave { wave })?;
                self.when_wave_done(at, id)
            }
            Phase::Asking if all_voted && vetoed => self.enter(at, id, Phase::Vetoed),
            Phase::Asking | Phase::Vetoed if all_voted && !vetoed => {
                self.enter(at, id, Phase::Distributing)?;
                self.when_all_staged(at, id)
            }
            Phase::Vetoed if !all_voted => self.enter(at, id, Phase::Asking),
            Phase::Distributing if vetoed => self.back_to_vetoed(at, id),
            Phase::Wave { .. } | Phase::Paused { .. } if vetoed && !changed => self.back_to_vetoed(at, id),
            Phase::Wave { wave } | Phase::Paused { wave, .. } if vetoed => self.hold(at, id, wave),
            _ => Ok(()),
        }
    }

    /// Works out the phase after a node has left the update.
    pub(super) fn work_out(&mut self, at: At, id: UpdateId) -> Result<(), Rejection> {
        self.count_again(at, id)?;
        match self.update(id)?.phase {
            Phase::Distributing => self.when_all_staged(at, id),
            Phase::Wave { .. } => self.when_wave_done(at, id),
            Phase::Persisting => self.when_all_persisted(at, id),
            Phase::Regressing => self.when_all_back(at, id),
            _ => Ok(()),
        }
    }

    /// A late veto before the first changeover.
    fn back_to_vetoed(&mut self, at: At, id: UpdateId) -> Result<(), Rejection> {
        self.let_go(at, id)?;
        self.enter(at, id, Phase::Vetoed)
    }

    /// A late veto after the first changeover.
    pub(super) fn hold(&mut self, at: At, id: UpdateId, wave: u32) -> Result<(), Rejection> {
        self.let_go(at, id)?;
        self.enter(at, id, Phase::Held { wave })
    }

    /// Nodes that were getting ready let go again.
    fn let_go(&mut self, at: At, id: UpdateId) -> Result<(), Rejection> {
        let mut update = self.update(id)?.clone();
        for progress in update.nodes.values_mut().filter(|p| matches!(p.step, Step::Pending | Step::Ready)) {
            progress.step = Step::Staged;
            progress.since = at.time;
        }
        self.updates.put(id, update);
        Ok(())
    }

    fn when_all_staged(&mut self, at: At, id: UpdateId) -> Result<(), Rejection> {
        let update = self.update(id)?;
        let mut staged = update.nodes.values().map(|node| node.step >= Step::Staged);
        let all =
            if planted(Bug::ChangeoverBeforeAllHaveStaged) { staged.any(|staged| staged) } else { staged.all(|staged| staged) };
        if update.phase == Phase::Distributing && all {
            self.enter(at, id, Phase::Wave { wave: 0 })?;
            return self.when_wave_done(at, id);
        }
        Ok(())
    }

    /// After a wave the next one, after the last the check.
    pub(super) fn when_wave_done(&mut self, at: At, id: UpdateId) -> Result<(), Rejection> {
        loop {
            let update = self.update(id)?;
            let (Phase::Wave { wave }, Some(plan)) = (&update.phase, &update.plan) else { return Ok(()) };
            let wave = *wave;
            let done = |name: &NodeName| update.nodes.get(name).is_none_or(|node| node.step >= Step::Settled);
            match plan.waves.get(wave as usize) {
                Some(nodes) if !nodes.iter().all(done) => return Ok(()),
                Some(_) if (wave as usize) + 1 < plan.waves.len() => self.enter(at, id, Phase::Wave { wave: wave + 1 })?,
                _ => return self.enter(at, id, Phase::Verifying),
            }
        }
    }

    pub(super) fn go(&mut self, at: At, id: UpdateId, nodes: &BTreeSet<NodeName>) -> Response {
        let mut update = self.update(id)?.clone();
        let (Phase::Wave { wave }, Some(plan)) = (&update.phase, &update.plan) else { return Err(Rejection::Outdated) };
        let in_wave = plan.waves.get(*wave as usize).cloned().unwrap_or_default();
        for name in nodes {
            let progress = update.nodes.get_mut(name).filter(|node| node.step == Step::Ready && in_wave.contains(name));
            let progress = progress.ok_or(Rejection::Outdated)?;
            progress.step = Step::Go;
            progress.since = at.time;
            progress.changed = true;
        }
        self.updates.put(id, update);
        Ok(Accepted::Done)
    }

    fn settled(&mut self, at: At, id: UpdateId, name: &NodeName, current: &Generation) -> Result<(), Rejection> {
        let update = self.update(id)?;
        if update.request.options.ephemeral {
            if update.phase != Phase::Persisting {
                return Err(Rejection::Outdated);
            }
            self.step(at, id, name, &[Step::Settled], Step::Persisted)?;
            self.installed(at, name, current)?;
            return self.when_all_persisted(at, id);
        }
        // One that was taken for lost, and cannot go back, is where it should be.
        let late = self.cannot_go_back_on(update, name) && update.nodes.get(name).is_some_and(|progress| progress.changed);
        let from: &[Step] = if late { &[Step::Go, Step::Started, Step::Failed] } else { &[Step::Go, Step::Started] };
        self.step(at, id, name, from, Step::Settled)?;
        self.change_progress(id, name, |progress| {
            progress.failure = None;
            Ok(())
        })?;
        self.installed(at, name, current)?;
        self.when_wave_done(at, id)
    }

    fn regressed(
        &mut self,
        at: At,
        id: UpdateId,
        name: &NodeName,
        current: &Generation,
        why: Option<&str>,
    ) -> Result<(), Rejection> {
        let update = self.update(id)?;
        let ephemeral = update.request.options.ephemeral;
        let beside = ephemeral && update.nodes.get(name).is_some_and(|progress| progress.step != Step::Persisted);
        self.change_progress(id, name, |progress| {
            if progress.step == Step::Regressed {
                return Err(Rejection::Outdated);
            }
            progress.step = Step::Regressed;
            progress.since = at.time;
            if let Some(why) = why {
                progress.failure = Some(why.to_owned());
            }
            Ok(())
        })?;
        if beside {
            self.undone(at, id, name);
        } else {
            self.installed(at, name, current)?;
        }
        if ephemeral {
            // Now, and not at the end: others may update the node meanwhile.
            let update = self.update(id)?.clone();
            self.bury(at, &update, name);
        }
        if let Some(why) = why {
            self.note(at, EventKind::NodeFailed, About::both(id, name), format!("node {name} went back by itself: {why}"));
            return self.after_failure(at, id, why);
        }
        self.when_all_back(at, id)
    }

    fn failed(&mut self, at: At, id: UpdateId, name: &NodeName, step: Step, why: &str) -> Result<(), Rejection> {
        self.change_progress(id, name, |progress| {
            // Who counts as away is decided on without its word; `ask-again` has it back.
            if matches!(progress.step, Step::Failed | Step::Regressed | Step::Away) {
                return Err(Rejection::Outdated);
            }
            progress.step = Step::Failed;
            progress.since = at.time;
            progress.failure = Some(why.to_owned());
            Ok(())
        })?;
        self.note(at, EventKind::NodeFailed, About::both(id, name), format!("node {name} failed after {step}: {why}"));
        self.after_failure(at, id, why)
    }

    pub(super) fn away(&mut self, at: At, id: UpdateId, name: &NodeName) -> Response {
        let update = self.update(id)?;
        let progress = update.nodes.get(name).ok_or(Rejection::Outdated)?;
        let over = match update.phase {
            Phase::Ended { .. } => true,
            Phase::Regressing => !progress.changed || matches!(progress.step, Step::Regressed | Step::Failed),
            Phase::Persisting => progress.step > Step::Settled,
            _ => progress.step >= Step::Settled,
        };
        if over {
            return Err(Rejection::Outdated);
        }
        let changed = progress.changed;
        let mut why = format!("node {name} has been away for too long");
        if changed && self.cannot_go_back_on(update, name) {
            why.push_str("; what it changed there stays, as its data cannot go back");
        }
        let mut update = update.clone();
        let progress = update.nodes.get_mut(name).ok_or(Rejection::Outdated)?;
        if changed {
            progress.step = Step::Failed;
            progress.since = at.time;
            progress.failure = Some(why.clone());
        } else {
            super::removal::miss(at, progress, name, &why);
            update.ballot_revision += 1;
        }
        self.updates.put(id, update);
        if changed {
            self.note(at, EventKind::NodeAway, About::both(id, name), why.clone());
            self.after_failure(at, id, &why)?;
        } else {
            self.note(at, EventKind::Veto, About::both(id, name), format!("{why}, which counts as a veto of {id}"));
            self.count_again(at, id)?;
        }
        Ok(Accepted::Done)
    }

    /// What a node's failure means for the update.
    pub(super) fn after_failure(&mut self, at: At, id: UpdateId, why: &str) -> Result<(), Rejection> {
        let update = self.update(id)?;
        let phase = update.phase.clone();
        let changed = update.nodes.values().any(|node| node.changed);
        let on_failure = if self.cannot_go_back(update) { OnFailure::Hold } else { update.request.options.on_failure };
        match phase {
            Phase::Ended { .. } => Ok(()),
            Phase::Regressing => self.when_all_back(at, id),
            // It no longer holds anything together: each node stands for itself.
            Phase::Unpersisted => self.when_nothing_runs(at, id, why),
            Phase::Persisting => self.when_all_persisted(at, id),
            Phase::Verifying if update.nodes.values().any(|node| node.step == Step::Persisted) => Ok(()),
            // Each has changed over or failed, so there is nothing to go on with or to hold.
            Phase::Verifying if changed && on_failure != OnFailure::RegressAll => Ok(()),
            _ if !changed => self.end(at, id, Outcome::Aborted, Some(why.to_owned())),
            Phase::Wave { .. } | Phase::Paused { .. } if on_failure == OnFailure::RegressNode => self.when_wave_done(at, id),
            Phase::Wave { wave } | Phase::Paused { wave, .. } if on_failure == OnFailure::Hold => {
                self.enter(at, id, Phase::Held { wave })
            }
            // The rest is asked again: who has failed meanwhile is not waited for.
            Phase::Asking if on_failure != OnFailure::RegressAll => self.count_ballots(at, id),
            // A user decides about this failure too.
            Phase::Held { .. } if on_failure != OnFailure::RegressAll => Ok(()),
            _ => self.go_back(at, id, why),
        }
    }

    /// Whether a package of the update says that its data cannot go back.
    pub(super) fn cannot_go_back(&self, update: &Update) -> bool {
        update.plan.iter().flat_map(|plan| plan.nodes.values()).any(|plan| self.brings_what_stays(plan))
    }

    /// Whether what an update installs on a node cannot be taken back there, as its data cannot go back. What is not
    /// installed goes with the next restart in any case.
    pub fn cannot_go_back_on(&self, update: &Update, node: &NodeName) -> bool {
        let plan = update.plan.as_ref().and_then(|plan| plan.nodes.get(node));
        !update.request.options.ephemeral && plan.is_some_and(|plan| self.brings_what_stays(plan))
    }

    fn brings_what_stays(&self, plan: &NodePlan) -> bool {
        let mut packages = plan.changes.iter().filter_map(|change| self.packages.get(change.to.as_ref()?));
        packages.any(|package| package.manifest.regress == Regress::No)
    }

    /// Everything that was changed goes back.
    pub(super) fn go_back(&mut self, at: At, id: UpdateId, why: &str) -> Result<(), Rejection> {
        let mut update = self.update(id)?.clone();
        update.reason = Some(why.to_owned());
        self.updates.put(id, update);
        self.enter(at, id, Phase::Regressing)?;
        self.when_all_back(at, id)
    }

    /// A held or paused update goes on where it stopped.
    pub(super) fn go_on(&mut self, at: At, id: UpdateId) -> Result<(), Rejection> {
        let (Phase::Held { wave } | Phase::Paused { wave, .. }) = self.update(id)?.phase else { return Err(Rejection::Outdated) };
        self.enter(at, id, Phase::Wave { wave })?;
        self.when_wave_done(at, id)
    }

    fn when_all_back(&mut self, at: At, id: UpdateId) -> Result<(), Rejection> {
        let update = self.update(id)?;
        if update.phase != Phase::Regressing {
            return Ok(());
        }
        let mut changed = update.nodes.values().filter(|node| node.changed);
        let one_is_enough = planted(Bug::RegressOverWhenOneIsBack) && changed.clone().any(|node| node.step == Step::Regressed);
        if !one_is_enough && changed.clone().any(|node| !matches!(node.step, Step::Regressed | Step::Failed)) {
            return Ok(());
        }
        let outcome = if changed.any(|node| node.step == Step::Failed) { Outcome::RegressFailed } else { Outcome::Regressed };
        let reason = update.reason.clone();
        self.end(at, id, outcome, reason)
    }

    pub(super) fn verified(&mut self, at: At, id: UpdateId, discrepancies: &[Discrepancy]) -> Response {
        let mut update = self.update(id)?.clone();
        if update.phase != Phase::Verifying {
            return Err(Rejection::Outdated);
        }
        let kept = |node: &NodeProgress| matches!(node.step, Step::Settled | Step::Persisted);
        if !update.nodes.values().any(kept) {
            let first = update.nodes.values().find_map(|node| node.failure.clone());
            let why = first.map_or_else(|| "it runs on no node".to_owned(), |why| format!("it runs on no node: {why}"));
            if update.nodes.values().any(|node| node.changed) {
                self.go_back(at, id, &why)?;
            } else {
                self.end(at, id, Outcome::Aborted, Some(why))?;
            }
            return Ok(Accepted::Done);
        }
        update.discrepancies = discrepancies.to_vec();
        let mut left_out = update.plan.iter().flat_map(|plan| plan.left_out.values());
        let ephemeral = update.request.options.ephemeral;
        let runs = update.nodes.values().any(|node| node.step == Step::Settled);
        let done = if ephemeral { Step::Persisted } else { Step::Settled };
        let partly = update.nodes.values().any(|node| node.step != done) || left_out.any(LeftOut::would_have_changed);
        let outcome = match (discrepancies.is_empty(), partly) {
            (false, _) => Outcome::CompletedWithDiscrepancies,
            (true, true) => Outcome::CompletedInPart,
            (true, false) => Outcome::Completed,
        };
        let reason = update.reason.clone();
        self.updates.put(id, update);
        self.found(at, id, discrepancies)?;
        if ephemeral && runs {
            if planted(Bug::EphemeralRecorded) {
                let update = self.update(id)?.clone();
                self.should_have_after(at, &update, outcome);
            }
            self.enter(at, id, Phase::Unpersisted)?;
        } else {
            self.end(at, id, outcome, reason)?;
        }
        Ok(Accepted::Done)
    }

    fn installed(&mut self, at: At, name: &NodeName, current: &Generation) -> Result<(), Rejection> {
        let mut node = self.node(name)?.clone();
        if node.ephemeral.take().is_some() {
            node.version = at.index;
            self.nodes.put(name.clone(), node.clone());
            self.software_changed(at);
        }
        if node.current != *current {
            let old = std::mem::replace(&mut node.current, current.clone());
            node.kept.remove(&current.number);
            node.kept.insert(old.number, old);
            node.version = at.index;
            self.nodes.put(name.clone(), node);
            self.software_changed(at);
        }
        Ok(())
    }

    /// The update enters a phase.
    pub(super) fn enter(&mut self, at: At, id: UpdateId, phase: Phase) -> Result<(), Rejection> {
        let mut update = self.update(id)?.clone();
        if update.phase != phase {
            update.phase = keep_pause(&mut update, phase);
            update.since = at.time;
            if update.phase == Phase::Verifying && update.request.options.ephemeral {
                leave_behind(&mut update);
            }
            let text = format!("{id} is {}", update.phase);
            self.updates.put(id, update);
            self.note(at, EventKind::UpdatePhase, About::update(id), text);
        }
        Ok(())
    }

    /// The update ends.
    pub(super) fn end(&mut self, at: At, id: UpdateId, outcome: Outcome, reason: Option<String>) -> Result<(), Rejection> {
        let mut update = self.update(id)?.clone();
        update.reason = reason;
        self.updates.put(id, update.clone());
        self.enter(at, id, Phase::Ended { outcome })?;
        self.should_have_after(at, &update, outcome);
        Ok(())
    }
}

/// All have changed over but those that cannot any more, and those who never began are not waited for.
fn leave_behind(update: &mut Update) {
    for progress in update.nodes.values_mut() {
        progress.left_behind |= !progress.changed && progress.step > Step::Settled;
    }
}

/// The phase to enter. A pause outlasts a veto or a failure that came meanwhile: when that is decided, the update is paused again, if
/// anything is left that a pause would hold back.
fn keep_pause(update: &mut Update, phase: Phase) -> Phase {
    if let (Phase::Paused { by, .. }, Phase::Vetoed | Phase::Held { .. }) = (&update.phase, &phase) {
        update.paused_by = Some(by.clone());
    }
    match phase {
        Phase::Wave { wave } => {
            let left = update.nodes.values().any(|node| node.step < Step::Go);
            let by = update.paused_by.take().filter(|_| left);
            by.map_or(Phase::Wave { wave }, |by| Phase::Paused { wave, by })
        }
        phase => phase,
    }
}

/// The first wave with a node that has not changed over.
pub(super) fn open_wave(update: &Update) -> u32 {
    let waves = update.plan.as_ref().map_or(&[][..], |plan| &plan.waves);
    let open = |name: &NodeName| update.nodes.get(name).is_some_and(|node| node.step < Step::Settled);
    let first = waves.iter().position(|nodes| nodes.iter().any(open)).unwrap_or(waves.len().saturating_sub(1));
    u32::try_from(first).unwrap_or(u32::MAX)
}

fn has_lapsed_veto(update: &Update) -> bool {
    let lapsed = |ballot: &BallotCast| ballot.lapsed && !ballot.overruled && matches!(ballot.answer, Answer::Veto { .. });
    update.nodes.values().any(|node| node.ballots.iter().any(lapsed))
}

/// The node's new list of ballots. Whether one is overruled is not the node's to say: what a user overruled stays overruled
/// for the same process, and a regress that is forced overrules every veto.
fn merge_ballots(update: &Update, node: &NodeName, new: &[BallotCast]) -> Vec<BallotCast> {
    let options = &update.request.options;
    let forced = update.request.kind == UpdateKind::Regress && options.force.is_some();
    let before = update.nodes.get(node).map_or(&[][..], |progress| &progress.ballots);
    let decided = update.decisions.iter().flat_map(|taken| &taken.overruled);
    let overruled: BTreeSet<&ProcessRef> = before
        .iter()
        .filter(|ballot| ballot.overruled)
        .map(|ballot| &ballot.process)
        .chain(decided.filter(|(name, _)| name == node).map(|(_, process)| process))
        .collect();
    let mut merged: Vec<BallotCast> = new
        .iter()
        .map(|ballot| {
            let vetoed = matches!(ballot.answer, Answer::Veto { .. }) && !ballot.lapsed;
            BallotCast { overruled: overruled.contains(&ballot.process) || (forced && vetoed), ..ballot.clone() }
        })
        .collect();
    merged.sort_by(|a, b| a.process.cmp(&b.process));
    merged
}

fn check_report(report: &NodeReport) -> Result<(), Rejection> {
    let long = |text: &str| text.len() > MAX_REASON_BYTES;
    let good = match report {
        NodeReport::Asked { processes } => processes.len() <= MAX_BALLOTS && !processes.iter().any(|p| long(&p.name)),
        NodeReport::Voted { ballots } => {
            ballots.len() <= MAX_BALLOTS
                && !ballots.iter().any(|b| long(&b.process.name) || matches!(&b.answer, Answer::Veto { reason } if long(reason)))
        }
        NodeReport::Failed { why, .. } | NodeReport::Regressed { why: Some(why), .. } => !long(why),
        _ => true,
    };
    if good { Ok(()) } else { Err(Rejection::Evidence { what: "the node's report is longer than is allowed".into() }) }
}
