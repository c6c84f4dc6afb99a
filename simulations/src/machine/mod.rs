//! A simulated machine: what a node runs on.
//!
//! One idea: it outlives the agent. Its keeper, its processes, its disk are here; the agent's tasks come and go with their turmoil host, and
//! so do the tasks that bring the processes' scripts on, which are taken up again where they were.

pub mod disk;
mod keeper;
mod process;
pub mod script;
mod stores;
mod system;
pub mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tribune_agent::processes::ProcessId;
use tribune_agent::processes::system::Caller;
use tribune_keeper::restart::Ending;
use tribune_keeper::{ChildId, ChildSpec, Event, Exit, Hello, KeeperStart};
use tribune_node::node::Kept;
use tribune_node::world::{Carrier, RaftThreads, UsersHere, World};
use tribune_process::protocol::{NodeMessage, Outcome};
use tribune_raft_store::engine::model::ModelDisk;
use tribune_raft_store::examine::Logged;

use script::Script;

pub use keeper::Children;

/// A process that said hello less long ago has just begun to speak.
const JUST_NOW: Duration = Duration::from_millis(300);

/// Virtual time since the simulation began.
pub fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// What a child does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    Running { process: ProcessId, since: Duration },
    Stopping { process: ProcessId, kill_at: Duration, again: bool },
    Waiting { at: Duration, last: Exit },
    Stopped { last: Option<Exit> },
    Broken { exits: u32, last: Exit },
}

/// A child of the simulated keeper.
#[derive(Debug)]
pub struct Kid {
    pub spec: ChildSpec,
    pub phase: Phase,
    pub endings: Vec<Ending>,
    pub count: u32,
    pub script: Script,
    /// Its process is killed, and ends when its task is told.
    pub killed: bool,
    /// Tells the task that brings its script on that the phase changed.
    pub changed: watch::Sender<u64>,
}

/// A process that was started, ever.
#[derive(Debug, Clone)]
pub struct Started {
    pub at: Duration,
    pub child: ChildId,
    pub label: String,
    /// The BLAKE3 of the file that was run.
    pub bytes: Option<blake3::Hash>,
}

/// What one process was told and said of one update.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// When it was first asked.
    pub proposed: Option<Duration>,
    /// Whether it had just said hello then: before, it was taken not to speak.
    pub had_just_spoken: bool,
    pub outcomes: Vec<Outcome>,
    pub aborted: bool,
    /// Its last answer to a proposal: true is accept, with the revision.
    pub accepted: Option<u64>,
    pub vetoed: Option<u64>,
    pub overruled: bool,
    /// When it vetoed, if it has not accepted since.
    pub vetoed_at: Option<Duration>,
    /// When it was told to hand over after that.
    pub handed_over_at: Option<Duration>,
}

/// All of a machine that is not on its disk.
pub struct Inner {
    pub kids: BTreeMap<ChildId, Kid>,
    /// Ended processes can tell by this that they have.
    pub alive: BTreeMap<u32, ProcessId>,
    pub started: Vec<Started>,
    /// What each process heard, by process and update.
    pub told: BTreeMap<(ProcessId, String), Told>,
    /// When each process last said hello.
    pub hellos: BTreeMap<ProcessId, Duration>,
    pub events: Option<mpsc::Sender<Event>>,
    pub desk: Option<mpsc::Sender<Caller>>,
    pub exits: watch::Sender<u64>,
    pub run: u64,
    pub booted: Duration,
    pub agent_starts: u64,
    /// How many disks it has had: what a node said is gone with its disk.
    pub disk_number: u64,
    /// Blobs in which a bit was turned, and when.
    pub damaged: BTreeMap<PathBuf, Duration>,
    next_pid: u32,
    disks: BTreeMap<String, ModelDisk>,
    next_disk: u64,
}

/// See the module. Clones are the same machine.
#[derive(Clone)]
pub struct Machine {
    pub name: String,
    pub folder: PathBuf,
    inner: Arc<Mutex<Inner>>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Machine({})", self.name)
    }
}

