//! A network: one libp2p swarm (TCP, Noise, yamux) that lets in only whom its [`AllowList`] names.
//!
//! A task owns the swarm (`driver`); a [`Network`] is a cheap handle to it. Peers are known by their key alone, so a stream's peer is always
//! who it says; what it may do is decided anew for every stream it opens, from the list as it is at that moment.

mod access;
mod address;
mod driver;
mod error;
mod gate;
mod incoming;
mod instance;
mod links;
mod open;
mod presence;
mod stall;
mod streams;
#[cfg(test)]
mod tests;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use libp2p::core::transport::TransportError;
use libp2p::core::{Transport, upgrade};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, noise, ping, tcp, yamux};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

pub use access::{Admission, AllowList, JoinerLimits, MAX_ADDRESSES, Standing, Who};
pub use driver::CopySeen;
pub use error::{NetworkError, OpenError, Refusal};
pub use incoming::{Arrival, Incoming};

use crate::channel::Limits;
use crate::identity::Identity;
use driver::{Behaviour, Command, Copies, Driver};
use gate::Gate;
use incoming::{Door, QUEUE};
use presence::Presence;
use stall::StallGuard;
use streams::Streams;
use wire::Wire;

/// Requests to the swarm's task that may wait.
const COMMANDS: usize = 256;
/// Streams a peer may have open on one connection. yamux gives each a window of 256 KiB.
const MAX_STREAMS: usize = 256;
/// How long a listener may take to say where it listens.
const LISTEN_TIME: Duration = Duration::from_secs(5);

/// How a network is set up. [`NetworkConfig::new`] gives the defaults.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Its name in logs: "control", "data".
    pub name: &'static str,
    /// Where to listen: `/ip4/…/tcp/…`; port 0 lets the system choose. None: this network only dials.
    pub listen: Vec<Multiaddr>,
    /// Whether unknown peers may connect.
    pub admission: Admission,
    /// How long a connection may take, handshake included.
    pub connect_within: Duration,
    /// How long [`Network::open`] may take in all.
    pub open_within: Duration,
    /// How long a connection without streams is kept.
    pub idle: Duration,
    /// A connection is asked for a sign of life this often.
    pub ping_every: Duration,
    /// A connection that does not answer for this long is closed, with all its streams.
    pub ping_within: Duration,
}

impl NetworkConfig {
    /// Listed peers only, 5 s to connect, 10 s to open a stream, idle connections kept for 10 s, a ping every 3 s that may take 5 s.
    pub fn new(name: &'static str, listen: impl IntoIterator<Item = Multiaddr>) -> Self {
        Self {
            name,
            listen: listen.into_iter().collect(),
            admission: Admission::ListedOnly,
            connect_within: Duration::from_secs(5),
            open_within: Duration::from_secs(10),
            idle: Duration::from_secs(10),
            ping_every: Duration::from_secs(3),
            ping_within: Duration::from_secs(5),
        }
    }

    /// The same, with `admission`.
    pub fn admitting(mut self, admission: Admission) -> Self {
        self.admission = admission;
        self
    }
}

/// A handle to a network. Clones are handles to the same one, which ends with [`Network::shutdown`] or with the last handle.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

struct Shared {
    config: NetworkConfig,
    peer_id: PeerId,
    commands: mpsc::Sender<Command>,
    streams: Streams,
    list: watch::Sender<Arc<AllowList>>,
    presence: Presence,
    listening: watch::Receiver<Vec<Multiaddr>>,
    copies: Copies,
    gone: CancellationToken,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Network({}, {})", self.shared.config.name, self.shared.peer_id)
    }
}

