//! The processes that were registered with this node, which did not start them. Its one idea: a registration is on disk
//! before it is answered, and which process it means is looked up anew before anybody is asked and before each changeover:
//! who owns it may have restarted it, and a new process is asked like any that started since.

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures::future::join_all;
use tokio::sync::oneshot;
use tribune_messages::api::ProcessInfo;
use tribune_messages::registration::{FoundBy, MAX_REGISTERED, Registration};
use tribune_process::protocol::Role;
use tribune_raft_store::model::{AskHow, ProcessName};

use super::ask::{Manners, Touchee};
use super::journal::{ReadyState, process_ref};
use super::task::{Finished, Scope, Task};
use crate::processes::ProcessId;
use crate::processes::ballot::{Event, Moment};
use crate::processes::hooks::Hook;
use crate::processes::registered::{Found, find};

/// The note of the registrations.
pub(super) const REGISTERED: &str = "registered";
/// How old, in milliseconds, what is known of registered processes may be when it matters.
const FRESH: u64 = 1_000;

/// All registered processes.
#[derive(Debug, Default)]
pub(super) struct Register {
    all: BTreeMap<ProcessName, Registered>,
    look: Look,
}

/// A registered process, as it was found last.
#[derive(Debug)]
struct Registered {
    registration: Registration,
    process: Option<ProcessId>,
    /// Why it could not be told which process it is.
    trouble: Option<String>,
}

/// How old what is known is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// It has to be looked up.
    #[default]
    ToBegin,
    /// It is being looked up.
    UnderWay,
    /// It was looked up then.
    Done(Moment),
}

/// Whether what is known of registered processes may be gone by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// They were just looked up, or there are none.
    Now,
    /// They were looked up too long ago.
    Before,
}

/// Who waits for a look.
#[derive(Debug)]
pub(super) enum Asker {
    /// The task itself.
    Task,
    /// Somebody who wants to see the processes.
    Processes(oneshot::Sender<Vec<ProcessInfo>>),
    /// Whoever registered this process.
    Registrant(ProcessName, oneshot::Sender<Result<ProcessInfo, String>>),
}

/// What a look found.
#[derive(Debug)]
pub(super) struct Looked {
    found: Vec<(ProcessName, FoundBy, Found)>,
    asker: Asker,
}

impl Register {
    /// With what was on disk.
    pub(super) fn of(registrations: Vec<Registration>) -> Self {
        let entry =
            |registration: Registration| (registration.name.clone(), Registered { registration, process: None, trouble: None });
        Self { all: registrations.into_iter().map(entry).collect(), look: Look::ToBegin }
    }

    /// Whether what is known may be gone by.
    pub(super) fn seen(&self, now: Moment) -> Seen {
        match self.look {
            _ if self.all.is_empty() => Seen::Now,
            Look::Done(at) if now < at.saturating_add(FRESH) => Seen::Now,
            Look::ToBegin | Look::UnderWay | Look::Done(_) => Seen::Before,
        }
    }

    /// It does not matter now who they are: when it does again, they are looked up anew, however short ago they were.
    pub(super) fn age(&mut self) {
        if matches!(self.look, Look::Done(_)) {
            self.look = Look::ToBegin;
        }
    }

    /// When that changes.
    pub(super) fn next_wake(&self) -> Option<Moment> {
        match self.look {
            Look::Done(at) if !self.all.is_empty() => Some(at.saturating_add(FRESH)),
            Look::ToBegin | Look::UnderWay | Look::Done(_) => None,
        }
    }

    /// Those that an update touches, as they run now; one of which it cannot be told which process it is has a stand-in.
    pub(super) fn touchees<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = Touchee> + 'a {
        let Scope { old, new, touched } = scope;
        let affected = move |one: &&Registered| {
            let Registration { depends_on, consumes, .. } = &one.registration;
            touched.affects(old, new, depends_on, consumes)
        };
        self.all.values().filter(affected).filter_map(|one| {
            let Registration { name, hook, silent, within, ready_within, .. } = &one.registration;
            let missing = one.trouble.clone().filter(|_| one.process.is_none());
            let (process, how) = match (one.process, hook, &missing) {
                (Some(process), Some(hook), _) => (process, AskHow::Hook(hook.clone())),
                (Some(process), None, _) => (process, AskHow::Socket),
                // No hook can answer for it.
                (None, _, Some(_)) => (ProcessId::stand_in(name.as_str()), AskHow::Socket),
                (None, _, None) => return None,
            };
            let manners = Manners { how, silent: *silent, within: *within, ready_within: *ready_within };
            Some(Touchee { process, name: name.to_string(), role: Role::Affected, manners, missing })
        })
    }

    /// The command that answers for one.
    pub(super) fn hook(&self, name: &str) -> Option<Hook> {
        let one = self.all.get(&ProcessName::new(name).ok()?)?;
        let command = one.registration.hook.clone()?;
        let pid = one.process.map(|process| ("TRIBUNE_PID".to_owned(), process.pid.to_string()));
        Some(Hook { command, folder: PathBuf::from("/"), environment: pid.into_iter().collect() })
    }

    /// Whether this is the process of one.
    pub(super) fn has(&self, process: ProcessId) -> bool {
        self.all.values().any(|one| one.process == Some(process))
    }

    /// A process has ended: another may have taken its place.
    pub(super) fn gone(&mut self, process: ProcessId) {
        for one in self.all.values_mut().filter(|one| one.process == Some(process)) {
            one.process = None;
            self.look = Look::ToBegin;
        }
    }

    /// What keeps them from being found, one sentence each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> + '_ {
        let trouble = |one: &Registered| {
            let why = one.trouble.as_ref()?;
            Some(format!("it cannot be told which process {} is: {why}", one.registration.name))
        };
        self.all.values().filter_map(trouble)
    }

    fn registrations(&self) -> Vec<&Registration> {
        self.all.values().map(|one| &one.registration).collect()
    }
}

