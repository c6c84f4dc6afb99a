//! The store of a node that does not run.
//!
//! One idea: its log is read to its end as if all of it were committed, as its node would have done had the others chosen it for
//! their master. So nothing that was ever acknowledged, and reached this disk, is left out. To go on alone from there is two more
//! entries: that the cluster was recovered, and that Raft has one voter.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::EntryPayload;
use openraft::impls::leader_id_std::LeaderId;

use crate::command::{Body, Entry, MasterCommand, Rejection};
use crate::engine::model::ModelDisk;
use crate::engine::rocks::RocksEngine;
use crate::engine::{Batch, Durability, Engine, Family};
use crate::log_store::stopped::{self, Edges};
use crate::machine::{Applied, put_position, read_state};
use crate::model::{SignedRecovery, Timestamp};
use crate::raft_types::{LogEntry, LogId, Membership, RaftPeer, Record, Replicated, Vote, log_id};
use crate::record::RecordError;
use crate::snapshot::format::{FormatError, FrameReader, FrameWriter};
use crate::store::{StoreError, check_format, refuse_format};
use crate::stored::{DecodeError, StoredPosition};

/// The database in the folder of Raft.
const DB: &str = "db";

/// Why the store of a stopped node is of no use.
#[derive(Debug, thiserror::Error)]
pub enum StoppedError {
    /// There is none.
    #[error("there is no Raft store in {}", .0.display())]
    Missing(PathBuf),
    /// There is nothing in it.
    #[error("the Raft store in {} has no record yet", .0.display())]
    Empty(PathBuf),
    /// It cannot be opened, read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record in it does not allow what was asked for.
    #[error(transparent)]
    Rejected(Box<Rejection>),
    /// It would have two only voters.
    #[error("who is in Raft cannot be written down: {0}")]
    Membership(String),
}

/// The record at the end of a log, and what is known of that log.
#[derive(Debug, Clone)]
pub struct AtEnd {
    /// The record with every entry that is there.
    pub applied: Applied<Record>,
    /// How many of these entries the node did not know to be committed.
    pub unconfirmed: u64,
    /// The highest term seen.
    term: u64,
}

impl AtEnd {
    /// The record.
    pub fn record(&self) -> &Record {
        &self.applied.state
    }

    /// The index of the last entry.
    pub fn last_index(&self) -> u64 {
        self.applied.last_applied.as_ref().map_or(0, |last| last.index)
    }

    /// The index of the entry that a recovery will be.
    pub fn recovery_index(&self) -> u64 {
        self.last_index() + 1
    }
}

/// The store of a node that does not run. While it is open no node can run with it.
#[derive(Debug)]
pub struct StoppedStore {
    engine: Arc<dyn Engine>,
    at_end: AtEnd,
}

impl StoppedStore {
    /// Opens the store in a folder, and reads its log to the end.
    ///
    /// # Errors
    /// There is none, its node runs, or it is damaged.
    pub fn open(folder: &Path) -> Result<Self, StoppedError> {
        refuse_nothing(folder)?;
        Self::read(folder, Arc::new(RocksEngine::open(&folder.join(DB)).map_err(StoreError::from)?))
    }

    /// The same of a store on a model disk, in tests and simulations.
    ///
    /// # Errors
    /// As [`StoppedStore::open`].
    pub fn open_model(folder: &Path, disk: &ModelDisk) -> Result<Self, StoppedError> {
        refuse_nothing(folder)?;
        Self::read(folder, Arc::new(disk.engine()))
    }

    /// The same without changing a byte of it.
    ///
    /// # Errors
    /// As [`StoppedStore::open`], but for a node that runs: what is read then may be torn.
    pub fn look(folder: &Path) -> Result<AtEnd, StoppedError> {
        refuse_nothing(folder)?;
        let engine = RocksEngine::open_read_only(&folder.join(DB)).map_err(StoreError::from)?;
        Ok(Self::read(folder, Arc::new(engine))?.at_end)
    }

    /// Makes a store in a new folder that has this record and no log.
    ///
    /// # Errors
    /// The folder cannot be written, or the record has no place in a log.
    pub fn plant(folder: &Path, applied: Applied<Record>) -> Result<Self, StoppedError> {
        let last = place_of(folder, &applied)?;
        let made = std::fs::create_dir_all(folder);
        made.map_err(|why| StoreError::Io { what: format!("making {}", folder.display()), why })?;
        Self::write(Arc::new(RocksEngine::open(&folder.join(DB)).map_err(StoreError::from)?), applied, &last)
    }

