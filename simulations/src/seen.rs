//! A cluster as it is at one moment, seen from outside of time: every node's record, agent and machine.
//!
//! One idea: what is committed is what the node that is furthest has applied; a node that crashes takes nothing of that back, so the furthest
//! record that was ever seen is kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tribune_agent::agent::Standing;
use tribune_messages::node::Fence;
use tribune_node::node::Inside;
use tribune_node::raft::{Leadership, RaftNode};
use tribune_raft_store::machine::Applied;
use tribune_raft_store::model::{RaftRole, Signature, Update, UpdateId};
use tribune_raft_store::raft_types::Record;

use crate::cluster::Cluster;
use crate::machine::Machine;

/// A record as one node has applied it.
pub type State = Arc<Applied<Record>>;

/// The log index that a record is at.
pub fn index(state: &State) -> u64 {
    state.last_applied.map_or(0, |last| last.index)
}

/// One node.
#[derive(Debug, Clone)]
pub struct SeenNode {
    pub name: String,
    pub machine: Machine,
    /// Which disk it has.
    pub disk_number: u64,
    /// Its id in Raft, while it is in it.
    pub raft_id: Option<u64>,
    /// What its record is, while it runs and is in Raft.
    pub state: Option<State>,
    pub leadership: Option<Leadership>,
    /// What its agent says, while it runs.
    pub standing: Option<Arc<Standing>>,
    /// The highest fence that it has heard, while it runs.
    pub fence: Option<Fence>,
}

impl SeenNode {
    /// The node with the number of its disk: what it once said binds it for as long as it has that.
    pub fn on_disk(&self) -> (String, u64) {
        (self.name.clone(), self.disk_number)
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: Duration,
    pub nodes: Vec<SeenNode>,
    /// The furthest record that was ever seen.
    pub truth: Option<State>,
    /// The one before it.
    pub before: Option<State>,
    /// Which disk each node had when it came into Raft, by its name and Raft id.
    disks: BTreeMap<(String, u64), u64>,
}

impl Seen {
    /// Looks at a cluster.
    pub fn look(cluster: &Cluster<'_>, last: Option<&Seen>) -> Self {
        let shared = cluster.common.lock();
        let mut nodes = Vec::new();
        for (at, place) in cluster.places.iter().enumerate() {
            let before = last.and_then(|last| last.nodes.get(at)).and_then(|node| node.standing.clone());
            let inside: Option<&Inside> = shared.inside.get(&place.name);
            let raft = inside.and_then(Inside::raft);
            nodes.push(SeenNode {
                name: place.name.clone(),
                machine: place.machine.clone(),
                disk_number: place.machine.lock().disk_number,
                raft_id: raft.as_ref().map(RaftNode::id),
                state: raft.as_ref().map(|raft| raft.applied().borrow().clone()),
                leadership: raft.as_ref().map(|raft| raft.leadership().borrow().clone()),
                standing: inside.map(|inside| standing(inside, before)),
                fence: inside.map(Inside::fence),
            });
        }
        let mut disks = last.map(|last| last.disks.clone()).unwrap_or_default();
        for node in &nodes {
            if let Some(raft_id) = node.raft_id {
                disks.entry((node.name.clone(), raft_id)).or_insert(node.disk_number);
            }
        }
        let known = last.and_then(|last| last.truth.clone());
        let furthest = nodes.iter().filter_map(|node| node.state.clone()).max_by_key(index);
        let truth = match (known.clone(), furthest) {
            (Some(known), Some(furthest)) if index(&furthest) > index(&known) => Some(furthest),
            (None, furthest) => furthest,
            (known, _) => known,
        };
        Self { at: cluster.sim.elapsed(), nodes, truth, before: known, disks }
    }

    /// Whether the record is another than when it was last looked at.
    pub fn has_moved(&self) -> bool {
        match (&self.truth, &self.before) {
            (Some(now), Some(before)) => !Arc::ptr_eq(now, before),
            (None, None) => false,
            _ => true,
        }
    }

