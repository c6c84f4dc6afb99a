//! Who is here, and the cord by which each peer's streams are cut.
//!
//! When this side closes a connection, yamux (0.14) does not wake the readers of its streams: they would wait for ever. So every stream is a
//! [`CutStream`], which fails as soon as its peer has gone, on whichever side that was decided.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use libp2p::PeerId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The peers that are here.
#[derive(Clone)]
pub(super) struct Presence {
    cords: Arc<Mutex<HashMap<PeerId, CancellationToken>>>,
    /// Those to whom streams can be opened. A peer is here a moment before it is usable.
    connected: watch::Sender<BTreeSet<PeerId>>,
}

impl Presence {
    pub(super) fn new() -> Self {
        Self { cords: Arc::default(), connected: watch::Sender::new(BTreeSet::new()) }
    }

    fn cords(&self) -> MutexGuard<'_, HashMap<PeerId, CancellationToken>> {
        self.cords.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to `peer` has been let in.
    pub(super) fn arrive(&self, peer: PeerId) {
        self.cords().entry(peer).or_default();
    }

    /// Streams to `peer` can be opened from now on, if it has not gone meanwhile.
    pub(super) fn usable(&self, peer: PeerId) {
        let cords = self.cords();
        if cords.contains_key(&peer) {
            self.connected.send_if_modified(|peers| peers.insert(peer));
        }
    }

    /// The last connection to `peer` is closed, or being closed: its streams fail now.
    pub(super) fn leave(&self, peer: PeerId) {
        let mut cords = self.cords();
        if let Some(cord) = cords.remove(&peer) {
            cord.cancel();
        }
        self.connected.send_if_modified(|peers| peers.remove(&peer));
    }

    /// `stream` of `peer`, cut when the peer goes; `None` when it has gone already.
    pub(super) fn attach<S>(&self, peer: PeerId, stream: S) -> Option<CutStream<S>> {
        let cord = self.cords().get(&peer)?.clone();
        let (for_reads, for_writes) = (Box::pin(cord.clone().cancelled_owned()), Box::pin(cord.cancelled_owned()));
        Some(CutStream { stream, for_reads, for_writes })
    }

    /// Returns once streams to `peer` can be opened.
    pub(super) async fn wait_usable(&self, peer: PeerId) {
        // The sender is held here, so this does not fail.
        let _ = self.connected.subscribe().wait_for(|peers| peers.contains(&peer)).await;
    }

    pub(super) fn is_usable(&self, peer: &PeerId) -> bool {
        self.connected.borrow().contains(peer)
    }

    pub(super) fn connected(&self) -> watch::Receiver<BTreeSet<PeerId>> {
        self.connected.subscribe()
    }
}

/// See the module. Reads and writes wait separately, since they may be in different tasks.
pub(super) struct CutStream<S> {
    stream: S,
    for_reads: Pin<Box<WaitForCancellationFutureOwned>>,
    for_writes: Pin<Box<WaitForCancellationFutureOwned>>,
}

fn intact(cord: &mut Pin<Box<WaitForCancellationFutureOwned>>, cx: &mut Context<'_>) -> io::Result<()> {
    match cord.as_mut().poll(cx) {
        Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the peer was disconnected")),
        Poll::Pending => Ok(()),
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CutStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        intact(&mut self.for_reads, cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CutStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        intact(&mut self.for_writes, cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        intact(&mut self.for_writes, cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        intact(&mut self.for_writes, cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
