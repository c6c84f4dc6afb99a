//! Raft's messages as they go over the network.
//!
//! One idea: what is on the wire is our own, as what is on disk is, so that a new version of openraft, whose types may
//! change, still speaks to the old one.

use std::fmt;

use openraft::impls::leader_id_std::LeaderId;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tribune_raft_store::raft_types::{LogId, Vote, log_id};

/// The largest entry, in bytes. A user's order has at most 4 MiB, its evidence is of the same kind.
pub(super) const MAX_ENTRY: usize = 48 << 20;
/// An append is cut where it passes this size, so that what follows it on the connection does not wait long.
pub(super) const APPEND_STEP: usize = 1 << 20;
/// The largest message: the largest entry, after the largest append that is not yet cut.
pub(super) const MAX_FRAME: u32 = 64 << 20;

/// A message to a voter or standby.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ask {
    /// The Raft id that is meant. A node whose store was rebuilt has another than before.
    pub(super) to: u64,
    pub(super) what: Question,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    Append(Append),
    Vote(Candidacy),
    PreVote(Candidacy),
    TransferLeader {
        from: WireVote,
        to: u64,
        last: Option<WireLogId>,
    },
    /// Are you there, and whom do you follow?
    Probe,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Append {
    pub(super) vote: WireVote,
    pub(super) prev: Option<WireLogId>,
    /// Entries as they are stored.
    pub(super) entries: Vec<Bytes>,
    pub(super) commit: Option<WireLogId>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Candidacy {
    pub(super) vote: WireVote,
    pub(super) last: Option<WireLogId>,
    /// The master itself asked for this election.
    pub(super) transfer: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Appended,
    /// The entry before the first is not there, or is another.
    Conflict,
    /// There is a newer master or candidate.
    Higher(WireVote),
    Voted {
        vote: WireVote,
        last: Option<WireLogId>,
        granted: bool,
    },
    /// Whether the transfer fits what is here.
    Transferred(bool),
    Probed {
        vote: WireVote,
    },
    Refused(Refused),
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(super) enum Refused {
    #[error("it has Raft id {here} now")]
    OtherId { here: u64 },
    #[error("it knows voter {claimed} under another identity")]
    NotYou { claimed: u64 },
    #[error("it knows of no voter {claimed}")]
    NoVoter { claimed: u64 },
    #[error("it cannot read an entry: {0}")]
    Malformed(String),
    #[error("Raft stopped there: {0}")]
    Stopped(String),
    #[error("it is taking in another snapshot")]
    Busy,
    #[error("it cannot take in a snapshot: {0}")]
    Snapshot(String),
}

/// What comes before a snapshot's bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SnapshotOffer {
    pub(super) to: u64,
    pub(super) vote: WireVote,
    /// What it is of, as it is stored.
    pub(super) meta: Bytes,
    pub(super) bytes: u64,
}

/// The answers of who receives a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum SnapshotReply {
    /// The bytes may come.
    Send,
    /// It is installed, or a newer master is known.
    Done(WireVote),
    Refused(Refused),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WireVote {
    term: u64,
    node: u64,
    committed: bool,
}

impl WireVote {
    /// Who stands, or leads.
    pub(super) fn node(&self) -> u64 {
        self.node
    }
}

impl From<&Vote> for WireVote {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
    }
}

impl From<WireVote> for Vote {
    fn from(vote: WireVote) -> Self {
        Self { leader_id: LeaderId { term: vote.term, voted_for: vote.node }, committed: vote.committed }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WireLogId {
    term: u64,
    index: u64,
}

impl From<&LogId> for WireLogId {
    fn from(id: &LogId) -> Self {
        Self { term: id.leader_id.term, index: id.index }
    }
}

impl From<WireLogId> for LogId {
    fn from(id: WireLogId) -> Self {
        log_id(id.term, id.index)
    }
}

/// Bytes that are written as such, and not number by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
        }
        from.deserialize_byte_buf(Reader)
    }
}
