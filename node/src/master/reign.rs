//! A mastership, from the moment Raft makes this node the master until it does not any more.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{RwLock, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info};
use tribune_master::{Liveness, MasterClock};
use tribune_messages::node::Fence;
use tribune_p2p::rpc::RpcClient;
use tribune_raft_store::command::{Body, MasterCommand, Response};
use tribune_raft_store::machine::Applied;
use tribune_raft_store::model::{NodeName, Signature, Timestamp};
use tribune_raft_store::record::Record;

use super::published::Published;
use super::sessions::Seat;
use super::{Parts, coordinator, copies, herald, members, published, replicas};
use crate::raft::{ProposeError, RaftNode};
use crate::store::PackageStore;

/// How long a reign whose task failed waits before it begins anew.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The blobs that a node was last found to have.
pub(super) type Replica = Arc<BTreeMap<Signature, u64>>;

/// A mastership: what is known for as long as it lasts.
#[derive(Debug)]
pub(super) struct Reign {
    pub raft: RaftNode,
    /// The master's own node.
    pub name: NodeName,
    pub peers: RpcClient,
    pub store: PackageStore,
    /// Raft's term: each mastership has its own.
    pub term: u64,
    pub published: watch::Receiver<Arc<Published>>,
    /// Who is there.
    pub liveness: watch::Sender<Liveness>,
    /// The sessions, by node.
    pub seats: Mutex<HashMap<NodeName, Seat>>,
    /// What each voter and standby holds of the package store.
    pub replicas: watch::Sender<BTreeMap<NodeName, Replica>>,
    /// Held for reading while packages are published, for writing while a standby is checked and promoted: receipts count under one
    /// membership.
    pub publishing: RwLock<()>,
    /// Set when the mastership ends.
    pub over: CancellationToken,
    sequence: AtomicU64,
    began: Instant,
    _ends: DropGuard,
}

impl Reign {
    fn begin(parts: &Parts, term: u64, published: watch::Receiver<Arc<Published>>) -> Self {
        let Parts { raft, name, control: _, peers, store } = parts.clone();
        let over = CancellationToken::new();
        let mut liveness = Liveness::new(MasterClock(0));
        // The master's own node is there, whether its agent is or not.
        liveness.heard(&name, MasterClock(0), &Default::default());
        Self {
            raft,
            name,
            peers,
            store,
            term,
            published,
            liveness: watch::Sender::new(liveness),
            seats: Mutex::default(),
            replicas: watch::Sender::new(BTreeMap::new()),
            publishing: RwLock::new(()),
            over: over.clone(),
            // Terms order reigns already; this keeps the order also if a term should ever be used twice.
            sequence: AtomicU64::new(wall_clock_micros()),
            began: Instant::now(),
            _ends: over.drop_guard(),
        }
    }

    /// The master's own clock.
    pub(super) fn now(&self) -> MasterClock {
        MasterClock(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// When the master's clock shows this time.
    pub(super) fn instant(&self, at: MasterClock) -> Instant {
        self.began + Duration::from_millis(at.0)
    }

    /// The record as it is applied here.
    pub(super) fn applied(&self) -> Arc<Applied<Record>> {
        self.raft.applied().borrow().clone()
    }

    /// Proposes what only the master proposes.
    pub(super) async fn propose(&self, command: MasterCommand) -> Result<Response, ProposeError> {
        self.raft.propose(Body::Master(Box::new(command))).await
    }

    /// The next fence: greater than all before.
    pub(super) fn fence(&self, epoch: u64) -> Fence {
        Fence { epoch, term: self.term, sequence: self.sequence.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

/// The master's time.
pub(super) fn wall_clock() -> Timestamp {
    Timestamp(wall_clock_micros() / 1000)
}

fn wall_clock_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Follows Raft: begins a reign when this node becomes the master, ends it when it is not any more.
pub(super) async fn follow(parts: Parts, to: watch::Sender<Option<Arc<Reign>>>, stop: CancellationToken) {
    let mut leadership = parts.raft.leadership();
    loop {
        let master = tokio::select! {
            () = stop.cancelled() => return,
            master = leadership.wait_for(|leadership| leadership.is_master) => master.map(|leadership| leadership.term),
        };
        // Raft has ended.
        let Ok(term) = master else { return };
        info!(term, node = %parts.name, "this node is the master");
        let failed = {
            let (mut tasks, reign) = begin(&parts, term);
            to.send_replace(Some(reign.clone()));
            let failed = tokio::select! {
                () = stop.cancelled() => false,
                _ = leadership.wait_for(|leadership| !leadership.is_master || leadership.term != term) => false,
                ended = tasks.join_next() => {
                    if let Some(Err(failure)) = ended {
                        error!(%failure, "a task of the master failed; it begins anew");
                    }
                    true
                }
            };
            to.send_replace(None);
            reign.over.cancel();
            tasks.shutdown().await;
            failed
        };
        info!(term, node = %parts.name, "this node is not the master any more");
        if failed {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(AFTER_FAILURE) => {}
            }
        }
    }
}

fn begin(parts: &Parts, term: u64) -> (JoinSet<()>, Arc<Reign>) {
    let mut tasks = JoinSet::new();
    let applied = parts.raft.applied();
    let (to_published, published) = watch::channel(Arc::new(Published::first(applied.borrow().clone())));
    let reign = Arc::new(Reign::begin(parts, term, published));
    tasks.spawn(published::publish(applied, to_published));
    tasks.spawn(coordinator::coordinate(reign.clone()));
    tasks.spawn(members::keep_members(reign.clone()));
    tasks.spawn(replicas::keep_replicas(reign.clone()));
    tasks.spawn(herald::show_recovery(reign.clone(), parts.control.clone()));
    tasks.spawn(copies::note_copies(reign.clone(), parts.control.copies()));
    (tasks, reign)
}