impl Network {
    /// Starts a network with nobody in its allow-list, and returns once every listener is bound.
    ///
    /// # Errors
    /// Names the address that could not be listened at, and why.
    pub async fn start(identity: &Identity, config: NetworkConfig) -> Result<Self, NetworkError> {
        let list = watch::Sender::new(Arc::new(AllowList::new()));
        let presence = Presence::new();
        let mut swarm = build_swarm(identity, &config, &list, &presence)?;
        for address in &config.listen {
            listen(&mut swarm, address)?;
        }
        let streams = Streams::Libp2p(swarm.behaviour().streams.new_control());
        let (commands, from_handles) = mpsc::channel(COMMANDS);
        let (listening, mut to_listening) = watch::channel(Vec::new());
        let gone = CancellationToken::new();
        let guard = gone.clone().drop_guard();
        let silence = config.ping_every + config.ping_within;
        let copies = Copies { seen: watch::Sender::new((0, None)), turned_away: watch::Sender::new(BTreeMap::new()) };
        let told = (listening, copies.clone());
        let driver = Driver::new(swarm, from_handles, list.subscribe(), presence.clone(), told, guard, silence);
        let span = tracing::info_span!("network", name = config.name);
        tokio::spawn(driver.run().instrument(span));

        let bound = to_listening.wait_for(|addresses| all_bound(&config.listen, addresses));
        let bound = tokio::time::timeout(LISTEN_TIME, bound).await.map(|answer| answer.map(|_| ()));
        match bound {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(NetworkError::ShutDown),
            Err(_) => return Err(unbound(&config.listen, &to_listening.borrow())),
        }
        let peer_id = identity.peer_id();
        let shared = Shared { config, peer_id, commands, streams, list, presence, listening: to_listening, copies, gone };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Starts a network over a [`Wire`], with nobody in its allow-list.
    ///
    /// # Errors
    /// As [`Network::start`].
    pub async fn start_over(wire: Arc<dyn Wire>, identity: &Identity, config: NetworkConfig) -> Result<Self, NetworkError> {
        let list = watch::Sender::new(Arc::new(AllowList::new()));
        let presence = Presence::new();
        let (commands, from_handles) = mpsc::channel(COMMANDS);
        let gone = CancellationToken::new();
        let copies = Copies { seen: watch::Sender::new((0, None)), turned_away: watch::Sender::new(BTreeMap::new()) };
        let peer_id = identity.peer_id();
        let given = links::Given {
            wire,
            me: peer_id,
            config: config.clone(),
            list: list.subscribe(),
            presence: presence.clone(),
            copies: copies.clone(),
            gone: gone.clone(),
        };
        let (links, listening) = links::start(given, from_handles).await?;
        let (_, listening) = watch::channel(listening);
        let streams = Streams::Wire(links);
        let shared = Shared { config, peer_id, commands, streams, list, presence, listening, copies, gone };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// This node's id.
    pub fn peer_id(&self) -> PeerId {
        self.shared.peer_id
    }

    /// Where this network listens now, with real ports, one for every interface when it listens on all.
    pub fn listening(&self) -> Vec<Multiaddr> {
        self.shared.listening.borrow().clone()
    }

    /// Replaces the allow-list. It holds at once for every new connection and stream; connections of peers that are gone from it, or
    /// whose standing has changed, are closed, and their streams break.
    pub fn set_allowed(&self, list: AllowList) {
        self.shared.list.send_replace(Arc::new(list));
    }

    /// The peers that are connected now; the receiver is told of every change.
    pub fn connections(&self) -> watch::Receiver<BTreeSet<PeerId>> {
        self.shared.presence.connected()
    }

    /// Second processes with the key of a member that is connected, and answers: how many were turned away, and the last. A copied disk.
    pub fn copies(&self) -> watch::Receiver<(u64, Option<CopySeen>)> {
        self.shared.copies.seen.subscribe()
    }

    /// The peers that turned this process away, since another process with its key is connected there, and when each did last.
    pub fn turned_away(&self) -> watch::Receiver<BTreeMap<PeerId, tokio::time::Instant>> {
        self.shared.copies.turned_away.subscribe()
    }

    /// Closes every connection to `peer`; its streams break. It may come again.
    pub async fn disconnect(&self, peer: PeerId) {
        // A network that is shut down has no connections.
        let _ = self.shared.commands.send(Command::Disconnect { peer }).await;
    }

    /// Serves `protocol` to `who`, with `limits` on each of its streams, until the returned [`Incoming`] is dropped. Every stream is answered by
    /// this network before it is handed out: taken, or refused with a reason that the opener sees.
    ///
    /// # Errors
    /// [`NetworkError::ServedAlready`] when the protocol is being served.
    pub fn serve(&self, protocol: &'static str, who: Who, limits: Limits) -> Result<Incoming, NetworkError> {
        if self.shared.gone.is_cancelled() {
            return Err(NetworkError::ShutDown);
        }
        let streams = self.shared.streams.accept(protocol)?;
        let (to, arrivals) = mpsc::channel(QUEUE);
        let door = Door {
            protocol,
            who,
            limits,
            admission: self.shared.config.admission,
            list: self.shared.list.subscribe(),
            presence: self.shared.presence.clone(),
        };
        tokio::spawn(door.keep(streams, self.shared.gone.clone(), to));
        Ok(Incoming { arrivals })
    }

    /// Stops answering, as a process does that hangs.
    #[cfg(test)]
    async fn freeze(&self) {
        let (reply, done) = oneshot::channel();
        if self.shared.commands.send(Command::Freeze { reply }).await.is_ok() {
            let _ = done.await;
        }
    }

    /// Closes listeners and connections. When this returns the ports are free again.
    pub async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self.shared.commands.send(Command::ShutDown { reply }).await.is_ok() {
            // An error says that the task ended by itself.
            let _ = done.await;
        }
    }
}

fn build_swarm(
    identity: &Identity,
    config: &NetworkConfig,
    list: &watch::Sender<Arc<AllowList>>,
    presence: &Presence,
) -> Result<Swarm<Behaviour>, NetworkError> {
    let ping = ping::Config::new().with_interval(config.ping_every).with_timeout(config.ping_within);
    let behaviour = Behaviour {
        gate: Gate::new(list.subscribe(), config.admission, presence.clone()),
        ping: ping::Behaviour::new(ping),
        streams: libp2p_stream::Behaviour::new(),
    };
    let silence = config.ping_every + config.ping_within;
    let noise = noise::Config::new(identity.keypair()).map_err(|e| NetworkError::Transport(e.to_string()))?;
    let mut muxer = yamux::Config::default();
    muxer.set_max_num_streams(MAX_STREAMS);
    let transport = tcp::tokio::Transport::new(tcp::Config::default())
        .map(move |socket, _| StallGuard::new(socket, silence))
        .upgrade(upgrade::Version::V1Lazy)
        .authenticate(noise)
        .multiplex(muxer);
    let swarm = SwarmBuilder::with_existing_identity(identity.keypair().clone())
        .with_tokio()
        .with_other_transport(|_| transport)
        // Infallible: the transport is given as it is.
        .unwrap_or_else(|never| match never {})
        .with_behaviour(|_| behaviour)
        // Infallible: the behaviour is given as it is.
        .unwrap_or_else(|never| match never {})
        .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(config.idle))
        .with_connection_timeout(config.connect_within)
        .build();
    Ok(swarm)
}

