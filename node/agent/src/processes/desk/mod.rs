//! The process socket of this node. Its one idea: **a connection speaks for the process the kernel says it is**, and
//! only about what that process was asked.
//!
//! One task owns who is connected and what was asked of whom; [`Desk`] is the handle to it, and [`DeskEvent`]s tell what
//! processes say. Each connection has a small task of its own that only turns bytes into messages within [`Limits`].
//! Nothing here decides about updates.
//!
//! What was asked of a process is forgotten with the task: a new agent sends what it still wants to know again, on the
//! hello that follows, and processes answer again.

mod asked;
mod connection;
mod task;
#[cfg(test)]
mod tests;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tribune_process::protocol::{HealthStatus, NodeMessage, TooLong};

use super::ballot::Said;
use super::identity::ProcessId;
use super::modules::ModulesNow;
use super::system::System;

/// Where and how the socket is served.
#[derive(Debug, Clone)]
pub struct DeskConfig {
    /// The path of the socket (`$TRIBUNE_SOCKET`), in a folder that exists.
    pub socket: PathBuf,
    /// The group, besides root and the user this node runs as, whose members may open it.
    pub group: Option<u32>,
    /// This node's name, for `welcome`.
    pub node: String,
    /// What processes may do at most.
    pub limits: Limits,
}

/// What processes may do at most.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at one time.
    pub connections: usize,
    /// Connections at one time of one process.
    pub per_process: usize,
    /// By when a connection must have said hello.
    pub hello_within: Duration,
    /// By when a line that was begun must be complete.
    pub line_within: Duration,
    /// By when a process must have taken a line that is written to it.
    pub read_within: Duration,
    /// Messages that wait for a process to read them.
    pub unread: usize,
    /// Messages a process may send at once …
    pub burst: u32,
    /// … and how many a second after that.
    pub per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            per_process: 4,
            hello_within: Duration::from_secs(10),
            line_within: Duration::from_secs(10),
            read_within: Duration::from_secs(10),
            unread: 64,
            burst: 200,
            per_second: 50,
        }
    }
}

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The socket could not be opened.
    #[error("could not open the process socket {socket}: {source}")]
    Open {
        /// Its path.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path does not fit a Unix socket's address.
    #[error("the process socket's path {socket} is too long: the system takes 107 bytes; choose a shorter data folder")]
    PathTooLong {
        /// The path.
        socket: PathBuf,
    },
}

/// Why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The process is not connected now; its next hello is the moment to send again.
    #[error("{0} is not connected")]
    NotConnected(ProcessId),
    /// It does not read what it is sent; its connection was closed.
    #[error("{0} does not read what it is sent, so its connection was closed")]
    NotReading(ProcessId),
    /// The message is longer than a line may be.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The desk no longer runs.
    #[error("the process socket is no longer served")]
    Closed,
}

/// A process that has said hello and is connected now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectedProcess {
    /// Which process.
    pub process: ProcessId,
    /// Its user.
    pub uid: u32,
    /// The module it belongs to, as `package/module`; see [`modules`](super::modules).
    pub module: Option<String>,
    /// What it calls itself.
    pub name: Option<String>,
    /// The version it says it is.
    pub version: Option<String>,
}

/// What processes say. Answers come only from a process that was asked, about what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeskEvent {
    /// A process said hello, or is known only now as a module's: send it what it has not heard.
    Hello(ConnectedProcess),
    /// A process answered a proposal.
    Ballot {
        /// Which process.
        process: ProcessId,
        /// The update it was asked about.
        update: String,
        /// The revision it was asked about last.
        revision: u64,
        /// Its answer.
        said: Said,
    },
    /// A process can hand over.
    Ready {
        /// Which process.
        process: ProcessId,
        /// The update.
        update: String,
        /// The attempt that it was told of last.
        attempt: u32,
    },
    /// A process has handed over.
    HandedOver {
        /// Which process.
        process: ProcessId,
        /// The update.
        update: String,
        /// The attempt that it was told of last.
        attempt: u32,
        /// For its successor.
        state: Option<String>,
    },
    /// A process says how it is.
    Health {
        /// Which process.
        process: ProcessId,
        /// Healthy or not.
        status: HealthStatus,
        /// In its own words.
        detail: Option<String>,
    },
    /// A process has heard the outcome.
    Seen {
        /// Which process.
        process: ProcessId,
        /// The update that ended.
        update: String,
    },
    /// A process lost its connection. It may live on, and so does what it said.
    Disconnected(ProcessId),
    /// A process has ended. Told once of each that said hello or is watched, while it is connected, asked or watched.
    Gone(ProcessId),
}

