//! The processes that an update touches are found, those that depend on what changes among them, and all are asked (claim 4).

use std::collections::BTreeSet;

use tribune_raft_store::model::{Phase, Step};

use super::Invariant;
use crate::catalogue;
use crate::seen::Seen;

#[derive(Debug)]
pub struct AllAsked;

impl Invariant for AllAsked {
    fn name(&self) -> &'static str {
        "all-asked"
    }

    fn sentence(&self) -> &'static str {
        "When a node has voted, every module that runs there and needs what changes was asked."
    }

    fn only_of_record(&self) -> bool {
        true
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for (id, update) in seen.updates() {
            let Some(plan) = &update.plan else { continue };
            if !matches!(update.phase, Phase::Asking | Phase::Distributing) || update.request.options.force.is_some() {
                continue;
            }
            for (name, progress) in &update.nodes {
                let voted = progress.step == Step::Voted
                    && seen.was(id).and_then(|was| was.nodes.get(name)).is_some_and(|was| was.step < Step::Voted);
                let Some(change) = plan.nodes.get(name).filter(|_| voted) else { continue };
                let changed: BTreeSet<&str> = change.changes.iter().map(|change| change.name.as_str()).collect();
                let answered: BTreeSet<&str> = progress.ballots.iter().map(|ballot| ballot.process.name.as_str()).collect();
                let Some(node) = seen.nodes.iter().find(|node| node.name == name.as_str()) else { continue };
                let inner = node.machine.lock();
                for (kid, what) in &inner.kids {
                    let crate::machine::Phase::Running { process, since } = &what.phase else { continue };
                    // One that has just been started is asked before the changeover.
                    let new = seen.at.saturating_sub(*since).as_millis() < 10_000;
                    let known = inner.told.contains_key(&(*process, id.to_string()));
                    let package = kid.key.split('/').next().unwrap_or_default();
                    if touches(package, &changed) && !new && !known && what.script.speaks && !answered.contains(kid.key.as_str())
                    {
                        return Err(format!("{name} has voted in {id}, which touches {kid}, and that was not asked"));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether a package, or something that it needs, is among those that change.
fn touches(package: &str, changed: &BTreeSet<&str>) -> bool {
    let mut at = Some(package);
    while let Some(package) = at {
        if changed.contains(package) {
            return true;
        }
        at = catalogue::needs().get(package).copied();
    }
    false
}
