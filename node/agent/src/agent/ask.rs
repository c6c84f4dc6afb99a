//! Asks the processes that an update touches. Its one idea: who is touched is worked out anew from what runs now, so a
//! process that started since the others answered is found, and asked, before its changeover.

use std::sync::Arc;

use tribune_messages::node::Directive;
use tribune_process::protocol::{NodeMessage, Overruled, Resume, Role};
use tribune_raft_store::model::{
    Answer, AskHow, BallotCast, Module, PackageId, ProcessRef, Silent as SilenceMeans, Span, Step, UpdateId,
};

use super::journal::{Asking, Counted, Journal, Stage, process_of};
use super::ready::told_pending;
use super::task::{Finished, Moved, Open, Scope, Stuck, Task};
use super::update::{self, Anew};
use super::watch;
use crate::affected::{proposal, touched};
use crate::launch;
use crate::local::{Installed, LocalError};
use crate::processes::ProcessId;
use crate::processes::ballot::{Action, Ask, Event, How, Poll, Question, Said, Silent, Speech};
use crate::processes::hooks::{self, Hook};
use crate::processes::system::System;

/// A process that an update touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Touchee {
    pub(super) process: ProcessId,
    /// Its module, or the name it was registered by.
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) manners: Manners,
    /// Why it cannot be told which process it is; `process` only stands for it then.
    pub(super) missing: Option<String>,
}

/// How a process is treated: its module or its registration says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manners {
    pub(super) how: AskHow,
    pub(super) silent: SilenceMeans,
    pub(super) within: Span,
    pub(super) ready_within: Span,
}

impl Manners {
    fn of(module: &Module) -> Self {
        let tribune_raft_store::model::Ask { how, within, silent } = module.ask.clone();
        Self { how, silent, within, ready_within: module.changeover.ready_within }
    }
}

impl Task {
    /// Takes in what the master says anew of an update that is under way.
    pub(super) async fn take_news(&mut self, id: UpdateId) {
        let now = self.now();
        let (Some(directive), Some(open)) = (self.state.directives.get(&id), self.state.updates.get_mut(&id)) else { return };
        let waiting = told_pending(&open.journal);
        let resume = Resume { update: open.journal.name.clone(), attempt: open.journal.attempt() };
        let anew = update::anew(&open.journal, directive);
        if matches!(anew, Anew::Plan | Anew::Round) {
            open.note().note_deferred(now);
        }
        if anew != Anew::Nothing {
            let journal = open.note();
            journal.revision = directive.revision;
            journal.round = directive.round;
        }
        match anew {
            Anew::Nothing | Anew::Renumbered => {}
            Anew::Plan => {
                open.scope = None;
                let journal = open.note();
                journal.plan = directive.plan.clone();
                journal.kind = directive.kind;
                journal.manifests = directive.manifests.clone();
                journal.polls.clear();
                back_to_asking(journal);
            }
            Anew::Round => {
                let standing = standing(&open.journal, directive);
                let journal = open.note();
                for poll in &mut journal.polls {
                    let others: Vec<_> = poll.processes().filter(|process| !standing.contains(process)).collect();
                    others.into_iter().for_each(|process| poll.forget(process));
                }
                back_to_asking(journal);
            }
        }
        if matches!(anew, Anew::Plan | Anew::Round) {
            open.staging.take().into_iter().for_each(|staging| staging.abort());
        }
        for overruling in &directive.overruled {
            let process = process_of(&overruling.process);
            if open.journal.overruled.get(&process) != Some(overruling) {
                open.note().overruled.insert(process, overruling.clone());
                open.reminded.remove(&process);
            }
        }
        if matches!(anew, Anew::Plan | Anew::Round) {
            for process in waiting {
                self.tell(process, NodeMessage::Resume(resume.clone())).await;
            }
        }
    }

