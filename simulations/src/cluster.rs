//! A whole cluster in a bottle: machines on turmoil, each with a node, and how it is brought up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::time::sleep;
use tribune_node::backup::restore::{Existing, RestoreOptions, restore_on};
use tribune_node::data::DataFolder;
use tribune_node::init::{InitOptions, init_on};
use tribune_node::join::{JoinOptions, join_on};
use tribune_node::node::{Inside, Node};
use tribune_node::raft::RaftSettings;
use tribune_node::recovery::force::{RecoverOptions, recover_on};
use tribune_node::world::Carrier;
use tribune_p2p::Multiaddr;
use tribune_raft_store::command::JoinAs;
use tribune_raft_store::model::{NodeName, Span, VoterPreference};

use crate::machine::wire::TurmoilWire;
use crate::machine::{Machine, disk};
use crate::trace::Trace;

/// The port of the control network on every machine.
pub const CONTROL: u16 = 7400;
/// The port of the data network.
pub const DATA: u16 = 7401;
/// How long after an agent ended the keeper starts another.
const AGENT_AGAIN: Duration = Duration::from_millis(500);
/// How often somebody looks for what another machine puts there.
const LOOK: Duration = Duration::from_millis(100);

/// From what a node goes on alone when a majority of the voters is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GoesOn {
    /// From what it has on its disk.
    FromItsDisk,
    /// From a backup, on an empty disk.
    FromBackup(PathBuf),
}

/// What all machines of a run share.
#[derive(Debug, Default)]
pub struct Shared {
    /// The address and identity of the first node, once it is made.
    pub first: Option<String>,
    /// Tokens by node.
    pub tokens: BTreeMap<String, String>,
    /// What can be seen of each node that runs.
    pub inside: BTreeMap<String, Inside>,
    /// Why a node does not run, if it should.
    pub down: BTreeMap<String, String>,
    /// Where each node listens, with its identity.
    pub peers: BTreeMap<String, String>,
    /// Machines whose nodes are in no cluster yet, and that nobody has let in.
    pub spare: BTreeSet<String>,
    /// Nodes whose disk was lost, and that nobody has let in again.
    pub lost: BTreeSet<String>,
    /// The node that is to go on alone when it is started next, and from what: the majority is lost.
    pub alone: Option<(String, GoesOn)>,
    /// Nodes that never vote.
    pub members: BTreeSet<String>,
    /// Whether a node was lost or taken out for good: only one in a run, since who was away meanwhile must find a majority that names the
    /// master.
    pub one_is_gone: bool,
}

impl Shared {
    /// Where a node listens that takes itself for the master.
    pub fn masters_peer(&self) -> Option<String> {
        let leads = |inside: &Inside| inside.raft().is_some_and(|raft| raft.leadership().borrow().is_master);
        let (master, _) = self.inside.iter().find(|(_, inside)| leads(inside))?;
        self.peers.get(master).cloned()
    }

    /// A node's disk was lost.
    pub fn lose(&mut self, node: &str) {
        self.tokens.remove(node);
        self.peers.remove(node);
        self.lost.insert(node.to_owned());
        self.one_is_gone = true;
    }
}

/// A handle to what is shared.
#[derive(Debug, Clone, Default)]
pub struct Common(Arc<Mutex<Shared>>);

impl Common {
    pub fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A machine with its node.
#[derive(Debug, Clone)]
pub struct Place {
    pub name: String,
    pub machine: Machine,
    pub voter: VoterPreference,
    pub raft: RaftSettings,
}

/// A cluster.
pub struct Cluster<'a> {
    pub sim: turmoil::Sim<'a>,
    pub places: Vec<Place>,
    pub common: Common,
    pub folder: PathBuf,
    pub trace: Trace,
}

impl Cluster<'_> {
    /// Machines for so many nodes, of which the first begins the cluster and the others join it when they have a token.
    pub fn new(
        sim: turmoil::Sim<'static>,
        folder: &Path,
        voters: &[VoterPreference],
        raft: &RaftSettings,
        trace: &Trace,
    ) -> Self {
        let mut cluster =
            Cluster { sim, places: Vec::new(), common: Common::default(), folder: folder.to_owned(), trace: trace.clone() };
        for (at, voter) in voters.iter().enumerate() {
            let name = format!("n{}", at + 1);
            if *voter == VoterPreference::Never {
                cluster.common.lock().members.insert(name.clone());
            }
            let machine = Machine::new(&name, &folder.join(&name));
            let place = Place { name: name.clone(), machine, voter: *voter, raft: raft.clone() };
            cluster.places.push(place.clone());
            let ip = cluster.sim.lookup(name.as_str());
            let (common, keys, trace) = (cluster.common.clone(), folder.to_owned(), trace.clone());
            cluster.sim.host(name, move || {
                let (place, common, keys, trace) = (place.clone(), common.clone(), keys.clone(), trace.clone());
                async move {
                    run(place, ip, common, keys, trace).await;
                    Ok(())
                }
            });
        }
        cluster
    }
}

