//! What this node answers when other nodes ask: who is master, its processes and logs, and what is in its package store; and the door
//! by which new nodes come in.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tribune_agent::agent::Agent;
use tribune_messages::join::{JoinRequest, JoinResponse};
use tribune_messages::store::{MAX_PEER_FRAME, PeerRequest, PeerResponse};
use tribune_messages::trust::NamedMaster;
use tribune_messages::{JOIN_PROTOCOL, PEER_PROTOCOL};
use tribune_p2p::network::{Arrival, Incoming, NetworkError};
use tribune_p2p::rpc::{RpcClient, serve_rpc};
use tribune_p2p::{ChannelError, Limits, Network, PeerId, Standing, Who};
use tribune_raft_store::model::Span;

use crate::belief::{Belief, network_peer, record_peer};
use crate::join::JOIN_LIMITS;
use crate::seat::Seat;
use crate::session::MasterSeen;
use crate::store::PackageStore;

/// Questions that are answered at once.
const AT_ONCE: usize = 64;
/// Nodes that are let in at once.
const JOINS_AT_ONCE: usize = 16;
/// How long the master may take to let a node in; its connection lasts no longer.
const JOIN_WITHIN: Duration = Duration::from_secs(8);
const LIMITS: Limits =
    Limits { max_frame: MAX_PEER_FRAME, send_time: Duration::from_secs(10), recv_time: Some(Duration::from_secs(600)) };

/// Calls to other nodes.
pub(crate) fn client(control: &Network) -> RpcClient {
    RpcClient::new(control.clone(), PEER_PROTOCOL, LIMITS)
}

/// What the answers are made of.
#[derive(Clone)]
pub(crate) struct Peers {
    pub(crate) control: Network,
    pub(crate) belief: watch::Receiver<Arc<Belief>>,
    pub(crate) seat: watch::Receiver<Option<Seat>>,
    pub(crate) seen: watch::Receiver<MasterSeen>,
    pub(crate) agent: Agent,
    pub(crate) store: PackageStore,
}

impl Peers {
    /// Answers until the network is shut down.
    ///
    /// # Errors
    /// A protocol is served already.
    pub(crate) fn serve(self) -> Result<(), NetworkError> {
        let questions = self.control.serve(PEER_PROTOCOL, Who::Members, LIMITS)?;
        let joiners = self.control.serve(JOIN_PROTOCOL, Who::Anyone, JOIN_LIMITS)?;
        let this = Arc::new(self);
        let answering = this.clone();
        tokio::spawn(serve_rpc(questions, AT_ONCE, move |peer, _, request| {
            let this = answering.clone();
            async move { this.answer(peer, request).await }
        }));
        tokio::spawn(this.let_in(joiners));
        Ok(())
    }

    async fn answer(&self, peer: PeerId, request: PeerRequest) -> PeerResponse {
        match request {
            PeerRequest::WhoIsMaster => self.who_is_master(),
            PeerRequest::Processes => PeerResponse::Processes(self.agent.processes().await),
            PeerRequest::Log { process, lines } => match self.agent.log(&process, lines).await {
                Ok(text) => PeerResponse::Log(text),
                Err(why) => PeerResponse::Refused { why },
            },
            // What the package store holds is the master's to say, and no other node's.
            PeerRequest::Keep { .. } | PeerRequest::Forget { .. } if !self.is_master(peer) => {
                PeerResponse::Refused { why: "only the master may ask this, and this node knows another, or none".into() }
            }
            PeerRequest::Keep { .. } | PeerRequest::Forget { .. } | PeerRequest::Held => {
                let answer = self.store.answer(&request, peer).await;
                answer.unwrap_or_else(|| PeerResponse::Refused { why: "this node does not know how to answer this".into() })
            }
        }
    }

