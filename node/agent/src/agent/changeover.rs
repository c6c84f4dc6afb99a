//! Brings the node's children to where they should be: in a changeover, on the way back from one, and in everyday life.
//! Its one idea: there is one way to do it ([`supervise::next`]); an update under way adds who has to hold, for how long,
//! and what follows when they do or do not.

use std::collections::BTreeSet;
use std::sync::Arc;

use tribune_keeper::{ChildId, ChildState, ChildStatus, SignalName};
use tribune_messages::node::Keep;
use tribune_planted::{Bug, planted};
use tribune_process::protocol::{ChangeoverDone, HandOver, NodeMessage, Resume};
use tribune_raft_store::model::{Ephemeral, Generation, Span, Step, Strategy, UpdateId, WhenAffected};

use super::journal::{Journal, ReadyState, Readying, Stage};
use super::supervise::{self, Action, View, Wait, Wanted};
use super::task::{Handing, Known, Moved, Open, Stuck, TRY_AGAIN, Task};
use super::watch;
use crate::keeper::ChildrenError;
use crate::launch::ChildLabel;
use crate::local::Installed;
use crate::processes::ProcessId;
use crate::processes::ballot::Moment;

/// A new child has at least so long to come up, in milliseconds, whatever its `ready-within`.
const SHORTEST_START: u64 = 5_000;
/// In everyday life, what depends on a child that does not come up is started all the same after so long, in milliseconds.
const PATIENCE: u64 = 10_000;
/// The way back takes at most so long, in milliseconds, beside the time that old modules have to come up and new ones to end.
const WAY_BACK: u64 = 60_000;

/// An update that changes children now.
struct Underway {
    update: UpdateId,
    /// The modules whose children have to come up and to hold.
    changed: BTreeSet<String>,
}

impl Task {
    /// Starts the new modules: from here on something may be changed.
    pub(super) async fn change_over(&mut self, id: UpdateId) -> Result<Moved, Stuck> {
        let (Some(scope), Some(mut journal)) = (self.scope(id), self.journal(id)) else { return Ok(Moved::No) };
        let restarts = |kid: &&ChildStatus| {
            let module = scope.new.module(&kid.id.key);
            let restart = module.is_some_and(|module| module.module.when_affected == WhenAffected::Restart);
            restart && scope.touched.affected.contains(&kid.id.key) && watch::process(kid).is_some()
        };
        journal.restarted = self.state.kids.iter().filter(restarts).map(|kid| kid.id.clone()).collect();
        journal.to_tell.clear();
        journal.stage = Stage::Changing;
        tracing::info!(update = %journal.name, "the changeover begins");
        let staged = journal.staged.filter(|_| journal.keep == Keep::Installed);
        self.write(journal).await?;
        if let Some(staged) = staged.filter(|_| planted(Bug::GenerationCurrentBeforeSettled)) {
            self.storage.switch_current(staged).await?;
        }
        for key in &scope.touched.replaced {
            self.clear_state(key);
        }
        self.begin_moving(id);
        Ok(Moved::Yes)
    }

    fn begin_moving(&mut self, id: UpdateId) {
        let now = self.now();
        self.state.held.clear();
        self.state.handing_over.clear();
        self.state.waits.clear();
        if let Some(open) = self.state.updates.get_mut(&id) {
            open.since = Some(now);
        }
    }

    /// Lets the old modules take over again.
    pub(super) async fn go_back(&mut self, id: UpdateId, why: Option<String>) -> Result<Moved, Stuck> {
        let (Some(scope), Some(mut journal)) = (self.scope(id), self.journal(id)) else { return Ok(Moved::No) };
        let resume = Resume { update: journal.name.clone(), attempt: journal.attempt() };
        tracing::warn!(update = %journal.name, why = why.as_deref().unwrap_or("the master says so"), "the node goes back");
        // What was restarted with the new modules is restarted with the old ones.
        let restarted = |kid: &&ChildStatus| {
            let module = scope.old.module(&kid.id.key);
            let restart = module.is_some_and(|module| module.module.when_affected == WhenAffected::Restart);
            restart && scope.touched.affected.contains(&kid.id.key) && !journal.restarted.contains(&kid.id)
        };
        journal.restarted = self.state.kids.iter().filter(restarted).map(|kid| kid.id.clone()).collect();
        journal.tries += 1;
        journal.stage = Stage::GoingBack { why };
        let asked: Vec<_> = journal.asked.keys().copied().collect();
        self.write(journal).await?;
        self.begin_moving(id);
        for process in asked {
            if self.state.connected.contains_key(&process) {
                self.tell(process, NodeMessage::Resume(resume.clone())).await;
            }
        }
        Ok(Moved::Yes)
    }

