//! The calling side: one task and at most one stream for every peer that is called.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::{ANSWER_PREFIX, Kind, REQUEST_PREFIX, RpcError};
use crate::channel::{ChannelError, ChannelReceiver, ChannelSender, Limits, decode, encode_frame};
use crate::network::{Network, OpenError};

/// Calls to one peer that wait to be written.
const QUEUE: usize = 256;
/// Calls to one peer that wait for an answer.
const MAX_PENDING: usize = 4096;
/// A stream without calls is ended after this time.
const IDLE: Duration = Duration::from_secs(60);
const LENGTH: usize = 4;

/// Calls peers by one protocol. Clones share their streams.
#[derive(Debug, Clone)]
pub struct RpcClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    network: Network,
    protocol: &'static str,
    limits: Limits,
    links: Mutex<HashMap<PeerId, mpsc::Sender<Call>>>,
}

/// One call on its way to the link.
#[derive(Debug)]
struct Call {
    /// The whole request frame; the link puts the id into it.
    frame: Vec<u8>,
    hints: Vec<Multiaddr>,
    answer: oneshot::Sender<Result<Vec<u8>, RpcError>>,
}

type Answers = HashMap<u64, oneshot::Sender<Result<Vec<u8>, RpcError>>>;

impl RpcClient {
    /// A client for `protocol`. Of `limits`, `recv_time` is not used: each call has its own.
    pub fn new(network: Network, protocol: &'static str, limits: Limits) -> Self {
        let limits = Limits { recv_time: None, ..limits };
        Self { shared: Arc::new(Shared { network, protocol, limits, links: Mutex::default() }) }
    }

    /// Calls `peer`, which is in the allow-list, and waits for the answer at most `within`, connecting included.
    ///
    /// # Errors
    /// [`RpcError`] tells whether the request can have been carried out.
    pub async fn call<Req, Resp>(&self, peer: PeerId, request: &Req, within: Duration) -> Result<Resp, RpcError>
    where
        Req: Serialize,
        Resp: DeserializeOwned,
    {
        self.call_at(peer, &[], request, within).await
    }

    /// The same, for a peer that is not in the allow-list: `hints` says where it is.
    ///
    /// # Errors
    /// As [`RpcClient::call`].
    pub async fn call_at<Req, Resp>(
        &self,
        peer: PeerId,
        hints: &[Multiaddr],
        request: &Req,
        within: Duration,
    ) -> Result<Resp, RpcError>
    where
        Req: Serialize,
        Resp: DeserializeOwned,
    {
        let mut prefix = [0; REQUEST_PREFIX];
        let millis = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        prefix[8..].copy_from_slice(&millis.to_be_bytes());
        let frame = encode_frame(&prefix, request, self.shared.limits.max_frame).map_err(|error| match error {
            ChannelError::TooLarge { .. } => RpcError::TooLarge(format!("the request: {error}")),
            other => RpcError::Malformed(other.to_string()),
        })?;
        let (answer, answered) = oneshot::channel();
        let call = Call { frame, hints: hints.to_vec(), answer };
        let timed_out = || RpcError::TimedOut { peer, after: within };
        let lost = || RpcError::Lost { peer, why: "the program is shutting down".to_owned() };
        let deadline = Instant::now() + within;
        let link = self.link(peer);
        timeout_at(deadline, link.send(call)).await.map_err(|_| timed_out())?.map_err(|_| lost())?;
        let body = timeout_at(deadline, answered).await.map_err(|_| timed_out())?.map_err(|_| lost())??;
        decode(&body).map_err(|error| RpcError::Malformed(format!("the answer of {peer}: {error}")))
    }

    fn link(&self, peer: PeerId) -> mpsc::Sender<Call> {
        let mut links = self.shared.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|_, link| !link.is_closed());
        links.entry(peer).or_insert_with(|| self.start_link(peer)).clone()
    }

    fn start_link(&self, peer: PeerId) -> mpsc::Sender<Call> {
        let (to_link, calls) = mpsc::channel(QUEUE);
        let Shared { network, protocol, limits, .. } = &*self.shared;
        let link = Link { network: network.clone(), protocol, limits: *limits, peer, calls, next_id: 0 };
        tokio::spawn(link.run());
        to_link
    }
}

/// The task for one peer. It lives as long as its client; its stream comes and goes.
struct Link {
    network: Network,
    protocol: &'static str,
    limits: Limits,
    peer: PeerId,
    calls: mpsc::Receiver<Call>,
    next_id: u64,
}

/// An open stream, its reader, and the calls that wait for it.
struct Stream {
    sender: ChannelSender,
    pending: Arc<Pending>,
    reader: AbortOnDropHandle<()>,
}

impl Link {
    async fn run(mut self) {
        while let Some(call) = self.calls.recv().await {
            // Whoever called may have given up while the call waited here.
            if call.answer.is_closed() {
                continue;
            }
            match self.network.open(self.peer, &call.hints, self.protocol, self.limits).await {
                Ok(channel) => {
                    let (sender, receiver) = channel.split();
                    let pending = Arc::new(Pending { peer: self.peer, answers: Mutex::default() });
                    let reader = AbortOnDropHandle::new(tokio::spawn(pending.clone().read(receiver)));
                    self.use_stream(call, Stream { sender, pending, reader }).await;
                }
                Err(error) => self.fail_all(call, error),
            }
        }
    }

