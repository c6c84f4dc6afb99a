//! An ephemeral update installs nothing until somebody persists it (claim 8).

use std::collections::BTreeSet;

use tribune_raft_store::model::{NodeProgress, Phase, Step, UpdateKind};

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug)]
pub struct EphemeralIsNotKept;

impl Invariant for EphemeralIsNotKept {
    fn name(&self) -> &'static str {
        "ephemeral-is-not-kept"
    }

    fn sentence(&self) -> &'static str {
        "While an ephemeral update is not persisted, what it brings is in no node's generation."
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for (id, update) in seen.updates() {
            let open = matches!(update.phase, Phase::Wave { .. } | Phase::Unpersisted);
            if !update.request.options.ephemeral || update.request.kind != UpdateKind::Install || !open {
                continue;
            }
            for (name, plan) in update.plan.iter().flat_map(|plan| &plan.nodes) {
                let node = seen.nodes.iter().find(|node| node.name == name.as_str());
                let Some(standing) = node.and_then(|node| node.standing.as_ref()) else { continue };
                // Once it is persisted there, or over, it may.
                let runs = |progress: &&NodeProgress| progress.changed && progress.step <= Step::Settled;
                if update.over_for(name) || update.nodes.get(name).filter(runs).is_none() {
                    continue;
                }
                let brought: BTreeSet<_> = plan.changes.iter().filter_map(|change| change.to).collect();
                let installed: BTreeSet<_> = standing.current.packages.values().copied().collect();
                let from: BTreeSet<_> = plan.changes.iter().filter_map(|change| change.from).collect();
                if let Some(package) = brought.difference(&from).find(|package| installed.contains(package)) {
                    return Err(format!("{id} is ephemeral, and {name} has its package {} installed", package.short()));
                }
            }
        }
        Ok(())
    }
}
