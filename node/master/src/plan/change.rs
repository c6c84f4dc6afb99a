//! What becomes of one node: the modules it is to have, and which packages change by that.

use std::collections::{BTreeMap, BTreeSet};

use tribune_planted::{Bug, planted};
use tribune_raft_store::model::{Blocker, Node, NodePlan, PackageChange, PackageId, PackageName, PlannedModule, TombstoneKey};

use super::Planner;
use crate::installed::modules_of;

/// What a request means for a node.
pub(super) enum Fate {
    /// It changes.
    Changes(NodePlan),
    /// It does not, and why.
    Nothing(String),
}

/// The modules of a node, by package and then by `package/module`.
pub(super) type ByPackage = BTreeMap<PackageName, BTreeMap<String, PlannedModule>>;

impl Planner<'_> {
    /// What a node has, by package.
    pub(super) fn has(&self, node: &Node) -> ByPackage {
        let mut by_package = ByPackage::new();
        for has in modules_of(self.record, &node.current.packages, &node.current.modules) {
            by_package.entry(has.manifest.name.clone()).or_default().insert(has.path(), has.planned());
        }
        by_package
    }

    /// The package's name and version, for people.
    pub(super) fn title(&self, id: &PackageId) -> String {
        match self.record.packages().get(id) {
            Some(package) => format!("{} {}", package.manifest.name, package.manifest.version),
            None => format!("package {}", id.short()),
        }
    }

    /// A package that was regressed on this node, unless the user wants it again.
    pub(super) fn tombstone(&self, node: &Node, package: PackageId) -> Option<Blocker> {
        if self.request.options.again || planted(Bug::TombstoneCrossed) {
            return None;
        }
        let tombstone = self.record.tombstones().get(&TombstoneKey { package, node: node.name.clone() })?;
        Some(Blocker::Tombstone { node: node.name.clone(), package: self.title(&package), update: tombstone.update })
    }
}

/// What changes from one set of modules to another; packages whose modules stay the same do not.
pub(super) fn changes(
    from: &BTreeMap<PackageName, PackageId>,
    to: &BTreeMap<PackageName, PackageId>,
    before: &ByPackage,
    after: &ByPackage,
) -> Vec<PackageChange> {
    let names: BTreeSet<&PackageName> = from.keys().chain(to.keys()).collect();
    let changed = names.into_iter().filter(|name| from.get(*name) != to.get(*name) || before.get(*name) != after.get(*name));
    changed.map(|name| PackageChange { name: name.clone(), from: from.get(name).copied(), to: to.get(name).copied() }).collect()
}

/// All modules of all packages.
pub(super) fn flat(by_package: ByPackage) -> BTreeMap<String, PlannedModule> {
    by_package.into_values().flatten().collect()
}
