//! A vote is durable before it is given (Ongaro, figure 3.1: the current term is stable storage).

use std::collections::BTreeMap;

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug, Default)]
pub struct TermOnlyRises {
    /// By node, by which disk it has, and by its Raft id: what it said as another binds it no more.
    terms: BTreeMap<((String, u64), Option<u64>), u64>,
}

impl Invariant for TermOnlyRises {
    fn name(&self) -> &'static str {
        "term-only-rises"
    }

    fn sentence(&self) -> &'static str {
        "While a node has one Raft id, the term that it is in never goes back, also over a crash."
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for node in &seen.nodes {
            // A term of 0 is that of a node that has just begun and has not looked.
            let Some(term) = node.leadership.as_ref().map(|leadership| leadership.term).filter(|term| *term > 0) else {
                continue;
            };
            let last = self.terms.insert((node.on_disk(), node.raft_id), term).unwrap_or(0);
            if term < last {
                return Err(format!("{} was in term {last} and is in {term}", node.name));
            }
        }
        Ok(())
    }
}
