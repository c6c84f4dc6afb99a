//! One stream of typed messages between two peers, with a limit on everything.
//!
//! On the wire a message is its length (`u32`, big endian) and as many bytes of MessagePack with named fields. A length
//! of zero is the clean end. The end has to be said, because a stream that breaks looks, to its reader, like one that ended:
//! yamux reports a reset and a lost connection as end of file.
//!
//! A channel works over anything that reads and writes bytes, not only over a [`Network`](crate::Network).

use std::fmt;
use std::io;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes of a body moved at a time.
const BODY_STEP: usize = 64 * 1024;
/// How much is set aside for a frame before any of its bytes have come: a declared length is not believed further.
const FRAME_STEP: usize = 64 * 1024;
const LENGTH_BYTES: usize = 4;

/// What a channel allows its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest message in bytes, both ways, without its length prefix. A larger one is refused before it is read.
    pub max_frame: u32,
    /// How long the peer may take to accept what is sent (a message, or one piece of a body), and, once a message has begun to
    /// arrive, how long until it must be whole.
    pub send_time: Duration,
    /// How long to wait for the next message (or the next bytes of a body) to begin. `None`: as long as the stream lives.
    pub recv_time: Option<Duration>,
}

impl Default for Limits {
    /// 1 MiB a message, 10 s to send it, 30 s to wait for one.
    fn default() -> Self {
        Self { max_frame: 1024 * 1024, send_time: Duration::from_secs(10), recv_time: Some(Duration::from_secs(30)) }
    }
}

/// Why a channel failed. After any of these the channel is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// A message is larger than the channel allows.
    #[error("a message of {size} bytes is too large: this channel takes at most {max}")]
    TooLarge {
        /// The message's length, as declared by the peer or as encoded here.
        size: u64,
        /// [`Limits::max_frame`].
        max: u32,
    },
    /// The bytes that came are not the message that was expected, or what was to be sent cannot be encoded.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// The stream broke, or the peer dropped it without a clean end.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The peer did not take what was sent in [`Limits::send_time`].
    #[error("the peer did not take a message within {0:?}")]
    SendTimeout(Duration),
    /// No message, or not all of one, came in time.
    #[error("no whole message came within {0:?}")]
    RecvTimeout(Duration),
    /// The peer ended the stream cleanly where a message was due.
    #[error("the peer ended the stream where a message was due")]
    Ended,
    /// The caller left the stream in the middle of a message or body.
    #[error("the channel was left in the middle of {0}")]
    OutOfStep(&'static str),
    /// The source of a body failed or was shorter than promised.
    #[error("cannot read what was to be sent: {0}")]
    Source(String),
}

impl ChannelError {
    fn lost(error: io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

/// Both directions of a stream.
#[derive(Debug)]
pub struct Channel {
    sender: ChannelSender,
    receiver: ChannelReceiver,
}

impl Channel {
    /// A channel over `stream`.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + 'static, limits: Limits) -> Self {
        let (read, write) = tokio::io::split(stream);
        Self {
            sender: ChannelSender { io: Box::new(write), limits, state: Sending::Between },
            receiver: ChannelReceiver { io: Box::new(read), limits, frame: Vec::new(), begun: None, body_left: 0, ended: false },
        }
    }

    /// Replaces the limits of both directions.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.sender.limits = limits;
        self.receiver.limits = limits;
        self
    }

    /// The limits of both directions.
    pub fn limits(&self) -> Limits {
        self.sender.limits
    }