    /// Nothing was changed, so the old modules run.
    pub(super) async fn stay_back(&mut self, id: UpdateId, why: Option<String>) -> Result<Moved, Stuck> {
        let Some(mut journal) = self.journal(id) else { return Ok(Moved::No) };
        self.abort_staging(id);
        journal.stage = Stage::Regressed { current: self.state.current.generation.clone(), why };
        self.write(journal).await?;
        Ok(Moved::Yes)
    }

    /// Does the next thing about the children.
    pub(super) async fn advance_children(&mut self) -> Result<Moved, Stuck> {
        let (software, by) = self.target();
        let target = self.software(software).await?;
        if self.state.live_shown != Some(software) {
            self.storage.show_live(software).await?;
            self.state.live_shown = Some(software);
        }
        let underway = by.and_then(|update| self.underway(update));
        let restarted = by.and_then(|update| self.journal(update)).map(|journal| journal.restarted).unwrap_or_default();
        let wanted = self.wanted(&target, &restarted).await?;
        self.state.held.retain(|module, _| wanted.iter().any(|want| want.module == *module));
        let checks = underway.as_ref().map(|underway| self.checks(&target, &underway.changed)).unwrap_or_default();
        self.state.watch.check(&checks);
        if let Some(underway) = &underway
            && let Some(moved) = self.judge(underway, &target).await?
        {
            return Ok(moved);
        }
        let next = self.next(&wanted, underway.as_ref());
        self.note_waits(&next.waits);
        if !next.actions.is_empty() {
            for action in next.actions {
                self.act(action, &target, by).await?;
            }
            return Ok(Moved::Yes);
        }
        match underway {
            Some(underway) if next.waits.is_empty() => self.arrived(&underway, &target).await,
            _ => Ok(Moved::No),
        }
    }

    fn underway(&self, update: UpdateId) -> Option<Underway> {
        let scope = self.scope(update)?;
        let touched = &scope.touched;
        let mut changed: BTreeSet<String> =
            touched.replaced.iter().chain(&touched.added).chain(&touched.removed).cloned().collect();
        changed.extend(self.journal(update)?.restarted.into_iter().map(|child| child.key));
        Some(Underway { update, changed })
    }

    fn next(&self, wanted: &[Wanted], underway: Option<&Underway>) -> supervise::Next {
        let now = self.now();
        let mut up = self.state.watch.up(now);
        let speaking = match underway {
            Some(underway) => {
                // What is not changed holds up nobody.
                let others = self.state.kids.iter().filter(|kid| !underway.changed.contains(&kid.id.key));
                up.extend(others.map(|kid| kid.id.clone()));
                let speak = |kid: &&ChildStatus| !self.speakers(kid).is_empty();
                self.state.kids.iter().filter(speak).map(|kid| kid.id.clone()).collect()
            }
            None => {
                up.extend(self.state.patience.iter().cloned());
                BTreeSet::new()
            }
        };
        let handing_over = self.state.handing_over.iter().map(|(child, handing)| (child.clone(), handing.state())).collect();
        let held = self.state.held.iter().filter(|(_, (until, _))| *until > now).map(|(module, _)| module.clone()).collect();
        let children = &self.state.kids;
        let view = View { children, up: &up, speaking: &speaking, handing_over: &handing_over, held: &held, now };
        supervise::next(wanted, view)
    }

    /// The processes of a child that speak. One that is not connected now hears what it is told when it says hello again.
    fn speakers(&self, kid: &ChildStatus) -> Vec<ProcessId> {
        let Some(main) = watch::process(kid) else { return Vec::new() };
        let mut speakers = self.members(main);
        speakers.extend(self.speaks(main).then_some(main));
        speakers
    }

    /// Remembers since when each thing is waited for.
    fn note_waits(&mut self, waits: &[Wait]) {
        let now = self.now();
        self.state.waits.retain(|wait, _| waits.contains(wait));
        for wait in waits {
            self.state.waits.entry(wait.clone()).or_insert(now);
        }
        let kids = &self.state.kids;
        self.state.patience.retain(|child| kids.iter().any(|kid| kid.id == *child));
        for (wait, since) in &self.state.waits {
            if let Wait::Up(child) = wait
                && now >= since.saturating_add(PATIENCE)
            {
                self.state.patience.insert(child.clone());
            }
        }
    }

