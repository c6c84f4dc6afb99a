//! What a node should have changes only when an update completes, or a user regresses (DESIGN, section 5).

use tribune_raft_store::model::Phase;

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

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        let (Some(before), Some(now)) = (&seen.before, &seen.truth) else { return Ok(()) };
        for (name, node) in now.state.nodes().iter() {
            let Some(was) = before.state.nodes().get(name) else { continue };
            if was.should == node.should {
                continue;
            }
            let ended = seen.updates().into_iter().any(|(id, update)| {
                let over = matches!(update.phase, Phase::Ended { .. }) && seen.was(id).is_none_or(|was| !was.phase.ended());
                let moved = seen.was(id).is_none_or(|was| was != update);
                let kept = !update.request.options.ephemeral
                    || update.decisions.len() > seen.was(id).map_or(0, |was| was.decisions.len())
                    || seen
                        .was(id)
                        .is_some_and(|was| matches!(was.phase, Phase::Persisting | Phase::Unpersisted | Phase::Verifying));
                (over || moved) && kept
            });
            if !ended {
                return Err(format!("what {name} should have has changed, and no update that is kept has moved"));
            }
        }
        Ok(())
    }
}
