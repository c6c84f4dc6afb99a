//! What changes on a node that comes to what it should have.

use std::collections::BTreeMap;

use tribune_raft_store::model::{Blocker, Manifest, Node, NodePlan, PackageChange, PackageId, PackageName, PlannedModule};

use super::Planner;
use super::change::{ByPackage, Fate, changes, flat};
use crate::should::should_have;

impl Planner<'_> {
    /// What changes on a node that is to have exactly what the record says it should have, or every reason why it cannot.
    pub(super) fn converge(&self, node: &Node) -> Result<Fate, Vec<Blocker>> {
        let before = self.has(node);
        let (mut to, mut after) = (BTreeMap::<PackageName, PackageId>::new(), ByPackage::new());
        let mut blockers = Vec::new();
        for (name, id) in should_have(self.record, node) {
            match self.comes_to(node, &name, id, &before) {
                Ok(modules) => {
                    after.extend(modules.map(|modules| (name.clone(), modules)));
                    to.insert(name, id);
                }
                Err(why) => blockers.extend(why),
            }
        }
        if !blockers.is_empty() {
            return Err(blockers);
        }
        let changes = changes(&node.current.packages, &to, &before, &after);
        let stuck: Vec<_> = changes.iter().filter_map(|change| self.cannot_go_to(node, change)).collect();
        if !stuck.is_empty() {
            return Err(stuck);
        }
        if changes.is_empty() {
            return Ok(Fate::Nothing("it has what it should have".to_owned()));
        }
        Ok(Fate::Changes(NodePlan { changes, modules: flat(after), local: false }))
    }

    /// The modules of a package that a node should have, if it has any. A package that is there in this version stays as it is:
    /// which modules of it suit the node is only looked at anew when a user asks for an update.
    fn comes_to(
        &self,
        node: &Node,
        name: &PackageName,
        id: PackageId,
        before: &ByPackage,
    ) -> Result<Option<BTreeMap<String, PlannedModule>>, Vec<Blocker>> {
        if node.current.packages.get(name) == Some(&id) {
            return Ok(before.get(name).cloned());
        }
        let package = self.record.packages().get(&id).ok_or_else(|| vec![Blocker::UnknownPackage { package: id }])?;
        let modules = self.modules_for(node, id, &package.manifest)?;
        let tombstone = self.tombstone(node, id);
        let upgrade = self.upgrade_from(node, &package.manifest).filter(|_| self.is_newer(node, &package.manifest));
        let blockers: Vec<_> = tombstone.into_iter().chain(upgrade).collect();
        if blockers.is_empty() { Ok(Some(modules)) } else { Err(blockers) }
    }

    /// A package whose data cannot go back only ever comes to a newer version.
    fn cannot_go_to(&self, node: &Node, change: &PackageChange) -> Option<Blocker> {
        let to = change.to.and_then(|id| self.record.packages().get(&id));
        if to.is_some_and(|package| self.is_newer(node, &package.manifest)) {
            return None;
        }
        self.cannot_leave(node, change.from?)
    }

    /// Whether a version is newer than the one that is installed.
    fn is_newer(&self, node: &Node, manifest: &Manifest) -> bool {
        let installed = node.current.packages.get(&manifest.name).and_then(|id| self.record.packages().get(id));
        installed.is_some_and(|package| manifest.version > package.manifest.version)
    }
}
