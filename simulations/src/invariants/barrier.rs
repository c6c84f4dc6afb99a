//! Nobody changes over before every node of the update has staged (DESIGN, section 5: distribute, stage).

use tribune_raft_store::model::{Phase, Step};

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug)]
pub struct Barrier;

impl Invariant for Barrier {
    fn name(&self) -> &'static str {
        "barrier"
    }

    fn sentence(&self) -> &'static str {
        "No node changes over before every node of its update has staged."
    }

    fn only_of_record(&self) -> bool {
        true
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for (id, update) in seen.updates() {
            let began = seen.was(id).is_none_or(|was| !was.nodes.values().any(|node| node.step >= Step::Go && node.changed));
            let goes = update.nodes.iter().find(|(_, node)| matches!(node.step, Step::Go | Step::Started) && node.changed);
            let (true, Some((first, _)), Phase::Wave { .. }) = (began, goes, &update.phase) else { continue };
            let late = update.nodes.iter().find(|(_, node)| node.step < Step::Staged && !node.gone);
            if let Some((node, progress)) = late {
                return Err(format!("{first} may change over in {id}, and {node} is {} only", progress.step));
            }
        }
        Ok(())
    }
}