    /// Lets time pass for those who are asked, and tells those who were overruled.
    pub(super) async fn tick(&mut self, id: UpdateId) {
        let now = self.now();
        let Some(open) = self.state.updates.get_mut(&id) else { return };
        if open.journal.has_ended() {
            return;
        }
        let mut actions = Vec::new();
        let due = |poll: &Poll| poll.next_wake().is_some_and(|wake| wake <= now);
        if open.journal.polls.iter().any(due) {
            for poll in &mut open.note().polls {
                // A tick is never refused.
                actions.extend(poll.handle(now, Event::Tick).unwrap_or_default());
            }
        }
        let mut copy = open.journal.clone();
        if open.journal.is_early() && copy.count() == Counted::Changed {
            let journal = open.note();
            *journal = copy;
            if !journal.standing_vetoes().is_empty() && !matches!(journal.stage, Stage::Pending { .. } | Stage::Ready { .. }) {
                // What follows the answers in the reports is said again after them: nothing of an attempt that is over.
                journal.attempts.clear();
            }
        }
        let untold: Vec<_> = open.journal.overruled.iter().filter(|(process, _)| !open.reminded.contains(process)).collect();
        let untold: Vec<_> = untold.into_iter().map(|(process, overruling)| (*process, overruling.clone())).collect();
        let name = open.journal.name.clone();
        open.reminded.extend(untold.iter().map(|(process, _)| *process));
        self.perform(id, actions).await;
        for (process, overruling) in untold {
            let told = Overruled { update: name.clone(), by: overruling.by, why: overruling.why };
            self.tell(process, NodeMessage::Overruled(told)).await;
        }
    }

    /// Works out what an update changes here. One that does not fit what is installed fails. One that has ended changes nothing any
    /// more, and its generations may be gone.
    pub(super) async fn work_out(&mut self, id: UpdateId) -> Result<Moved, Stuck> {
        let lacks = |open: &&Open| open.scope.is_none() && !open.journal.has_ended();
        let Some(open) = self.state.updates.get(&id).filter(lacks) else { return Ok(Moved::No) };
        let journal = open.journal.clone();
        match self.scope_of(&journal).await {
            Ok(scope) => {
                if let Some(open) = self.state.updates.get_mut(&id) {
                    open.scope = Some(Arc::new(scope));
                }
                Ok(Moved::No)
            }
            Err(error @ (LocalError::Plan(_) | LocalError::NoGeneration(_))) if journal.is_early() => {
                let stage = Stage::Failed { step: Step::Planned, why: error.to_string() };
                if journal.stage != stage {
                    self.write(Journal { stage, ..journal }).await?;
                    return Ok(Moved::Yes);
                }
                Ok(Moved::No)
            }
            // What has failed, or come to its end, needs it no more.
            Err(LocalError::Plan(_)) => Ok(Moved::No),
            Err(LocalError::NoGeneration(_)) if journal.runs().is_none() => Ok(Moved::No),
            Err(error) => Err(error.into()),
        }
    }

    async fn scope_of(&self, journal: &Journal) -> Result<Scope, LocalError> {
        let old = self.storage.installed(journal.before).await?;
        let new = match (journal.staged, &journal.local) {
            (Some(_), _) => self.read_software(journal.after()).await?,
            (None, Some(order)) => self.storage.installed(order.to).await?,
            (None, None) => self.storage.planned(&old, &journal.plan, &journal.manifests).await?,
        };
        let touched = touched(&old, &new);
        Ok(Scope { old, new, touched })
    }

