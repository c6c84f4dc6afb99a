//! A standby is promoted only when it holds every blob that the store keeps (DESIGN, section 3).

use std::collections::BTreeMap;

use tribune_raft_store::model::RaftRole;

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug, Default)]
pub struct VotersHoldStore {
    /// Which disk each node had when it became a standby: one that was lost since cannot have what it had.
    disks: BTreeMap<String, u64>,
}

impl Invariant for VotersHoldStore {
    fn name(&self) -> &'static str {
        "voters-hold-store"
    }

    fn sentence(&self) -> &'static str {
        "A node that becomes a voter has every module of the package store on disk."
    }

    fn only_of_record(&self) -> bool {
        true
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        let (Some(before), Some(now)) = (&seen.before, &seen.truth) else { return Ok(()) };
        // As it is now, like what is on it: it may have been lost in this very step.
        let disk =
            |name: &str| seen.nodes.iter().find(|node| node.name == name).map_or(0, |node| node.machine.lock().disk_number);
        for (name, node) in now.state.nodes().iter() {
            let was = before.state.nodes().get(name).map(|node| node.raft);
            if matches!(node.raft, RaftRole::Standby { .. }) && was != Some(node.raft) {
                self.disks.insert(name.to_string(), disk(name.as_str()));
            }
        }
        for name in seen.new_voters() {
            if self.disks.get(&name).is_some_and(|had| *had != disk(&name)) {
                continue;
            }
            for package in before.state.packages().values() {
                if let Some(module) = package.manifest.modules.iter().find(|module| !seen.holds(&name, &module.signature)) {
                    return Err(format!("{name} is a voter, and lacks {} of {}", module.name, package.manifest.name));
                }
            }
        }
        Ok(())
    }
}
