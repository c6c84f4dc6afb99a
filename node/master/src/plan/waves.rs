//! In which order nodes change over.

use tribune_raft_store::model::{NodeName, RaftRole, RolloutStrategy};
use tribune_raft_store::record::Record;

/// The waves of these nodes: all together, or one after the other, members first, then standbys, then voters, the master
/// last of all.
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
        RolloutStrategy::Rolling => nodes.into_iter().map(|node| vec![node]).collect(),
    }
}

fn place(record: &Record, name: &NodeName) -> u8 {
    match record.nodes().get(name).map(|node| node.raft) {
        None | Some(RaftRole::Member) => 0,
        Some(RaftRole::Standby { .. }) => 1,
        Some(RaftRole::Voter { .. }) => 2,
    }
}