    /// The processes that an update touches, as they run now.
    pub(super) fn touchees(&self, scope: &Scope) -> Vec<Touchee> {
        let mut touchees = Vec::new();
        for kid in &self.state.kids {
            let (Some(role), Some(main)) = (scope.touched.role(&kid.id.key), watch::process(kid)) else { continue };
            if matches!(kid.state, tribune_keeper::ChildState::Stopping { .. }) {
                continue;
            }
            let Some(manners) = scope.old.module(&kid.id.key).map(|module| Manners::of(module.module)) else { continue };
            let members = self.members(main);
            // When only workers speak, they speak for the module.
            if matches!(manners.how, AskHow::Hook(_)) || members.is_empty() || self.speaks(main) {
                let (name, manners) = (kid.id.key.clone(), manners.clone());
                touchees.push(Touchee { process: main, name, role, manners, missing: None });
            }
            // The hook answers for the main process; a worker that speaks answers for itself.
            let how = if matches!(manners.how, AskHow::Hook(_)) { AskHow::Auto } else { manners.how.clone() };
            let manners = Manners { how, ..manners };
            let member = |process| {
                let (name, manners) = (kid.id.key.clone(), manners.clone());
                Touchee { process, name, role, manners, missing: None }
            };
            touchees.extend(members.into_iter().map(member));
        }
        for registered in self.state.register.touchees(scope) {
            if touchees.iter().all(|other| other.process != registered.process) {
                touchees.push(self.as_it_speaks(registered));
            }
        }
        touchees
    }

    /// A registered process that speaks answers for itself, whatever its hook would say.
    fn as_it_speaks(&self, registered: Touchee) -> Touchee {
        if !self.speaks(registered.process) {
            return registered;
        }
        Touchee { manners: Manners { how: AskHow::Socket, ..registered.manners }, ..registered }
    }

    /// Whether a process said hello since it started. It need not be connected now: after an agent's death it comes again.
    pub(super) fn speaks(&self, process: ProcessId) -> bool {
        self.state.spoke.contains_key(&process)
    }

    /// The processes that speak and belong to the group of this one, without itself.
    pub(super) fn members(&self, main: ProcessId) -> Vec<ProcessId> {
        let member = |(process, group): (&ProcessId, &u32)| (*group == main.pid && *process != main).then_some(*process);
        self.state.spoke.iter().filter_map(member).collect()
    }

    /// Touched processes that have not been asked in a round that counts: they started since.
    pub(super) fn unasked(&self, id: UpdateId) -> Vec<ProcessId> {
        let Some(open) = self.state.updates.get(&id) else { return Vec::new() };
        let journal = &open.journal;
        let forced = journal.local.as_ref().is_some_and(|order| order.force.is_some());
        let Some(scope) = open.scope.as_ref().filter(|_| journal.is_early() && !forced) else { return Vec::new() };
        let touchees = self.touchees(scope).into_iter().map(|touchee| touchee.process);
        touchees.filter(|process| !journal.was_asked(*process)).collect()
    }

    /// Asks everybody whose answer does not stand.
    pub(super) async fn ask(&mut self, id: UpdateId) -> Result<Moved, Stuck> {
        let Some(scope) = self.scope(id) else { return Ok(Moved::No) };
        let Some(mut journal) = self.journal(id) else { return Ok(Moved::No) };
        journal.question += 1;
        journal.asking = Asking::Begun;
        self.log_proposal(&journal, &scope);
        let forced = journal.local.as_ref().is_some_and(|order| order.force.is_some());
        let touchees = if forced { Vec::new() } else { self.touchees(&scope) };
        self.begin_poll(journal, &scope, touchees).await
    }

    /// Asks those who started since.
    pub(super) async fn ask_newcomers(&mut self, id: UpdateId, unasked: &[ProcessId]) -> Result<Moved, Stuck> {
        let Some(scope) = self.scope(id) else { return Ok(Moved::No) };
        let Some(journal) = self.journal(id) else { return Ok(Moved::No) };
        let touchees = self.touchees(&scope).into_iter().filter(|touchee| unasked.contains(&touchee.process));
        let touchees = touchees.collect();
        self.begin_poll(journal, &scope, touchees).await
    }

    pub(super) fn scope(&self, id: UpdateId) -> Option<Arc<Scope>> {
        self.state.updates.get(&id)?.scope.clone()
    }

