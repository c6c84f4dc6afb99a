//! What carries a network's connections where that is not libp2p over TCP.
//!
//! One idea: a simulation hands in how bytes get from one address to another, and everything above it (who may connect, which streams are
//! opened, who is taken for a copy) works on it as it does on libp2p. On such a wire nobody proves who he is.

use std::io;
use std::net::SocketAddr;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// A stream of bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A stream of any kind.
pub type AnyStream = Box<dyn Duplex>;

/// How bytes get from one address to another.
pub trait Wire: Send + Sync + 'static {
    /// Listens at an address; port 0 lets the wire choose. Gives also where it really listens.
    fn listen(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<(Box<dyn WireListener>, SocketAddr)>>;

    /// Connects to whoever listens at an address.
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<AnyStream>>;
}

/// Where connections come in.
pub trait WireListener: Send {
    /// The next connection, and where it comes from. May be dropped and called again without loss.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(AnyStream, SocketAddr)>>;
}
