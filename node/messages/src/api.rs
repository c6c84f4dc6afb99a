//! What a user asks of any peer, over the network or a node's own socket.
//!
//! On a stream one request follows another; each has one answer, an [`ApiResult`]. An [`ApiRequest::Upload`] is followed by
//! the bytes of the file, as the stream's body, before its answer; the answer to an [`ApiRequest::Backup`] by those of the backup. A peer that is not the master hands on what only the
//! master can answer. Orders are signed by the user, so the peer between cannot change them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tribune_raft_store::command::{Accepted, Rejection, SignedOrder, UserCommand};
use tribune_raft_store::model::{
    Class, ClusterId, Ephemeral, Event, Generation, NeedKey, Node, NodeName, PackageId, PackageName, PeerId, Plan, Principal,
    ProcessName, ProcessRef, PublicKey, RequestId, Role, Settings, Span, Timestamp, Unmet, Update, UpdateId, UpdateRequest,
};
use tribune_raft_store::record::Waiting;

use crate::registration::Registration;

/// The longest message, in bytes.
pub const MAX_API_FRAME: u32 = 16 << 20;
/// How long a peer holds a question that waits for something new.
pub const LONGEST_WAIT: Span = Span::from_secs(20);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApiRequest {
    /// How this node and its cluster are, as far as it knows. Answered by the peer itself: [`ApiResponse::Status`].
    Status,
    /// Who this cluster and this peer are; needed to sign orders. Answered by the peer itself: [`ApiResponse::Identity`].
    Identity,
    /// A question to the record, answered by the master.
    Query(Query),
    /// What an update would do; answered by the master: [`ApiResponse::Plan`].
    Plan(Box<UpdateRequest>),
    /// A user's signed order; answered by the master: [`ApiResponse::Accepted`].
    Order(Box<SignedOrder>),
    /// An unsigned order, over the node's own socket only: the node signs it.
    LocalOrder {
        /// What makes a repeat known.
        request: RequestId,
        /// What is ordered.
        command: Box<UserCommand>,
    },
    /// A package or image file of so many bytes follows; its blobs are put into the package store of a majority of the voters. Answered by
    /// [`ApiResponse::Uploaded`]. It is published by an order after that.
    Upload {
        /// The size of the file, in bytes.
        size: u64,
    },
    /// Everything that the cluster can be made again from: [`ApiResponse::Backup`]. Needs the admin role.
    Backup,
    /// The processes on a node: [`ApiResponse::Processes`]. Handed on to that node.
    Processes {
        /// Which; none: the peer itself.
        node: Option<NodeName>,
    },
    /// The end of a process's log: [`ApiResponse::Log`]. Handed on to that node.
    Log {
        /// Which node; none: the peer itself.
        node: Option<NodeName>,
        /// `package/module` of the process.
        process: String,
        /// How many lines at most.
        lines: u32,
    },
    /// What is in this node's local storage: [`ApiResponse::Local`]. Over the node's own socket only.
    LocalShow,
    /// Read everything on this node's disk that it goes by, and change nothing: [`ApiResponse::Fsck`]. Over the node's own socket only.
    Fsck,
    /// Register a process that this node did not start, or change how it is registered: [`ApiResponse::Registered`], once that is on
    /// disk. Over the node's own socket only.
    Register(Box<Registration>),
    /// Forget a registered process: [`ApiResponse::Unregistered`]. Over the node's own socket only.
    Unregister {
        /// Its name.
        name: ProcessName,
    },
    /// Go back to the generation before, without asking anyone: [`ApiResponse::Regressed`]. Over the node's own socket only.
    LocalRegress {
        /// To which generation; none: the one before the current one.
        generation: Option<u64>,
        /// Go past the vetoes of processes, for this reason.
        force: Option<String>,
    },
}

/// A question to the record. A question with `after` is answered when the record has something newer, or with what there is after
/// [`LONGEST_WAIT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Query {
    /// All nodes: [`ApiResponse::Nodes`].
    Nodes,
    /// All classes: [`ApiResponse::Classes`].
    Classes,
    /// What holds for the whole cluster: [`ApiResponse::Settings`].
    Settings,
    /// Who may do what: [`ApiResponse::Principals`].
    Principals,
    /// The needs that are not met: [`ApiResponse::Unmet`].
    Unmet,
    /// All packages, or those of a name: [`ApiResponse::Packages`].
    Packages {
        /// Of this name.
        name: Option<PackageName>,
    },
    /// The updates, newest first: [`ApiResponse::Updates`].
    Updates {
        /// How many at most.
        limit: u32,
    },
    /// One update: [`ApiResponse::Update`].
    Update {
        /// Which.
        update: UpdateId,
        /// Only when the record is newer than this log index, and the update differs.
        after: Option<u64>,
    },
    /// Events: [`ApiResponse::Events`].
    Events {
        /// Those with a greater number; none: the last ones.
        after: Option<u64>,
        /// How many at most.
        limit: u32,
        /// Whether to wait for one.
        wait: Wait,
    },
}

