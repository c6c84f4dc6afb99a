//! The master: what the node that Raft elected does beside what every node does.
//!
//! One idea: a mastership is a value, a `Reign`: it is made when Raft makes this node the master, holds everything that is known only for
//! as long, and ends as a whole. What should happen next is computed by `tribune_master` from the record; the tasks of a reign only carry
//! it out, each woken by the record or by who is there, and each able to begin anew at any point.
//!
//! - `reign`: the mastership itself, and its tasks;
//! - `published`: the record as the tasks see it;
//! - `sessions` and `session`: the nodes' sessions;
//! - `coordinator`: drives updates;
//! - `copies`: second nodes with one identity;
//! - `herald`: shows a recovery to those that may not know it;
//! - `members` and `replicas`: who is voter and standby, and that each holds the package store;
//! - `orders`, `queries`, `answers`, `backup`: what users ask;
//! - `view`: who is in the cluster, for the nodes.

mod answers;
mod backup;
mod coordinator;
mod copies;
mod herald;
mod members;
mod orders;
mod published;
mod queries;
mod reign;
mod replicas;
mod session;
mod sessions;
#[cfg(test)]
mod tests;
mod uploads;
mod view;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tribune_messages::api::{ApiError, ApiRequest, ApiResponse, ApiResult};
use tribune_messages::join::{JoinRequest, JoinResponse};
use tribune_messages::node::MAX_SESSION_FRAME;
use tribune_messages::{SESSION_PROTOCOL, node::ALIVE_EVERY};
use tribune_p2p::channel::ChannelReceiver;
use tribune_p2p::network::NetworkError;
use tribune_p2p::rpc::RpcClient;
use tribune_p2p::{Channel, Limits, Network, PeerId, Who};
use tribune_raft_store::command::{JoinAs, MasterCommand, Rejection};
use tribune_raft_store::model::{NodeName, PublicKey, Role, Signature};
use tribune_raft_store::record::Record;

use crate::backup::make::Contents;
use crate::raft::{ProposeError, RaftNode};
use crate::store::PackageStore;
use reign::Reign;

pub use view::{from_peer, to_peer, view};

/// How often a node may leave out to say that it is alive before its session is over.
const SILENT: u64 = 5;
/// What a session's channel allows.
pub const SESSION_LIMITS: Limits = Limits {
    max_frame: MAX_SESSION_FRAME,
    send_time: Duration::from_secs(10),
    recv_time: Some(Duration::from_millis(ALIVE_EVERY.as_millis() * SILENT)),
};

/// What the master works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// This node's part in Raft.
    pub raft: RaftNode,
    /// This node's name.
    pub name: NodeName,
    /// The control network.
    pub control: Network,
    /// Calls to other nodes, by [`PEER_PROTOCOL`](tribune_messages::PEER_PROTOCOL) on the control network.
    pub peers: RpcClient,
    /// This node's package store.
    pub store: PackageStore,
}

/// Who asks, and what they may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// What they may do; none: nothing.
    pub role: Option<Role>,
    /// Their name, for logs.
    pub name: Option<String>,
    /// Whether it is a node that was removed: it may not know yet.
    pub removed: bool,
}

impl Caller {
    /// The caller with this key, as the record knows it.
    pub fn of(record: &Record, key: Option<&PublicKey>) -> Self {
        match key.and_then(|key| record.role_of(key)) {
            Some((role, name)) => Self { role: Some(role), name: Some(name), removed: false },
            None => {
                let removed = key.is_some_and(|key| record.removed().values().any(|row| row.key == *key));
                Self { removed, ..Self::default() }
            }
        }
    }

    fn may(&self, needs: Role, what: &str) -> Result<(), ApiError> {
        if self.role.is_some_and(|role| role >= needs) {
            return Ok(());
        }
        if self.removed {
            return Err(ApiError::Removed);
        }
        let (who, has) = (self.name.as_deref().unwrap_or("this key"), self.role);
        let has = has.map_or_else(|| "has no role".to_owned(), |role| format!("is {role:?}").to_lowercase());
        let needs = format!("{needs:?}").to_lowercase();
        Err(ApiError::Forbidden { what: format!("{who} {has} and {what} needs {needs}") })
    }
}

/// The master's side of this node: it works while Raft says that this node is the master, and otherwise says that it is not. Clones are handles
/// to the same one, which ends with [`Master::shutdown`] or with the last handle.
#[derive(Debug, Clone)]
pub struct Master {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: PackageStore,
    reign: watch::Receiver<Option<Arc<Reign>>>,
    stop: CancellationToken,
    _stops: DropGuard,
}

impl Master {
    /// Begins to follow Raft, and to serve the nodes' sessions.
    ///
    /// # Errors
    /// When sessions are served on this network already.
    pub fn start(parts: Parts) -> Result<Self, NetworkError> {
        let incoming = parts.control.serve(SESSION_PROTOCOL, Who::Members, SESSION_LIMITS)?;
        let stop = CancellationToken::new();
        let (to_reign, reign) = watch::channel(None);
        let store = parts.store.clone();
        tokio::spawn(reign::follow(parts, to_reign, stop.clone()));
        tokio::spawn(sessions::accept(incoming, reign.clone(), stop.clone()));
        Ok(Self { shared: Arc::new(Shared { store, reign, stop: stop.clone(), _stops: stop.drop_guard() }) })
    }

