//! Questions of one node to another, each with one answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tribune_raft_store::model::{Signature, SignedRecovery, Span};

use crate::api::{LogText, ProcessInfo};
use crate::trust::NamedMaster;

/// The longest question or answer, in bytes.
pub const MAX_PEER_FRAME: u32 = 16 << 20;

/// What one node asks another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerRequest {
    /// Who is the master? Asked of voters.
    WhoIsMaster,
    /// Have these blobs in the package store, on disk and fsynced; fetch what is lacking from the asker. Asked by the master of a voter or
    /// standby. Answered when all are there, or with what is not.
    Keep {
        /// The blobs, with their sizes in bytes.
        blobs: BTreeMap<Signature, u64>,
    },
    /// Which blobs are in the package store? Asked by the master of a voter or standby.
    Held,
    /// Forget these blobs of the package store: no package of the record has them. Asked by the master.
    Forget {
        /// Which.
        blobs: Vec<Signature>,
    },
    /// The processes on the node.
    Processes,
    /// The end of a process's log.
    Log {
        /// `package/module` of the process.
        process: String,
        /// How many lines at most.
        lines: u32,
    },
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerResponse {
    /// Whom it takes for the master; none: it knows of none, since so long.
    Master {
        /// Who.
        master: Option<NamedMaster>,
        /// How long it has known of none.
        none_for: Option<Span>,
        /// The recovery that it goes by, which the asker may not know.
        #[serde(default)]
        recovery: Option<Box<SignedRecovery>>,
    },
    /// The blobs that are in the package store.
    Held {
        /// Which, with their sizes in bytes.
        blobs: BTreeMap<Signature, u64>,
        /// What could not be had, and why.
        failed: BTreeMap<Signature, String>,
    },
    /// It was done.
    Done,
    /// The processes.
    Processes(Vec<ProcessInfo>),
    /// The end of a log.
    Log(LogText),
    /// It was not done.
    Refused {
        /// Why, as a sentence.
        why: String,
    },
}
