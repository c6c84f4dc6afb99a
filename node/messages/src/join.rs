//! How a node comes into the cluster: it shows a one-time token to any peer, which asks the master.

use serde::{Deserialize, Serialize};
use tribune_raft_store::command::{JoinAs, NewNode, Rejection};

use crate::trust::ClusterView;

/// The longest message, in bytes.
pub const MAX_JOIN_FRAME: u32 = 4 << 20;

/// What a node that wants to join says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The token.
    pub token: String,
    /// What it says of itself.
    pub node: NewNode,
    /// Whether it is a further node.
    #[serde(default)]
    pub place: JoinAs,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JoinResponse {
    /// It is in.
    Joined(Box<ClusterView>),
    /// It is not.
    Rejected(Rejection),
    /// It could not be tried; later, or elsewhere, it may go.
    Unavailable {
        /// Why.
        why: String,
    },
}
