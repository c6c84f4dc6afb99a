//! One file with everything that a cluster can be made again from: its record, and the modules of its packages.
//!
//! One idea: the file says of itself what it is and proves every part of it, so it is checked to its last byte before the first of them
//! is used, wherever it has lain meanwhile.
//!
//! - [`mod@format`]: the bytes of the file;
//! - [`make`]: what goes into it, from a node that runs or from one that does not;
//! - [`save`]: the file, whole under its name or not there;
//! - [`restore`]: a node made from it.

pub mod format;
pub mod make;
pub mod restore;
pub mod save;
