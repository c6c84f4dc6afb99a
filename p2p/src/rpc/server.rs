//! The answering side.

use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error};

use super::{ANSWER_PREFIX, Kind, REQUEST_PREFIX};
use crate::channel::{ChannelError, ChannelReceiver, ChannelSender, decode, encode_frame};
use crate::network::{Arrival, Incoming, Standing};

/// Longest time a request is worked on, however long its caller would wait.
const LONGEST: Duration = Duration::from_secs(600);
/// Answers of one stream that wait to be written.
const ANSWERS: usize = 32;
/// One stream gets at most this part of the places for concurrent requests, so that one peer does not keep out the others.
const SHARE: usize = 2;

/// Answers the calls that come in by `incoming` with `handler`, at most `max_concurrent` at a time; further ones wait unread. Ends when the network is
/// shut down.
///
/// When this future is dropped, the streams that it serves break. A handler's future is dropped when its caller's time is up, and
/// finished otherwise, even if the caller has gone: what must not stop half-way belongs in a task of its own.
pub async fn serve_rpc<Req, Resp, F, Fut>(mut incoming: Incoming, max_concurrent: usize, handler: F)
where
    Req: DeserializeOwned + Send + 'static,
    Resp: Serialize + Send + 'static,
    F: Fn(PeerId, Standing, Req) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Resp> + Send + 'static,
{
    let handler = Arc::new(handler);
    let places = Arc::new(Semaphore::new(max_concurrent.max(1)));
    // Ended with this future: whoever serves the protocol next gets its callers.
    let mut streams = JoinSet::new();
    loop {
        let arrival = tokio::select! {
            Some(_) = streams.join_next() => continue,
            arrival = incoming.next() => arrival,
        };
        let Some(Arrival { peer, standing, channel }) = arrival else { break };
        let max_frame = channel.limits().max_frame;
        let (sender, receiver) = channel.split();
        let (answers, to_write) = mpsc::channel(ANSWERS);
        let own = Arc::new(Semaphore::new((max_concurrent / SHARE).max(1)));
        let server = Server { handler: handler.clone(), places: places.clone(), own, peer, standing, max_frame, answers };
        streams.spawn(async move {
            let writer = tokio::spawn(write_answers(sender, to_write));
            tokio::select! {
                read = server.read_requests(receiver) => if let Err(error) = read {
                    debug!(%peer, %error, "a stream of calls broke");
                },
                // The peer takes no answers any more: reading its requests has no purpose.
                _ = writer => {}
            }
        });
    }
}

struct Server<F> {
    handler: Arc<F>,
    places: Arc<Semaphore>,
    own: Arc<Semaphore>,
    peer: PeerId,
    standing: Standing,
    max_frame: u32,
    answers: mpsc::Sender<Vec<u8>>,
}

/// The places that a request occupies, in its stream's share and in all.
type Place = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl<F> Server<F> {
    async fn read_requests<Req, Resp, Fut>(&self, mut receiver: ChannelReceiver) -> Result<(), ChannelError>
    where
        Req: DeserializeOwned + Send + 'static,
        Resp: Serialize + Send + 'static,
        F: Fn(PeerId, Standing, Req) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Resp> + Send + 'static,
    {
        loop {
            let place = self.place().await?;
            let Some(frame) = receiver.recv_frame().await? else { return Ok(()) };
            let Some((prefix, body)) = frame.split_at_checked(REQUEST_PREFIX) else {
                return Err(ChannelError::Malformed("a request of less than 12 bytes".to_owned()));
            };
            let (id, within) = read_prefix(prefix);
            match decode::<Req>(body) {
                Ok(request) => self.work(id, within, request, place),
                Err(error) => {
                    let answer = encode(id, Kind::Malformed, &error.to_string(), self.max_frame);
                    // The writer ends only with the stream.
                    let _ = self.answers.send(answer).await;
                }
            }
        }
    }

    /// A place in this stream's share. The place among all is taken only once there is something to do.
    async fn place(&self) -> Result<OwnedSemaphorePermit, ChannelError> {
        self.own.clone().acquire_owned().await.map_err(|_| ChannelError::Lost("the server stopped".to_owned()))
    }

    fn work<Req, Resp, Fut>(&self, id: [u8; 8], within: Duration, request: Req, own: OwnedSemaphorePermit)
    where
        Req: Send + 'static,
        Resp: Serialize + Send + 'static,
        F: Fn(PeerId, Standing, Req) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Resp> + Send + 'static,
    {
        let (handler, places, answers) = (self.handler.clone(), self.places.clone(), self.answers.clone());
        let (peer, standing, max_frame) = (self.peer, self.standing, self.max_frame);
        tokio::spawn(async move {
            let worked = timeout(within, async {
                let place: Place = (own, places.acquire_owned().await.ok()?);
                // In a task of its own, so that a panic in it is an answer too.
                let task = tokio::spawn(async move { handler(peer, standing, request).await });
                let done = AbortOnDropHandle::new(task).await;
                drop(place);
                Some(done)
            });
            let answer = match worked.await {
                Ok(Some(Ok(answer))) => encode(id, Kind::Answer, &answer, max_frame),
                Ok(Some(Err(panic))) => {
                    error!(%peer, %panic, "answering a call failed");
                    encode(id, Kind::Failed, &"its code for this request panicked", max_frame)
                }
                // Nobody waits any more.
                Ok(None) | Err(_) => return,
            };
            let _ = answers.send(answer).await;
        });
    }
}

fn read_prefix(prefix: &[u8]) -> ([u8; 8], Duration) {
    let (mut id, mut millis) = ([0; 8], [0; 4]);
    id.copy_from_slice(&prefix[..8]);
    millis.copy_from_slice(&prefix[8..REQUEST_PREFIX]);
    (id, Duration::from_millis(u32::from_be_bytes(millis).into()).min(LONGEST))
}

fn encode<T: Serialize>(id: [u8; 8], kind: Kind, message: &T, max_frame: u32) -> Vec<u8> {
    let prefix = |kind: Kind| {
        let mut prefix = [0; ANSWER_PREFIX];
        prefix[..8].copy_from_slice(&id);
        prefix[8] = kind.byte();
        prefix
    };
    encode_frame(&prefix(kind), message, max_frame).unwrap_or_else(|error| {
        let kind = if matches!(error, ChannelError::TooLarge { .. }) { Kind::TooLarge } else { Kind::Failed };
        // A short text always fits, unless the limit is absurd; then the caller waits in vain, as it would for any other answer.
        encode_frame(&prefix(kind), &error.to_string(), u32::MAX).unwrap_or_default()
    })
}

async fn write_answers(mut sender: ChannelSender, mut answers: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = answers.recv().await {
        if let Err(error) = sender.send_frame(&frame).await {
            debug!(%error, "a caller did not take its answer");
            return;
        }
    }
    // The caller may be gone, which ends the stream as well.
    let _ = sender.end().await;
}
