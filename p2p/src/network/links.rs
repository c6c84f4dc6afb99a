//! Connections over a [`Wire`]: what libp2p's swarm does, for simulations.
//!
//! One idea: a peer is connected while a *link* to it lives, a stream of bytes on which both sides give signs of life; each channel is a
//! stream beside it, and is cut when the last link goes. Who is let in is judged as the gate does it: by the allow-list, and a second
//! process with a member's key only if the first does not answer.

mod link;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::access::{Admission, AllowList, Standing};
use super::driver::{Command, Copies, CopySeen};
use super::error::{NetworkError, OpenError};
use super::incoming::QUEUE;
use super::presence::Presence;
use super::streams::Unopened;
use super::wire::{AnyStream, Wire, WireListener};
use super::{NetworkConfig, socket_of};
use link::{Call, Link, Verdict, What, read, write};

/// Events of links that may wait.
const EVENTS: usize = 256;
/// Links of one peer: two when both dial at once, and some that died unnoticed.
const MAX_PER_PEER: usize = 64;

/// What links are made of.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) wire: Arc<dyn Wire>,
    pub(super) me: PeerId,
    pub(super) config: NetworkConfig,
    pub(super) list: watch::Receiver<Arc<AllowList>>,
    pub(super) presence: Presence,
    pub(super) copies: Copies,
    pub(super) gone: CancellationToken,
}

type Arrivals = mpsc::Sender<(PeerId, AnyStream)>;

/// A handle to the links.
#[derive(Clone)]
pub(super) struct Links {
    shared: Arc<Shared>,
}

struct Shared {
    given: Given,
    /// Where each peer that is connected takes streams.
    listening: Mutex<BTreeMap<PeerId, SocketAddr>>,
    served: Mutex<BTreeMap<&'static str, Arrivals>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens, and gives the handle and where it really listens.
///
/// # Errors
/// Names the address that could not be listened at.
pub(super) async fn start(given: Given, commands: mpsc::Receiver<Command>) -> Result<(Links, Vec<Multiaddr>), NetworkError> {
    let (mut listeners, mut bound) = (Vec::new(), Vec::new());
    for address in &given.config.listen {
        let socket = socket_of(address).ok_or_else(|| NetworkError::NoSuchKind { address: address.clone() })?;
        let (listener, at) = given.wire.listen(socket).await.map_err(|source| match source.kind() {
            std::io::ErrorKind::AddrInUse => NetworkError::PortInUse { address: address.clone() },
            _ => NetworkError::Listen { address: address.clone(), source },
        })?;
        listeners.push(listener);
        bound.push(at);
    }
    let (events, happened) = mpsc::channel(EVENTS);
    let shared = Arc::new(Shared { given, listening: Mutex::default(), served: Mutex::default() });
    let own = bound.first().copied();
    let keeper = Keeper {
        shared: shared.clone(),
        instance: rand::random(),
        own,
        events,
        next: 0,
        held: BTreeMap::new(),
        waiting: VecDeque::new(),
        dialling: BTreeMap::new(),
    };
    for listener in listeners {
        tokio::spawn(take(listener, shared.clone(), keeper.events.clone()));
    }
    tokio::spawn(keeper.run(commands, happened));
    let addresses = bound.into_iter().map(|at| Multiaddr::from(at.ip()).with(libp2p::multiaddr::Protocol::Tcp(at.port())));
    Ok((Links { shared }, addresses.collect()))
}

impl Links {
    pub(super) fn accept(
        &self,
        protocol: &'static str,
    ) -> Result<impl Stream<Item = (PeerId, AnyStream)> + Send + use<>, NetworkError> {
        let mut served = locked(&self.shared.served);
        if served.get(protocol).is_some_and(|arrivals| !arrivals.is_closed()) {
            return Err(NetworkError::ServedAlready(protocol));
        }
        let (arrivals, streams) = mpsc::channel(QUEUE);
        served.insert(protocol, arrivals);
        Ok(futures::stream::unfold(streams, async |mut streams| streams.recv().await.map(|stream| (stream, streams))).boxed())
    }

