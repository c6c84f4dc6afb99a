//! What is refused, and in which words.

use std::fmt;

use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{RaftLogReader, type_config::TypeConfigExt};
use serde::{Deserialize, Serialize};
use tribune_raft_store::engine::model::{Fault, ModelDisk};
use tribune_raft_store::raft_types::{LogEntry, Replicated, TypeConfig, Vote, log_id};
use tribune_raft_store::record::{Change, LogPlace, Record, RecordError};
use tribune_raft_store::store::{Store, StoreError};

use crate::ledger::{Ledger, append, append_later, apply, entries, ids, ledger, open};

/// The ledger of a newer build: it has a command that ours does not know.
#[derive(Debug, Clone, Default)]
struct Newer(Ledger);

#[derive(Debug, Clone, Serialize, Deserialize)]
enum NewerCommand {
    Put { key: u8, text: String },
    Drop { key: u8 },
    Burn { pages: u8 },
}

impl fmt::Display for NewerCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Replicated for Newer {
    const SCHEMA: &'static str = Ledger::SCHEMA;
    type Command = NewerCommand;
    type Response = ();
    fn apply(&mut self, _: LogPlace, _: &NewerCommand) {}
    fn blank() {}
    fn take_changes(&mut self) -> Vec<Change> {
        Vec::new()
    }
    fn entries(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
        self.0.entries()
    }
    fn from_entries(rows: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<Self, RecordError> {
        Ledger::from_entries(rows).map(Self)
    }
}

async fn append_newer(disk: &ModelDisk, index: u64) {
    let mut newer: Store<Newer> = Store::open_model(disk).unwrap();
    let (sender, receiver) = TypeConfig::<Newer>::oneshot();
    let burn = LogEntry::<Newer> { log_id: log_id(1, index), payload: EntryPayload::Normal(NewerCommand::Burn { pages: 3 }) };
    newer.log.append([burn], IOFlushed::signal(sender)).await.unwrap();
    receiver.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_command_that_this_build_does_not_know_stops_it_and_is_not_skipped() {
    let disk = ModelDisk::new(0);
    append(&mut open(&disk).log, entries(1, 0..=2)).await.unwrap();
    append_newer(&disk, 3).await;
    // It is the last entry: the store does not open.
    let error = Store::<Ledger>::open_model(&disk).unwrap_err();
    assert!(matches!(error, StoreError::Entry { index: 3, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("log entry 3 cannot be applied") && text.contains("newer"), "{text}");
}

#[tokio::test]
async fn an_unknown_command_in_the_middle_ends_the_applying_after_what_was_before_it() {
    let disk = ModelDisk::new(0);
    append(&mut open(&disk).log, entries(1, 0..=2)).await.unwrap();
    append_newer(&disk, 3).await;
    let mut newer: Store<Newer> = Store::open_model(&disk).unwrap();
    let (sender, receiver) = TypeConfig::<Newer>::oneshot();
    let blank = LogEntry::<Newer> { log_id: log_id(1, 4), payload: EntryPayload::Blank };
    newer.log.append([blank], IOFlushed::signal(sender)).await.unwrap();
    receiver.await.unwrap().unwrap();
    drop(newer);
    let mut store = open(&disk);
    let mut reader = store.log.reader();
    let stream = reader.entries_stream(0..5).await;
    let stream = futures::StreamExt::map(stream, |entry| entry.map(|entry| (entry, None)));
    let error = store.machine.apply(stream).await.unwrap_err();
    assert!(error.to_string().contains("log entry 3"), "{error}");
    assert_eq!(store.applied.borrow().state.rows(), ledger(2).rows());
}

#[tokio::test]
async fn a_store_of_another_program_is_refused() {
    let disk = ModelDisk::new(0);
    drop(open(&disk));
    let error = Store::<Record>::open_model(&disk).unwrap_err();
    assert_eq!(error.to_string(), "the store holds \"ledger\" and not \"tribune-record\"; it belongs to another program");
}

#[tokio::test]
async fn a_failed_write_is_told_through_the_callback_and_nothing_is_written_after_it() {
    let disk = ModelDisk::new(0);
    let mut store = open(&disk);
    append(&mut store.log, entries(1, 0..=2)).await.unwrap();
    disk.plan(Some(Fault::Error { step: disk.steps() }));
    let told = append_later(&mut store.log, entries(1, 3..=3)).await.unwrap().await.unwrap();
    assert!(told.unwrap_err().to_string().contains("injected error"));
    // The disk works again, but nobody knows what is on it.
    let error = store.log.save_vote(&Vote::new(7, 1)).await.unwrap_err();
    assert!(error.to_string().contains("until the store is opened again"), "{error}");
    assert!(apply(&mut store.machine, entries(1, 0..=0)).await.is_err());
    drop(store);
    let store = open(&disk);
    assert_eq!(ids(&store.log).await.unwrap().len(), 3);
    assert_eq!(store.log.reader().read_vote().await.unwrap(), None);
}

#[tokio::test]
async fn an_append_that_would_leave_a_hole_is_refused() {
    let mut store = open(&ModelDisk::new(0));
    append(&mut store.log, entries(1, 0..=2)).await.unwrap();
    let error = append(&mut store.log, entries(1, 4..=4)).await.unwrap_err();
    assert_eq!(error.to_string(), "entry 4 cannot be appended; the next is 3");
}