    /// Sends one message. See [`ChannelSender::send`].
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), ChannelError> {
        self.sender.send(message).await
    }

    /// Receives one message; `None` when the peer ended the stream. See [`ChannelReceiver::recv`].
    pub async fn recv<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ChannelError> {
        self.receiver.recv().await
    }

    /// Receives one message where one is due: a clean end is [`ChannelError::Ended`].
    pub async fn expect<T: DeserializeOwned>(&mut self) -> Result<T, ChannelError> {
        self.receiver.recv().await?.ok_or(ChannelError::Ended)
    }

    /// Sends `len` raw bytes from `source`. See [`ChannelSender::send_body`].
    pub async fn send_body(&mut self, source: impl AsyncRead + Unpin, len: u64) -> Result<(), ChannelError> {
        self.sender.send_body(source, len).await
    }

    /// Begins to receive a body of `len` bytes. See [`ChannelReceiver::recv_body`].
    pub fn recv_body(&mut self, len: u64) -> Result<Body<'_>, ChannelError> {
        self.receiver.recv_body(len)
    }

    /// The two directions, to be used by different tasks.
    pub fn split(self) -> (ChannelSender, ChannelReceiver) {
        (self.sender, self.receiver)
    }

    /// The two directions, borrowed.
    pub fn halves(&mut self) -> (&mut ChannelSender, &mut ChannelReceiver) {
        (&mut self.sender, &mut self.receiver)
    }

    /// Ends this side's messages; the peer's next receive gives `None`. Dropping a channel instead is, to the peer, a lost
    /// connection.
    pub async fn finish(mut self) -> Result<(), ChannelError> {
        self.sender.end().await
    }
}

/// Where a sender is in what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Between,
    /// A write is under way, or one was given up: the peer may have part of it.
    Inside,
    Body {
        left: u64,
    },
}

/// The sending half of a [`Channel`].
pub struct ChannelSender {
    io: Box<dyn AsyncWrite + Send + Unpin>,
    limits: Limits,
    state: Sending,
}

impl fmt::Debug for ChannelSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelSender").field("limits", &self.limits).field("state", &self.state).finish_non_exhaustive()
    }
}

impl ChannelSender {
    /// Sends one message and flushes it. Once its future is dropped in the middle, every later send fails.
    ///
    /// # Errors
    /// [`ChannelError::TooLarge`] before anything is sent; [`ChannelError::SendTimeout`], [`ChannelError::Lost`].
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), ChannelError> {
        self.send_prefixed(&[], message).await
    }

    /// Sends `prefix` and then the encoding of `message` as one frame.
    pub(crate) async fn send_prefixed<T: Serialize>(&mut self, prefix: &[u8], message: &T) -> Result<(), ChannelError> {
        let frame = encode_frame(prefix, message, self.limits.max_frame)?;
        self.send_frame(&frame).await
    }

    /// Sends what [`encode_frame`] made.
    pub(crate) async fn send_frame(&mut self, frame: &[u8]) -> Result<(), ChannelError> {
        self.begin()?;
        self.write(frame, Flush::Now).await?;
        self.state = Sending::Between;
        Ok(())
    }

    /// Sends `len` raw bytes from `source`, 64 KiB at a time.
    ///
    /// # Errors
    /// [`ChannelError::Source`] when `source` fails or ends early; the peer then sees a lost connection.
    pub async fn send_body(&mut self, mut source: impl AsyncRead + Unpin, len: u64) -> Result<(), ChannelError> {
        self.begin_body(len)?;
        let mut buffer = vec![0; BODY_STEP];
        let mut left = len;
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = source.read(&mut buffer[..want]).await.map_err(|e| ChannelError::Source(e.to_string()))?;
            if read == 0 {
                return Err(ChannelError::Source(format!("it ended {left} bytes before the promised {len}")));
            }
            self.write_body(&buffer[..read]).await?;
            left -= read as u64;
        }
        Ok(())
    }

    /// Begins a body of `len` raw bytes, which [`write_body`](Self::write_body) then sends piece by piece.
    ///
    /// # Errors
    /// [`ChannelError::OutOfStep`] when a body is unfinished.
    pub fn begin_body(&mut self, len: u64) -> Result<(), ChannelError> {
        self.begin()?;
        self.state = if len == 0 { Sending::Between } else { Sending::Body { left: len } };
        Ok(())
    }

    /// Sends the next bytes of the body that was begun.
    ///
    /// # Errors
    /// [`ChannelError::OutOfStep`] when these are more bytes than the body has left.
    pub async fn write_body(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        let left = match self.state {
            Sending::Body { left } => left.checked_sub(bytes.len() as u64),
            Sending::Between if bytes.is_empty() => Some(0),
            Sending::Between | Sending::Inside => None,
        };
        let left = left.ok_or(ChannelError::OutOfStep("a body that is longer than was promised"))?;
        let (flush, after) = if left == 0 { (Flush::Now, Sending::Between) } else { (Flush::Later, Sending::Body { left }) };
        self.state = Sending::Inside;
        self.write(bytes, flush).await?;
        self.state = after;
        Ok(())
    }

    /// Ends this direction cleanly.
    pub async fn end(&mut self) -> Result<(), ChannelError> {
        self.begin()?;
        self.write(&0_u32.to_be_bytes(), Flush::Now).await?;
        let limit = self.limits.send_time;
        timeout(limit, self.io.shutdown()).await.map_err(|_| ChannelError::SendTimeout(limit))?.map_err(ChannelError::lost)
    }

    fn begin(&mut self) -> Result<(), ChannelError> {
        match self.state {
            Sending::Between => {
                self.state = Sending::Inside;
                Ok(())
            }
            Sending::Inside => Err(ChannelError::OutOfStep("sending a message")),
            Sending::Body { .. } => Err(ChannelError::OutOfStep("sending a body")),
        }
    }

    async fn write(&mut self, bytes: &[u8], flush: Flush) -> Result<(), ChannelError> {
        let limit = self.limits.send_time;
        let written = timeout(limit, async {
            self.io.write_all(bytes).await?;
            match flush {
                Flush::Now => self.io.flush().await,
                Flush::Later => Ok(()),
            }
        });
        written.await.map_err(|_| ChannelError::SendTimeout(limit))?.map_err(ChannelError::lost)
    }
}

