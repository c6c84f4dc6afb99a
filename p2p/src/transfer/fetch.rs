//! Getting a blob from peers, none of which is trusted.
//!
//! Peers are asked in turn; what one has sent is kept, and the next goes on from there. When the bytes turn out wrong and one peer alone sent
//! them, it is named and not asked again. When several did (or some lay here before), nobody can be blamed: from then on each peer has to
//! send the whole, so that the next wrong byte has one author.

use std::fmt;
use std::time::Duration;

use blake3::Hash;
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Ask, BLOB_PROTOCOL, ReceiveError, Reply, receive_blob};
use crate::blobs::{BlobError, BlobStore, BlobWriter};
use crate::channel::{Channel, ChannelError, Limits};
use crate::network::{Network, OpenError};

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The blob.
    pub signature: Hash,
    /// Its size in bytes: a peer that declares another is not believed.
    pub size: u64,
}

/// A peer that may have the blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// The peer.
    pub peer: PeerId,
    /// Where it is, beyond what the network's allow-list knows. May be empty.
    pub addresses: Vec<Multiaddr>,
}

impl From<PeerId> for Provider {
    fn from(peer: PeerId) -> Self {
        Self { peer, addresses: Vec::new() }
    }
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are here.
    pub have: u64,
    /// Bytes that there will be.
    pub size: u64,
    /// Who sends now.
    pub from: PeerId,
}

/// How patient a [`Fetcher`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchSettings {
    /// A peer that sends nothing for this time is left.
    pub silence: Duration,
    /// How often a peer may break off before it is not asked again. Breaking off after [`FetchSettings::worthwhile`] bytes does not count.
    pub tries: u32,
    /// See [`FetchSettings::tries`].
    pub worthwhile: u64,
    /// Pause before the peers are asked once more.
    pub pause: Duration,
}

impl Default for FetchSettings {
    /// 15 s of silence, 3 tries a peer, 1 MiB, 500 ms.
    fn default() -> Self {
        Self { silence: Duration::from_secs(15), tries: 3, worthwhile: 1024 * 1024, pause: Duration::from_millis(500) }
    }
}

/// Why a peer was of no use.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// It could not be reached, or refused.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It does not have the blob.
    #[error("it does not have it")]
    Lacking,
    /// Too many are fetching from it.
    #[error("it is busy")]
    Busy,
    /// Its copy is damaged or cannot be read; it says so itself.
    #[error("its copy is damaged")]
    Damaged,
    /// It has a blob of another size under this signature: it lies.
    #[error("it declared {declared} bytes where there must be {expected}")]
    WrongSize {
        /// What it declared.
        declared: u64,
        /// What is right.
        expected: u64,
    },
    /// It sent other bytes: it lies, or its disk or memory does.
    #[error("it sent wrong bytes: their signature is {actual}")]
    WrongBytes {
        /// The signature of what it sent.
        actual: Hash,
    },
    /// The stream failed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

impl Why {
    /// Whether asking the same peer again may help.
    fn may_pass(&self) -> bool {
        match self {
            Self::Open(OpenError::Refused { .. } | OpenError::NoAddress(_) | OpenError::Myself(_) | OpenError::ShutDown) => false,
            Self::Lacking | Self::Damaged | Self::WrongSize { .. } | Self::WrongBytes { .. } => false,
            Self::Open(_) | Self::Busy | Self::Channel(_) => true,
        }
    }
}

/// A peer that was of no use, and why: the last reason, when it was asked several times.
#[derive(Debug)]
pub struct Attempt {
    /// The peer.
    pub peer: PeerId,
    /// What was wrong.
    pub why: Why,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.peer, self.why)
    }
}

/// What a fetch did.
#[derive(Debug)]
pub struct Fetched {
    /// Bytes that came over the network, those in vain included.
    pub moved: u64,
    /// Peers that were of no use, each with its last reason.
    pub failed: Vec<Attempt>,
}

