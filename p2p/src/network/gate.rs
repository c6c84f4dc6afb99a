//! The gate: which connections a network lets in, and which it closes again.
//!
//! A libp2p behaviour with one short exchange of its own ([`instance`](super::instance)). It stands before the others in the swarm's
//! behaviour, so that a connection it denies is never seen by them.
//!
//! When a member's key comes a second time, from another process, the connection that was there first is asked: if it answers, the newer
//! one is turned away, as a copied disk. If it does not, it is closed, and the newer one is let in.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use super::access::{Admission, AllowList, Standing};
use super::instance::{Handler, Heard, Instance, Say, Verdict};
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

/// Whether a connection may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// The peer has not said which process it is.
    Unknown,
    /// An older connection of another process with its key is being asked.
    Waits(Instance),
    /// It is this process, and is let in.
    Admitted(Instance),
    /// It is turned away.
    Copy,
}

#[derive(Debug)]
struct Held {
    peer: PeerId,
    ground: Ground,
    from: Multiaddr,
    entry: Entry,
    /// Whether the peer has let this process in.
    told: bool,
}

impl Held {
    /// Whether both sides have let the other in.
    fn is_usable(&self) -> bool {
        matches!(self.entry, Entry::Admitted(_)) && self.told
    }
}

/// What the gate tells the network.
#[derive(Debug)]
pub(super) enum Passage {
    /// Streams to this peer can be opened.
    Usable(PeerId),
    /// A second process with this peer's key was turned away.
    Copy {
        /// Whose key.
        peer: PeerId,
        /// From where it came.
        from: Multiaddr,
    },
    /// This peer turned this process away: another with its key is connected there.
    TurnedAway(PeerId),
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
    own: Instance,
    saying: VecDeque<(PeerId, ConnectionId, Say)>,
    passages: VecDeque<Passage>,
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
            own: Instance::draw(),
            saying: VecDeque::new(),
            passages: VecDeque::new(),
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

    fn hold(&mut self, id: ConnectionId, peer: PeerId, ground: Ground, from: &Multiaddr) -> Handler {
        self.held.insert(id, Held { peer, ground, from: from.clone(), entry: Entry::Unknown, told: false });
        self.presence.arrive(peer);
        Handler::new(self.own)
    }

    /// A connection has been closed, by whomever, or is being closed.
    fn forget(&mut self, id: ConnectionId) {
        let Some(Held { peer, .. }) = self.held.remove(&id) else { return };
        if self.held.values().any(|held| held.peer == peer) {
            self.admit_who_waited(peer);
        } else {
            self.presence.leave(peer);
        }
    }

    fn close_one(&mut self, id: ConnectionId) {
        let Some(&Held { peer, ground, entry, .. }) = self.held.get(&id) else { return };
        self.closing.push_back((peer, id));
        self.forget(id);
        // A user's key is used by many programs at once, and another connection of the same process may be sound.
        if ground == Ground::Listed(Standing::Member)
            && matches!(entry, Entry::Admitted(_))
            && !self.held.values().any(|held| held.peer == peer && held.entry == entry)
        {
            self.cut(peer);
        }
    }

    /// Cuts the streams of a member whose process has lost its last connection: who uses them would hear of it only when the
    /// connection is closed, and a dead one with much data on its way may take a while. All are cut, whichever connection they
    /// were on; to a process that came in its place they can be opened again at once.
    fn cut(&mut self, peer: PeerId) {
        self.presence.leave(peer);
        let left = || self.held.values().filter(|held| held.peer == peer);
        if left().next().is_some() {
            self.presence.arrive(peer);
        }
        if left().any(Held::is_usable) {
            self.presence.usable(peer);
        }
    }

    /// The connections of a member that are let in, and belong to another process than this one.
    fn rivals(&self, peer: PeerId, instance: Instance) -> Vec<ConnectionId> {
        let rival = |held: &Held| held.peer == peer && matches!(held.entry, Entry::Admitted(other) if other != instance);
        self.held.iter().filter(|(_, held)| rival(held)).map(|(id, _)| *id).collect()
    }

    fn set(&mut self, id: ConnectionId, entry: Entry) {
        if let Some(held) = self.held.get_mut(&id) {
            held.entry = entry;
        }
    }

    fn let_in(&mut self, peer: PeerId, id: ConnectionId, instance: Instance) {
        self.set(id, Entry::Admitted(instance));
        self.saying.push_back((peer, id, Say::Verdict(Verdict::Admitted)));
        self.tell_if_usable(id);
    }

