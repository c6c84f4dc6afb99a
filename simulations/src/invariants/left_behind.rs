//! A node that others went on without is out of that update, and stays so (DESIGN, section 5).

use tribune_raft_store::model::{NodeProgress, Phase, Step, Update};

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug)]
pub struct LeftBehind;

impl Invariant for LeftBehind {
    fn name(&self) -> &'static str {
        "left-behind"
    }

    fn sentence(&self) -> &'static str {
        "An ephemeral update that goes on leaves behind every node that had not begun and no other, and never has it again."
    }

    fn only_of_record(&self) -> bool {
        true
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for (id, update) in seen.updates() {
            let goes_on = matches!(update.phase, Phase::Verifying | Phase::Unpersisted | Phase::Persisting);
            for (name, progress) in &update.nodes {
                let wrong = match seen.was(id).and_then(|was| was.nodes.get(name)).filter(|was| was.left_behind) {
                    Some(was) => !progress.left_behind || (progress.step, &progress.ballots) != (was.step, &was.ballots),
                    None if progress.left_behind => !may_be(update, progress),
                    None => goes_on && may_be(update, progress),
                };
                if wrong {
                    let word = if progress.left_behind { "left behind" } else { "not left behind" };
                    return Err(format!("{name} is {word} by {id}, which is {}; it is {}", update.phase, progress.step));
                }
            }
        }
        Ok(())
    }
}

/// Whether an ephemeral update goes on without a node.
fn may_be(update: &Update, progress: &NodeProgress) -> bool {
    update.request.options.ephemeral && !progress.changed && matches!(progress.step, Step::Failed | Step::Away)
}