impl Task {
    /// Registers a process, or changes how it is registered; answers once that is on disk.
    pub(super) async fn register(&mut self, registration: Registration, answer: oneshot::Sender<Result<ProcessInfo, String>>) {
        let name = registration.name.clone();
        if let Err(why) = self.try_register(registration).await {
            let _ = answer.send(Err(why));
            return;
        }
        tracing::info!(%name, "a process is registered");
        self.spawn_look(Some(name.clone()), Asker::Registrant(name, answer));
    }

    async fn try_register(&mut self, registration: Registration) -> Result<(), String> {
        registration.check().map_err(|error| error.to_string())?;
        let register = &self.state.register;
        let known = register.all.get(&registration.name);
        if known.is_none() && register.all.len() >= MAX_REGISTERED {
            return Err(format!("at most {MAX_REGISTERED} processes can be registered with a node"));
        }
        let others = register.registrations().into_iter().filter(|other| other.name != registration.name);
        let all: Vec<_> = others.chain([&registration]).collect();
        self.storage.save(REGISTERED, &all).await.map_err(|error| error.to_string())?;
        let same = known.filter(|known| known.registration.found_by == registration.found_by);
        let process = same.and_then(|known| known.process);
        let one = Registered { registration, process, trouble: None };
        self.state.register.all.insert(one.registration.name.clone(), one);
        self.state.register.look = Look::ToBegin;
        Ok(())
    }

    /// Forgets a registered process; answers once that is on disk.
    pub(super) async fn unregister(&mut self, name: &ProcessName) -> Result<(), String> {
        let register = &self.state.register;
        let Some(one) = register.all.get(name) else {
            let names: Vec<_> = register.all.keys().map(ToString::to_string).collect();
            let there_are = if names.is_empty() { "none is".into() } else { format!("those are: {}", names.join(", ")) };
            return Err(format!("no process {name} is registered with this node; {there_are}"));
        };
        let process = one.process;
        let others: Vec<_> = register.registrations().into_iter().filter(|other| other.name != *name).collect();
        self.storage.save(REGISTERED, &others).await.map_err(|error| error.to_string())?;
        self.state.register.all.remove(name);
        tracing::info!(%name, "a process is registered no more");
        for process in process.into_iter().chain([ProcessId::stand_in(name.as_str())]) {
            self.withdraw(process);
        }
        Ok(())
    }

    /// A process is not asked about anything any more: what it said counts as if it had ended.
    fn withdraw(&mut self, process: ProcessId) {
        let now = self.now();
        for open in self.state.updates.values_mut().filter(|open| open.journal.is_early()) {
            for poll in &mut open.note().polls {
                // An end is never refused.
                let _ = poll.handle(now, Event::Gone(process));
            }
        }
        let early = self.state.updates.values().filter(|open| open.journal.is_early());
        for name in early.map(|open| open.journal.name.clone()).collect::<Vec<_>>() {
            self.move_readying(process, &name, ReadyState::Gone);
        }
    }

    /// Looks registered processes up anew, if what is known of them may be gone by.
    pub(super) fn look(&mut self) {
        let register = &self.state.register;
        if register.seen(self.now()) == Seen::Before && register.look != Look::UnderWay {
            self.spawn_look(None, Asker::Task);
        }
    }

    /// Looks up one process, or all, beside the task: a service manager may take its time.
    pub(super) fn spawn_look(&mut self, only: Option<ProcessName>, asker: Asker) {
        let all = self.state.register.registrations().into_iter();
        let wanted = all.filter(|one| only.as_ref().is_none_or(|only| *only == one.name));
        let wanted: Vec<_> = wanted.map(|one| (one.name.clone(), one.found_by.clone())).collect();
        if matches!(asker, Asker::Task) {
            self.state.register.look = Look::UnderWay;
        }
        self.work.spawn(async move {
            let look = async |(name, found_by): (ProcessName, FoundBy)| {
                let found = find(&found_by).await;
                (name, found_by, found)
            };
            Finished::Looked(Looked { found: join_all(wanted.into_iter().map(look)).await, asker })
        });
    }

