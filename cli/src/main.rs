//! `tribune`: arguments, tables, progress, JSON and exit codes. What a cluster is and does lies in the other crates.
//!
//! One idea: a command is a question or an order to a peer, and its end is an exit code that says what happened.
//!
//! - [`args`]: what can be asked for;
//! - [`commands`]: how it is asked;
//! - [`output`] and [`json`]: how the answer looks to people and to programs;
//! - [`problem`] and [`exit`]: how it is said that something was not done.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod commands;
mod context;
mod demo;
mod exit;
mod json;
mod manifests;
mod manual;
mod names;
mod output;
mod places;
mod problem;
#[cfg(test)]
mod sample;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The shim must not open anything before it becomes what its keeper says.
    if std::env::args_os().nth(1).is_some_and(|first| first == "shim") {
        return tribune_keeper::shim_main();
    }
    commands::run(args::Cli::read())
}
