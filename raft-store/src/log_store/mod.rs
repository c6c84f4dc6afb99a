//! The Raft log and the vote.
//!
//! One idea: what readers see is a range of indexes and the entries that are still on their way to disk (`live`), with
//! the engine below. So an entry can be read from the moment it is appended, while it counts only when it is synced; and
//! a truncation or purge is seen at once, whenever it reaches the disk.

mod live;
mod reader;
pub(crate) mod stopped;

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::AsyncRuntime;
use openraft::{LogState, OptionalSend};
use serde::{Serialize, de::DeserializeOwned};

use self::live::{Live, Shared};
pub use self::reader::LogReader;
use tribune_planted::{Bug, planted};

use crate::engine::{Batch, Durability, Engine, Family, KeyRange, Order};
use crate::raft_types::{LogEntry, LogId, Replicated, TokioRuntime, TypeConfig, Vote};
use crate::record::Record;
use crate::store::StoreError;
use crate::stored::{StoredLogId, StoredVote, decode, decode_entry, encode, encode_entry};
use crate::writer::Writer;

const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";
const COMMITTED: &[u8] = b"committed";

/// The key of the entry with this index.
fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

/// The Raft log and the vote, in an engine.
#[derive(Debug)]
pub struct LogStore<S: Replicated = Record, RT = TokioRuntime> {
    shared: Arc<Shared<S>>,
    writer: Writer,
    runtime: PhantomData<fn() -> RT>,
}

impl<S: Replicated, RT: AsyncRuntime> LogStore<S, RT> {
    /// Reads back what the store knows, all of the log too: one that cannot be one, because entries are damaged or missing, is refused
    /// before anybody goes by it.
    pub fn open(writer: Writer) -> Result<Self, StoreError> {
        let engine = writer.engine();
        let vote = read_meta::<StoredVote>(engine, VOTE)?.map(Into::into);
        let committed = read_meta::<StoredLogId>(engine, COMMITTED)?.map(Into::into);
        let purged: Option<LogId> = read_meta::<StoredLogId>(engine, PURGED)?.map(Into::into);
        let first = purged.as_ref().map_or(0, |id| id.index + 1);
        let last = check_log::<S>(engine, first)?;
        let live = Live::new(vote, committed, purged, last.map(|last| (first, last)));
        let shared = Arc::new(Shared::new(writer.keep_engine(), live));
        Ok(Self { shared, writer, runtime: PhantomData })
    }

    /// Another reader of the same log.
    pub fn reader(&self) -> LogReader<S, RT> {
        LogReader::new(Arc::clone(&self.shared))
    }
}

/// Reads the whole log, which must begin at `first` and have no holes; the id of its last entry. Snapshots keep it short. What the
/// entries between say is for who applies them.
fn check_log<S: Replicated>(engine: &dyn Engine, first: u64) -> Result<Option<LogId>, StoreError> {
    let mut last = None;
    for (row, expected) in engine.scan(Family::Log, KeyRange::all(), Order::Ascending).zip(first..) {
        let (key, value) = row?;
        match index_of(&key)? {
            index if index == expected => {}
            found if last.is_none() => return Err(StoreError::LogBegins { found, expected }),
            _ => return Err(StoreError::Missing { index: expected }),
        }
        last = Some((key, value));
    }
    last.map(|(key, value)| Ok(read_entry::<S>(&key, &value)?.log_id)).transpose()
}

fn index_of(key: &[u8]) -> Result<u64, StoreError> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| StoreError::LogKey { bytes: key.len() })
}

/// The entry of a row of the log.
fn read_entry<S: Replicated>(key: &[u8], value: &[u8]) -> Result<LogEntry<S>, StoreError> {
    let index = index_of(key)?;
    let entry = decode_entry::<S>(value).map_err(|why| StoreError::Entry { index, why })?;
    if entry.log_id.index != index {
        return Err(StoreError::Misplaced { index, found: entry.log_id.index });
    }
    Ok(entry)
}

fn read_meta<T: DeserializeOwned>(engine: &dyn Engine, name: &'static [u8]) -> Result<Option<T>, StoreError> {
    let Some(bytes) = engine.get(Family::Meta, name)? else { return Ok(None) };
    let what = String::from_utf8_lossy(name).into_owned();
    decode(&bytes).map(Some).map_err(|why| StoreError::Value { what, why })
}

fn put_meta<T: Serialize>(batch: &mut Batch, name: &'static [u8], value: &T) -> Result<(), StoreError> {
    batch.put(Family::Meta, name, encode(value)?);
    Ok(())
}

impl<S: Replicated, RT: AsyncRuntime> RaftLogStorage<TypeConfig<S, RT>> for LogStore<S, RT> {
    type LogReader = LogReader<S, RT>;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig<S, RT>>, io::Error> {
        let live = self.shared.live();
        Ok(LogState { last_purged_log_id: live.purged().cloned(), last_log_id: live.last().cloned() })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.reader()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let mut batch = Batch::new();
        put_meta(&mut batch, VOTE, &StoredVote::from(vote))?;
        let durability = if planted(Bug::VoteNotSynced) { Durability::Buffered } else { Durability::Synced };
        self.writer.write(batch, durability).await?;
        self.shared.live().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut batch = Batch::new();
        match &committed {
            Some(id) => put_meta(&mut batch, COMMITTED, &StoredLogId::from(id))?,
            None => batch.delete(Family::Meta, COMMITTED),
        }
        self.shared.live().committed = committed;
        // It only spares work after a restart: what is committed is in the log, which is synced.
        self.writer.write_behind(batch).await?;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.live().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig<S, RT>>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry<S>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = Batch::new();
        let mut appended = Vec::new();
        for entry in entries {
            let bytes = encode_entry::<S>(&entry).map_err(StoreError::from)?;
            appended.push((entry, bytes.len()));
            let index = appended.last().map_or(0, |(entry, _)| entry.log_id.index);
            batch.put(Family::Log, key(index), bytes);
        }
        let pass = self.shared.live().append(appended)?;
        let shared = Arc::clone(&self.shared);
        let flushed = move |result: Result<(), _>| {
            if result.is_ok() {
                shared.live().on_disk(pass);
            }
            callback.io_completed(result.map_err(io::Error::from));
        };
        let durability = if planted(Bug::AppendAcknowledgedBeforeSync) { Durability::Buffered } else { Durability::Synced };
        if !self.writer.is_full() {
            self.writer.submit(batch, durability, flushed);
            return Ok(());
        }
        // Too much waits for the disk: wait with it, rather than fill the memory.
        let result = self.writer.write(batch, Durability::Synced).await;
        flushed(result);
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let Some((from, to)) = self.shared.live().truncate_after(last_log_id) else { return Ok(()) };
        let mut batch = Batch::new();
        if planted(Bug::TruncatedLogComesBack) {
            return Ok(());
        }
        batch.delete_range(Family::Log, key(from), key(to));
        // Whatever is appended in its place is synced after it.
        self.writer.write_behind(batch).await?;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let mut batch = Batch::new();
        put_meta(&mut batch, PURGED, &StoredLogId::from(&log_id))?;
        let gone = self.shared.live().purge(log_id);
        if let Some((from, to)) = gone {
            batch.delete_range(Family::Log, key(from), key(to));
        }
        // Not before the state that covers it: that was handed to the same writer earlier. Not synced: a purge that is
        // lost costs disk, nothing else.
        self.writer.write_behind(batch).await?;
        Ok(())
    }
}
