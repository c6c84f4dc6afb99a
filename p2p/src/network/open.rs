//! Opening a stream to a peer: connect if needed, ask for the protocol, wait for the peer's answer, and try again where that can help.

use std::sync::Mutex;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Network;
use super::address;
use super::driver::Command;
use super::error::{OpenError, Refusal};
use super::incoming::{GREETING_LIMITS, Greeting};
use super::streams::Unopened;
use crate::channel::{Channel, ChannelError, Limits};

/// A connection may turn out to be dead only when it is used; then one more is made, and no third.
const MAX_DIALS: u32 = 2;
/// An attempt that has no stream after this part of the whole time is given up for another: of several connections to a peer, libp2p-stream takes any, also one that
/// is just being closed and never answers.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(320);

/// What one attempt came to, when it was not a channel.
enum Failed {
    /// Trying again cannot help.
    ForGood(OpenError),
    /// The peer was too busy to take the stream.
    Busy(OpenError),
    /// The stream, or the connection under it, went away before the peer answered.
    Dropped,
}

impl Network {
    /// Opens a stream to `peer`. It is dialled, when it is not connected, at `hints` and at the addresses in the allow-list; hints are needed only for
    /// peers that are not in it. A stream that the peer dropped or was too busy for is asked for again, within
    /// [`open_within`](super::NetworkConfig::open_within).
    ///
    /// # Errors
    /// Each case of [`OpenError`] says whether the peer was not reached, refused (and why), or gave no answer in time.
    pub async fn open(
        &self,
        peer: PeerId,
        hints: &[Multiaddr],
        protocol: &'static str,
        limits: Limits,
    ) -> Result<Channel, OpenError> {
        if peer == self.peer_id() {
            return Err(OpenError::Myself(peer));
        }
        let after = self.shared.config.open_within;
        // What the last attempt said, if all of them were in vain when the time is up.
        let last = Mutex::new(None);
        let opened = timeout(after, self.keep_trying(peer, hints, protocol, &last)).await;
        match opened {
            Ok(channel) => Ok(channel?.with_limits(limits)),
            Err(_) => {
                let last = last.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
                Err(last.unwrap_or(OpenError::TimedOut { peer, protocol, after }))
            }
        }
    }

    async fn keep_trying(
        &self,
        peer: PeerId,
        hints: &[Multiaddr],
        protocol: &'static str,
        last: &Mutex<Option<OpenError>>,
    ) -> Result<Channel, OpenError> {
        let mut dials = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            if !self.shared.presence.is_usable(&peer) {
                if dials == MAX_DIALS {
                    return Err(OpenError::Closed(peer));
                }
                dials += 1;
                self.connect(peer, hints).await?;
            }
            let failed = match self.try_open(peer, protocol).await {
                Ok(channel) => return Ok(channel),
                Err(Failed::ForGood(error)) => return Err(error),
                Err(Failed::Busy(error)) => Some(error),
                Err(Failed::Dropped) => None,
            };
            *last.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = failed;
            // Openers that were refused together must not come back together.
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn connect(&self, peer: PeerId, hints: &[Multiaddr]) -> Result<(), OpenError> {
        let listed = self.shared.list.borrow().clone();
        let known: Vec<Multiaddr> = hints.iter().chain(listed.addresses(&peer)).cloned().collect();
        if known.is_empty() {
            return Err(OpenError::NoAddress(peer));
        }
        let mut failures = Vec::new();
        let addresses = address::resolve(known, &mut failures).await;
        if addresses.is_empty() {
            return Err(OpenError::Unreachable { peer, why: failures.join("; ") });
        }
        let (reply, answer) = oneshot::channel();
        let command = Command::Connect { peer, addresses, reply };
        self.shared.commands.send(command).await.map_err(|_| OpenError::ShutDown)?;
        answer.await.unwrap_or(Err(OpenError::ShutDown))
    }

    async fn try_open(&self, peer: PeerId, protocol: &'static str) -> Result<Channel, Failed> {
        let opening = timeout(self.shared.config.open_within / ATTEMPTS, self.shared.streams.open(peer, protocol));
        let stream = tokio::select! {
            stream = opening => stream,
            () = self.shared.gone.cancelled() => return Err(Failed::ForGood(OpenError::ShutDown)),
        };
        let stream = match stream {
            Ok(Ok(stream)) => stream,
            Ok(Err(Unopened::NotServed)) => {
                return Err(Failed::ForGood(OpenError::NotServed { peer, protocol }));
            }
            Ok(Err(Unopened::Dropped)) | Err(_) => return Err(Failed::Dropped),
        };
        let stream = self.shared.presence.attach(peer, stream).ok_or(Failed::Dropped)?;
        let mut channel = Channel::new(stream, GREETING_LIMITS);
        match channel.expect::<Greeting>().await {
            Ok(Greeting::Taken) => Ok(channel),
            Ok(Greeting::Refused(refusal)) => {
                let error = OpenError::Refused { peer, protocol, refusal: refusal.clone() };
                Err(if refusal == Refusal::Busy { Failed::Busy(error) } else { Failed::ForGood(error) })
            }
            Err(ChannelError::Lost(_)) => Err(Failed::Dropped),
            Err(ChannelError::RecvTimeout(after)) => Err(Failed::ForGood(OpenError::TimedOut { peer, protocol, after })),
            Err(source) => Err(Failed::ForGood(OpenError::Malformed { peer, protocol, source })),
        }
    }
}
