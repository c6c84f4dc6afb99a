//! Giving blobs to peers.

use std::sync::Arc;
use std::time::Duration;

use blake3::Hash;
use futures::future::BoxFuture;
use libp2p::PeerId;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::{Ask, BLOB_PROTOCOL, Reply, SendError, send_blob};
use crate::blobs::{BlobError, BlobReader, BlobStore};
use crate::channel::{Channel, Limits};
use crate::network::{Arrival, Network, NetworkError, Who};

/// Transfers under way at once. More would only make each slower.
const MAX_SENDING: usize = 32;
/// How long an ask waits for others to end before it is told that this peer is busy.
const WAIT: Duration = Duration::from_secs(5);
/// Asks are small; a stream may rest for a minute between two of them.
const LIMITS: Limits = Limits { max_frame: 4096, send_time: Duration::from_secs(15), recv_time: Some(Duration::from_secs(60)) };

/// Where blobs to be served are found: a store, or several.
pub trait BlobSource: Send + Sync + 'static {
    /// Opens the blob for reading from `offset`; [`BlobError::Missing`] when it is not here, [`BlobError::Damaged`] when it was.
    fn open(&self, signature: Hash, offset: u64) -> BoxFuture<'_, Result<BlobReader, BlobError>>;

    /// The copy that was just sent is damaged: look at it and see that it is not served again.
    fn damaged(&self, signature: Hash) -> BoxFuture<'_, ()>;
}

impl BlobSource for BlobStore {
    fn open(&self, signature: Hash, offset: u64) -> BoxFuture<'_, Result<BlobReader, BlobError>> {
        Box::pin(async move {
            match self.read_verified(&signature, offset).await {
                Err(BlobError::Missing(_)) if self.was_damaged(&signature).await? => Err(BlobError::Damaged(signature)),
                other => other,
            }
        })
    }

    fn damaged(&self, signature: Hash) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // What is corrupt is moved away, and logged, by the check itself.
            if let Err(error) = self.verify(&signature).await {
                warn!(blob = %signature, %error, "a damaged blob could not be moved away");
            }
        })
    }
}

impl BlobSource for Vec<BlobStore> {
    fn open(&self, signature: Hash, offset: u64) -> BoxFuture<'_, Result<BlobReader, BlobError>> {
        Box::pin(async move {
            let mut why = BlobError::Missing(signature);
            for store in self {
                match BlobSource::open(store, signature, offset).await {
                    Ok(reader) => return Ok(reader),
                    Err(BlobError::Missing(_)) => {}
                    Err(error) => why = error,
                }
            }
            Err(why)
        })
    }

    fn damaged(&self, signature: Hash) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            for store in self {
                store.damaged(signature).await;
            }
        })
    }
}

/// Serves what `source` has to the members on `network`, until that is shut down.
///
/// # Errors
/// [`NetworkError::ServedAlready`].
pub fn serve_blobs(network: &Network, source: impl BlobSource) -> Result<(), NetworkError> {
    let mut incoming = network.serve(BLOB_PROTOCOL, Who::Members, LIMITS)?;
    let server = Arc::new(Server { source, places: Semaphore::new(MAX_SENDING) });
    tokio::spawn(async move {
        while let Some(Arrival { peer, channel, .. }) = incoming.next().await {
            let server = server.clone();
            tokio::spawn(async move {
                if let Err(error) = server.serve(peer, channel).await {
                    debug!(%peer, %error, "a transfer ended early");
                }
            });
        }
    });
    Ok(())
}

struct Server<S> {
    source: S,
    places: Semaphore,
}

impl<S: BlobSource> Server<S> {
    async fn serve(&self, peer: PeerId, mut channel: Channel) -> Result<(), SendError> {
        while let Some(Ask::Blob { signature, offset }) = channel.recv().await? {
            let signature = Hash::from_bytes(signature);
            let Ok(Ok(place)) = tokio::time::timeout(WAIT, self.places.acquire()).await else {
                channel.send(&Reply::Busy).await?;
                continue;
            };
            match self.source.open(signature, offset).await {
                Ok(reader) => {
                    debug!(%peer, blob = %signature, offset, "sending");
                    channel.send(&Reply::Sending { size: reader.size() }).await?;
                    self.send(&mut channel, signature, reader).await?;
                }
                Err(BlobError::Missing(_)) => channel.send(&Reply::Lacking).await?,
                // That was logged when it was found.
                Err(BlobError::Damaged(_)) => channel.send(&Reply::Unreadable).await?,
                Err(error) => {
                    warn!(%peer, blob = %signature, %error, "cannot send a blob");
                    channel.send(&Reply::Unreadable).await?;
                }
            }
            drop(place);
        }
        Ok(())
    }

    async fn send(&self, channel: &mut Channel, signature: Hash, reader: BlobReader) -> Result<(), SendError> {
        match send_blob(channel, reader).await {
            Err(SendError::Blob(error)) => {
                self.source.damaged(signature).await;
                Err(error.into())
            }
            other => other,
        }
    }
}
