//! What a node believes of its cluster: who is in it, and the highest fence it has seen. On disk before it is acted on.
//!
//! One owner writes it (the session with the master); everyone else watches it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tribune_messages::node::Fence;
use tribune_messages::trust::{ClusterView, ViewNode};
use tribune_p2p::{AllowList, Multiaddr, PeerId};
use tribune_planted::{Bug, planted};
use tribune_raft_store::model::{self, NodeName, RaftRole};

use crate::data::{DataFolder, read_json, replace_json};
use crate::error::NodeError;

/// What a node says of itself that was removed.
pub const REMOVED: &str =
    "this node was removed from the cluster; what runs here goes on. To bring the machine back, join with an empty data folder";

/// The format of `cluster.json`.
const FORMAT: u32 = 1;

/// What a node believes of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Belief {
    /// The format of the file.
    pub format: u32,
    /// The node's own name, as the record has it.
    pub name: NodeName,
    /// The highest fence it has seen.
    pub fence: Fence,
    /// Who is in the cluster.
    pub view: ClusterView,
}

impl Belief {
    /// What a node believes when it has just come into a cluster.
    pub fn first(name: NodeName, view: ClusterView) -> Self {
        let fence = Fence { epoch: view.epoch, ..Fence::default() };
        Self { format: FORMAT, name, fence, view }
    }

    /// The node itself, as the view has it; `None`: it was removed.
    pub fn own(&self) -> Option<&ViewNode> {
        self.node(&self.name)
    }

    /// The node of this name.
    pub fn node(&self, name: &NodeName) -> Option<&ViewNode> {
        self.view.nodes.iter().find(|node| node.name == *name)
    }

    /// The node with this identity.
    pub fn by_peer(&self, peer: &PeerId) -> Option<&ViewNode> {
        let text = peer.to_string();
        self.view.nodes.iter().find(|node| node.peer.as_str() == text)
    }

    /// The node's own part in Raft.
    pub fn role(&self) -> RaftRole {
        self.own().map_or(RaftRole::Member, |node| node.raft)
    }

    /// The voters.
    pub fn voters(&self) -> impl Iterator<Item = &ViewNode> {
        self.view.nodes.iter().filter(|node| matches!(node.raft, RaftRole::Voter { .. }))
    }

    /// Whether a peer is a voter.
    pub fn is_voter(&self, peer: &PeerId) -> bool {
        self.voters().any(|node| network_peer(&node.peer) == Some(*peer))
    }

    /// The identities of the voters.
    pub fn voter_peers(&self) -> BTreeSet<PeerId> {
        self.voters().filter_map(|node| network_peer(&node.peer)).collect()
    }

    /// Whom the control network lets in, with where they are.
    pub fn control_list(&self) -> AllowList {
        let mut list = AllowList::new();
        for principal in &self.view.principals {
            if let Some(peer) = tribune_p2p::identity::peer_id_of(principal.key.as_bytes()) {
                list.add_principal(peer);
            }
        }
        // A node is a member, even if its key is a user's as well.
        self.add_nodes(&mut list, |node| &node.control);
        self.view.removed.iter().filter_map(network_peer).for_each(|peer| list.add_removed(peer));
        list
    }

    /// Whom the data network lets in, with where they are: nodes only.
    pub fn data_list(&self) -> AllowList {
        let mut list = AllowList::new();
        self.add_nodes(&mut list, |node| &node.data);
        list
    }

    fn add_nodes(&self, list: &mut AllowList, addresses: impl Fn(&ViewNode) -> &Vec<String>) {
        for node in &self.view.nodes {
            if let Some(peer) = network_peer(&node.peer) {
                let known = addresses(node).iter().filter_map(|text| text.parse::<Multiaddr>().ok());
                list.add_member(peer, known);
            }
        }
    }
}

/// The identity as the network has it; `None` when it is none of a node.
pub fn network_peer(peer: &model::PeerId) -> Option<PeerId> {
    peer.as_str().parse().ok()
}

/// The identity as the record has it.
pub fn record_peer(peer: &PeerId) -> model::PeerId {
    // The text of a network identity has letters and digits only, and fewer than 128.
    model::PeerId::new(peer.to_string()).unwrap_or_default()
}

/// Why what the master said is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum BeliefError {
    /// It is older than something seen before.
    #[error("it has fence {given:?}, and {seen:?} was seen before: it is outdated")]
    Outdated {
        /// What it has.
        given: Fence,
        /// The highest seen.
        seen: Fence,
    },
    /// It is about another cluster.
    #[error("it is about cluster {given}, and this node is in cluster {here}")]
    OtherCluster {
        /// The cluster it is about.
        given: model::ClusterId,
        /// The node's cluster.
        here: model::ClusterId,
    },
    /// It cannot be written down.
    #[error(transparent)]
    Disk(#[from] NodeError),
}

/// The owner of what a node believes.
#[derive(Debug)]
pub struct BeliefKeeper {
    path: PathBuf,
    now: watch::Sender<Arc<Belief>>,
}

