//! What the whole-system tests share: clusters of real node processes, packages made on the spot, and probes to roll out.
//!
//! One idea: a test does what an operator does, with the binary that an operator has, and looks at what an operator can see: the
//! commands' JSON, the files on the nodes' disks, the logs of the processes that were rolled out.

pub mod address;
pub mod cli;
pub mod cluster;
pub mod disk;
pub mod net;
pub mod package;
pub mod probe;
pub mod processes;
pub mod wait;

pub use cli::Output;
pub use cluster::{Cluster, Node, NodeOptions};
pub use disk::SmallDisk;
pub use net::{Host, Net};
pub use package::PackageSource;
pub use wait::eventually;
