//! The wire between simulated machines: turmoil's TCP, whose connections break where bytes of theirs were lost.
//!
//! One idea: turmoil sends nothing again, so a connection that lost bytes would stand still for good, as none does in the world. Whoever lets
//! bytes be lost breaks the connections that may miss some.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tribune_p2p::network::wire::{AnyStream, Wire, WireListener};
use turmoil::net::{TcpListener, TcpStream};

/// By the two ends of a connection: what breaks all that are there now.
static ENDS: Mutex<BTreeMap<(IpAddr, IpAddr), CancellationToken>> = Mutex::new(BTreeMap::new());

fn ends() -> MutexGuard<'static, BTreeMap<(IpAddr, IpAddr), CancellationToken>> {
    ENDS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pair(a: IpAddr, b: IpAddr) -> (IpAddr, IpAddr) {
    (a.min(b), a.max(b))
}

/// Breaks all connections between two machines.
pub fn break_between(a: IpAddr, b: IpAddr) {
    if let Some(end) = ends().remove(&pair(a, b)) {
        end.cancel();
    }
}

/// The wire of whatever machine this is called on.
#[derive(Debug, Clone, Copy)]
pub struct TurmoilWire;

struct Listener(TcpListener);

/// A connection, until it breaks.
struct Breakable {
    stream: TcpStream,
    broken: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Breakable {
    fn new(stream: TcpStream) -> io::Result<Self> {
        let (here, there) = (stream.local_addr()?.ip(), stream.peer_addr()?.ip());
        let broken = ends().entry(pair(here, there)).or_default().clone();
        Ok(Self { stream, broken: Box::pin(broken.cancelled_owned()) })
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.broken.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Breakable {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, to)
    }
}

impl AsyncWrite for Breakable {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Wire for TurmoilWire {
    fn listen(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<(Box<dyn WireListener>, SocketAddr)>> {
        async move {
            // A machine has one address, and turmoil listens at all of them only.
            let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), at.port())).await?;
            Ok((Box::new(Listener(listener)) as Box<dyn WireListener>, at))
        }
        .boxed()
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<AnyStream>> {
        async move { Ok(Box::new(Breakable::new(TcpStream::connect(to).await?)?) as AnyStream) }.boxed()
    }
}

impl WireListener for Listener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(AnyStream, SocketAddr)>> {
        async {
            let (stream, from) = self.0.accept().await?;
            Ok((Box::new(Breakable::new(stream)?) as AnyStream, from))
        }
        .boxed()
    }
}
