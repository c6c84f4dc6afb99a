//! The one task that owns everything the agent knows. Its one idea: whatever happens is only noted; then every update,
//! and the children, are brought as far as they go ([`Task::advance`]), which may be done at any time and any number of
//! times. So nothing is lost when several things happen at once, or while the agent was not there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch as channel};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tribune_keeper::{ChildId, ChildStatus, Event, Exit};
use tribune_messages::node::{Directive, Want};
use tribune_raft_store::model::{Ephemeral, Generation, Platform, UpdateId};

use super::clock::Clock;
use super::journal::{Journal, Runs, Stage};
use super::registered::{Looked, Register};
use super::supervise::{HandingOver, Wait};
use super::update::{self, Do, Facts, Lease};
use super::watch::{self, Checked, Watch};
use super::{AgentConfig, Keeper, LocalRegressError, ModuleSource, Request, Standing, UpdateStanding};
use crate::affected::Touched;
use crate::keeper::Children;
use crate::launch::Folders;
use crate::local::{EphemeralStorage, Installed, LocalError, LocalStorage, Software};
use crate::processes::ballot::{Moment, Poll, Said};
use crate::processes::desk::{ConnectedProcess, Desk, DeskEvent};
use crate::processes::notify::Notification;
use crate::processes::{ManagedModule, ManagedModules, ProcessId};

/// How long, in milliseconds, until something that the machine refused is tried again.
pub(super) const TRY_AGAIN: u64 = 2_000;
/// How often at most updates and children are looked at after one event; each look does one thing, so more is a mistake.
const MOST_ROUNDS: usize = 1_000;

/// Everything that comes from the handle and the keeper.
pub(super) struct Inputs {
    pub(super) directed: channel::Receiver<Vec<Directive>>,
    pub(super) leased: channel::Receiver<Lease>,
    pub(super) requested: mpsc::Receiver<Request>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) publish: channel::Sender<Standing>,
    pub(super) tell_keeper: channel::Sender<Keeper>,
}

/// What processes say, and what checks and work come to.
pub(super) struct Heard {
    pub(super) desk: mpsc::Receiver<DeskEvent>,
    pub(super) notifications: mpsc::Receiver<Notification>,
    pub(super) checked: mpsc::Receiver<Checked>,
}

/// The task.
pub(super) struct Task {
    pub(super) config: AgentConfig,
    pub(super) folders: Folders,
    /// The platform of the machine itself.
    pub(super) machine: Platform,
    pub(super) children: Arc<dyn Children>,
    pub(super) storage: LocalStorage,
    pub(super) ephemeral: EphemeralStorage,
    pub(super) source: Arc<dyn ModuleSource>,
    pub(super) desk: Desk,
    pub(super) inputs: Inputs,
    pub(super) heard: Heard,
    pub(super) managed: channel::Sender<Arc<ManagedModules>>,
    pub(super) clock: Clock,
    pub(super) state: State,
    pub(super) work: JoinSet<Finished>,
}

