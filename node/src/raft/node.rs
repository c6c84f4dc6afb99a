//! [`RaftNode`]: Raft as the rest of the node sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError as Failure};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use tribune_messages::{RAFT_PROTOCOL, SNAPSHOT_PROTOCOL};
use tribune_p2p::network::{Incoming, NetworkError, Who};
use tribune_p2p::rpc::serve_rpc;
use tribune_p2p::{Limits, Network, blocking};
use tribune_raft_store::command::{Body, Entry, Response};
use tribune_raft_store::engine::EngineError;
use tribune_raft_store::machine::Applied;
use tribune_raft_store::model::{PeerId, Timestamp};
use tribune_raft_store::raft_types::{RaftPeer, Record};
use tribune_raft_store::store::{Store, StoreError};
use tribune_raft_store::writer::Closed;

use super::client::{self, Peers};
use super::error::{ChangeError, HandOverError, ProposeError, RaftError};
use super::leadership::{self, Leadership};
use super::members::{self, Progress};
use super::runtime::RaftRuntime;
use super::settings::RaftSettings;
use super::wire::MAX_ENTRY;
use super::{Engine, IsVoter, serve, snapshots};
use crate::world::Stores;

/// Masters that may wait to be replaced: only the latest counts.
const LOST: usize = 4;
/// How long a start waits for an earlier one, in the same process, to have let go of the store and the protocols.
const LET_GO: Duration = Duration::from_secs(5);
/// How long it waits between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// This node's part in Raft. Clones are the same; it ends with [`RaftNode::shutdown`], or at once with the last clone.
#[derive(Clone)]
pub struct RaftNode {
    shared: Arc<Shared>,
}

struct Shared {
    raft: Engine,
    settings: RaftSettings,
    peers: Peers,
    applied: watch::Receiver<Arc<Applied<Record>>>,
    leadership: watch::Receiver<Leadership>,
    failed: watch::Receiver<Option<String>>,
    lost: mpsc::Sender<PeerId>,
    /// Told to end, and has ended.
    stop: CancellationToken,
    stopped: CancellationToken,
    runtime: RaftRuntime,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl std::fmt::Debug for RaftNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RaftNode({})", self.id())
    }
}

impl RaftNode {
    /// Opens the store in `folder` and takes part in Raft as `id`, on threads of its own.
    ///
    /// A node that is in no Raft yet does nothing until it is [initialised](RaftNode::initialize), or until a master
    /// [adds](RaftNode::add_standby) it. The networks, control and data, have allow-lists that say where the others are.
    ///
    /// # Errors
    /// [`RaftError`]: a full disk, a damaged store, a store that another process has open.
    pub async fn start(
        id: u64,
        folder: &Path,
        networks: (&Network, &Network),
        is_voter: IsVoter,
        settings: RaftSettings,
    ) -> Result<Self, RaftError> {
        Self::start_on(RaftRuntime::start()?, id, folder, networks, is_voter, settings).await
    }

    /// The same on given threads, on which the control network runs too.
    ///
    /// # Errors
    /// As [`RaftNode::start`].
    pub async fn start_on(
        runtime: RaftRuntime,
        id: u64,
        folder: &Path,
        (control, data): (&Network, &Network),
        is_voter: IsVoter,
        settings: RaftSettings,
    ) -> Result<Self, RaftError> {
        let begun = Begin { id, folder: folder.to_owned(), control: control.clone(), data: data.clone(), is_voter, settings };
        let starting = runtime.handle().spawn(begun.run(runtime.clone()));
        let shared = starting.await.map_err(|error| RaftError::Stopped(error.to_string()))??;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Its Raft id.
    pub fn id(&self) -> u64 {
        *self.shared.raft.node_id()
    }

    /// Begins a cluster: this node, which has Raft id 0, as its only voter. Again, it does nothing.
    ///
    /// # Errors
    /// [`RaftError::Begun`] when its id is not 0.
    pub async fn initialize(&self, me: PeerId) -> Result<(), RaftError> {
        match self.shared.raft.initialize(BTreeMap::from([(0, RaftPeer::new(me))])).await {
            Ok(()) | Err(Failure::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(Failure::APIError(error)) => Err(RaftError::Begun(error.to_string())),
            Err(Failure::Fatal(fatal)) => Err(RaftError::Stopped(fatal.to_string())),
        }
    }

    /// The record as it is here after each batch of applied entries. On a voter or standby it may be behind.
    pub fn applied(&self) -> watch::Receiver<Arc<Applied<Record>>> {
        self.shared.applied.clone()
    }

    /// Who is master.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.clone()
    }

    /// Why Raft has stopped, once it has: its store failed, for example because the disk is full. It is then to be shut
    /// down, and started again when the cause is gone.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.shared.failed.clone()
    }

