//! How the agent begins. Its one idea: the keeper says whether the node was restarted. If it was, what runs is what is
//! installed, and an update that had not settled has failed; if only the agent was, everything goes on as the journals
//! say.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch as channel;
use tokio::task::JoinSet;
use tribune_keeper::Hello;
use tribune_messages::node::Keep;
use tribune_raft_store::model::{NodeReport, UpdateId};

use super::clock::Clock;
use super::journal::{JOURNAL_FORMAT, Journal, Stage};
use super::modules::{folders, machine, notify_socket, process_socket, state_folder};
use super::registered::{REGISTERED, Register};
use super::talk::group_of;
use super::task::{Finished, Heard, Inputs, Known, Modules, Open, State, Stuck, Task};
use super::watch::Watch;
use super::{AgentConfig, AgentError, ModuleSource, update};
use crate::keeper::Children;
use crate::local::{EphemeralStorage, LocalError, LocalStorage};
use crate::processes::ProcessId;
use crate::processes::ballot::Action;
use crate::processes::desk::{Desk, DeskConfig, Limits};
use crate::processes::system::System;

/// The note of the run of the node that the last agent knew.
const RUN: &str = "run";
/// The note of the processes that said hello.
pub(super) const SPOKE: &str = "spoke";
/// The note of the node's last change of its own making.
pub(super) const APART: &str = "apart";
/// The note of the generations that failed.
pub(super) const FAILED: &str = "failed";

/// How often damaged modules are asked for again, the first pause before that, and the longest: each is twice the one before.
const MEND_TRIES: u32 = 40;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Whether the node was restarted since the last agent knew of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Began {
    /// It was: nothing of before lives.
    NodeRestart,
    /// Only the agent was.
    AgentRestart,
}

/// Makes the task, with everything that the journals say taken up.
pub(super) async fn begin(
    config: AgentConfig,
    children: Arc<dyn Children>,
    hello: Hello,
    source: Arc<dyn ModuleSource>,
    inputs: Inputs,
) -> Result<Task, AgentError> {
    let folders = folders(&config.data);
    for folder in [&folders.logs, &folders.home, &state_folder(&config.data)] {
        make(folder)?;
    }
    let storage = LocalStorage::open_with_reserve(folders.local.clone(), config.reserve).await?;
    let known: Option<String> = storage.load(RUN).await?;
    let began = if known.as_deref() == Some(hello.run.as_str()) { Began::AgentRestart } else { Began::NodeRestart };
    let ephemeral = EphemeralStorage::new(folders.ephemeral.clone(), config.reserve);
    let state = read_state(&storage, config.system.as_ref(), began).await?;

    let (managed, modules_now) = channel::channel(Arc::default());
    let desk = DeskConfig {
        socket: process_socket(&config.data),
        group: config.process_group,
        node: config.node.to_string(),
        limits: Limits::default(),
    };
    let (desk, desk_events) = Desk::open(config.system.clone(), desk, modules_now.clone())?;
    let notifications = config.system.notifications(notify_socket(&config.data), modules_now)?;
    let (state, checked) = state;
    let mut task = Task {
        folders,
        machine: machine(),
        children,
        storage,
        ephemeral,
        source,
        desk,
        inputs,
        heard: Heard { desk: desk_events, notifications, checked },
        managed,
        clock: Clock::new(config.system.uptime()),
        state,
        work: JoinSet::new(),
        config,
    };
    tracing::info!(run = hello.run, ?began, generation = task.state.current.number(), "the agent begins");
    let begun = match began {
        Began::NodeRestart => task.after_node_restart(hello.run).await,
        Began::AgentRestart => Ok(()),
    };
    begun.and(task.take_up().await).map_err(|stuck| match stuck {
        Stuck::Local(error) => AgentError::Local(error),
        Stuck::Keeper(error) => AgentError::Children(error),
    })?;
    Ok(task)
}

/// Makes a folder that is the node's own.
fn make(path: &Path) -> Result<(), AgentError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| AgentError::File { action: "create the folder", path: path.to_owned(), source })
}

