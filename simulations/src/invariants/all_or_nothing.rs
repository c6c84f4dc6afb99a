//! After healing, every target is on the new or every target is on the old, unless a user chose otherwise (DESIGN, section 5).

use tribune_raft_store::model::{OnFailure, Outcome, Phase, Step, Update, UpdateId};

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug)]
pub struct AllOrNothing;

impl Invariant for AllOrNothing {
    fn name(&self) -> &'static str {
        "all-or-nothing"
    }

    fn sentence(&self) -> &'static str {
        "When an update ends, all its nodes are on the new or all are on the old, unless a user chose otherwise."
    }

    fn only_of_record(&self) -> bool {
        true
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for (id, update) in seen.updates() {
            let Phase::Ended { outcome } = update.phase else { continue };
            if seen.was(id).is_some_and(|was| was.phase.ended()) {
                continue;
            }
            let changed = update.nodes.iter().filter(|(_, node)| node.changed && !node.gone && node.step < Step::Regressed);
            let on_new: Vec<&str> = changed.map(|(name, _)| name.as_str()).collect();
            let chose = !update.decisions.is_empty() || update.request.options.on_failure != OnFailure::RegressAll;
            match outcome {
                Outcome::Aborted | Outcome::Rejected if !on_new.is_empty() => {
                    return Err(format!("{id} ended as {outcome}, and {} changed", on_new.join(", ")));
                }
                Outcome::Regressed if !on_new.is_empty() && !chose => {
                    return Err(format!("{id} ended as {outcome}, and {} did not go back", on_new.join(", ")));
                }
                Outcome::Completed => {
                    let left = update.nodes.iter().find(|(_, node)| !node.changed && !node.gone);
                    if let Some((name, node)) = left.filter(|_| !chose) {
                        return Err(format!("{id} ended as {outcome}, and {name} is {} and did not change", node.step));
                    }
                    self.look_at_nodes(seen, id, update)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl AllOrNothing {
    /// What the nodes of an update that has just completed have, as the record says of them.
    fn look_at_nodes(&self, seen: &Seen, id: UpdateId, update: &Update) -> Result<(), String> {
        let Some(truth) = seen.truth.as_ref().filter(|_| !update.request.options.ephemeral) else { return Ok(()) };
        for (name, plan) in update.plan.iter().flat_map(|plan| &plan.nodes) {
            let kept = update.nodes.get(name).is_some_and(|node| node.step == Step::Settled);
            let Some(node) = truth.state.nodes().get(name).filter(|_| kept) else { continue };
            let other = plan.changes.iter().find(|change| node.current.packages.get(&change.name) != change.to.as_ref());
            if let Some(change) = other {
                return Err(format!("{id} has completed, and {name} has another {}", change.name));
            }
        }
        Ok(())
    }
}
