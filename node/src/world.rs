//! What a node reaches the world through: how its networks are carried, where Raft's stores lie and its work is done, what its machine
//! says of processes.
//!
//! One idea: everything else of a node is the same code wherever it runs. [`World::own`] is the machine that this runs on; a simulation
//! hands in another.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tribune_agent::processes::system::{Linux, System};
use tribune_p2p::network::NetworkError;
use tribune_p2p::network::wire::Wire;
use tribune_p2p::{Identity, Network, NetworkConfig};
use tribune_raft_store::machine::Applied;
use tribune_raft_store::raft_types::Record;
use tribune_raft_store::stopped::{StoppedError, StoppedStore};
use tribune_raft_store::store::{Store, StoreError};

/// What carries a node's networks.
#[derive(Clone)]
pub enum Carrier {
    /// libp2p: TCP with Noise and yamux.
    Libp2p,
    /// A wire that was handed in.
    Wire(Arc<dyn Wire>),
}

impl Carrier {
    /// Starts a network on it.
    ///
    /// # Errors
    /// As [`Network::start`].
    pub async fn start(&self, identity: &Identity, config: NetworkConfig) -> Result<Network, NetworkError> {
        match self {
            Self::Libp2p => Network::start(identity, config).await,
            Self::Wire(wire) => Network::start_over(wire.clone(), identity, config).await,
        }
    }
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Libp2p => "Libp2p",
            Self::Wire(_) => "Wire",
        })
    }
}

/// Where Raft's stores lie.
pub trait Stores: fmt::Debug + Send + Sync + 'static {
    /// Opens the store of a folder, or makes a new one.
    ///
    /// # Errors
    /// It cannot be opened.
    fn open(&self, folder: &Path) -> Result<Store, StoreError>;

    /// Opens the store of a node that does not run.
    ///
    /// # Errors
    /// There is none, or it cannot be opened.
    fn open_stopped(&self, folder: &Path) -> Result<StoppedStore, StoppedError>;

    /// Makes a store in a new folder that has this record and no log, for a node that does not run.
    ///
    /// # Errors
    /// The folder cannot be written, or the record has no place in a log.
    fn plant(&self, folder: &Path, record: Applied<Record>) -> Result<StoppedStore, StoppedError>;
}

/// Stores on disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct OnDisk;

impl Stores for OnDisk {
    fn open(&self, folder: &Path) -> Result<Store, StoreError> {
        Store::open(folder)
    }

    fn open_stopped(&self, folder: &Path) -> Result<StoppedStore, StoppedError> {
        StoppedStore::open(folder)
    }

    fn plant(&self, folder: &Path, record: Applied<Record>) -> Result<StoppedStore, StoppedError> {
        StoppedStore::plant(folder, record)
    }
}

/// On which threads Raft runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaftThreads {
    /// Its own.
    Own,
    /// Those of everything else.
    Shared,
}

/// Whether the node's own socket is there for users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsersHere {
    /// Programs on this machine may ask it.
    Served,
    /// There are none.
    Nobody,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct World {
    /// What carries its networks.
    pub carrier: Carrier,
    /// Where Raft's stores lie.
    pub stores: Arc<dyn Stores>,
    /// On which threads Raft runs.
    pub threads: RaftThreads,
    /// What the machine says of processes.
    pub system: Arc<dyn System>,
    /// Whether users ask on this machine.
    pub users: UsersHere,
}

impl World {
    /// The machine that this runs on.
    pub fn own() -> Self {
        Self {
            carrier: Carrier::Libp2p,
            stores: Arc::new(OnDisk),
            threads: RaftThreads::Own,
            system: Arc::new(Linux),
            users: UsersHere::Served,
        }
    }
}
