//! The master's decisions, as pure synchronous code.
//!
//! One idea: what should happen next is computed from the record and from who is there, without a clock, a socket or a
//! file: time comes in as an argument. Whoever is master computes the same, so a new master simply goes on.
//!
//! - [`plan()`] says what a request would change and what stands in its way; [`plan_again`] does so for an update.
//! - [`directives()`] says what a node should have come to in each of its updates.
//! - [`due()`] says what the master should now propose, [`next_wake`] when to ask again.
//! - [`should_have`] says which versions a node should have.
//! - [`discrepancies`] says which needs what is really installed does not meet.
//! - [`membership()`] says the next change to who votes.
//! - [`store_blobs`] says what every package store must hold.

mod converge;
pub mod directives;
pub mod due;
mod installed;
pub mod liveness;
pub mod membership;
mod needs;
pub mod plan;
mod should;
mod verify;

pub use converge::stays_because;
pub use directives::directives;
pub use due::{away_after, command_would_move, due, missing, next_wake, would_move};
pub use liveness::{Liveness, MasterClock};
pub use membership::{Learner, MembershipStep, RaftState, membership};
pub use plan::{plan, plan_again};
pub use should::{has_what_it_should, should_have};
pub use verify::{discrepancies, verdict};

use std::collections::BTreeMap;

use tribune_raft_store::model::Signature;
use tribune_raft_store::record::Record;

/// Everything the package store must hold: the signature and size of each module of each package.
pub fn store_blobs(record: &Record) -> BTreeMap<Signature, u64> {
    record
        .packages()
        .values()
        .flat_map(|package| &package.manifest.modules)
        .map(|module| (module.signature, module.size))
        .collect()
}
