//! Who votes: 1, 3 or 5 voters, and standbys ready to become one.
//!
//! One idea: the voters that should be are chosen anew each time from the record and from who is there, in a way that keeps
//! those that are; then the one next step towards them is taken, if it is safe. Each step follows from what is, so one that
//! was cut off is simply taken again.

use std::collections::{BTreeMap, BTreeSet};

use tribune_raft_store::command::MasterCommand;
use tribune_raft_store::model::{CharacteristicKey, Node, NodeName, RaftRole, Settings, VoterPreference};
use tribune_raft_store::record::Record;

use crate::liveness::{Liveness, MasterClock};

/// The characteristic over whose values voters are spread.
pub const SITE: &str = "site";

/// What Raft itself says of its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftState {
    /// The Raft ids of the voters in the membership that is committed.
    pub voters: BTreeSet<u64>,
    /// The learners in it.
    pub learners: BTreeMap<u64, Learner>,
    /// The node that is master.
    pub master: NodeName,
}

/// How far a learner is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Learner {
    /// Whether it has all of the log but what is under way.
    pub caught_up: bool,
    /// Whether its package store holds everything that [`store_blobs`](crate::store_blobs) names.
    pub complete: bool,
}

/// One change to who is in Raft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipStep {
    /// Propose [`MasterCommand::MakeStandby`]: it gives the node its Raft id.
    MakeStandby {
        /// Which.
        node: NodeName,
    },
    /// Add the node to Raft as a learner.
    AddLearner {
        /// Which.
        node: NodeName,
        /// Its Raft id.
        raft_id: u64,
    },
    /// Make these Raft's voters. Those that were and are not among them leave Raft (`retain = false`).
    SetVoters {
        /// All of them.
        voters: BTreeSet<u64>,
    },
    /// Propose [`MasterCommand::MakeVoter`]: Raft has it as a voter.
    MakeVoter {
        /// Which.
        node: NodeName,
    },
    /// Take a learner out of Raft.
    RemoveLearner {
        /// Which.
        raft_id: u64,
    },
    /// Propose [`MasterCommand::MakeMember`]: Raft does not have it any more.
    MakeMember {
        /// Which.
        node: NodeName,
    },
}

impl MembershipStep {
    /// The command to be proposed, if the step is one for the record; the others are for Raft.
    pub fn command(&self) -> Option<MasterCommand> {
        match self {
            MembershipStep::MakeStandby { node } => Some(MasterCommand::MakeStandby { node: node.clone() }),
            MembershipStep::MakeVoter { node } => Some(MasterCommand::MakeVoter { node: node.clone() }),
            MembershipStep::MakeMember { node } => Some(MasterCommand::MakeMember { node: node.clone() }),
            MembershipStep::AddLearner { .. } | MembershipStep::SetVoters { .. } | MembershipStep::RemoveLearner { .. } => None,
        }
    }
}

/// The next change to who is in Raft; `None`: all is as it should be, or what is needed for the next change is not there yet.
pub fn membership(record: &Record, liveness: &Liveness, now: MasterClock, raft: &RaftState) -> Option<MembershipStep> {
    let settings = record.cluster()?.settings.clone();
    let view = View { record, liveness, now, raft, settings };
    view.finish_what_was_begun().or_else(|| view.change_voters()).or_else(|| view.change_standbys())
}

/// What the choice is made from.
struct View<'a> {
    record: &'a Record,
    liveness: &'a Liveness,
    now: MasterClock,
    raft: &'a RaftState,
    settings: Settings,
}

