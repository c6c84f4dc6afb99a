//! A node never takes back what it has applied while it runs (DESIGN: the history is the audit log).

use std::collections::BTreeMap;

use super::Invariant;
use crate::seen::{Seen, index};

#[derive(Debug, Default)]
pub struct AppliedOnlyGrows {
    /// By node: its id in Raft, and how much it has applied under that.
    last: BTreeMap<String, (Option<u64>, u64)>,
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
            let (id, last) = self.last.insert(node.name.clone(), (node.raft_id, at)).unwrap_or_default();
            if at < last && id == node.raft_id {
                return Err(format!("{} had applied {last}, and has now applied {at} only", node.name));
            }
        }
        Ok(())
    }
}