#[derive(Clone, Copy)]
enum Flush {
    Now,
    Later,
}

/// A frame ready to be sent: its length, `prefix`, and the encoding of `message`.
pub(crate) fn encode_frame<T: Serialize>(prefix: &[u8], message: &T, max: u32) -> Result<Vec<u8>, ChannelError> {
    let mut frame = vec![0; LENGTH_BYTES];
    frame.extend_from_slice(prefix);
    let mut encoder = rmp_serde::Serializer::new(&mut frame).with_struct_map();
    message.serialize(&mut encoder).map_err(|e| ChannelError::Malformed(format!("it cannot be encoded: {e}")))?;
    let size = (frame.len() - LENGTH_BYTES) as u64;
    match u32::try_from(size) {
        Ok(length) if length <= max => frame[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes()),
        _ => return Err(ChannelError::TooLarge { size, max }),
    }
    Ok(frame)
}

/// The receiving half of a [`Channel`].
pub struct ChannelReceiver {
    io: Box<dyn AsyncRead + Send + Unpin>,
    limits: Limits,
    /// What has come of the current frame, its length included; kept here so that a receive can be cancelled.
    frame: Vec<u8>,
    /// When the current frame must be whole.
    begun: Option<Instant>,
    body_left: u64,
    ended: bool,
}

impl fmt::Debug for ChannelReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelReceiver")
            .field("limits", &self.limits)
            .field("body_left", &self.body_left)
            .finish_non_exhaustive()
    }
}

impl ChannelReceiver {
    /// Receives one message; `None` when the peer ended the stream. Its future may be dropped and begun again without loss.
    ///
    /// # Errors
    /// [`ChannelError::TooLarge`] as soon as the length is known; [`ChannelError::Lost`] when the stream ends without the peer
    /// having said so.
    pub async fn recv<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ChannelError> {
        match self.recv_frame().await? {
            Some(frame) => decode(&frame).map(Some),
            None => Ok(None),
        }
    }

