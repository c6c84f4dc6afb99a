//! Raft's election safety: at most one master in a term (Ongaro, figure 3.2).

use std::collections::BTreeMap;

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug, Default)]
pub struct OneMasterATerm {
    masters: BTreeMap<u64, String>,
}

impl Invariant for OneMasterATerm {
    fn name(&self) -> &'static str {
        "one-master-a-term"
    }

    fn sentence(&self) -> &'static str {
        "No two nodes are master in one term."
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for node in &seen.nodes {
            let Some(leadership) = node.leadership.as_ref().filter(|leadership| leadership.is_master) else { continue };
            let known = self.masters.entry(leadership.term).or_insert_with(|| node.name.clone());
            if *known != node.name {
                return Err(format!("in term {} both {known} and {} were master", leadership.term, node.name));
            }
        }
        Ok(())
    }
}
