//! The storage under a real Raft: entries, purges, a snapshot sent to a newcomer, restarts.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{AnyError, OptionalSend, Raft, SnapshotPolicy};
use tribune_raft_store::engine::EngineError;
use tribune_raft_store::engine::model::ModelDisk;
use tribune_raft_store::raft_types::{RaftPeer, Vote};
use tribune_raft_store::snapshot::{Snapshot, SnapshotFile, Snapshots};
use tribune_raft_store::store::{Store, StoreError};

use crate::ledger::{Config, Ledger, State, command, transfer};

type Node = Raft<Config, State>;
type Nodes = Arc<Mutex<BTreeMap<u64, (Node, Snapshots)>>>;

/// Calls the other nodes directly.
#[derive(Clone)]
struct Network {
    nodes: Nodes,
    target: u64,
}

impl Network {
    fn target(&self) -> Result<(Node, Snapshots), Unreachable<Config>> {
        self.nodes.lock().unwrap().get(&self.target).cloned().ok_or_else(|| Unreachable::from_string("it is not there"))
    }
}

fn unreachable(error: impl std::error::Error + 'static) -> Unreachable<Config> {
    Unreachable::from_string(AnyError::new(&error).to_string())
}

impl RaftNetworkFactory<Config> for Network {
    type Network = Self;
    async fn new_client(&mut self, target: u64, _: &RaftPeer) -> Self {
        Self { nodes: Arc::clone(&self.nodes), target }
    }
}

impl RaftNetworkV2<Config> for Network {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Config>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Config>, RPCError<Config>> {
        let (node, _) = self.target()?;
        Ok(node.append_entries(rpc).await.map_err(unreachable)?)
    }

    async fn vote(&mut self, rpc: VoteRequest<Config>, _: RPCOption) -> Result<VoteResponse<Config>, RPCError<Config>> {
        let (node, _) = self.target()?;
        Ok(node.vote(rpc).await.map_err(unreachable)?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Config>, StreamingError<Config>> {
        let (node, snapshots) = self.target()?;
        let file = transfer(&snapshot.snapshot, &snapshots).await.map_err(unreachable)?;
        Ok(node.install_full_snapshot(vote, Snapshot { meta: snapshot.meta, snapshot: file }).await.map_err(unreachable)?)
    }
}

fn config() -> Arc<openraft::Config> {
    let config = openraft::Config {
        snapshot_policy: SnapshotPolicy::LogsSinceLast(40),
        max_in_snapshot_log_to_keep: 10,
        purge_batch_size: 1,
        ..Default::default()
    };
    Arc::new(config.validate().unwrap())
}

async fn start(id: u64, store: Store<Ledger>, nodes: &Nodes) -> Node {
    let network = Network { nodes: Arc::clone(nodes), target: id };
    let raft = Raft::new(id, config(), network, store.log, store.machine).await.unwrap();
    nodes.lock().unwrap().insert(id, (raft.clone(), store.snapshots));
    raft
}

const LONG: Option<Duration> = Some(Duration::from_secs(60));

async fn tell(node: &Node, count: u64) -> u64 {
    let mut last = 0;
    for _ in 0..count {
        let next = node.metrics().borrow_watched().last_log_index.unwrap_or(0) + 1;
        let answer = node.client_write(command(next)).await.unwrap();
        assert!(answer.data.is_some());
        last = answer.log_id.index;
    }
    last
}

async fn story(open: impl Fn(u64) -> Store<Ledger>, restart: impl Fn(u64)) {
    let nodes = Nodes::default();
    let first = start(0, open(0), &nodes).await;
    first.initialize(BTreeMap::from([(0, RaftPeer::default())])).await.unwrap();
    first.wait(LONG).current_leader(0, "alone").await.unwrap();
    let last = tell(&first, 100).await;
    first.wait(LONG).metrics(|m| m.purged.as_ref().is_some_and(|id| id.index > 50), "purged").await.unwrap();

    // The newcomer lacks what was purged, so it gets a snapshot.
    let store = open(1);
    let applied = store.applied.clone();
    let second = start(1, store, &nodes).await;
    first.add_learner(1, RaftPeer::default(), true).await.unwrap();
    let metrics = second.wait(LONG).applied_index_at_least(Some(last), "caught up").await.unwrap();
    assert!(metrics.snapshot.is_some());
    assert_eq!(applied.borrow().state.applied(), 100);
    drop(applied);

    nodes.lock().unwrap().clear();
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
    drop((first, second));
    (0..2).for_each(&restart);

    // What was lost of the state, which is written behind, is applied again from the log.
    let store = open(1);
    let applied = store.applied.clone();
    let second = start(1, store, &nodes).await;
    let first = start(0, open(0), &nodes).await;
    first.wait(LONG).current_leader(0, "leads again").await.unwrap();
    let last = tell(&first, 60).await;
    second.wait(LONG).applied_index_at_least(Some(last), "caught up again").await.unwrap();
    assert_eq!(applied.borrow().state.applied(), 160);
    nodes.lock().unwrap().clear();
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_cluster_purges_sends_snapshots_and_restarts_on_the_model_engine() {
    let disks = [ModelDisk::new(1), ModelDisk::new(2)];
    let disk = |id: u64| &disks[usize::try_from(id).unwrap()];
    story(|id| Store::open_model(disk(id)).unwrap(), |id| disk(id).restart()).await;
}

/// Opens a store once the Raft that had it has let go of it: its tasks end after its shutdown.
fn open_free(folder: &Path) -> Store<Ledger> {
    let began = Instant::now();
    loop {
        match Store::open(folder) {
            Err(StoreError::Engine(EngineError::InUse { .. })) if began.elapsed() < Duration::from_secs(20) => {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_purges_sends_snapshots_and_restarts_on_rocksdb() {
    let folder = tempfile::tempdir().unwrap();
    story(|id| open_free(&folder.path().join(id.to_string())), |_| {}).await;
}
