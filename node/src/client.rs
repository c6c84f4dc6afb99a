//! How a user's program speaks to the cluster: over a node's own socket, or with a key to any peer.
//!
//! One idea: what can be asked twice is asked again, until it is answered or the time is up. An order keeps its request id
//! through all tries, so an answer that got lost on the way, or a master that died, never makes it happen twice.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tribune_messages::ADMIN_PROTOCOL;
use tribune_messages::api::{
    ApiError, ApiRequest, ApiResponse, ApiResult, Identity as Who, LONGEST_WAIT, MAX_API_FRAME, Query, Wait,
};
use tribune_p2p::network::NetworkError;
use tribune_p2p::{Channel, ChannelError, Identity, Limits, Multiaddr, Network, NetworkConfig, OpenError, PeerId, blocking};
use tribune_raft_store::command::{Accepted, Order, OrderError, SIGNING_CONTEXT, SignedOrder, UserCommand};
use tribune_raft_store::model::{KeySignature, PackageId, PublicKey, RequestId, Timestamp};

use crate::world::Carrier;

/// The first pause before another try; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause before another try.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a signed order is good beyond the time its answer is waited for: clocks differ.
const ORDER_MARGIN: Duration = Duration::from_secs(600);
/// The longest time an order is made good for.
const LONGEST_ORDER: Duration = Duration::from_secs(11 * 3600);
/// The slowest transfer between peers that an upload's answer is waited for, in bytes a second.
const SLOWEST_COPY: u64 = 256 << 10;
/// Bytes of a file that are read at a time.
const PIECE: u64 = 64 << 10;
/// How long it may take beyond any patience until a backup begins: every module is read before.
const GATHERING: Duration = Duration::from_secs(3600);
/// How long a backup may stand still on its way.
const STALLED: Duration = Duration::from_secs(60);
/// No answer is waited for by the channel itself: the client's own deadline is the limit.
const LIMITS: Limits = Limits { max_frame: MAX_API_FRAME, send_time: Duration::from_secs(30), recv_time: None };

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address of a peer cannot be used.
    #[error("peer address {text:?} is not valid: {rule}")]
    Address {
        /// What was given.
        text: String,
        /// What would be right.
        rule: &'static str,
    },
    /// Nothing answers on the node's socket.
    #[error("no node answers on {}: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The network could not be set up on this side.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// None of the peers took the call.
    #[error("no peer could be reached: {why}")]
    Unreachable {
        /// What each of them came to.
        why: String,
    },
    /// The peer does not let this key in.
    #[error("the peer refused this key: {why}")]
    Refused {
        /// Its reason.
        why: String,
    },
    /// The answer did not come in time. An order may have been carried out.
    #[error("no answer within {after:?}")]
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// The connection broke, and what was asked cannot be asked twice.
    #[error("the connection was lost before the answer came: {0}")]
    Lost(ChannelError),
    /// An order could not be made.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The answer is to another question.
    #[error("the peer answered {0} with something else: its version of Tribune differs")]
    Unexpected(&'static str),
    /// The peer said no.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// A peer that can be spoken to over the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who it must be: its key is checked.
    pub id: PeerId,
    /// Where it listens.
    pub address: Multiaddr,
}

impl Peer {
    /// The address with the identity at its end.
    pub fn full_address(&self) -> Multiaddr {
        // What was read from a text of this form is read again.
        format!("{}/p2p/{}", self.address, self.id).parse().unwrap_or_else(|_| self.address.clone())
    }
}

impl std::str::FromStr for Peer {
    type Err = ClientError;
    fn from_str(text: &str) -> Result<Self, ClientError> {
        const RULE: &str = "use an address with the peer's id, such as /ip4/10.0.0.5/tcp/7400/p2p/12D3Koo…";
        let wrong = || ClientError::Address { text: text.chars().take(200).collect(), rule: RULE };
        let (address, id) = text.rsplit_once("/p2p/").filter(|(address, _)| !address.is_empty()).ok_or_else(wrong)?;
        Ok(Self { id: id.parse().map_err(|_| wrong())?, address: address.parse().map_err(|_| wrong())? })
    }
}

/// Where the client speaks to.
#[derive(Debug)]
enum Endpoint {
    Socket(PathBuf),
    Peers { key: Box<Identity>, peers: Vec<Peer>, network: Network, next: usize },
}

/// A connection to the cluster, made anew when it breaks.
#[derive(Debug)]
pub struct Client {
    endpoint: Endpoint,
    channel: Option<Channel>,
    /// Who answers and in which cluster; asked once.
    who: Option<Who>,
    /// Whether it was ever connected: the first try that fails says so at once.
    reached: bool,
}

