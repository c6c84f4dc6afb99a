//! What openraft is told to work with, and the contract with the state that it replicates.
//!
//! One idea: the storage knows the state only as a thing that applies commands and is made of rows, so that it is tested
//! with a state of ten lines and ships with the [`Record`].

use std::fmt;
use std::marker::PhantomData;

use openraft::impls::leader_id_std;
use openraft::type_config::AsyncRuntime;
use openraft::vote::leader_id_std::CommittedLeaderId;
use openraft::{AppData, AppDataResponse, OptionalSend, RaftTypeConfig};
pub use openraft_rt_tokio::TokioRuntime;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::command::{Entry, Response};
use crate::model::PeerId;
pub use crate::record::Record;
use crate::record::{Change, LogPlace, RecordError};
pub use crate::stored::{DecodeError, decode_entry, decode_meta, encode_entry, encode_meta};

/// A state that is replicated by applying the same commands everywhere. Cloning it must cost next to nothing.
pub trait Replicated: Clone + Default + fmt::Debug + Send + Sync + 'static {
    /// Names what the rows are. A store with another name is refused.
    const SCHEMA: &'static str;
    /// What changes it.
    type Command: AppData + Clone;
    /// The answer to a command.
    type Response: AppDataResponse;

    /// Applies the command in the log entry at this place. It must depend on nothing but the state, the place and the command.
    fn apply(&mut self, place: LogPlace, command: &Self::Command) -> Self::Response;
    /// The answer to an entry that has no command.
    fn blank() -> Self::Response;
    /// The rows that changed since this was last called.
    fn take_changes(&mut self) -> Vec<Change>;
    /// The whole state as rows, in order of their keys. No key begins with the byte 255.
    fn entries(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_;
    /// The state with these rows.
    fn from_entries(rows: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<Self, RecordError>;
}

impl Replicated for Record {
    const SCHEMA: &'static str = "tribune-record";
    type Command = Entry;
    type Response = Response;

    fn apply(&mut self, place: LogPlace, command: &Entry) -> Response {
        Record::apply(self, place, command)
    }

    fn blank() -> Response {
        Record::blank()
    }

    fn take_changes(&mut self) -> Vec<Change> {
        Record::take_changes(self)
    }

    fn entries(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
        Record::entries(self)
    }

    fn from_entries(rows: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<Self, RecordError> {
        Record::from_entries(rows)
    }
}

/// What Raft knows of a member: how the network names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftPeer {
    /// Its identity on the network; empty only in a membership that was made of bare numbers.
    #[serde(serialize_with = "write_peer", deserialize_with = "read_peer")]
    pub peer: PeerId,
}

impl RaftPeer {
    /// The member with this identity.
    pub fn new(peer: PeerId) -> Self {
        Self { peer }
    }
}

impl fmt::Display for RaftPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peer.fmt(f)
    }
}

fn write_peer<W: Serializer>(peer: &PeerId, writer: W) -> Result<W::Ok, W::Error> {
    writer.serialize_str(peer.as_str())
}

fn read_peer<'de, R: Deserializer<'de>>(reader: R) -> Result<PeerId, R::Error> {
    let text = String::deserialize(reader)?;
    if text.is_empty() { Ok(PeerId::default()) } else { PeerId::new(text).map_err(serde::de::Error::custom) }
}

/// The types of one Raft: the state that is replicated, and the runtime that drives it.
pub struct TypeConfig<S = Record, RT = TokioRuntime> {
    types: PhantomData<fn() -> (S, RT)>,
}

// Derived, these would ask the same of the state and the runtime.
impl<S, RT> Clone for TypeConfig<S, RT> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S, RT> Copy for TypeConfig<S, RT> {}
impl<S, RT> Default for TypeConfig<S, RT> {
    fn default() -> Self {
        Self { types: PhantomData }
    }
}
impl<S, RT> fmt::Debug for TypeConfig<S, RT> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypeConfig")
    }
}
impl<S, RT> PartialEq for TypeConfig<S, RT> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<S, RT> Eq for TypeConfig<S, RT> {}
impl<S, RT> PartialOrd for TypeConfig<S, RT> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<S, RT> Ord for TypeConfig<S, RT> {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl<S: Replicated, RT: AsyncRuntime> RaftTypeConfig for TypeConfig<S, RT> {
    type D = S::Command;
    type R = S::Response;
    type NodeId = u64;
    type Node = RaftPeer;
    type Term = u64;
    /// One leader a term: the fence of a directive is made of the term.
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = Vote;
    type Payload = openraft::EntryPayload<S::Command, u64, RaftPeer>;
    type Entry = LogEntry<S>;
    type AsyncRuntime = RT;
    type Responder<T>
        = openraft::impls::ProgressResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// Where an entry is in the log: its term and its index.
pub type LogId = openraft::LogId<CommittedLeaderId<u64>>;
/// A vote: its term, for whom, and whether a majority gave it.
pub type Vote = openraft::Vote<leader_id_std::LeaderId<u64, u64>>;
/// Who is in Raft, and which log entry said so.
pub type StoredMembership = openraft::StoredMembership<CommittedLeaderId<u64>, u64, RaftPeer>;
/// Who is in Raft.
pub type Membership = openraft::Membership<u64, RaftPeer>;
/// What a snapshot is the snapshot of.
pub type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId<u64>, u64, RaftPeer>;
/// An entry of the log.
pub type LogEntry<S = Record> =
    openraft::Entry<CommittedLeaderId<u64>, openraft::EntryPayload<<S as Replicated>::Command, u64, RaftPeer>>;

/// The place of an entry in the log.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}
