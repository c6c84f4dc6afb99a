//! One update a node at a time (DESIGN, section 5).

use std::collections::BTreeMap;

use tribune_raft_store::model::{NodeName, Phase, UpdateId, UpdateKind};

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug)]
pub struct OneUpdateANode;

impl Invariant for OneUpdateANode {
    fn name(&self) -> &'static str {
        "one-update-a-node"
    }

    fn sentence(&self) -> &'static str {
        "No node is in two updates that are under way."
    }

    fn only_of_record(&self) -> bool {
        true
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        let mut holds: BTreeMap<NodeName, UpdateId> = BTreeMap::new();
        for (id, update) in seen.updates() {
            if matches!(update.phase, Phase::Ended { .. } | Phase::Queued { .. }) {
                continue;
            }
            for (node, progress) in &update.nodes {
                if update.over_for(node) || progress.gone || update.request.kind == UpdateKind::Regress {
                    continue;
                }
                if let Some(other) = holds.insert(node.clone(), id) {
                    return Err(format!("node {node} is in {other} and in {id}"));
                }
            }
        }
        Ok(())
    }
}
