//! What a node goes back to.
//!
//! One idea: a node goes back to what it keeps, so that no network is needed for it; only a version that it does not hold
//! any more comes from the package store. What was regressed there is no place to go back to.

use std::collections::{BTreeMap, BTreeSet};

use tribune_raft_store::model::{Blocker, Generation, Node, NodePlan, PackageId, PackageName, Regress};

use super::Planner;
use super::change::{ByPackage, Fate, changes, flat};
use crate::installed::modules_of;

impl Planner<'_> {
    /// What changes on a node that goes back: as a whole if no package is named, else with these packages. A named package
    /// that is installed goes back to what the node had before it; another is the version to go back to.
    pub(super) fn regress(&self, node: &Node, packages: &BTreeSet<PackageId>) -> Result<Fate, Vec<Blocker>> {
        if let Some(ephemeral) = &node.ephemeral {
            return Err(vec![Blocker::Ephemeral { node: node.name.clone(), update: ephemeral.update }]);
        }
        let before = self.has(node);
        let (to, after, local) = if packages.is_empty() {
            let generation = self.generation_before(node).ok_or_else(|| vec![nothing(node, String::new())])?;
            let after = self.modules_by_package(&generation)?;
            (generation.packages, after, true)
        } else {
            self.regress_packages(node, packages, &before)?
        };
        let changes = changes(&node.current.packages, &to, &before, &after);
        if changes.is_empty() {
            return Ok(Fate::Nothing("it has these versions already".to_owned()));
        }
        let stuck: Vec<_> = changes.iter().filter_map(|change| self.cannot_leave(node, change.from?)).collect();
        if !stuck.is_empty() {
            return Err(stuck);
        }
        Ok(Fate::Changes(NodePlan { changes, modules: flat(after), local }))
    }

    /// The last generation before this one with other software, none of which was regressed here.
    fn generation_before(&self, node: &Node) -> Option<Generation> {
        let mut seen = BTreeSet::from([node.current.number]);
        let mut number = node.current.replaced?;
        while seen.insert(number) {
            let generation = kept(node, number)?;
            let other = generation.packages != node.current.packages || generation.modules != node.current.modules;
            if other && !self.has_regressed(node, &generation) {
                return Some(generation);
            }
            number = generation.replaced?;
        }
        None
    }

    /// Whether a generation has something that was regressed on this node and is not there now.
    fn has_regressed(&self, node: &Node, generation: &Generation) -> bool {
        let other = |(name, id): &(&PackageName, &PackageId)| node.current.packages.get(*name) != Some(*id);
        generation.packages.iter().filter(other).any(|(_, id)| self.tombstone(node, *id).is_some())
    }

    #[allow(clippy::type_complexity)]
    fn regress_packages(
        &self,
        node: &Node,
        packages: &BTreeSet<PackageId>,
        before: &ByPackage,
    ) -> Result<(BTreeMap<PackageName, PackageId>, ByPackage, bool), Vec<Blocker>> {
        let mut to = node.current.packages.clone();
        let mut after = before.clone();
        let mut local = true;
        let mut blockers = Vec::new();
        for (name, (id, manifest)) in self.one_version_each(node, packages)? {
            let current = node.current.packages.get(&name);
            let found = if current == Some(&id) {
                self.version_before(node, &name).ok_or_else(|| vec![nothing(node, format!(" of {}", self.title(&id)))])
            } else {
                blockers.extend(self.tombstone(node, id));
                Ok(newest(node).find(|generation| generation.packages.get(&name) == Some(&id)))
            };
            let modules = match found {
                Ok(Some(generation)) => match generation.packages.get(&name) {
                    Some(held) => {
                        self.modules_by_package(&generation).map(|mut all| Some((*held, all.remove(&name).unwrap_or_default())))
                    }
                    None => Ok(None),
                },
                // The node does not hold it any more: an ordinary update from the package store.
                Ok(None) => {
                    local = false;
                    self.modules_for(node, id, manifest).map(|modules| Some((id, modules)))
                }
                Err(error) => Err(error),
            };
            match modules {
                Ok(Some((held, modules))) => {
                    to.insert(name.clone(), held);
                    after.insert(name, modules);
                }
                Ok(None) => {
                    to.remove(&name);
                    after.remove(&name);
                }
                Err(error) => blockers.extend(error),
            }
        }
        if blockers.is_empty() { Ok((to, after, local)) } else { Err(blockers) }
    }

    /// The newest generation that has another version of a package, or none of it. `None`: there is no such generation.
    fn version_before(&self, node: &Node, name: &PackageName) -> Option<Option<Generation>> {
        let current = node.current.packages.get(name);
        newest(node)
            .filter(|generation| generation.packages.get(name) != current)
            .find(|generation| generation.packages.get(name).is_none_or(|id| self.tombstone(node, *id).is_none()))
            .map(Some)
    }

    /// The modules of a generation; an error if the package store does not know one of its packages.
    fn modules_by_package(&self, generation: &Generation) -> Result<ByPackage, Vec<Blocker>> {
        let unknown: Vec<_> = generation.packages.values().filter(|id| !self.record.packages().contains(id)).collect();
        if !unknown.is_empty() {
            return Err(unknown.into_iter().map(|id| Blocker::UnknownPackage { package: *id }).collect());
        }
        let mut by_package = ByPackage::new();
        for has in modules_of(self.record, &generation.packages, &generation.modules) {
            by_package.entry(has.manifest.name.clone()).or_default().insert(has.path(), has.planned());
        }
        Ok(by_package)
    }

    /// A package whose data cannot go back.
    pub(super) fn cannot_leave(&self, node: &Node, id: PackageId) -> Option<Blocker> {
        let package = self.record.packages().get(&id)?;
        let why = format!(" from {}: its data cannot go back (regress = \"no\")", self.title(&id));
        (package.manifest.regress == Regress::No).then(|| nothing(node, why))
    }
}

fn nothing(node: &Node, what: String) -> Blocker {
    Blocker::NothingToRegress { node: node.name.clone(), what }
}

/// A generation that a node keeps. The one before its first is empty.
fn kept(node: &Node, number: u64) -> Option<Generation> {
    node.kept.get(&number).cloned().or_else(|| (number == 0).then(Generation::default))
}

/// The generations that a node keeps, the newest first, with the empty one before its first if that is what it replaced.
fn newest(node: &Node) -> impl Iterator<Item = Generation> + '_ {
    let began_empty = node.current.replaced == Some(0) || node.kept.values().any(|generation| generation.replaced == Some(0));
    let zero = (began_empty && !node.kept.contains_key(&0)).then(Generation::default);
    node.kept.values().rev().cloned().chain(zero)
}
