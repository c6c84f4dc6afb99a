//! Packages by their ids, for people: `billing 2.3.1` instead of a hash.

use std::collections::BTreeMap;

use tribune_raft_store::model::{PackageId, PackageName};

/// Name and version of packages.
#[derive(Debug, Clone, Default)]
pub struct Names(BTreeMap<PackageId, (PackageName, String)>);

impl Names {
    /// From what an answer says of them.
    pub fn of(packages: &BTreeMap<PackageId, (PackageName, String)>) -> Self {
        Self(packages.clone())
    }

    /// Adds a package.
    pub fn add(&mut self, id: PackageId, name: PackageName, version: String) {
        self.0.insert(id, (name, version));
    }

    /// A package's version; the beginning of its id if it is not known.
    pub fn version(&self, id: &PackageId) -> String {
        self.0.get(id).map_or_else(|| id.short(), |(_, version)| version.clone())
    }

    /// A package as `name@version`; the beginning of its id if it is not known.
    pub fn full(&self, id: &PackageId) -> String {
        self.0.get(id).map_or_else(|| id.short(), |(name, version)| format!("{name}@{version}"))
    }
}
