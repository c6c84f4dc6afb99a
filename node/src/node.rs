//! A running node: all its parts, in the order in which one needs the other, and their end in the opposite order.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use tribune_agent::agent::{Agent, AgentConfig};
use tribune_agent::keeper::{Children, KeeperClient};
use tribune_agent::processes::group;
use tribune_agent::processes::system::System;
use tribune_keeper::{Event, Hello};
use tribune_messages::node::Fence;
use tribune_p2p::Identity;
use tribune_p2p::blobs::BlobStore;
use tribune_p2p::network::NetworkError;
use tribune_p2p::transfer::{Fetcher, serve_blobs};

use crate::api::{Api, UserSocket};
use crate::belief::{Belief, BeliefKeeper, record_peer};
use crate::copied::{self, Copied};
use crate::data::DataFolder;
use crate::error::NodeError;
use crate::facts::VERSION;
use crate::listen::Networks;
use crate::modules::Modules;
use crate::peers::{self, Peers};
use crate::problems::Problems;
use crate::raft::{RaftNode, RaftRuntime, RaftSettings};
use crate::recovery::shown::{Listener, WAITING};
use crate::seat::{Seat, SeatKeeper};
use crate::session::{MasterSeen, Session};
use crate::settings::Settings;
use crate::store::PackageStore;
use crate::world::{Carrier, UsersHere, World};

/// How long a port may still be held by an agent that is just ending.
const PORT_FREE_WITHIN: Duration = Duration::from_secs(5);
const PORT_AGAIN: Duration = Duration::from_millis(50);
/// How long a clean stop may take, of the time that the keeper gives.
const STOP_MARGIN: Duration = Duration::from_secs(2);

/// What the node owns of the keeper: its children, what it says of itself, and what happens.
pub struct Kept {
    /// Starts and stops processes.
    pub children: Arc<dyn Children>,
    /// Who the keeper is.
    pub hello: Hello,
    /// What happens.
    pub events: mpsc::Receiver<Event>,
}

/// What can be seen of a running node from within.
#[derive(Debug, Clone)]
pub struct Inside {
    agent: Agent,
    seat: watch::Receiver<Option<Seat>>,
    belief: watch::Receiver<Arc<Belief>>,
}

impl Inside {
    /// Its agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Its part in Raft, while it has one.
    pub fn raft(&self) -> Option<RaftNode> {
        self.seat.borrow().as_ref().map(|seat| seat.raft.clone())
    }

    /// The highest fence that it has heard.
    pub fn fence(&self) -> Fence {
        self.belief.borrow().fence
    }
}

/// A running node.
pub struct Node {
    agent: Agent,
    networks: Networks,
    stop: CancellationToken,
    seats: watch::Receiver<Option<Seat>>,
    belief: watch::Receiver<Arc<Belief>>,
    seat: JoinHandle<Result<(), NodeError>>,
    session: JoinHandle<()>,
}

impl Node {
    /// Starts the node of a data folder, in a process that a keeper started.
    ///
    /// # Errors
    /// Whatever keeps it from running, as a sentence that says what to do.
    pub async fn start(folder: &Path) -> Result<Self, NodeError> {
        let data = DataFolder::open(folder)?;
        let failed = |why: String| NodeError::Start { part: "the agent", why };
        let connected = KeeperClient::from_environment(&format!("tribune {VERSION}")).await;
        let (children, hello, events) = connected.map_err(|error| failed(error.to_string()))?;
        Self::start_with(data, Kept { children: Arc::new(children), hello, events }, RaftSettings::default(), World::own()).await
    }

