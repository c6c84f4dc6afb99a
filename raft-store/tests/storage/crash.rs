//! The power is cut before every single step of a long story; what was acknowledged is there afterwards.

use std::collections::BTreeMap;
use std::io;

use openraft::storage::{RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{RaftLogReader, StorageHelper};
use tribune_raft_store::engine::model::{Fault, ModelDisk};
use tribune_raft_store::raft_types::{LogId, SnapshotMeta, StoredMembership, Vote, log_id};
use tribune_raft_store::snapshot::{SnapshotFile, Snapshots};
use tribune_raft_store::store::Store;

use crate::ledger::{Ledger, append, apply, entries, ids, ledger, membership, open, transfer};

#[derive(Debug, Clone)]
enum Act {
    Vote(Vote),
    Append(u64, std::ops::RangeInclusive<u64>),
    Truncate(u64),
    Purge(LogId),
    Committed(LogId),
    /// Applies the entries of a term.
    Apply(u64, std::ops::RangeInclusive<u64>),
    Build,
    /// Takes over the other node's snapshot.
    Install,
}

/// What a store was asked and what it acknowledged.
#[derive(Debug, Default)]
struct Oracle {
    vote: Option<Vote>,
    vote_asked: Option<Vote>,
    /// The entries that must be there.
    acknowledged: BTreeMap<u64, u64>,
    /// Every term that an index was ever appended with.
    asked: BTreeMap<u64, Vec<u64>>,
    purge_asked: Option<u64>,
    applied_asked: Option<u64>,
}

impl Oracle {
    fn before(&mut self, act: &Act) {
        match act {
            Act::Vote(vote) => self.vote_asked = Some(*vote),
            Act::Append(term, indexes) => indexes.clone().for_each(|index| self.asked.entry(index).or_default().push(*term)),
            Act::Truncate(last) => drop(self.acknowledged.split_off(&(last + 1))),
            Act::Purge(id) => {
                self.purge_asked = Some(id.index);
                self.acknowledged = self.acknowledged.split_off(&(id.index + 1));
            }
            Act::Apply(_, indexes) => self.applied_asked = Some(*indexes.end()),
            Act::Install => self.applied_asked = Some(OTHER),
            Act::Committed(_) | Act::Build => {}
        }
    }

    fn after(&mut self, act: &Act) {
        match act {
            Act::Vote(vote) => self.vote = Some(*vote),
            Act::Append(term, indexes) => self.acknowledged.extend(indexes.clone().map(|index| (index, *term))),
            _ => {}
        }
    }

    async fn check(&self, store: &mut Store<Ledger>, what: &str) {
        let vote = store.log.reader().read_vote().await.unwrap();
        assert!(vote == self.vote || vote == self.vote_asked, "{what}: vote {vote:?} in {self:?}");
        let state = store.log.get_log_state().await.unwrap();
        // Reading fails if there is a hole.
        let log = ids(&store.log).await.unwrap();
        let first = state.last_purged_log_id.as_ref().map_or(0, |id| id.index + 1);
        for (place, id) in log.iter().enumerate() {
            assert_eq!(id.index, first + place as u64, "{what}: {log:?}");
            assert!(self.asked[&id.index].contains(&id.leader_id.term), "{what}: {id:?} was never appended");
        }
        let present: BTreeMap<u64, u64> = log.iter().map(|id| (id.index, id.leader_id.term)).collect();
        for (index, term) in &self.acknowledged {
            assert_eq!(present.get(index), Some(term), "{what}: entry {index} was acknowledged, {self:?}");
        }
        let (applied, _) = store.machine.applied_state().await.unwrap();
        let applied_index = applied.as_ref().map(|id| id.index);
        assert!(applied_index <= self.applied_asked, "{what}");
        assert!(state.last_purged_log_id.map(|id| id.index) <= applied_index, "{what}: purged what was not applied");
        let expected = applied_index.map_or_else(Ledger::default, ledger);
        assert_eq!(store.applied.borrow().state.rows(), expected.rows(), "{what}: the state is not that of {applied:?}");
        let snapshot = store.snapshots.current().and_then(|snapshot| snapshot.meta.last_log_id);
        assert!(snapshot <= applied, "{what}: the snapshot of {snapshot:?} is ahead of {applied:?}");
    }
}

async fn take(store: &mut Store<Ledger>, act: &Act, other: &Other) -> io::Result<()> {
    match act.clone() {
        Act::Vote(vote) => store.log.save_vote(&vote).await,
        Act::Append(term, indexes) => append(&mut store.log, entries(term, indexes)).await,
        Act::Truncate(last) => {
            let term = ids(&store.log).await?.iter().find(|id| id.index == last).map_or(1, |id| id.leader_id.term);
            store.log.truncate_after(Some(log_id(term, last))).await
        }
        Act::Purge(id) => store.log.purge(id).await,
        Act::Committed(id) => store.log.save_committed(Some(id)).await,
        Act::Apply(term, indexes) => apply(&mut store.machine, entries(term, indexes)).await,
        Act::Build => {
            let mut builder = store.machine.get_snapshot_builder().await;
            RaftSnapshotBuilder::<crate::ledger::Config>::build_snapshot(&mut builder).await.map(drop)
        }
        Act::Install => {
            let file = transfer(&other.file, &store.snapshots).await?;
            store.machine.install_snapshot(&other.meta, file).await
        }
    }
}

/// The last entry in the other node's snapshot.
const OTHER: u64 = 30;

struct Other {
    meta: SnapshotMeta,
    file: SnapshotFile,
    _snapshots: Snapshots,
}

async fn other_node() -> Other {
    let mut store = open(&ModelDisk::new(0));
    apply(&mut store.machine, entries(3, 0..=OTHER)).await.unwrap();
    let mut builder = store.machine.get_snapshot_builder().await;
    let snapshot = RaftSnapshotBuilder::<crate::ledger::Config>::build_snapshot(&mut builder).await.unwrap();
    Other { meta: snapshot.meta, file: snapshot.snapshot, _snapshots: store.snapshots }
}

fn story() -> Vec<Act> {
    vec![
        Act::Vote(Vote::new(1, 0)),
        Act::Vote(Vote::new_committed(1, 0)),
        Act::Append(1, 0..=4),
        Act::Committed(log_id(1, 3)),
        Act::Apply(1, 0..=3),
        Act::Append(1, 5..=9),
        Act::Committed(log_id(1, 8)),
        Act::Apply(1, 4..=8),
        Act::Build,
        Act::Purge(log_id(1, 5)),
        Act::Append(1, 10..=14),
        Act::Vote(Vote::new(2, 1)),
        Act::Truncate(12),
        Act::Append(2, 13..=16),
        Act::Committed(log_id(2, 14)),
        Act::Apply(1, 9..=12),
        Act::Apply(2, 13..=14),
        Act::Build,
        Act::Purge(log_id(1, 10)),
        Act::Vote(Vote::new(3, 2)),
        Act::Append(2, 17..=18),
        Act::Install,
        Act::Purge(log_id(3, OTHER)),
        Act::Append(3, OTHER + 1..=OTHER + 3),
        Act::Committed(log_id(3, OTHER + 2)),
        Act::Apply(3, OTHER + 1..=OTHER + 2),
        Act::Build,
        Act::Purge(log_id(3, OTHER + 2)),
    ]
}

/// Tells the story until something fails. Gives what was acknowledged.
async fn tell(disk: &ModelDisk, other: &Other) -> Oracle {
    let mut oracle = Oracle::default();
    let Ok(mut store) = Store::open_model(disk) else { return oracle };
    for act in story() {
        oracle.before(&act);
        if take(&mut store, &act, other).await.is_err() {
            break;
        }
        oracle.after(&act);
    }
    oracle
}

/// What a node does after a restart: openraft looks at all that is stored, and life goes on.
async fn goes_on(store: &mut Store<Ledger>, what: &str) {
    let mut helper = StorageHelper::new(&mut store.log, &mut store.machine).with_id(0);
    helper.get_initial_state().await.unwrap_or_else(|e| panic!("{what}: {e}"));
    let (applied, _) = store.machine.applied_state().await.unwrap();
    let expected = applied.as_ref().map_or_else(Ledger::default, |id| ledger(id.index));
    assert_eq!(store.applied.borrow().state.rows(), expected.rows(), "{what}");
    let next = store.log.get_log_state().await.unwrap().last_log_id.map_or(0, |id| id.index + 1);
    append(&mut store.log, entries(9, next..=next + 1)).await.unwrap();
}

#[tokio::test]
async fn whatever_is_acknowledged_survives_a_cut_of_power_at_every_step() {
    let other = other_node().await;
    let whole = ModelDisk::new(0);
    tell(&whole, &other).await.check(&mut open(&whole), "the whole story").await;
    let steps = whole.steps();
    assert!(steps > 60, "{steps} steps");
    for step in 0..steps {
        for seed in 0..8 {
            let what = format!("power cut before step {step}, seed {seed}");
            let disk = ModelDisk::new(seed);
            disk.plan(Some(Fault::PowerCut { step }));
            let oracle = tell(&disk, &other).await;
            disk.restart();
            let mut store = open(&disk);
            oracle.check(&mut store, &what).await;
            goes_on(&mut store, &what).await;
            // And again, at once: opening and going on must not have lost anything either.
            drop(store);
            disk.restart();
            let mut store = open(&disk);
            goes_on(&mut store, &what).await;
        }
    }
}

#[tokio::test]
async fn a_disk_that_fails_at_any_step_loses_nothing_that_was_acknowledged() {
    let other = other_node().await;
    let whole = ModelDisk::new(0);
    tell(&whole, &other).await;
    for step in 0..whole.steps() {
        for fault in [Fault::Error { step }, Fault::Full { step }] {
            let what = format!("{fault:?}");
            let disk = ModelDisk::new(step);
            disk.plan(Some(fault));
            let oracle = tell(&disk, &other).await;
            disk.restart();
            let mut store = open(&disk);
            oracle.check(&mut store, &what).await;
            goes_on(&mut store, &what).await;
        }
    }
}

#[tokio::test]
async fn a_membership_survives_a_restart_with_the_state() {
    let disk = ModelDisk::new(0);
    let mut store = open(&disk);
    let mut entry = crate::ledger::entry(1, 0);
    entry.payload = openraft::EntryPayload::Membership(membership([1, 2, 3]));
    apply(&mut store.machine, vec![entry]).await.unwrap();
    store.log.save_vote(&Vote::new(1, 0)).await.unwrap();
    drop(store);
    disk.restart();
    let (applied, found) = open(&disk).machine.applied_state().await.unwrap();
    assert_eq!(applied, Some(log_id(1, 0)));
    assert_eq!(found, StoredMembership::new(Some(log_id(1, 0)), membership([1, 2, 3])));
}
