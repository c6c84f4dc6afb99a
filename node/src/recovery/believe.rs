//! Whether a node believes a recovery that it is shown, and what it believes of its cluster then. Pure: from data to data.

use std::time::Duration;

use tribune_messages::node::Fence;
use tribune_messages::trust::{ClusterView, ViewNode};
use tribune_p2p::PeerId;
use tribune_p2p::identity::public_key_of;
use tribune_raft_store::model::{
    ClusterId, NodeName, PublicKey, RaftRole, Recovery, RecoveryError, Role, SignedRecovery, Span, Timestamp,
};

use crate::belief::{Belief, network_peer, record_peer};

/// A recovery whose time is over is still believed by a node that has had no master for so long: it was away when it was made. One that
/// has a master knows by itself that its cluster goes on.
pub const ALONE_FOR: Duration = Duration::from_secs(60);

/// Why a recovery is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Disbelief {
    /// It is not what somebody signed.
    #[error(transparent)]
    Wrong(#[from] RecoveryError),
    /// It is for another cluster.
    #[error("the recovery is for cluster {given}, and this node is in cluster {here}")]
    OtherCluster {
        /// The cluster it is for.
        given: ClusterId,
        /// The node's cluster.
        here: ClusterId,
    },
    /// It is the one that this node goes by already.
    #[error("this node goes by this recovery already")]
    Known,
    /// It begins no later epoch than the one the node is in.
    #[error("the recovery begins epoch {given}, and this node is at epoch {here}: make one with --epoch {} or higher", here + 1)]
    Epoch {
        /// The epoch it begins.
        given: u64,
        /// The node's epoch.
        here: u64,
    },
    /// Who signed it may not.
    #[error("the recovery is signed with key {key}, which is no admin's as far as this node knows")]
    NoAdmin {
        /// The key.
        key: PublicKey,
    },
    /// The only voter is no node.
    #[error("the recovery names node {voter}, whose identity {why}")]
    Voter {
        /// The only voter.
        voter: NodeName,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Its time is over.
    #[error("the recovery expired {ago} ago, and this node has a master, or had one less than {ALONE_FOR:?} ago")]
    Expired {
        /// How long ago.
        ago: Span,
    },
}

/// What a node believes from a recovery on. `me` is its own identity, `alone` how long it has had no master; none: it has one.
///
/// # Errors
/// Why it does not believe it.
pub fn believe(
    belief: &Belief,
    me: &PeerId,
    signed: &SignedRecovery,
    now: Timestamp,
    alone: Option<Duration>,
) -> Result<Belief, Disbelief> {
    let here = belief.view.epoch.max(belief.fence.epoch);
    if belief.view.recovery.as_ref() == Some(signed) {
        return Err(Disbelief::Known);
    }
    let recovery = signed.open()?;
    if recovery.cluster != belief.view.cluster {
        return Err(Disbelief::OtherCluster { given: recovery.cluster, here: belief.view.cluster });
    }
    if recovery.epoch <= here {
        return Err(Disbelief::Epoch { given: recovery.epoch, here });
    }
    if !is_admin(&belief.view, &signed.key) {
        return Err(Disbelief::NoAdmin { key: signed.key });
    }
    check_voter(&belief.view, &recovery)?;
    if recovery.expires < now && alone.is_none_or(|alone| alone < ALONE_FOR) {
        return Err(Disbelief::Expired { ago: Span::from_millis(now.since(recovery.expires)) });
    }
    let fence = Fence { epoch: recovery.epoch, term: 0, sequence: 0 };
    let view = view_of(&belief.view, &record_peer(me), &belief.name, recovery, signed.clone());
    Ok(Belief { fence, view, ..belief.clone() })
}

/// Whether a key is an admin's, as a node knows from its own disk.
fn is_admin(view: &ClusterView, key: &PublicKey) -> bool {
    let has_key = |node: &ViewNode| network_peer(&node.peer).and_then(|peer| public_key_of(&peer)) == Some(*key.as_bytes());
    view.principals.iter().any(|principal| principal.key == *key && principal.role == Role::Admin)
        || view.nodes.iter().any(|node| node.local_commands == Role::Admin && has_key(node))
}

fn check_voter(view: &ClusterView, recovery: &Recovery) -> Result<(), Disbelief> {
    let voter = &recovery.voter;
    let wrong = |why| Err(Disbelief::Voter { voter: voter.name.clone(), why });
    let key = network_peer(&voter.peer).and_then(|peer| public_key_of(&peer));
    if key.as_ref() != Some(voter.key.as_bytes()) {
        return wrong("is not that of its key");
    }
    if view.removed.contains(&voter.peer) {
        return wrong("was removed from the cluster for good");
    }
    if view.nodes.iter().any(|node| node.peer == voter.peer && node.name != voter.name) {
        return wrong("is that of another node");
    }
    Ok(())
}

/// Who is in the cluster then: one voter, and everyone else as a member.
fn view_of(
    before: &ClusterView,
    me: &tribune_raft_store::model::PeerId,
    own: &NodeName,
    recovery: Recovery,
    signed: SignedRecovery,
) -> ClusterView {
    let Recovery { epoch, voter, .. } = recovery;
    let mut view = ClusterView { epoch, recovery: Some(signed), ..before.clone() };
    let known = view.nodes.iter().find(|node| node.name == voter.name);
    let local_commands = known.map_or(Role::Viewer, |node| node.local_commands);
    view.removed.extend(known.filter(|node| node.peer != voter.peer).map(|node| node.peer.clone()));
    view.nodes.retain(|node| node.name != voter.name);
    for node in &mut view.nodes {
        node.raft = RaftRole::Member;
    }
    // A node whose place another machine has taken is in the cluster no more, and its name is that one's.
    if voter.name != *own || voter.peer == *me {
        let raft = RaftRole::Voter { raft_id: voter.raft_id };
        let node =
            ViewNode { name: voter.name, peer: voter.peer, control: voter.control, data: voter.data, raft, local_commands };
        view.nodes.push(node);
        view.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    }
    view
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use tribune_messages::trust::ViewPrincipal;
    use tribune_p2p::Identity;
    use tribune_raft_store::model::{OnlyVoter, raft_id};

    use super::*;
    use crate::belief::tests::view;

    const NOW: Timestamp = Timestamp(1_000_000);

    /// Three voters, and an admin's key that each node knows.
    struct Rig {
        admin: Identity,
        nodes: Vec<Identity>,
        belief: Belief,
    }

    fn rig() -> Rig {
        let nodes: Vec<Identity> = (0..3).map(|_| Identity::generate()).collect();
        let admin = Identity::generate();
        let named = ["n1", "n2", "n3"].into_iter().zip(&nodes).enumerate();
        let voters: Vec<_> =
            named.map(|(n, (name, identity))| (name, identity.peer_id(), RaftRole::Voter { raft_id: n as u64 })).collect();
        let mut view = view(&voters);
        view.principals.push(ViewPrincipal { key: PublicKey::new(admin.public_key()), role: Role::Admin });
        Rig { admin, nodes, belief: Belief::first("n2".parse().unwrap(), view) }
    }

    /// A recovery that is good for a minute from `signed_at` on.
    pub(crate) fn signed(
        by: &Identity,
        (cluster, epoch): (ClusterId, u64),
        (name, voter): (&str, &Identity),
        signed_at: Timestamp,
    ) -> SignedRecovery {
        let voter = OnlyVoter {
            name: name.parse().unwrap(),
            peer: record_peer(&voter.peer_id()),
            key: PublicKey::new(voter.public_key()),
            raft_id: raft_id(epoch, 7),
            control: vec!["/ip4/127.0.0.1/tcp/9".into()],
            data: Vec::new(),
        };
        let recovery = Recovery { cluster, epoch, voter, signed_at, expires: signed_at.after(Span::from_secs(60)) };
        recovery.sign(PublicKey::new(by.public_key()), |bytes| by.sign(bytes)).unwrap()
    }

    impl Rig {
        fn signed(&self, epoch: u64, name: &str, voter: &Identity) -> SignedRecovery {
            signed(&self.admin, (self.belief.view.cluster, epoch), (name, voter), NOW)
        }

        fn believe(&self, signed: &SignedRecovery) -> Result<Belief, Disbelief> {
            believe(&self.belief, &self.nodes[1].peer_id(), signed, NOW, None)
        }
    }

    #[test]
    fn an_admins_word_makes_one_node_the_only_voter_and_everyone_else_a_member() {
        let rig = rig();
        let now = rig.believe(&rig.signed(1, "n3", &rig.nodes[2])).unwrap();
        assert_eq!(now.voter_peers(), [rig.nodes[2].peer_id()].into());
        assert_eq!((now.role(), now.fence.epoch, now.view.epoch), (RaftRole::Member, 1, 1));
        assert_eq!(now.view.nodes.len(), 3);
        assert_eq!(now.node(&"n3".parse().unwrap()).unwrap().control, ["/ip4/127.0.0.1/tcp/9"]);
        // From then on an older word, and another of the same epoch, is nothing.
        let later = Rig { belief: now, ..rig };
        assert!(matches!(later.believe(&later.signed(1, "n1", &later.nodes[0])), Err(Disbelief::Epoch { given: 1, here: 1 })));
        assert_eq!(later.believe(&later.signed(1, "n3", &later.nodes[2])), Err(Disbelief::Known));
        assert!(later.believe(&later.signed(2, "n1", &later.nodes[0])).is_ok());
    }

    #[test]
    fn only_an_admin_that_the_node_knows_can_say_so() {
        let mut rig = rig();
        let cluster = rig.belief.view.cluster;
        let stranger = signed(&Identity::generate(), (cluster, 1), ("n3", &rig.nodes[2]), NOW);
        assert!(matches!(rig.believe(&stranger), Err(Disbelief::NoAdmin { .. })));
        let by_node = signed(&rig.nodes[2], (cluster, 1), ("n3", &rig.nodes[2]), NOW);
        assert!(matches!(rig.believe(&by_node), Err(Disbelief::NoAdmin { .. })), "a node is no admin by itself");
        rig.belief.view.nodes[2].local_commands = Role::Admin;
        assert!(rig.believe(&by_node).is_ok(), "unless the record says that its own key may do as much");
        rig.belief.view.principals[0].role = Role::Operator;
        assert!(matches!(rig.believe(&rig.signed(1, "n3", &rig.nodes[2])), Err(Disbelief::NoAdmin { .. })));
        let other = signed(&rig.nodes[2], (ClusterId::new([9; 16]), 1), ("n3", &rig.nodes[2]), NOW);
        assert!(matches!(rig.believe(&other), Err(Disbelief::OtherCluster { .. })));
        let mut changed = by_node;
        changed.content = changed.content.replace("\"epoch\":1", "\"epoch\":3");
        assert!(matches!(rig.believe(&changed), Err(Disbelief::Wrong(_))));
    }

    #[test]
    fn a_new_machine_in_the_place_of_a_node_is_let_in_and_the_old_one_is_removed() {
        let rig = rig();
        let fresh = Identity::generate();
        let now = rig.believe(&rig.signed(1, "n1", &fresh)).unwrap();
        assert_eq!(now.voter_peers(), [fresh.peer_id()].into());
        assert_eq!(now.view.removed, [record_peer(&rig.nodes[0].peer_id())]);
        // The machine whose place was taken knows that it is out.
        let own = rig.believe(&rig.signed(1, "n2", &fresh)).unwrap();
        assert_eq!((own.own(), own.role()), (None, RaftRole::Member));
        let of_another = rig.believe(&rig.signed(1, "n1", &rig.nodes[2]));
        assert!(matches!(of_another, Err(Disbelief::Voter { .. })), "{of_another:?}");
        let later = Rig { belief: now, ..rig };
        assert!(matches!(later.believe(&later.signed(2, "n1", &later.nodes[0])), Err(Disbelief::Voter { .. })));
    }

    #[test]
    fn one_that_expired_counts_only_for_who_has_been_without_a_master() {
        let rig = rig();
        let signed = rig.signed(1, "n3", &rig.nodes[2]);
        let late = NOW.after(Span::from_secs(3600));
        let believed = |alone| believe(&rig.belief, &rig.nodes[1].peer_id(), &signed, late, alone);
        assert!(matches!(believed(None), Err(Disbelief::Expired { .. })));
        assert!(matches!(believed(Some(Duration::from_secs(5))), Err(Disbelief::Expired { .. })));
        assert!(believed(Some(ALONE_FOR)).is_ok());
    }
}
