//! What a recovery makes of the record: one voter, a later epoch, and numbers that the lost part cannot have given.

use super::Record;
use super::apply::{About, At};
use crate::command::{Accepted, Rejection, Response};
use crate::model::{
    EVENTS_OF_AN_EPOCH, EventKind, MAX_EPOCH, NodeName, OnlyVoter, RaftRole, Role, SignedRecovery, UPDATES_OF_AN_EPOCH, raft_id,
};

impl Record {
    /// One node alone is the cluster from here on. Whatever else its nodes were in Raft is over.
    pub(super) fn recover(&mut self, at: At, signed: &SignedRecovery) -> Response {
        let recovery = signed.open()?;
        let mut cluster = self.cluster().cloned().ok_or(Rejection::NotCreated)?;
        if recovery.cluster != cluster.id {
            return Err(Rejection::OtherCluster { given: recovery.cluster, here: cluster.id });
        }
        if recovery.epoch <= cluster.epoch || recovery.epoch > MAX_EPOCH {
            return Err(Rejection::Epoch { given: recovery.epoch, here: cluster.epoch });
        }
        let by = self.may(&signed.key, Role::Admin)?;
        let voter = recovery.voter;
        let right = raft_id(recovery.epoch, at.index);
        if voter.raft_id != right {
            return Err(Rejection::RecoveryPlace { node: voter.name, given: voter.raft_id, here: right });
        }
        self.take_place(at, &voter, &by)?;
        cluster.epoch = recovery.epoch;
        // What the lost part of the cluster gave numbers to is not known here: none of them is given again.
        cluster.next_update = cluster.next_update.max(recovery.epoch * UPDATES_OF_AN_EPOCH + 1);
        cluster.next_event = cluster.next_event.max(recovery.epoch * EVENTS_OF_AN_EPOCH + 1);
        cluster.recovery = Some(signed.clone());
        self.clusters.put(0, cluster);
        let text = format!("{by} recovered the cluster from node {} alone, at recovery epoch {}", voter.name, recovery.epoch);
        self.note(at, EventKind::ClusterRecovered, About::node(&voter.name), text);
        self.others_leave_raft(at, &voter.name);
        Ok(Accepted::Done)
    }

    /// The only voter, with the identity that was signed: one that was made anew takes the place of the one before.
    fn take_place(&mut self, at: At, voter: &OnlyVoter, by: &str) -> Result<(), Rejection> {
        let mut node = self.node(&voter.name)?.clone();
        if let Some(removed) = self.removed.get(&voter.peer) {
            return Err(Rejection::PeerRemoved { node: removed.name.clone() });
        }
        let other = self.nodes.values().find(|other| other.name != voter.name && other.peer == voter.peer);
        if let Some(other) = other {
            return Err(Rejection::PeerTaken { node: other.name.clone() });
        }
        if node.peer != voter.peer {
            self.bury_identity(at, node.clone(), by);
            node.peer = voter.peer.clone();
            node.key = voter.key;
        }
        node.facts.control_addresses.clone_from(&voter.control);
        node.facts.data_addresses.clone_from(&voter.data);
        node.raft = RaftRole::Voter { raft_id: voter.raft_id };
        node.leaving = None;
        node.version = at.index;
        self.nodes.put(voter.name.clone(), node);
        Ok(())
    }

    /// Those that only waited for Raft to let them go are gone with it.
    fn others_leave_raft(&mut self, at: At, only: &NodeName) {
        let others = self.nodes.values().filter(|node| node.name != *only && node.raft != RaftRole::Member);
        for mut node in others.cloned().collect::<Vec<_>>() {
            node.raft = RaftRole::Member;
            let (name, leaving) = (node.name.clone(), node.leaving.clone());
            self.nodes.put(name.clone(), node);
            if let Some(leaving) = leaving {
                self.take_out(at, &name, &leaving.by);
            }
        }
    }
}