    pub(super) async fn open(&self, peer: PeerId, protocol: &'static str) -> Result<AnyStream, Unopened> {
        let given = &self.shared.given;
        let at = locked(&self.shared.listening).get(&peer).copied().ok_or(Unopened::Dropped)?;
        let opening = async {
            let mut stream = given.wire.connect(at).await?;
            write(&mut stream, &Call { from: given.me, to: peer, what: What::Stream { protocol: protocol.to_owned() } }).await?;
            let served: bool = read(&mut stream).await?;
            Ok::<_, std::io::Error>(served.then_some(stream))
        };
        match timeout(given.config.connect_within, opening).await {
            Ok(Ok(Some(stream))) => Ok(stream),
            Ok(Ok(None)) => Err(Unopened::NotServed),
            Ok(Err(_)) | Err(_) => Err(Unopened::Dropped),
        }
    }
}

/// Takes what comes in, until the network is gone.
async fn take(mut listener: Box<dyn WireListener>, shared: Arc<Shared>, events: mpsc::Sender<Event>) {
    loop {
        let accepted = tokio::select! {
            () = shared.given.gone.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => drop(tokio::spawn(hear(stream, from, shared.clone(), events.clone()))),
            Err(error) => {
                debug!(%error, "a connection was not taken");
                tokio::time::sleep(link::ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Hears what a connection is for, and hands it to who deals with it.
async fn hear(mut stream: AnyStream, from: SocketAddr, shared: Arc<Shared>, events: mpsc::Sender<Event>) {
    let Ok(Ok(call)) = timeout(shared.given.config.connect_within, read::<Call>(&mut stream)).await else { return };
    if call.to != shared.given.me {
        // Whoever lived here before: the caller tries another address.
        let _ = write(&mut stream, &Verdict::WrongPeer { me: shared.given.me }).await;
        return;
    }
    match call.what {
        What::Link { instance, listening } => {
            let came = Came { peer: call.from, instance, listening, from, stream };
            let _ = events.send(Event::Came(came)).await;
        }
        What::Stream { protocol } => {
            let arrivals = locked(&shared.served).get(protocol.as_str()).filter(|arrivals| !arrivals.is_closed()).cloned();
            if write(&mut stream, &arrivals.is_some()).await.is_ok()
                && let Some(arrivals) = arrivals
            {
                let _ = arrivals.send((call.from, stream)).await;
            }
        }
    }
}

/// A peer that came.
struct Came {
    peer: PeerId,
    instance: u128,
    listening: Option<SocketAddr>,
    from: SocketAddr,
    stream: AnyStream,
}

/// What happens to links.
enum Event {
    Came(Came),
    Dialled {
        peer: PeerId,
        came_of: Result<(AnyStream, u128, SocketAddr), Failed>,
    },
    /// A link answered when it was asked whether it lives.
    Answered(u64),
    /// The time of a peer that is in no list is up.
    Expired(u64),
    Ended(u64),
}

/// Why a peer was not reached.
enum Failed {
    Unreachable(String),
    Copy,
}

/// On what ground a link is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ground {
    Listed(Standing),
    /// It came, and may stay for a short time.
    Guest,
    /// This node dialled a peer that is not in its list.
    Dialled,
}

struct Held {
    peer: PeerId,
    ground: Ground,
    instance: u128,
    /// Asks whether the peer lives.
    asks: mpsc::Sender<()>,
    cord: CancellationToken,
}

/// The task that owns the links.
struct Keeper {
    shared: Arc<Shared>,
    instance: u128,
    own: Option<SocketAddr>,
    events: mpsc::Sender<Event>,
    next: u64,
    held: BTreeMap<u64, Held>,
    /// Second processes with a member's key, until the first has answered or not.
    waiting: VecDeque<Came>,
    dialling: BTreeMap<PeerId, Vec<oneshot::Sender<Result<(), OpenError>>>>,
}

impl Keeper {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut happened: mpsc::Receiver<Event>) {
        let mut list = self.shared.given.list.clone();
        let reply = loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Connect { peer, addresses, reply }) => self.connect(peer, addresses, reply),
                    Some(Command::Disconnect { peer }) => self.close(peer),
                    #[cfg(test)]
                    Some(Command::Freeze { reply }) => {
                        let _ = reply.send(());
                        std::future::pending::<()>().await;
                    }
                    Some(Command::ShutDown { reply }) => break Some(reply),
                    None => break None,
                },
                Ok(()) = list.changed() => {
                    list.borrow_and_update();
                    self.list_changed();
                }
                Some(event) = happened.recv() => self.on_event(event).await,
            }
        };
        for reply in std::mem::take(&mut self.dialling).into_values().flatten() {
            let _ = reply.send(Err(OpenError::ShutDown));
        }
        let peers: BTreeSet<PeerId> = self.held.values().map(|held| held.peer).collect();
        peers.into_iter().for_each(|peer| self.close(peer));
        self.shared.given.gone.cancel();
        locked(&self.shared.served).clear();
        if let Some(reply) = reply {
            let _ = reply.send(());
        }
    }

    async fn on_event(&mut self, event: Event) {
        match event {
            Event::Came(came) => self.came(came).await,
            Event::Dialled { peer, came_of } => self.dialled(peer, came_of),
            Event::Answered(id) => self.turn_away(id).await,
            Event::Expired(id) => {
                if let Some(&Held { peer, ground: Ground::Guest, .. }) = self.held.get(&id) {
                    self.close(peer);
                }
            }
            Event::Ended(id) => self.forget(id).await,
        }
    }