/// What the task knows.
pub(super) struct State {
    /// What is installed, and what it can go back to.
    pub(super) current: Installed,
    pub(super) kept: BTreeMap<u64, Generation>,
    /// The updates with a journal.
    pub(super) updates: BTreeMap<UpdateId, Open>,
    /// The master's directives, by update.
    pub(super) directives: BTreeMap<UpdateId, Directive>,
    pub(super) lease: Lease,
    /// What the keeper has.
    pub(super) kids: Vec<ChildStatus>,
    pub(super) kids_known: Known,
    pub(super) watch: Watch,
    pub(super) connected: BTreeMap<ProcessId, ConnectedProcess>,
    /// Every process that ever said hello and lives, and its process group. It may be without a connection for a moment.
    pub(super) spoke: BTreeMap<ProcessId, u32>,
    /// The processes that this node did not start.
    pub(super) register: Register,
    pub(super) handing_over: BTreeMap<ChildId, Handing>,
    /// Modules whose start failed: until when they wait, and why.
    pub(super) held: BTreeMap<String, (Moment, String)>,
    /// Whether something could not be started, so that the modules are to be looked at.
    pub(super) modules: Modules,
    /// Modules that are not as they were staged, and are not started.
    pub(super) damaged: BTreeMap<String, String>,
    /// When it last began to look at what is to be done: what was due by then was done, or waits for `again`.
    pub(super) looked_at: Moment,
    /// When something that the machine refused is tried again, and what it was.
    pub(super) again: Option<(Moment, String)>,
    /// What is waited for before children run as they should, each since when.
    pub(super) waits: BTreeMap<Wait, Moment>,
    /// Children that were waited for long enough: what depends on them starts without them.
    pub(super) patience: BTreeSet<ChildId>,
    /// What children run from, as far as it was read.
    pub(super) software: BTreeMap<Software, Arc<Installed>>,
    pub(super) local_answers: BTreeMap<UpdateId, oneshot::Sender<Result<Generation, LocalRegressError>>>,
    /// What the last change of the node's own making is called.
    pub(super) apart: Option<String>,
    /// Generations that failed, with why, newest last.
    pub(super) failed: Vec<String>,
    /// To whose tree `live` leads.
    pub(super) live_shown: Option<Software>,
}

/// Whether the bytes of what is installed are to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Modules {
    Believed,
    Doubted,
}

/// Whether what is known of the children is as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    Fresh,
    Stale,
}

/// An update with its journal.
pub(super) struct Open {
    pub(super) journal: Journal,
    /// Whether the journal on disk is as it is here.
    pub(super) saved: Saved,
    /// What it changes; worked out when it is needed.
    pub(super) scope: Option<Arc<Scope>>,
    /// Staging that is under way.
    pub(super) staging: Option<AbortHandle>,
    /// Since when the new modules have held, or the old ones come back.
    pub(super) since: Option<Moment>,
    /// Processes that heard the proposal from this agent, or need not.
    pub(super) reminded: BTreeSet<ProcessId>,
}

impl Open {
    pub(super) fn of(journal: Journal) -> Self {
        Self { journal, saved: Saved::No, scope: None, staging: None, since: None, reminded: BTreeSet::new() }
    }

    /// Notes what was heard; it is written before anything is done because of it.
    pub(super) fn note(&mut self) -> &mut Journal {
        self.saved = Saved::No;
        &mut self.journal
    }
}

/// Whether something is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Saved {
    Yes,
    No,
}

/// What an update changes on this node.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) old: Installed,
    pub(super) new: Installed,
    pub(super) touched: Touched,
}

/// A child that hands over.
#[derive(Debug, Clone)]
pub(super) struct Handing {
    pub(super) until: Moment,
    /// Its processes that have not said that they have.
    pub(super) waiting: BTreeSet<ProcessId>,
}

impl Handing {
    pub(super) fn state(&self) -> HandingOver {
        if self.waiting.is_empty() { HandingOver::Done } else { HandingOver::Told { until: self.until } }
    }
}

/// Work beside the task that has come to its end.
#[derive(Debug)]
pub(super) enum Finished {
    Staged { update: UpdateId, result: Result<Installed, String> },
    Hook { update: UpdateId, process: ProcessId, revision: u64, said: Said },
    Mended { result: Result<(), String> },
    Looked(Looked),
}

/// Why something was not done: the machine refused. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stuck {
    #[error(transparent)]
    Local(#[from] LocalError),
    #[error(transparent)]
    Keeper(#[from] crate::keeper::ChildrenError),
}

/// Whether something was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// It was: look again.
    Yes,
    /// Something has to happen first.
    No,
}

/// Whether the task goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goes {
    On,
    Out,
}

