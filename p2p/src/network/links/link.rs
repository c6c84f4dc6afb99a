//! One link: the signs of life on it, and what is said when a stream begins.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use libp2p::PeerId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::wire::AnyStream;
use super::Event;
use crate::channel::{decode, encode_frame};

/// After a connection could not be taken, the next is taken so much later.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// The longest thing said when a stream begins, in bytes.
const LONGEST: u32 = 1024;
/// How long a peer may take to answer when it is asked whether it lives.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

const SIGN: u8 = 1;
const ASK: u8 = 2;
const ANSWER: u8 = 3;

/// The first thing said on a stream.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call {
    #[serde(with = "peer_text")]
    pub(super) from: PeerId,
    #[serde(with = "peer_text")]
    pub(super) to: PeerId,
    pub(super) what: What,
}

/// What a stream is for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum What {
    /// A link of this process, which takes streams there.
    Link { instance: u128, listening: Option<SocketAddr> },
    /// A channel.
    Stream { protocol: String },
}

/// What is made of who wants a link.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Verdict {
    Admitted {
        instance: u128,
    },
    Copy,
    WrongPeer {
        #[serde(with = "peer_text")]
        me: PeerId,
    },
}

mod peer_text {
    use libp2p::PeerId;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(peer: &PeerId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(peer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PeerId, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Says something.
pub(super) async fn write<T: Serialize>(stream: &mut AnyStream, said: &T) -> io::Result<()> {
    let frame = encode_frame(&[], said, LONGEST).map_err(io::Error::other)?;
    stream.write_all(&frame).await?;
    stream.flush().await
}

/// Hears something.
pub(super) async fn read<T: DeserializeOwned>(stream: &mut AnyStream) -> io::Result<T> {
    let length = stream.read_u32().await?;
    if length > LONGEST {
        return Err(io::Error::other(format!("{length} bytes are too many to begin with; {LONGEST} are possible")));
    }
    let mut frame = vec![0; length as usize];
    stream.read_exact(&mut frame).await?;
    decode(&frame).map_err(io::Error::other)
}

/// One link.
pub(super) struct Link {
    pub(super) id: u64,
    pub(super) asked: mpsc::Receiver<()>,
    pub(super) cord: CancellationToken,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) every: Duration,
    pub(super) silence: Duration,
    pub(super) expires: Option<Duration>,
}

impl Link {
    /// Gives signs of life until the peer gives none, the link is closed, or the stream breaks.
    pub(super) async fn keep(mut self, stream: AnyStream) {
        let (cord, events, id) = (self.cord.clone(), self.events.clone(), self.id);
        tokio::select! {
            () = cord.cancelled() => return,
            // What broke it shows in that it ends.
            _ = self.talk(stream) => {}
        }
        let _ = events.send(Event::Ended(id)).await;
    }

    async fn talk(&mut self, mut stream: AnyStream) -> io::Result<()> {
        let now = Instant::now();
        let mut signs = interval_at(now + self.every, self.every);
        let mut silent_at = now + self.silence;
        let mut expires = self.expires.map(|after| now + after);
        let mut answer_by = None;
        loop {
            tokio::select! {
                _ = signs.tick() => stream.write_all(&[SIGN]).await?,
                Some(()) = self.asked.recv() => {
                    answer_by.get_or_insert(Instant::now() + ANSWER_WITHIN);
                    stream.write_all(&[ASK]).await?;
                }
                heard = stream.read_u8() => {
                    silent_at = Instant::now() + self.silence;
                    match heard? {
                        ASK => stream.write_all(&[ANSWER]).await?,
                        ANSWER if answer_by.take().is_some() => drop(self.events.send(Event::Answered(self.id)).await),
                        _ => {}
                    }
                }
                () = sleep_until(silent_at) => return Ok(()),
                () = due(answer_by) => return Ok(()),
                () = due(expires) => {
                    expires = None;
                    let _ = self.events.send(Event::Expired(self.id)).await;
                }
            }
        }
    }
}

/// Returns at this moment; never without one.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
