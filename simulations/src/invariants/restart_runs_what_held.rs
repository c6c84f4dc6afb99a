//! A node that is restarted runs exactly its persistent generation: what settled, and nothing that was just being tried (claims 8 and 14).

use std::collections::{BTreeMap, BTreeSet};

use tribune_agent::launch::ChildLabel;
use tribune_raft_store::model::{NodeReport, Signature};

use super::Invariant;
use crate::seen::{Seen, SeenNode};

#[derive(Debug, Default)]
pub struct RestartRunsWhatHeld {
    nodes: BTreeMap<String, Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Which boot of the machine it is.
    run: u64,
    /// What was installed when no update was in the middle of its changeover.
    held: BTreeSet<Signature>,
    /// What is being tried, and was not installed before.
    tried: BTreeSet<Signature>,
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
            self.nodes.entry(node.name.clone()).or_default().step(node)?;
        }
        Ok(())
    }
}

impl Known {
    fn step(&mut self, node: &SeenNode) -> Result<(), String> {
        let inner = node.machine.lock();
        if inner.run != self.run {
            self.run = inner.run;
            self.started.clear();
        }
        for started in &inner.started[self.looked..] {
            let label: ChildLabel = started.label.parse().map_err(|error| format!("{}: {error}", node.name))?;
            let first = self.started.insert(started.child.key.clone());
            if first && self.tried.contains(&label.signature) && !self.held.contains(&label.signature) {
                return Err(format!(
                    "{} was restarted and begins with {} {}, which had not held",
                    node.name, started.child, label.version
                ));
            }
        }
        self.looked = inner.started.len();
        drop(inner);
        let Some(standing) = &node.standing else { return Ok(()) };
        let trying = standing.updates.values().any(|update| {
            let last = update.reports.last();
            matches!(last, Some(NodeReport::Ready | NodeReport::Started))
        });
        let current: BTreeSet<Signature> = standing.current.modules.values().copied().collect();
        if trying {
            self.tried = current.difference(&self.held).copied().collect();
        } else {
            self.held = current;
            self.tried.clear();
        }
        Ok(())
    }
}