/// What an upload put into the package store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// The packages in the file.
    pub packages: std::collections::BTreeSet<PackageId>,
    /// On how many voters their blobs are.
    pub copies: u32,
}

/// Why a try failed.
enum Failed {
    /// Another try would fail as well.
    ForGood(ClientError),
    /// Another try may go, if what was asked can be asked twice.
    Perhaps(ClientError),
}

impl Client {
    /// A client of the node on this machine.
    pub fn over_socket(path: &Path) -> Self {
        Self { endpoint: Endpoint::Socket(path.to_owned()), channel: None, who: None, reached: false }
    }

    /// A client of any of these peers, with a user's key. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// When no peer is given, or the network cannot be set up.
    pub async fn over_network(key: Identity, peers: Vec<Peer>) -> Result<Self, ClientError> {
        Self::over(&Carrier::Libp2p, key, peers).await
    }

    /// A client of any of these peers, on this carrier.
    ///
    /// # Errors
    /// As [`Client::over_network`].
    pub async fn over(carrier: &Carrier, key: Identity, peers: Vec<Peer>) -> Result<Self, ClientError> {
        if peers.is_empty() {
            return Err(ClientError::Unreachable { why: "none was named".into() });
        }
        let network = carrier.start(&key, NetworkConfig::new("client", [])).await?;
        Ok(Self {
            endpoint: Endpoint::Peers { key: Box::new(key), peers, network, next: 0 },
            channel: None,
            who: None,
            reached: false,
        })
    }

    /// Asks, and waits for the answer for at most `within` (beyond the time a question itself waits for something new).
    ///
    /// # Errors
    /// The peer's own error as [`ClientError::Api`], or why there is no answer.
    pub async fn ask(&mut self, request: &ApiRequest, within: Duration) -> Result<ApiResponse, ClientError> {
        let within = if waits(request) { within + LONGEST_WAIT.as_duration() } else { within };
        let deadline = Instant::now() + within;
        let mut pause = FIRST_PAUSE;
        let mut before = None;
        loop {
            let sent = self.reached;
            let tried = timeout_at(deadline, self.try_once(request)).await;
            let error = match tried {
                Err(_) => {
                    self.channel = None;
                    return Err(late(before, within));
                }
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(Failed::ForGood(error))) => return Err(error),
                Ok(Err(Failed::Perhaps(error))) => error,
            };
            let hopeless = !sent && !self.reached;
            if hopeless || !repeatable(request) || Instant::now() + pause >= deadline {
                return Err(error);
            }
            tracing::debug!(%error, "asking again");
            before = Some(error);
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Gives an order. Over the network it is signed here, over the socket by the node. A repeat has the same request id.
    ///
    /// # Errors
    /// As [`Client::ask`]; after [`ClientError::TimedOut`] the order may have been carried out.
    pub async fn order(&mut self, command: UserCommand, within: Duration) -> Result<Accepted, ClientError> {
        let request = RequestId::new(rand::random());
        let ask = match &self.endpoint {
            Endpoint::Socket(_) => ApiRequest::LocalOrder { request, command: Box::new(command) },
            Endpoint::Peers { key, .. } => {
                let key = key.clone();
                let cluster = self.who(within).await?.cluster;
                let life = (within + ORDER_MARGIN).min(LONGEST_ORDER);
                let expires = Timestamp(millis_now().saturating_add(u64::try_from(life.as_millis()).unwrap_or(u64::MAX)));
                ApiRequest::Order(Box::new(sign(&Order { cluster, request, expires, command }, &key)?))
            }
        };
        match self.ask(&ask, within).await? {
            ApiResponse::Accepted(accepted) => Ok(accepted),
            _ => Err(ClientError::Unexpected("an order")),
        }
    }

    /// Who answers, and in which cluster.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn who(&mut self, within: Duration) -> Result<Who, ClientError> {
        if let Some(who) = &self.who {
            return Ok(who.clone());
        }
        match self.ask(&ApiRequest::Identity, within).await? {
            ApiResponse::Identity(who) => Ok(self.who.insert(who).clone()),
            _ => Err(ClientError::Unexpected("who it is")),
        }
    }