/// Whether a question waits until there is an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wait {
    /// It is answered at once.
    No,
    /// It waits, [`LONGEST_WAIT`] at most.
    ForSomething,
}

/// An answer, or why there is none.
pub type ApiResult = Result<ApiResponse, ApiError>;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApiResponse {
    /// How the node and its cluster are.
    Status(Box<Status>),
    /// Who the cluster and the peer are.
    Identity(Identity),
    /// The nodes.
    Nodes(Vec<NodeInfo>),
    /// The classes, each with its nodes.
    Classes(Vec<ClassInfo>),
    /// What holds for the whole cluster.
    Settings(Settings),
    /// Who may do what, by name.
    Principals(Vec<(PublicKey, Principal)>),
    /// The needs that are not met.
    Unmet(Vec<Unmet>),
    /// The packages, by name and version.
    Packages(Vec<PackageInfo>),
    /// The updates.
    Updates(Vec<UpdateSummary>),
    /// An update.
    Update(Box<UpdateInfo>),
    /// Events, oldest first.
    Events(Vec<Event>),
    /// What an update would do.
    Plan(Box<Plan>),
    /// An order was carried out.
    Accepted(Accepted),
    /// A file's blobs are in the package store.
    Uploaded {
        /// The packages in it.
        packages: BTreeSet<PackageId>,
        /// On how many voters its blobs are.
        copies: u32,
    },
    /// A backup of so many bytes follows, as the stream's body.
    Backup {
        /// Its size, in bytes.
        size: u64,
    },
    /// The processes.
    Processes(Vec<ProcessInfo>),
    /// The end of a log.
    Log(LogText),
    /// What is in local storage.
    Local(Box<LocalInfo>),
    /// What is on the node's disk is as it was written, or what is not.
    Fsck(Box<Fsck>),
    /// A process is registered, and this is what the node knows of it now.
    Registered(Box<ProcessInfo>),
    /// A process is registered no more.
    Unregistered,
    /// A node went back by itself.
    Regressed {
        /// To this generation.
        current: Generation,
    },
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum ApiError {
    /// There is no master.
    #[error("the cluster has no master{}", .since.map(|since| format!(" for {since}")).unwrap_or_default())]
    NoMaster {
        /// For how long.
        since: Option<Span>,
    },
    /// The node that was asked is in the cluster no more.
    #[error("this node was removed from the cluster; what runs here goes on")]
    Removed,
    /// It did not come in time. An order may have been carried out; it can be sent again with the same request id.
    #[error("no answer in time: {what}")]
    Timeout {
        /// What was waited for.
        what: String,
    },
    /// The record does not allow it.
    #[error("{0}")]
    Rejected(Box<Rejection>),
    /// There is no such thing.
    #[error("{what}")]
    NotFound {
        /// What was asked for and what there is, as a sentence.
        what: String,
    },
    /// The package that is to be published was not uploaded to this master, or too long ago.
    #[error("package {package} was not uploaded to this master, or longer than an hour ago: upload it first, then publish it")]
    NotUploaded {
        /// Which.
        package: PackageId,
    },
    /// It is not for who asked.
    #[error("{what}")]
    Forbidden {
        /// What was asked for and what would be needed, as a sentence.
        what: String,
    },
    /// What was sent is wrong.
    #[error("{what}")]
    Bad {
        /// What is wrong and what would be right, as a sentence.
        what: String,
    },
    /// A process vetoed a local regress.
    #[error("vetoed: {}", .vetoes.join("; "))]
    Vetoed {
        /// Each veto, as a sentence.
        vetoes: Vec<String>,
    },
    /// It was tried, and failed.
    #[error("{what}")]
    Failed {
        /// What failed, as a sentence.
        what: String,
    },
}

/// Who a cluster and a peer are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The peer's node name.
    pub node: NodeName,
    /// The peer's identity.
    pub peer: PeerId,
    /// What the asker may do; none: it is not known.
    pub role: Option<Role>,
}

/// How a node and its cluster are, as far as the node knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node that answers.
    pub node: NodeName,
    /// The version of Tribune it runs.
    pub version: String,
    /// The master, if it knows one.
    pub master: Option<NodeName>,
    /// For how long it has known of none.
    pub no_master_for: Option<Span>,
    /// Its part in Raft: `voter`, `standby` or `member`.
    pub role: String,
    /// How many nodes the cluster has, as it knows.
    pub nodes: u32,
    /// Its voters' names.
    pub voters: Vec<NodeName>,
    /// How old what it says of the cluster is: since it last heard from the master.
    pub age: Span,
    /// The generation of this node.
    pub generation: u64,
    /// The updates that are open on this node.
    pub open_updates: Vec<UpdateId>,
    /// What keeps this node from its work, one sentence each.
    pub problems: Vec<String>,
}