impl BeliefKeeper {
    /// Reads what the node of this folder believes.
    ///
    /// # Errors
    /// There is no node, or the file is damaged or of a newer build.
    pub fn open(data: &DataFolder) -> Result<Self, NodeError> {
        let path = data.cluster();
        let belief: Belief = read_json(&path)?.ok_or_else(|| NodeError::NoNode(data.root().to_owned()))?;
        if belief.format > FORMAT {
            let why = format!("it has format {}, and this build of Tribune knows formats up to {FORMAT}", belief.format);
            return Err(NodeError::Setting { file: path, why });
        }
        Ok(Self { path, now: watch::Sender::new(Arc::new(belief)) })
    }

    /// What is believed now, and whenever it changes.
    pub fn watch(&self) -> watch::Receiver<Arc<Belief>> {
        self.now.subscribe()
    }

    /// Writes down that the node was removed: those that vote said so, and no master speaks to it any more.
    ///
    /// # Errors
    /// It cannot be written; the node asks again then.
    pub fn forget_own(&self) -> Result<(), NodeError> {
        let mut belief = Belief::clone(&self.now.borrow());
        let name = belief.name.clone();
        belief.view.nodes.retain(|node| node.name != name);
        replace_json(&self.path, &belief)?;
        self.now.send_replace(Arc::new(belief));
        Ok(())
    }

    /// Takes over what a recovery made of what is believed. When this returns it is on disk; only then may it be acted on.
    ///
    /// # Errors
    /// It cannot be written; nothing was changed then.
    pub(crate) fn adopt(&self, belief: Belief) -> Result<(), NodeError> {
        replace_json(&self.path, &belief)?;
        self.now.send_replace(Arc::new(belief));
        Ok(())
    }

    /// Takes over what a believed master says. When this returns it is on disk; only then may it be acted on.
    ///
    /// # Errors
    /// It is outdated, or cannot be written; nothing was changed then.
    pub fn learn(&self, fence: Fence, name: &NodeName, view: &ClusterView) -> Result<(), BeliefError> {
        let before = self.now.borrow().clone();
        if fence < before.fence && !planted(Bug::StaleFenceAccepted) {
            return Err(BeliefError::Outdated { given: fence, seen: before.fence });
        }
        if view.cluster != before.view.cluster {
            return Err(BeliefError::OtherCluster { given: view.cluster, here: before.view.cluster });
        }
        let belief = Belief { format: FORMAT, name: name.clone(), fence, view: view.clone() };
        if belief == *before {
            return Ok(());
        }
        replace_json(&self.path, &belief)?;
        self.now.send_replace(Arc::new(belief));
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use tribune_p2p::{Identity, Standing};

    pub(crate) fn view(nodes: &[(&str, PeerId, RaftRole)]) -> ClusterView {
        let node = |(name, peer, raft): &(&str, PeerId, RaftRole)| ViewNode {
            name: name.parse().unwrap(),
            peer: record_peer(peer),
            control: vec!["/ip4/127.0.0.1/tcp/1".into()],
            data: vec!["/ip4/127.0.0.1/tcp/2".into()],
            raft: *raft,
            local_commands: model::Role::Viewer,
        };
        ClusterView {
            cluster: model::ClusterId::new([7; 16]),
            epoch: 0,
            nodes: nodes.iter().map(node).collect(),
            principals: Vec::new(),
            removed: Vec::new(),
            recovery: None,
        }
    }

    fn keeper(folder: &std::path::Path) -> BeliefKeeper {
        let data = DataFolder::make(folder).unwrap();
        BeliefKeeper::open(&data).unwrap()
    }

    #[test]
    fn what_is_outdated_or_of_another_cluster_is_not_believed_even_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::make(folder.path()).unwrap();
        let first = view(&[("n1", PeerId::random(), RaftRole::Member)]);
        let name: NodeName = "n1".parse().unwrap();
        replace_json(&data.cluster(), &Belief::first(name.clone(), first.clone())).unwrap();
        let high = Fence { epoch: 0, term: 3, sequence: 9 };
        keeper(folder.path()).learn(high, &name, &first).unwrap();
        let keeper = keeper(folder.path());
        for low in [Fence { sequence: 8, ..high }, Fence { term: 2, sequence: 99, ..high }] {
            assert!(matches!(keeper.learn(low, &name, &first), Err(BeliefError::Outdated { .. })));
        }
        keeper.learn(high, &name, &first).unwrap();
        let other = ClusterView { cluster: model::ClusterId::new([8; 16]), ..first };
        let higher = Fence { epoch: 1, ..high };
        assert!(matches!(keeper.learn(higher, &name, &other), Err(BeliefError::OtherCluster { .. })));
        assert_eq!(keeper.watch().borrow().fence, high);
    }

    #[test]
    fn nodes_are_let_in_as_members_and_users_as_principals() {
        let (node, user) = (Identity::generate(), Identity::generate());
        let mut view = view(&[("n1", node.peer_id(), RaftRole::Voter { raft_id: 0 })]);
        let key = model::PublicKey::new(user.public_key());
        view.principals.push(tribune_messages::trust::ViewPrincipal { key, role: model::Role::Viewer });
        let belief = Belief::first("n1".parse().unwrap(), view);
        let list = belief.control_list();
        assert_eq!(list.standing(&node.peer_id()), Standing::Member);
        assert_eq!(list.addresses(&node.peer_id()), ["/ip4/127.0.0.1/tcp/1".parse::<Multiaddr>().unwrap()]);
        assert_eq!(list.standing(&user.peer_id()), Standing::Principal);
        assert_eq!(belief.voter_peers(), BTreeSet::from([node.peer_id()]));
    }
}
