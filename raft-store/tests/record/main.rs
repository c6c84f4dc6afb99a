//! The record, changed from outside by entries alone.

#![allow(clippy::unwrap_used)]

mod access;
mod ephemeral;
mod fleet;
mod held;
mod needs;
mod packages;
mod recovery;
mod removal;
mod replay;
mod stories;
