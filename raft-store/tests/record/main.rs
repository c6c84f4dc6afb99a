//! The record, changed from outside by entries alone.

#![allow(clippy::unwrap_used)]

mod access;
mod ephemeral;
mod fleet;
mod needs;
mod removal;
mod replay;
mod stories;
