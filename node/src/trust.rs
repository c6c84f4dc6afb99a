//! Finding the master. A node believes one only when a majority of the voters that it knows names it, in one epoch and term.
//!
//! [`agreed`] decides; [`ask_voters`] asks all of them at once and stops at a majority. A node that is a voter itself counts what its
//! own Raft says as one of the answers.
//!
//! A node that was away while voters were replaced may know too few of them. Then a majority of the cluster's nodes has to name the master:
//! [`ask_nodes`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rand::seq::IteratorRandom;
use tribune_messages::node::Fence;
use tribune_messages::store::{PeerRequest, PeerResponse};
use tribune_messages::trust::NamedMaster;
use tribune_p2p::PeerId;
use tribune_p2p::network::Refusal;
use tribune_p2p::rpc::{RpcClient, RpcError};
use tribune_planted::{Bug, planted};
use tribune_raft_store::model::SignedRecovery;

use crate::belief::{Belief, network_peer};

/// How long a voter may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// How many nodes are asked at most when too few voters are known.
const NODES_ASKED: usize = 32;

/// What the voters said so far: each voter's answer, `None` for one that knows of no master or did not answer.
pub type Answers = BTreeMap<PeerId, Option<NamedMaster>>;

/// The master that a majority of these voters names; none of what is older than the highest fence seen.
pub fn agreed(voters: &BTreeSet<PeerId>, answers: &Answers, seen: Fence) -> Option<NamedMaster> {
    let mut named: Vec<(&NamedMaster, usize)> = Vec::new();
    for (voter, answer) in answers {
        let Some(master) = answer.as_ref().filter(|_| voters.contains(voter)) else { continue };
        match named.iter_mut().find(|(other, _)| *other == master) {
            Some((_, count)) => *count += 1,
            None => named.push((master, 1)),
        }
    }
    let anybody = planted(Bug::StaleFenceAccepted);
    let (master, _) = named.into_iter().find(|(_, count)| *count > voters.len() / 2 || anybody)?;
    let known = (seen.epoch, seen.term);
    ((master.epoch, master.term) >= known || anybody).then(|| master.clone())
}

/// What asking the voters came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A majority names this one.
    Master(NamedMaster),
    /// A majority of them says that this node was removed from the cluster.
    Removed,
    /// One of them goes by a recovery that this node did not know, and is to go by.
    Recovered(Box<SignedRecovery>),
    /// There is no such majority; how many of how many voters answered.
    Nobody {
        /// Voters that answered.
        answered: usize,
        /// Voters there are.
        voters: usize,
        /// Those that say that this node was removed: too few to be believed.
        removed_by: BTreeSet<PeerId>,
    },
}

/// What this node's own Raft says, if it has a part in it.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// Whom it takes for the master.
    pub named: Option<NamedMaster>,
    /// The voters, as its record has them. They may be later ones than those that a master told this node of, which it may not have
    /// heard before that master was lost.
    pub voters: BTreeSet<PeerId>,
}

/// Asks all voters of the view at once, and those that this node's own record has.
/// `believed` tells whether a recovery that one of them goes by is to be gone by here.
pub async fn ask_voters(
    peers: &RpcClient,
    me: PeerId,
    belief: &Belief,
    own: Own,
    believed: impl Fn(&SignedRecovery) -> bool,
) -> Asked {
    let told = belief.voter_peers();
    let all: BTreeSet<PeerId> = told.union(&own.voters).copied().collect();
    let agreed = |answers: &Answers| agreed(&told, answers, belief.fence).or_else(|| agreed(&own.voters, answers, belief.fence));
    let mut answers = Answers::new();
    if all.contains(&me) {
        answers.insert(me, own.named);
        if let Some(master) = agreed(&answers) {
            return Asked::Master(master);
        }
    }
    let mut asked: FuturesUnordered<_> = all.iter().filter(|voter| **voter != me).map(|voter| ask(peers, *voter)).collect();
    let mut answered = answers.len();
    let others = told.iter().filter(|voter| **voter != me).count();
    let mut removed_by = BTreeSet::new();
    while let Some((voter, answer)) = asked.next().await {
        match answer {
            Ok((_, Some(recovery))) if believed(&recovery) => return Asked::Recovered(recovery),
            Ok((master, _)) => {
                answered += 1;
                answers.insert(voter, master);
            }
            Err(error) => {
                let removed = matches!(error, RpcError::Refused { refusal: Refusal::Removed, .. });
                removed_by.extend(Some(voter).filter(|voter| removed && told.contains(voter)));
                tracing::debug!(%voter, %error, "a voter did not say who is master");
            }
        }
        if removed_by.len() > others / 2 {
            return Asked::Removed;
        }
        if let Some(master) = agreed(&answers) {
            return Asked::Master(master);
        }
    }
    Asked::Nobody { answered, voters: all.len(), removed_by }
}