    /// The same on a model disk, in tests and simulations.
    ///
    /// # Errors
    /// As [`StoppedStore::plant`].
    pub fn plant_model(folder: &Path, disk: &ModelDisk, applied: Applied<Record>) -> Result<Self, StoppedError> {
        let last = place_of(folder, &applied)?;
        Self::write(Arc::new(disk.engine()), applied, &last)
    }

    fn write(engine: Arc<dyn Engine>, applied: Applied<Record>, last: &LogId) -> Result<Self, StoppedError> {
        check_format::<Record>(engine.as_ref())?;
        let mut batch = Batch::new();
        for (key, value) in applied.state.entries() {
            batch.put(Family::State, key, value);
        }
        put_position(&mut batch, &applied.position())?;
        stopped::put_purged(&mut batch, last)?;
        engine.write(batch, Durability::Synced).map_err(StoreError::from)?;
        let at_end = AtEnd { applied, unconfirmed: 0, term: last.leader_id.term };
        Ok(Self { engine, at_end })
    }

    fn read(folder: &Path, engine: Arc<dyn Engine>) -> Result<Self, StoppedError> {
        let at_end = read_to_end(engine.as_ref())?;
        if at_end.record().cluster().is_none() {
            return Err(StoppedError::Empty(folder.to_owned()));
        }
        Ok(Self { engine, at_end })
    }

    /// The record at the end of the log.
    pub fn at_end(&self) -> &AtEnd {
        &self.at_end
    }

    /// What the record would be after this recovery; nothing is written.
    ///
    /// # Errors
    /// The record does not allow it.
    pub fn recovered(&self, recovery: &SignedRecovery, now: Timestamp) -> Result<Record, StoppedError> {
        let mut applied = self.at_end.applied.clone();
        apply(&mut applied, &recovery_entry(self.at_end.term + 1, self.at_end.recovery_index(), recovery, now))?;
        Ok(applied.state)
    }

    /// Makes the only voter of this recovery Raft's only voter, in one write that is on disk when this returns.
    ///
    /// # Errors
    /// The record does not allow it, or it cannot be written; nothing was changed then.
    pub fn lead_alone(&mut self, recovery: &SignedRecovery, now: Timestamp) -> Result<(), StoppedError> {
        let voter = recovery.open().map_err(|error| StoppedError::Rejected(Box::new(error.into())))?.voter;
        let (term, index) = (self.at_end.term + 1, self.at_end.recovery_index());
        let recover = recovery_entry(term, index, recovery, now);
        let mut applied = self.at_end.applied.clone();
        apply(&mut applied, &recover)?;
        let nodes = BTreeMap::from([(voter.raft_id, RaftPeer::new(voter.peer))]);
        let alone = Membership::new(vec![BTreeSet::from([voter.raft_id])], nodes);
        let alone = alone.map_err(|error| StoppedError::Membership(error.to_string()))?;
        let alone = LogEntry::<Record> { log_id: log_id(term, index + 1), payload: EntryPayload::Membership(alone) };
        apply(&mut applied, &alone)?;
        let vote = Vote { leader_id: LeaderId { term, voted_for: voter.raft_id }, committed: true };
        let mut batch = Batch::new();
        stopped::put_committed::<Record>(&mut batch, &vote, &[recover, alone])?;
        self.engine.write(batch, Durability::Synced).map_err(StoreError::from)?;
        self.at_end = AtEnd { applied, unconfirmed: 0, term };
        Ok(())
    }
}

/// Where in a log a record stands that is to be planted.
fn place_of(folder: &Path, applied: &Applied<Record>) -> Result<LogId, StoppedError> {
    applied.last_applied.ok_or_else(|| StoppedError::Empty(folder.to_owned()))
}

fn refuse_nothing(folder: &Path) -> Result<(), StoppedError> {
    // RocksDB would make a new one.
    if folder.join(DB).is_dir() { Ok(()) } else { Err(StoppedError::Missing(folder.to_owned())) }
}

