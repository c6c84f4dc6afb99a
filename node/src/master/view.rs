//! What the nodes know of the cluster, made from the record.

use tribune_messages::trust::{ClusterView, ViewNode, ViewPrincipal};
use tribune_p2p::PeerId;
use tribune_raft_store::model;
use tribune_raft_store::record::Record;

/// Who is in the cluster; `None` while the record has none.
pub fn view(record: &Record) -> Option<ClusterView> {
    let cluster = record.cluster()?;
    let nodes = record.nodes().values().map(|node| ViewNode {
        name: node.name.clone(),
        peer: node.peer.clone(),
        control: node.facts.control_addresses.clone(),
        data: node.facts.data_addresses.clone(),
        raft: node.raft,
        local_commands: node.local_commands,
    });
    let principals = record.principals().iter().map(|(key, principal)| ViewPrincipal { key: *key, role: principal.role });
    Some(ClusterView {
        cluster: cluster.id,
        epoch: cluster.epoch,
        nodes: nodes.collect(),
        principals: principals.collect(),
        removed: record.removed().iter().map(|(peer, _)| peer.clone()).collect(),
        recovery: cluster.recovery.clone(),
    })
}

/// A peer of the record, as the network has it; `None` if it is none.
pub fn to_peer(peer: &model::PeerId) -> Option<PeerId> {
    peer.as_str().parse().ok()
}

/// A peer of the network, as the record has it.
pub fn from_peer(peer: &PeerId) -> model::PeerId {
    // The text of a peer id is some fifty letters and digits, which is what the record allows.
    model::PeerId::new(peer.to_base58()).unwrap_or_default()
}
