//! Streams that peers open here. Each is answered first: taken, or refused with the reason.
//!
//! libp2p-stream keeps one waiting stream a protocol and drops what comes beyond it. So a task takes streams off it as they come and answers each
//! in a task of its own; what is dropped all the same ends before an answer, and the opener tries again.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::PeerId;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::access::{Admission, AllowList, Standing, Who};
use super::error::Refusal;
use super::presence::Presence;
use super::streams::Opened;
use super::wire::AnyStream;
use crate::channel::{Channel, Limits};

/// Streams of one protocol that have been taken and wait for the server.
pub(super) const QUEUE: usize = 64;
/// Streams of one protocol that are being answered.
const MAX_GREETINGS: usize = 128;
/// How long a stream waits until its connection may be used.
const USABLE_WITHIN: Duration = Duration::from_secs(5);
/// The first message on every stream, from the peer that was called.
pub(super) const GREETING_LIMITS: Limits =
    Limits { max_frame: 1024, send_time: Duration::from_secs(5), recv_time: Some(Duration::from_secs(10)) };

/// The first message on every stream.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Greeting {
    Taken,
    Refused(Refusal),
}

/// A stream that a peer opened.
#[derive(Debug)]
pub struct Arrival {
    /// Who opened it, proven by its key.
    pub peer: PeerId,
    /// What it was to this node when it opened it.
    pub standing: Standing,
    /// The stream.
    pub channel: Channel,
}

/// The streams of one protocol that peers open here. The protocol is served until this is dropped.
#[derive(Debug)]
pub struct Incoming {
    pub(super) arrivals: mpsc::Receiver<Arrival>,
}

impl Incoming {
    /// The next stream; `None` once the network is shut down.
    pub async fn next(&mut self) -> Option<Arrival> {
        self.arrivals.recv().await
    }
}

/// Serves one protocol: everything needed to judge a stream.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) protocol: &'static str,
    pub(super) who: Who,
    pub(super) limits: Limits,
    pub(super) admission: Admission,
    pub(super) list: watch::Receiver<Arc<AllowList>>,
    pub(super) presence: Presence,
}

impl Door {
    /// Takes streams until the network is gone or nobody waits for them any more.
    pub(super) async fn keep(self, mut streams: Opened, gone: CancellationToken, to: mpsc::Sender<Arrival>) {
        let greetings = Arc::new(Semaphore::new(MAX_GREETINGS));
        loop {
            let stream = tokio::select! {
                () = gone.cancelled() => return,
                () = to.closed() => return,
                stream = streams.next() => stream,
            };
            let Some((peer, stream)) = stream else { return };
            // No room even to refuse: dropping the stream makes the opener try again.
            let Ok(permit) = greetings.clone().try_acquire_owned() else { continue };
            let (door, to) = (self.clone(), to.clone());
            tokio::spawn(async move {
                door.greet(peer, stream, &to).await;
                drop(permit);
            });
        }
    }

    async fn greet(&self, peer: PeerId, stream: AnyStream, to: &mpsc::Sender<Arrival>) {
        let standing = self.list.borrow().standing(&peer);
        // A stranger that is not served here is not waited for: it would hold up others.
        let waits = standing != Standing::Unknown || self.judge(standing).is_ok();
        // The peer may be let in by this side a moment before this side is told that it is let in by the peer.
        if waits && timeout(USABLE_WITHIN, self.presence.wait_usable(peer)).await.is_err() {
            return;
        }
        let Some(stream) = self.presence.attach(peer, stream) else { return };
        let mut channel = Channel::new(stream, GREETING_LIMITS);
        let standing = self.list.borrow().standing(&peer);
        let place = self.judge(standing).and_then(|()| to.try_reserve().map_err(|_| Refusal::Busy));
        match place {
            Ok(place) => match channel.send(&Greeting::Taken).await {
                Ok(()) => place.send(Arrival { peer, standing, channel: channel.with_limits(self.limits) }),
                Err(error) => debug!(%peer, protocol = self.protocol, %error, "a stream went away before it was answered"),
            },
            Err(refusal) => {
                debug!(%peer, protocol = self.protocol, %refusal, "refused a stream");
                // A peer that is gone needs no reason.
                let _ = channel.send(&Greeting::Refused(refusal)).await;
                let _ = channel.finish().await;
            }
        }
    }

    fn judge(&self, standing: Standing) -> Result<(), Refusal> {
        match (standing, self.admission) {
            (Standing::Unknown, Admission::ListedOnly) => Err(Refusal::NotAMember),
            (Standing::Removed, Admission::ListedOnly) => Err(Refusal::Removed),
            (standing, _) if self.who.serves(standing) => Ok(()),
            (Standing::Unknown, Admission::JoinersToo(_)) => Err(Refusal::NotAMember),
            (Standing::Removed, Admission::JoinersToo(_)) => Err(Refusal::Removed),
            (standing, _) => Err(Refusal::NotFor(standing)),
        }
    }
}
