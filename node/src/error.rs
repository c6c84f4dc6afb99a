//! Why a node could not be made, or does not run. Each says what happened and what to do.

use std::io;
use std::path::PathBuf;

use tribune_keeper::FolderError;
use tribune_messages::api::ApiError;
use tribune_p2p::identity::IdentityError;
use tribune_p2p::network::NetworkError;
use tribune_p2p::{Multiaddr, OpenError};
use tribune_raft_store::command::Rejection;
use tribune_raft_store::model::{ClusterId, NodeName};
use tribune_raft_store::stopped::StoppedError;

/// Why a node could not be made, or does not run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data folder has a node already.
    #[error("{} is a node already (its {} exists): use `tribune run`, or choose another data folder", folder.display(), file)]
    NodeAlready {
        /// The data folder.
        folder: PathBuf,
        /// The file that says so.
        file: &'static str,
    },
    /// The data folder has no node.
    #[error("{} is no node: make one with `tribune init` or `tribune join`", .0.display())]
    NoNode(PathBuf),
    /// The folder holds the parts of two nodes or clusters.
    #[error("{} holds parts of different nodes or clusters: {what}; put back the whole folder of one of them", folder.display())]
    Mixed {
        /// The data folder.
        folder: PathBuf,
        /// What does not fit together, as a sentence.
        what: String,
    },
    /// A setting is wrong.
    #[error("{}: {why}", file.display())]
    Setting {
        /// The file.
        file: PathBuf,
        /// What is wrong and what would be right.
        why: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The key's file.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An address is in use, or cannot be listened at.
    #[error("{source} (it is set by {setting})")]
    Listen {
        /// Where the address is set.
        setting: String,
        /// What is wrong with it.
        source: NetworkError,
    },
    /// A protocol could not be served.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The address of the peer to join by is not complete.
    #[error(
        "{address} does not say which peer is there: use an address such as /ip4/10.0.0.5/tcp/7400/p2p/12D3Koo…, which `tribune token create` prints"
    )]
    PeerAddress {
        /// What was given.
        address: Multiaddr,
    },
    /// The peer to join by cannot be reached.
    #[error("the peer to join by cannot be reached: {0}")]
    Unreachable(Box<OpenError>),
    /// The peer to join by went away, or answered something else.
    #[error("the peer to join by gave no answer: {0}; the same command may be given again")]
    NoAnswer(String),
    /// The cluster does not take the node in.
    #[error("the cluster did not take this node in: {0}")]
    Rejected(Rejection),
    /// The answer to a join is for another node.
    #[error("the cluster's answer does not name this node ({node}); its version of Tribune may differ")]
    NotInView {
        /// This node.
        node: NodeName,
    },
    /// The record is of another cluster than the folder.
    #[error("the record in {} is of cluster {record}, and the node of cluster {here}; put back the whole folder of one of them", folder.display())]
    OtherCluster {
        /// The data folder.
        folder: PathBuf,
        /// The cluster of the record.
        record: ClusterId,
        /// The cluster that the node belongs to.
        here: ClusterId,
    },
    /// What Raft had on disk is not what was written there.
    #[error("{0}")]
    DamagedRaft(String),
    /// The node runs, or its folder cannot be held.
    #[error(transparent)]
    Held(#[from] FolderError),
    /// The Raft store of a stopped node is of no use.
    #[error(transparent)]
    Stopped(#[from] StoppedError),
    /// The node has no part in Raft, and so no record that could be gone by.
    #[error(
        "node {node} is a member, and has no record of its own; as far as it knows these have one: {}",
        .known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    NotInRaft {
        /// The node.
        node: NodeName,
        /// The voters and standbys that it knows of.
        known: Vec<NodeName>,
    },
    /// A recovery cannot be made so.
    #[error("{0}")]
    Recovery(String),
    /// A part of the node could not be started.
    #[error("cannot start {part}: {why}")]
    Start {
        /// Which part.
        part: &'static str,
        /// Why.
        why: String,
    },
    /// A request was answered with an error.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// A file error with its place.
pub(crate) fn file_error<'a>(action: &'static str, path: &'a std::path::Path) -> impl Fn(io::Error) -> NodeError + 'a {
    move |source| NodeError::File { action, path: path.to_owned(), source }
}

impl From<OpenError> for NodeError {
    fn from(error: OpenError) -> Self {
        NodeError::Unreachable(Box::new(error))
    }
}
