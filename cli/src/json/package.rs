//! Documents about packages and the files that carry them.

use std::collections::BTreeMap;

use serde::Serialize;
use tribune_messages::api::PackageInfo;
use tribune_package::{Inspection, Targets};
use tribune_raft_store::model::{Manifest, Module, PackageId, Regress};

use super::fleet::texts;
use super::word;

/// A package, in `packages`, `package`, `built` and `file`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct PackageView {
    id: String,
    name: String,
    version: String,
    summary: String,
    upgrade_from: Option<String>,
    can_regress: bool,
    modules: Vec<ModuleView>,
    provides: Vec<String>,
    consumes: Vec<String>,
    #[serde(flatten)]
    published: Option<PublishedView>,
}

/// What is known of a package in the store.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct PublishedView {
    published_by: String,
    published_at: u64,
    copies: u32,
}

/// A module of a package.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct ModuleView {
    name: String,
    platform: String,
    signature: String,
    size: u64,
    kind: String,
    characteristics: BTreeMap<String, String>,
    run: Vec<String>,
    listen: Vec<String>,
    depends_on: Vec<String>,
    provides: Vec<String>,
    consumes: Vec<String>,
    when_affected: String,
    changeover: String,
    ask: String,
}

impl PackageView {
    /// The view of a package that is in no store, or of which nothing more is known.
    pub fn of(id: PackageId, manifest: &Manifest) -> Self {
        let all = |needs: fn(&Module) -> Vec<String>| {
            let needs: std::collections::BTreeSet<String> = manifest.modules.iter().flat_map(needs).collect();
            needs.into_iter().collect()
        };
        Self {
            id: id.to_string(),
            name: manifest.name.to_string(),
            version: manifest.version.to_string(),
            summary: manifest.summary.clone(),
            upgrade_from: manifest.upgrade_from.as_ref().map(ToString::to_string),
            can_regress: manifest.regress == Regress::Yes,
            modules: manifest.modules.iter().map(module).collect(),
            provides: all(|module| module.provides.iter().map(ToString::to_string).collect()),
            consumes: all(|module| module.consumes.iter().map(ToString::to_string).collect()),
            published: None,
        }
    }

    /// The view of a package in the store.
    pub fn stored(info: &PackageInfo, manifest: &Manifest) -> Self {
        let PackageInfo { id, manifest: _, published_by, published, copies } = info;
        let published = PublishedView { published_by: published_by.clone(), published_at: published.0, copies: *copies };
        Self { published: Some(published), ..Self::of(*id, manifest) }
    }
}

fn module(module: &Module) -> ModuleView {
    ModuleView {
        name: module.name.to_string(),
        platform: module.platform.to_string(),
        signature: module.signature.to_string(),
        size: module.size,
        kind: word(&module.kind),
        characteristics: texts(&module.characteristics),
        run: module.run.clone(),
        listen: module.listen.iter().map(|listen| listen.as_str().to_owned()).collect(),
        depends_on: module.depends_on.iter().map(ToString::to_string).collect(),
        provides: module.provides.iter().map(ToString::to_string).collect(),
        consumes: module.consumes.iter().map(ToString::to_string).collect(),
        when_affected: word(&module.when_affected),
        changeover: word(&module.changeover.strategy),
        ask: module.ask.how.to_string(),
    }
}

/// `file`: what is in a package or image file.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct FileView {
    size: u64,
    packages: Vec<PackageView>,
    targets: Option<TargetsView>,
}

impl FileView {
    /// The view of a file.
    pub fn of(file: &Inspection) -> Self {
        Self {
            size: file.size,
            packages: file.packages.iter().map(|package| PackageView::of(package.id, &package.manifest)).collect(),
            targets: file.targets.as_ref().map(TargetsView::of),
        }
    }
}

/// The target list of an image.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct TargetsView {
    nodes: BTreeMap<String, Vec<String>>,
    classes: BTreeMap<String, Vec<String>>,
}

impl TargetsView {
    /// The view of a target list.
    pub fn of(targets: &Targets) -> Self {
        fn by_name<N: ToString, P: ToString>(map: &BTreeMap<N, std::collections::BTreeSet<P>>) -> BTreeMap<String, Vec<String>> {
            map.iter().map(|(name, packages)| (name.to_string(), packages.iter().map(ToString::to_string).collect())).collect()
        }
        Self { nodes: by_name(&targets.nodes), classes: by_name(&targets.classes) }
    }
}
