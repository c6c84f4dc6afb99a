//! A service that is no part of any update.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use anyhow::{Result, ensure};

use super::Evidence;
use crate::software::BYSTANDER;
use crate::world::Service;

/// The process of each node, and since which cut of its power.
#[derive(Debug, Default)]
pub struct Bystanders(BTreeMap<usize, (u64, Service)>);

/// It is the same process as before, unless the node's power was cut.
pub fn keeps_its_process(evidence: &mut Evidence<'_>) -> Result<()> {
    for (number, node) in evidence.world.nodes.iter().enumerate() {
        let cuts = || node.power_cuts.load(Ordering::SeqCst);
        let before = cuts();
        let running: Vec<_> =
            evidence.world.services(number)?.into_iter().filter(|service| service.module == BYSTANDER.1).collect();
        if before % 2 == 1 || cuts() != before {
            continue;
        }
        ensure!(running.len() <= 1, "{} runs twice: {running:?}", node.name);
        let known = evidence.bystanders.0.get(&number).filter(|(since, _)| *since == before);
        match (known, running.into_iter().next()) {
            (Some((_, known)), now) => ensure!(now.as_ref() == Some(known), "on {} it was {known:?}, now {now:?}", node.name),
            (None, Some(now)) => drop(evidence.bystanders.0.insert(number, (before, now))),
            (None, None) => {}
        }
    }
    Ok(())
}
