//! Raft's state machine safety: what two nodes have applied up to one index is the same (Ongaro, figure 3.2); so `apply` is deterministic.

use std::collections::BTreeMap;

use super::Invariant;
use crate::seen::{Seen, State, index};

/// How many indexes are remembered.
const REMEMBERED: usize = 64;
#[derive(Debug, Default)]
pub struct CopiesAgree {
    /// By index: the record there, and who had it.
    known: BTreeMap<u64, (State, String)>,
    /// What each node was last looked at with.
    looked: BTreeMap<String, u64>,
}

impl Invariant for CopiesAgree {
    fn name(&self) -> &'static str {
        "copies-agree"
    }

    fn sentence(&self) -> &'static str {
        "Two nodes that have applied the log up to the same entry have the same record."
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for node in &seen.nodes {
            let Some(state) = &node.state else {
                self.looked.remove(&node.name);
                continue;
            };
            let at = index(state);
            if self.looked.insert(node.name.clone(), at) == Some(at) || at == 0 {
                continue;
            }
            match self.known.get(&at) {
                Some((known, who)) if known.state != state.state => {
                    return Err(format!("after log entry {at}, {} and {who} have different records", node.name));
                }
                Some(_) => {}
                None => drop(self.known.insert(at, (state.clone(), node.name.clone()))),
            }
            while self.known.len() > REMEMBERED {
                self.known.pop_first();
            }
        }
        Ok(())
    }
}
