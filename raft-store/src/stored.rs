//! How the storage writes things down: a byte that names the format, then MessagePack with named fields.
//!
//! One idea: what is on disk is our own, so that a new version of the Raft library, whose types may change, reads it still.

use std::collections::{BTreeMap, BTreeSet};

use openraft::EntryPayload;
use openraft::impls::leader_id_std::LeaderId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::raft_types::{LogEntry, LogId, Membership, RaftPeer, Replicated, SnapshotMeta, StoredMembership, Vote, log_id};

/// The format of all values.
const FORMAT: u8 = 1;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There are none.
    #[error("it is empty")]
    Empty,
    /// The format is unknown.
    #[error("it has format {0}, and this build of Tribune reads format {FORMAT}; it was written by a newer one, use that")]
    Format(u8),
    /// The content is unknown.
    #[error("this build of Tribune cannot read it ({0}); if a newer one wrote it, use that")]
    Content(String),
}

/// The bytes of a value. Fails only for a value that MessagePack cannot say.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    let mut bytes = vec![FORMAT];
    rmp_serde::encode::write_named(&mut bytes, value)?;
    Ok(bytes)
}

/// The value of bytes.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::Empty),
        Some((&FORMAT, content)) => rmp_serde::from_slice(content).map_err(|e| DecodeError::Content(e.to_string())),
        Some((&other, _)) => Err(DecodeError::Format(other)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredLogId {
    term: u64,
    index: u64,
}

impl From<&LogId> for StoredLogId {
    fn from(id: &LogId) -> Self {
        Self { term: id.leader_id.term, index: id.index }
    }
}

impl From<StoredLogId> for LogId {
    fn from(id: StoredLogId) -> Self {
        log_id(id.term, id.index)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredVote {
    term: u64,
    node: u64,
    committed: bool,
}

impl From<&Vote> for StoredVote {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
    }
}

impl From<StoredVote> for Vote {
    fn from(vote: StoredVote) -> Self {
        Self { leader_id: LeaderId { term: vote.term, voted_for: vote.node }, committed: vote.committed }
    }
}

/// Who is in Raft.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredConfig {
    voters: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, RaftPeer>,
}

impl From<&Membership> for StoredConfig {
    fn from(membership: &Membership) -> Self {
        let nodes = membership.nodes().map(|(id, node)| (*id, node.clone())).collect();
        Self { voters: membership.get_joint_config().clone(), nodes }
    }
}

impl TryFrom<StoredConfig> for Membership {
    type Error = DecodeError;
    fn try_from(config: StoredConfig) -> Result<Self, DecodeError> {
        Self::new(config.voters, config.nodes).map_err(|e| DecodeError::Content(e.to_string()))
    }
}

/// What a state is the state of: of a store, or of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredPosition {
    applied: Option<StoredLogId>,
    /// The entry that the membership comes from.
    member_entry: Option<StoredLogId>,
    members: StoredConfig,
}

impl StoredPosition {
    pub(crate) fn new(applied: Option<&LogId>, membership: &StoredMembership) -> Self {
        Self {
            applied: applied.map(Into::into),
            member_entry: membership.log_id().as_ref().map(Into::into),
            members: membership.membership().into(),
        }
    }

    pub(crate) fn read(self) -> Result<(Option<LogId>, StoredMembership), DecodeError> {
        let membership = StoredMembership::new(self.member_entry.map(Into::into), self.members.try_into()?);
        Ok((self.applied.map(Into::into), membership))
    }
}

impl From<&SnapshotMeta> for StoredPosition {
    fn from(meta: &SnapshotMeta) -> Self {
        Self::new(meta.last_log_id.as_ref(), &meta.last_membership)
    }
}

impl TryFrom<StoredPosition> for SnapshotMeta {
    type Error = DecodeError;
    fn try_from(position: StoredPosition) -> Result<Self, DecodeError> {
        let (last_log_id, last_membership) = position.read()?;
        Ok(Self { last_log_id, last_membership })
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum StoredPayload<D> {
    Blank,
    Command(D),
    Membership(StoredConfig),
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredEntry<D> {
    id: StoredLogId,
    payload: StoredPayload<D>,
}

/// The bytes of what a snapshot is the snapshot of.
pub fn encode_meta(meta: &SnapshotMeta) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    encode(&StoredPosition::from(meta))
}

/// What a snapshot is the snapshot of, from its bytes.
pub fn decode_meta(bytes: &[u8]) -> Result<SnapshotMeta, DecodeError> {
    decode::<StoredPosition>(bytes)?.try_into()
}

/// The bytes of a log entry.
pub fn encode_entry<S: Replicated>(entry: &LogEntry<S>) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    let payload = match &entry.payload {
        EntryPayload::Blank => StoredPayload::Blank,
        EntryPayload::Normal(command) => StoredPayload::Command(command),
        EntryPayload::Membership(membership) => StoredPayload::Membership(membership.into()),
    };
    encode(&StoredEntry { id: (&entry.log_id).into(), payload })
}

/// The log entry of bytes.
pub fn decode_entry<S: Replicated>(bytes: &[u8]) -> Result<LogEntry<S>, DecodeError> {
    let StoredEntry { id, payload } = decode::<StoredEntry<S::Command>>(bytes)?;
    let payload = match payload {
        StoredPayload::Blank => EntryPayload::Blank,
        StoredPayload::Command(command) => EntryPayload::Normal(command),
        StoredPayload::Membership(config) => EntryPayload::Membership(config.try_into()?),
    };
    Ok(LogEntry::<S> { log_id: id.into(), payload })
}