/// The handle to the process socket. When the last one is dropped the connections end. The socket's file stays, and
/// refuses connections, until the next desk puts its own in its place: to remove it could hit that one.
#[derive(Debug, Clone)]
pub struct Desk {
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
    Connected(oneshot::Sender<Vec<ConnectedProcess>>),
    Send(ProcessId, NodeMessage, oneshot::Sender<Result<(), SendError>>),
    Watch(ProcessId),
}

impl Desk {
    /// Opens the socket, in place of one that an earlier agent left, and serves it on the runtime this is called in.
    ///
    /// # Errors
    /// [`DeskError`] when the socket cannot be opened.
    pub fn open(
        system: Arc<dyn System>,
        config: DeskConfig,
        modules: ModulesNow,
    ) -> Result<(Self, mpsc::Receiver<DeskEvent>), DeskError> {
        let callers = system.callers(&config.socket, config.group)?;
        let (commands, to_task) = mpsc::channel(64);
        let (events, from_task) = mpsc::channel(256);
        tokio::spawn(task::Task::new(config, modules, system, callers).run(to_task, events));
        Ok((Self { commands }, from_task))
    }

    /// The processes that have said hello and are connected now; none when the desk no longer runs.
    pub async fn connected(&self) -> Vec<ConnectedProcess> {
        let (answer, answered) = oneshot::channel();
        if self.commands.send(Command::Connected(answer)).await.is_err() {
            return Vec::new();
        }
        answered.await.unwrap_or_default()
    }

    /// Sends a process a message, and from then on takes answers to it. A proposal that is too long for a line leaves
    /// out packages and says how many.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent then.
    pub async fn send(&self, process: ProcessId, message: NodeMessage) -> Result<(), SendError> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Send(process, message, answer)).await.map_err(|_| SendError::Closed)?;
        answered.await.unwrap_or(Err(SendError::Closed))
    }

    /// Asks for [`DeskEvent::Gone`] when this process ends, whether it is connected or not; at once if it has ended. What only
    /// stands for a process never ends.
    pub async fn watch(&self, process: ProcessId) {
        if process.is_stand_in() {
            return;
        }
        // Without a desk there is nobody to tell.
        let _ = self.commands.send(Command::Watch(process)).await;
    }
}

/// Binds under another name and renames, so that the socket appears with its permissions and replaces a left-over one.
pub(super) fn listen(socket: &Path, group: Option<u32>) -> Result<tokio::net::UnixListener, DeskError> {
    // What sun_path of unix(7) holds, less its final zero.
    const LONGEST: usize = 107;
    let mut fresh = socket.as_os_str().to_owned();
    fresh.push(".new");
    if fresh.len() > LONGEST {
        return Err(DeskError::PathTooLong { socket: socket.to_owned() });
    }
    let open = || {
        if let Err(error) = std::fs::remove_file(&fresh)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let listener = std::os::unix::net::UnixListener::bind(&fresh)?;
        if let Some(group) = group {
            std::os::unix::fs::chown(&fresh, None, Some(group))?;
        }
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode))?;
        listener.set_nonblocking(true)?;
        std::fs::rename(&fresh, socket)?;
        tokio::net::UnixListener::from_std(listener)
    };
    open().map_err(|source| DeskError::Open { socket: socket.to_owned(), source })
}
