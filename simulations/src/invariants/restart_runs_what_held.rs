//! A node that is restarted runs exactly its persistent generation: what settled, and nothing that was just being tried (claims 8 and 14).

use std::collections::{BTreeMap, BTreeSet};

use tribune_agent::launch::ChildLabel;
use tribune_raft_store::model::{NodeReport, Signature};

use super::Invariant;
use crate::seen::{Seen, SeenNode};

#[derive(Debug, Default)]
pub struct RestartRunsWhatHeld {
    /// By node and by which disk it has.
    nodes: BTreeMap<(String, u64), Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Which boot of the machine it is.
    run: u64,
    /// By module: what its agent said last that is installed.
    held: BTreeMap<String, Signature>,
    /// Whether it was in the middle of a changeover then.
    trying: bool,
    /// What was installed when it was restarted out of that.
    before: BTreeMap<String, Signature>,
    /// How many starts were looked at.
    looked: usize,
    /// The children that were started since the machine was.
    started: BTreeSet<String>,
}

impl Invariant for RestartRunsWhatHeld {
    fn name(&self) -> &'static str {
        "restart-runs-what-held"
    }

    fn sentence(&self) -> &'static str {
        "After a power cut in the middle of a changeover, a node first starts what held before it."
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for node in &seen.nodes {
            self.nodes.entry(node.on_disk()).or_insert_with(|| Known::since(node)).step(node)?;
        }
        Ok(())
    }
}

impl Known {
    /// Nothing is known of a node, but how often something was started on its machine.
    fn since(node: &SeenNode) -> Self {
        Self { looked: node.machine.lock().started.len(), ..Self::default() }
    }

    fn step(&mut self, node: &SeenNode) -> Result<(), String> {
        let inner = node.machine.lock();
        if inner.run != self.run {
            self.run = inner.run;
            self.before = if self.trying { self.held.clone() } else { BTreeMap::new() };
            self.started.clear();
        }
        for started in &inner.started[self.looked..] {
            let label: ChildLabel = started.label.parse().map_err(|error| format!("{}: {error}", node.name))?;
            let key = &started.child.key;
            let first = self.started.insert(key.clone());
            if first && self.before.get(key).is_some_and(|before| *before != label.signature) {
                return Err(format!(
                    "{} was restarted and begins with {} {}, which had not held",
                    node.name, started.child, label.version
                ));
            }
        }
        self.looked = inner.started.len();
        drop(inner);
        let Some(standing) = &node.standing else { return Ok(()) };
        self.held = standing.current.modules.clone();
        self.trying = standing.updates.values().any(|update| matches!(update.reports.last(), Some(NodeReport::Started)));
        Ok(())
    }
}
