//! The task that owns a swarm: it dials, notices who comes and goes, and stops. Everybody else sends it a [`Command`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, ping};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::DropGuard;
use tracing::{debug, info};

use super::access::AllowList;
use super::address::without_peer;
use super::error::OpenError;
use super::gate::{Gate, Passage};
use super::presence::Presence;

/// How long a shutdown waits for connections to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a network's swarm is made of. The order counts: the gate is asked first.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) gate: Gate,
    pub(super) ping: ping::Behaviour,
    pub(super) streams: libp2p_stream::Behaviour,
}

pub(super) enum Command {
    /// See that there is a connection to `peer`, dialling `addresses` if needed.
    Connect { peer: PeerId, addresses: Vec<Multiaddr>, reply: oneshot::Sender<Result<(), OpenError>> },
    /// Close all connections to `peer`.
    Disconnect { peer: PeerId },
    /// Do nothing any more, and keep everything as it is.
    #[cfg(test)]
    Freeze { reply: oneshot::Sender<()> },
    /// Close listeners and connections, and end.
    ShutDown { reply: oneshot::Sender<()> },
}

/// A peer being dialled, and who waits for it.
#[derive(Default)]
struct Dialling {
    wanted: BTreeSet<Multiaddr>,
    failed: BTreeSet<Multiaddr>,
    failures: Vec<String>,
    waiting: Vec<oneshot::Sender<Result<(), OpenError>>>,
    /// The connection that was made, until it is known whether it may be used.
    made: Option<ConnectionId>,
}

/// What came of dialling a peer.
#[derive(Debug, Clone, Copy)]
enum Came {
    /// There is a connection, or was: who waits looks.
    Through,
    /// The peer took this process for a copy.
    TurnedAway,
}

/// A second process with the key of one that is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopySeen {
    /// Whose key.
    pub peer: PeerId,
    /// From where it came.
    pub from: Multiaddr,
}

/// What a network says of copies of nodes.
#[derive(Debug, Clone)]
pub(super) struct Copies {
    /// The last that was turned away here, counted.
    pub(super) seen: watch::Sender<(u64, Option<CopySeen>)>,
    /// The peers that turned this process away, and when each did last.
    pub(super) turned_away: watch::Sender<BTreeMap<PeerId, Instant>>,
}

pub(super) struct Driver {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    list: watch::Receiver<Arc<AllowList>>,
    presence: Presence,
    listening: watch::Sender<Vec<Multiaddr>>,
    copies: Copies,
    /// Tells those that accept streams that the network is gone.
    _gone: DropGuard,
    dialling: HashMap<PeerId, Dialling>,
    /// When each connection last gave a sign of life.
    alive: HashMap<ConnectionId, (PeerId, Instant)>,
    /// How long a connection may give none.
    silence: Duration,
}

impl Driver {
    pub(super) fn new(
        swarm: Swarm<Behaviour>,
        commands: mpsc::Receiver<Command>,
        list: watch::Receiver<Arc<AllowList>>,
        presence: Presence,
        (listening, copies): (watch::Sender<Vec<Multiaddr>>, Copies),
        gone: DropGuard,
        silence: Duration,
    ) -> Self {
        let (dialling, alive) = (HashMap::new(), HashMap::new());
        Self { swarm, commands, list, presence, listening, copies, _gone: gone, dialling, alive, silence }
    }

    /// Runs until it is told to stop, or until the last handle of the network is dropped.
    pub(super) async fn run(mut self) {
        let mut look = tokio::time::interval(self.silence / 8);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reply = loop {
            tokio::select! {
                _ = look.tick() => self.close_silent(),
                command = self.commands.recv() => match command {
                    Some(Command::Connect { peer, addresses, reply }) => self.connect(peer, addresses, reply),
                    Some(Command::Disconnect { peer }) => self.swarm.behaviour_mut().gate.close(peer),
                    #[cfg(test)]
                    Some(Command::Freeze { reply }) => {
                        let _ = reply.send(());
                        std::future::pending::<()>().await;
                    }
                    Some(Command::ShutDown { reply }) => break Some(reply),
                    None => break None,
                },
                Ok(()) = self.list.changed() => {
                    self.list.borrow_and_update();
                    self.swarm.behaviour_mut().gate.list_changed();
                }
                event = self.swarm.select_next_some() => self.on_event(event),
            }
        };
        self.say_goodbye().await;
        // The ports are free once the swarm is dropped, and only then is the caller told.
        drop(self);
        if let Some(reply) = reply {
            let _ = reply.send(());
        }
    }

    async fn say_goodbye(&mut self) {
        for (peer, dialling) in self.dialling.drain() {
            debug!(%peer, "gave up dialling: the network is shutting down");
            for reply in dialling.waiting {
                let _ = reply.send(Err(OpenError::ShutDown));
            }
        }
        self.swarm.behaviour_mut().gate.close_all();
        let closed = async {
            while self.swarm.connected_peers().next().is_some() {
                let event = self.swarm.select_next_some().await;
                self.on_event(event);
            }
        };
        if tokio::time::timeout(GOODBYE, closed).await.is_err() {
            debug!("some connections did not close in time");
        }
    }

