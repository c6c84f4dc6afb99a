//! A standby is promoted only when it holds every blob that the store keeps (DESIGN, section 3).

use tribune_raft_store::model::RaftRole;

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug)]
pub struct VotersHoldStore;

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
        for (name, node) in now.state.nodes().iter() {
            let was = before.state.nodes().get(name).map(|node| node.raft);
            let becomes =
                matches!(node.raft, RaftRole::Voter { .. }) && was.is_some_and(|was| !matches!(was, RaftRole::Voter { .. }));
            if !becomes {
                continue;
            }
            for package in before.state.packages().values() {
                if let Some(module) = package.manifest.modules.iter().find(|module| !seen.holds(name.as_str(), &module.signature))
                {
                    return Err(format!("{name} is a voter, and lacks {} of {}", module.name, package.manifest.name));
                }
            }
        }
        Ok(())
    }
}
