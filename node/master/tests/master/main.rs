//! The master's decisions, on records that were made by entries alone.

#![allow(clippy::unwrap_used)]

// The same fleet as the record's own tests have.
#[allow(dead_code)]
#[path = "../../../../raft-store/tests/record/fleet.rs"]
mod fleet;

mod converge;
mod coordinator;
mod ephemeral;
mod membership;
mod planner;
mod queue;
mod random;
mod setup;