/// Reads the state, and applies all of the log to it.
pub(crate) fn read_to_end(engine: &dyn Engine) -> Result<AtEnd, StoppedError> {
    refuse_format::<Record>(engine)?;
    let mut applied = read_state::<Record>(engine)?;
    let Edges { term, committed, last } = stopped::edges::<Record>(engine)?;
    let known = applied.last_applied.max(committed).map_or(0, |id| id.index);
    let from = applied.last_applied.as_ref().map_or(0, |last| last.index + 1);
    for entry in stopped::entries::<Record>(engine, from) {
        // What the record refused when it was proposed it refuses again.
        drop(applied.apply(&entry?).map_err(|why| StoreError::Io { what: "reading the log".into(), why })?);
    }
    // None of these changes is written.
    drop(applied.state.take_changes());
    let end = applied.last_applied.as_ref().map_or(0, |last| last.index);
    let term = term.max(last.or(applied.last_applied).map_or(0, |last| last.leader_id.term));
    Ok(AtEnd { unconfirmed: end.saturating_sub(known), applied, term })
}

fn recovery_entry(term: u64, index: u64, recovery: &SignedRecovery, now: Timestamp) -> LogEntry<Record> {
    let command = MasterCommand::Recover { recovery: recovery.clone() };
    let entry = Entry { time: now, body: Body::Master(Box::new(command)) };
    LogEntry::<Record> { log_id: log_id(term, index), payload: EntryPayload::Normal(entry) }
}

fn apply(applied: &mut Applied<Record>, entry: &LogEntry<Record>) -> Result<(), StoppedError> {
    let answer = applied.apply(entry).map_err(|why| StoreError::Io { what: "going on with the log".into(), why })?;
    answer.map(drop).map_err(|rejection| StoppedError::Rejected(Box::new(rejection)))
}

/// Writes a record in the form of a snapshot; gives how many bytes that are.
///
/// # Errors
/// It cannot be written, or is longer than a snapshot can be.
pub fn write_record(applied: &Applied<Record>, to: impl Write) -> Result<u64, FormatError> {
    let mut frames = FrameWriter::begin(to, Record::SCHEMA, &applied.position())?;
    for (key, value) in applied.state.entries() {
        frames.row(&key, &value)?;
    }
    frames.finish()
}

/// Reads a record that [`write_record`] wrote, to its last byte.
///
/// # Errors
/// It is damaged, or no record.
pub fn read_record(from: impl Read) -> Result<Applied<Record>, RecordFileError> {
    let mut frames = FrameReader::begin(from, Record::SCHEMA)?;
    let (last_applied, membership) = StoredPosition::read(frames.position().clone())?;
    let mut bad = None;
    let mut rows = std::iter::from_fn(|| {
        frames.row().unwrap_or_else(|error| {
            bad = Some(error);
            None
        })
    })
    .fuse();
    let state = Record::from_entries(&mut rows);
    // The hash is at the end, whether or not the rows before it were liked.
    rows.by_ref().for_each(drop);
    drop(rows);
    if let Some(error) = bad {
        return Err(error.into());
    }
    Ok(Applied { state: state?, last_applied, membership })
}