    /// Uploads a package or image file. The answer is waited for longer the larger the file is. `sent` hears how many bytes have gone.
    ///
    /// # Errors
    /// As [`Client::ask`], and when the file cannot be read.
    pub async fn upload(
        &mut self,
        file: &Path,
        within: Duration,
        sent: impl Fn(u64) + Send + Sync,
    ) -> Result<Uploaded, ClientError> {
        let failed = |source| ClientError::File { path: file.to_owned(), source };
        let size = Source::open(file).await.map_err(failed)?.size;
        let within = within + Duration::from_secs(size / SLOWEST_COPY);
        let deadline = Instant::now() + within;
        let mut pause = FIRST_PAUSE;
        let mut before = None;
        loop {
            let source = Source::open(file).await.map_err(failed)?;
            let error = match timeout_at(deadline, self.upload_once(source, size, &sent)).await {
                Err(_) => {
                    self.channel = None;
                    return Err(late(before, within));
                }
                Ok(Ok(ApiResponse::Uploaded { packages, copies })) => return Ok(Uploaded { packages, copies }),
                Ok(Ok(_)) => return Err(ClientError::Unexpected("an upload")),
                Ok(Err(Failed::ForGood(error))) => return Err(error),
                Ok(Err(Failed::Perhaps(error))) => error,
            };
            if !self.reached || Instant::now() + pause >= deadline {
                return Err(error);
            }
            before = Some(error);
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks for a backup, and writes it to `to`. Somebody who answers is waited for `within`, the backup for as long as it goes on. `came`
    /// hears how many bytes there are, of how many.
    ///
    /// # Errors
    /// As [`Client::ask`]; what was written is of no use then.
    pub async fn backup(
        &mut self,
        mut to: impl AsyncWrite + Unpin,
        within: Duration,
        came: impl Fn(u64, u64),
    ) -> Result<(), ClientError> {
        let what = |failed| match failed {
            Failed::ForGood(error) | Failed::Perhaps(error) => error,
        };
        // That there is a master may take some tries, and to gather what goes into it some time.
        self.who(within).await?;
        let mut channel = self.connected().await.map_err(what)?;
        let asking = async {
            channel.send(&ApiRequest::Backup).await?;
            channel.expect::<ApiResult>().await
        };
        let answer =
            timeout(within + GATHERING, asking).await.map_err(|_| ClientError::TimedOut { after: within + GATHERING })?;
        let size = match answer.map_err(ClientError::Lost)?? {
            ApiResponse::Backup { size } => size,
            _ => return Err(ClientError::Unexpected("a backup")),
        };
        let mut body = channel.recv_body(size).map_err(ClientError::Lost)?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = match timeout(STALLED, body.read(&mut buffer)).await {
                Ok(read) => read.map_err(ClientError::Lost)?,
                Err(_) => return Err(ClientError::TimedOut { after: STALLED }),
            };
            if read == 0 {
                break;
            }
            let failed = |error: io::Error| ClientError::Lost(ChannelError::Source(error.to_string()));
            to.write_all(&buffer[..read]).await.map_err(failed)?;
            came(size - body.left(), size);
        }
        to.flush().await.map_err(|error| ClientError::Lost(ChannelError::Source(error.to_string())))?;
        self.channel = Some(channel);
        Ok(())
    }

    async fn try_once(&mut self, request: &ApiRequest) -> Result<ApiResponse, Failed> {
        let mut channel = self.connected().await?;
        let answer = async {
            channel.send(request).await?;
            channel.expect::<ApiResult>().await
        };
        let answer = answer.await.map_err(broken)?;
        self.channel = Some(channel);
        answer.map_err(said)
    }

    async fn upload_once(&mut self, mut file: Source, size: u64, sent: &(impl Fn(u64) + Sync)) -> Result<ApiResponse, Failed> {
        let channel = self.connected().await?;
        let (mut sender, mut receiver) = channel.split();
        sender.send(&ApiRequest::Upload { size }).await.map_err(broken)?;
        sender.begin_body(size).map_err(broken)?;
        let body = async {
            let mut gone = 0;
            while gone < size {
                let piece = file.piece(size - gone).await.map_err(|error| ChannelError::Source(error.to_string()))?;
                if piece.is_empty() {
                    return Err(ChannelError::Source("the file became shorter".into()));
                }
                sender.write_body(&piece).await?;
                gone += piece.len() as u64;
                sent(gone);
            }
            Ok(())
        };
        tokio::pin!(body);
        // A peer that refuses the file answers before it has all of it.
        let answer = tokio::select! {
            biased;
            answer = receiver.recv::<ApiResult>() => answer,
            written = &mut body => match written {
                Ok(()) => receiver.recv::<ApiResult>().await,
                // The peer's reason, if it gave one, is worth more than that it stopped reading.
                Err(error) => match tokio::time::timeout(Duration::from_secs(1), receiver.recv::<ApiResult>()).await {
                    Ok(Ok(Some(Err(said)))) => Ok(Some(Err(said))),
                    _ => Err(error),
                },
            },
        };
        answer.map_err(broken)?.ok_or_else(|| broken(ChannelError::Ended))?.map_err(said)
    }

    /// The open channel, or a new one.
    async fn connected(&mut self) -> Result<Channel, Failed> {
        if let Some(channel) = self.channel.take() {
            return Ok(channel);
        }
        let channel = match &mut self.endpoint {
            Endpoint::Socket(path) => match UnixStream::connect(&*path).await {
                Ok(stream) => Channel::new(stream, LIMITS),
                Err(source) => {
                    let denied = source.kind() == io::ErrorKind::PermissionDenied;
                    let error = ClientError::Socket { path: path.clone(), source };
                    return Err(if denied { Failed::ForGood(error) } else { Failed::Perhaps(error) });
                }
            },
            Endpoint::Peers { peers, network, next, .. } => call_any(network, peers, next).await?,
        };
        self.reached = true;
        Ok(channel)
    }
}

/// A file that is uploaded.
struct Source {
    /// Away while it is read.
    file: Option<File>,
    size: u64,
}

impl Source {
    async fn open(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        let opened = blocking::run(move || {
            let file = File::open(path)?;
            let size = file.metadata()?.len();
            Ok(Self { file: Some(file), size })
        });
        opened.await.map_err(io::Error::other)?
    }

