//! Who may speak here: the allow-list, and what each protocol asks of its peers.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};

/// Addresses kept of one peer; more are cut off.
pub const MAX_ADDRESSES: usize = 16;

/// What a peer is to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Standing {
    /// A node of the cluster.
    Member,
    /// A person's or publisher's key.
    Principal,
    /// In no list: a node that wants to join, or a stranger.
    Unknown,
    /// A node that was one of the cluster, and is not any more: it is told so.
    Removed,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Member => "a member",
            Self::Principal => "a principal",
            Self::Unknown => "unknown",
            Self::Removed => "a removed node",
        })
    }
}

/// Whom a protocol serves. Principals are served only where they are named: a person's key is not a node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Nodes of the cluster.
    Members,
    /// People's and publishers' keys.
    Principals,
    /// Both.
    MembersAndPrincipals,
    /// Both, and unknown peers where the network admits them.
    Anyone,
}

impl Who {
    /// Whether a peer of this standing is served.
    pub fn serves(self, standing: Standing) -> bool {
        match self {
            Self::Members => standing == Standing::Member,
            Self::Principals => standing == Standing::Principal,
            Self::MembersAndPrincipals => matches!(standing, Standing::Member | Standing::Principal),
            Self::Anyone => true,
        }
    }
}

/// Whether peers that are in no list may connect at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Only those in the allow-list.
    ListedOnly,
    /// Unknown peers too, a few at a time and not for long, and only for protocols that serve [`Who::Anyone`].
    JoinersToo(JoinerLimits),
}

/// What unknown peers get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinerLimits {
    /// How many connections of unknown peers there may be at once.
    pub at_once: usize,
    /// How long each may last.
    pub time: Duration,
}

impl Default for JoinerLimits {
    /// 16 at once, 10 s each.
    fn default() -> Self {
        Self { at_once: 16, time: Duration::from_secs(10) }
    }
}

#[derive(Debug, Clone)]
struct Entry {
    standing: Standing,
    addresses: Vec<Multiaddr>,
}

/// Whom a network lets in, and where they are.
#[derive(Debug, Clone, Default)]
pub struct AllowList {
    peers: HashMap<PeerId, Entry>,
}

impl AllowList {
    /// A list with nobody in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a node of the cluster, with the addresses it listens at on this network. At most [`MAX_ADDRESSES`] are kept.
    pub fn add_member(&mut self, peer: PeerId, addresses: impl IntoIterator<Item = Multiaddr>) {
        let addresses = addresses.into_iter().take(MAX_ADDRESSES).collect();
        self.peers.insert(peer, Entry { standing: Standing::Member, addresses });
    }

    /// Adds a node that was removed. It is never dialled, and let in only to be told.
    pub fn add_removed(&mut self, peer: PeerId) {
        self.peers.entry(peer).or_insert_with(|| Entry { standing: Standing::Removed, addresses: Vec::new() });
    }

    /// Adds a person's or publisher's key. It is never dialled.
    pub fn add_principal(&mut self, peer: PeerId) {
        self.peers.insert(peer, Entry { standing: Standing::Principal, addresses: Vec::new() });
    }

    /// What `peer` is.
    pub fn standing(&self, peer: &PeerId) -> Standing {
        self.peers.get(peer).map_or(Standing::Unknown, |entry| entry.standing)
    }

    /// Where `peer` listens; empty when it is not known.
    pub fn addresses(&self, peer: &PeerId) -> &[Multiaddr] {
        self.peers.get(peer).map_or(&[], |entry| &entry.addresses)
    }

    /// How many peers are in it.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_serves_exactly_those_it_names() {
        use Standing::{Member, Principal, Removed, Unknown};
        let served = |who: Who| [Member, Principal, Unknown, Removed].map(|standing| who.serves(standing));
        assert_eq!(served(Who::Members), [true, false, false, false]);
        assert_eq!(served(Who::Principals), [false, true, false, false]);
        assert_eq!(served(Who::MembersAndPrincipals), [true, true, false, false]);
        assert_eq!(served(Who::Anyone), [true, true, true, true]);
    }

    #[test]
    fn a_peer_keeps_a_bounded_number_of_addresses() {
        let peer = PeerId::random();
        let mut list = AllowList::new();
        list.add_member(peer, (1..100).map(|port| format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()));
        assert_eq!(list.addresses(&peer).len(), MAX_ADDRESSES);
        assert_eq!(list.standing(&PeerId::random()), Standing::Unknown);
    }
}
