//! Raft's leader completeness: whoever is master has everything that was committed before (Ongaro, figure 3.2).

use super::Invariant;
use crate::seen::{Seen, index};

#[derive(Debug, Default)]
pub struct CommittedStays {
    /// The greatest index that anybody had applied, when the present master's term began.
    committed: u64,
    term: u64,
}

impl Invariant for CommittedStays {
    fn name(&self) -> &'static str {
        "committed-stays"
    }

    fn sentence(&self) -> &'static str {
        "A new master has everything that any node had applied before."
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for node in &seen.nodes {
            let (Some(leadership), Some(state)) = (&node.leadership, &node.state) else { continue };
            if leadership.is_master && leadership.term > self.term {
                // It says so once it has applied all that was committed before its term.
                let at = index(state);
                if at < self.committed {
                    return Err(format!(
                        "{} is master in term {} with the log up to {at}, and {} had been applied",
                        node.name, leadership.term, self.committed
                    ));
                }
                self.term = leadership.term;
            }
        }
        // What was applied before this look was committed before any term that begins after it.
        self.committed = self.committed.max(seen.truth.as_ref().map_or(0, index));
        Ok(())
    }
}
