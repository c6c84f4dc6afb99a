//! A master over loopback: one voter with its Raft and store on disk, users who sign orders, and nodes whose side of the session is scripted.
#![allow(clippy::unwrap_used)]

mod cluster;
mod updates;
mod uploads;
