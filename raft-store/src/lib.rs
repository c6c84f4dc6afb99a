//! The replicated record of a Tribune cluster: its model, the commands that change it, and its storage.
//!
//! Nothing here knows of networks, files of modules or processes. [`model`] is the cluster as plain data, [`command`]
//! what can be asked of it, [`record`] the one function that changes it.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod command;
pub mod engine;
pub mod examine;
pub mod log_store;
pub mod machine;
pub mod model;
pub mod raft_types;
pub mod record;
pub mod snapshot;
pub mod stopped;
pub mod store;
mod stored;
pub mod writer;
