//! A node never takes back what it has applied while it runs (DESIGN: the history is the audit log).

use std::collections::BTreeMap;

use super::Invariant;
use crate::seen::{Seen, index};

#[derive(Debug, Default)]
pub struct AppliedOnlyGrows {
    last: BTreeMap<String, u64>,
}

impl Invariant for AppliedOnlyGrows {
    fn name(&self) -> &'static str {
        "applied-only-grows"
    }

    fn sentence(&self) -> &'static str {
        "While a node runs, its record only moves forward."
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for node in &seen.nodes {
            let Some(state) = &node.state else {
                self.last.remove(&node.name);
                continue;
            };
            let at = index(state);
            let last = self.last.insert(node.name.clone(), at).unwrap_or(0);
            if at < last {
                return Err(format!("{} had applied {last}, and has now applied {at} only", node.name));
            }
        }
        Ok(())
    }
}
