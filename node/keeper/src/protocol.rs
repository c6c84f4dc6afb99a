//! What keeper and agent say to each other: one JSON document a message, one message a packet of a `SOCK_SEQPACKET`
//! socket, at most [`MOST_MESSAGE`] bytes. Its one idea: the agent states what it wants and may say it again; the keeper
//! answers each request once, with its id, and tells on its own what happened to a child.
//!
//! Each side names its protocol version in `hello` and accepts the one before it. An unknown request is refused and
//! harms nothing, so that a newer agent can ask an older keeper what it can do.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::process::ProcessId;
use crate::sockets::SocketAddress;
use crate::spec::{ChildId, ChildSpec, SignalName};

/// The version that this side speaks.
pub const PROTOCOL: u32 = 1;
/// The oldest version that it still understands.
pub const OLDEST_PROTOCOL: u32 = 1;
/// Longest message, in bytes.
pub const MOST_MESSAGE: usize = 128 * 1024;

/// A request with the id that its reply will carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the agent; one that is not in use.
    pub id: u64,
    /// What it wants.
    pub request: Request,
}

/// What an agent asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Must come first; answered by [`Reply::Hello`]. Events are sent from then on.
    Hello {
        /// The newest version that the agent speaks.
        protocol: u32,
        /// Its name and version, for the log.
        software: String,
    },
    /// The children after this one in order, or from the first on; answered by [`Reply::Children`].
    List {
        /// The last child of the answer before.
        after: Option<ChildId>,
    },
    /// Start this child. One that is starting or running with the same spec is left as it is; one that is stopped, broken or
    /// waiting to restart starts now, with this spec and without its history. The sockets it names are opened where they are not.
    Start(Box<ChildSpec>),
    /// Stop a child; its end is told by [`Event::Exited`]. One that does not run stays so, and waits for no restart.
    Stop {
        /// Which.
        child: ChildId,
        /// How long it may take, in milliseconds; without: as its spec says.
        within_ms: Option<u64>,
    },
    /// Stop a child if it runs, as its spec says, then start it, without its history.
    Restart {
        /// Which.
        child: ChildId,
    },
    /// Send a signal to a child's own process (not to its group).
    Signal {
        /// Which.
        child: ChildId,
        /// What.
        signal: SignalName,
    },
    /// Forget a child that does not run. Its log stays.
    Remove {
        /// Which.
        child: ChildId,
    },
    /// Open a listening socket, or find it open; answered by [`Reply::Socket`].
    OpenSocket {
        /// Where it listens.
        address: SocketAddress,
    },
    /// Close a socket that no child which runs, or will by itself, names.
    ReleaseSocket {
        /// Where it listens.
        address: SocketAddress,
    },
    /// The open sockets; answered by [`Reply::Sockets`].
    ListSockets,
    /// Stop the node cleanly, as SIGTERM to the keeper does.
    Shutdown,
}

/// What the keeper sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromKeeper {
    /// The answer to one request.
    Reply {
        /// The request's id; none when it could not be read.
        id: Option<u64>,
        /// The answer.
        reply: Reply,
    },
    /// Something happened.
    Event(Event),
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It is done, or begun where it takes time.
    Done,
    /// Who the keeper is.
    Hello(Hello),
    /// Some children, in the order of their ids.
    Children {
        /// They.
        children: Vec<ChildStatus>,
        /// Whether there are others after these.
        rest: Rest,
    },
    /// One open socket.
    Socket(OpenSocket),
    /// The open sockets.
    Sockets(Vec<OpenSocket>),
    /// It is not done.
    Refused {
        /// What kind of reason.
        why: Refusal,
        /// The reason, for a person.
        message: String,
    },
}

