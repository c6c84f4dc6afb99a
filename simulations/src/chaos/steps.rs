//! The steps that updates and their nodes come to.

use std::collections::{BTreeMap, BTreeSet};

use tribune_raft_store::model::Phase;

use crate::faults::STEPS;
use crate::seen::Seen;

fn phase_name(phase: &Phase) -> String {
    match phase {
        Phase::Wave { .. } => "wave".to_owned(),
        Phase::Ended { .. } => "ended".to_owned(),
        other => other.to_string(),
    }
}

/// The states in which updates are now.
pub(super) fn states(seen: &Seen) -> BTreeSet<String> {
    let mut states = BTreeSet::new();
    for update in seen.updates().values().filter(|update| !update.phase.ended()) {
        states.insert(phase_name(&update.phase));
        states.extend(update.nodes.values().map(|node| node.step.to_string()));
    }
    states
}

/// The states to which an update, or one of its nodes, has come just now, with the node.
pub(super) fn reached(seen: &Seen) -> BTreeMap<&'static str, Option<usize>> {
    let mut reached = BTreeMap::new();
    if !seen.has_moved() {
        return reached;
    }
    for (id, update) in seen.updates() {
        let was = seen.was(id);
        let mut add = |name: String, node: Option<usize>| {
            reached.extend(STEPS.into_iter().find(|step| *step == name).map(|step| (step, node)));
        };
        if was.is_none_or(|was| was.phase != update.phase) {
            add(phase_name(&update.phase), None);
        }
        for (name, node) in &update.nodes {
            if was.and_then(|was| was.nodes.get(name)).is_none_or(|was| was.step != node.step) {
                add(node.step.to_string(), seen.nodes.iter().position(|other| other.name == name.as_str()));
            }
        }
    }
    reached
}
