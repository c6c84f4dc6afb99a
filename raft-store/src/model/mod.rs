//! What the cluster is about, as plain data: packages, nodes, classes, updates.
//!
//! One idea: these types carry no behaviour beyond checking themselves. What happens to them is decided by
//! [`crate::record`], what should happen next by the master's planner and coordinator.

pub mod fleet;
pub mod ids;
pub mod manifest;
pub mod notation;
pub mod plan;
pub mod recovery;
pub mod update;

pub use fleet::*;
pub use ids::*;
pub use manifest::*;
pub use notation::*;
pub use plan::*;
pub use recovery::*;
pub use update::*;