    /// The next bytes, at most so many; none at the end.
    async fn piece(&mut self, most: u64) -> io::Result<Vec<u8>> {
        let mut file = self.file.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let read = blocking::run(move || {
            let mut piece = Vec::new();
            let read = (&mut file).take(most.min(PIECE)).read_to_end(&mut piece);
            (file, read.map(|_| piece))
        });
        let (file, piece) = read.await.map_err(io::Error::other)?;
        self.file = Some(file);
        piece
    }
}

/// Calls the peers in turn, beginning with the one that is next, until one answers.
async fn call_any(network: &Network, peers: &[Peer], next: &mut usize) -> Result<Channel, Failed> {
    let mut failures = Vec::new();
    let mut refused = None;
    for offset in 0..peers.len() {
        let index = (*next + offset) % peers.len();
        let peer = &peers[index];
        match network.open(peer.id, std::slice::from_ref(&peer.address), ADMIN_PROTOCOL, LIMITS).await {
            Ok(channel) => {
                *next = index;
                return Ok(channel);
            }
            Err(OpenError::Refused { refusal, .. }) => refused = Some(refusal.to_string()),
            Err(error) => failures.push(error.to_string()),
        }
    }
    match refused {
        Some(why) if failures.is_empty() => Err(Failed::ForGood(ClientError::Refused { why })),
        _ => Err(Failed::Perhaps(ClientError::Unreachable { why: failures.join("; ") })),
    }
}

fn broken(error: ChannelError) -> Failed {
    match error {
        ChannelError::TooLarge { .. } | ChannelError::Malformed(_) | ChannelError::Source(_) => {
            Failed::ForGood(ClientError::Lost(error))
        }
        error => Failed::Perhaps(ClientError::Lost(error)),
    }
}

fn said(error: ApiError) -> Failed {
    match error {
        ApiError::NoMaster { .. } | ApiError::Timeout { .. } => Failed::Perhaps(error.into()),
        error => Failed::ForGood(error.into()),
    }
}

/// Why there is no answer in time. That there is no master, as the try before said, tells more than that the time is up.
fn late(before: Option<ClientError>, after: Duration) -> ClientError {
    let no_master = before.filter(|error| matches!(error, ClientError::Api(ApiError::NoMaster { .. })));
    no_master.unwrap_or(ClientError::TimedOut { after })
}

/// Whether it does no harm to ask this twice.
fn repeatable(request: &ApiRequest) -> bool {
    !matches!(request, ApiRequest::LocalRegress { generation: None, .. })
}

/// Whether a question waits for something new by itself.
fn waits(request: &ApiRequest) -> bool {
    matches!(request, ApiRequest::Query(Query::Update { after: Some(_), .. } | Query::Events { wait: Wait::ForSomething, .. }))
}

/// Signs an order with a user's key.
fn sign(order: &Order, key: &Identity) -> Result<SignedOrder, OrderError> {
    let content = serde_json::to_string(order).map_err(|error| OrderError::Malformed(error.to_string()))?;
    let signature = key.sign(&[SIGNING_CONTEXT, content.as_bytes()].concat());
    Ok(SignedOrder { key: PublicKey::new(key.public_key()), content, signature: KeySignature::new(signature) })
}

fn millis_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// A new join token: 64 hexadecimal digits that nobody can guess. The record has only its BLAKE3.
pub fn new_token() -> String {
    let bytes: [u8; 32] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