    fn tell_if_usable(&mut self, id: ConnectionId) {
        if let Some(held) = self.held.get(&id).filter(|held| held.is_usable()) {
            self.passages.push_back(Passage::Usable(held.peer));
        }
    }

    /// A peer said which process it is.
    fn said(&mut self, peer: PeerId, id: ConnectionId, instance: Instance) {
        let Some(held) = self.held.get(&id) else { return };
        match held.entry {
            // It is asked whether it lives, and so asks whether it is let in.
            Entry::Admitted(before) if before == instance => return self.let_in(peer, id, instance),
            Entry::Unknown => {}
            Entry::Waits(_) | Entry::Copy => return,
            // A connection has one process.
            Entry::Admitted(_) => return self.close_one(id),
        }
        // Many programs may use a user's key at once.
        let rivals = match held.ground {
            Ground::Listed(Standing::Member) => self.rivals(peer, instance),
            _ => Vec::new(),
        };
        if rivals.is_empty() {
            return self.let_in(peer, id, instance);
        }
        self.set(id, Entry::Waits(instance));
        self.saying.extend(rivals.into_iter().map(|rival| (peer, rival, Say::Anew)));
    }

    fn waiting(&self, peer: PeerId) -> Vec<(ConnectionId, Instance)> {
        let waits = self.held.iter().filter(|(_, held)| held.peer == peer);
        waits
            .filter_map(|(id, held)| if let Entry::Waits(instance) = held.entry { Some((*id, instance)) } else { None })
            .collect()
    }

    /// Lets in those that waited for connections that are gone now.
    fn admit_who_waited(&mut self, peer: PeerId) {
        for (id, instance) in self.waiting(peer) {
            if self.rivals(peer, instance).is_empty() {
                self.let_in(peer, id, instance);
            }
        }
    }

    /// An older connection answered: those that waited are turned away.
    fn turn_away(&mut self, peer: PeerId, older: ConnectionId) {
        let Some(Entry::Admitted(known)) = self.held.get(&older).map(|held| held.entry) else { return };
        for (id, instance) in self.waiting(peer) {
            if instance == known {
                continue;
            }
            let from = self.held.get(&id).map_or_else(Multiaddr::empty, |held| held.from.clone());
            self.set(id, Entry::Copy);
            self.saying.push_back((peer, id, Say::Verdict(Verdict::Copy)));
            self.passages.push_back(Passage::Copy { peer, from });
        }
    }

    /// The peer told what it makes of this process.
    fn told(&mut self, peer: PeerId, id: ConnectionId, verdict: Verdict) {
        match verdict {
            Verdict::Admitted => {
                if let Some(held) = self.held.get_mut(&id) {
                    held.told = true;
                }
                self.tell_if_usable(id);
                self.turn_away(peer, id);
            }
            Verdict::Copy => {
                // Who else has this identity is only a member's to say.
                let ground = self.held.get(&id).map(|held| held.ground);
                if matches!(ground, Some(Ground::Listed(Standing::Member) | Ground::Dialled)) {
                    self.passages.push_back(Passage::TurnedAway(peer));
                }
                self.close_one(id);
            }
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
            if let Some(&Held { peer, ground: Ground::Joiner | Ground::Removed, .. }) = self.held.get(&id) {
                self.close(peer);
            }
        }
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = Handler;
    type ToSwarm = Passage;

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
        from: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handshakes.remove(&id);
        let ground = self.admit(peer).map_err(ConnectionDenied::new)?;
        if let (Ground::Joiner | Ground::Removed, Admission::JoinersToo(limits)) = (ground, self.admission) {
            self.deadlines.push_back((Instant::now() + limits.time, id));
        }
        Ok(self.hold(id, peer, ground, from))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        to: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let ground = match self.list.borrow().standing(&peer) {
            Standing::Unknown | Standing::Removed => Ground::Dialled,
            standing => Ground::Listed(standing),
        };
        Ok(self.hold(id, peer, ground, to))
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

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {
            Heard::Instance(instance) => self.said(peer, id, instance),
            Heard::Verdict(verdict) => self.told(peer, id, verdict),
            Heard::Silent | Heard::Answered(Verdict::Copy) => self.close_one(id),
            Heard::Answered(Verdict::Admitted) => {}
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.expire(cx);
        if let Some(passage) = self.passages.pop_front() {
            return Poll::Ready(ToSwarm::GenerateEvent(passage));
        }
        if let Some((peer_id, id, event)) = self.saying.pop_front() {
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(id), event });
        }
        match self.closing.pop_front() {
            Some((peer_id, id)) => Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) }),
            None => Poll::Pending,
        }
    }
}