    fn connect(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, reply: oneshot::Sender<Result<(), OpenError>>) {
        if self.presence.is_usable(&peer) {
            let _ = reply.send(Ok(()));
            return;
        }
        let under_way = self.dialling.contains_key(&peer);
        let dialling = self.dialling.entry(peer).or_default();
        dialling.wanted.extend(addresses);
        dialling.waiting.push(reply);
        if !under_way {
            self.dial(peer);
        }
    }

    /// Dials the addresses that have not failed yet; when there is none, tells those that wait.
    fn dial(&mut self, peer: PeerId) {
        let Some(dialling) = self.dialling.get(&peer) else { return };
        let addresses: Vec<Multiaddr> = dialling.wanted.difference(&dialling.failed).cloned().collect();
        if addresses.is_empty() {
            return self.give_up(peer);
        }
        // A port of its own: from the listener's port, a second connection to the same peer would be refused by the system.
        let options = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addresses).allocate_new_port().build();
        if let Err(error) = self.swarm.dial(options) {
            self.dial_failed(peer, &error);
        }
    }

    fn dial_failed(&mut self, peer: PeerId, error: &DialError) {
        let Some(dialling) = self.dialling.get_mut(&peer) else { return };
        match error {
            DialError::Transport(failures) => {
                for (address, why) in failures {
                    let address = without_peer(address);
                    dialling.failures.push(format!("{address}: {}", root_cause(why)));
                    dialling.failed.insert(address);
                }
                self.dial(peer);
            }
            // Whoever lives there now: another address may still be right.
            DialError::WrongPeerId { obtained, address } => {
                let address = without_peer(address);
                dialling.failures.push(format!("{address}: {obtained} is there instead"));
                if dialling.failed.insert(address) {
                    self.dial(peer);
                } else {
                    self.give_up(peer);
                }
            }
            other => {
                dialling.failures.push(root_cause(other));
                self.give_up(peer);
            }
        }
    }

    fn give_up(&mut self, peer: PeerId) {
        let Some(dialling) = self.dialling.remove(&peer) else { return };
        let why = dialling.failures.join("; ");
        for reply in dialling.waiting {
            let _ = reply.send(Err(OpenError::Unreachable { peer, why: why.clone() }));
        }
    }

    /// Closes connections on which no ping was answered for long. The ping behaviour's own failures are not used: it keeps the first to itself and takes
    /// 10 s, which cannot be set, for each further try.
    fn close_silent(&mut self) {
        let is_dead = |_: &ConnectionId, (_, seen): &mut (PeerId, Instant)| seen.elapsed() > self.silence;
        for (connection, (peer, _)) in self.alive.extract_if(is_dead) {
            info!(%peer, %connection, silent_for = ?self.silence, "closing a dead connection");
            self.swarm.behaviour_mut().gate.close(peer);
        }
    }

    /// Those that wait for a connection to this peer hear what came of it.
    fn dialled(&mut self, peer: PeerId, came: Came) {
        for reply in self.dialling.remove(&peer).into_iter().flat_map(|dialling| dialling.waiting) {
            let _ = reply.send(match came {
                Came::Through => Ok(()),
                Came::TurnedAway => Err(OpenError::Copy(peer)),
            });
        }
    }

    fn on_passage(&mut self, passage: Passage) {
        match passage {
            Passage::Usable(peer) => {
                self.presence.usable(peer);
                self.dialled(peer, Came::Through);
            }
            Passage::TurnedAway(peer) => {
                debug!(%peer, "turned away: another process with this node's identity is connected there");
                self.copies.turned_away.send_modify(|by| {
                    by.insert(peer, Instant::now());
                });
                self.dialled(peer, Came::TurnedAway);
            }
            Passage::Copy { peer, from } => {
                info!(%peer, %from, "turned away a second process with the identity of a node that is connected");
                self.copies.seen.send_modify(|(count, seen)| {
                    *count += 1;
                    *seen = Some(CopySeen { peer, from });
                });
            }
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.alive.insert(connection_id, (peer_id, Instant::now()));
                if let Some(dialling) = self.dialling.get_mut(&peer_id).filter(|_| endpoint.is_dialer()) {
                    dialling.made = Some(connection_id);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Gate(passage)) => self.on_passage(passage),
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                self.alive.remove(&connection_id);
                if self.dialling.get(&peer_id).is_some_and(|dialling| dialling.made == Some(connection_id)) {
                    // Who waits sees that it cannot be used, and tries again.
                    self.dialled(peer_id, Came::Through);
                }
                debug!(peer = %peer_id, ?cause, left = num_established, "connection closed");
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => self.dial_failed(peer, &error),
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                debug!(from = %send_back_addr, why = %root_cause(&error), "refused a connection");
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                debug!(%address, "listening");
                self.listening.send_modify(|addresses| addresses.push(address));
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                info!(%address, "no longer listening");
                self.listening.send_modify(|addresses| addresses.retain(|known| *known != address));
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { peer, connection, result: Ok(_) })) => {
                self.alive.entry(connection).insert_entry((peer, Instant::now()));
            }
            _ => {}
        }
    }
}

/// The innermost error: those around it only repeat where it came from.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