    /// When each wait will have taken as long as it may.
    pub(super) fn wait_limits(&self) -> Vec<Moment> {
        let mut limits = Vec::new();
        let target = self.target().1.and_then(|update| self.scope(update));
        for (wait, since) in &self.state.waits {
            if let Wait::Up(child) = wait {
                limits.push(since.saturating_add(PATIENCE));
                let scope = target.as_ref();
                limits.extend(scope.map(|scope| since.saturating_add(start_within(&scope.new, &child.key).as_millis())));
                limits.extend(scope.map(|scope| since.saturating_add(start_within(&scope.old, &child.key).as_millis())));
            }
        }
        limits
    }

    /// When a process that comes to its safe point is late, or an update that changes children has held long enough, or has taken too long.
    pub(super) fn changeover_wake(&self, open: &Open) -> Option<Moment> {
        if let Stage::Pending { processes } = &open.journal.stage {
            let until = |one: &Readying| match one.state {
                ReadyState::Told { until } => Some(until),
                ReadyState::DoesNotSpeak | ReadyState::Ready | ReadyState::Overruled | ReadyState::Gone => None,
            };
            return processes.iter().filter_map(until).min();
        }
        let scope = open.scope.as_ref()?;
        let since = open.since?;
        match &open.journal.stage {
            Stage::Started => {
                let changed = self.underway(open.journal.update)?.changed;
                Some(since.saturating_add(settle_time(&scope.new, &changed).as_millis()))
            }
            Stage::GoingBack { .. } => Some(since.saturating_add(way_back(&scope.old, &scope.new))),
            _ => None,
        }
    }

    /// Whether the new modules fail, or the way back takes too long.
    async fn judge(&mut self, underway: &Underway, target: &Installed) -> Result<Option<Moved>, Stuck> {
        let Some(mut journal) = self.journal(underway.update) else { return Ok(None) };
        match journal.stage {
            Stage::Changing | Stage::Started => match self.failure(underway, target, &journal) {
                Some(why) => self.go_back(underway.update, Some(why)).await.map(Some),
                None => Ok(None),
            },
            Stage::GoingBack { .. } => {
                let now = self.now();
                let (Some(scope), Some(open)) = (self.scope(underway.update), self.state.updates.get_mut(&underway.update))
                else {
                    return Ok(None);
                };
                let since = *open.since.get_or_insert(now);
                if now < since.saturating_add(way_back(&scope.old, &scope.new)) {
                    return Ok(None);
                }
                let waits: Vec<_> = self.state.waits.keys().map(Wait::describe).collect();
                let why = format!("the old modules do not run again; waited for {}", waits.join(", "));
                tracing::error!(update = %journal.name, why, "the way back fails: a person must look");
                self.make_current(journal.before).await?;
                journal.stage = Stage::Failed { step: Step::Started, why };
                self.write(journal.clone()).await?;
                self.answer_undone(&journal);
                Ok(Some(Moved::Yes))
            }
            _ => Ok(None),
        }
    }

    /// Why the new modules cannot stay; none: nothing is wrong.
    fn failure(&self, underway: &Underway, target: &Installed, journal: &Journal) -> Option<String> {
        let now = self.now();
        for key in &underway.changed {
            if let Some((_, why)) = self.state.held.get(key) {
                return Some(format!("{key} could not be started: {why}"));
            }
            if let Some(why) = self.state.damaged.get(key) {
                return Some(format!("{key} is damaged: {why}"));
            }
        }
        for kid in self.state.kids.iter().filter(|kid| underway.changed.contains(&kid.id.key)) {
            let is_new = kid.label.parse::<ChildLabel>().is_ok_and(|label| label.software == target.software());
            if !is_new || journal.restarted.contains(&kid.id) {
                continue;
            }
            if let Some(why) = ending(kid) {
                return Some(format!("{} {why}", kid.id.key));
            }
            if let Some(why) = self.state.watch.unhealthy(&kid.id) {
                return Some(format!("{} is unhealthy: {why}", kid.id.key));
            }
        }
        let too_long = |(wait, since): (&Wait, &Moment)| match wait {
            Wait::Up(child) if underway.changed.contains(&child.key) => {
                let within = start_within(target, &child.key);
                let late = now >= since.saturating_add(within.as_millis());
                late.then(|| format!("{} did not come up within {within}: {}", child.key, self.state.watch.complaint(child)))
            }
            _ => None,
        };
        self.state.waits.iter().find_map(too_long)
    }

