//! What is really installed, checked: within each node and between nodes.

use std::collections::BTreeSet;

use tribune_raft_store::model::{Discrepancy, NodeName, NodePlan, Scope, Signature, Step, Update};
use tribune_raft_store::record::Record;

use crate::installed::Installed;
use crate::needs;

/// Every need in the cluster that what is really installed does not meet.
pub fn discrepancies(record: &Record) -> Vec<Discrepancy> {
    needs::unmet(&Installed::now(record)).into_iter().map(|(need, _)| need).collect()
}

/// What is to be said of an update at its end: the needs that touch what it changed and are not met, and modules that its
/// nodes were to have and have not.
pub fn verdict(record: &Record, update: &Update) -> Vec<Discrepancy> {
    let Some(plan) = &update.plan else { return Vec::new() };
    let changes = || plan.nodes.values().flat_map(|node| &node.changes);
    let packages: BTreeSet<&str> = changes().map(|change| change.name.as_str()).collect();
    let manifests = changes().flat_map(|change| [change.from, change.to]).flatten().filter_map(|id| record.packages().get(&id));
    let apis: BTreeSet<&str> = manifests
        .flat_map(|package| &package.manifest.modules)
        .flat_map(|module| &module.provides)
        .map(|provided| provided.api.as_str())
        .collect();
    let touches = |need: &Discrepancy| {
        let of_it = |path: &str| path.split_once('/').is_some_and(|(package, _)| packages.contains(package));
        let here = plan.nodes.contains_key(&need.node);
        match need.scope {
            Scope::BetweenNodes => apis.contains(need.need_name()) || (here && of_it(&need.module)),
            Scope::AsPlanned => here,
            Scope::WithinNode => here && (of_it(&need.module) || of_it(need.need_name()) || apis.contains(need.need_name())),
        }
    };
    let mut all: BTreeSet<Discrepancy> = discrepancies(record).into_iter().filter(touches).collect();
    for (name, node) in &plan.nodes {
        if update.nodes.get(name).is_some_and(|progress| matches!(progress.step, Step::Settled | Step::Persisted)) {
            all.extend(not_as_planned(record, name, node));
        }
    }
    all.into_iter().collect()
}

/// Modules that a node was to have and has not.
fn not_as_planned(record: &Record, name: &NodeName, plan: &NodePlan) -> Vec<Discrepancy> {
    let Some(node) = record.nodes().get(name) else { return Vec::new() };
    let found = |signature: Option<&Signature>| signature.map_or("nothing".to_owned(), |s| format!("signature {}", s.short()));
    let differs = plan.modules.iter().filter(|(path, module)| node.modules().get(*path) != Some(&module.signature));
    differs
        .map(|(path, module)| Discrepancy {
            node: name.clone(),
            module: path.clone(),
            needs: format!("signature {}", module.signature.short()),
            found: found(node.modules().get(path)),
            scope: Scope::AsPlanned,
        })
        .collect()
}
