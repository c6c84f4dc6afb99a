//! Documents about a node's local storage.

use std::collections::BTreeMap;

use serde::Serialize;
use tribune_messages::api::LocalInfo;
use tribune_raft_store::model::{Generation, PackageId, PackageName};

use super::fleet::texts;
use super::package::PackageView;
use crate::manifests::Manifests;

/// `local`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct LocalView {
    node: String,
    current: GenerationView,
    ephemeral: Option<EphemeralView>,
    kept: Vec<GenerationView>,
    packages: Vec<PackageView>,
    open: BTreeMap<String, String>,
    failed: Vec<String>,
}

/// A generation, in `local` and `local_regressed`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct GenerationView {
    generation: u64,
    replaced: Option<u64>,
    packages: BTreeMap<String, String>,
    modules: BTreeMap<String, String>,
}

impl GenerationView {
    /// The view of a generation.
    pub fn of(generation: &Generation, manifests: &Manifests) -> Self {
        let Generation { number, replaced, packages, modules } = generation;
        Self { generation: *number, replaced: *replaced, packages: versions(packages, manifests), modules: texts(modules) }
    }
}

/// What runs until a restart, in `local`, `node` and `nodes`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct EphemeralView {
    pub(super) update: String,
    pub(super) packages: BTreeMap<String, String>,
    pub(super) modules: BTreeMap<String, String>,
}

fn versions(packages: &BTreeMap<PackageName, PackageId>, manifests: &Manifests) -> BTreeMap<String, String> {
    packages.iter().map(|(name, id)| (name.to_string(), manifests.names().version(id))).collect()
}

impl LocalView {
    /// The view of what a node has.
    pub fn of(info: &LocalInfo, manifests: &Manifests) -> Self {
        let LocalInfo { node, current, ephemeral, kept, manifests: _, open, failed } = info;
        Self {
            node: node.to_string(),
            current: GenerationView::of(current, manifests),
            ephemeral: ephemeral.as_ref().map(|ephemeral| EphemeralView {
                update: ephemeral.update.to_string(),
                packages: versions(&ephemeral.packages, manifests),
                modules: texts(&ephemeral.modules),
            }),
            kept: kept.values().map(|generation| GenerationView::of(generation, manifests)).collect(),
            packages: manifests.all().map(|(id, manifest)| PackageView::of(*id, manifest)).collect(),
            open: texts(open),
            failed: failed.clone(),
        }
    }
}