    /// Fails this call, and those that came while it was tried in vain: each of them would have to wait as long again.
    fn fail_all(&mut self, call: Call, error: OpenError) {
        let error = match error {
            OpenError::Refused { peer, refusal, .. } => RpcError::Refused { peer, refusal },
            error => RpcError::Connect(Arc::new(error)),
        };
        let mut failed = Some(call);
        while let Some(call) = failed {
            let _ = call.answer.send(Err(error.clone()));
            failed = self.calls.try_recv().ok();
        }
    }

    /// Writes calls until the stream breaks, is idle for long, or the client is gone.
    async fn use_stream(&mut self, first: Call, mut stream: Stream) {
        let mut next = Some(first);
        loop {
            if let Some(call) = next.take()
                && let Err(error) = self.write(call, &mut stream).await
            {
                return stream.pending.fail(&RpcError::lost(self.peer, &error));
            }
            tokio::select! {
                biased;
                _ = &mut stream.reader => return,
                call = self.calls.recv() => match call {
                    Some(call) => next = Some(call),
                    None => return,
                },
                () = tokio::time::sleep(IDLE) => if stream.pending.is_idle() {
                    // The peer may be gone by now, which ends the stream as well.
                    let _ = stream.sender.end().await;
                    return;
                },
            }
        }
    }

    async fn write(&mut self, mut call: Call, stream: &mut Stream) -> Result<(), ChannelError> {
        let id = self.next_id;
        self.next_id += 1;
        call.frame[LENGTH..LENGTH + 8].copy_from_slice(&id.to_be_bytes());
        if stream.pending.expect(id, call.answer) {
            stream.sender.send_frame(&call.frame).await?;
            // The reader may have ended, and failed those that waited, just before this one was added.
            if stream.reader.is_finished() {
                stream.pending.fail(&RpcError::Lost { peer: self.peer, why: "the stream ended".to_owned() });
            }
        }
        Ok(())
    }
}

/// The calls that wait for an answer on one stream. Shared by the task that writes and the one that reads, so that neither waits for the other:
/// a writer that did not read could wait for a peer that waits to be read.
struct Pending {
    peer: PeerId,
    answers: Mutex<Answers>,
}

impl Pending {
    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the call may be sent; when too many wait, it is answered here.
    fn expect(&self, id: u64, answer: oneshot::Sender<Result<Vec<u8>, RpcError>>) -> bool {
        let mut answers = self.answers();
        if answers.len() >= MAX_PENDING {
            answers.retain(|_, waiting| !waiting.is_closed());
        }
        if answers.len() >= MAX_PENDING {
            let _ = answer.send(Err(RpcError::Overloaded(MAX_PENDING, self.peer)));
            return false;
        }
        answers.insert(id, answer);
        true
    }

    fn is_idle(&self) -> bool {
        let mut answers = self.answers();
        answers.retain(|_, waiting| !waiting.is_closed());
        answers.is_empty()
    }

    fn fail(&self, error: &RpcError) {
        for (_, waiting) in self.answers().drain() {
            let _ = waiting.send(Err(error.clone()));
        }
    }

    /// Hands out answers until the stream breaks; then fails all that still wait.
    async fn read(self: Arc<Self>, mut receiver: ChannelReceiver) {
        let error = loop {
            match receiver.recv_frame().await {
                Ok(Some(frame)) => match self.take_answer(&frame) {
                    Ok(()) => {}
                    Err(error) => break error,
                },
                Ok(None) => break RpcError::Lost { peer: self.peer, why: "the peer ended the stream".to_owned() },
                Err(error @ ChannelError::TooLarge { .. }) => break RpcError::TooLarge(format!("an answer: {error}")),
                Err(error) => break RpcError::lost(self.peer, &error),
            }
        };
        debug!(peer = %self.peer, %error, "a stream of calls ended");
        self.fail(&error);
    }

    fn take_answer(&self, frame: &[u8]) -> Result<(), RpcError> {
        let malformed = || RpcError::Malformed(format!("{} sent something that is no answer", self.peer));
        let (prefix, body) = frame.split_at_checked(ANSWER_PREFIX).ok_or_else(malformed)?;
        let id: [u8; 8] = prefix[..8].try_into().map_err(|_| malformed())?;
        let kind = Kind::of(prefix[8]).ok_or_else(malformed)?;
        let text = || decode::<String>(body).unwrap_or_else(|_| "no reason given".to_owned());
        let answer = match kind {
            Kind::Answer => Ok(body.to_vec()),
            Kind::Malformed => Err(RpcError::Malformed(format!("{} cannot read the request: {}", self.peer, text()))),
            Kind::TooLarge => Err(RpcError::TooLarge(format!("the answer of {}: {}", self.peer, text()))),
            Kind::Failed => Err(RpcError::Failed { peer: self.peer, why: text() }),
        };
        // Whoever called may have given up.
        if let Some(waiting) = self.answers().remove(&u64::from_be_bytes(id)) {
            let _ = waiting.send(answer);
        }
        Ok(())
    }
}