/// A blob could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody gave it. What came is kept and the next fetch goes on from there.
    #[error("no peer could provide blob {signature}{}", list(.attempts))]
    NoProvider {
        /// The blob.
        signature: Hash,
        /// Every peer that was asked, with its last reason.
        attempts: Vec<Attempt>,
    },
    /// It cannot be written here; asking other peers would not help.
    #[error(transparent)]
    Store(#[from] BlobError),
}

fn list(attempts: &[Attempt]) -> String {
    if attempts.is_empty() {
        return ": none is known".to_owned();
    }
    attempts.iter().map(|attempt| format!("; {attempt}")).collect()
}

/// Fetches blobs over one network. Clones share it.
#[derive(Debug, Clone)]
pub struct Fetcher {
    network: Network,
    settings: FetchSettings,
}

impl Fetcher {
    /// A fetcher with the default settings.
    pub fn new(network: Network) -> Self {
        Self::with_settings(network, FetchSettings::default())
    }

    /// A fetcher that is as patient as `settings` say.
    pub fn with_settings(network: Network, settings: FetchSettings) -> Self {
        Self { network, settings }
    }

    /// Fetches one blob from `providers` into `store`; when this returns it is whole, checked and fsynced there. `progress` is called as bytes come.
    /// Dropping the future keeps what came, and a later fetch goes on from there.
    ///
    /// # Errors
    /// [`FetchError::NoProvider`] names every peer and its reason.
    pub async fn fetch(
        &self,
        request: Request,
        providers: Vec<Provider>,
        store: &BlobStore,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Fetched, FetchError> {
        if store.contains(&request.signature).await? {
            return Ok(Fetched { moved: 0, failed: Vec::new() });
        }
        let candidates = providers.into_iter().map(|provider| Candidate { provider, failures: 0, last: None }).collect();
        let work = Work { fetcher: self, request, store, progress, candidates, moved: 0, unclear: false };
        work.run().await
    }
}

/// A provider, and how it did.
struct Candidate {
    provider: Provider,
    failures: u32,
    last: Option<Why>,
}

/// Whose bytes the writer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Author {
    Nobody,
    One(PeerId),
    Several,
}

/// One fetch under way.
struct Work<'a> {
    fetcher: &'a Fetcher,
    request: Request,
    store: &'a BlobStore,
    progress: &'a (dyn Fn(Progress) + Send + Sync),
    candidates: Vec<Candidate>,
    moved: u64,
    /// Bytes of several authors turned out wrong: from now on each peer sends the whole.
    unclear: bool,
}