/// What a machine does: it makes its node, once, and starts its agent again and again.
async fn run(place: Place, ip: IpAddr, common: Common, keys: PathBuf, trace: Trace) {
    let alone = common.lock().alone.take_if(|(node, _)| *node == place.name);
    if let Some((_, from)) = alone {
        let gone_on = match from {
            GoesOn::FromItsDisk => recover(&place, &keys).await,
            GoesOn::FromBackup(file) => restore(&place, ip, &common, &keys, file).await,
        };
        match gone_on {
            Ok(epoch) => trace.note(&place.name, format!("goes on alone, in recovery epoch {epoch}")),
            Err(error) => trace.note(&place.name, format!("cannot go on alone: {error:#}")),
        }
    }
    while !place.machine.folder.join("cluster.json").exists() {
        match make(&place, ip, &common, &keys).await {
            Ok(()) => trace.note(&place.name, "is a node"),
            Err(error) => {
                trace.note(&place.name, format!("is no node yet: {error:#}"));
                sleep(AGENT_AGAIN).await;
            }
        }
    }
    loop {
        let why = match agent(&place, &common).await {
            Ok(()) => "the agent ended".to_owned(),
            Err(error) => error.to_string(),
        };
        trace.note(&place.name, format!("agent: {why}"));
        {
            let mut shared = common.lock();
            shared.inside.remove(&place.name);
            shared.down.insert(place.name.clone(), why);
        }
        sleep(AGENT_AGAIN).await;
    }
}

/// As `tribune recover --force-new-cluster` does it.
async fn recover(place: &Place, keys: &Path) -> Result<u64> {
    let options = RecoverOptions {
        data: place.machine.folder.clone(),
        key: Some(keys.join("ada.key")),
        good_for: Span::from_secs(3_600),
        epoch: None,
    };
    Ok(recover_on(place.machine.world().stores.as_ref(), options).await?.epoch)
}

/// As `tribune restore` does it.
async fn restore(place: &Place, ip: IpAddr, common: &Common, keys: &Path, file: PathBuf) -> Result<u64> {
    // Nothing is durable on the new disk but what is fsynced.
    fs::create_dir_all(&place.machine.folder)?;
    disk::adopt(&place.machine.folder)?;
    let world = place.machine.world();
    let (control, data) = listens(ip)?;
    let options = RestoreOptions {
        file,
        data: place.machine.folder.clone(),
        name: name_of(place)?,
        existing: Existing::Stays,
        key: Some(keys.join("ada.key")),
        good_for: Span::from_secs(3_600),
        epoch: None,
        control: Some(control.clone()),
        data_address: Some(data),
        platform: None,
        runners: BTreeMap::new(),
        process_group: None,
        voter: place.voter,
    };
    let restored = restore_on(&world.carrier, world.stores.as_ref(), options).await?;
    common.lock().peers.insert(place.name.clone(), format!("{control}/p2p/{}", restored.peer));
    Ok(restored.epoch)
}

/// Where the node of a machine listens: its control network, and its data network.
fn listens(ip: IpAddr) -> Result<(Multiaddr, Multiaddr)> {
    let address = |port: u16| format!("/ip4/{ip}/tcp/{port}").parse::<Multiaddr>();
    Ok((address(CONTROL)?, address(DATA)?))
}

fn name_of(place: &Place) -> Result<NodeName> {
    place.name.parse().map_err(|error| anyhow!("{error}"))
}

async fn agent(place: &Place, common: &Common) -> Result<()> {
    let kept = place.machine.keep();
    let data = DataFolder::open(&place.machine.folder)?;
    let node = Node::start_with(data, kept, place.raft.clone(), place.machine.world()).await?;
    {
        let mut shared = common.lock();
        shared.inside.insert(place.name.clone(), node.inside());
        shared.down.remove(&place.name);
    }
    node.run().await?;
    Ok(())
}

async fn make(place: &Place, ip: IpAddr, common: &Common, keys: &Path) -> Result<()> {
    let carrier = Carrier::Wire(Arc::new(TurmoilWire));
    let name = name_of(place)?;
    let (control, data) = listens(ip)?;
    let disk_number = place.machine.lock().disk_number;
    if place.name == "n1" && disk_number == 1 {
        let options = InitOptions {
            data: place.machine.folder.clone(),
            name,
            control: Some(control),
            data_address: Some(data),
            platform: None,
            runners: BTreeMap::new(),
            process_group: None,
            admin: "ada".parse().map_err(|error| anyhow!("{error}"))?,
            admin_key: keys.join("ada.key"),
            voter: place.voter,
        };
        let made = init_on(&carrier, options).await?;
        let own = made.addresses.first().context("a node without address")?.clone();
        let mut shared = common.lock();
        shared.peers.insert(place.name.clone(), own.clone());
        shared.first = Some(own);
    } else {
        let (peer, token) = loop {
            let found = {
                let shared = common.lock();
                let peers: Vec<&String> = shared.peers.values().collect();
                let peer = peers.get(rand::random_range(0..peers.len().max(1))).map(|peer| (*peer).clone());
                peer.zip(shared.tokens.get(&place.name).cloned())
            };
            match found {
                Some(found) => break found,
                None => sleep(LOOK).await,
            }
        };
        let options = JoinOptions {
            data: place.machine.folder.clone(),
            name,
            place: if disk_number == 1 { JoinAs::New } else { JoinAs::Replacement },
            control: Some(control.clone()),
            data_address: Some(data),
            platform: None,
            runners: BTreeMap::new(),
            process_group: None,
            voter: place.voter,
            peer: peer.parse()?,
            token,
        };
        let joined = join_on(&carrier, options).await?;
        common.lock().peers.insert(place.name.clone(), format!("{control}/p2p/{}", joined.peer));
    }
    disk::adopt(&place.machine.folder)?;
    Ok(())
}
