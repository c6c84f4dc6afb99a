//! Every process that was asked learns the outcome, and never two different ones (DESIGN, section 5).

use std::collections::BTreeSet;

use tribune_raft_store::model::UpdateId;

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
        let ended: BTreeSet<String> = seen
            .updates()
            .iter()
            .filter(|(_, update)| update.phase.ended())
            .map(|(id, _): (&UpdateId, _)| id.to_string())
            .collect();
        for node in seen.nodes.iter().filter(|node| seen.is_member(&node.name)) {
            let inner = node.machine.lock();
            for ((process, update), told) in &inner.told {
                let lives = inner.alive.get(&process.pid) == Some(process);
                if told.proposed.is_some() && lives && ended.contains(update) && told.outcomes.is_empty() {
                    return Err(format!(
                        "{process} on {} was asked about {update}, which is over, and never heard how",
                        node.name
                    ));
                }
            }
        }
        Ok(())
    }
}
