//! Raft's log matching (Ongaro, figure 3.2), also of logs that were read again after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tribune_raft_store::examine::Logged;

use super::Invariant;
use crate::history::History;
use crate::seen::Seen;

/// How long the log of who was master is looked at.
const DOUBTFUL: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub struct LogsMatch {
    /// How often each node's agent had been started when its log was last read.
    read: BTreeMap<String, u64>,
    /// Nodes that were master a moment ago, and until when their logs are looked at each step.
    deposed: BTreeMap<String, Duration>,
    masters: BTreeSet<String>,
    /// By index and term: what the entry is, and who had it.
    known: BTreeMap<(u64, u64), (Logged, String)>,
}

impl Invariant for LogsMatch {
    fn name(&self) -> &'static str {
        "logs-match"
    }

    fn sentence(&self) -> &'static str {
        "Terms never fall along a log, and two logs that have an entry of one index and term have the same entry there."
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for node in &seen.nodes {
            // Once for each start, when Raft has come up on what is on the disk.
            let starts = node.machine.lock().agent_starts;
            let started = node.state.is_some() && self.read.insert(node.name.clone(), starts) != Some(starts);
            // Who is master no more gives up what nobody else had.
            if node.leadership.as_ref().is_some_and(|leadership| leadership.is_master) {
                self.masters.insert(node.name.clone());
            } else if self.masters.remove(&node.name) {
                self.deposed.insert(node.name.clone(), seen.at + DOUBTFUL);
            }
            if started || self.deposed.get(&node.name).is_some_and(|until| seen.at < *until) {
                self.look(&node.name, &node.machine.log()?)?;
            }
        }
        Ok(())
    }

    fn at_rest(&mut self, seen: &Seen, _: &History) -> Result<(), String> {
        for node in &seen.nodes {
            self.look(&node.name, &node.machine.log()?)?;
        }
        Ok(())
    }
}

impl LogsMatch {
    fn look(&mut self, node: &str, log: &[Logged]) -> Result<(), String> {
        for pair in log.windows(2) {
            if pair[1].term < pair[0].term {
                return Err(format!(
                    "in the log of {node}, entry {} is of term {}, and the one before it of term {}",
                    pair[1].index, pair[1].term, pair[0].term
                ));
            }
        }
        for entry in log {
            let (known, who) = self.known.entry((entry.index, entry.term)).or_insert_with(|| (entry.clone(), node.to_owned()));
            if known.hash != entry.hash {
                return Err(format!(
                    "entry {} of term {} is one thing in the log of {who}, and another in that of {node}",
                    entry.index, entry.term
                ));
            }
        }
        Ok(())
    }
}