    /// The bytes of the next frame, without its length.
    pub(crate) async fn recv_frame(&mut self) -> Result<Option<Vec<u8>>, ChannelError> {
        if self.ended {
            return Ok(None);
        }
        if self.body_left > 0 {
            return Err(ChannelError::OutOfStep("receiving a body"));
        }
        self.fill(LENGTH_BYTES).await?;
        let prefix: [u8; LENGTH_BYTES] = match self.frame[..LENGTH_BYTES].try_into() {
            Ok(prefix) => prefix,
            Err(_) => return Err(ChannelError::OutOfStep("a frame's length")),
        };
        let length = u32::from_be_bytes(prefix);
        if length > self.limits.max_frame {
            return Err(ChannelError::TooLarge { size: length.into(), max: self.limits.max_frame });
        }
        self.fill(LENGTH_BYTES + length as usize).await?;
        self.begun = None;
        let mut frame = std::mem::take(&mut self.frame);
        if length == 0 {
            self.ended = true;
            return Ok(None);
        }
        frame.drain(..LENGTH_BYTES);
        Ok(Some(frame))
    }

    /// Reads until the frame has `size` bytes, and never beyond.
    async fn fill(&mut self, size: usize) -> Result<(), ChannelError> {
        while self.frame.len() < size {
            let want = size - self.frame.len();
            if self.frame.capacity() == self.frame.len() {
                self.frame.reserve(want.min(FRAME_STEP.max(self.frame.len())));
            }
            let source = (&mut self.io).take(want as u64);
            let read = read_within(source, &mut self.frame, self.begun, &self.limits).await?;
            if read == 0 {
                return Err(ChannelError::Lost("the peer left without ending the stream".to_owned()));
            }
            self.begun.get_or_insert_with(|| Instant::now() + self.limits.send_time);
        }
        Ok(())
    }

    /// Begins to receive `len` raw bytes, which [`Body::read`] gives piece by piece. `len` must have been checked by the caller:
    /// nothing is set aside for it.
    ///
    /// # Errors
    /// [`ChannelError::OutOfStep`] when an earlier body was not read to its end.
    pub fn recv_body(&mut self, len: u64) -> Result<Body<'_>, ChannelError> {
        if self.body_left > 0 || !self.frame.is_empty() {
            return Err(ChannelError::OutOfStep("receiving a message or body"));
        }
        self.body_left = len;
        Ok(Body { receiver: self })
    }
}

/// Decodes one message.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ChannelError> {
    rmp_serde::from_slice(bytes).map_err(|e| ChannelError::Malformed(e.to_string()))
}

/// Reads once, with the two limits of a frame: until it begins, and until it is whole.
async fn read_within(
    mut io: impl AsyncRead + Unpin,
    frame: &mut Vec<u8>,
    whole_by: Option<Instant>,
    limits: &Limits,
) -> Result<usize, ChannelError> {
    let reading = io.read_buf(frame);
    let read = match (whole_by, limits.recv_time) {
        (Some(deadline), _) => timeout_at(deadline, reading).await.map_err(|_| ChannelError::RecvTimeout(limits.send_time))?,
        (None, Some(limit)) => timeout(limit, reading).await.map_err(|_| ChannelError::RecvTimeout(limit))?,
        (None, None) => reading.await,
    };
    read.map_err(ChannelError::lost)
}

/// Raw bytes on their way in. A body that is not read to its end leaves the channel useless.
#[derive(Debug)]
pub struct Body<'a> {
    receiver: &'a mut ChannelReceiver,
}

impl Body<'_> {
    /// Bytes still to come.
    pub fn left(&self) -> u64 {
        self.receiver.body_left
    }

    /// Reads the next bytes into `buffer` and returns how many; 0 when the body is complete.
    ///
    /// # Errors
    /// [`ChannelError::Lost`] when the stream ends before the body does.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ChannelError> {
        let left = self.receiver.body_left;
        if left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let reading = self.receiver.io.read(&mut buffer[..want]);
        let read = match self.receiver.limits.recv_time {
            Some(limit) => timeout(limit, reading).await.map_err(|_| ChannelError::RecvTimeout(limit))?,
            None => reading.await,
        };
        match read.map_err(ChannelError::lost)? {
            0 => Err(ChannelError::Lost(format!("the peer left {left} bytes before the end of a body"))),
            read => {
                self.receiver.body_left -= read as u64;
                Ok(read)
            }
        }
    }
}

#[cfg(test)]
mod tests;