    fn connect(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, reply: oneshot::Sender<Result<(), OpenError>>) {
        if self.shared.given.presence.is_usable(&peer) {
            let _ = reply.send(Ok(()));
            return;
        }
        let waiting = self.dialling.entry(peer).or_default();
        waiting.push(reply);
        if waiting.len() > 1 {
            return;
        }
        let (given, events) = (self.shared.given.clone(), self.events.clone());
        let call = Call { from: given.me, to: peer, what: What::Link { instance: self.instance, listening: self.own } };
        tokio::spawn(async move {
            let came_of = dial(&given, &call, &addresses).await;
            let _ = events.send(Event::Dialled { peer, came_of }).await;
        });
    }

    fn dialled(&mut self, peer: PeerId, came_of: Result<(AnyStream, u128, SocketAddr), Failed>) {
        let told = match came_of {
            Ok((stream, instance, at)) => {
                let ground = match self.standing(peer) {
                    Standing::Unknown | Standing::Removed => Ground::Dialled,
                    standing => Ground::Listed(standing),
                };
                self.hold(peer, ground, instance, Some(at), stream);
                Ok(())
            }
            Err(Failed::Copy) => {
                debug!(%peer, "turned away: another process with this node's identity is connected there");
                self.shared.given.copies.turned_away.send_modify(|by| {
                    by.insert(peer, Instant::now());
                });
                Err(OpenError::Copy(peer))
            }
            Err(Failed::Unreachable(why)) => Err(OpenError::Unreachable { peer, why }),
        };
        for reply in self.dialling.remove(&peer).into_iter().flatten() {
            let _ = reply.send(match &told {
                Ok(()) => Ok(()),
                Err(OpenError::Copy(peer)) => Err(OpenError::Copy(*peer)),
                Err(error) => Err(OpenError::Unreachable { peer, why: error.to_string() }),
            });
        }
    }

    fn standing(&self, peer: PeerId) -> Standing {
        self.shared.given.list.borrow().standing(&peer)
    }

    /// Whether a peer that came is let in, and on what ground.
    fn admit(&self, peer: PeerId) -> Option<Ground> {
        let listed = match (self.standing(peer), self.shared.given.config.admission) {
            (Standing::Unknown | Standing::Removed, Admission::ListedOnly) => return None,
            (Standing::Unknown | Standing::Removed, Admission::JoinersToo(limits)) => {
                let guests = self.held.values().filter(|held| held.ground == Ground::Guest).count();
                return (guests < limits.at_once).then_some(Ground::Guest);
            }
            (standing, _) => standing,
        };
        let own = self.held.values().filter(|held| held.peer == peer).count();
        (own < MAX_PER_PEER).then_some(Ground::Listed(listed))
    }

    async fn came(&mut self, came: Came) {
        let Some(ground) = self.admit(came.peer) else { return };
        let rivals = match ground {
            // Many programs may use a user's key at once.
            Ground::Listed(Standing::Member) => self.rivals(came.peer, came.instance),
            _ => Vec::new(),
        };
        if rivals.is_empty() {
            return self.let_in(came, ground).await;
        }
        for id in rivals {
            if let Some(held) = self.held.get(&id) {
                // It is being asked already if there is no room.
                let _ = held.asks.try_send(());
            }
        }
        self.waiting.push_back(came);
    }

    async fn let_in(&mut self, came: Came, ground: Ground) {
        let Came { peer, instance, listening, mut stream, .. } = came;
        if write(&mut stream, &Verdict::Admitted { instance: self.instance }).await.is_ok() {
            self.hold(peer, ground, instance, listening, stream);
        }
    }

    /// The links of a peer that belong to another process than this one.
    fn rivals(&self, peer: PeerId, instance: u128) -> Vec<u64> {
        let rival = |held: &Held| held.peer == peer && held.instance != instance;
        self.held.iter().filter(|(_, held)| rival(held)).map(|(id, _)| *id).collect()
    }

    fn hold(&mut self, peer: PeerId, ground: Ground, instance: u128, listening: Option<SocketAddr>, stream: AnyStream) {
        let id = self.next;
        self.next += 1;
        let (asks, asked) = mpsc::channel(1);
        let cord = CancellationToken::new();
        let Given { config, presence, .. } = &self.shared.given;
        let expires = match (ground, config.admission) {
            (Ground::Guest, Admission::JoinersToo(limits)) => Some(limits.time),
            _ => None,
        };
        let link = Link {
            id,
            asked,
            cord: cord.clone(),
            events: self.events.clone(),
            every: config.ping_every,
            silence: config.ping_every + config.ping_within,
            expires,
        };
        tokio::spawn(link.keep(stream));
        self.held.insert(id, Held { peer, ground, instance, asks, cord });
        if let Some(at) = listening {
            locked(&self.shared.listening).insert(peer, at);
        }
        presence.arrive(peer);
        presence.usable(peer);
    }

