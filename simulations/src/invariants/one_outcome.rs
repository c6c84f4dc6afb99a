//! Every process that was asked learns the outcome, and never two different ones (DESIGN, section 5).

use std::collections::BTreeMap;

use tribune_process::protocol::Outcome as Heard;
use tribune_raft_store::model::{NodeProgress, Outcome, Phase, Step, Update};

use super::Invariant;
use crate::history::History;
use crate::seen::Seen;

#[derive(Debug)]
pub struct OneOutcome;

impl Invariant for OneOutcome {
    fn name(&self) -> &'static str {
        "one-outcome"
    }

    fn sentence(&self) -> &'static str {
        "Every process that was asked hears how it ended, and never two different ends."
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for node in &seen.nodes {
            for ((process, update), told) in &node.machine.lock().told {
                if told.outcomes.windows(2).any(|pair| pair[0] != pair[1]) {
                    return Err(format!("{process} on {} heard of {update}: {:?}", node.name, told.outcomes));
                }
            }
        }
        Ok(())
    }

    fn at_rest(&mut self, seen: &Seen, _: &History) -> Result<(), String> {
        let updates = seen.updates();
        let ended: BTreeMap<String, (&Update, Outcome)> = updates
            .iter()
            .filter_map(|(id, update)| match update.phase {
                Phase::Ended { outcome } => Some((id.to_string(), (*update, outcome))),
                _ => None,
            })
            .collect();
        for node in seen.nodes.iter().filter(|node| seen.is_member(&node.name)) {
            let inner = node.machine.lock();
            for ((process, id), told) in &inner.told {
                let Some((update, outcome)) = ended.get(id) else { continue };
                let lives = inner.alive.get(&process.pid) == Some(process);
                if told.proposed.is_some() && lives && told.outcomes.is_empty() {
                    return Err(format!("{process} on {} was asked about {id}, which is over, and never heard how", node.name));
                }
                let part = update.nodes.iter().find(|(name, _)| name.as_str() == node.name).map(|(_, part)| part);
                let heard =
                    told.outcomes.first().filter(|heard| part.is_some_and(|part| !is_end(update, part, *outcome, **heard)));
                if let Some(heard) = heard {
                    return Err(format!("{process} on {} heard that {id} is {heard:?}, and it is {outcome}", node.name));
                }
            }
        }
        Ok(())
    }
}

/// Whether a process of a node may hear this of an update with that end. A node without which the others went on has an end of its own.
fn is_end(update: &Update, node: &NodeProgress, outcome: Outcome, heard: Heard) -> bool {
    let own = update.request.options.ephemeral && !matches!(outcome, Outcome::Aborted | Outcome::Regressed | Outcome::Rejected);
    match heard {
        _ if node.gone => true,
        _ if node.left_behind => heard == Heard::Aborted,
        _ if own && node.step == Step::Regressed => heard == Heard::Regressed,
        Heard::Completed => outcome == Outcome::Completed,
        Heard::CompletedInPart => outcome == Outcome::CompletedInPart,
        Heard::CompletedWithDiscrepancies => outcome == Outcome::CompletedWithDiscrepancies,
        Heard::Aborted => matches!(outcome, Outcome::Aborted | Outcome::Rejected),
        Heard::Regressed => outcome == Outcome::Regressed,
        Heard::RegressFailed => outcome == Outcome::RegressFailed,
        Heard::Other => false,
    }
}
