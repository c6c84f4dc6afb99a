//! Which process a peer is: two processes with one key are a copied disk.
//!
//! Each connection begins with both sides saying which process they are, by a number drawn when it started, and hearing whether they are
//! let in. The gate decides; nothing else is done on a connection before both sides have said yes. Asked again on a connection that
//! is open, a peer that lives answers.

use std::collections::VecDeque;
use std::fmt;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt};
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol};
use libp2p::{Stream, StreamProtocol};
use tokio::time::timeout;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/tribune/instance/1");
/// How long a peer may take to answer. One that is asked again, and does not within this, is taken for dead.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How long a peer may take to say which process it is, and to take what it is told.
const SAID_WITHIN: Duration = Duration::from_secs(5);

/// A process, by a number drawn when its network started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Instance([u8; 16]);

impl Instance {
    pub(super) fn draw() -> Self {
        Self(rand::random())
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a side says of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is let in.
    Admitted,
    /// Another process with its key is connected, and answers.
    Copy,
}

/// What the gate tells a connection to do.
#[derive(Debug)]
pub(super) enum Say {
    /// Answer the peer that said which process it is.
    Verdict(Verdict),
    /// Ask the peer anew, to see whether it lives.
    Anew,
}

/// What a connection tells the gate.
#[derive(Debug)]
pub(super) enum Heard {
    /// Which process the peer is. It waits for an answer.
    Instance(Instance),
    /// What the peer said of this process.
    Verdict(Verdict),
    /// The peer did not answer in time, or does not know how.
    Silent,
    /// The peer has got its answer.
    Answered(Verdict),
}

/// The connection's part.
pub(super) struct Handler {
    own: Instance,
    to_ask: bool,
    asking: Option<BoxFuture<'static, Option<Verdict>>>,
    /// How long the peer may take to answer: at first it may have to ask an older connection itself.
    answer_within: Duration,
    hearing: Option<BoxFuture<'static, Option<(Instance, Stream)>>>,
    waits: Option<Stream>,
    answering: Option<BoxFuture<'static, Verdict>>,
    heard: VecDeque<Heard>,
    /// Until both sides have had their answer, the connection is kept.
    open: u8,
}

impl Handler {
    pub(super) fn new(own: Instance) -> Self {
        Self {
            own,
            to_ask: true,
            asking: None,
            answer_within: ANSWER_WITHIN + SAID_WITHIN,
            hearing: None,
            waits: None,
            answering: None,
            heard: VecDeque::new(),
            open: 2,
        }
    }

    fn one_less(&mut self) {
        self.open = self.open.saturating_sub(1);
    }
}

async fn ask(mut stream: Stream, own: Instance, within: Duration) -> Option<Verdict> {
    let exchange = async {
        stream.write_all(&own.0).await.ok()?;
        stream.flush().await.ok()?;
        let mut answer = [0];
        stream.read_exact(&mut answer).await.ok()?;
        match answer {
            [0] => Some(Verdict::Admitted),
            [1] => Some(Verdict::Copy),
            _ => None,
        }
    };
    timeout(within, exchange).await.ok().flatten()
}

async fn hear(mut stream: Stream) -> Option<(Instance, Stream)> {
    let mut instance = [0; 16];
    timeout(SAID_WITHIN, stream.read_exact(&mut instance)).await.ok()?.ok()?;
    Some((Instance(instance), stream))
}

async fn answer(mut stream: Stream, verdict: Verdict) -> Verdict {
    let byte = match verdict {
        Verdict::Admitted => 0,
        Verdict::Copy => 1,
    };
    let writing = async {
        stream.write_all(&[byte]).await?;
        stream.flush().await?;
        stream.close().await?;
        // The peer lets go of the stream once it has its answer. Closed before, the connection might take the answer with it.
        stream.read(&mut [0]).await.map(|_| ())
    };
    // One that does not take its answer is noticed by what follows.
    let _ = timeout(SAID_WITHIN, writing).await;
    verdict
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Say;
    type ToBehaviour = Heard;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ()).with_timeout(SAID_WITHIN)
    }

    fn connection_keep_alive(&self) -> bool {
        self.open > 0
    }

    fn on_behaviour_event(&mut self, say: Say) {
        match say {
            Say::Anew => self.to_ask = true,
            Say::Verdict(verdict) => {
                if let Some(stream) = self.waits.take() {
                    self.answering = Some(answer(stream, verdict).boxed());
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Heard>> {
        if let Some(Poll::Ready(verdict)) = self.asking.as_mut().map(|asking| asking.poll_unpin(cx)) {
            self.asking = None;
            self.answer_within = ANSWER_WITHIN;
            self.one_less();
            self.heard.push_back(verdict.map_or(Heard::Silent, Heard::Verdict));
        }
        if let Some(Poll::Ready(said)) = self.hearing.as_mut().map(|hearing| hearing.poll_unpin(cx)) {
            self.hearing = None;
            // One that said nothing, or too little, has lost its turn.
            if let Some((instance, stream)) = said {
                self.waits = Some(stream);
                self.heard.push_back(Heard::Instance(instance));
            }
        }
        if let Some(Poll::Ready(verdict)) = self.answering.as_mut().map(|answering| answering.poll_unpin(cx)) {
            self.answering = None;
            self.one_less();
            self.heard.push_back(Heard::Answered(verdict));
        }
        if let Some(heard) = self.heard.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(heard));
        }
        if self.to_ask && self.asking.is_none() {
            self.to_ask = false;
            // Holds the place until the stream is there: one is asked for at a time.
            self.asking = Some(std::future::pending().boxed());
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ()).with_timeout(ANSWER_WITHIN);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                self.hearing = Some(hear(protocol).boxed());
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) => {
                self.asking = Some(ask(protocol, self.own, self.answer_within).boxed());
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { .. }) => {
                self.asking = None;
                self.one_less();
                self.heard.push_back(Heard::Silent);
            }
            _ => {}
        }
    }
}
