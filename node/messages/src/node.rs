//! The session of a node with the master: one long-lived stream, opened by the node.
//!
//! One idea: both sides state, neither commands. The master says what should be, with all that is needed for it, and says
//! it again whenever it changed or the session is new; the node says what is, in the same way. So a message that is lost or
//! comes twice does no harm.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tribune_raft_store::model::{
    Ephemeral, Facts, Generation, NodeName, NodePlan, NodeReport, Outcome, ProcessRef, Span, UpdateId, UpdateKind,
};

use crate::trust::ClusterView;

/// How long a node's readiness counts after it was last said ([`FromNode::Alive`]).
pub const READY_LEASE: Span = Span::from_secs(30);
/// How often a node says that it is alive.
pub const ALIVE_EVERY: Span = Span::from_secs(3);
/// The longest message of a session, in bytes.
pub const MAX_SESSION_FRAME: u32 = 16 << 20;

/// What orders directives: a node acts on none that is lower than one it has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// The recovery epoch of the cluster.
    pub epoch: u64,
    /// The Raft term of the master that speaks.
    pub term: u64,
    /// Counts what that master said.
    pub sequence: u64,
}

/// What a node says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromNode {
    /// First: who it is and what it has. Again whenever one of these changed.
    State(Box<NodeState>),
    /// What it says of its part in an update. Answered by [`FromMaster::Taken`] once it is in the record.
    Report(ReportSent),
    /// It is there, and still ready for these updates.
    Alive {
        /// The updates for which its processes wait at their safe points.
        ready: BTreeSet<UpdateId>,
    },
}

/// What a node is and has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// What it found out about itself.
    pub facts: Facts,
    /// What is installed.
    pub current: Generation,
    /// What runs in its place, until the node is restarted.
    #[serde(default)]
    pub ephemeral: Option<Ephemeral>,
    /// The other generations it keeps, by number.
    pub kept: BTreeMap<u64, Generation>,
    /// What it calls its last change that was of its own making, without the cluster.
    #[serde(default)]
    pub apart: Option<String>,
    /// The updates it knows of whose end it has not heard of.
    pub open: BTreeSet<UpdateId>,
    /// The Raft id under which it cannot take part in Raft any more, as its store is damaged.
    #[serde(default)]
    pub broken: Option<u64>,
}

/// A report on its way to the master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportSent {
    /// Chosen by the node, for the answer; counts within the session.
    pub number: u64,
    /// Which update.
    pub update: UpdateId,
    /// Which plan it is about.
    pub revision: u32,
    /// Which round of asking it is about.
    pub round: u32,
    /// What it says.
    pub report: NodeReport,
}

/// What the master says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromMaster {
    /// Everything the node should know and have.
    Orders(Box<Orders>),
    /// A report is in the record, or about something that is over; it need not be sent again.
    Taken {
        /// The report's number.
        number: u64,
    },
    /// The speaker is not the master any more.
    Over,
}

/// Everything a node should know and have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// Orders these against all others.
    pub fence: Fence,
    /// The node's name, as the record has it.
    pub name: NodeName,
    /// Who is in the cluster.
    pub view: ClusterView,
    /// One for each update that is open for this node, or that it does not know the end of.
    pub directives: Vec<Directive>,
}

/// What a node should have come to in one update. It states only what is committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directive {
    /// Which update.
    pub update: UpdateId,
    /// Which plan.
    pub revision: u32,
    /// Which round of asking.
    pub round: u32,
    /// Whether it installs or goes back.
    pub kind: UpdateKind,
    /// What the node should come to.
    pub want: Want,
    /// What changes on this node.
    pub plan: NodePlan,
    /// The canonical manifests of the packages it changes to, verbatim.
    pub manifests: Vec<String>,
    /// How long processes may defer, all in all.
    pub max_defer: Span,
    /// How long the node keeps what it is given.
    #[serde(default)]
    pub keep: Keep,
    /// The vetoes on this node that a user went past.
    pub overruled: Vec<Overruling>,
}

/// How long a node keeps what an update gives it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// It is installed: a node restart starts it.
    #[default]
    Installed,
    /// It runs until the node is restarted, outside local storage, or until it is persisted.
    UntilRestart,
}

/// What a node should come to in one update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "want")]
pub enum Want {
    /// The affected processes are asked, and have answered.
    Voted,
    /// As it is: nothing new is begun. Processes that wait at their safe points go on; a veto is still heard.
    Hold,
    /// Everything is in local storage.
    Staged,
    /// The processes are at their safe points, and wait there.
    Ready,
    /// The new modules run, and have held for the settle time.
    Settled,
    /// What runs until a restart is installed.
    Persisted,
    /// The old modules run again.
    Regressed {
        /// Why; the processes are told.
        why: String,
    },
    /// The update is over: processes hear its outcome, what it left is cleared away.
    Ended {
        /// How it ended.
        outcome: Outcome,
        /// Why, where that needs saying.
        reason: Option<String>,
    },
}

/// A veto that a user went past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overruling {
    /// Whose.
    pub process: ProcessRef,
    /// The user.
    pub by: String,
    /// Why, in the user's words.
    pub why: String,
}