    /// Does one thing about a child.
    async fn act(&mut self, action: Action, target: &Arc<Installed>, by: Option<UpdateId>) -> Result<(), Stuck> {
        let now = self.now();
        let done = match action {
            Action::Start(child) => {
                let started = match self.spec_of(target, &child.key, child.instance) {
                    Ok(Some(spec)) => self.children.start(spec).await,
                    Ok(None) => Ok(()),
                    Err(error) => {
                        self.state.held.insert(child.key.clone(), (now + TRY_AGAIN, error.to_string()));
                        return Ok(());
                    }
                };
                match started {
                    Ok(()) => {
                        tracing::info!(%child, software = %target.software(), "a child was started");
                        self.state.held.remove(&child.key);
                    }
                    Err(ChildrenError::Gone) => return Err(ChildrenError::Gone.into()),
                    Err(error) => {
                        tracing::warn!(%child, %error, "a child could not be started");
                        self.state.held.insert(child.key, (now + TRY_AGAIN, error.to_string()));
                    }
                }
                Ok(())
            }
            Action::HandOver { child, within } => {
                self.hand_over(child, within, by).await;
                return Ok(());
            }
            Action::Stop { child, within } => {
                tracing::info!(%child, "a child is stopped");
                self.children.stop(child, Some(within.as_duration())).await
            }
            Action::Remove(child) => self.children.remove(child).await,
        };
        self.state.kids_known = Known::Stale;
        match done {
            // It has gone, or changed, since it was looked at: the next look tells.
            Ok(()) | Err(ChildrenError::Refused { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn hand_over(&mut self, child: ChildId, within: Span, by: Option<UpdateId>) {
        let Some(journal) = by.and_then(|update| self.journal(update)) else { return };
        let kid = self.state.kids.iter().find(|kid| kid.id == child);
        let waiting: BTreeSet<_> = kid.map(|kid| self.speakers(kid)).unwrap_or_default().into_iter().collect();
        let until = self.now().saturating_add(within.as_millis());
        tracing::info!(%child, processes = waiting.len(), "an old child is to hand over");
        self.state.handing_over.insert(child, Handing { until, waiting: waiting.clone() });
        for process in waiting {
            self.desk.watch(process).await;
            self.tell_hand_over(&journal, process).await;
        }
    }

    /// Says again to a process that it hands over, if it has not: it had no connection, or lost it.
    pub(super) async fn remind_hand_over(&mut self, process: ProcessId) {
        let waits = self.state.handing_over.values().any(|handing| handing.waiting.contains(&process));
        let Some(journal) = self.target().1.filter(|_| waits).and_then(|update| self.journal(update)) else { return };
        self.tell_hand_over(&journal, process).await;
    }

    async fn tell_hand_over(&mut self, journal: &Journal, process: ProcessId) {
        let hand_over = HandOver { update: journal.name.clone(), attempt: journal.attempt() };
        self.tell(process, NodeMessage::HandOver(hand_over)).await;
    }

    /// The children are where they should be.
    async fn arrived(&mut self, underway: &Underway, target: &Installed) -> Result<Moved, Stuck> {
        let now = self.now();
        let Some(mut journal) = self.journal(underway.update) else { return Ok(Moved::No) };
        match &journal.stage {
            Stage::Changing => {
                journal.to_tell = self.tell_affected(&journal).await;
                journal.stage = Stage::Started;
                tracing::info!(update = %journal.name, "the new modules run");
                self.write(journal).await?;
                if let Some(open) = self.state.updates.get_mut(&underway.update) {
                    open.since = Some(now);
                }
                Ok(Moved::Yes)
            }
            Stage::Started => {
                let Some(open) = self.state.updates.get_mut(&underway.update) else { return Ok(Moved::No) };
                let since = *open.since.get_or_insert(now);
                if now < since.saturating_add(settle_time(target, &underway.changed).as_millis()) {
                    return Ok(Moved::No);
                }
                tracing::info!(update = %journal.name, software = %target.software(), "the new modules have held");
                journal.stage = match journal.keep {
                    Keep::Installed => {
                        self.make_current(target.number()).await?;
                        Stage::Settled { current: self.state.current.generation.clone() }
                    }
                    Keep::UntilRestart => Stage::Running { software: ephemeral(&journal, target) },
                };
                self.write(journal).await?;
                Ok(Moved::Yes)
            }
            Stage::GoingBack { why } => {
                let why = why.clone();
                self.make_current(journal.before).await?;
                if !journal.to_tell.is_empty() {
                    journal.to_tell = self.tell_affected(&journal).await;
                }
                tracing::info!(update = %journal.name, generation = journal.before, "the old modules run again");
                journal.stage = Stage::Regressed { current: self.state.current.generation.clone(), why };
                self.write(journal.clone()).await?;
                self.answer_undone(&journal);
                Ok(Moved::Yes)
            }
            _ => Ok(Moved::No),
        }
    }

    /// Makes a generation what a node restart starts.
    pub(super) async fn make_current(&mut self, number: u64) -> Result<(), Stuck> {
        if self.state.current.number() != number {
            self.storage.switch_current(number).await?;
        }
        self.state.current = self.storage.current().await?;
        self.state.kept = self.storage.kept().await?;
        Ok(())
    }

    /// Tells those that depend on what has changed, and those that were not replaced but reload, that it has happened.
    async fn tell_affected(&mut self, journal: &Journal) -> BTreeSet<ProcessId> {
        let Some(scope) = self.scope(journal.update) else { return BTreeSet::new() };
        let mut told = BTreeSet::new();
        for kid in self.state.kids.clone() {
            let Some(module) = scope.new.module(&kid.id.key).or_else(|| scope.old.module(&kid.id.key)) else { continue };
            let affected = scope.touched.affected.contains(&kid.id.key) && module.module.when_affected != WhenAffected::Restart;
            let reloads = scope.touched.replaced.contains(&kid.id.key) && module.module.changeover.strategy == Strategy::Reload;
            if (!affected && !reloads) || watch::running(&kid).is_none() {
                continue;
            }
            let speakers = self.speakers(&kid);
            let signal = (affected && module.module.when_affected == WhenAffected::Reload) || (reloads && speakers.is_empty());
            for process in speakers {
                told.insert(process);
                self.tell_done(journal, process).await;
            }
            if signal && let Err(error) = self.children.signal(kid.id.clone(), SignalName::SigHup).await {
                tracing::warn!(child = %kid.id, %error, "a child could not be told to reload");
            }
        }
        let registered: Vec<_> = self.state.register.touchees(&scope).map(|touchee| touchee.process).collect();
        for process in registered {
            if self.speaks(process) {
                told.insert(process);
                self.tell_done(journal, process).await;
            }
        }
        told
    }

    pub(super) async fn tell_done(&mut self, journal: &Journal, process: ProcessId) {
        let done = ChangeoverDone { update: journal.name.clone(), attempt: journal.attempt() };
        self.tell(process, NodeMessage::ChangeoverDone(done)).await;
    }
}

/// What an ephemeral update runs, as the record has it.
fn ephemeral(journal: &Journal, target: &Installed) -> Ephemeral {
    let Generation { packages, modules, .. } = target.generation.clone();
    Ephemeral { update: journal.update, packages, modules }
}

/// How a new child ended, if it did.
fn ending(kid: &ChildStatus) -> Option<String> {
    match &kid.state {
        ChildState::Restarting { last, .. } | ChildState::Broken { last, .. } | ChildState::Stopped { last: Some(last) } => {
            Some(last.to_string())
        }
        ChildState::Starting(_) | ChildState::Running { .. } if kid.endings > 0 => Some("ended and was started again".into()),
        ChildState::Starting(_)
        | ChildState::Running { .. }
        | ChildState::Stopping { .. }
        | ChildState::Stopped { last: None } => None,
    }
}

/// How long a module has to come up.
fn start_within(installed: &Installed, key: &str) -> Span {
    let within = installed.module(key).map_or(0, |module| module.module.changeover.ready_within.as_millis());
    Span::from_millis(within.max(SHORTEST_START))
}

/// How long changed modules have to hold.
fn settle_time(installed: &Installed, changed: &BTreeSet<String>) -> Span {
    let running = installed.modules().filter(|module| changed.contains(module.key) && !module.module.run.is_empty());
    running.map(|module| module.module.settle()).max().unwrap_or(Span::from_millis(0))
}

/// How long the way back may take, in milliseconds.
fn way_back(old: &Installed, new: &Installed) -> u64 {
    let longest = |installed: &Installed| {
        let times = installed.modules().map(|module| {
            let changeover = &module.module.changeover;
            changeover.ready_within.as_millis().saturating_add(changeover.drain_within.as_millis().saturating_mul(2))
        });
        times.max().unwrap_or(0)
    };
    WAY_BACK.saturating_add(longest(old)).saturating_add(longest(new))
}