/// Asks other nodes of the view, voters or not, chosen by chance if there are many. A majority of those that are asked has to name the master,
/// counted with those that do not answer: no fewer nodes would have to lie together than voters.
pub async fn ask_nodes(peers: &RpcClient, me: PeerId, belief: &Belief, believed: impl Fn(&SignedRecovery) -> bool) -> Asked {
    let others = belief.view.nodes.iter().filter_map(|node| network_peer(&node.peer)).filter(|peer| *peer != me);
    let chosen: BTreeSet<PeerId> = others.sample(&mut rand::rng(), NODES_ASKED).into_iter().collect();
    if chosen.len() < belief.voter_peers().len() {
        return Asked::Nobody { answered: 0, voters: chosen.len(), removed_by: BTreeSet::new() };
    }
    let mut asked: FuturesUnordered<_> = chosen.iter().map(|peer| ask(peers, *peer)).collect();
    let mut answers = Answers::new();
    while let Some((peer, answer)) = asked.next().await {
        match answer {
            Ok((_, Some(recovery))) if believed(&recovery) => return Asked::Recovered(recovery),
            Ok((master, _)) => drop(answers.insert(peer, master)),
            Err(error) => tracing::debug!(%peer, %error, "a node did not say who is master"),
        }
        if let Some(master) = agreed(&chosen, &answers, belief.fence) {
            return Asked::Master(master);
        }
    }
    Asked::Nobody { answered: answers.len(), voters: chosen.len(), removed_by: BTreeSet::new() }
}

/// Whom a voter takes for the master, and the recovery that it goes by.
type Said = (Option<NamedMaster>, Option<Box<SignedRecovery>>);

async fn ask(peers: &RpcClient, voter: PeerId) -> (PeerId, Result<Said, RpcError>) {
    let answer = peers.call::<_, PeerResponse>(voter, &PeerRequest::WhoIsMaster, ANSWER_WITHIN).await;
    let master = answer.and_then(|response| match response {
        PeerResponse::Master { master, recovery, .. } => Ok((master, recovery)),
        PeerResponse::Refused { why } => Err(RpcError::Failed { peer: voter, why }),
        other => Err(RpcError::Malformed(format!("{other:?} does not say who is master"))),
    });
    (voter, master)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::belief::record_peer;

    fn named(peer: PeerId, term: u64) -> Option<NamedMaster> {
        Some(NamedMaster { epoch: 0, term, peer: record_peer(&peer) })
    }

    #[test]
    fn a_master_is_believed_only_when_a_majority_of_the_known_voters_names_it_in_one_term() {
        let peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
        let voters = BTreeSet::from([peers[0], peers[1], peers[2]]);
        let seen = Fence { epoch: 0, term: 2, sequence: 7 };
        let told = |answers: &[(usize, Option<NamedMaster>)]| {
            agreed(&voters, &answers.iter().map(|(voter, answer)| (peers[*voter], answer.clone())).collect(), seen)
        };
        let master = named(peers[0], 2);
        assert_eq!(told(&[(0, master.clone()), (1, master.clone())]), master);
        assert_eq!(told(&[(0, master.clone())]), None, "one of three is no majority");
        assert_eq!(told(&[(0, master.clone()), (3, master.clone())]), None, "only voters count");
        assert_eq!(told(&[(0, master.clone()), (1, named(peers[0], 3)), (2, None)]), None, "another term is another master");
        let old = named(peers[1], 1);
        assert_eq!(told(&[(0, old.clone()), (1, old.clone()), (2, old)]), None, "an older term than one seen");
        let newer = named(peers[1], 3);
        assert_eq!(told(&[(1, newer.clone()), (2, newer.clone()), (0, master)]), newer);
    }
}
