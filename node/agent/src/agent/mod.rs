//! Everything that a node does in an update: it asks the processes that are touched, stages what they change to, changes
//! over, watches that it holds, and goes back if it does not. Its one idea: one task owns all of it. The runtime says
//! what the node should come to ([`Agent::direct`]) and reads where it stands ([`Agent::standing`]); the task compares,
//! acts, and writes a journal before each step that cannot be undone, so that it may be killed at any moment.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`journal`] | what was done in one update, as it lies on disk, and what the master hears of it |
//! | [`update`] | what comes next in an update: pure |
//! | [`supervise`] | what to do about children, in changeovers and in everyday life: pure |
//! | `task` | the task: waits for whatever happens, and then brings every update as far as it goes |
//! | `ask`, `stage`, `ready`, `changeover`, `end` | its steps |
//! | `registered` | processes that the node did not start |
//! | `start`, `talk` | how it begins; what processes say |
//! | `watch` | whether children do their work |

mod ask;
mod changeover;
mod clock;
mod end;
mod info;
pub mod journal;
mod local;
mod modules;
mod ready;
mod registered;
mod stage;
mod start;
pub mod supervise;
mod talk;
mod task;
#[cfg(test)]
mod tests;
pub mod update;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch as channel};
use tribune_keeper::{Event, Hello};
use tribune_messages::api::{LocalInfo, LogText, ProcessInfo};
use tribune_messages::node::Directive;
use tribune_messages::registration::Registration;
use tribune_p2p::blobs::BlobStore;
use tribune_raft_store::model::{Ephemeral, Generation, NodeName, NodeReport, Platform, ProcessName, Signature, UpdateId};

use crate::keeper::{Children, ChildrenError};
use crate::local::LocalError;
use crate::processes::desk::DeskError;
use crate::processes::notify::NotifyError;
use crate::processes::system::System;

/// How many requests may wait for the task.
const WAITING_REQUESTS: usize = 64;

/// What the agent has to know of its node.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The node's data folder.
    pub data: PathBuf,
    /// Its name.
    pub node: NodeName,
    /// The platform it declares.
    pub platform: Platform,
    /// The command before a module of another platform than the machine's.
    pub runners: BTreeMap<Platform, Vec<String>>,
    /// The group, beside root and the user this runs as, whose members may open the process socket.
    pub process_group: Option<u32>,
    /// Bytes of the disk that modules leave free.
    pub reserve: u64,
    /// What the machine says of processes.
    pub system: Arc<dyn System>,
}

/// Where modules come from.
pub trait ModuleSource: Send + Sync + 'static {
    /// Puts a module's bytes, verified, into `into`. What came of it is kept, so that a further try resumes.
    fn fetch<'a>(&'a self, signature: Signature, size: u64, into: &'a BlobStore) -> BoxFuture<'a, Result<(), String>>;
}

/// Why the agent cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The local storage cannot be used.
    #[error("the local storage cannot be used: {0}")]
    Local(#[from] LocalError),
    /// A file of the agent's cannot be used.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The journal of an update cannot be understood.
    #[error("the journal {path} cannot be understood: {why}; a newer version of Tribune may have written it", path = path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The process socket cannot be served.
    #[error(transparent)]
    Desk(#[from] DeskError),
    /// The notification socket cannot be served.
    #[error(transparent)]
    Notify(#[from] NotifyError),
    /// The keeper does not answer.
    #[error(transparent)]
    Children(#[from] ChildrenError),
}

/// Where a node stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// What is installed.
    pub current: Generation,
    /// What runs in its place, until the node is restarted.
    pub ephemeral: Option<Ephemeral>,
    /// What it can go back to, by number.
    pub kept: BTreeMap<u64, Generation>,
    /// What it calls its last change that was of its own making, without the cluster.
    pub apart: Option<String>,
    /// The updates whose end it has not heard of.
    pub updates: BTreeMap<UpdateId, UpdateStanding>,
    /// What keeps modules from running as they should, one sentence each.
    pub problems: Vec<String>,
}

/// Where a node stands in one update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateStanding {
    /// The plan it is about.
    pub revision: u32,
    /// The round of asking it is about.
    pub round: u32,
    /// What the master should have heard, in order. When an entry is not as it was, it and all that follow are to be said again.
    pub reports: Vec<NodeReport>,
    /// Whether processes wait at their safe points.
    pub ready: bool,
}

/// What the keeper told that is for the whole node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keeper {
    /// The node stops, and this side has so long to end.
    pub stopping: Option<Duration>,
    /// How often the settings were said to have changed.
    pub reloads: u64,
}

/// Why a node did not go back by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocalRegressError {
    /// Processes object.
    #[error("vetoed by {}", .0.join("; "))]
    Vetoed(Vec<String>),
    /// It was not begun.
    #[error("{0}")]
    Refused(String),
    /// It was begun, and the node is where it was.
    #[error("it failed: {0}")]
    Failed(String),
}

/// The handle to the agent.
#[derive(Debug, Clone)]
pub struct Agent {
    node: NodeName,
    directives: channel::Sender<Vec<Directive>>,
    lease: channel::Sender<update::Lease>,
    requests: mpsc::Sender<Request>,
    standing: channel::Receiver<Standing>,
    keeper: channel::Receiver<Keeper>,
}

