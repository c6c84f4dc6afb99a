//! What a node should have.
//!
//! One idea: the record says which versions a node should have, whatever suits it. A version that has nothing for the node is
//! not installed there, so what the node has of that package is right.

use std::collections::BTreeMap;

use tribune_package::{Characteristics, select};
use tribune_raft_store::model::{Node, PackageId, PackageName};
use tribune_raft_store::record::Record;

/// The versions that a node should have: those of the record, but where the record's has nothing for the node the one that is
/// there, if any.
pub fn should_have(record: &Record, node: &Node) -> BTreeMap<PackageName, PackageId> {
    let current = &node.current.packages;
    let version = |(name, id): (&PackageName, &PackageId)| {
        let id = match current.get(name) {
            Some(current) if current == id => Some(*id),
            current if has_nothing_for(record, *id, node) => current.copied(),
            _ => Some(*id),
        };
        Some((name.clone(), id?))
    };
    node.should.iter().filter_map(version).collect()
}

/// Whether a node has what it should have.
pub fn has_what_it_should(record: &Record, node: &Node) -> bool {
    node.has_what_it_should() || node.current.packages == should_have(record, node)
}

fn has_nothing_for(record: &Record, package: PackageId, node: &Node) -> bool {
    let Some(package) = record.packages().get(&package) else { return false };
    select(&package.manifest, &Characteristics::of(&node.facts, &node.desired)).is_ok_and(|modules| modules.is_empty())
}
