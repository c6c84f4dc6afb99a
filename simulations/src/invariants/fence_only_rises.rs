//! Only the highest fencing number acts (DESIGN, section 2: whoever is master speaks with its epoch and term).

use std::collections::BTreeMap;

use tribune_messages::node::Fence;

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug, Default)]
pub struct FenceOnlyRises {
    /// By node and by which disk it has.
    highest: BTreeMap<(String, u64), Fence>,
}

impl Invariant for FenceOnlyRises {
    fn name(&self) -> &'static str {
        "fence-only-rises"
    }

    fn sentence(&self) -> &'static str {
        "A node that has heard a master obeys no earlier one, also after a crash."
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for node in &seen.nodes {
            let Some(fence) = node.fence else { continue };
            let highest = self.highest.entry(node.on_disk()).or_insert(fence);
            if fence < *highest {
                return Err(format!("{} had heard {highest:?}, and obeys {fence:?}", node.name));
            }
            *highest = fence;
        }
        Ok(())
    }
}