/// A node of the record, and whether it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// What the record has of it.
    pub node: Node,
    /// Whether it has a session with the master.
    pub connected: bool,
    /// Whether it is the master.
    pub master: bool,
    /// What it has, by package: name and version.
    pub packages: BTreeMap<PackageName, String>,
    /// What runs there, by package: name and version. It is what it has, unless an ephemeral update runs.
    pub runs: BTreeMap<PackageName, String>,
    /// What it should have, by package: name and version.
    pub should: BTreeMap<PackageName, String>,
    /// Why it is not what it should be and does not become it now, one sentence each.
    pub drift: Vec<String>,
}

/// A class, with its nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassInfo {
    /// What the record has of it.
    pub class: Class,
    /// Its nodes.
    pub nodes: Vec<NodeName>,
    /// What its nodes should have, by package: name and version.
    pub should: BTreeMap<PackageName, String>,
}

/// A package in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageInfo {
    /// Its id.
    pub id: PackageId,
    /// The canonical manifest, verbatim.
    pub manifest: String,
    /// Who published it: the name of the principal or node.
    pub published_by: String,
    /// When.
    pub published: Timestamp,
    /// On how many voters its modules were on disk when it was acknowledged.
    pub copies: u32,
}

/// An update in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateSummary {
    /// The update, without its plan, nodes, decisions and discrepancies.
    pub update: Update,
    /// How many nodes it has.
    pub nodes: u32,
    /// What it changes to, as `name version`; for a regress, what it goes back from.
    pub packages: Vec<String>,
}

/// An update, and what it is waiting for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateInfo {
    /// What the record has of it.
    pub update: Update,
    /// What it waits for; none: it has ended.
    pub waiting: Option<Waiting>,
    /// The nodes it waits for that are not connected to the master, and for how long.
    pub away: BTreeMap<NodeName, Span>,
    /// How long a node may be away before that counts as a failure, or before its changeover as a veto.
    pub away_after: Span,
    /// Those of its discrepancies that are there no more.
    pub repaired: BTreeSet<NeedKey>,
    /// Name and version of every package in its plan and targets.
    pub packages: BTreeMap<PackageId, (PackageName, String)>,
    /// The log index of the record this was read from.
    pub index: u64,
    /// The master's time.
    pub now: Timestamp,
}

/// A process on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// `package/module`, or the name a registered one gave.
    pub name: String,
    /// `running`, `starting`, `stopping`, `restarting`, `stopped` or `broken`; of a registered one `running` or `gone`.
    pub state: String,
    /// Its process, if there is one.
    pub process: Option<ProcessRef>,
    /// For how long it has run, or been in this state.
    pub since: Option<Span>,
    /// The version of its package.
    pub version: Option<String>,
    /// How often it ended since it was told to start.
    pub endings: u32,
    /// Whether it has said hello on the process socket.
    pub said_hello: bool,
    /// Its log file, on the node.
    pub log: Option<String>,
    /// More, such as how it ended.
    pub detail: Option<String>,
    /// How it is registered, if this node did not start it.
    #[serde(default)]
    pub registered: Option<Registration>,
}

/// The end of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogText {
    /// The file, on the node.
    pub file: String,
    /// Its last lines; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// What is in a node's local storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalInfo {
    /// The node.
    pub node: NodeName,
    /// What is installed.
    pub current: Generation,
    /// What runs in its place, until the node is restarted.
    #[serde(default)]
    pub ephemeral: Option<Ephemeral>,
    /// The generations it can go back to, by number.
    pub kept: BTreeMap<u64, Generation>,
    /// The canonical manifests of all packages in these, by id.
    pub manifests: BTreeMap<PackageId, String>,
    /// The updates that are open here, each with what it has come to.
    pub open: BTreeMap<UpdateId, String>,
    /// Generations that failed, with why.
    pub failed: Vec<String>,
}

/// What a look at a node's disk found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fsck {
    /// The node.
    pub node: NodeName,
    /// What was looked at.
    pub looked_at: Vec<LookedAt>,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

/// A part of what a node has on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskPart {
    /// Its settings, its key, whom it believes.
    NodeFiles,
    /// Raft's log, vote, record and snapshot.
    RaftStore,
    /// The package store.
    PackageStore,
    /// What is installed, and what it can go back to.
    LocalStorage,
}

/// How much of a part was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookedAt {
    /// Which part.
    pub part: DiskPart,
    /// How many files, rows or blobs were read.
    pub read: u64,
    /// How many bytes these had, where that was counted.
    pub bytes: u64,
}

/// Something on disk that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// In which part.
    pub part: DiskPart,
    /// Where.
    pub place: String,
    /// What is wrong, one sentence.
    pub what: String,
    /// What to do.
    pub todo: String,
}
