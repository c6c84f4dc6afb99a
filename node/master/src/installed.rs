//! What every node has, or would have after a plan: its modules, with their manifests.
//!
//! One idea: what is there now and what would be there are the same type, so needs are checked by the same code.

use std::collections::BTreeMap;

use tribune_raft_store::model::{Manifest, Module, Node, NodeName, NodePlan, PackageId, PackageName, PlannedModule, Signature};
use tribune_raft_store::record::Record;

/// A module that a node has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Has<'a> {
    /// Its package.
    pub id: PackageId,
    /// Its package's manifest.
    pub manifest: &'a Manifest,
    /// Its place in it.
    pub index: u32,
    /// The module.
    pub module: &'a Module,
}

impl Has<'_> {
    /// `package/module`.
    pub fn path(&self) -> String {
        format!("{}/{}", self.manifest.name, self.module.name)
    }

    /// The module as a plan names it.
    pub fn planned(&self) -> PlannedModule {
        PlannedModule { package: self.id, index: self.index, signature: self.module.signature, size: self.module.size }
    }
}

/// What every node has, or would have.
#[derive(Debug, Clone)]
pub(crate) struct Installed<'a> {
    /// By node.
    pub nodes: BTreeMap<&'a NodeName, Vec<Has<'a>>>,
}

impl<'a> Installed<'a> {
    /// What is really there, installed or until a restart, as the nodes said.
    pub fn now(record: &'a Record) -> Self {
        let has = |node: &Node| modules_of(record, node.packages(), node.modules());
        Self { nodes: record.nodes().iter().map(|(name, node)| (name, has(node))).collect() }
    }

    /// What every node would have if all were restarted now.
    pub fn after_restarts(record: &'a Record) -> Self {
        let has = |node: &Node| modules_of(record, &node.current.packages, &node.current.modules);
        Self { nodes: record.nodes().iter().map(|(name, node)| (name, has(node))).collect() }
    }

    /// What would be installed once these nodes have what is planned for them.
    pub fn after(&self, record: &'a Record, plans: &'a BTreeMap<NodeName, NodePlan>) -> Self {
        let mut nodes = self.nodes.clone();
        for (name, plan) in plans {
            nodes.insert(name, plan.modules.values().filter_map(|module| planned(record, module)).collect());
        }
        Self { nodes }
    }

    /// What a node has.
    pub fn on(&self, node: &NodeName) -> &[Has<'a>] {
        self.nodes.get(node).map_or(&[], Vec::as_slice)
    }
}

/// The modules of these packages that have these signatures, by `package/module`. What the package store does not know is
/// left out.
pub(crate) fn modules_of<'a>(
    record: &'a Record,
    packages: &BTreeMap<PackageName, PackageId>,
    signatures: &BTreeMap<String, Signature>,
) -> Vec<Has<'a>> {
    let mut modules: Vec<Has<'a>> = Vec::new();
    for id in packages.values() {
        let Some(package) = record.packages().get(id) else { continue };
        let manifest = &package.manifest;
        for (index, module) in (0..).zip(&manifest.modules) {
            let has = Has { id: *id, manifest, index, module };
            let there = signatures.get(&has.path()) == Some(&module.signature);
            // Variants of a module may have the same bytes: a node has it once.
            let twice = modules.iter().rev().take_while(|other| other.id == *id).any(|other| other.module.name == module.name);
            if there && !twice {
                modules.push(has);
            }
        }
    }
    modules
}

fn planned<'a>(record: &'a Record, module: &PlannedModule) -> Option<Has<'a>> {
    let manifest = &record.packages().get(&module.package)?.manifest;
    let index = module.index;
    Some(Has { id: module.package, manifest, index, module: manifest.modules.get(index as usize)? })
}
