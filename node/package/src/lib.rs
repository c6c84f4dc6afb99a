//! Packages and images: how they are described, built, read, and matched to nodes.
//!
//! One idea: every byte that is kept or sent is canonical, so that the same input makes the same signature everywhere,
//! and every byte that is read is checked against a signature before anyone may use it.
//!
//! - [`source`] reads the `tribune.toml` that describes a package.
//! - [`archive`] turns a folder module into bytes and back.
//! - [`container`] is the one file format of `.tpkg` and `.timg`.
//! - [`build`] makes and inspects such files.
//! - [`targets`] says which nodes get which packages of an image.
//! - [`mod@select`] picks the modules of a package that a node gets.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod archive;
pub mod build;
pub mod container;
mod digest;
pub mod select;
pub mod source;
pub mod targets;

pub use build::{BuildError, Built, Inspection, build_image, build_package, inspect, merge_packages};
pub use container::{ContainerError, ContainerReader, Header};
pub use select::{Characteristics, SelectError, Selected, select};
pub use source::SourceError;
pub use targets::{PackageRef, Targets, TargetsError};
