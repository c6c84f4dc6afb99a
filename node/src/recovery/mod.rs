//! A cluster that lost its majority for good goes on from one node.
//!
//! One idea: no voice can be counted any more, so an admin's signature counts in their place. One stopped node is made the only voter
//! ([`force`], or from a backup by
//! [`restore`](crate::backup::restore)), at a recovery epoch one higher; every other node is shown what
//! was signed (`shown`), believes it if it knows the admin's key ([`believe`]), and from then on nothing of an older epoch.
//!
//! - [`believe`]: what a node that is shown a recovery makes of it;
//! - `shown`: how it is shown, and who listens;
//! - `found`: what a store becomes by it;
//! - [`force`]: `tribune recover`.

pub mod believe;
pub mod force;
pub(crate) mod found;
pub(crate) mod shown;