    pub(super) async fn note_looked(&mut self, looked: Looked) {
        let Looked { found, asker } = looked;
        let system = self.config.system.clone();
        for (name, found_by, found) in found {
            let one = self.state.register.all.get_mut(&name).filter(|one| one.registration.found_by == found_by);
            let Some(one) = one else { continue };
            let alive = |process: &ProcessId| system.look_up(process.pid).is_ok_and(|seen| seen.id == *process);
            let (process, trouble) = match found {
                Found::Running(process) => (Some(process), None),
                Found::Gone => (None, None),
                // Whoever it was goes on to be asked.
                Found::Unknown(why) => (one.process.filter(alive), Some(why)),
            };
            if let Some(why) = trouble.as_ref().filter(|why| one.trouble.as_ref() != Some(why)) {
                tracing::warn!(%name, why, "a registered process cannot be found");
            }
            let told = trouble.is_none();
            one.trouble = trouble;
            if std::mem::replace(&mut one.process, process) != process
                && let Some(process) = process
            {
                tracing::info!(%name, %process, "a registered process runs");
                self.desk.watch(process).await;
            }
            if told {
                self.stand_down(ProcessId::stand_in(name.as_str()), process).await;
            }
        }
        // Whoever asked may have lost interest.
        match asker {
            // A registration that came meanwhile has to be looked up too.
            Asker::Task if self.state.register.look == Look::UnderWay => self.state.register.look = Look::Done(self.now()),
            Asker::Task => {}
            Asker::Processes(answer) => drop(answer.send(self.processes().await)),
            Asker::Registrant(name, answer) => {
                let info = self.state.register.all.get(&name).map(|one| self.registered_info(one));
                drop(answer.send(info.ok_or_else(|| format!("process {name} was registered, and is no more"))));
            }
        }
    }

    /// It can be told again which process is meant: nothing stands for it any more. While that had not answered, the process is
    /// asked in its place; later, like any that started since.
    async fn stand_down(&mut self, stand_in: ProcessId, process: Option<ProcessId>) {
        let now = self.now();
        let asked = self.state.updates.values().filter(|open| open.journal.is_early() && open.journal.was_asked(stand_in));
        for id in asked.map(|open| open.journal.update).collect::<Vec<_>>() {
            let touchees = self.scope(id).map(|scope| self.touchees(&scope)).unwrap_or_default();
            let found = touchees.iter().find(|touchee| Some(touchee.process) == process).map(|touchee| self.how_to_ask(touchee));
            let Some(mut journal) = self.journal(id) else { continue };
            let found = found.filter(|ask| !journal.was_asked(ask.process));
            let mut actions = Vec::new();
            if let (Some(ask), Some(poll)) = (found, journal.polls.iter_mut().find(|poll| poll.awaits(stand_in))) {
                tracing::info!(update = %journal.name, process = %ask.process, name = ask.name, "asking, now that it was found");
                journal.asked.insert(ask.process, ask.name.clone());
                actions = poll.put_in_place(stand_in, ask, now);
            }
            for poll in &mut journal.polls {
                // An end is never refused.
                let _ = poll.handle(now, Event::Gone(stand_in));
            }
            if let Some(open) = self.state.updates.get_mut(&id).filter(|open| open.journal != journal) {
                *open.note() = journal;
                self.perform(id, actions).await;
            }
        }
    }

    /// The registered processes as users see them.
    pub(super) fn registered_infos(&self) -> impl Iterator<Item = ProcessInfo> + '_ {
        self.state.register.all.values().map(|one| self.registered_info(one))
    }

    fn registered_info(&self, one: &Registered) -> ProcessInfo {
        let Registered { registration, process, trouble } = one;
        let name = registration.name.to_string();
        let connected = process.and_then(|process| self.state.connected.get(&process));
        let missing: Vec<_> = registration.depends_on.iter().filter(|needed| !self.has_module(needed)).collect();
        let mut detail = vec![format!("registered by {}", registration.found_by)];
        detail.extend(trouble.clone());
        detail.extend(missing.into_iter().map(|needed| format!("{needed} is not installed here")));
        ProcessInfo {
            state: if process.is_some() { "running" } else { "gone" }.into(),
            process: process.map(|process| process_ref(&name, process)),
            name,
            since: None,
            version: connected.and_then(|connected| connected.version.clone()),
            endings: 0,
            said_hello: connected.is_some(),
            log: None,
            detail: Some(detail.join("; ")),
            registered: Some(registration.clone()),
        }
    }

    fn has_module(&self, needed: &tribune_raft_store::model::ModuleDependency) -> bool {
        let package = needed.package.as_ref().map_or("", |package| package.as_str());
        self.state.current.module(&format!("{package}/{}", needed.module)).is_some()
    }
}
