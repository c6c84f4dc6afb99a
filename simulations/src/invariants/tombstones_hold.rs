//! Nothing tombstoned is installed without someone saying so (DESIGN, section 5: regress leaves a tombstone).

use tribune_raft_store::model::{Phase, TombstoneKey, UpdateKind};

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug)]
pub struct TombstonesHold;

impl Invariant for TombstonesHold {
    fn name(&self) -> &'static str {
        "tombstones-hold"
    }

    fn sentence(&self) -> &'static str {
        "No update brings a package to a node that regressed it, unless its user said `--again`."
    }

    fn only_of_record(&self) -> bool {
        true
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        let Some(before) = &seen.before else { return Ok(()) };
        for (id, update) in seen.updates() {
            // Looked at when its plan is made.
            let planned = seen.was(id).is_none_or(|was| was.plan.is_none());
            if !planned || update.request.options.again || update.request.kind == UpdateKind::Regress {
                continue;
            }
            if matches!(update.phase, Phase::Queued { .. } | Phase::Ended { .. }) {
                continue;
            }
            for (node, plan) in update.plan.iter().flat_map(|plan| &plan.nodes) {
                for package in plan.changes.iter().filter_map(|change| change.to) {
                    let key = TombstoneKey { package, node: node.clone() };
                    if before.state.tombstones().contains(&key)
                        && seen.truth.as_ref().is_some_and(|now| now.state.tombstones().contains(&key))
                    {
                        return Err(format!("{id} brings {} to {node}, which regressed it", package.short()));
                    }
                }
            }
        }
        Ok(())
    }
}