    /// Proposes an entry with the present time, and gives the answer of the record once it is committed and applied here.
    ///
    /// # Errors
    /// [`ProposeError`] says whether it may have been carried out.
    pub async fn propose(&self, body: Body) -> Result<Response, ProposeError> {
        let entry = Entry { time: wall_clock(), body };
        let bytes = rmp_serde::to_vec_named(&entry).map_or(usize::MAX, |bytes| bytes.len());
        if bytes > MAX_ENTRY {
            return Err(ProposeError::TooLarge { bytes, most: MAX_ENTRY });
        }
        let within = self.shared.settings.answer_within;
        let written = timeout(within, self.shared.raft.client_write(entry)).await.map_err(|_| ProposeError::Timeout(within))?;
        Ok(written.map_err(ChangeError::from)?.data)
    }

    /// The record with everything that was committed before this was called. A majority of the voters is asked.
    ///
    /// # Errors
    /// [`ProposeError`]; nothing was done in any case.
    pub async fn read(&self) -> Result<Arc<Applied<Record>>, ProposeError> {
        let raft = &self.shared.raft;
        let reading = async {
            let barrier = raft.get_read_linearizer(ReadPolicy::ReadIndex).await?;
            barrier.await_ready(raft).await?;
            Ok(self.shared.applied.borrow().clone())
        };
        let within = self.shared.settings.answer_within;
        timeout(within, reading).await.unwrap_or(Err(ProposeError::Timeout(within)))
    }

    /// The log index of the entry that says who is in Raft.
    pub fn membership_log_index(&self) -> Option<u64> {
        let metrics = self.shared.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.log_id().as_ref().map(|at| at.index)
    }

    /// Adds a standby under a Raft id that was never used. [`RaftNode::progress`] tells when it has caught up. Again, it does nothing.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn add_standby(&self, raft_id: u64, peer: PeerId) -> Result<(), ChangeError> {
        self.in_time(members::add_standby(&self.shared.raft, raft_id, peer)).await
    }

    /// Makes these the voters, in one joint change: at no time does a smaller or even number of them decide. New ones have to be
    /// standbys; those that vote no more are out of Raft. It is done only if the membership is still the one with the log index
    /// `seen`, under which the new voters were checked.
    ///
    /// # Errors
    /// [`ChangeError::Outdated`] when the membership is another; else as [`ChangeError`] says.
    pub async fn set_voters(&self, voters: BTreeSet<u64>, seen: Option<u64>) -> Result<(), ChangeError> {
        self.in_time(members::set_voters(&self.shared.raft, voters, seen)).await
    }

    /// Takes a voter or standby out of Raft. One that is not in it stays out. A master that takes itself out hands the mastership over
    /// soon after; better is to do so before.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn remove(&self, raft_id: u64) -> Result<(), ChangeError> {
        self.in_time(members::remove(&self.shared.raft, raft_id)).await
    }

    async fn in_time(&self, change: impl Future<Output = Result<(), ChangeError>>) -> Result<(), ChangeError> {
        let within = self.shared.settings.answer_within;
        timeout(within, change).await.unwrap_or_else(|_| Err(members::late(within)))
    }

    /// How far everyone in Raft is; `None` if this node is not the master.
    pub fn progress(&self) -> Option<Progress> {
        members::progress(&self.shared.raft)
    }

    /// Hands the mastership to a voter that just answered and has everything, and gives its Raft id and peer id once it is the master.
    ///
    /// # Errors
    /// [`HandOverError`] says whether this node is the master still.
    pub async fn hand_over(&self) -> Result<(u64, PeerId), HandOverError> {
        let Shared { raft, peers, settings, .. } = &*self.shared;
        let (raft, peers, settings) = (raft.clone(), peers.clone(), settings.clone());
        // On Raft's own threads, as the streams that it opens stay there.
        let handing = async move { leadership::hand_over(&raft, &peers, &settings).await };
        let handed = self.shared.runtime.handle().spawn(handing).await;
        handed.unwrap_or_else(|error| Err(HandOverError::Stopped(error.to_string())))
    }

    /// This voter's stream to the master closed: it stands for election at once, and does not wait for the master's lease to end.
    /// If the master lives, and the others hear it, nothing comes of it.
    pub fn lost(&self, master: PeerId) {
        // When several wait already, one of them is the same.
        let _ = self.shared.lost.try_send(master);
    }

    /// Ends. When this returns the store is closed and can be opened again.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.stopped.cancelled().await;
    }
}

fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// What a start needs.
struct Begin {
    id: u64,
    folder: PathBuf,
    control: Network,
    data: Network,
    is_voter: IsVoter,
    settings: RaftSettings,
}

impl Begin {
    async fn run(self, runtime: RaftRuntime) -> Result<Shared, RaftError> {
        let Self { id, folder, control, data, is_voter, settings } = self;
        let config = Arc::new(settings.config()?);
        let Store { log, machine, snapshots, applied, closed } = open(runtime.stores(), folder).await?;
        let peers = Peers::new(id, &control, &data, settings.election_max);
        let raft = Engine::new(id, config, peers.clone(), log, machine).await;
        let raft = raft.map_err(|fatal| RaftError::Stopped(fatal.to_string()))?;

        let (stop, stopped) = (CancellationToken::new(), CancellationToken::new());
        let (to_leadership, leadership) = watch::channel(Leadership::default());
        let (to_failed, failed) = watch::channel(None);
        let (lost, losses) = mpsc::channel(LOST);
        let calls = take_protocol(&control, RAFT_PROTOCOL, client::LIMITS).await?;
        let offers = take_protocol(&data, SNAPSHOT_PROTOCOL, snapshots::LIMITS).await?;

        let mut tasks = JoinSet::new();
        let (answering, voters) = (raft.clone(), is_voter.clone());
        let handler = move |peer, _, ask| serve::answer(answering.clone(), voters.clone(), peer, ask);
        tasks.spawn(serve_rpc(calls, serve::AT_ONCE, handler));
        tasks.spawn(snapshots::receive_all(offers, (raft.clone(), is_voter), snapshots, stop.clone()));
        let to = (to_leadership, to_failed);
        tasks.spawn(leadership::watch(raft.clone(), applied.clone(), settings.election_max, stop.clone(), to));
        tasks.spawn(leadership::stand(raft.clone(), settings.election_max * 2, losses));
        stand_alone(&raft).await;

        let ending = end(raft.clone(), tasks, closed, stop.clone(), stopped.clone());
        runtime.handle().spawn(ending);
        Ok(Shared { raft, settings, peers, applied, leadership, failed, lost, stop, stopped, runtime })
    }
}

/// The only voter need not wait for others.
async fn stand_alone(raft: &Engine) {
    let metrics = raft.metrics().borrow_watched().clone();
    if metrics.membership_config.membership().voter_ids().eq([metrics.id])
        && let Err(fatal) = raft.trigger().elect(false).await
    {
        warn!(%fatal, "Raft stopped at its start");
    }
}

async fn open(stores: Arc<dyn Stores>, folder: PathBuf) -> Result<Store, RaftError> {
    let began = Instant::now();
    loop {
        let (stores, path) = (stores.clone(), folder.clone());
        let opened = blocking::run(move || stores.open(&path)).await;
        match opened.map_err(|error| RaftError::Stopped(error.to_string()))? {
            Err(StoreError::Engine(EngineError::InUse { .. })) if began.elapsed() < LET_GO => sleep(LOOK_AGAIN).await,
            other => return Ok(other?),
        }
    }
}

async fn take_protocol(network: &Network, protocol: &'static str, limits: Limits) -> Result<Incoming, RaftError> {
    let began = Instant::now();
    loop {
        match network.serve(protocol, Who::Members, limits) {
            Err(NetworkError::ServedAlready(_)) if began.elapsed() < LET_GO => sleep(LOOK_AGAIN).await,
            other => return Ok(other?),
        }
    }
}

/// Waits until it is told to end, and ends everything, in the order in which one needs the other.
async fn end(raft: Engine, mut tasks: JoinSet<()>, closed: Closed, stop: CancellationToken, stopped: CancellationToken) {
    stop.cancelled().await;
    if let Err(error) = raft.shutdown().await {
        warn!(%error, "Raft did not end cleanly");
    }
    tasks.shutdown().await;
    drop(raft);
    // Raft's own tasks let go of the store one after the other.
    if timeout(LET_GO, closed.wait()).await.is_err() {
        warn!("Raft's store was not closed in time");
    }
    stopped.cancel();
}
