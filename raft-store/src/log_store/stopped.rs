//! The log of a node that does not run: read from one end to the other, and gone on with by who is the only voter from then on.

use super::{COMMITTED, PURGED, VOTE, check_log, key, put_meta, read_entry, read_meta};
use crate::engine::{Batch, Engine, Family, KeyRange, Order};
use crate::raft_types::{LogEntry, LogId, Replicated, Vote};
use crate::store::StoreError;
use crate::stored::{StoredLogId, StoredVote, encode_entry};

/// What a log says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edges {
    /// The highest term that its node has voted in.
    pub term: u64,
    /// The last entry that was known to be committed.
    pub committed: Option<LogId>,
    /// The last entry, or the last that was purged if there is none.
    pub last: Option<LogId>,
}

/// Reads what a log says of itself. One that has holes is refused.
pub(crate) fn edges<S: Replicated>(engine: &dyn Engine) -> Result<Edges, StoreError> {
    let vote: Option<Vote> = read_meta::<StoredVote>(engine, VOTE)?.map(Into::into);
    let committed = read_meta::<StoredLogId>(engine, COMMITTED)?.map(Into::into);
    let purged: Option<LogId> = read_meta::<StoredLogId>(engine, PURGED)?.map(Into::into);
    let last = check_log::<S>(engine, purged.as_ref().map_or(0, |id| id.index + 1))?.or(purged);
    Ok(Edges { term: vote.map_or(0, |vote| vote.leader_id.term), committed, last })
}

/// The entries from this index on, one after the other.
pub(crate) fn entries<S: Replicated>(
    engine: &dyn Engine,
    from: u64,
) -> impl Iterator<Item = Result<LogEntry<S>, StoreError>> + '_ {
    let range = KeyRange { from: key(from).to_vec(), to: None };
    let rows = engine.scan(Family::Log, range, Order::Ascending);
    rows.map(|row| {
        let (key, value) = row?;
        read_entry::<S>(&key, &value)
    })
}

/// Adds entries, of which all are committed, and the vote of who wrote them.
pub(crate) fn put_committed<S: Replicated>(batch: &mut Batch, vote: &Vote, entries: &[LogEntry<S>]) -> Result<(), StoreError> {
    for entry in entries {
        batch.put(Family::Log, key(entry.log_id.index), encode_entry::<S>(entry)?);
    }
    put_meta(batch, VOTE, &StoredVote::from(vote))?;
    if let Some(last) = entries.last() {
        put_meta(batch, COMMITTED, &StoredLogId::from(&last.log_id))?;
    }
    Ok(())
}

/// Says that the log begins after this entry.
pub(crate) fn put_purged(batch: &mut Batch, last: &LogId) -> Result<(), StoreError> {
    put_meta(batch, PURGED, &StoredLogId::from(last))
}
