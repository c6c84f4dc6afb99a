//! What users ask of this node: over its own socket, over the network with a key, or through another node.
//!
//! One idea: a node answers what is about itself, and hands everything else on to who knows: the master, or the node it is about. It never
//! answers for another from memory.
//!
//! - [`serve`]: the streams by which users come;
//! - [`own`]: what this node answers itself;
//! - [`forward`]: what it hands on;
//! - [`backup`]: a backup, made here or handed on.

mod backup;
mod forward;
mod own;
mod serve;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tribune_agent::agent::Agent;
use tribune_messages::api::{ApiError, ApiRequest, ApiResult};
use tribune_p2p::channel::ChannelReceiver;
use tribune_p2p::rpc::RpcClient;
use tribune_p2p::{Identity, Network, PeerId};
use tribune_raft_store::model::{PublicKey, Role};

use crate::belief::Belief;
use crate::data::DataFolder;
use crate::master::Caller;
use crate::peers::span;
use crate::problems::Problems;
use crate::seat::Seat;
use crate::session::MasterSeen;
use crate::settings::Settings;

pub(crate) use serve::UserSocket;

/// How long a request waits for a master when there is none: a failover takes less than a second.
const FOR_A_MASTER: Duration = Duration::from_secs(1);

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    /// A program on this machine, by the node's own socket.
    Socket,
    /// A user's key, or another node's, over the network.
    Key(PublicKey),
    /// A user's key, or a node's, through another node.
    Forwarded(PublicKey),
}

/// Whether a stream can be used further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    GoesOn,
    Ends,
}

/// Everything that answers are made of.
pub(crate) struct Api {
    pub(crate) me: PeerId,
    pub(crate) identity: Identity,
    pub(crate) data: DataFolder,
    pub(crate) settings: Settings,
    pub(crate) control: Network,
    pub(crate) peers: RpcClient,
    pub(crate) belief: watch::Receiver<Arc<Belief>>,
    pub(crate) seat: watch::Receiver<Option<Seat>>,
    pub(crate) seen: watch::Receiver<MasterSeen>,
    pub(crate) agent: Agent,
    pub(crate) problems: Problems,
}

impl Api {
    /// Answers everything but uploads and backups.
    async fn answer(&self, request: ApiRequest, origin: &Origin) -> ApiResult {
        match request {
            ApiRequest::Status => Ok(self.status()),
            ApiRequest::Identity => Ok(self.who(origin)),
            ApiRequest::Processes { node } => self.processes(node).await,
            ApiRequest::Log { node, process, lines } => self.log(node, process, lines).await,
            ApiRequest::LocalShow => {
                socket_only(origin, "what is in its local storage")?;
                self.local_show().await
            }
            ApiRequest::Fsck => {
                socket_only(origin, "a check of its disk")?;
                self.local_limit(Role::Operator, "a check of the disk")?;
                self.fsck().await
            }
            ApiRequest::LocalRegress { generation, force } => {
                socket_only(origin, "a local regress")?;
                self.local_limit(Role::Operator, "a local regress")?;
                self.local_regress(generation, force).await
            }
            ApiRequest::Register(registration) => {
                socket_only(origin, "a registration")?;
                self.local_limit(Role::Operator, "a registration")?;
                self.register(*registration).await
            }
            ApiRequest::Unregister { name } => {
                socket_only(origin, "a registration")?;
                self.local_limit(Role::Operator, "a registration")?;
                self.unregister(name).await
            }
            ApiRequest::LocalOrder { request, command } => {
                socket_only(origin, "an order without a signature")?;
                self.local_limit(command.needs(), "this command")?;
                let order = self.sign(request, *command)?;
                self.by_master(ApiRequest::Order(Box::new(order)), origin).await
            }
            ApiRequest::Query(_) | ApiRequest::Plan(_) | ApiRequest::Order(_) => self.by_master(request, origin).await,
            ApiRequest::Upload { .. } => Err(ApiError::Bad { what: "an upload is followed by a body".into() }),
            ApiRequest::Backup => Err(ApiError::Bad { what: "the answer to a backup is followed by a body".into() }),
        }
    }

    /// Answers as the master, or hands on to it.
    async fn by_master(&self, request: ApiRequest, origin: &Origin) -> ApiResult {
        if self.belief.borrow().own().is_none() {
            return Err(ApiError::Removed);
        }
        if !matches!(origin, Origin::Forwarded(_)) {
            self.wait_for_master().await;
        }
        if let Some(seat) = self.reigning() {
            let caller = self.caller(&seat, origin);
            return seat.master.answer(request, &caller).await;
        }
        self.hand_on(request, origin).await
    }

    /// An upload: its bytes follow on the stream.
    async fn upload(&self, receiver: &mut ChannelReceiver, size: u64, origin: &Origin) -> (ApiResult, Stream) {
        let result = self.try_upload(receiver, size, origin).await;
        // What was not read of the body would be taken for requests.
        let stream = if result.is_ok() { Stream::GoesOn } else { Stream::Ends };
        (result, stream)
    }

    async fn try_upload(&self, receiver: &mut ChannelReceiver, size: u64, origin: &Origin) -> ApiResult {
        if *origin == Origin::Socket {
            self.local_limit(Role::Publisher, "an upload")?;
        }
        if !matches!(origin, Origin::Forwarded(_)) {
            self.wait_for_master().await;
        }
        if let Some(seat) = self.reigning() {
            let caller = self.caller(&seat, origin);
            return seat.master.upload(size, receiver, &caller).await;
        }
        self.hand_on_upload(receiver, size, origin).await
    }

    /// This node's seat, if it is the master.
    fn reigning(&self) -> Option<Seat> {
        self.seat.borrow().clone().filter(|seat| seat.master.is_master())
    }

    fn caller(&self, seat: &Seat, origin: &Origin) -> Caller {
        let applied = seat.raft.applied().borrow().clone();
        Caller::of(&applied.state, Some(&self.key_of(origin)))
    }

    /// The key that an origin stands for: a program on this machine speaks for the node.
    fn key_of(&self, origin: &Origin) -> PublicKey {
        match origin {
            Origin::Socket => PublicKey::new(self.identity.public_key()),
            Origin::Key(key) | Origin::Forwarded(key) => *key,
        }
    }

    /// The settings of this machine limit what is done by its own socket.
    fn local_limit(&self, needs: Role, what: &str) -> Result<(), ApiError> {
        let limit = self.settings.local_commands;
        if limit >= needs {
            return Ok(());
        }
        let (limit, needs) = (format!("{limit:?}").to_lowercase(), format!("{needs:?}").to_lowercase());
        let what = format!("{what} needs {needs}, and `local-commands` of this node is {limit}; use a key with --peer and --key");
        Err(ApiError::Forbidden { what })
    }

    async fn wait_for_master(&self) {
        let mut seen = self.seen.clone();
        let found = seen.wait_for(|seen| seen.master.is_some());
        // Without a master the answer says so.
        let _ = tokio::time::timeout(FOR_A_MASTER, found).await;
    }

    fn no_master(&self) -> ApiError {
        let seen = self.seen.borrow();
        ApiError::NoMaster { since: seen.master.is_none().then(|| span(seen.since.elapsed())) }
    }
}

fn socket_only(origin: &Origin, what: &str) -> Result<(), ApiError> {
    if *origin == Origin::Socket {
        return Ok(());
    }
    Err(ApiError::Forbidden { what: format!("{what} is answered on the node's own socket only") })
}
