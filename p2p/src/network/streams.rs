//! How a network opens and takes streams, whatever carries them.

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use libp2p::{PeerId, StreamProtocol};
use libp2p_stream::{Control, OpenStreamError};
use tokio_util::compat::FuturesAsyncReadCompatExt;

use super::error::NetworkError;
use super::links::Links;
use super::wire::AnyStream;

/// The streams that peers open for one protocol.
pub(super) type Opened = BoxStream<'static, (PeerId, AnyStream)>;

/// Why a stream was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unopened {
    /// The peer does not serve the protocol.
    NotServed,
    /// The connection went away.
    Dropped,
}

/// See the module.
#[derive(Clone)]
pub(super) enum Streams {
    /// libp2p.
    Libp2p(Control),
    /// A wire that was handed in.
    Wire(Links),
}

impl Streams {
    /// The streams that peers open for `protocol` from now on.
    ///
    /// # Errors
    /// [`NetworkError::ServedAlready`].
    pub(super) fn accept(&self, protocol: &'static str) -> Result<Opened, NetworkError> {
        match self {
            Self::Libp2p(control) => {
                let streams = control.clone().accept(StreamProtocol::new(protocol));
                let streams = streams.map_err(|_| NetworkError::ServedAlready(protocol))?;
                Ok(boxed(streams.map(|(peer, stream)| (peer, Box::new(stream.compat()) as AnyStream))))
            }
            Self::Wire(links) => links.accept(protocol).map(boxed),
        }
    }

    /// Opens a stream to a peer that is connected.
    ///
    /// # Errors
    /// [`Unopened`].
    pub(super) async fn open(&self, peer: PeerId, protocol: &'static str) -> Result<AnyStream, Unopened> {
        match self {
            Self::Libp2p(control) => match control.clone().open_stream(peer, StreamProtocol::new(protocol)).await {
                Ok(stream) => Ok(Box::new(stream.compat())),
                Err(OpenStreamError::UnsupportedProtocol(_)) => Err(Unopened::NotServed),
                Err(_) => Err(Unopened::Dropped),
            },
            Self::Wire(links) => links.open(peer, protocol).await,
        }
    }
}

fn boxed(streams: impl Stream<Item = (PeerId, AnyStream)> + Send + 'static) -> Opened {
    streams.boxed()
}