impl Task {
    /// Runs until it is stopped, the keeper is gone, or nobody has a handle.
    pub(super) async fn run(mut self) {
        self.advance().await;
        while self.wait().await == Goes::On {
            self.advance().await;
        }
        self.work.shutdown().await;
    }

    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Waits for the next thing to happen, and notes it.
    async fn wait(&mut self) -> Goes {
        let wake = self.next_wake();
        tokio::select! {
            request = self.inputs.requested.recv() => match request {
                Some(Request::Stop(answer)) => {
                    let _ = answer.send(());
                    return Goes::Out;
                }
                Some(request) => self.answer(request).await,
                None => return Goes::Out,
            },
            changed = self.inputs.directed.changed() => {
                if changed.is_err() {
                    return Goes::Out;
                }
                self.take_directives();
            }
            changed = self.inputs.leased.changed() => {
                if changed.is_err() {
                    return Goes::Out;
                }
                self.state.lease = *self.inputs.leased.borrow_and_update();
            }
            event = self.inputs.events.recv() => match event {
                Some(event) => self.keeper_event(event),
                None => {
                    tracing::error!("the keeper is gone: this agent ends, and the next keeper starts another");
                    return Goes::Out;
                }
            },
            Some(event) = self.heard.desk.recv() => self.desk_event(event).await,
            Some(told) = self.heard.notifications.recv() => self.state.watch.noted(told.main, &told.notes),
            Some(checked) = self.heard.checked.recv() => self.state.watch.checked(checked),
            Some(finished) = self.work.join_next() => {
                if let Ok(finished) = finished {
                    self.finished(finished).await;
                }
            }
            () = until(wake) => {}
        }
        Goes::On
    }

    fn take_directives(&mut self) {
        let directives = self.inputs.directed.borrow_and_update().clone();
        self.state.directives = directives.into_iter().map(|directive| (directive.update, directive)).collect();
    }

    fn keeper_event(&mut self, event: Event) {
        self.state.kids_known = Known::Stale;
        match event {
            Event::Started { .. } => {}
            Event::Exited { child, exit, .. } => {
                tracing::info!(%child, %exit, "a child ended");
                if matches!(exit, Exit::NotStarted(_)) {
                    self.state.modules = Modules::Doubted;
                }
            }
            Event::Stopping { within_ms } => {
                self.inputs.tell_keeper.send_modify(|keeper| keeper.stopping = Some(Duration::from_millis(within_ms)));
            }
            Event::Reload => self.inputs.tell_keeper.send_modify(|keeper| keeper.reloads += 1),
        }
    }

    async fn finished(&mut self, finished: Finished) {
        match finished {
            Finished::Staged { update, result } => self.note_staged(update, result),
            Finished::Hook { update, process, revision, said } => self.note_ballot(process, update, revision, said).await,
            Finished::Mended { result } => self.note_mended(result),
            Finished::Looked(looked) => self.note_looked(looked).await,
        }
    }

    /// Brings every update, and the children, as far as they go now.
    async fn advance(&mut self) {
        self.state.again = None;
        for _ in 0..MOST_ROUNDS {
            match self.advance_once().await {
                Ok(Moved::Yes) => {}
                Ok(Moved::No) => return self.publish(),
                Err(stuck) => {
                    tracing::error!(error = %stuck, "the node cannot go on; it tries again");
                    self.state.again = Some((self.now() + TRY_AGAIN, stuck.to_string()));
                    return self.publish();
                }
            }
        }
        tracing::error!("the agent finds no rest; it goes on in a moment");
        self.state.again = Some((self.now() + TRY_AGAIN, "the agent finds no rest".into()));
        self.publish();
    }

    async fn advance_once(&mut self) -> Result<Moved, Stuck> {
        self.state.looked_at = self.now();
        self.see_children().await?;
        if std::mem::replace(&mut self.state.modules, Modules::Believed) == Modules::Doubted {
            self.look_at_modules().await?;
        }
        self.begin_updates();
        if !self.state.updates.keys().any(|id| self.looks(*id)) {
            self.state.register.age();
        }
        for update in self.state.updates.keys().copied().collect::<Vec<_>>() {
            if self.advance_update(update).await? == Moved::Yes {
                return Ok(Moved::Yes);
            }
        }
        self.advance_children().await
    }

