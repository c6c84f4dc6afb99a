//! Calls with answers over [`Channel`](crate::Channel)s: many at once over one long-lived stream, answered in any order.
//!
//! A request is one frame: id (`u64`), the time its caller will wait in milliseconds (`u32`), both big endian, and the request in MessagePack. An answer is
//! one frame: the id, one byte of `Kind`, and the answer, or a text that says what went wrong.

mod client;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;

use crate::channel::ChannelError;
use crate::network::{OpenError, Refusal};

pub use client::RpcClient;
pub use server::serve_rpc;

const REQUEST_PREFIX: usize = 8 + 4;
const ANSWER_PREFIX: usize = 8 + 1;

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RpcError {
    /// No stream to the peer could be opened. The request was not sent.
    #[error("could not connect: {0}")]
    Connect(Arc<OpenError>),
    /// The peer does not serve this caller. The request was not sent.
    #[error("{peer} refused: {refusal}")]
    Refused {
        /// The peer.
        peer: PeerId,
        /// Its reason.
        refusal: Refusal,
    },
    /// The answer did not come in time. The request may have been carried out.
    #[error("{peer} did not answer within {after:?}")]
    TimedOut {
        /// The peer.
        peer: PeerId,
        /// How long the call waited.
        after: Duration,
    },
    /// The stream broke before the answer came. The request may have been carried out.
    #[error("the connection to {peer} was lost: {why}")]
    Lost {
        /// The peer.
        peer: PeerId,
        /// How the loss was noticed.
        why: String,
    },
    /// Request or answer is larger than the protocol allows.
    #[error("too large: {0}")]
    TooLarge(String),
    /// One side cannot read what the other wrote: their versions differ.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The peer's code for this request failed.
    #[error("{peer} failed: {why}")]
    Failed {
        /// The peer.
        peer: PeerId,
        /// What it said.
        why: String,
    },
    /// There are too many calls to this peer already. The request was not sent.
    #[error("{0} calls to {1} are waiting already")]
    Overloaded(usize, PeerId),
}

impl RpcError {
    fn lost(peer: PeerId, error: &ChannelError) -> Self {
        Self::Lost { peer, why: error.to_string() }
    }
}

/// What an answer frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Answer,
    Malformed,
    TooLarge,
    Failed,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Answer, Self::Malformed, Self::TooLarge, Self::Failed];

    fn byte(self) -> u8 {
        match self {
            Self::Answer => 0,
            Self::Malformed => 1,
            Self::TooLarge => 2,
            Self::Failed => 3,
        }
    }

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.byte() == byte)
    }
}
