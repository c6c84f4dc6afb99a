//! What a node should have changes only when an update completes, or a user regresses (DESIGN, section 5).

use tribune_raft_store::model::Step;

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug)]
pub struct ShouldHave;

impl Invariant for ShouldHave {
    fn name(&self) -> &'static str {
        "should-have"
    }

    fn sentence(&self) -> &'static str {
        "What a node should have changes only with the end of an update that is kept."
    }

    fn only_of_record(&self) -> bool {
        true
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        let (Some(before), Some(now)) = (&seen.before, &seen.truth) else { return Ok(()) };
        for (name, node) in now.state.nodes().iter() {
            let Some(was) = before.state.nodes().get(name) else { continue };
            if was.should == node.should {
                continue;
            }
            let ended = seen.updates().into_iter().any(|(id, update)| {
                let over = update.phase.ended() && seen.was(id).is_none_or(|was| !was.phase.ended());
                let about =
                    update.plan.as_ref().is_some_and(|plan| plan.nodes.contains_key(name) || plan.left_out.contains_key(name));
                // A node that was left out should have what the others keep.
                let persisted = match update.nodes.get(name) {
                    Some(progress) => progress.step == Step::Persisted,
                    None => update.nodes.values().any(|progress| progress.step == Step::Persisted),
                };
                over && about && (!update.request.options.ephemeral || persisted)
            });
            if !ended {
                return Err(format!("what {name} should have has changed, and no update of it that is kept has ended"));
            }
        }
        Ok(())
    }
}