    /// Writes down whom it asks, and asks.
    async fn begin_poll(&mut self, mut journal: Journal, scope: &Scope, touchees: Vec<Touchee>) -> Result<Moved, Stuck> {
        let (id, now) = (journal.update, self.now());
        let touchees: Vec<_> = touchees.into_iter().filter(|touchee| !journal.was_asked(touchee.process)).collect();
        let mut proposal = proposal(
            id,
            journal.question,
            &scope.old,
            &scope.new,
            &scope.touched,
            Role::Affected,
            tribune_raft_store::model::Span::from_secs(5),
        );
        proposal.update.clone_from(&journal.name);
        journal.note_deferred(now);
        let system = self.config.system.clone();
        journal.forget_ended(|process| has_ended(system.as_ref(), process));
        let deferred_ms = journal.deferred_ms;
        let began = now.saturating_sub(deferred_ms);
        let question = Question { proposal, began, deferred_ms, max_defer_ms: journal.max_defer.as_millis() };
        let asks: Vec<_> = touchees.iter().map(|touchee| self.how_to_ask(touchee)).collect();
        for ask in &asks {
            tracing::info!(update = %journal.name, process = %ask.process, name = ask.name, role = ?ask.role, "asking");
            journal.asked.insert(ask.process, ask.name.clone());
        }
        let processes: Vec<_> = asks.iter().map(|ask| ask.process).collect();
        for stand_in in processes.iter().filter(|process| process.is_stand_in()) {
            // It stood for another process before, which was found.
            journal.polls.iter_mut().for_each(|poll| poll.forget(*stand_in));
        }
        let (poll, actions) = Poll::begin(question, asks, now);
        journal.polls.push(poll);
        self.write(journal).await?;
        for process in processes {
            self.desk.watch(process).await;
        }
        self.perform(id, actions).await;
        Ok(Moved::Yes)
    }

    pub(super) fn how_to_ask(&self, touchee: &Touchee) -> Ask {
        let Touchee { process, name, role, manners: Manners { how, silent, within, ready_within: _ }, missing } = touchee;
        let node = &self.config.node;
        Ask {
            process: *process,
            name: name.clone(),
            role: *role,
            how: match how {
                AskHow::Auto => How::Auto,
                AskHow::Socket => How::Socket,
                AskHow::Never => How::Never,
                AskHow::Hook(_) => How::Hook,
            },
            speech: if self.speaks(*process) { Speech::SaidHello } else { Speech::NeverSpoke },
            within_ms: within.as_millis(),
            silent: match silent {
                SilenceMeans::Veto => Silent::Veto,
                SilenceMeans::Accept => Silent::Accept,
            },
            // The sentence stands by itself: what is shown of a veto without a process is only its reason.
            missing: missing.as_ref().map(|why| format!("it cannot be told which process {name} on node {node} is: {why}")),
        }
    }

    /// Says to the operator what the update would change, before any of it is fetched.
    fn log_proposal(&self, journal: &Journal, scope: &Scope) {
        for change in &journal.plan.changes {
            let version = |installed: &Installed, id: Option<PackageId>| {
                let stored = id.and_then(|id| installed.package(&id).cloned());
                stored.map_or_else(|| "none".to_owned(), |stored| stored.manifest.version.to_string())
            };
            let of = |installed: &Installed, id: Option<PackageId>| -> Vec<String> {
                let modules = installed.modules().filter(|module| Some(module.package.id) == id);
                modules.flat_map(|module| module.module.depends_on.iter().map(ToString::to_string)).collect()
            };
            let shown = |id: Option<PackageId>| id.map_or_else(|| "none".into(), |id| id.to_string());
            tracing::info!(
                update = %journal.name,
                package = %change.name,
                from = version(&scope.old, change.from),
                to = version(&scope.new, change.to),
                from_id = shown(change.from),
                to_id = shown(change.to),
                depends_on = of(&scope.new, change.to).join(", "),
                "an update is proposed"
            );
        }
        let list = |keys: &std::collections::BTreeSet<String>| keys.iter().cloned().collect::<Vec<_>>().join(", ");
        tracing::info!(
            update = %journal.name,
            replaced = list(&scope.touched.replaced),
            added = list(&scope.touched.added),
            removed = list(&scope.touched.removed),
            affected = list(&scope.touched.affected),
            "modules that the proposed update touches"
        );
    }