    fn who_is_master(&self) -> PeerResponse {
        let (epoch, term, recovery) = {
            let belief = self.belief.borrow();
            (belief.view.epoch, belief.fence.term, belief.view.recovery.clone().map(Box::new))
        };
        let seat = self.seat.borrow();
        match seat.as_ref() {
            Some(seat) => {
                let none_for = seat.raft.leadership().borrow().none_since.map(|since| span(since.elapsed()));
                PeerResponse::Master { master: seat.named(epoch), none_for, recovery }
            }
            // Who asks may take it for a voter since it was away when another became one in its place, or does not know of the recovery.
            None => match self.seen.borrow().master {
                Some(master) => {
                    let master = NamedMaster { epoch, term, peer: record_peer(&master) };
                    PeerResponse::Master { master: Some(master), none_for: None, recovery }
                }
                None if recovery.is_some() => PeerResponse::Master { master: None, none_for: None, recovery },
                None => PeerResponse::Refused { why: "this node is not in Raft, and has no master".into() },
            },
        }
    }

    /// Whether this node takes the peer for the master, by its own Raft or by its session.
    fn is_master(&self, peer: PeerId) -> bool {
        let by_raft = self.seat.borrow().as_ref().and_then(|seat| {
            let (_, leader) = seat.raft.leadership().borrow().leader.clone()?;
            network_peer(&leader)
        });
        by_raft == Some(peer) || self.seen.borrow().master == Some(peer)
    }

    async fn let_in(self: Arc<Self>, mut joiners: Incoming) {
        let places = Arc::new(Semaphore::new(JOINS_AT_ONCE));
        while let Some(arrival) = joiners.next().await {
            // Never closed.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let this = self.clone();
            tokio::spawn(async move {
                if let Err(error) = this.let_one_in(arrival).await {
                    tracing::debug!(%error, "a node that wanted to join went away");
                }
                drop(place);
            });
        }
    }

    async fn let_one_in(&self, arrival: Arrival) -> Result<(), ChannelError> {
        let Arrival { peer, standing, mut channel } = arrival;
        let request: JoinRequest = channel.expect().await?;
        let response = self.join(peer, standing, request).await;
        channel.send(&response).await?;
        channel.finish().await
    }

    async fn join(&self, peer: PeerId, standing: Standing, request: JoinRequest) -> JoinResponse {
        let unavailable = |why: &str| JoinResponse::Unavailable { why: why.to_owned() };
        let forwarded = standing == Standing::Member && request.node.peer.as_str() != peer.to_string();
        if !forwarded && !is_own(&request, peer) {
            return unavailable("the request names another identity than the one that connected");
        }
        let seat = self.seat.borrow().clone();
        if let Some(seat) = seat.filter(|seat| seat.master.is_master()) {
            let joined = tokio::time::timeout(JOIN_WITHIN, seat.master.join(request)).await;
            return joined.unwrap_or_else(|_| unavailable("the master did not come to an answer in time"));
        }
        if forwarded {
            return unavailable("this node is not the master");
        }
        let Some(master) = self.seen.borrow().master else { return unavailable("the cluster has no master at the moment") };
        match tokio::time::timeout(JOIN_WITHIN, self.hand_on(master, &request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(why)) => JoinResponse::Unavailable { why },
            Err(_) => unavailable("the master did not answer in time"),
        }
    }

    async fn hand_on(&self, master: PeerId, request: &JoinRequest) -> Result<JoinResponse, String> {
        let opened = self.control.open(master, &[], JOIN_PROTOCOL, JOIN_LIMITS).await;
        let mut channel = opened.map_err(|error| error.to_string())?;
        channel.send(request).await.map_err(|error| error.to_string())?;
        channel.expect().await.map_err(|error| error.to_string())
    }
}

/// Whether what a node says of its identity is proven by its connection.
fn is_own(request: &JoinRequest, peer: PeerId) -> bool {
    let key = tribune_p2p::identity::public_key_of(&peer);
    request.node.peer.as_str() == peer.to_string() && key.as_ref() == Some(request.node.key.as_bytes())
}

/// A length of time as messages have it.
pub(crate) fn span(time: Duration) -> Span {
    Span::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
