//! Where the agent gets modules from: this node's own package store if they are there, or else the other nodes, the master first.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tribune_agent::agent::ModuleSource;
use tribune_p2p::blobs::{BlobError, BlobReader, BlobStore};
use tribune_p2p::transfer::{BlobSource, Fetcher, Provider, Request};
use tribune_p2p::{Hash, PeerId};
use tribune_raft_store::model::{RaftRole, Signature};

use crate::belief::{Belief, network_peer};
use crate::session::MasterSeen;

/// Nodes that are no voters and are asked as well.
const OTHERS: usize = 16;

/// Gets modules for the agent.
pub(crate) struct Modules {
    pub(crate) me: PeerId,
    pub(crate) own: BlobStore,
    pub(crate) fetcher: Fetcher,
    pub(crate) belief: watch::Receiver<Arc<Belief>>,
    pub(crate) seen: watch::Receiver<MasterSeen>,
}

impl ModuleSource for Modules {
    fn fetch<'a>(&'a self, signature: Signature, size: u64, into: &'a BlobStore) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let hash = Hash::from_bytes(*signature.as_bytes());
            if self.copy(hash, size, into).await {
                return Ok(());
            }
            let providers = providers(self.me, &self.belief.borrow(), self.seen.borrow().master);
            let request = Request { signature: hash, size };
            let fetched = self.fetcher.fetch(request, providers.into_iter().map(Provider::from).collect(), into, &|_| {}).await;
            fetched.map(|_| ()).map_err(|error| error.to_string())
        }
        .boxed()
    }
}

impl Modules {
    /// Copies it out of this node's own package store; whether it is there now.
    async fn copy(&self, hash: Hash, size: u64, into: &BlobStore) -> bool {
        let reader = match self.own.read_verified(&hash, 0).await {
            Ok(reader) => reader,
            Err(BlobError::Missing(_)) => return false,
            Err(error) => {
                tracing::warn!(blob = %hash, %error, "this node's own copy cannot be read");
                return false;
            }
        };
        match copy(reader, hash, size, into).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(blob = %hash, %error, "this node's own copy is of no use; others are asked");
                if matches!(error, BlobError::Mismatch { .. } | BlobError::WrongSize { .. }) {
                    self.own.damaged(hash).await;
                }
                false
            }
        }
    }
}

async fn copy(mut reader: BlobReader, hash: Hash, size: u64, into: &BlobStore) -> Result<(), BlobError> {
    let mut writer = into.writer(hash, size).await?;
    writer.restart().await?;
    loop {
        match reader.next().await {
            Ok(Some(bytes)) => writer.write(bytes).await?,
            Ok(None) => return writer.commit().await,
            Err(error) => {
                // Nobody is to go on with these bytes.
                writer.discard().await?;
                return Err(error);
            }
        }
    }
}

/// Whom to ask: the master, then the other voters, standbys, and some of the other nodes, which may have staged the same.
fn providers(me: PeerId, belief: &Belief, master: Option<PeerId>) -> Vec<PeerId> {
    let rank = |role: RaftRole| match role {
        RaftRole::Voter { .. } => 1,
        RaftRole::Standby { .. } => 2,
        RaftRole::Member => 3,
    };
    let ranked = belief.view.nodes.iter().filter_map(|node| {
        let peer = network_peer(&node.peer)?;
        let rank = if Some(peer) == master { 0 } else { rank(node.raft) };
        Some((rank, rand::random::<u32>(), peer))
    });
    let mut ranked: Vec<_> = ranked.filter(|(_, _, peer)| *peer != me).collect();
    ranked.sort_unstable_by_key(|(rank, order, _)| (*rank, *order));
    let first = ranked.iter().take_while(|(rank, ..)| *rank < 3).count();
    ranked.into_iter().take(first + OTHERS).map(|(.., peer)| peer).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::belief::tests::view;

    #[test]
    fn the_master_is_asked_first_and_members_last_and_a_node_never_asks_itself() {
        let peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
        let nodes = [
            ("n0", peers[0], RaftRole::Member),
            ("n1", peers[1], RaftRole::Voter { raft_id: 1 }),
            ("n2", peers[2], RaftRole::Voter { raft_id: 2 }),
            ("n3", peers[3], RaftRole::Standby { raft_id: 3 }),
        ];
        let belief = Belief::first("n3".parse().unwrap(), view(&nodes));
        assert_eq!(providers(peers[3], &belief, Some(peers[2])), [peers[2], peers[1], peers[0]]);
    }
}
