//! RocksDB on a real disk: opened again, and killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use tribune_raft_store::raft_types::{Vote, log_id};
use tribune_raft_store::store::Store;

use crate::ledger::{Config, Ledger, append, append_later, apply, entries, ids, ledger, open as open_model, transfer};

const FOLDER: &str = "TRIBUNE_TEST_STORE";

fn open(folder: &Path) -> Store<Ledger> {
    Store::open(folder).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_opened_again_has_all_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    store.log.save_vote(&Vote::new_committed(2, 1)).await.unwrap();
    append(&mut store.log, entries(2, 0..=99)).await.unwrap();
    apply(&mut store.machine, entries(2, 0..=79)).await.unwrap();
    let mut builder = store.machine.get_snapshot_builder().await;
    let built = RaftSnapshotBuilder::<Config>::build_snapshot(&mut builder).await.unwrap();
    store.log.purge(log_id(2, 60)).await.unwrap();
    store.log.truncate_after(Some(log_id(2, 89))).await.unwrap();
    store.log.save_committed(Some(log_id(2, 79))).await.unwrap();
    append(&mut store.log, entries(3, 90..=95)).await.unwrap();
    drop((store, builder, built.snapshot));

    let mut store = open(folder.path());
    assert_eq!(store.log.reader().read_vote().await.unwrap(), Some(Vote::new_committed(2, 1)));
    assert_eq!(store.log.read_committed().await.unwrap(), Some(log_id(2, 79)));
    let found = ids(&store.log).await.unwrap();
    assert_eq!((found[0].index, found.last().cloned(), found.len()), (61, Some(log_id(3, 95)), 35));
    assert_eq!(store.applied.borrow().state.rows(), ledger(79).rows());
    let snapshot = store.machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(snapshot.meta, built.meta);
    // Its bytes install elsewhere.
    let mut other = open_model(&tribune_raft_store::engine::model::ModelDisk::new(0));
    let file = transfer(&snapshot.snapshot, &other.snapshots).await.unwrap();
    other.machine.install_snapshot(&snapshot.meta, file).await.unwrap();
    assert_eq!(other.applied.borrow().state.rows(), ledger(79).rows());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_tells_when_its_last_part_is_gone_and_only_then() {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..50 {
        let mut store = open(folder.path());
        let closed = store.closed.clone();
        drop(append_later(&mut store.log, entries(1, n..=n)).await.unwrap());
        let mut reader = store.log.reader();
        drop(store);
        let early = tokio::time::timeout(std::time::Duration::from_millis(1), closed.clone().wait()).await;
        assert!(early.is_err(), "a reader has it open still");
        reader.read_vote().await.unwrap();
        drop(reader);
        closed.wait().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_replaces_the_state_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = open_model(&tribune_raft_store::engine::model::ModelDisk::new(0));
    apply(&mut source.machine, entries(4, 0..=400)).await.unwrap();
    let mut builder = source.machine.get_snapshot_builder().await;
    let built = RaftSnapshotBuilder::<Config>::build_snapshot(&mut builder).await.unwrap();
    let mut store = open(folder.path());
    apply(&mut store.machine, entries(1, 0..=9)).await.unwrap();
    let file = transfer(&built.snapshot, &store.snapshots).await.unwrap();
    store.machine.install_snapshot(&built.meta, file).await.unwrap();
    store.log.purge(log_id(4, 400)).await.unwrap();
    append(&mut store.log, entries(4, 401..=402)).await.unwrap();
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.applied.borrow().state.rows(), ledger(400).rows());
    assert_eq!(store.snapshots.current().unwrap().meta, built.meta);
    assert_eq!(ids(&store.log).await.unwrap(), [log_id(4, 401), log_id(4, 402)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_file_that_was_damaged_on_disk_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    apply(&mut store.machine, entries(1, 0..=20)).await.unwrap();
    let mut builder = store.machine.get_snapshot_builder().await;
    drop(RaftSnapshotBuilder::<Config>::build_snapshot(&mut builder).await.unwrap());
    drop((store, builder));
    let file = std::fs::read_dir(folder.path().join("snapshots")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let store = open(folder.path());
    assert!(store.snapshots.current().is_none());
    assert!(!file.exists());
    assert_eq!(store.applied.borrow().state.rows(), ledger(20).rows());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_that_wait_for_the_disk_can_be_read_already() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    let mut flushed = Vec::new();
    for index in 0..200 {
        flushed.push(append_later(&mut store.log, entries(1, index..=index)).await.unwrap());
        assert_eq!(ids(&store.log).await.unwrap().len() as u64, index + 1);
    }
    for answer in flushed {
        answer.await.unwrap().unwrap();
    }
}

/// Not a test by itself: what the test below kills.
#[test]
#[ignore = "run by another test"]
fn child_that_writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut store = open(Path::new(&folder));
        let begin = store.log.get_log_state().await.unwrap().last_log_id.map_or(0, |id| id.index + 1);
        for index in begin.. {
            if index % 10 == 0 {
                store.log.save_vote(&Vote::new(index, 0)).await.unwrap();
                say(&format!("vote {index}"));
            }
            append(&mut store.log, entries(1, index..=index)).await.unwrap();
            say(&format!("entry {index}"));
            apply(&mut store.machine, entries(1, index..=index)).await.unwrap();
            if index % 50 == 49 {
                let mut builder = store.machine.get_snapshot_builder().await;
                let built = RaftSnapshotBuilder::<Config>::build_snapshot(&mut builder).await.unwrap();
                store.log.purge(built.meta.last_log_id.unwrap()).await.unwrap();
            }
        }
    });
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

#[tokio::test]
async fn whatever_was_acknowledged_is_there_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    for round in 1..=4_u64 {
        let (mut vote, mut entry) = (0, 0);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "disk::child_that_writes_until_it_is_killed", "--ignored", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // What the child says after the last line that was waited for counts too.
        let mut said = 0;
        for line in lines {
            let line = line.unwrap();
            let number = || line.split(' ').nth(1).unwrap().parse::<u64>().unwrap();
            match line.split(' ').next() {
                Some("vote") => vote = number(),
                Some("entry") => entry = number(),
                _ => continue,
            }
            said += 1;
            if said == 60 * round + 7 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let mut store = open(folder.path());
        let found = store.log.reader().read_vote().await.unwrap().unwrap();
        assert!(found.leader_id.term >= vote, "{found:?} after vote {vote}");
        let state = store.log.get_log_state().await.unwrap();
        let last = state.last_log_id.unwrap().index;
        assert!(last >= entry, "the log ends at {last} after entry {entry}");
        let first = state.last_purged_log_id.map_or(0, |id| id.index + 1);
        assert_eq!(ids(&store.log).await.unwrap().len() as u64, last + 1 - first);
        let applied = store.machine.applied_state().await.unwrap().0.unwrap().index;
        assert!(applied + 1 >= first);
        assert_eq!(store.applied.borrow().state.rows(), ledger(applied).rows());
        // The child counts what it appends, not what it applied: catch up as openraft would.
        let missing = store.log.reader().try_get_log_entries(applied + 1..).await.unwrap();
        apply(&mut store.machine, missing).await.unwrap();
    }
}
