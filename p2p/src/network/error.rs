//! What can go wrong on a network, told apart as far as callers act differently.

use std::fmt;
use std::io;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};

use super::access::Standing;
use crate::channel::ChannelError;

/// A network could not be started, or a protocol not be served.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Another process (or network) listens there.
    #[error("{address} is in use by another process: stop that one, or choose another port")]
    PortInUse {
        /// The address that was asked for.
        address: Multiaddr,
    },
    /// The address is of no kind that this network can listen at.
    #[error("cannot listen at {address}: it is not of the form /ip4/1.2.3.4/tcp/7000 or /ip6/::1/tcp/7000")]
    NoSuchKind {
        /// The address that was asked for.
        address: Multiaddr,
    },
    /// Listening failed for another reason.
    #[error("cannot listen at {address}: {source}")]
    Listen {
        /// The address that was asked for.
        address: Multiaddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The encrypted transport could not be set up.
    #[error("cannot set up the encrypted transport: {0}")]
    Transport(String),
    /// The protocol is being served already.
    #[error("{0} is served already on this network")]
    ServedAlready(&'static str),
    /// The network has been shut down.
    #[error("the network is shut down")]
    ShutDown,
}

/// Why the peer did not take a stream, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// This node is in no list of the peer.
    NotAMember,
    /// This node was one of the cluster, and was removed.
    Removed,
    /// The peer knows this node, but the protocol is not for nodes (or keys) of its kind.
    NotFor(Standing),
    /// The peer has as many waiting streams as it takes. Openers try again by themselves.
    Busy,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAMember => f.write_str("not a member of this cluster"),
            Self::Removed => f.write_str("this node was removed from the cluster"),
            Self::NotFor(standing) => write!(f, "this protocol is not for {standing}"),
            Self::Busy => f.write_str("too many streams are waiting, try again"),
        }
    }
}

/// A stream to a peer could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No address of the peer is known, and none was given.
    #[error("no address of {0} is known")]
    NoAddress(PeerId),
    /// The peer is this node.
    #[error("{0} is this node itself")]
    Myself(PeerId),
    /// None of the addresses led to the peer.
    #[error("cannot connect to {peer}: {why}")]
    Unreachable {
        /// The peer.
        peer: PeerId,
        /// Each address that was tried, and what happened there.
        why: String,
    },
    /// The peer closed the connection before it answered. A network that admits only listed peers does so with all others.
    #[error(
        "{0} closed the connection at once: this node may not be in its list of members, or too many new nodes are connecting"
    )]
    Closed(PeerId),
    /// Another process with this node's key is connected to the peer, and answers there.
    #[error("{0} is connected with another process that has this node's identity: is this a copy of its disk?")]
    Copy(PeerId),
    /// The peer said no.
    #[error("{peer} refused {protocol}: {refusal}")]
    Refused {
        /// The peer.
        peer: PeerId,
        /// The protocol that was asked for.
        protocol: &'static str,
        /// Its reason.
        refusal: Refusal,
    },
    /// The peer does not know this protocol: its version of Tribune differs, or it is just starting.
    #[error("{peer} does not serve {protocol}")]
    NotServed {
        /// The peer.
        peer: PeerId,
        /// The protocol that was asked for.
        protocol: &'static str,
    },
    /// Nothing was decided in time.
    #[error("{peer} did not answer for {protocol} within {after:?}")]
    TimedOut {
        /// The peer.
        peer: PeerId,
        /// The protocol that was asked for.
        protocol: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// What the peer answered is not an answer.
    #[error("{peer} answered {protocol} with something else: {source}")]
    Malformed {
        /// The peer.
        peer: PeerId,
        /// The protocol that was asked for.
        protocol: &'static str,
        /// What is wrong with it.
        source: ChannelError,
    },
    /// This network has been shut down.
    #[error("the network is shut down")]
    ShutDown,
}
