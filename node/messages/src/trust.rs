//! Whom a node believes.
//!
//! One idea: a node believes a master only after a majority of the voters that it knows has named it, and learns of new
//! voters only from a master that it believes. So no single peer can direct it, or keep the master from it. When a majority is gone for
//! good, an admin's signature counts in its place: a [`SignedRecovery`].

use serde::{Deserialize, Serialize};
use tribune_raft_store::model::{ClusterId, NodeName, PeerId, PublicKey, RaftRole, Role, SignedRecovery};

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
    /// The recovery with which the epoch began; none: the cluster was never recovered.
    #[serde(default)]
    pub recovery: Option<SignedRecovery>,
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
    /// What it may order with its own key.
    #[serde(default = "viewer")]
    pub local_commands: Role,
}

fn viewer() -> Role {
    Role::Viewer
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

/// What who shows a recovery hears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecoveryAnswer {
    /// It is believed from now on, and on disk.
    Taken,
    /// It was known, or a later one is.
    Known,
    /// It is not believed.
    Refused {
        /// Why, as a sentence.
        why: String,
    },
}