    /// Looks at what the keeper has, if that may have changed.
    async fn see_children(&mut self) -> Result<(), Stuck> {
        if self.state.kids_known == Known::Fresh {
            return Ok(());
        }
        let kids = self.children.list().await?;
        self.state.kids_known = Known::Fresh;
        let now = self.now();
        self.state.watch.see(&kids, now);
        for connected in self.state.connected.keys() {
            self.state.watch.hello(*connected);
        }
        self.state.handing_over.retain(|child, _| kids.iter().any(|kid| kid.id == *child && watch::process(kid).is_some()));
        let mut modules = Vec::new();
        for kid in &kids {
            if let Some(main) = watch::process(kid) {
                modules.push(ManagedModule { module: kid.id.key.clone(), main });
            }
        }
        let managed = Arc::new(ManagedModules(modules));
        self.managed.send_if_modified(|known| {
            let changed = **known != *managed;
            *known = managed;
            changed
        });
        self.state.kids = kids;
        Ok(())
    }

    /// Opens a journal for each update that is told of for the first time. One change at a time: others wait.
    fn begin_updates(&mut self) {
        let now = self.now();
        for (update, directive) in &self.state.directives {
            let busy = self.state.updates.values().any(|open| !open.journal.has_ended());
            let over = matches!(directive.want, Want::Ended { .. });
            if !busy && !over && !self.state.updates.contains_key(update) {
                let journal = Journal::begin(directive, self.state.current.number(), now);
                self.state.updates.insert(*update, Open::of(journal));
            }
        }
    }

    /// Does the next thing in one update.
    async fn advance_update(&mut self, id: UpdateId) -> Result<Moved, Stuck> {
        self.take_news(id).await;
        self.tick(id).await;
        if let Some(open) = self.state.updates.get(&id).filter(|open| open.saved == Saved::No) {
            self.write(open.journal.clone()).await?;
        }
        let Some(open) = self.state.updates.get(&id) else { return Ok(Moved::No) };
        if let Stage::Ended { telling } = &open.journal.stage {
            return if telling.is_over() { self.forget(id).await } else { Ok(Moved::No) };
        }
        if self.give_up_late(id).await? == Moved::Yes || self.work_out(id).await? == Moved::Yes {
            return Ok(Moved::Yes);
        }
        self.keep_staging(id);
        let unasked = self.unasked(id);
        if self.looks(id) {
            self.look();
        }
        let Some(open) = self.state.updates.get(&id) else { return Ok(Moved::No) };
        let want = self.want(&open.journal);
        let registered = self.state.register.seen(self.now());
        let lease = if open.journal.is_local() { Lease::Held } else { self.state.lease };
        let next = update::decide(&open.journal, want.as_ref(), Facts { unasked: &unasked, registered, lease });
        match next {
            // Children are brought on after all updates.
            Do::Wait => Ok(Moved::No),
            Do::Ask => self.ask(id).await,
            Do::AskNewcomers => self.ask_newcomers(id, &unasked).await,
            Do::Stage => self.begin_staging(id).await,
            Do::StopStaging => self.stop_staging(id).await,
            Do::Prepare => self.prepare(id).await,
            Do::BeReady => self.be_ready(id).await,
            Do::Release => self.release(id).await,
            Do::ChangeOver => self.change_over(id).await,
            Do::Persist => self.begin_persisting(id).await,
            Do::Install { number } => self.install(id, number).await,
            Do::GoBack { why } => self.go_back(id, why).await,
            Do::StayBack { why } => self.stay_back(id, why).await,
            Do::End { outcome, reason } => self.end(id, outcome, reason).await,
        }
    }

    /// Whether it matters to an update now who the registered processes are.
    fn looks(&self, id: UpdateId) -> bool {
        self.state.updates.get(&id).is_some_and(|open| update::looks(&open.journal, self.want(&open.journal).as_ref()))
    }