    /// Closes every link to `peer`, and cuts its streams.
    fn close(&mut self, peer: PeerId) {
        for (_, held) in self.held.extract_if(.., |_, held| held.peer == peer) {
            held.cord.cancel();
        }
        locked(&self.shared.listening).remove(&peer);
        self.shared.given.presence.leave(peer);
    }

    /// A link has ended.
    async fn forget(&mut self, id: u64) {
        let Some(Held { peer, instance, cord, .. }) = self.held.remove(&id) else { return };
        cord.cancel();
        if !self.held.values().any(|held| held.peer == peer) {
            self.close(peer);
        } else if !self.held.values().any(|held| held.peer == peer && held.instance == instance) {
            // Streams of the process that is gone are cut; to the other they can be opened again at once.
            let presence = &self.shared.given.presence;
            presence.leave(peer);
            presence.arrive(peer);
            presence.usable(peer);
        }
        let waited: Vec<Came> = self.waiting.extract_if_peer(peer);
        for came in waited {
            if self.rivals(peer, came.instance).is_empty() {
                if let Some(ground) = self.admit(peer) {
                    self.let_in(came, ground).await;
                }
            } else {
                self.waiting.push_back(came);
            }
        }
    }

    /// An older link answered: who waited is turned away.
    async fn turn_away(&mut self, older: u64) {
        let Some((peer, known)) = self.held.get(&older).map(|held| (held.peer, held.instance)) else { return };
        for mut came in self.waiting.extract_if_peer(peer) {
            if came.instance == known {
                self.waiting.push_back(came);
                continue;
            }
            let from = Multiaddr::from(came.from.ip()).with(libp2p::multiaddr::Protocol::Tcp(came.from.port()));
            info!(%peer, %from, "turned away a second process with the identity of a node that is connected");
            let _ = write(&mut came.stream, &Verdict::Copy).await;
            self.shared.given.copies.seen.send_modify(|(count, seen)| {
                *count += 1;
                *seen = Some(CopySeen { peer, from });
            });
        }
    }

    /// Looks at every link again after the allow-list was replaced.
    fn list_changed(&mut self) {
        let list = self.shared.given.list.borrow().clone();
        let mut gone = BTreeSet::new();
        for held in self.held.values_mut() {
            match (held.ground, list.standing(&held.peer)) {
                (Ground::Listed(before), now) if before == now => {}
                (Ground::Listed(_), _) => drop(gone.insert(held.peer)),
                (_, Standing::Unknown | Standing::Removed) => {}
                (_, standing) => held.ground = Ground::Listed(standing),
            }
        }
        gone.into_iter().for_each(|peer| self.close(peer));
    }
}

trait ExtractPeer {
    fn extract_if_peer(&mut self, peer: PeerId) -> Vec<Came>;
}

impl ExtractPeer for VecDeque<Came> {
    /// Takes out those of one peer, in their order.
    fn extract_if_peer(&mut self, peer: PeerId) -> Vec<Came> {
        let (of_peer, others) = std::mem::take(self).into_iter().partition(|came| came.peer == peer);
        *self = others;
        of_peer.into()
    }
}

/// Dials the addresses in turn until the peer is found at one.
async fn dial(given: &Given, call: &Call, addresses: &[Multiaddr]) -> Result<(AnyStream, u128, SocketAddr), Failed> {
    let mut failures = Vec::new();
    for address in addresses {
        let Some(at) = socket_of(address) else { continue };
        let dialling = async {
            let mut stream = given.wire.connect(at).await?;
            write(&mut stream, call).await?;
            let verdict: Verdict = read(&mut stream).await?;
            Ok::<_, std::io::Error>((stream, verdict))
        };
        match timeout(given.config.connect_within, dialling).await {
            Ok(Ok((stream, Verdict::Admitted { instance }))) => return Ok((stream, instance, at)),
            Ok(Ok((_, Verdict::Copy))) => return Err(Failed::Copy),
            Ok(Ok((_, Verdict::WrongPeer { me }))) => failures.push(format!("{address}: {me} is there instead")),
            Ok(Err(error)) => failures.push(format!("{address}: {error}")),
            Err(_) => failures.push(format!("{address}: no answer within {:?}", given.config.connect_within)),
        }
    }
    Err(Failed::Unreachable(failures.join("; ")))
}