    /// Does what a round of asking calls for.
    pub(super) async fn perform(&mut self, id: UpdateId, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Propose { process, proposal } => {
                    if let Some(open) = self.state.updates.get_mut(&id) {
                        open.reminded.insert(process);
                    }
                    self.tell(process, NodeMessage::Proposal(proposal)).await;
                }
                Action::RunHook { process, name, proposal } => {
                    let revision = proposal.revision;
                    let Some(hook) = self.hook_of(id, &name) else { continue };
                    self.work.spawn(async move {
                        let said: Said = hooks::ask(&hook, &name, &proposal).await.into();
                        Finished::Hook { update: id, process, revision, said }
                    });
                }
            }
        }
    }

    /// The command that answers for a registered process, or for a module: that one is run as the module itself is.
    fn hook_of(&self, id: UpdateId, module: &str) -> Option<Hook> {
        if let Some(hook) = self.state.register.hook(module) {
            return Some(hook);
        }
        let scope = self.scope(id)?;
        let AskHow::Hook(command) = scope.old.module(module)?.module.ask.how.clone() else { return None };
        let command = launch::command(&self.launch(&scope.old, module, 0), &command).ok()?;
        let words = [command.program].into_iter().chain(command.args).collect();
        Some(Hook { command: words, folder: command.folder, environment: command.env.into_iter().collect() })
    }

    /// Sends a process a message; when it is not connected, its next hello is the moment to say it.
    pub(super) async fn tell(&mut self, process: ProcessId, message: NodeMessage) {
        if let Err(error) = self.desk.send(process, message).await {
            tracing::debug!(%process, %error, "a message waits for the process to say hello");
        }
    }

    /// A process, or its hook, answered.
    pub(super) async fn note_ballot(&mut self, process: ProcessId, id: UpdateId, revision: u64, said: Said) {
        let now = self.now();
        let Some(open) = self.state.updates.get_mut(&id).filter(|open| !open.journal.has_ended()) else { return };
        if !open.journal.is_early() {
            let message = format!("too late: the changeover of update {} has begun", open.journal.name);
            return self.tell(process, NodeMessage::Error { message }).await;
        }
        let ours = |poll: &&mut Poll| poll.question().proposal.revision == revision && poll.processes().any(|one| one == process);
        let name = open.journal.name.clone();
        let Some(poll) = open.note().polls.iter_mut().rev().find(ours) else { return };
        match poll.handle(now, Event::Answer { process, revision, said: said.clone() }) {
            Ok(actions) => {
                tracing::info!(update = name, %process, ?said, "answered");
                self.perform(id, actions).await;
            }
            Err(refusal) => self.tell(process, NodeMessage::Error { message: refusal.to_string() }).await,
        }
    }
}

/// Whether a process is surely no more.
fn has_ended(system: &dyn System, process: ProcessId) -> bool {
    match system.look_up(process.pid) {
        Ok(seen) => seen.id != process,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Everything is asked, staged and tried anew.
fn back_to_asking(journal: &mut Journal) {
    journal.stage = Stage::Asking;
    journal.voted = None;
    journal.staged = None;
    journal.attempts.clear();
    journal.asking = Asking::ToBegin;
}

/// The processes whose answers stand when others are asked again: those that accepted, and those that were overruled, which
/// cannot veto this update any more.
fn standing(journal: &Journal, directive: &Directive) -> Vec<ProcessId> {
    let overruled = |process: &ProcessRef| directive.overruled.iter().any(|overruling| overruling.process == *process);
    let stands = |ballot: &&BallotCast| match ballot.answer {
        Answer::Accept => !ballot.lapsed,
        Answer::Veto { .. } => ballot.overruled || overruled(&ballot.process),
        Answer::Abstain => false,
    };
    journal.ballots().iter().filter(stands).map(|ballot| process_of(&ballot.process)).collect()
}