    /// What an update should come to; none: nobody has said since this agent began.
    fn want(&self, journal: &Journal) -> Option<Want> {
        if journal.is_local() {
            return update::local_want(journal);
        }
        self.state.directives.get(&journal.update).map(|directive| directive.want.clone())
    }

    /// Writes an update's journal; only then is it what the agent goes by.
    pub(super) async fn write(&mut self, journal: Journal) -> Result<(), Stuck> {
        self.storage.save_update(journal.update, &journal).await?;
        let open = self.state.updates.entry(journal.update).or_insert_with(|| Open::of(journal.clone()));
        open.journal = journal;
        open.saved = Saved::Yes;
        Ok(())
    }

    /// A copy of an update's journal.
    pub(super) fn journal(&self, id: UpdateId) -> Option<Journal> {
        self.state.updates.get(&id).map(|open| open.journal.clone())
    }

    /// What should run, and the update that changes to it now.
    pub(super) fn target(&self) -> (Software, Option<UpdateId>) {
        for open in self.state.updates.values() {
            let journal = &open.journal;
            match journal.runs() {
                Some(Runs::After) => return (journal.after(), Some(journal.update)),
                Some(Runs::Before) => return (Software::Generation(journal.before), Some(journal.update)),
                Some(Runs::UntilRestart) => return (journal.after(), None),
                None => {}
            }
        }
        (Software::Generation(self.state.current.number()), None)
    }

    /// What runs until the node is restarted.
    pub(super) fn until_restart(&self) -> Option<&Ephemeral> {
        self.state.updates.values().find_map(|open| match &open.journal.stage {
            Stage::Running { software } | Stage::Persisting { software, .. } => Some(software),
            _ => None,
        })
    }

    /// What the last change of the node's own making is called; one that is done and not yet noted counts.
    fn apart(&self) -> Option<String> {
        let done = |open: &&Open| open.journal.is_local() && matches!(open.journal.stage, Stage::Settled { .. });
        let just_done = self.state.updates.values().find(done).map(|open| open.journal.name.clone());
        just_done.or_else(|| self.state.apart.clone())
    }

    /// Tells the handle where the node stands.
    pub(super) fn publish(&self) {
        let mut updates = BTreeMap::new();
        for open in self.state.updates.values() {
            let journal = &open.journal;
            if journal.has_ended() || journal.is_local() {
                continue;
            }
            let ready = matches!(journal.stage, Stage::Ready { .. });
            let (revision, round, reports) = (journal.revision, journal.round, journal.reports());
            updates.insert(journal.update, UpdateStanding { revision, round, reports, ready });
        }
        let current = self.state.current.generation.clone();
        let (kept, ephemeral) = (self.state.kept.clone(), self.until_restart().cloned());
        let standing = Standing { current, ephemeral, kept, apart: self.apart(), updates, problems: self.problems() };
        self.inputs.publish.send_if_modified(|known| {
            let changed = *known != standing;
            *known = standing;
            changed
        });
    }

    /// When something is due without anything happening. What became due since it last looked is due at once; what was due before, and could
    /// not be done, for instance since the disk is full, is tried again in a while.
    fn next_wake(&self) -> Option<Instant> {
        let looked_at = self.state.looked_at;
        let mut moments: Vec<Moment> = Vec::new();
        for open in self.state.updates.values().filter(|open| !open.journal.has_ended()) {
            moments.extend(open.journal.polls.iter().filter_map(Poll::next_wake));
            moments.extend(self.changeover_wake(open));
        }
        if self.state.updates.keys().any(|id| self.looks(*id)) {
            moments.extend(self.state.register.next_wake());
        }
        moments.extend(self.state.watch.wakes());
        moments.extend(self.state.handing_over.values().map(|handing| handing.until));
        moments.extend(self.state.held.values().map(|(until, _)| *until));
        moments.extend(self.state.again.as_ref().map(|(moment, _)| *moment));
        moments.extend(self.wait_limits());
        let next = moments.into_iter().filter(|moment| *moment > looked_at).min();
        next.map(|moment| self.clock.instant(moment))
    }
}

/// Returns at this moment; never without one.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
