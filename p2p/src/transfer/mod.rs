//! Blobs from peer to peer, by `/tribune/blob/1` on the data network.
//!
//! Whoever fetches asks one peer after the other for what it still lacks, and believes none of them: the signature says at the end whether the
//! bytes are right. On a stream: an `Ask`, a `Reply`, the bytes from the asked offset on, an `End`; then the next ask.

mod fetch;
mod serve;
#[cfg(test)]
mod tests;

use blake3::Hash;
use serde::{Deserialize, Serialize};

use crate::blobs::{BlobError, BlobReader, BlobWriter};
use crate::channel::{Channel, ChannelError};

pub use fetch::{Attempt, FetchError, FetchSettings, Fetched, Fetcher, Progress, Provider, Request, Why};
pub use serve::{BlobSource, serve_blobs};

/// The protocol's name.
pub const BLOB_PROTOCOL: &str = "/tribune/blob/1";

/// What a stream of [`BLOB_PROTOCOL`] begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Ask {
    /// The bytes of one blob from `offset` to its end.
    Blob { signature: [u8; 32], offset: u64 },
}

/// The answer to an [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Reply {
    /// The bytes follow; the whole blob has `size` of them.
    Sending { size: u64 },
    /// This peer does not have it.
    Lacking,
    /// Too many transfers are under way here.
    Busy,
    /// This peer has it but cannot read it.
    Unreadable,
}

/// What follows the last byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum End {
    /// The sender has checked the whole blob while it read it.
    Sound,
    /// The sender found its own copy damaged.
    Damaged,
}

/// A blob could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The blob here is not what it should be, or could not be read. The receiver has been told if that was possible.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The stream failed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

/// A blob could not be received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// It could not be written here.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The stream failed. What came before has been kept.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The sender found its own copy damaged: what came is worth nothing.
    #[error("its copy of blob {0} is damaged")]
    Damaged(Hash),
}

/// Sends the rest of a blob, from where `reader` is, and whether it was sound.
///
/// # Errors
/// [`SendError::Blob`] when this copy turns out to be damaged.
pub async fn send_blob(channel: &mut Channel, mut reader: BlobReader) -> Result<(), SendError> {
    let (sender, _) = channel.halves();
    sender.begin_body(reader.size() - reader.offset())?;
    let broken = loop {
        let at_end = reader.offset() == reader.size();
        match reader.next().await {
            Ok(Some(piece)) => sender.write_body(piece).await?,
            Ok(None) => break None,
            // Every byte has been sent, and they were wrong.
            Err(error) if at_end => break Some(error),
            // Nothing can be said in the middle of a body: the receiver sees the stream break.
            Err(error) => return Err(error.into()),
        }
    };
    sender.send(if broken.is_none() { &End::Sound } else { &End::Damaged }).await?;
    broken.map_or(Ok(()), |error| Err(error.into()))
}

/// Receives what `writer` still lacks, sent by [`send_blob`], and calls `progress` with the bytes there are after each piece. The caller
/// commits. When the stream breaks, what came is flushed, for another sender to go on with.
///
/// # Errors
/// [`ReceiveError::Damaged`]: then `writer` has been restarted.
pub async fn receive_blob(
    channel: &mut Channel,
    writer: &mut BlobWriter,
    signature: Hash,
    mut progress: impl FnMut(u64),
) -> Result<(), ReceiveError> {
    let mut buffer = vec![0; 64 * 1024];
    let mut body = channel.recv_body(writer.size() - writer.offset())?;
    loop {
        match body.read(&mut buffer).await {
            Ok(0) => break,
            Ok(read) => {
                writer.write(&buffer[..read]).await?;
                progress(writer.offset());
            }
            Err(error) => {
                writer.flush().await?;
                return Err(error.into());
            }
        }
    }
    match channel.expect::<End>().await {
        Ok(End::Sound) => Ok(()),
        Ok(End::Damaged) => {
            writer.restart().await?;
            Err(ReceiveError::Damaged(signature))
        }
        Err(error) => {
            writer.flush().await?;
            Err(error.into())
        }
    }
}