/// Why bytes are no record.
#[derive(Debug, thiserror::Error)]
pub enum RecordFileError {
    /// They are not as they were written.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Where the record stands in its log cannot be read.
    #[error(transparent)]
    Position(#[from] DecodeError),
    /// Their rows are not a record.
    #[error(transparent)]
    Record(#[from] RecordError),
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;
    use crate::command::{Birth, NewNode};
    use crate::model::{ClusterId, Facts, OnlyVoter, PeerId, PublicKey, RaftRole, Recovery, Span, raft_id};

    fn secret() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn create() -> Entry {
        let key = PublicKey::new(SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes());
        let node = NewNode { name: "n1".parse().unwrap(), peer: PeerId::new("peer1").unwrap(), key, facts: Facts::default() };
        let admin_key = PublicKey::new(secret().verifying_key().to_bytes());
        let birth = Birth { cluster: ClusterId::new([1; 16]), node, admin: "ada".parse().unwrap(), admin_key };
        Entry { time: Timestamp(1000), body: Body::Master(Box::new(MasterCommand::Create(birth))) }
    }

    /// A store whose log has the making of a cluster, known to be committed, and an entry of which nothing is known.
    fn store(folder: &Path) {
        let engine = RocksEngine::open(&folder.join(DB)).unwrap();
        check_format::<Record>(&engine).unwrap();
        let members = |id: u64| {
            Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, RaftPeer::new(PeerId::new("peer1").unwrap()))]))
        };
        let payloads = [
            EntryPayload::Membership(members(0).unwrap()),
            EntryPayload::Normal(create()),
            EntryPayload::Normal(Entry {
                time: Timestamp(2000),
                body: Body::Master(Box::new(MasterCommand::MakeMember { node: "n1".parse().unwrap() })),
            }),
        ];
        let entries: Vec<_> = payloads
            .into_iter()
            .zip(0..)
            .map(|(payload, index)| LogEntry::<Record> { log_id: log_id(3, index), payload })
            .collect();
        let vote = Vote { leader_id: LeaderId { term: 4, voted_for: 9 }, committed: false };
        let mut batch = Batch::new();
        stopped::put_committed::<Record>(&mut batch, &vote, &entries[..2]).unwrap();
        engine.write(batch, Durability::Synced).unwrap();
        let mut batch = Batch::new();
        batch.put(Family::Log, 2_u64.to_be_bytes(), crate::stored::encode_entry::<Record>(&entries[2]).unwrap());
        engine.write(batch, Durability::Synced).unwrap();
    }

    fn recovery(at_end: &AtEnd) -> SignedRecovery {
        let secret = secret();
        let key = PublicKey::new(SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes());
        let voter = OnlyVoter {
            name: "n1".parse().unwrap(),
            peer: PeerId::new("peer1").unwrap(),
            key,
            raft_id: raft_id(1, at_end.recovery_index()),
            control: Vec::new(),
            data: Vec::new(),
        };
        let (cluster, signed_at) = (ClusterId::new([1; 16]), Timestamp(3000));
        let recovery = Recovery { cluster, epoch: 1, voter, signed_at, expires: signed_at.after(Span::from_secs(1)) };
        let key = PublicKey::new(secret.verifying_key().to_bytes());
        recovery.sign(key, |bytes| secret.sign(bytes).to_bytes()).unwrap()
    }

    #[test]
    fn all_of_a_log_is_kept_and_gone_on_with_by_one_voter() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(StoppedStore::open(folder.path()), Err(StoppedError::Missing(_))));
        store(folder.path());
        let looked = StoppedStore::look(folder.path()).unwrap();
        let mut store = StoppedStore::open(folder.path()).unwrap();
        let at_end = store.at_end().clone();
        assert_eq!((at_end.last_index(), at_end.unconfirmed, looked.last_index()), (2, 1, 2));
        let role = |record: &Record| record.nodes().get(&"n1".parse().unwrap()).unwrap().raft;
        assert_eq!(role(at_end.record()), RaftRole::Member, "the entry of which nothing was known counts");
        let signed = recovery(&at_end);
        store.lead_alone(&signed, Timestamp(4000)).unwrap();
        let id = raft_id(1, 3);
        assert_eq!(role(store.at_end().record()), RaftRole::Voter { raft_id: id });
        drop(store);
        let again = StoppedStore::open(folder.path()).unwrap();
        let applied = &again.at_end().applied;
        assert!(applied.membership.membership().voter_ids().eq([id]));
        assert_eq!((again.at_end().last_index(), again.at_end().unconfirmed, again.at_end().term), (4, 0, 5));
        assert_eq!(applied.state.cluster().unwrap().epoch, 1);
        assert!(again.recovered(&signed, Timestamp(5000)).is_err(), "the same word does not count twice");
    }

    #[test]
    fn a_record_is_written_and_planted_as_it_was() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        store(from.path());
        let at_end = StoppedStore::look(from.path()).unwrap();
        let mut bytes = Vec::new();
        assert_eq!(write_record(&at_end.applied, &mut bytes).unwrap(), bytes.len() as u64);
        let read = read_record(bytes.as_slice()).unwrap();
        assert!(read_record(&bytes[..bytes.len() - 1]).is_err());
        let mut planted = StoppedStore::plant(to.path(), read).unwrap();
        assert!(planted.at_end().record().entries().eq(at_end.record().entries()));
        planted.lead_alone(&recovery(&at_end), Timestamp(4000)).unwrap();
        drop(planted);
        let again = StoppedStore::open(to.path()).unwrap();
        assert_eq!((again.at_end().last_index(), again.at_end().record().cluster().unwrap().epoch), (4, 1));
    }
}
