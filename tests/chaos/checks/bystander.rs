//! A service that is no part of any update.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use anyhow::{Result, ensure};

use super::Evidence;
use crate::record::Record;
use crate::software::BYSTANDER;
use crate::world::Service;

/// The process of each node.
#[derive(Debug, Default)]
pub struct Bystanders {
    /// And since which cut of its power.
    known: BTreeMap<String, (u64, Service)>,
    /// The nodes where it was another in the last look. The record was asked before that: an update may have come between.
    suspected: BTreeSet<String>,
}

impl Bystanders {
    /// The record is about to lose that updates took it from nodes.
    pub fn forget_the_touched(&mut self, record: &Record) {
        self.known.retain(|node, _| !is_touched(record, node));
    }
}

/// It is the same process as before, unless the node's power was cut.
pub fn keeps_its_process(evidence: &mut Evidence<'_>) -> Result<()> {
    for (number, node) in evidence.world.nodes.iter().enumerate() {
        let cuts = || node.power_cuts.load(Ordering::SeqCst);
        let before = cuts();
        let running: Vec<_> =
            evidence.world.services(number)?.into_iter().filter(|service| service.module == BYSTANDER.1).collect();
        if before % 2 == 1 || cuts() != before || is_touched(&evidence.record, &node.name) {
            evidence.bystanders.suspected.remove(&node.name);
            continue;
        }
        ensure!(running.len() <= 1, "{} runs twice: {running:?}", node.name);
        let known = evidence.bystanders.known.get(&node.name).filter(|(since, _)| *since == before);
        match (known, running.into_iter().next()) {
            (Some((_, known)), now) if now.as_ref() != Some(known) => {
                ensure!(
                    evidence.bystanders.suspected.insert(node.name.clone()),
                    "on {} it was {known:?}, now {now:?}",
                    node.name
                );
            }
            (Some(_), _) => drop(evidence.bystanders.suspected.remove(&node.name)),
            (None, Some(now)) => drop(evidence.bystanders.known.insert(node.name.clone(), (before, now))),
            (None, None) => {}
        }
    }
    Ok(())
}

/// Whether an update after its first takes it from a node: a user took that back to what was before it.
fn is_touched(record: &Record, node: &str) -> bool {
    record.updates.values().any(|update| {
        let changes = update["nodes"][node]["changes"].as_array();
        changes.into_iter().flatten().any(|change| change["package"] == BYSTANDER.0 && !change["from"].is_null())
    })
}
