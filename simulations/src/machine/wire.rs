//! The wire between simulated machines: turmoil's TCP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use futures::FutureExt;
use futures::future::BoxFuture;
use tribune_p2p::network::wire::{AnyStream, Wire, WireListener};
use turmoil::net::{TcpListener, TcpStream};

/// The wire of whatever machine this is called on.
#[derive(Debug, Clone, Copy)]
pub struct TurmoilWire;

struct Listener(TcpListener);

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
        async move { Ok(Box::new(TcpStream::connect(to).await?) as AnyStream) }.boxed()
    }
}

impl WireListener for Listener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(AnyStream, SocketAddr)>> {
        async {
            let (stream, from) = self.0.accept().await?;
            Ok((Box::new(stream) as AnyStream, from))
        }
        .boxed()
    }
}
