//! How Tribune's nodes find, trust and talk to each other, and move bytes.
//!
//! Some rooms, each of which knows only those above it:
//!
//! - [`identity`]: one ed25519 key is who a node or a person is;
//! - [`network`]: a libp2p swarm that lets in only whom its [`AllowList`] names, and gives out [`Channel`]s: streams
//!   of bounded, typed messages. A node runs two, "control" and "data", so that bulk never delays a vote;
//! - [`rpc`]: calls with answers over such channels;
//! - [`blocking`]: where work on files is done;
//! - [`blobs`] and [`transfer`]: files known by the BLAKE3 of their bytes, and how a node gets them from others.
//!
//! This crate knows nothing of Raft, updates or processes. Everything a peer sends is bounded (length, count,
//! time) before it is trusted.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod blobs;
pub mod blocking;
pub mod channel;
pub mod identity;
pub mod network;
pub mod rpc;
pub mod transfer;

pub use blake3::{Hash, Hasher};
pub use channel::{Channel, ChannelError, Limits};
pub use identity::Identity;
pub use libp2p::{Multiaddr, PeerId};
pub use network::{AllowList, Network, NetworkConfig, OpenError, Standing, Who};
