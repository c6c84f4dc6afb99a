//! Raft's state machine safety: what two nodes have applied up to one index is the same (Ongaro, figure 3.2); so `apply` is deterministic.

use std::collections::BTreeMap;

use super::Invariant;
use crate::seen::{Seen, State, index};

/// How many indexes are remembered.
const REMEMBERED: usize = 64;
/// Of so many indexes one is looked at: to write a whole record out takes long, and what differs once stays so.
const ONE_OF: u64 = 3;

#[derive(Debug, Default)]
pub struct CopiesAgree {
    /// By index: the hash of the record there, and who had it.
    known: BTreeMap<u64, (blake3::Hash, String)>,
    /// What each node was last looked at with.
    looked: BTreeMap<String, u64>,
}

fn hash(state: &State) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for (key, value) in state.state.entries() {
        hasher.update(&(key.len() as u64).to_be_bytes());
        hasher.update(&key);
        hasher.update(&(value.len() as u64).to_be_bytes());
        hasher.update(&value);
    }
    hasher.finalize()
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
            if self.looked.insert(node.name.clone(), at) == Some(at) || at == 0 || !at.is_multiple_of(ONE_OF) {
                continue;
            }
            let hash = hash(state);
            match self.known.get(&at) {
                Some((known, who)) if *known != hash => {
                    return Err(format!("after log entry {at}, {} and {who} have different records", node.name));
                }
                Some(_) => {}
                None => drop(self.known.insert(at, (hash, node.name.clone()))),
            }
            while self.known.len() > REMEMBERED {
                self.known.pop_first();
            }
        }
        Ok(())
    }
}