impl View<'_> {
    /// Record and Raft are brought to say the same.
    fn finish_what_was_begun(&self) -> Option<MembershipStep> {
        for node in self.record.nodes().values() {
            let name = || node.name.clone();
            match node.raft {
                RaftRole::Standby { raft_id } if self.raft.voters.contains(&raft_id) => {
                    return Some(MembershipStep::MakeVoter { node: name() });
                }
                RaftRole::Standby { raft_id } if !self.raft.learners.contains_key(&raft_id) && self.is_useful(node) => {
                    return Some(MembershipStep::AddLearner { node: name(), raft_id });
                }
                RaftRole::Standby { raft_id } if !self.raft.learners.contains_key(&raft_id) => {
                    return Some(MembershipStep::MakeMember { node: name() });
                }
                RaftRole::Voter { raft_id } if self.raft.learners.contains_key(&raft_id) => {
                    return Some(MembershipStep::RemoveLearner { raft_id });
                }
                RaftRole::Voter { raft_id } if !self.raft.voters.contains(&raft_id) => {
                    return Some(MembershipStep::MakeMember { node: name() });
                }
                _ => {}
            }
        }
        let known: BTreeSet<u64> = self.record.nodes().values().filter_map(|node| node.raft.raft_id()).collect();
        let stray = self.raft.learners.keys().find(|id| !known.contains(id)).copied();
        stray.map(|raft_id| MembershipStep::RemoveLearner { raft_id })
    }

    /// Whether a standby is one of those that should be.
    fn is_useful(&self, node: &Node) -> bool {
        self.wanted_standbys().contains(&node.name)
    }

    fn is_there(&self, node: &Node) -> bool {
        node.name == self.raft.master || self.liveness.is_connected(&node.name)
    }

    /// Whether a node has not been away for long.
    fn counts_as_there(&self, node: &Node) -> bool {
        self.is_there(node) || self.liveness.away_for(&node.name, self.now) < self.settings.away_after
    }

    fn is_voter(&self, node: &Node) -> bool {
        node.raft.raft_id().is_some_and(|id| self.raft.voters.contains(&id))
    }

    /// Whether a node may vote. The master does until another can, even if it is to do so no more; but not if it is to leave.
    fn may_vote(&self, node: &Node) -> bool {
        node.may_vote() != VoterPreference::Never || (node.name == self.raft.master && node.leaving.is_none())
    }

    /// How many voters there should be: the greatest odd number that neither setting nor nodes forbid. While a node waits to leave, only
    /// those count that can take its place: else it would wait for ever for one that is away.
    fn target(&self) -> usize {
        let waits = self.record.nodes().values().any(|node| node.leaving.is_some());
        let only_candidates = waits && self.liveness.settled(self.now);
        let counts = |node: &&Node| if only_candidates { self.is_candidate(node) } else { self.may_vote(node) };
        let most = self.record.nodes().values().filter(counts).count().min(self.settings.voters as usize).clamp(1, 5);
        most - (1 - most % 2)
    }

    /// The nodes that could vote, the best first: the master, those that are there, that are preferred, whose site has the
    /// fewest before them, that vote now, that are standbys.
    fn ranked(&self) -> Vec<&Node> {
        let mut left: Vec<&Node> = self.record.nodes().values().filter(|node| self.is_candidate(node)).collect();
        let mut sites: BTreeMap<String, usize> = BTreeMap::new();
        let mut ranked = Vec::new();
        while !left.is_empty() {
            let rank = |node: &Node| {
                (
                    node.name != self.raft.master,
                    !self.counts_as_there(node),
                    node.may_vote() != VoterPreference::Prefer,
                    site(node).map_or(0, |site| sites.get(&site).copied().unwrap_or(0)),
                    !self.is_voter(node),
                    node.raft == RaftRole::Member,
                )
            };
            // Of equals the first is taken: they are in the order of their names.
            let Some((best, _)) = left.iter().enumerate().min_by_key(|(_, node)| rank(node)) else { break };
            let node = left.remove(best);
            if let Some(site) = site(node) {
                *sites.entry(site).or_default() += 1;
            }
            ranked.push(node);
            // Beyond voters and standbys the order is of no use.
            if ranked.len() >= self.target() + self.standby_limit() {
                break;
            }
        }
        ranked
    }

    /// Whether a node's store is damaged: under its Raft id it never comes back.
    fn is_broken(&self, node: &Node) -> bool {
        node.raft.raft_id().is_some_and(|id| self.liveness.broken.get(&node.name) == Some(&id))
    }

    /// A node that votes stays a candidate while it is away: it is replaced only if there is another.
    fn is_candidate(&self, node: &Node) -> bool {
        let fit = self.may_vote(node) && !self.is_broken(node);
        fit && (self.is_voter(node) || self.counts_as_there(node) && (node.raft != RaftRole::Member || self.is_there(node)))
    }

    /// At least two, so that a cluster can grow by two voters at once and never has an even number of them.
    fn standby_limit(&self) -> usize {
        (self.settings.standbys as usize).max(2)
    }

    /// The voters that should be.
    fn wanted_voters(&self) -> Vec<&Node> {
        self.ranked().into_iter().take(self.target()).collect()
    }

    /// The standbys that should be: those that are to become voters, and spare ones.
    fn wanted_standbys(&self) -> BTreeSet<NodeName> {
        let ranked = self.ranked();
        let (voters, spare) = ranked.split_at(self.target().min(ranked.len()));
        let mut wanted: Vec<_> = voters.iter().filter(|node| !self.is_voter(node)).take(self.standby_limit()).collect();
        // A voter that is to be replaced is no standby.
        let spare = spare.iter().filter(|node| !self.is_voter(node));
        let room = (self.settings.standbys as usize).saturating_sub(wanted.len());
        wanted.extend(spare.take(room));
        wanted.into_iter().map(|node| node.name.clone()).collect()
    }

    /// Voters are added, taken away or replaced, never so that fewer than a majority of them is there.
    fn change_voters(&self) -> Option<MembershipStep> {
        let wanted = self.wanted_voters();
        let wanted_ids: BTreeSet<u64> = wanted.iter().filter_map(|node| node.raft.raft_id()).collect();
        let now = &self.raft.voters;
        let ready: Vec<u64> = wanted_ids.iter().copied().filter(|id| !now.contains(id) && self.is_promotable(*id)).collect();
        let mut leaving: Vec<u64> = now.iter().copied().filter(|id| !wanted_ids.contains(id)).collect();
        // Those that are away leave first.
        leaving.sort_by_key(|id| (self.is_alive(*id), *id));
        let target = self.target();
        let mut next = now.clone();
        let broken = self.record.nodes().values().filter(|node| self.is_broken(node)).filter_map(|node| node.raft.raft_id());
        if let Some(broken) = broken.into_iter().find(|id| now.contains(id)) {
            // It is of no use, whether or not there is another: its node comes back under a new Raft id.
            next.remove(&broken);
            next.extend(ready.first());
        } else if let Some(new) = ready.first().filter(|_| now.len() == 1 && !leaving.is_empty()) {
            // The only voter can hand its mastership over only to another voter, so for a moment there are two.
            next.insert(*new);
        } else if now.len() < target {
            let missing = if now.len().is_multiple_of(2) { 1 } else { 2 };
            if ready.len() < missing {
                return None;
            }
            next.extend(ready.iter().take(missing));
        } else if now.len() > target {
            let surplus = if now.len().is_multiple_of(2) { 1 } else { 2 };
            for id in leaving.iter().take(surplus) {
                next.remove(id);
            }
        } else {
            let (old, new) = (leaving.first()?, ready.first()?);
            next.remove(old);
            next.insert(*new);
        }
        let healthy = self.has_majority(now) && self.has_majority(&next);
        (healthy && next != *now).then_some(MembershipStep::SetVoters { voters: next })
    }

    fn is_promotable(&self, id: u64) -> bool {
        self.is_alive(id) && self.raft.learners.get(&id).is_some_and(|learner| learner.caught_up && learner.complete)
    }

    fn is_alive(&self, id: u64) -> bool {
        self.record.nodes().values().any(|node| node.raft.raft_id() == Some(id) && self.is_there(node) && !self.is_broken(node))
    }

    fn has_majority(&self, voters: &BTreeSet<u64>) -> bool {
        voters.iter().filter(|id| self.is_alive(**id)).count() > voters.len() / 2
    }

    fn change_standbys(&self) -> Option<MembershipStep> {
        let wanted = self.wanted_standbys();
        for node in self.record.nodes().values() {
            if let RaftRole::Standby { raft_id } = node.raft
                && !wanted.contains(&node.name)
                && self.raft.learners.contains_key(&raft_id)
            {
                return Some(MembershipStep::RemoveLearner { raft_id });
            }
        }
        let is_member = |name: &&NodeName| self.record.nodes().get(name).is_some_and(|node| node.raft == RaftRole::Member);
        wanted.iter().find(is_member).map(|node| MembershipStep::MakeStandby { node: node.clone() })
    }
}

/// Where a node is: what a user said, else what it found out itself.
fn site(node: &Node) -> Option<String> {
    let key = CharacteristicKey::new(SITE).ok()?;
    let desired = node.desired.get(&key).map(|desired| desired.value.clone());
    desired.or_else(|| node.facts.discovered.get(&key).cloned())
}