async fn read_state(
    storage: &LocalStorage,
    system: &dyn System,
    began: Began,
) -> Result<(State, tokio::sync::mpsc::Receiver<super::watch::Checked>), AgentError> {
    let journals: BTreeMap<UpdateId, Journal> = storage.load_updates().await?;
    if let Some(journal) = journals.values().find(|journal| journal.format > JOURNAL_FORMAT) {
        let path = storage.folder().join("updates").join(format!("{}.json", journal.update));
        return Err(AgentError::Journal { path, why: format!("it has format {}", journal.format) });
    }
    let spoke: BTreeSet<ProcessId> = match began {
        Began::NodeRestart => BTreeSet::new(),
        Began::AgentRestart => storage.load(SPOKE).await?.unwrap_or_default(),
    };
    let spoke = spoke.into_iter().map(|process| (process, group_of(system, process))).collect();
    let (watch, checked) = Watch::new();
    let state = State {
        current: storage.current().await?,
        kept: storage.kept().await?,
        updates: journals.into_iter().map(|(id, journal)| (id, Open::of(journal))).collect(),
        directives: BTreeMap::new(),
        lease: update::Lease::Held,
        kids: Vec::new(),
        kids_known: Known::Stale,
        watch,
        connected: BTreeMap::new(),
        spoke,
        register: Register::of(storage.load(REGISTERED).await?.unwrap_or_default()),
        handing_over: BTreeMap::new(),
        held: BTreeMap::new(),
        modules: Modules::Believed,
        damaged: BTreeMap::new(),
        looked_at: 0,
        again: None,
        waits: BTreeMap::new(),
        patience: BTreeSet::new(),
        software: BTreeMap::new(),
        local_answers: BTreeMap::new(),
        apart: storage.load(APART).await?,
        failed: storage.load(FAILED).await?.unwrap_or_default(),
        live_shown: None,
    };
    Ok((state, checked))
}

impl Task {
    /// Nothing of before lives: what runs from now on is what is installed.
    async fn after_node_restart(&mut self, run: String) -> Result<(), Stuck> {
        let journals: Vec<Journal> = self.state.updates.values().map(|open| open.journal.clone()).collect();
        for journal in journals {
            self.after_restart_of(journal).await?;
        }
        // What was to run until a restart is gone; what is only staged has not run yet.
        let waits = |open: &&Open| open.journal.keep == Keep::UntilRestart && open.journal.is_early();
        let waiting = self.state.updates.values().filter(waits).map(|open| open.journal.update).collect();
        self.ephemeral.keep_only(&waiting).await?;
        self.look_at_modules().await?;
        self.storage.save(SPOKE, &BTreeSet::<ProcessId>::new()).await?;
        self.storage.save(RUN, &run).await?;
        Ok(())
    }

    /// Looks whether what is installed has the bytes that it should. What has not is not started, and fetched again.
    pub(super) async fn look_at_modules(&mut self) -> Result<(), Stuck> {
        let number = self.state.current.number();
        let known = self.state.damaged.len();
        match self.storage.verify(number).await {
            Ok(()) => return Ok(()),
            Err(LocalError::Damaged { modules, .. }) => {
                for damage in &modules {
                    tracing::error!(generation = number, %damage, "a module is damaged and is not started");
                    self.state.damaged.insert(damage.module.clone(), damage.to_string());
                }
            }
            Err(error) => return Err(error.into()),
        }
        // What was damaged before is being fetched.
        if self.state.damaged.len() > known {
            self.mend(number);
        }
        Ok(())
    }

