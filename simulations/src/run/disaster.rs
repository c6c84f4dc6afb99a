//! A majority of the voters is lost for good, and one node goes on from what it has.
//!
//! One idea: it comes when all is at rest, so that nothing that was acknowledged is lost with them; whatever held before must hold across it.

use std::time::Duration;

use anyhow::Result;
use rand::seq::SliceRandom;
use tribune_raft_store::model::Phase;

use super::{QUIET_WITHIN, Reached, Run};
use crate::run::Violation;
use crate::seen::Seen;

/// How long the others are left to themselves after the loss, and after one has gone on.
const ALONE: Duration = Duration::from_secs(5);

impl Run<'_> {
    /// Loses a majority of the voters, lets another go on, and waits until all have come to it; what does not hold, if anything.
    ///
    /// # Errors
    /// A user or machine failed.
    pub(super) fn lose_the_majority(&mut self) -> Result<Option<Violation>> {
        // What was just committed has reached everybody who is there.
        if let Reached::Violation(violation) = self.until(ALONE, |_| false)? {
            return Ok(Some(violation));
        }
        let Some(seen) = self.seen.clone() else { return Ok(None) };
        let mut voters: Vec<usize> = (0..seen.nodes.len()).filter(|at| seen.voters().contains(&seen.nodes[*at].name)).collect();
        voters.shuffle(&mut rand::rng());
        let majority = voters.len() / 2 + 1;
        let (lost, left) = voters.split_at(majority.min(voters.len().saturating_sub(1)));
        let (Some(survivor), Some((returns, gone))) = (left.first().copied(), lost.split_first()) else { return Ok(None) };
        self.trace.note("run", "a majority of the voters is lost");
        // One comes back when nobody expects it any more, with all that it had; the others with nothing.
        self.chaos.turn_off(&mut self.cluster, *returns);
        for node in gone {
            self.chaos.lose_disk(&mut self.cluster, *node);
        }
        if let Reached::Violation(violation) = self.until(ALONE, |_| false)? {
            return Ok(Some(violation));
        }
        let name = seen.nodes[survivor].name.clone();
        self.trace.note("run", format!("{name} is to go on alone"));
        self.cluster.common.lock().recover = Some(name.clone());
        self.chaos.turn_off(&mut self.cluster, survivor);
        self.chaos.turn_on(&mut self.cluster, survivor);
        for node in gone {
            self.chaos.turn_on(&mut self.cluster, *node);
        }
        let leads = |run: &Run<'_>| run.seen.as_ref().is_some_and(|seen| leads(seen, &name));
        match self.until(QUIET_WITHIN, leads)? {
            Reached::Violation(violation) => return Ok(Some(violation)),
            Reached::Not => return Ok(Some(self.liveness(&format!("{name} was to go on alone, and did not")))),
            Reached::Yes => {}
        }
        if let Reached::Violation(violation) = self.until(ALONE, |_| false)? {
            return Ok(Some(violation));
        }
        self.chaos.turn_on(&mut self.cluster, *returns);
        match self.until(QUIET_WITHIN, |run| run.seen.as_ref().is_some_and(|seen| seen.is_at_rest() && all_follow(seen)))? {
            Reached::Violation(violation) => Ok(Some(violation)),
            Reached::Not => {
                let open = self.open_updates();
                Ok(Some(self.liveness(&format!("after a majority was lost the cluster did not come to rest: {open}"))))
            }
            Reached::Yes => Ok(None),
        }
    }
}

/// Whether this node is the master, in the recovery epoch of the record.
fn leads(seen: &Seen, name: &str) -> bool {
    let node = seen.nodes.iter().find(|node| node.name == name);
    node.and_then(|node| node.leadership.as_ref()).is_some_and(|leadership| leadership.is_master) && seen.epoch() > 0
}

/// Whether every node obeys a master of the recovery epoch of the record, and none is in an update.
fn all_follow(seen: &Seen) -> bool {
    let members = seen.nodes.iter().filter(|node| seen.is_member(&node.name));
    members.clone().all(|node| node.fence.is_some_and(|fence| fence.epoch == seen.epoch()))
        && seen.updates().values().all(|update| matches!(update.phase, Phase::Ended { .. }))
}
