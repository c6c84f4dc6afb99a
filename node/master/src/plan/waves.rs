//! In which order nodes change over.

use std::collections::BTreeMap;

use tribune_raft_store::model::{ClassName, NodeName, RaftRole, RolloutStrategy};
use tribune_raft_store::record::Record;

/// The waves of these nodes: all together, or one of each class at a time (nodes without a class are as one), members before
/// standbys. Voters come after them, one by one, the master last of all.
pub(super) fn waves<'a>(
    record: &Record,
    strategy: RolloutStrategy,
    nodes: impl Iterator<Item = &'a NodeName>,
    master: Option<&NodeName>,
) -> Vec<Vec<NodeName>> {
    let mut nodes: Vec<NodeName> = nodes.cloned().collect();
    nodes.sort_by_key(|name| (Some(name) == master, place(record, name), name.clone()));
    match strategy {
        RolloutStrategy::Together if nodes.is_empty() => Vec::new(),
        RolloutStrategy::Together => vec![nodes],
        RolloutStrategy::Rolling => {
            let (voters, others): (Vec<_>, Vec<_>) =
                nodes.into_iter().partition(|name| Some(name) == master || place(record, name) == Place::Voter);
            let mut waves = one_of_each_class(record, others);
            waves.extend(voters.into_iter().map(|voter| vec![voter]));
            waves
        }
    }
}

/// The first of each class, then the second of each, and so on.
fn one_of_each_class(record: &Record, nodes: Vec<NodeName>) -> Vec<Vec<NodeName>> {
    let mut before: BTreeMap<Option<&ClassName>, usize> = BTreeMap::new();
    let mut waves: Vec<Vec<NodeName>> = Vec::new();
    for name in nodes {
        let class = record.nodes().get(&name).and_then(|node| node.class.as_ref());
        let wave = before.entry(class).or_default();
        match waves.get_mut(*wave) {
            Some(others) => others.push(name),
            None => waves.push(vec![name]),
        }
        *wave += 1;
    }
    waves
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Member,
    Standby,
    Voter,
}

fn place(record: &Record, name: &NodeName) -> Place {
    match record.nodes().get(name).map(|node| node.raft) {
        None | Some(RaftRole::Member) => Place::Member,
        Some(RaftRole::Standby { .. }) => Place::Standby,
        Some(RaftRole::Voter { .. }) => Place::Voter,
    }
}
