//! Small packages, and storage that has them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tribune_raft_store::model::{Manifest, NodePlan, PackageChange, PackageId, PackageName, PlannedModule, Signature, UpdateId};

use crate::local::{Installed, LocalStorage, StoredManifest};

/// A module that is a file with these bytes, with further fields.
pub(crate) fn module(name: &str, bytes: &str, more: Value) -> Value {
    let mut module = json!({ "name": name, "signature": Signature::of(bytes.as_bytes()), "size": bytes.len() });
    for (field, value) in more.as_object().unwrap() {
        module[field] = value.clone();
    }
    module
}

/// A package's manifest.
pub(crate) fn package(name: &str, version: &str, modules: &[Value]) -> Arc<StoredManifest> {
    let manifest = json!({ "format": 1, "name": name, "version": version, "module": modules });
    let manifest: Manifest = serde_json::from_value(manifest).unwrap();
    Arc::new(StoredManifest::read(&manifest.canonical()).unwrap())
}

/// The plan that leads from `base` to exactly these packages.
pub(crate) fn plan(base: &Installed, to: &[Arc<StoredManifest>]) -> NodePlan {
    let after: BTreeMap<PackageName, PackageId> = to.iter().map(|p| (p.manifest.name.clone(), p.id)).collect();
    let mut names: Vec<&PackageName> = base.generation.packages.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let changes = names.into_iter().filter_map(|name| {
        let (from, to) = (base.generation.packages.get(name).copied(), after.get(name).copied());
        (from != to).then(|| PackageChange { name: name.clone(), from, to })
    });
    let modules = to.iter().flat_map(|package| {
        (0u32..).zip(&package.manifest.modules).map(|(index, module)| {
            let planned = PlannedModule { package: package.id, index, signature: module.signature, size: module.size };
            (format!("{}/{}", package.manifest.name, module.name), planned)
        })
    });
    NodePlan { changes: changes.collect(), modules: modules.collect(), local: false }
}

/// A node that has these packages, or would have them.
pub(crate) fn having(packages: &[Arc<StoredManifest>]) -> Installed {
    Installed::default().planned(&plan(&Installed::default(), packages), packages).unwrap()
}

/// The texts of manifests, as a plan brings them.
pub(crate) fn texts(packages: &[Arc<StoredManifest>]) -> Vec<String> {
    packages.iter().map(|package| package.text.clone()).collect()
}

/// Puts bytes among the storage's modules, as if they had been fetched.
pub(crate) async fn fetch(storage: &LocalStorage, bytes: &[u8]) -> Signature {
    let imported = storage.blobs().import(bytes, u64::MAX, None).await.unwrap();
    Signature::new(*imported.signature.as_bytes())
}

/// Stages these packages, whose modules are here, upon what is current, and makes them current.
pub(crate) async fn install(storage: &LocalStorage, update: u64, to: &[Arc<StoredManifest>]) -> Installed {
    let base = storage.current().await.unwrap();
    let staged = storage.stage(UpdateId(update), &base, &plan(&base, to), &texts(to)).await.unwrap();
    storage.switch_current(staged.number()).await.unwrap();
    staged
}

/// The archive of a folder with one program and one file in it.
pub(crate) fn archive_of(text: &str) -> Vec<u8> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    std::fs::write(folder.path().join("bin/run"), format!("#!/bin/sh\necho {text}\n")).unwrap();
    std::fs::set_permissions(folder.path().join("bin/run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(folder.path().join("data"), text).unwrap();
    let mut bytes = Vec::new();
    tribune_package::archive::pack(folder.path(), &mut bytes).unwrap();
    bytes
}

/// A module that is a folder with this archive.
pub(crate) fn folder_module(name: &str, archive: &[u8]) -> Value {
    json!({ "name": name, "signature": Signature::of(archive), "size": archive.len(), "kind": "folder" })
}

/// The inode and the time of change of what a path leads to.
pub(crate) fn inode_and_mtime(path: &Path) -> (u64, i64, i64) {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).unwrap();
    (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
}