    /// What a node restart means for one update.
    async fn after_restart_of(&mut self, mut journal: Journal) -> Result<(), Stuck> {
        let restarted = || "the node was restarted before the new modules had held".to_owned();
        let installs = journal.keep == Keep::Installed;
        let settled = journal.staged.filter(|staged| installs && *staged == self.state.current.number());
        let settled = settled.is_some_and(|staged| staged != journal.before);
        match &journal.stage {
            Stage::Persisting { staged: Some(number), .. } if *number == self.state.current.number() => {
                // It had switched, and did not come to write that down.
                journal.persisted(self.state.current.generation.clone());
            }
            Stage::Running { .. } | Stage::Persisting { .. } => {
                journal.stage = Stage::Restarted { current: self.state.current.generation.clone() };
            }
            // It undid what was not to be kept anyhow.
            Stage::Changing | Stage::Started if journal.keep == Keep::UntilRestart => {
                journal.stage = Stage::Restarted { current: self.state.current.generation.clone() };
            }
            Stage::Started if settled => {
                // The same.
                journal.stage = Stage::Settled { current: self.state.current.generation.clone() };
            }
            Stage::Changing | Stage::Started => {
                let current = self.state.current.generation.clone();
                journal.stage = Stage::Regressed { current, why: Some(restarted()) };
            }
            Stage::GoingBack { why } => {
                let why = why.clone();
                self.make_current(journal.before).await?;
                journal.stage = Stage::Regressed { current: self.state.current.generation.clone(), why };
            }
            Stage::Pending { .. } | Stage::Ready { .. } => {
                journal.mark(NodeReport::Released);
                journal.stage = Stage::Staged;
            }
            Stage::Asking
            | Stage::Staging
            | Stage::Staged
            | Stage::Settled { .. }
            | Stage::Regressed { .. }
            | Stage::Restarted { .. }
            | Stage::Failed { .. }
            | Stage::Ended { .. } => return Ok(()),
        }
        tracing::warn!(update = %journal.name, now = journal.describe(), "the node was restarted in the middle of an update");
        self.write(journal).await
    }

    /// Takes up what the journals say: watches those who were asked, and asks again those who have not answered.
    async fn take_up(&mut self) -> Result<(), Stuck> {
        let now = self.now();
        for process in self.state.spoke.keys().copied().collect::<Vec<_>>() {
            self.desk.watch(process).await;
        }
        for id in self.state.updates.keys().copied().collect::<Vec<_>>() {
            let Some(open) = self.state.updates.get_mut(&id) else { continue };
            let early = open.journal.is_early();
            let mut actions: Vec<Action> = Vec::new();
            if early {
                for poll in &mut open.note().polls {
                    actions.extend(poll.resume(now));
                }
            }
            if let Stage::Pending { processes } = &mut open.journal.stage {
                // Nobody listened for a while: each has its whole time anew.
                for one in processes {
                    if let super::journal::ReadyState::Told { until } = &mut one.state {
                        *until = now.saturating_add(one.within.as_millis());
                    }
                }
            }
            let asked: Vec<_> = open.journal.asked.keys().copied().collect();
            for process in asked {
                self.desk.watch(process).await;
            }
            if let Err(error) = self.work_out(id).await {
                // The node answers all the same, and says what is wrong: it tries again.
                tracing::error!(%id, %error, "what an update changes here cannot be read");
            }
            self.perform(id, actions).await;
        }
        Ok(())
    }

    /// Fetches what is damaged again, from other nodes.
    fn mend(&mut self, number: u64) {
        let damaged: BTreeSet<String> = self.state.damaged.keys().cloned().collect();
        let modules = self.state.current.modules().filter(|module| damaged.contains(module.key));
        let wanted: Vec<_> = modules.map(|module| (module.module.signature, module.module.size)).collect();
        let (storage, source) = (self.storage.clone(), self.source.clone());
        self.work.spawn(async move {
            let mend = async || {
                for (signature, size) in &wanted {
                    source.fetch(*signature, *size, storage.blobs()).await?;
                }
                storage.mend(number).await.map_err(|error| error.to_string())
            };
            let mut pause = FIRST_PAUSE;
            let mut tries = 1;
            loop {
                match mend().await {
                    Err(why) if tries < MEND_TRIES => {
                        tracing::warn!(why, "the damaged modules are not here yet; they are asked for again")
                    }
                    result => return Finished::Mended { result },
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                tries += 1;
            }
        });
    }

    pub(super) fn note_mended(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => {
                tracing::info!("the damaged modules were fetched again");
                self.state.damaged.clear();
            }
            Err(why) => tracing::error!(why, "the damaged modules could not be fetched again"),
        }
    }
}
