//! The wire between simulated machines: turmoil's TCP, whose connections break where bytes of theirs were lost.
//!
//! One idea: turmoil sends nothing again, so a connection that lost bytes would stand still for good, as none does in the world. Whoever lets
//! bytes be lost breaks the connections that may miss some.

use std::collections::{BTreeMap, BTreeSet};
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

use crate::cluster::DATA;

/// How much of what a liar sends is other than it should be: the rest is to be believed, so that it is heard at all.
const LIES: f64 = 0.3;

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

/// Machines that send other modules than they are asked for.
static LIARS: Mutex<BTreeSet<IpAddr>> = Mutex::new(BTreeSet::new());

fn liars() -> MutexGuard<'static, BTreeSet<IpAddr>> {
    LIARS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What this machine sends over the data network is other than it should be, from now on.
pub fn lie(machine: IpAddr) {
    liars().insert(machine);
}

/// What this machine sends is as it should be again.
pub fn tell_the_truth(machine: IpAddr) {
    liars().remove(&machine);
}

/// The wire of whatever machine this is called on.
#[derive(Debug, Clone, Copy)]
pub struct TurmoilWire;

struct Listener(TcpListener);

/// A connection, until it breaks.
struct Breakable {
    stream: TcpStream,
    /// Whose end this is, if modules are sent over it.
    of_modules: Option<IpAddr>,
    broken: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Breakable {
    fn new(stream: TcpStream) -> io::Result<Self> {
        let (here, there) = (stream.local_addr()?, stream.peer_addr()?);
        let broken = ends().entry(pair(here.ip(), there.ip())).or_default().clone();
        let of_modules = (here.port() == DATA || there.port() == DATA).then_some(here.ip());
        Ok(Self { stream, of_modules, broken: Box::pin(broken.cancelled_owned()) })
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
        if self.of_modules.is_some_and(|here| liars().contains(&here)) && rand::random_bool(LIES) {
            let mut other = bytes.to_vec();
            if let Some(byte) = other.last_mut() {
                *byte ^= 1;
            }
            return Pin::new(&mut self.stream).poll_write(context, &other);
        }
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
