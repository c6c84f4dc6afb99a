//! A regress that is over is one on every node that had changed (claims 11 and 12).

use tribune_raft_store::model::{Outcome, Phase, Step, UpdateKind};

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug)]
pub struct RegressIsComplete;

impl Invariant for RegressIsComplete {
    fn name(&self) -> &'static str {
        "regress-is-complete"
    }

    fn sentence(&self) -> &'static str {
        "An update that ended as regressed has no node that changed and did not go back."
    }

    fn only_of_record(&self) -> bool {
        true
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for (id, update) in seen.updates() {
            let newly = seen.was(id).is_none_or(|was| !was.phase.ended());
            if update.phase != (Phase::Ended { outcome: Outcome::Regressed })
                || !newly
                || update.request.kind == UpdateKind::Regress
            {
                continue;
            }
            let open = update.nodes.iter().find(|(_, node)| {
                node.changed && !node.gone && !matches!(node.step, Step::Regressed | Step::Away | Step::Failed)
            });
            if let Some((name, node)) = open {
                return Err(format!("{id} is over as regressed, and {name} is {}", node.step));
            }
        }
        Ok(())
    }
}