impl Work<'_> {
    async fn run(mut self) -> Result<Fetched, FetchError> {
        let Request { signature, size } = self.request;
        let begun = Instant::now();
        let mut writer = self.store.writer(signature, size).await?;
        let mut author = if writer.offset() == 0 { Author::Nobody } else { Author::Several };
        loop {
            let mut asked = false;
            for index in 0..self.candidates.len() {
                while self.is_eligible(index) {
                    asked = true;
                    let peer = self.candidates[index].provider.peer;
                    if self.unclear && !matches!(author, Author::Nobody) && author != Author::One(peer) {
                        writer.restart().await?;
                        author = Author::Nobody;
                    }
                    let before = self.moved;
                    let received = self.receive_from(index, &mut writer, &mut author).await?;
                    let moved = self.moved - before;
                    if let Err(why) = received {
                        self.note(index, why, moved);
                        if writer.offset() == 0 {
                            author = Author::Nobody;
                        }
                        break;
                    }
                    match writer.commit().await {
                        Ok(()) => {
                            info!(blob = %signature, size, moved = self.moved, %peer, took = ?begun.elapsed(), "fetched");
                            return Ok(Fetched { moved: self.moved, failed: self.into_attempts() });
                        }
                        Err(BlobError::Mismatch { actual, .. }) => {
                            writer = self.store.writer(signature, size).await?;
                            if author == Author::Several {
                                // Nobody can be blamed: the same peer is asked for all of it at once.
                                debug!(blob = %signature, "bytes of several peers do not fit together; beginning again");
                                self.unclear = true;
                            } else {
                                self.note(index, Why::WrongBytes { actual }, moved);
                            }
                            author = Author::Nobody;
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            if !asked {
                // What came is kept for the next try.
                if writer.offset() == 0 {
                    writer.discard().await?
                } else {
                    writer.flush().await?
                }
                return Err(FetchError::NoProvider { signature, attempts: self.into_attempts() });
            }
            if (0..self.candidates.len()).any(|index| self.is_eligible(index)) {
                tokio::time::sleep(self.fetcher.settings.pause.mul_f64(rand::random_range(0.5..1.5))).await;
            }
        }
    }

    fn is_eligible(&self, index: usize) -> bool {
        let candidate = &self.candidates[index];
        candidate.failures < self.fetcher.settings.tries && candidate.last.as_ref().is_none_or(Why::may_pass)
    }

    fn note(&mut self, index: usize, why: Why, moved: u64) {
        let candidate = &mut self.candidates[index];
        match why {
            Why::WrongBytes { .. } | Why::WrongSize { .. } => {
                warn!(blob = %self.request.signature, peer = %candidate.provider.peer, %why, "a peer is not to be believed");
            }
            _ => debug!(blob = %self.request.signature, peer = %candidate.provider.peer, %why, "a peer was of no use"),
        }
        if moved < self.fetcher.settings.worthwhile {
            candidate.failures += 1;
        }
        candidate.last = Some(why);
    }

    fn into_attempts(self) -> Vec<Attempt> {
        let failed = |candidate: Candidate| candidate.last.map(|why| Attempt { peer: candidate.provider.peer, why });
        self.candidates.into_iter().filter_map(failed).collect()
    }

    /// Asks one peer for what is missing. The outer error is this node's own; the inner one is the peer's.
    async fn receive_from(
        &mut self,
        index: usize,
        writer: &mut BlobWriter,
        author: &mut Author,
    ) -> Result<Result<(), Why>, BlobError> {
        let Provider { peer, addresses } = &self.candidates[index].provider;
        let peer = *peer;
        let mut channel = match self.ask(peer, addresses, writer.offset()).await {
            Ok(channel) => channel,
            Err(why) => return Ok(Err(why)),
        };
        let size = self.request.size;
        let mut last = writer.offset();
        let mut moved = 0;
        let received = receive_blob(&mut channel, writer, self.request.signature, |have| {
            moved += have - last;
            last = have;
            (self.progress)(Progress { have, size, from: peer });
        })
        .await;
        self.moved += moved;
        if moved > 0 {
            *author = match *author {
                Author::Nobody => Author::One(peer),
                Author::One(before) if before == peer => Author::One(peer),
                Author::One(_) | Author::Several => Author::Several,
            };
        }
        match received {
            Ok(()) => {
                // The stream has done its work; how it ends changes nothing.
                let _ = channel.finish().await;
                Ok(Ok(()))
            }
            Err(ReceiveError::Blob(error)) => Err(error),
            Err(ReceiveError::Channel(error)) => Ok(Err(error.into())),
            Err(ReceiveError::Damaged(_)) => Ok(Err(Why::Damaged)),
        }
    }

    async fn ask(&self, peer: PeerId, addresses: &[Multiaddr], offset: u64) -> Result<Channel, Why> {
        let silence = self.fetcher.settings.silence;
        let limits = Limits { max_frame: 4096, send_time: silence, recv_time: Some(silence) };
        let mut channel = self.fetcher.network.open(peer, addresses, BLOB_PROTOCOL, limits).await?;
        channel.send(&Ask::Blob { signature: *self.request.signature.as_bytes(), offset }).await?;
        match channel.expect::<Reply>().await? {
            Reply::Sending { size } if size == self.request.size => Ok(channel),
            Reply::Sending { size } => Err(Why::WrongSize { declared: size, expected: self.request.size }),
            Reply::Lacking => Err(Why::Lacking),
            Reply::Busy => Err(Why::Busy),
            Reply::Unreadable => Err(Why::Damaged),
        }
    }
}