impl Machine {
    pub fn new(name: &str, folder: &Path) -> Self {
        let inner = Inner {
            kids: BTreeMap::new(),
            alive: BTreeMap::new(),
            started: Vec::new(),
            told: BTreeMap::new(),
            hellos: BTreeMap::new(),
            events: None,
            desk: None,
            exits: watch::Sender::new(0),
            run: 1,
            booted: Duration::ZERO,
            agent_starts: 0,
            disk_number: 1,
            damaged: BTreeMap::new(),
            next_pid: 100,
            disks: BTreeMap::new(),
            next_disk: 0,
        };
        Self { name: name.to_owned(), folder: folder.to_owned(), inner: Arc::new(Mutex::new(inner)) }
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world that its node runs in.
    pub fn world(&self) -> World {
        World {
            carrier: Carrier::Wire(Arc::new(wire::TurmoilWire)),
            stores: Arc::new(stores::ModelStores(self.clone())),
            threads: RaftThreads::Shared,
            system: Arc::new(self.clone()),
            users: UsersHere::Nobody,
        }
    }

    /// What a new agent gets of its keeper. Processes that run go on. To be called on the machine's host.
    pub fn keep(&self) -> Kept {
        let (events, happened) = mpsc::channel(1024);
        let kids: Vec<ChildId> = {
            let mut inner = self.lock();
            inner.events = Some(events);
            inner.desk = None;
            inner.agent_starts += 1;
            inner.kids.keys().cloned().collect()
        };
        for id in kids {
            tokio::spawn(process::live(self.clone(), id));
        }
        let inner = self.lock();
        let hello = Hello {
            protocol: tribune_keeper::PROTOCOL,
            software: "simulated".into(),
            keeper_pid: 1,
            run: format!("{}-{}", self.name, inner.run),
            began: if inner.agent_starts == 1 { KeeperStart::NodeRestart } else { KeeperStart::TookOver },
            agent_starts: inner.agent_starts,
        };
        Kept { children: Arc::new(Children(self.clone())), hello, events: happened }
    }

    /// Everything on it dies, and what was not fsynced is gone: its power was cut. It is off until its host is started again.
    pub fn cut_power(&self) {
        self.all_ends();
        self.lock().disks.values().for_each(ModelDisk::restart);
        if let Err(error) = disk::cut(&self.folder) {
            panic!("{}: the disk of a simulated machine cannot be put back: {error}", self.name);
        }
    }

    /// Everything on it dies, and its disk with it. It is off until its host is started again, with an empty disk.
    pub fn lose_disk(&self) {
        self.all_ends();
        let mut inner = self.lock();
        inner.disks.clear();
        inner.damaged.clear();
        inner.disk_number += 1;
        drop(inner);
        if let Err(error) = disk::lose(&self.folder) {
            panic!("{}: the disk of a simulated machine cannot be emptied: {error}", self.name);
        }
    }

    fn all_ends(&self) {
        let mut inner = self.lock();
        inner.kids.clear();
        inner.alive.clear();
        inner.events = None;
        inner.desk = None;
        inner.run += 1;
        inner.booted = now();
        inner.exits.send_modify(|count| *count += 1);
    }

    /// All processes that run are killed, as by `kill -9`. False if none runs.
    pub fn kill_processes(&self) -> bool {
        let mut any = false;
        for kid in self.lock().kids.values_mut().filter(|kid| matches!(kid.phase, Phase::Running { .. })) {
            any = true;
            kid.killed = true;
            kid.changed.send_modify(|count| *count += 1);
        }
        any
    }

    /// Whatever Raft writes takes so long from now on.
    pub fn slow_down(&self, takes: Duration) {
        self.lock().disks.values().for_each(|disk| disk.slow_down(takes));
    }

    /// Nothing more can be written from now on.
    pub fn fill(&self) {
        self.lock().disks.values().for_each(ModelDisk::fill);
        disk::fill(&self.folder);
    }

    /// There is room again.
    pub fn make_room(&self) {
        self.lock().disks.values().for_each(|disk| disk.plan(None));
        disk::make_room(&self.folder);
    }

    /// The log that its node has now.
    ///
    /// # Errors
    /// It cannot be understood.
    pub fn log(&self) -> Result<Vec<Logged>, String> {
        let disk = fs::read_to_string(self.folder.join("raft/db/mark")).ok();
        let disk = disk.and_then(|mark| self.lock().disks.get(&mark).cloned());
        let Some(disk) = disk else { return Ok(Vec::new()) };
        tribune_raft_store::examine::log(&disk.engine()).map_err(|error| format!("the log of {}: {error}", self.name))
    }

    fn next_process(inner: &mut Inner) -> ProcessId {
        inner.next_pid += 1;
        let process = ProcessId { pid: inner.next_pid, start_time: u64::try_from(now().as_millis()).unwrap_or(u64::MAX) / 10 };
        inner.alive.insert(process.pid, process);
        process
    }

    /// Notes what a process heard.
    pub fn heard(&self, process: ProcessId, message: &NodeMessage) {
        let Some(update) = message.update() else { return };
        let mut inner = self.lock();
        let hello = inner.hellos.get(&process).copied();
        let told = inner.told.entry((process, update.to_owned())).or_default();
        match message {
            NodeMessage::Proposal(_) if told.proposed.is_none() => {
                told.proposed = Some(now());
                told.had_just_spoken = hello.is_none_or(|hello| now().saturating_sub(hello) < JUST_NOW);
            }
            NodeMessage::Outcome(outcome) => told.outcomes.push(outcome.outcome),
            NodeMessage::Aborted(_) => told.aborted = true,
            NodeMessage::Overruled(_) => told.overruled = true,
            NodeMessage::HandOver(_) => told.handed_over_at = told.vetoed_at.and(Some(now())),
            _ => {}
        }
    }
}
