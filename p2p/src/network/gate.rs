//! The gate: which connections a network lets in, and which it closes again.
//!
//! A libp2p behaviour without streams of its own. It stands before the others in the swarm's behaviour, so that a connection it denies
//! is never seen by them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm, dummy,
};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use super::access::{Admission, AllowList, Standing};
use super::presence::Presence;

/// Connections that are still proving who they are. A handshake takes well under a second, so this is only reached under attack.
const MAX_HANDSHAKES: usize = 256;
/// Connections of one member: two when both dial at once, and some that died unnoticed.
const MAX_PER_MEMBER: usize = 8;
/// Connections of one principal: many commands may run at once under one key.
const MAX_PER_PRINCIPAL: usize = 64;

/// Removed nodes that are being told so at a time.
const MAX_REMOVED: usize = 16;

/// Why a connection is not let in. Seen in this node's log only; the peer sees its connection closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denied {
    #[error("{0} is not in the allow-list")]
    NotListed(PeerId),
    #[error("{0} unknown peers are connected already")]
    TooManyJoiners(usize),
    #[error("{peer} has {connections} connections already")]
    TooManyOfOne { peer: PeerId, connections: usize },
    #[error("{0} connections are in their handshake already")]
    TooManyHandshakes(usize),
}

/// On what ground a connection is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ground {
    /// Its peer is in the allow-list.
    Listed(Standing),
    /// An unknown peer came, and may stay for a short time.
    Joiner,
    /// A removed node came, and may stay until it was told so.
    Removed,
    /// This node dialled a peer that is not in its list: it is joining itself.
    Dialled,
}

#[derive(Debug)]
struct Held {
    peer: PeerId,
    ground: Ground,
}

/// See the module.
pub(super) struct Gate {
    list: watch::Receiver<Arc<AllowList>>,
    admission: Admission,
    held: HashMap<ConnectionId, Held>,
    handshakes: HashSet<ConnectionId>,
    /// Joiners' connections in the order they came, each with the time at which it must be gone.
    deadlines: VecDeque<(Instant, ConnectionId)>,
    timer: Pin<Box<Sleep>>,
    closing: VecDeque<(PeerId, ConnectionId)>,
    presence: Presence,
}

impl Gate {
    pub(super) fn new(list: watch::Receiver<Arc<AllowList>>, admission: Admission, presence: Presence) -> Self {
        Self {
            list,
            admission,
            held: HashMap::new(),
            handshakes: HashSet::new(),
            deadlines: VecDeque::new(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            closing: VecDeque::new(),
            presence,
        }
    }

    /// Looks at every connection again after the allow-list was replaced.
    pub(super) fn list_changed(&mut self) {
        let list = self.list.borrow().clone();
        let mut gone = HashSet::new();
        for held in self.held.values_mut() {
            held.ground = match (held.ground, list.standing(&held.peer)) {
                (Ground::Listed(before), now) if before == now => continue,
                (Ground::Listed(_), _) => {
                    gone.insert(held.peer);
                    continue;
                }
                (unlisted, Standing::Unknown | Standing::Removed) => unlisted,
                (_, standing) => Ground::Listed(standing),
            };
        }
        for peer in gone {
            self.close(peer);
        }
    }

    /// Closes every connection to `peer`, and cuts its streams at once. Connections that are closing are counted no more: a dead one may take a while.
    pub(super) fn close(&mut self, peer: PeerId) {
        let closing = self.held.extract_if(|_, held| held.peer == peer).map(|(id, _)| (peer, id));
        self.closing.extend(closing);
        self.presence.leave(peer);
    }

    /// Closes every connection.
    pub(super) fn close_all(&mut self) {
        let peers: HashSet<PeerId> = self.held.values().map(|held| held.peer).collect();
        for peer in peers {
            self.close(peer);
        }
    }

    fn hold(&mut self, id: ConnectionId, peer: PeerId, ground: Ground) {
        self.held.insert(id, Held { peer, ground });
        self.presence.arrive(peer);
    }

    /// A connection has been closed, by whomever.
    fn forget(&mut self, id: ConnectionId) {
        let Some(Held { peer, .. }) = self.held.remove(&id) else { return };
        if !self.held.values().any(|held| held.peer == peer) {
            self.presence.leave(peer);
        }
    }

    fn admit(&self, peer: PeerId) -> Result<Ground, Denied> {
        let standing = self.list.borrow().standing(&peer);
        let of_this_peer = self.held.values().filter(|held| held.peer == peer).count();
        let most = match (standing, self.admission) {
            (Standing::Member, _) => MAX_PER_MEMBER,
            (Standing::Principal, _) => MAX_PER_PRINCIPAL,
            (Standing::Unknown | Standing::Removed, Admission::ListedOnly) => return Err(Denied::NotListed(peer)),
            (Standing::Removed, Admission::JoinersToo(_)) => {
                let removed = self.held.values().filter(|held| held.ground == Ground::Removed).count();
                return if removed < MAX_REMOVED { Ok(Ground::Removed) } else { Err(Denied::TooManyJoiners(removed)) };
            }
            (Standing::Unknown, Admission::JoinersToo(limits)) => {
                let joiners = self.held.values().filter(|held| held.ground == Ground::Joiner).count();
                return if joiners < limits.at_once { Ok(Ground::Joiner) } else { Err(Denied::TooManyJoiners(joiners)) };
            }
        };
        if of_this_peer >= most {
            return Err(Denied::TooManyOfOne { peer, connections: of_this_peer });
        }
        Ok(Ground::Listed(standing))
    }

    /// Joiners whose time is up, unless they have become listed.
    fn expire(&mut self, cx: &mut Context<'_>) {
        while let Some((deadline, id)) = self.deadlines.front().copied() {
            if deadline > Instant::now() {
                self.timer.set(sleep_until(deadline));
                if self.timer.as_mut().poll(cx).is_pending() {
                    return;
                }
            }
            self.deadlines.pop_front();
            if let Some(&Held { peer, ground: Ground::Joiner | Ground::Removed }) = self.held.get(&id) {
                self.close(peer);
            }
        }
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if self.handshakes.len() >= MAX_HANDSHAKES {
            return Err(ConnectionDenied::new(Denied::TooManyHandshakes(self.handshakes.len())));
        }
        self.handshakes.insert(id);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handshakes.remove(&id);
        let ground = self.admit(peer).map_err(ConnectionDenied::new)?;
        if let (Ground::Joiner | Ground::Removed, Admission::JoinersToo(limits)) = (ground, self.admission) {
            self.deadlines.push_back((Instant::now() + limits.time, id));
        }
        self.hold(id, peer, ground);
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let ground = match self.list.borrow().standing(&peer) {
            Standing::Unknown | Standing::Removed => Ground::Dialled,
            standing => Ground::Listed(standing),
        };
        self.hold(id, peer, ground);
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(closed) => {
                self.forget(closed.connection_id);
            }
            FromSwarm::ListenFailure(failure) => {
                self.handshakes.remove(&failure.connection_id);
                self.forget(failure.connection_id);
            }
            FromSwarm::DialFailure(failure) => {
                self.forget(failure.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.expire(cx);
        match self.closing.pop_front() {
            Some((peer_id, id)) => Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) }),
            None => Poll::Pending,
        }
    }
}
