//! A majority of the voters is lost for good, and one node goes on: from what it has, or from a backup.
//!
//! One idea: it comes when all is at rest, so that nothing that was acknowledged is lost with them; whatever held before must hold across it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use rand::seq::SliceRandom;
use tribune_raft_store::model::Phase;

use super::{QUIET_WITHIN, Reached, Run};
use crate::cluster::GoesOn;
use crate::plan::Disaster;
use crate::run::Violation;
use crate::seen::{self, Seen};
use crate::users::Users;

/// How long the others are left to themselves after the loss, and after one has gone on.
const ALONE: Duration = Duration::from_secs(5);
/// How long the one that goes on alone is off, when its power is cut once more.
const OFF: Duration = Duration::from_millis(500);
/// How often a backup is made until it has everything.
const TRIES: u32 = 5;

impl Run<'_> {
    /// Loses a majority of the voters, lets one node go on, and waits until all have come to it; what does not hold, if anything.
    ///
    /// # Errors
    /// A user or machine failed.
    pub(super) fn lose_the_majority(&mut self, disaster: Disaster, users: &Users) -> Result<Option<Violation>> {
        // What was just committed has reached everybody who is there.
        if let Reached::Violation(violation) = self.until(ALONE, |_| false)? {
            return Ok(Some(violation));
        }
        let backup = match disaster {
            Disaster::Recovery => None,
            Disaster::Backup => match self.back_up(users)? {
                Ok(backup) => Some(backup),
                Err(violation) => return Ok(Some(violation)),
            },
        };
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
        let (alone, from) = match (backup, gone.first()) {
            (Some(file), Some(empty)) => (*empty, GoesOn::FromBackup(file)),
            _ => (survivor, GoesOn::FromItsDisk),
        };
        let name = seen.nodes[alone].name.clone();
        self.trace.note("run", format!("{name} is to go on alone: {from:?}"));
        {
            let mut shared = self.cluster.common.lock();
            shared.lost.remove(&name);
            shared.alone = Some((name.clone(), from));
        }
        if let Some(violation) = self.begin_anew(alone, gone)? {
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

    /// The node that is to go on alone is started, and those whose disks are gone; it leads, also when its power was cut.
    fn begin_anew(&mut self, alone: usize, gone: &[usize]) -> Result<Option<Violation>> {
        let name = self.cluster.places[alone].name.clone();
        self.chaos.turn_off(&mut self.cluster, alone);
        self.chaos.turn_on(&mut self.cluster, alone);
        for node in gone {
            self.chaos.turn_on(&mut self.cluster, *node);
        }
        for cut in [true, false] {
            match self.until(QUIET_WITHIN, |run| run.seen.as_ref().is_some_and(|seen| leads(seen, &name)))? {
                Reached::Violation(violation) => return Ok(Some(violation)),
                Reached::Not => return Ok(Some(self.liveness(&format!("{name} was to go on alone, and did not")))),
                Reached::Yes => {}
            }
            if cut {
                self.chaos.turn_off(&mut self.cluster, alone);
                if let Reached::Violation(violation) = self.until(OFF, |_| false)? {
                    return Ok(Some(violation));
                }
                self.chaos.turn_on(&mut self.cluster, alone);
            }
        }
        Ok(match self.until(ALONE, |_| false)? {
            Reached::Violation(violation) => Some(violation),
            _ => None,
        })
    }

    /// Somebody takes a backup that has all that the record has.
    fn back_up(&mut self, users: &Users) -> Result<Result<PathBuf, Violation>> {
        for time in 1..=TRIES {
            let file = self.cluster.folder.join(format!("backup-{time}"));
            let made: Arc<Mutex<Option<u64>>> = Arc::default();
            let (users, to, path) = (users.clone(), made.clone(), file.clone());
            self.cluster.sim.client(format!("saver{time}"), async move {
                let about = users.back_up(&path).await;
                *to.lock().unwrap_or_else(PoisonError::into_inner) = Some(about.index);
                Ok(())
            });
            let index = move || *made.lock().unwrap_or_else(PoisonError::into_inner);
            if let Reached::Violation(violation) = self.until(QUIET_WITHIN, |_| index().is_some())? {
                return Ok(Err(violation));
            }
            let newest = self.seen.as_ref().and_then(|seen| seen.truth.as_ref()).map(seen::index);
            if newest.is_some() && index() == newest {
                return Ok(Ok(file));
            }
        }
        Ok(Err(self.liveness(&format!("of {TRIES} backups none had all of the record, though nothing is under way"))))
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
