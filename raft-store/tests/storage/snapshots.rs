//! Snapshots that break off, are damaged, or arrive while the power goes.

use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use tokio::io::AsyncReadExt;
use tribune_raft_store::engine::model::{Fault, ModelDisk};
use tribune_raft_store::raft_types::SnapshotMeta;
use tribune_raft_store::snapshot::folder::Folder;
use tribune_raft_store::snapshot::{Snapshot, SnapshotFile, Snapshots};
use tribune_raft_store::store::Store;

use crate::ledger::{Config, Ledger, State, apply, entries, ledger, open, transfer};

async fn build(machine: &mut State) -> Snapshot {
    let mut builder = machine.get_snapshot_builder().await;
    RaftSnapshotBuilder::<Config>::build_snapshot(&mut builder).await.unwrap()
}

/// The bytes of a snapshot of the state after entry 30, and what it is of.
async fn sent() -> (SnapshotMeta, Vec<u8>) {
    let mut store = open(&ModelDisk::new(0));
    apply(&mut store.machine, entries(2, 0..=30)).await.unwrap();
    let snapshot = build(&mut store.machine).await;
    let mut bytes = Vec::new();
    snapshot.snapshot.open().unwrap().read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes.len() as u64, snapshot.snapshot.bytes());
    (snapshot.meta, bytes)
}

async fn receive(snapshots: &Snapshots, bytes: &[u8]) -> SnapshotFile {
    let mut sink = snapshots.receive().unwrap();
    sink.write(bytes).await.unwrap();
    sink.finish().await.unwrap()
}

/// A store with the state after entry 5, and a snapshot of it.
async fn receiver(disk: &ModelDisk) -> Store<Ledger> {
    let mut store = open(disk);
    apply(&mut store.machine, entries(1, 0..=5)).await.unwrap();
    build(&mut store.machine).await;
    store
}

async fn is_old(store: &mut Store<Ledger>, what: &str) {
    assert_eq!(store.applied.borrow().state.rows(), ledger(5).rows(), "{what}");
    assert_eq!(store.machine.get_current_snapshot().await.unwrap().unwrap().meta.last_log_id.unwrap().index, 5, "{what}");
}

#[tokio::test]
async fn a_snapshot_that_breaks_off_at_any_byte_leaves_the_old_state_and_no_file() {
    let (meta, bytes) = sent().await;
    let disk = ModelDisk::new(0);
    let mut store = receiver(&disk).await;
    for length in 0..bytes.len() {
        let mut sink = store.snapshots.receive().unwrap();
        sink.write(&bytes[..length]).await.unwrap();
        drop(sink);
        let cut = receive(&store.snapshots, &bytes[..length]).await;
        let error = store.machine.install_snapshot(&meta, cut).await.unwrap_err().to_string();
        assert!(error.contains(".tmp is refused: it is cut short"), "{length}: {error}");
        is_old(&mut store, &format!("cut at {length}")).await;
        assert_eq!(disk.folder().list().unwrap().len(), 1, "only the old snapshot is left");
    }
    drop(store);
    is_old(&mut open(&disk), "opened again").await;
}

#[tokio::test]
async fn a_received_snapshot_with_any_byte_changed_is_refused() {
    let (meta, bytes) = sent().await;
    let disk = ModelDisk::new(0);
    let mut store = receiver(&disk).await;
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x40;
        let file = receive(&store.snapshots, &damaged).await;
        let error = store.machine.install_snapshot(&meta, file).await.unwrap_err().to_string();
        assert!(error.contains("is refused"), "{place}: {error}");
        is_old(&mut store, &format!("byte {place} changed")).await;
    }
}

#[tokio::test]
async fn a_snapshot_of_another_moment_than_announced_is_refused() {
    let (mut meta, bytes) = sent().await;
    meta.last_log_id = Some(tribune_raft_store::raft_types::log_id(2, 31));
    let mut store = receiver(&ModelDisk::new(0)).await;
    let file = receive(&store.snapshots, &bytes).await;
    let error = store.machine.install_snapshot(&meta, file).await.unwrap_err().to_string();
    assert!(error.contains("not of the log entry"), "{error}");
    is_old(&mut store, "another moment").await;
}

