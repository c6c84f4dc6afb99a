//! Lets your own process speak to its Tribune node: be asked before an update touches it, object with a reason, and
//! hand over to its successor without losing a request.
//!
//! The node sets `$TRIBUNE_SOCKET` for what it starts; anything else that runs on the node, and may open the socket,
//! can set it too. One background thread keeps the connection (the node's agent may restart at any time) and calls
//! your [`Handler`]. Everything has a default, so a process says only what it cares about:
//!
//! ```no_run
//! use tribune_process::{Ballot, Handler, Process, Proposal};
//!
//! struct Billing;
//!
//! impl Handler for Billing {
//!     fn on_proposal(&mut self, proposal: &Proposal) -> Ballot {
//!         match open_invoices() {
//!             0 => Ballot::Accept,
//!             n => Ballot::Veto(format!("{n} invoices are being written ({})", proposal.update)),
//!         }
//!     }
//! }
//! # fn open_invoices() -> u32 { 0 }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let session = Process::connect()?.name("billing").serve(Billing)?;
//! // … the process's own work …
//! session.close();
//! # Ok(())
//! # }
//! ```
//!
//! Other languages need no library: [`protocol`] describes the messages, one JSON object a line. Beside the socket,
//! [`sd_notify`] and [`listen_fds`] are what programs written for systemd already use; a node serves both.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod activation;
mod client;
mod conversation;
mod handler;
mod line;
pub mod protocol;

pub use activation::{ListenError, NotifyError, listen_fds, sd_notify};
pub use client::{Process, ServeError, Session, SessionError};
pub use handler::{Ballot, Handler};
pub use protocol::{
    Aborted, ChangeoverDone, ChangeoverPending, HandOver, HealthStatus, Outcome, OutcomeTold, Overruled, PackageChange, Proposal,
    Resume, Role, Welcome,
};
