//! A node never takes back what it has applied while it runs (DESIGN: the history is the audit log).

use std::collections::BTreeMap;

use super::Invariant;
use crate::seen::{Seen, index};

#[derive(Debug, Default)]
pub struct AppliedOnlyGrows {
    /// By node: which start of it that is and its id in Raft, and how much it has applied since.
    last: BTreeMap<String, ((u64, Option<u64>), u64)>,
}

impl Invariant for AppliedOnlyGrows {
    fn name(&self) -> &'static str {
        "applied-only-grows"
    }

    fn sentence(&self) -> &'static str {
        "While a node runs with one Raft id, its record only moves forward."
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for node in &seen.nodes {
            let Some(state) = &node.state else {
                self.last.remove(&node.name);
                continue;
            };
            let at = index(state);
            // It may be killed and started again between two looks.
            let run = (node.machine.lock().agent_starts, node.raft_id);
            let (before, last) = self.last.insert(node.name.clone(), (run, at)).unwrap_or_default();
            if at < last && before == run {
                return Err(format!("{} had applied {last}, and has now applied {at} only", node.name));
            }
        }
        Ok(())
    }
}