    /// Starts the node of a data folder with this keeper, in this world.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start_with(data: DataFolder, kept: Kept, raft_settings: RaftSettings, world: World) -> Result<Self, NodeError> {
        let settings = Settings::load(&data)?;
        let identity = Identity::load(&data.identity())?;
        let belief = BeliefKeeper::open(&data)?;
        check(&data, &settings, &identity, &belief.watch().borrow())?;
        let process_group = process_group(&data, &settings).await?;
        data.let_through(process_group)?;
        let runtime =
            RaftRuntime::of(&world).map_err(|error| NodeError::Start { part: "Raft's threads", why: error.to_string() })?;
        let networks = listen(&world.carrier, &runtime, &identity, &settings, &data).await?;
        let started = Starting {
            data,
            settings,
            process_group,
            identity,
            belief,
            runtime,
            networks: networks.clone(),
            raft_settings,
            world,
        };
        match started.start(kept).await {
            Ok(node) => Ok(node),
            Err(error) => {
                networks.shutdown().await;
                Err(error)
            }
        }
    }

    /// What can be seen of the node from within, while it runs.
    pub fn inside(&self) -> Inside {
        Inside { agent: self.agent.clone(), seat: self.seats.clone(), belief: self.belief.clone() }
    }

    /// Returns once the node is stopped by its keeper, or cannot go on.
    ///
    /// # Errors
    /// Why it cannot go on.
    pub async fn run(mut self) -> Result<(), NodeError> {
        let mut keeper = self.agent.keeper();
        let stopping = async {
            match keeper.wait_for(|keeper| keeper.stopping.is_some()).await {
                Ok(keeper) => keeper.stopping,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            within = stopping => {
                tracing::info!(?within, "the node stops");
                self.shutdown(within.unwrap_or_default()).await;
                Ok(())
            }
            () = self.agent.ended() => {
                tracing::error!("the keeper is gone: the agent ends, and services go on");
                self.shutdown(Duration::from_secs(5)).await;
                Ok(())
            }
            left = &mut self.seat => {
                let why = left.unwrap_or_else(|panic| Err(NodeError::Start { part: "Raft", why: panic.to_string() }));
                self.shutdown(Duration::from_secs(5)).await;
                why
            }
        }
    }

    /// Hands the mastership over if this node has it, ends the agent, and closes the networks.
    pub async fn shutdown(self, within: Duration) {
        let Self { agent, networks, stop, seats: _, belief: _, seat, session } = self;
        let ending = async {
            stop.cancel();
            if !seat.is_finished() {
                // How it ended was for `run` to say.
                let _ = seat.await;
            }
            agent.stop().await;
            session.abort();
            networks.shutdown().await;
        };
        let within = within.saturating_sub(STOP_MARGIN).max(STOP_MARGIN);
        if timeout(within, ending).await.is_err() {
            tracing::warn!(?within, "the node did not end in time; what is left is dropped");
        }
    }
}

/// Refuses a folder that was put together from two.
pub(crate) fn check(data: &DataFolder, settings: &Settings, identity: &Identity, belief: &Belief) -> Result<(), NodeError> {
    let mixed = |what: String| Err(NodeError::Mixed { folder: data.root().to_owned(), what });
    let peer = record_peer(&identity.peer_id());
    match belief.own() {
        Some(own) if own.peer != peer => {
            mixed(format!("cluster.json says that node {} is {}, and identity.key is that of {peer}", own.name, own.peer))
        }
        Some(own) if own.name != settings.name => {
            mixed(format!("cluster.json is of node {}, and node.toml names {}", own.name, settings.name))
        }
        Some(_) => Ok(()),
        // It was removed from the cluster, as far as it heard; the master says so to every node that asks.
        None => Ok(()),
    }
}

/// The number of the group that may open the process socket, if one is set.
async fn process_group(data: &DataFolder, settings: &Settings) -> Result<Option<u32>, NodeError> {
    let Some(group) = &settings.process_group else { return Ok(None) };
    let wrong = |why: String| NodeError::Setting { file: data.settings(), why: format!("process-group: {why}") };
    group::number_of(group).await.map(Some).map_err(wrong)
}

/// Starts the networks, the control network on Raft's threads. An agent before this one may still be about to end.
async fn listen(
    carrier: &Carrier,
    runtime: &RaftRuntime,
    identity: &Identity,
    settings: &Settings,
    data: &DataFolder,
) -> Result<Networks, NodeError> {
    let began = Instant::now();
    loop {
        let (carrier, identity, settings, data) = (carrier.clone(), identity.clone(), settings.clone(), data.clone());
        let starting = runtime.handle().spawn(async move { Networks::start(&carrier, &identity, &settings, &data).await });
        let started = starting.await.map_err(|panic| NodeError::Start { part: "the networks", why: panic.to_string() })?;
        match started {
            Err(NodeError::Listen { source: NetworkError::PortInUse { .. }, .. }) if began.elapsed() < PORT_FREE_WITHIN => {
                sleep(PORT_AGAIN).await;
            }
            Ok(networks) => {
                tracing::info!(control = ?networks.control.listening(), data = ?networks.data.listening(), "listening");
                return Ok(networks);
            }
            Err(error) => return Err(error),
        }
    }
}

/// A node whose networks listen.
struct Starting {
    data: DataFolder,
    settings: Settings,
    process_group: Option<u32>,
    identity: Identity,
    belief: BeliefKeeper,
    runtime: RaftRuntime,
    networks: Networks,
    raft_settings: RaftSettings,
    world: World,
}