/// Begins to listen. libp2p sets `SO_REUSEPORT`, by which two processes of one user would share a port and each get some of the
/// connections; so the port is first tried without it.
fn listen(swarm: &mut Swarm<Behaviour>, address: &Multiaddr) -> Result<(), NetworkError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => NetworkError::PortInUse { address: address.clone() },
        _ => NetworkError::Listen { address: address.clone(), source },
    };
    let socket = socket_of(address).ok_or_else(|| NetworkError::NoSuchKind { address: address.clone() })?;
    if socket.port() != 0 {
        TcpListener::bind(socket).map_err(failed)?;
    }
    swarm.listen_on(address.clone()).map(|_| ()).map_err(|error| match error {
        TransportError::MultiaddrNotSupported(address) => NetworkError::NoSuchKind { address },
        TransportError::Other(source) => failed(source),
    })
}

fn socket_of(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match (parts.next()?, parts.next()) {
        (Protocol::Tcp(port), None) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// Whether each wanted listener has said where it listens. With port 0 the system chose; with all interfaces there is one address each.
fn all_bound(wanted: &[Multiaddr], bound: &[Multiaddr]) -> bool {
    wanted.iter().all(|wanted| is_bound(wanted, bound)) && bound.len() >= wanted.len()
}

fn is_bound(wanted: &Multiaddr, bound: &[Multiaddr]) -> bool {
    let Some(wanted) = socket_of(wanted) else { return false };
    bound.iter().filter_map(socket_of).any(|bound| {
        let same_ip = bound.ip() == wanted.ip() || (wanted.ip().is_unspecified() && bound.is_ipv4() == wanted.is_ipv4());
        same_ip && (wanted.port() == 0 || wanted.port() == bound.port())
    })
}

fn unbound(wanted: &[Multiaddr], bound: &[Multiaddr]) -> NetworkError {
    let address =
        wanted.iter().find(|wanted| !is_bound(wanted, bound)).or(wanted.first()).cloned().unwrap_or_else(Multiaddr::empty);
    let source = io::Error::new(io::ErrorKind::TimedOut, format!("the listener was not ready within {LISTEN_TIME:?}"));
    NetworkError::Listen { address, source }
}