    /// The updates of the record, newest last.
    pub fn updates(&self) -> BTreeMap<UpdateId, &Update> {
        self.truth.iter().flat_map(|truth| truth.state.updates().iter()).map(|(id, update)| (*id, update)).collect()
    }

    /// Whether nothing is under way, there is a master, and every node runs.
    pub fn is_at_rest(&self) -> bool {
        let master = self.nodes.iter().any(|node| node.leadership.as_ref().is_some_and(|leadership| leadership.is_master));
        let all_run = self.nodes.iter().filter(|node| self.is_member(&node.name)).all(|node| node.standing.is_some());
        let over = self.updates().values().all(|update| update.phase.ended());
        master && all_run && over
    }

    /// Whether a machine's node is in the cluster: it may not have joined yet, or been removed.
    pub fn is_member(&self, node: &str) -> bool {
        self.truth.as_ref().is_some_and(|truth| truth.state.nodes().iter().any(|(name, _)| name.as_str() == node))
    }

    /// The recovery epoch of the record.
    pub fn epoch(&self) -> u64 {
        self.truth.as_ref().and_then(|truth| truth.state.cluster()).map_or(0, |cluster| cluster.epoch)
    }

    /// The voters, as the record has them.
    pub fn voters(&self) -> Vec<String> {
        let Some(truth) = &self.truth else { return Vec::new() };
        let voters = truth.state.nodes().values().filter(|node| matches!(node.raft, RaftRole::Voter { .. }));
        voters.map(|node| node.name.to_string()).collect()
    }

    /// The nodes that have just become voters, as the record has them.
    pub fn new_voters(&self) -> Vec<String> {
        let (Some(before), Some(now)) = (&self.before, &self.truth) else { return Vec::new() };
        let votes = |role: RaftRole| matches!(role, RaftRole::Voter { .. });
        let was = |name| before.state.nodes().get(name).is_some_and(|node| !votes(node.raft));
        now.state.nodes().iter().filter(|(name, node)| votes(node.raft) && was(name)).map(|(name, _)| name.to_string()).collect()
    }

    /// The nodes that have a part in Raft, as the record has them.
    pub fn in_raft(&self) -> Vec<String> {
        let Some(truth) = &self.truth else { return Vec::new() };
        let nodes = truth.state.nodes().values().filter(|node| node.raft != RaftRole::Member);
        nodes.map(|node| node.name.to_string()).collect()
    }

    /// Whether a voter has lost the disk with which it came into Raft, and has not come into it again since. What is on a disk is looked at
    /// as it is now, and so is which disk it is: it may have been lost in this very step.
    pub fn has_lost_disk(&self, voter: &str) -> bool {
        let record = self.truth.as_ref().and_then(|truth| truth.state.nodes().values().find(|node| node.name.as_str() == voter));
        let had = record.and_then(|node| self.disks.get(&(voter.to_owned(), node.raft.raft_id()?)));
        let has = self.nodes.iter().find(|node| node.name == voter).map(|node| node.machine.lock().disk_number);
        had.is_some_and(|had| has != Some(*had))
    }

    /// Whether a node has a module in its package store, on disk.
    pub fn holds(&self, node: &str, signature: &Signature) -> bool {
        let hex = signature.to_string();
        let node = self.nodes.iter().find(|other| other.name == node);
        node.is_some_and(|node| node.machine.folder.join("packages").join(&hex[..2]).join(&hex).exists())
    }

    /// What an update was when it was last looked at.
    pub fn was(&self, update: UpdateId) -> Option<&Update> {
        self.before.as_ref()?.state.updates().get(&update)
    }
}

/// What an agent says; the same as before where it is, for most say the same for long.
fn standing(inside: &Inside, before: Option<Arc<Standing>>) -> Arc<Standing> {
    let standing = inside.agent().standing();
    let now = standing.borrow();
    before.filter(|before| **before == *now).unwrap_or_else(|| Arc::new(now.clone()))
}
