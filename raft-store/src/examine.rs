//! Looking at the store of a Raft without changing anything, whether or not a process has it open.
//!
//! One idea: every row is read and understood as if it were about to be used, and what is wrong is said, all of it and not the first
//! thing only.

use std::path::Path;
use std::sync::Arc;

use crate::engine::rocks::RocksEngine;
use crate::engine::{Engine, Family, KeyRange, Order};
use crate::log_store::stopped;
use crate::machine::{Applied, read_state};
use crate::raft_types::Record;
use crate::snapshot;
use crate::stopped::read_to_end;
use crate::store::{StoreError, refuse_format};
use crate::stored::encode_entry;

/// How often a store that a process has open is looked at: files it removed meanwhile are no damage.
const TRIES: usize = 3;

/// What a store has.
#[derive(Debug, Default)]
pub struct Examined {
    /// How many rows were read, of log and state.
    pub rows: u64,
    /// How many bytes these have.
    pub bytes: u64,
    /// What is wrong, one sentence each.
    pub wrong: Vec<String>,
    /// The record at the end of its log, if all of it can be understood.
    pub record: Option<Record>,
}

/// Reads every row of the store in a folder of Raft, and its snapshot. Blocks.
pub fn examine(folder: &Path) -> Examined {
    let mut examined = Examined::default();
    for _ in 0..TRIES {
        examined = try_examine(folder);
        if examined.wrong.is_empty() {
            break;
        }
    }
    examined
}

fn try_examine(folder: &Path) -> Examined {
    let mut examined = Examined::default();
    let engine: Arc<dyn Engine> = match RocksEngine::open_read_only(&folder.join("db")) {
        Ok(engine) => Arc::new(engine),
        Err(error) => {
            examined.wrong.push(error.to_string());
            return examined;
        }
    };
    let engine = engine.as_ref();
    if let Err(error) = refuse_format::<Record>(engine) {
        examined.wrong.push(error.to_string());
        return examined;
    }
    for family in Family::ALL {
        if let Err(error) = examined.count(engine, family) {
            examined.wrong.push(format!("{family}: {error}"));
        }
    }
    // What RocksDB itself cannot read is said; what it means need not be said again.
    if !examined.wrong.is_empty() {
        return examined;
    }
    let checks = [check_log(engine), check_state(engine), snapshot::examine(engine, &folder.join("snapshots"))];
    examined.wrong.extend(checks.into_iter().filter_map(Result::err).map(|error| error.to_string()));
    if examined.wrong.is_empty() {
        match read_to_end(engine) {
            Ok(at_end) => examined.record = Some(at_end.applied.state),
            Err(error) => examined.wrong.push(error.to_string()),
        }
    }
    examined
}

impl Examined {
    fn count(&mut self, engine: &dyn Engine, family: Family) -> Result<(), StoreError> {
        for row in engine.scan(family, KeyRange::all(), Order::Ascending) {
            let (key, value) = row?;
            self.rows += 1;
            self.bytes += (key.len() + value.len()) as u64;
        }
        Ok(())
    }
}

/// An entry of a log, as far as logs are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// Its place in the log.
    pub index: u64,
    /// The term of the master who wrote it.
    pub term: u64,
    /// The BLAKE3 of what is in it.
    pub hash: blake3::Hash,
}

/// The entries that a store has of the log, in order.
///
/// # Errors
/// Something in it cannot be read or understood.
pub fn log(engine: &dyn Engine) -> Result<Vec<Logged>, StoreError> {
    let entries = stopped::entries::<Record>(engine, 0).map(|entry| {
        let entry = entry?;
        let hash = blake3::hash(&encode_entry::<Record>(&entry)?);
        Ok(Logged { index: entry.log_id.index, term: entry.log_id.leader_id.term, hash })
    });
    entries.collect()
}

/// The log has no hole, each entry can be understood, and no entry is of an earlier term than the one before it.
fn check_log(engine: &dyn Engine) -> Result<(), StoreError> {
    stopped::edges::<Record>(engine)?;
    let mut before = 0;
    for entry in stopped::entries::<Record>(engine, 0) {
        let id = entry?.log_id;
        let term = id.leader_id.term;
        if term < before {
            return Err(StoreError::TermFalls { index: id.index, term, before });
        }
        before = term;
    }
    Ok(())
}

/// The state can be understood, and the log goes on where it ends.
fn check_state(engine: &dyn Engine) -> Result<(), StoreError> {
    let Applied { last_applied, .. } = read_state::<Record>(engine)?;
    let next = last_applied.map_or(0, |last| last.index + 1);
    match stopped::entries::<Record>(engine, 0).next().transpose()? {
        Some(first) if first.log_id.index > next => Err(StoreError::Missing { index: next }),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::engine::model::ModelDisk;
    use crate::engine::{Batch, Durability};
    use crate::raft_types::{LogEntry, Vote, log_id};

    fn log_of(terms: &[u64]) -> impl Engine {
        let engine = ModelDisk::new(1).engine();
        let entry =
            |(term, index): (&u64, u64)| LogEntry::<Record> { log_id: log_id(*term, index), payload: EntryPayload::Blank };
        let entries: Vec<_> = terms.iter().zip(0..).map(entry).collect();
        let mut batch = Batch::new();
        stopped::put_committed::<Record>(&mut batch, &Vote::new_committed(9, 1), &entries).unwrap();
        engine.write(batch, Durability::Synced).unwrap();
        engine
    }

    #[test]
    fn a_log_in_which_an_earlier_term_follows_a_later_one_is_damaged() {
        check_log(&log_of(&[1, 1, 3])).unwrap();
        let error = check_log(&log_of(&[1, 3, 2])).unwrap_err();
        assert_eq!(error.to_string(), "log entry 2 is of term 2, and the one before it of term 3: the store is damaged");
        assert!(error.is_damage());
    }

    #[test]
    fn two_logs_are_compared_entry_by_entry() {
        let (one, other) = (log(&log_of(&[1, 2])).unwrap(), log(&log_of(&[1, 3])).unwrap());
        assert_eq!((one[0].index, one[1].term, other[1].term), (0, 2, 3));
        assert_eq!(one[0], other[0]);
        assert_ne!(one[1].hash, other[1].hash);
    }
}