/// Whether a list goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rest {
    /// It was the end.
    None,
    /// Ask again with `after`.
    More,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// This keeper does not know the request.
    UnknownRequest,
    /// It knows it, but not like this.
    BadRequest,
    /// Another request came before `hello`, or `hello` named a version that is too old.
    Protocol,
    /// There is no such child.
    UnknownChild,
    /// The child runs, with another spec, or is being stopped.
    Runs,
    /// A socket could not be opened, or is in use.
    Socket,
    /// The node is stopping.
    Stopping,
    /// There would be too many of something.
    Limit,
    /// The system refused.
    System,
}

/// Who the keeper is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version that both sides speak from now on.
    pub protocol: u32,
    /// The keeper's own version.
    pub software: String,
    /// The keeper's pid.
    pub keeper_pid: u32,
    /// Names the time from one node restart to the next: an agent that remembers another one has a node restart to deal with, even
    /// if an agent before it was told and died.
    pub run: String,
    /// How this keeper began.
    pub began: KeeperStart,
    /// How many agents this keeper has started, this one included.
    pub agent_starts: u64,
}

/// How a keeper began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeeperStart {
    /// With the node: the machine was started anew, the node was stopped cleanly, or nothing of before lived.
    NodeRestart,
    /// In place of a keeper that died: something it kept still lived.
    TookOver,
}

/// An open socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSocket {
    /// The address by which it was asked for.
    pub address: SocketAddress,
    /// Where it really listens: differs where the address left the port (0) to the system.
    pub bound: SocketAddress,
}

/// One child as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildStatus {
    /// Its name.
    pub id: ChildId,
    /// The label of its spec.
    pub label: String,
    /// What it does.
    pub state: ChildState,
    /// How often it ended since it was told to start.
    pub endings: u32,
    /// Its log file.
    pub log: PathBuf,
}

/// What a child does. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChildState {
    /// Its process is made and does not yet run its program.
    Starting(ProcessId),
    /// It runs.
    Running {
        /// Its process.
        process: ProcessId,
        /// For how long.
        for_ms: u64,
    },
    /// It was asked to stop.
    Stopping {
        /// Its process.
        process: ProcessId,
        /// When what is left will be killed.
        kill_in_ms: u64,
    },
    /// It ended and will start again by itself.
    Restarting {
        /// When.
        in_ms: u64,
        /// How it ended.
        last: Exit,
    },
    /// It does not run.
    Stopped {
        /// How it ended; none when it never ran under this keeper.
        last: Option<Exit>,
    },
    /// It ended too often, and starts again only when told to.
    Broken {
        /// How often in the time that counts.
        exits: u32,
        /// How it ended at last.
        last: Exit,
    },
}

/// How a child's process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Nobody can know: it ended under a keeper that was not its parent.
    Unknown,
    /// Its program never ran, for this reason.
    NotStarted(String),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with code {code}"),
            Self::Signal(signal) => write!(f, "ended by signal {signal}"),
            Self::Unknown => f.write_str("ended, nobody knows how (its keeper had died before)"),
            Self::NotStarted(reason) => write!(f, "could not be started: {reason}"),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A child runs its program. Not told of one that ended before the keeper heard that it ran: of that, only the end is.
    Started {
        /// Which.
        child: ChildId,
        /// Its process.
        process: ProcessId,
    },
    /// A child's process ended; what was left of its group is killed.
    Exited {
        /// Which.
        child: ChildId,
        /// Its process; none when there was none.
        process: Option<ProcessId>,
        /// How.
        exit: Exit,
        /// What comes of it.
        then: AfterExit,
    },
    /// The node stops: the agent has this long to hand over what it leads and to end, then it is killed. Services go on until then.
    Stopping {
        /// In milliseconds.
        within_ms: u64,
    },
    /// The keeper got SIGHUP: the node's settings may have changed.
    Reload,
}

/// What comes of a child that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AfterExit {
    /// It stays stopped.
    Stopped,
    /// It starts again.
    Restarts {
        /// In so many milliseconds.
        in_ms: u64,
    },
    /// It ended too often, and starts again only when told to.
    Broken {
        /// How often in the time that counts.
        exits: u32,
    },
}