#[tokio::test]
async fn a_cut_of_power_at_any_step_of_an_installation_leaves_the_old_state_or_the_new() {
    let (meta, bytes) = sent().await;
    let mut seen = std::collections::BTreeSet::new();
    for step in 0.. {
        let mut finished = false;
        for seed in 0..16 {
            let disk = ModelDisk::new(seed);
            let mut store = receiver(&disk).await;
            let from = disk.steps();
            disk.plan(Some(Fault::PowerCut { step: from + step }));
            let result = async {
                let mut sink = store.snapshots.receive()?;
                for piece in bytes.chunks(100) {
                    sink.write(piece).await?;
                }
                let file = sink.finish().await?;
                store.machine.install_snapshot(&meta, file).await
            };
            let result = result.await;
            finished |= !disk.is_off();
            drop(store);
            disk.restart();
            let mut store = open(&disk);
            let applied = store.machine.applied_state().await.unwrap().0.unwrap().index;
            assert!(applied == 30 || (applied <= 5 && result.is_err()), "step {step}, seed {seed}: {applied}");
            assert_eq!(store.applied.borrow().state.rows(), ledger(applied).rows(), "step {step}, seed {seed}");
            let snapshot = store.snapshots.current().unwrap();
            assert!(snapshot.meta.last_log_id.unwrap().index <= applied);
            assert_eq!(disk.folder().list().unwrap().len(), 1, "what is left of the other is removed");
            seen.insert(applied);
        }
        if finished {
            break;
        }
    }
    assert!(seen.contains(&5) && seen.contains(&30), "{seen:?}");
}

#[tokio::test]
async fn a_damaged_snapshot_on_disk_is_dropped_and_can_be_built_again() {
    let disk = ModelDisk::new(0);
    drop(receiver(&disk).await);
    let name = disk.folder().list().unwrap().remove(0);
    disk.folder().damage(&name, 70).unwrap();
    let mut store = open(&disk);
    assert!(store.machine.get_current_snapshot().await.unwrap().is_none());
    assert_eq!(store.applied.borrow().state.rows(), ledger(5).rows());
    build(&mut store.machine).await;
    drop(store);
    is_old(&mut open(&disk), "built again").await;
}

#[tokio::test]
async fn a_snapshot_that_is_being_sent_stays_readable_when_a_newer_one_replaces_it() {
    let disk = ModelDisk::new(0);
    let mut store = receiver(&disk).await;
    let old = store.machine.get_current_snapshot().await.unwrap().unwrap();
    apply(&mut store.machine, entries(1, 6..=9)).await.unwrap();
    build(&mut store.machine).await;
    let copy = open(&ModelDisk::new(1));
    let file = transfer(&old.snapshot, &copy.snapshots).await.unwrap();
    assert_eq!(file.bytes(), old.snapshot.bytes());
    assert_eq!(disk.folder().list().unwrap().len(), 2);
    drop(old);
    assert_eq!(disk.folder().list().unwrap().len(), 1);
}

#[tokio::test]
async fn a_snapshot_that_is_overtaken_while_it_is_built_does_not_come_back() {
    let (meta, bytes) = sent().await;
    let disk = ModelDisk::new(0);
    let mut store = receiver(&disk).await;
    apply(&mut store.machine, entries(1, 6..=9)).await.unwrap();
    let mut builder = store.machine.get_snapshot_builder().await;
    let file = receive(&store.snapshots, &bytes).await;
    store.machine.install_snapshot(&meta, file).await.unwrap();
    let built = RaftSnapshotBuilder::<Config>::build_snapshot(&mut builder).await.unwrap();
    assert_eq!(built.meta, meta);
    drop((store, built, builder));
    assert_eq!(open(&disk).snapshots.current().unwrap().meta, meta);
}
