//! The storage as Raft uses it: openraft's own suite, cuts of power at every step, kills, snapshots that break off.

mod cluster;
mod crash;
mod disk;
mod errors;
mod ledger;
mod snapshots;
mod suite;
