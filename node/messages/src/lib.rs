//! What nodes, master and users say to each other, as plain data.
//!
//! One idea: both sides of a conversation are written down in one place, so that neither can drift from the other. The
//! messages go over the streams of the network as MessagePack with named fields; here is nothing that sends or receives.
//!
//! - [`node`]: the master states what each node should have, a node reports what it has;
//! - [`trust`]: how a node finds out whom to believe;
//! - [`store`]: the master and the voters about blobs;
//! - [`join`]: how a node comes into the cluster;
//! - [`api`]: what a user asks of any peer;
//! - [`registration`]: a process that the node did not start, and how it is asked.

pub mod api;
pub mod join;
pub mod node;
pub mod registration;
pub mod store;
pub mod trust;

/// Raft's own messages, between voters and standbys. Control network, members only.
pub const RAFT_PROTOCOL: &str = "/tribune/raft/1";
/// A snapshot of the record, from the master to a standby or voter. Data network, members only.
pub const SNAPSHOT_PROTOCOL: &str = "/tribune/snapshot/1";
/// A node's session with the master ([`node`]). Control network, members only.
pub const SESSION_PROTOCOL: &str = "/tribune/session/1";
/// Questions of one node to another ([`trust`], [`store`]). Control network, members only.
pub const PEER_PROTOCOL: &str = "/tribune/peer/1";
/// A node that wants to join ([`join`]). Control network, anyone.
pub const JOIN_PROTOCOL: &str = "/tribune/join/1";
/// A recovery of the cluster is shown ([`trust`]). Control network, anyone: what counts is who signed it, and not who shows it.
pub const RECOVERY_PROTOCOL: &str = "/tribune/recovery/1";
/// Users and their programs ([`api`]). Control network, members and principals; the same messages go over a node's own socket.
pub const ADMIN_PROTOCOL: &str = "/tribune/admin/1";
/// A user's request that one peer hands on to another ([`api`]). Control network, members only.
pub const FORWARD_PROTOCOL: &str = "/tribune/forward/1";
