//! What a node gets of the packages that are to be installed there.

use std::collections::{BTreeMap, BTreeSet};

use tribune_package::{Characteristics, select};
use tribune_raft_store::model::{Blocker, Manifest, Node, NodePlan, PackageId, PackageName, PlannedModule};

use super::Planner;
use super::change::{Fate, changes, flat};

impl Planner<'_> {
    /// What changes on a node that is to get these packages, or every reason why that cannot be told.
    pub(super) fn install(&self, node: &Node, packages: &BTreeSet<PackageId>) -> Result<Fate, Vec<Blocker>> {
        let mut blockers = Vec::new();
        let wanted = self.one_version_each(node, packages).unwrap_or_else(|error| {
            blockers.extend(error);
            BTreeMap::new()
        });
        let before = self.has(node);
        let mut after = before.clone();
        let mut to = node.current.packages.clone();
        let mut unchanged = Vec::new();
        for (name, (id, manifest)) in &wanted {
            let modules = match self.modules_for(node, *id, manifest) {
                Ok(modules) => modules,
                Err(error) => {
                    blockers.extend(error);
                    continue;
                }
            };
            if modules.is_empty() {
                unchanged.push(format!("{} has nothing for it", self.title(id)));
                continue;
            }
            if node.current.packages.get(name) == Some(id) && before.get(name) == Some(&modules) {
                unchanged.push(format!("it has {} already", self.title(id)));
                continue;
            }
            if node.current.packages.get(name) != Some(id) {
                blockers.extend(self.tombstone(node, *id));
                blockers.extend(self.upgrade_from(node, manifest));
            }
            to.insert(name.clone(), *id);
            after.insert(name.clone(), modules);
        }
        if !blockers.is_empty() {
            return Err(blockers);
        }
        let changes = changes(&node.current.packages, &to, &before, &after);
        if changes.is_empty() {
            let why = if packages.is_empty() { "no package is named for it".to_owned() } else { unchanged.join("; ") };
            return Ok(Fate::Nothing(why));
        }
        Ok(Fate::Changes(NodePlan { changes, modules: flat(after), local: false }))
    }

    /// The packages by name; an error if one would come in two versions. Unknown ones have a blocker already.
    pub(super) fn one_version_each(
        &self,
        node: &Node,
        packages: &BTreeSet<PackageId>,
    ) -> Result<BTreeMap<PackageName, (PackageId, &Manifest)>, Vec<Blocker>> {
        let mut wanted = BTreeMap::new();
        let mut twice = BTreeSet::new();
        for id in packages {
            let Some(package) = self.record.packages().get(id) else { continue };
            let name = package.manifest.name.clone();
            if wanted.insert(name.clone(), (*id, &package.manifest)).is_some() {
                twice.insert(name);
            }
        }
        if twice.is_empty() {
            return Ok(wanted);
        }
        Err(twice.into_iter().map(|package| Blocker::TwoVersions { node: node.name.clone(), package }).collect())
    }

    /// The modules of a package that a node gets.
    pub(super) fn modules_for(
        &self,
        node: &Node,
        id: PackageId,
        manifest: &Manifest,
    ) -> Result<BTreeMap<String, PlannedModule>, Vec<Blocker>> {
        let like = Characteristics::of(&node.facts, &node.desired);
        let selected = select(manifest, &like).map_err(|errors| {
            let problem = |error: &dyn std::error::Error| Blocker::Selection {
                node: node.name.clone(),
                package: self.title(&id),
                problem: error.to_string(),
            };
            errors.iter().map(|error| problem(error)).collect::<Vec<_>>()
        })?;
        let planned = |index, signature, size| PlannedModule { package: id, index, signature, size };
        Ok(selected
            .into_iter()
            .map(|s| (format!("{}/{}", manifest.name, s.module.name), planned(s.index, s.module.signature, s.module.size)))
            .collect())
    }

    /// Whether the version that is installed may be replaced by this one.
    pub(super) fn upgrade_from(&self, node: &Node, manifest: &Manifest) -> Option<Blocker> {
        let allowed = manifest.upgrade_from.as_ref()?;
        let from = &self.record.packages().get(node.current.packages.get(&manifest.name)?)?.manifest.version;
        if allowed.matches(from) {
            return None;
        }
        Some(Blocker::UpgradeFrom {
            node: node.name.clone(),
            package: manifest.name.clone(),
            from: from.to_string(),
            to: manifest.version.to_string(),
            allowed: allowed.to_string(),
        })
    }
}
