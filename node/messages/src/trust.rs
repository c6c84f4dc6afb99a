//! Whom a node believes.
//!
//! One idea: a node believes a master only after a majority of the voters that it knows has named it, and learns of new
//! voters only from a master that it believes. So no single peer can direct it, or keep the master from it.

use serde::{Deserialize, Serialize};
use tribune_raft_store::model::{ClusterId, NodeName, PeerId, PublicKey, RaftRole, Role};

/// Who is in the cluster: what a node needs to find the master and to know whom it lets in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its recovery epoch.
    pub epoch: u64,
    /// Its nodes, by name.
    pub nodes: Vec<ViewNode>,
    /// The keys of its users.
    pub principals: Vec<ViewPrincipal>,
    /// Identities of nodes that were removed: they are told so, and let in for nothing else.
    #[serde(default)]
    pub removed: Vec<PeerId>,
}

/// A node, as the others know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewNode {
    /// Its name.
    pub name: NodeName,
    /// Its identity on the network.
    pub peer: PeerId,
    /// Where its control network listens, as multiaddresses.
    pub control: Vec<String>,
    /// Where its data network listens, as multiaddresses.
    pub data: Vec<String>,
    /// Its part in Raft.
    pub raft: RaftRole,
}

/// A user's key, as the nodes know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewPrincipal {
    /// The key.
    pub key: PublicKey,
    /// What it may do.
    pub role: Role,
}

/// Whom a voter takes for the master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedMaster {
    /// The recovery epoch of the cluster.
    pub epoch: u64,
    /// The Raft term.
    pub term: u64,
    /// The master.
    pub peer: PeerId,
}
