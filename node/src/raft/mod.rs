//! Raft over the network: this node's part in keeping the record.
//!
//! One idea: openraft decides and the storage remembers, each in its own crate; here they are only put together, on threads of
//! their own, so that whatever else the node does delays no heartbeat.
//!
//! - `node`: [`RaftNode`], what the rest of the node holds;
//! - `runtime`: those threads;
//! - `members`: who is a voter, who a standby, and how far each is;
//! - `leadership`: who is master, and what a voter does when it loses it;
//! - `client`, `serve`, `wire`: Raft's messages, sent, answered, written down;
//! - `snapshots`: the record as a whole, to who lacks the log for it.

mod client;
mod error;
mod leadership;
mod members;
mod node;
mod runtime;
mod serve;
mod settings;
mod snapshots;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;

use tribune_p2p::PeerId;
use tribune_raft_store::machine::Machine;
use tribune_raft_store::raft_types::TypeConfig;

pub use error::{ChangeError, HandOverError, ProposeError, RaftError};
pub use leadership::Leadership;
pub use members::{MemberProgress, MemberRole, Progress};
pub use node::RaftNode;
pub use runtime::RaftRuntime;
pub use settings::RaftSettings;

/// Whether this node takes a peer for a voter: a master that a majority of the voters named told it so.
pub type IsVoter = Arc<dyn Fn(&PeerId) -> bool + Send + Sync>;
/// What openraft is told to work with.
type Types = TypeConfig;
/// openraft, with the record as its state.
type Engine = openraft::Raft<Types, Machine>;