    /// Whether this node is the master now.
    pub fn is_master(&self) -> bool {
        self.shared.reign.borrow().is_some()
    }

    /// Takes the session of this node with itself: a node cannot connect to itself over the network.
    pub fn attach(&self, peer: PeerId, channel: Channel) {
        let reign = self.shared.reign.borrow().clone();
        tokio::spawn(sessions::admit(reign, peer, channel.with_limits(SESSION_LIMITS)));
    }

    /// Answers what only the master can answer: questions to the record, plans, orders.
    pub async fn answer(&self, request: ApiRequest, caller: &Caller) -> ApiResult {
        let reign = self.reign()?;
        match request {
            ApiRequest::Query(query) => {
                caller.may(Role::Viewer, "a look at the record")?;
                reign.query(query).await
            }
            ApiRequest::Plan(request) => {
                caller.may(Role::Viewer, "a plan")?;
                reign.plan(&request).await.map(|plan| ApiResponse::Plan(Box::new(plan)))
            }
            ApiRequest::Order(order) => reign.order(*order).await,
            ApiRequest::Status
            | ApiRequest::Identity
            | ApiRequest::LocalOrder { .. }
            | ApiRequest::Upload { .. }
            | ApiRequest::Backup
            | ApiRequest::Processes { .. }
            | ApiRequest::Log { .. }
            | ApiRequest::LocalShow
            | ApiRequest::Fsck
            | ApiRequest::Register(_)
            | ApiRequest::Unregister { .. }
            | ApiRequest::LocalRegress { .. } => {
                Err(ApiError::Bad { what: "this is answered by the node itself, and not by the master".into() })
            }
        }
    }

    /// Takes in a package or image file of `size` bytes, the next body that `receiver` brings, and sees that its blobs are on a majority of the
    /// voters. After an error the body may not have been read to its end: the channel is then to be closed after the answer.
    pub async fn upload(&self, size: u64, receiver: &mut ChannelReceiver, caller: &Caller) -> ApiResult {
        let reign = self.reign()?;
        caller.may(Role::Publisher, "an upload")?;
        let taken = uploads::take_in(&self.shared.store, &reign.name, size, receiver).await?;
        let copies = reign.spread(&taken.blobs).await?;
        let name = caller.name.as_deref().unwrap_or("somebody");
        tracing::info!(
            by = name,
            packages = taken.packages.len(),
            blobs = taken.blobs.len(),
            size,
            copies,
            "a file was uploaded"
        );
        Ok(ApiResponse::Uploaded { packages: taken.packages, copies })
    }

    /// Gathers what goes into a backup.
    pub(crate) async fn backup(&self, caller: &Caller) -> Result<Contents, ApiError> {
        let reign = self.reign()?;
        caller.may(Role::Admin, "a backup")?;
        let contents = reign.gather().await?;
        let name = caller.name.as_deref().unwrap_or("somebody");
        tracing::info!(by = name, size = contents.size(), "a backup is made");
        Ok(contents)
    }

    /// Lets a node in that has a good token.
    pub async fn join(&self, request: JoinRequest) -> JoinResponse {
        let unavailable = |why: String| JoinResponse::Unavailable { why };
        let Some(reign) = self.shared.reign.borrow().clone() else {
            return unavailable("this node is not the master".into());
        };
        let JoinRequest { token, node, place } = request;
        let (name, peer) = (node.name.clone(), node.peer.clone());
        if place == JoinAs::Replacement && reign.applied().state.nodes().get(&name).is_some_and(|old| old.peer != peer) {
            let liveness = reign.liveness.borrow().clone();
            if liveness.is_connected(&name) {
                return JoinResponse::Rejected(Rejection::StillConnected { node: name });
            }
            if !liveness.settled(reign.now()) {
                return unavailable(format!("this master is new, and waits whether node {name} comes"));
            }
        }
        match reign.propose(MasterCommand::Join { token: Signature::of(token.as_bytes()), node, place }).await {
            Ok(Ok(_)) => {
                tracing::info!(node = %name, %peer, "a node joined");
                let record = reign.applied();
                view(&record.state).map_or_else(
                    || unavailable("the cluster was not made yet".into()),
                    |view| JoinResponse::Joined(Box::new(view)),
                )
            }
            Ok(Err(rejection)) => {
                tracing::warn!(node = %name, %peer, why = %rejection, "a node was not let in");
                JoinResponse::Rejected(rejection)
            }
            Err(error) => unavailable(error.to_string()),
        }
    }

    /// Ends: sessions are closed, nothing more is proposed.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        let mut reign = self.shared.reign.clone();
        // The task that follows Raft drops its end when it is done.
        while reign.changed().await.is_ok() {}
    }

    fn reign(&self) -> Result<Arc<Reign>, ApiError> {
        self.shared.reign.borrow().clone().ok_or(ApiError::NoMaster { since: None })
    }
}

/// What a user hears when Raft gave no answer.
fn no_answer(error: ProposeError) -> ApiError {
    match error {
        ProposeError::NotMaster { .. } | ProposeError::Stopped(_) => ApiError::NoMaster { since: None },
        ProposeError::TooLarge { .. } => ApiError::Bad { what: error.to_string() },
        ProposeError::Timeout(_) | ProposeError::Unknown { .. } => ApiError::Timeout { what: error.to_string() },
    }
}
