//! What a node answers about itself, and about other nodes by asking them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tribune_agent::agent::LocalRegressError;
use tribune_messages::api::{ApiError, ApiResponse, ApiResult, Identity, Status};
use tribune_messages::registration::Registration;
use tribune_messages::store::{PeerRequest, PeerResponse};
use tribune_p2p::PeerId;
use tribune_raft_store::command::{Order, SIGNING_CONTEXT, SignedOrder, UserCommand};
use tribune_raft_store::model::{KeySignature, NodeName, ProcessName, PublicKey, RaftRole, RequestId, Role, Span, Timestamp};

use super::{Api, Origin};
use crate::belief::{REMOVED, network_peer, record_peer};
use crate::facts::VERSION;
use crate::fsck::fsck;
use crate::peers::span;

/// How long an order that is signed here is good: beyond any wait for its answer, and any difference of clocks that is healthy.
const ORDER_LIFE: Span = Span::from_secs(3600);
/// How long another node may take to answer.
const PEER_WITHIN: Duration = Duration::from_secs(10);
/// The most lines of a log that are sent.
const MOST_LINES: u32 = 10_000;

impl Api {
    pub(super) fn status(&self) -> ApiResponse {
        let belief = self.belief.borrow().clone();
        let seen = self.seen.borrow().clone();
        let standing = self.agent.standing().borrow().clone();
        let role = match belief.role() {
            RaftRole::Voter { .. } => "voter",
            RaftRole::Standby { .. } => "standby",
            RaftRole::Member => "member",
        };
        let lone = seen.master.is_none().then(|| span(seen.since.elapsed()));
        let mut problems = self.problems.all();
        problems.extend(standing.problems);
        problems.extend(belief.own().is_none().then(|| REMOVED.to_owned()));
        ApiResponse::Status(Box::new(Status {
            cluster: belief.view.cluster,
            node: belief.name.clone(),
            version: VERSION.to_owned(),
            master: seen.master.and_then(|master| belief.by_peer(&master)).map(|node| node.name.clone()),
            no_master_for: lone,
            role: role.to_owned(),
            nodes: u32::try_from(belief.view.nodes.len()).unwrap_or(u32::MAX),
            voters: belief.voters().map(|node| node.name.clone()).collect(),
            // While there is a session the master tells every change at once.
            age: lone.unwrap_or(Span::from_millis(0)),
            generation: standing.current.number,
            open_updates: standing.updates.keys().copied().collect(),
            problems,
        }))
    }

    pub(super) fn who(&self, origin: &Origin) -> ApiResponse {
        let belief = self.belief.borrow().clone();
        ApiResponse::Identity(Identity {
            cluster: belief.view.cluster,
            node: belief.name.clone(),
            peer: record_peer(&self.me),
            role: self.role_of(&self.key_of(origin)),
        })
    }

    /// What a key may do, as far as this node knows: a node that is in Raft knows it by the record.
    fn role_of(&self, key: &PublicKey) -> Option<Role> {
        if let Some(seat) = self.seat.borrow().as_ref() {
            let applied = seat.raft.applied().borrow().clone();
            return applied.state.role_of(key).map(|(role, _)| role);
        }
        let belief = self.belief.borrow();
        belief.view.principals.iter().find(|principal| principal.key == *key).map(|principal| principal.role)
    }

    pub(super) async fn processes(&self, node: Option<NodeName>) -> ApiResult {
        let Some(peer) = self.other(node.as_ref())? else {
            return Ok(ApiResponse::Processes(self.agent.processes().await));
        };
        match self.ask(peer, &PeerRequest::Processes).await? {
            PeerResponse::Processes(processes) => Ok(ApiResponse::Processes(processes)),
            other => Err(unexpected(other)),
        }
    }

    pub(super) async fn log(&self, node: Option<NodeName>, process: String, lines: u32) -> ApiResult {
        let lines = lines.min(MOST_LINES);
        let Some(peer) = self.other(node.as_ref())? else {
            let text = self.agent.log(&process, lines).await;
            return text.map(ApiResponse::Log).map_err(|what| ApiError::NotFound { what });
        };
        match self.ask(peer, &PeerRequest::Log { process, lines }).await? {
            PeerResponse::Log(text) => Ok(ApiResponse::Log(text)),
            PeerResponse::Refused { why } => Err(ApiError::NotFound { what: why }),
            other => Err(unexpected(other)),
        }
    }

    /// The identity of a node that is not this one.
    fn other(&self, node: Option<&NodeName>) -> Result<Option<PeerId>, ApiError> {
        let belief = self.belief.borrow();
        let Some(name) = node.filter(|name| **name != belief.name) else { return Ok(None) };
        let known = belief.node(name).and_then(|node| network_peer(&node.peer));
        let missing =
            || ApiError::NotFound { what: format!("there is no node {name}; `tribune node list` shows those there are") };
        known.map(Some).ok_or_else(missing)
    }

    async fn ask(&self, peer: PeerId, request: &PeerRequest) -> Result<PeerResponse, ApiError> {
        let answer = self.peers.call(peer, request, PEER_WITHIN).await;
        answer.map_err(|error| ApiError::Failed { what: format!("the node did not answer: {error}") })
    }

    pub(super) async fn register(&self, registration: Registration) -> ApiResult {
        let info = self.agent.register(registration).await.map_err(|what| ApiError::Bad { what })?;
        Ok(ApiResponse::Registered(Box::new(info)))
    }

    pub(super) async fn unregister(&self, name: ProcessName) -> ApiResult {
        self.agent.unregister(name).await.map_err(|what| ApiError::NotFound { what })?;
        Ok(ApiResponse::Unregistered)
    }

    pub(super) async fn fsck(&self) -> ApiResult {
        let found = fsck(self.data.clone()).await.map_err(|error| ApiError::Failed { what: error.to_string() })?;
        Ok(ApiResponse::Fsck(Box::new(found)))
    }

    pub(super) async fn local_show(&self) -> ApiResult {
        Ok(ApiResponse::Local(Box::new(self.agent.local().await)))
    }

    pub(super) async fn local_regress(&self, generation: Option<u64>, force: Option<String>) -> ApiResult {
        match self.agent.local_regress(generation, force).await {
            Ok(current) => Ok(ApiResponse::Regressed { current }),
            Err(LocalRegressError::Vetoed(vetoes)) => Err(ApiError::Vetoed { vetoes }),
            Err(LocalRegressError::Refused(what)) => Err(ApiError::Bad { what }),
            Err(LocalRegressError::Failed(what)) => Err(ApiError::Failed { what }),
        }
    }

    /// Signs an order with the node's key: the record knows what this node's own commands may do.
    pub(super) fn sign(&self, request: RequestId, command: UserCommand) -> Result<SignedOrder, ApiError> {
        let cluster = self.belief.borrow().view.cluster;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = Timestamp(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        let order = Order { cluster, request, expires: now.after(ORDER_LIFE), command };
        let unreadable = |error: serde_json::Error| ApiError::Bad { what: format!("the command cannot be encoded: {error}") };
        let content = serde_json::to_string(&order).map_err(unreadable)?;
        let signature = self.identity.sign(&[SIGNING_CONTEXT, content.as_bytes()].concat());
        Ok(SignedOrder { key: PublicKey::new(self.identity.public_key()), content, signature: KeySignature::new(signature) })
    }
}

fn unexpected(response: PeerResponse) -> ApiError {
    let what = match response {
        PeerResponse::Refused { why } => why,
        _ => "the node answered something else: its version of Tribune differs".to_owned(),
    };
    ApiError::Failed { what }
}