/// What the handle asks of the task.
#[derive(Debug)]
pub(crate) enum Request {
    Processes(oneshot::Sender<Vec<ProcessInfo>>),
    Log(String, u32, oneshot::Sender<Result<LogText, String>>),
    Local(oneshot::Sender<LocalInfo>),
    Register(Box<Registration>, oneshot::Sender<Result<ProcessInfo, String>>),
    Unregister(ProcessName, oneshot::Sender<Result<(), String>>),
    LocalRegress(Option<u64>, Option<String>, oneshot::Sender<Result<Generation, LocalRegressError>>),
    Stop(oneshot::Sender<()>),
}

impl Agent {
    /// Begins, or goes on where the agent before this one was. `hello` and `events` are the keeper's.
    ///
    /// # Errors
    /// [`AgentError`] when what it needs of the machine is not there.
    pub async fn start(
        config: AgentConfig,
        children: Arc<dyn Children>,
        hello: Hello,
        events: mpsc::Receiver<Event>,
        modules: Arc<dyn ModuleSource>,
    ) -> Result<Self, AgentError> {
        let (directives, directed) = channel::channel(Vec::new());
        let (lease, leased) = channel::channel(update::Lease::Held);
        let (requests, requested) = mpsc::channel(WAITING_REQUESTS);
        let (publish, standing) = channel::channel(Standing::default());
        let (tell_keeper, keeper) = channel::channel(Keeper::default());
        let inputs = task::Inputs { directed, leased, requested, events, publish, tell_keeper };
        let node = config.node.clone();
        let task = start::begin(config, children, hello, modules, inputs).await?;
        // Nobody is to see a standing that was never the node's.
        task.publish();
        tokio::spawn(task.run());
        Ok(Self { node, directives, lease, requests, standing, keeper })
    }

    /// States what the node should come to. The newest list counts; the caller has checked its fence.
    pub fn direct(&self, directives: Vec<Directive>) {
        self.directives.send_replace(directives);
    }

    /// Says whether the master can count on the readiness that was reported: once it has heard nothing of this node for
    /// the length of a lease, processes that wait for a changeover go on as before.
    pub fn lease(&self, lease: update::Lease) {
        self.lease.send_if_modified(|held| std::mem::replace(held, lease) != lease);
    }

    /// Where the node stands, now and from now on. The channel closes when the agent has ended.
    #[must_use]
    pub fn standing(&self) -> channel::Receiver<Standing> {
        self.standing.clone()
    }

    /// What the keeper told that is for the whole node.
    #[must_use]
    pub fn keeper(&self) -> channel::Receiver<Keeper> {
        self.keeper.clone()
    }

    /// Returns once the agent has ended: it was stopped, or its keeper is gone.
    pub async fn ended(&self) {
        self.requests.closed().await;
    }

    /// The processes on the node.
    pub async fn processes(&self) -> Vec<ProcessInfo> {
        self.ask(Request::Processes).await.unwrap_or_default()
    }

    /// Registers a process that this node did not start, or changes how it is registered. It is on disk then.
    ///
    /// # Errors
    /// A sentence, when it was not registered.
    pub async fn register(&self, registration: Registration) -> Result<ProcessInfo, String> {
        let asked = self.ask(|answer| Request::Register(Box::new(registration), answer)).await;
        asked.unwrap_or_else(|| Err(ENDED.to_owned()))
    }

    /// Forgets a registered process.
    ///
    /// # Errors
    /// A sentence, when it was not registered, or is so still.
    pub async fn unregister(&self, name: ProcessName) -> Result<(), String> {
        self.ask(|answer| Request::Unregister(name, answer)).await.unwrap_or_else(|| Err(ENDED.to_owned()))
    }

    /// The last lines of a process's log; `process` is `package/module`.
    ///
    /// # Errors
    /// A sentence, when there is no such process or log.
    pub async fn log(&self, process: &str, lines: u32) -> Result<LogText, String> {
        let process = process.to_owned();
        self.ask(|answer| Request::Log(process, lines, answer)).await.unwrap_or_else(|| Err(ENDED.to_owned()))
    }

    /// What is in local storage, and what is open. Once the agent has ended: what it knew last.
    pub async fn local(&self) -> LocalInfo {
        if let Some(info) = self.ask(Request::Local).await {
            return info;
        }
        let Standing { current, ephemeral, kept, .. } = self.standing.borrow().clone();
        let node = self.node.clone();
        LocalInfo {
            node,
            current,
            ephemeral,
            kept,
            manifests: BTreeMap::new(),
            open: BTreeMap::new(),
            failed: vec![ENDED.to_owned()],
        }
    }

    /// Goes back to a generation that is in local storage (none: the one before), without the cluster. The touched processes
    /// are asked, unless `force` gives a reason not to.
    ///
    /// # Errors
    /// [`LocalRegressError`]; the node is as it was.
    pub async fn local_regress(&self, generation: Option<u64>, force: Option<String>) -> Result<Generation, LocalRegressError> {
        let asked = self.ask(|answer| Request::LocalRegress(generation, force, answer)).await;
        asked.unwrap_or_else(|| Err(LocalRegressError::Refused(ENDED.to_owned())))
    }

    /// Ends the agent. Children go on, and the next agent takes up what was open.
    pub async fn stop(&self) {
        let _ = self.ask(Request::Stop).await;
        self.ended().await;
    }

    /// The answer of the task; none when it has ended.
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.ok()?;
        answered.await.ok()
    }
}

const ENDED: &str = "the agent of this node has ended";
