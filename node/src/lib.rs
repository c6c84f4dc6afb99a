//! The node: everything that `tribune run` is, and how users' programs speak to it.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`init`], [`join`] | make a node: the first of a new cluster, or one more |
//! | [`run`], [`node`] | run it: the keeper's process, and the agent's with all parts below |
//! | [`world`] | what it reaches the world through: the machine's own, or a simulation's |
//! | [`settings`], [`data`], [`facts`], [`listen`] | its machine: settings, data folder, what it is like, its networks |
//! | [`belief`], [`trust`], `session` | whom it believes, how it finds the master, and what the two say to each other |
//! | `seat`, `disk`, [`raft`], [`master`], [`store`] | while it is a voter or standby: its part in Raft, the master that it may be, the package store |
//! | [`recovery`], [`backup`] | a cluster that lost its majority goes on from one node, or from a file |
//! | [`fsck`] | what is on its disk, read and not changed |
//! | `peers`, `api` | what it answers to other nodes and to users |
//! | [`client`] | the users' side of `api` |

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod api;
pub mod backup;
pub mod belief;
pub mod client;
mod copied;
pub mod data;
mod disk;
pub mod error;
pub mod facts;
pub mod fsck;
pub mod init;
pub mod join;
pub mod listen;
pub mod master;
mod modules;
pub mod node;
mod peers;
mod problems;
pub mod raft;
pub mod recovery;
pub mod run;
mod seat;
mod session;
pub mod settings;
pub mod store;
pub mod trust;
pub mod world;
