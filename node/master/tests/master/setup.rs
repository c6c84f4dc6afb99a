//! What the tests share beside the fleet.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tribune_master::{Liveness, MasterClock, plan};
use tribune_raft_store::command::{MasterCommand, UserCommand};
use tribune_raft_store::model::*;

use crate::fleet::{Fleet, node, nodes};

/// Everyone is there.
pub fn all_there(fleet: &Fleet) -> Liveness {
    let mut liveness = Liveness::new(MasterClock(0));
    for name in fleet.record.nodes().values().map(|node| &node.name) {
        liveness.heard(name, MasterClock(0), &BTreeSet::new());
    }
    liveness
}

/// The plan, with everyone there and `a` the master.
pub fn planned(fleet: &Fleet, request: &UpdateRequest) -> Plan {
    plan(&fleet.record, request, &all_there(fleet), Some(&node("a")))
}

/// Publishes a package with these modules.
pub fn publish(fleet: &mut Fleet, name: &str, version: &str, modules: &[Value]) -> PackageId {
    fleet.publish(&crate::fleet::manifest(name, version, json!({}), modules))
}

/// A node has these packages, as if it had been updated to them outside of any update.
pub fn has(fleet: &mut Fleet, name: &str, packages: &[PackageId]) {
    let mut liveness_free = crate::fleet::install(&[name], packages);
    liveness_free.options.allow_drift = true;
    liveness_free.options.again = true;
    let plan = planned(fleet, &liveness_free);
    let Some(part) = plan.nodes.get(&node(name)) else { panic!("{:?}", plan.blockers) };
    let current = fleet.generation(name, part);
    state(fleet, name, current);
}

/// A node says that this is installed; it keeps what it had before.
pub fn state(fleet: &mut Fleet, name: &str, current: Generation) {
    let row = fleet.node(name).clone();
    let mut kept = row.kept;
    kept.insert(row.current.number, row.current);
    kept.remove(&current.number);
    fleet
        .tell(MasterCommand::NodeState { node: node(name), facts: row.facts, current, ephemeral: None, kept, apart: None })
        .unwrap();
}

/// Puts nodes into a class.
pub fn class(fleet: &mut Fleet, class: &str, names: &[&str]) {
    let class = class.parse().unwrap();
    fleet.order(UserCommand::SetClass { class, add: nodes(names), remove: BTreeSet::new() }, None).unwrap();
}

/// A request that goes back on a node.
pub fn regress(name: &str, packages: &[PackageId]) -> UpdateRequest {
    let targets = Targets { nodes: BTreeMap::from([(node(name), packages.iter().copied().collect())]), classes: BTreeMap::new() };
    UpdateRequest { kind: UpdateKind::Regress, targets, options: UpdateOptions::default() }
}

/// The blockers as sentences.
pub fn sentences(plan: &Plan) -> Vec<String> {
    plan.blockers.iter().map(ToString::to_string).collect()
}
