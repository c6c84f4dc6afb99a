//! A small real service, of the kind that Tribune rolls out: [`web`] answers users and asks [`quoted`], on the same node,
//! for a quote; `quoted` reads them from its catalogue, a module of its own.
//!
//! One idea: it is what a user of Tribune would write. Each process takes its listening socket from its node, says on the
//! process socket what it thinks of an update, and when it is replaced stops accepting and finishes what it has begun.

pub mod quoted;
mod serve;
pub mod web;

use std::path::PathBuf;

use anyhow::{Context, Result};

/// Where a daemon of this name says where it listens, so that others find it: beside the process socket of their node.
fn address_file(name: &str) -> Result<PathBuf> {
    let socket =
        std::env::var_os("TRIBUNE_SOCKET").context("TRIBUNE_SOCKET is not set: this program is started by a Tribune node")?;
    Ok(PathBuf::from(socket).with_file_name(format!("{name}.address")))
}
