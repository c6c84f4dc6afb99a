//! The storage as Raft uses it: openraft's own suite, cuts of power at every step, kills, snapshots that break off.

#![allow(clippy::unwrap_used)]

mod cluster;
mod crash;
mod disk;
mod errors;
mod ledger;
mod snapshots;
mod suite;
