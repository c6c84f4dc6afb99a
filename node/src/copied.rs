//! Whether this node is a copy of another's disk: peers say so, which are connected with another process that has its identity.
//!
//! A copy takes no part in Raft. It goes on looking for the cluster, so that it is let in as soon as the other process is gone.
//!
//! One idea: who says so counts for as much as it knows. The master lets one process of each identity in, so a node that has a session
//! with the master is none, whatever others say, and one that the master turns away is one. Without either, the voters decide, and no other
//! member: half of the other voters are as many as a second process with this identity would need to make up a majority.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tribune_p2p::PeerId;

use crate::belief::Belief;
use crate::problems::Problems;
use crate::session::MasterSeen;

/// So long after a peer last said so, its word counts. Meanwhile a copy asks several times.
const HOLDS_FOR: Duration = Duration::from_secs(15);
const PROBLEM: &str = "identity";

/// Whether this node is one of two with its identity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Copied {
    /// As far as is known it is the only one.
    #[default]
    No,
    /// Another was there first, and answers.
    Yes,
}

/// Who follows what peers say of this node, and what it goes by.
pub(crate) struct Follower {
    pub(crate) me: PeerId,
    /// Who said that this node is a copy, and when last.
    pub(crate) turned_away: watch::Receiver<BTreeMap<PeerId, Instant>>,
    pub(crate) connected: watch::Receiver<BTreeSet<PeerId>>,
    pub(crate) belief: watch::Receiver<Arc<Belief>>,
    /// Whom a majority of the voters last named as the master.
    pub(crate) named: watch::Receiver<Option<PeerId>>,
    pub(crate) seen: watch::Receiver<MasterSeen>,
    pub(crate) problems: Problems,
}

