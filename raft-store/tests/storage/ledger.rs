//! A small replicated state for the tests, and short ways to drive the storage.

use std::collections::BTreeSet;
use std::fmt;

use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::OneshotReceiverOf;
use openraft::{EntryPayload, RaftLogReader};
use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};
use tribune_raft_store::log_store::LogStore;
use tribune_raft_store::machine::Machine;
use tribune_raft_store::raft_types::{LogEntry, LogId, Membership, RaftPeer, Replicated, TypeConfig, log_id};
use tribune_raft_store::record::{Change, LogPlace, RecordError};
use tribune_raft_store::store::Store;

pub type Config = TypeConfig<Ledger>;
pub type Log = LogStore<Ledger>;
pub type State = Machine<Ledger>;

/// Rows, and how many commands were applied.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger {
    rows: RedBlackTreeMapSync<Vec<u8>, Vec<u8>>,
    changed: BTreeSet<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    Put { key: u8, text: String },
    Drop { key: u8 },
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Ledger {
    fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        match value {
            Some(value) => self.rows.insert_mut(key.clone(), value),
            None => drop(self.rows.remove_mut(&key)),
        }
        self.changed.insert(key);
    }

    pub fn applied(&self) -> u64 {
        self.rows.get([9].as_slice()).map_or(0, |n| u64::from_be_bytes(n.as_slice().try_into().unwrap()))
    }

    pub fn rows(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.entries().collect()
    }
}

impl Replicated for Ledger {
    const SCHEMA: &'static str = "ledger";
    type Command = Command;
    type Response = Option<u64>;

    fn apply(&mut self, LogPlace { index, .. }: LogPlace, command: &Command) -> Option<u64> {
        match command {
            Command::Put { key, text } => self.set(vec![1, *key], Some(format!("{text} by {index}").into_bytes())),
            Command::Drop { key } => self.set(vec![1, *key], None),
        }
        let applied = self.applied() + 1;
        self.set(vec![9], Some(applied.to_be_bytes().to_vec()));
        Some(applied)
    }

    fn blank() -> Option<u64> {
        None
    }

    fn take_changes(&mut self) -> Vec<Change> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|key| Change { value: self.rows.get(&key).cloned(), key }).collect()
    }

    fn entries(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
        self.rows.iter().map(|(key, value)| (key.clone(), value.clone()))
    }

    fn from_entries(rows: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<Self, RecordError> {
        Ok(Self { rows: rows.collect(), changed: BTreeSet::new() })
    }
}

/// The command that stands at an index, whoever leads.
pub fn command(index: u64) -> Command {
    let key = u8::try_from(index % 7).unwrap();
    if index % 5 == 4 {
        Command::Drop { key }
    } else {
        Command::Put { key, text: "x".repeat(usize::try_from(index).unwrap() % 50) }
    }
}

pub fn entry(term: u64, index: u64) -> LogEntry<Ledger> {
    LogEntry::<Ledger> { log_id: log_id(term, index), payload: EntryPayload::Normal(command(index)) }
}

pub fn entries(term: u64, indexes: std::ops::RangeInclusive<u64>) -> Vec<LogEntry<Ledger>> {
    indexes.map(|index| entry(term, index)).collect()
}

pub fn membership(voters: impl IntoIterator<Item = u64>) -> Membership {
    let voters: BTreeSet<u64> = voters.into_iter().collect();
    let nodes: std::collections::BTreeMap<_, _> = voters.iter().map(|id| (*id, RaftPeer::default())).collect();
    Membership::new(vec![voters], nodes).unwrap()
}

/// The state after the commands of these indexes.
pub fn ledger(upto: u64) -> Ledger {
    let mut state = Ledger::default();
    for index in 0..=upto {
        state.apply(LogPlace { index, membership: 0 }, &command(index));
    }
    state
}

pub fn open(disk: &tribune_raft_store::engine::model::ModelDisk) -> Store<Ledger> {
    Store::open_model(disk).unwrap()
}

/// Appends and waits until the entries are durable.
pub async fn append(log: &mut Log, entries: Vec<LogEntry<Ledger>>) -> std::io::Result<()> {
    let flushed = append_later(log, entries).await?;
    flushed.await.unwrap_or_else(|_| Err(std::io::Error::other("no answer")))
}

/// Appends; what is returned hears when the entries are durable.
pub async fn append_later(log: &mut Log, entries: Vec<LogEntry<Ledger>>) -> std::io::Result<Flushed> {
    let (sender, receiver) = Config::oneshot();
    log.append(entries, IOFlushed::<Config>::signal(sender)).await?;
    Ok(receiver)
}

pub type Flushed = OneshotReceiverOf<Config, std::io::Result<()>>;

pub async fn apply(machine: &mut State, entries: Vec<LogEntry<Ledger>>) -> std::io::Result<()> {
    machine.apply(futures::stream::iter(entries.into_iter().map(|entry| Ok((entry, None))))).await
}

/// The ids of the entries that are there.
pub async fn ids(log: &Log) -> std::io::Result<Vec<LogId>> {
    Ok(log.reader().try_get_log_entries(..).await?.into_iter().map(|entry| entry.log_id).collect())
}

/// Moves a snapshot into another store as the network would, in pieces.
pub async fn transfer(
    from: &tribune_raft_store::snapshot::SnapshotFile,
    to: &tribune_raft_store::snapshot::Snapshots,
) -> std::io::Result<tribune_raft_store::snapshot::SnapshotFile> {
    use tokio::io::AsyncReadExt;
    let mut bytes = from.open()?;
    let mut sink = to.receive()?;
    let mut piece = [0; 300];
    loop {
        match bytes.read(&mut piece).await? {
            0 => break,
            n => sink.write(&piece[..n]).await?,
        }
    }
    Ok(sink.finish().await?)
}
