//! One veto anywhere stops the update everywhere until a user decides (claim 17).

use tribune_raft_store::model::{Phase, Step};

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug)]
pub struct VetoStopsAll;

impl Invariant for VetoStopsAll {
    fn name(&self) -> &'static str {
        "veto-stops-all"
    }

    fn sentence(&self) -> &'static str {
        "While a veto stands that nobody overruled, no node of the update begins to fetch or to change over."
    }

    fn only_of_record(&self) -> bool {
        true
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for (id, update) in seen.updates() {
            if update.request.options.force.is_some() {
                continue;
            }
            let mut vetoes = update.nodes.iter().flat_map(|(name, node)| node.ballots.iter().map(move |ballot| (name, ballot)));
            let Some((name, veto)) = vetoes.find(|(_, ballot)| ballot.standing_veto().is_some()) else { continue };
            let moves = matches!(update.phase, Phase::Distributing | Phase::Wave { .. });
            let left = update.plan.as_ref().is_some_and(|plan| plan.left_out.contains_key(name));
            let was = seen.was(id);
            let newly = was.is_none_or(|was| was.phase != update.phase);
            if moves && newly && !left && update.nodes.get(name).is_some_and(|node| node.step < Step::Go) {
                return Err(format!("{id} goes on to {}, and {} on {name} vetoes it", update.phase, veto.process.name));
            }
        }
        Ok(())
    }
}