impl Follower {
    /// Follows what peers say, until the network ends.
    pub(crate) async fn run(mut self, to: watch::Sender<Copied>) {
        loop {
            let said = self.said();
            let now = if self.is_copy(&said.keys().copied().collect()) { Copied::Yes } else { Copied::No };
            if to.send_if_modified(|before| std::mem::replace(before, now) != now) {
                self.tell(now);
            }
            let next = said.into_values().min().map(|oldest| oldest + HOLDS_FOR);
            let outdated = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            let changed = tokio::select! {
                changed = self.turned_away.changed() => changed,
                changed = self.connected.changed() => changed,
                changed = self.belief.changed() => changed,
                changed = self.named.changed() => changed,
                changed = self.seen.changed() => changed,
                () = outdated => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Whose word counts now, and since when.
    fn said(&mut self) -> BTreeMap<PeerId, Instant> {
        let said = self.turned_away.borrow_and_update();
        said.iter().filter(|(_, at)| at.elapsed() < HOLDS_FOR).map(|(peer, at)| (*peer, *at)).collect()
    }

    fn is_copy(&mut self, said: &BTreeSet<PeerId>) -> bool {
        let belief = self.belief.borrow_and_update().clone();
        let (named, session) = (*self.named.borrow_and_update(), self.seen.borrow_and_update().master);
        let connected = self.connected.borrow_and_update();
        let mut voters = belief.voter_peers();
        voters.remove(&self.me);
        if voters.is_empty() {
            // The only voter is a majority by itself: two of them would each go on with the record. So here members count, those that
            // turn this process away against those that let it in.
            let members = |peers: &mut dyn Iterator<Item = &PeerId>| peers.filter(|peer| belief.by_peer(peer).is_some()).count();
            let against = members(&mut said.iter());
            return against > 0 && against >= members(&mut connected.difference(said));
        }
        if session.is_some() {
            return false;
        }
        let by_master = named.is_some_and(|master| said.contains(&master));
        by_master || said.intersection(&voters).count() >= (voters.len() / 2).max(1)
    }

    fn tell(&self, now: Copied) {
        if now == Copied::No {
            return self.problems.clear(PROBLEM);
        }
        let name = &self.belief.borrow().name;
        self.problems.set(
            PROBLEM,
            format!(
                "another machine with this node's identity is connected to the cluster, so this one is not let in: its data folder is a copy. \
                 Join with an empty data folder under another name, or in the place of {name} with `tribune join --replace {name}`"
            ),
        );
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::time::{advance, timeout};
    use tribune_raft_store::model::RaftRole;

    use super::*;
    use crate::belief::tests::view;

    /// A node among others, and what is said of it.
    struct Rig {
        peers: Vec<PeerId>,
        turned_away: watch::Sender<BTreeMap<PeerId, Instant>>,
        connected: watch::Sender<BTreeSet<PeerId>>,
        named: watch::Sender<Option<PeerId>>,
        seen: watch::Sender<MasterSeen>,
        _belief: watch::Sender<Arc<Belief>>,
        problems: Problems,
        copied: watch::Receiver<Copied>,
    }

    /// A voter, n0, in a cluster with so many voters, and three more nodes that do not vote.
    fn rig(voters: usize) -> Rig {
        let peers: Vec<PeerId> = (0..voters + 3).map(|_| PeerId::random()).collect();
        let names: Vec<String> = (0..peers.len()).map(|n| format!("n{n}")).collect();
        let role = |n: usize| if n < voters { RaftRole::Voter { raft_id: n as u64 } } else { RaftRole::Member };
        let nodes: Vec<_> = names.iter().enumerate().map(|(n, name)| (name.as_str(), peers[n], role(n))).collect();
        let belief = watch::Sender::new(Arc::new(Belief::first("n0".parse().unwrap(), view(&nodes))));
        let (turned_away, connected) = (watch::Sender::new(BTreeMap::new()), watch::Sender::new(BTreeSet::new()));
        let (named, seen) = (watch::Sender::new(None), watch::Sender::new(MasterSeen::nobody()));
        let problems = Problems::none();
        let follower = Follower {
            me: peers[0],
            turned_away: turned_away.subscribe(),
            connected: connected.subscribe(),
            belief: belief.subscribe(),
            named: named.subscribe(),
            seen: seen.subscribe(),
            problems: problems.clone(),
        };
        let (to, copied) = watch::channel(Copied::No);
        tokio::spawn(follower.run(to));
        Rig { peers, turned_away, connected, named, seen, _belief: belief, problems, copied }
    }

    impl Rig {
        fn says_copy(&self, n: usize) {
            self.turned_away.send_modify(|by| {
                by.insert(self.peers[n], Instant::now());
            });
        }

        fn session_with(&self, n: Option<usize>) {
            self.seen.send_replace(MasterSeen { master: n.map(|n| self.peers[n]), since: Instant::now() });
        }

        /// Whether it is a copy once everything said so far was heard.
        async fn is_copy(&mut self) -> bool {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            *self.copied.borrow_and_update() == Copied::Yes
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_says_copy_keeps_no_voter_out_of_raft_and_neither_does_one_of_five_voters() {
        let mut rig = rig(5);
        for n in [5, 6, 7] {
            rig.says_copy(n);
        }
        assert!(!rig.is_copy().await, "members that do not vote have no say");
        rig.says_copy(1);
        assert!(!rig.is_copy().await, "one of four other voters");
        rig.says_copy(2);
        assert!(rig.is_copy().await, "half of the other voters could make a majority with the first process");
        assert!(rig.problems.all().concat().contains("its data folder is a copy"));

        let since = Instant::now();
        timeout(Duration::from_secs(60), rig.copied.wait_for(|copied| *copied == Copied::No)).await.unwrap().unwrap();
        assert!(since.elapsed() <= HOLDS_FOR, "{:?}", since.elapsed());
        assert_eq!(rig.problems.all(), Vec::<String>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn voices_count_together_only_while_each_is_fresh() {
        let mut rig = rig(5);
        rig.says_copy(1);
        advance(HOLDS_FOR).await;
        rig.says_copy(2);
        assert!(!rig.is_copy().await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_master_knows_best_whether_it_is_a_copy() {
        let mut rig = rig(5);
        rig.named.send_replace(Some(rig.peers[3]));
        rig.says_copy(3);
        assert!(rig.is_copy().await, "the master has the first process in a session, and nobody else need have");
        rig.session_with(Some(3));
        assert!(!rig.is_copy().await, "it was let in");
        rig.says_copy(1);
        rig.says_copy(2);
        assert!(!rig.is_copy().await, "others say what they like");
        rig.session_with(None);
        assert!(rig.is_copy().await);
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_small_cluster_a_voter_that_is_refused_does_not_vote_with_the_rest() {
        for voters in [2, 3] {
            let mut rig = rig(voters);
            rig.says_copy(voters);
            assert!(!rig.is_copy().await, "a member that does not vote, of {voters} voters");
            // Of three, the other two would make up a majority with one process each.
            rig.says_copy(1);
            assert!(rig.is_copy().await, "{voters} voters");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_only_voter_goes_by_the_members_it_has() {
        let mut rig = rig(1);
        rig.session_with(Some(0));
        rig.connected.send_replace([rig.peers[2], rig.peers[3]].into());
        rig.says_copy(1);
        assert!(!rig.is_copy().await, "one says so, and two are here");
        rig.connected.send_replace(BTreeSet::new());
        assert!(rig.is_copy().await, "all that can be reached say so");
        rig.connected.send_replace([rig.peers[2]].into());
        assert!(rig.is_copy().await, "as many say so as have let it in: two records would go on");
    }
}