impl Starting {
    async fn start(self, kept: Kept) -> Result<Node, NodeError> {
        let Self { data, settings, process_group, identity, belief, runtime, networks, raft_settings, world } = self;
        let (me, believed) = (identity.peer_id(), belief.watch());
        let name = believed.borrow().name.clone();
        allow(&networks, &believed.borrow());
        tokio::spawn(keep_allowed(networks.clone(), believed.clone()));

        let failed = |part: &'static str| move |why: String| NodeError::Start { part, why };
        let opened = PackageStore::open_keeping(
            data.packages(),
            networks.data.clone(),
            settings.reserve(),
            settings.forget_after.as_duration(),
        )
        .await;
        let store = opened.map_err(|error| failed("the package store")(error.to_string()))?;
        let peers = peers::client(&networks.control);
        let seen = watch::Sender::new(MasterSeen::nobody());
        let seat = watch::Sender::new(None);
        let broken = watch::Sender::new(None);
        let problems = Problems::none();
        let named = watch::Sender::new(None);
        let (to_copied, copied) = watch::channel(Copied::No);
        let follower = copied::Follower {
            me,
            turned_away: networks.control.turned_away(),
            connected: networks.control.connections(),
            belief: believed.clone(),
            named: named.subscribe(),
            seen: seen.subscribe(),
            problems: problems.clone(),
        };
        tokio::spawn(follower.run(to_copied));
        let modules = Modules {
            me,
            own: store.blobs().clone(),
            fetcher: Fetcher::new(networks.data.clone()),
            belief: believed.clone(),
            seen: seen.subscribe(),
        };
        // Only read from: the agent, which writes there, opens it after this.
        let staged = BlobStore::open_with_reserve(data.modules(), settings.reserve()).await;
        let staged = staged.map_err(|error| failed("the local storage")(error.to_string()))?;
        let agent = start_agent(&data, &settings, process_group, world.system, kept, modules).await?;
        serve_blobs(&networks.data, vec![store.blobs().clone(), staged])?;

        let control = networks.control.clone();
        let (to_seat, to_seen, seated) = (seat.subscribe(), seen.subscribe(), seat.subscribe());
        let answers = Peers {
            control: control.clone(),
            belief: believed.clone(),
            seat: to_seat.clone(),
            seen: to_seen.clone(),
            agent: agent.clone(),
            store: store.clone(),
        };
        answers.serve()?;
        let (to_owner, shown) = mpsc::channel(WAITING);
        Listener { me, belief: believed.clone(), seen: to_seen.clone(), to_owner }.serve(&control)?;
        let stop = CancellationToken::new();
        let api = Api {
            me,
            identity,
            data: data.clone(),
            settings: settings.clone(),
            control: control.clone(),
            peers: peers.clone(),
            belief: believed.clone(),
            seat: to_seat.clone(),
            seen: to_seen,
            agent: agent.clone(),
            problems: problems.clone(),
        };
        let socket = match world.users {
            UsersHere::Served => Some(UserSocket::bind(&data.user_socket())?),
            UsersHere::Nobody => None,
        };
        Arc::new(api).serve(socket, stop.clone())?;

        let span = tracing::info_span!("node", node = %name);
        let session = Session {
            me,
            settings,
            belief,
            control,
            data: networks.data.clone(),
            peers: peers.clone(),
            seat: to_seat,
            broken: broken.subscribe(),
            agent: agent.clone(),
            seen,
            named,
            problems: problems.clone(),
        };
        let session = tokio::spawn(session.run(shown).instrument(span.clone()));
        let seats = SeatKeeper {
            me,
            data,
            networks: networks.clone(),
            runtime,
            raft_settings,
            peers,
            store,
            belief: believed.clone(),
            seat,
            broken,
            problems,
            copied,
        };
        let seat = tokio::spawn(seats.run(stop.clone()).instrument(span));
        tracing::info!(node = %name, peer = %me, "the node runs");
        Ok(Node { agent, networks, stop, seats: seated, belief: believed, seat, session })
    }
}

async fn start_agent(
    data: &DataFolder,
    settings: &Settings,
    process_group: Option<u32>,
    system: Arc<dyn System>,
    kept: Kept,
    modules: Modules,
) -> Result<Agent, NodeError> {
    let config = AgentConfig {
        data: data.root().to_owned(),
        node: settings.name.clone(),
        platform: settings.platform.clone(),
        runners: settings.runner_commands().map_err(|why| NodeError::Setting { file: data.settings(), why })?,
        process_group,
        reserve: settings.reserve(),
        system,
    };
    let Kept { children, hello, events } = kept;
    let started = Agent::start(config, children, hello, events, Arc::new(modules)).await;
    started.map_err(|error| NodeError::Start { part: "the agent", why: error.to_string() })
}

/// Lets in whom the node believes to be in the cluster, whenever that changes.
async fn keep_allowed(networks: Networks, mut belief: watch::Receiver<Arc<Belief>>) {
    let mut last = belief.borrow_and_update().view.clone();
    while belief.changed().await.is_ok() {
        let now = belief.borrow_and_update().clone();
        if now.view != last {
            allow(&networks, &now);
            last = now.view.clone();
        }
    }
}

fn allow(Networks { control, data }: &Networks, belief: &Belief) {
    control.set_allowed(belief.control_list());
    data.set_allowed(belief.data_list());
}
