//! What a node has installed, or would have after a plan, with everything its packages say of themselves.
//!
//! One idea: an [`Installed`] has been checked. Each of its modules is the one its package's manifest has at that place,
//! and each package has one version; so whoever reads it need not look for what may be missing.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tribune_raft_store::model::{
    Generation, Manifest, ManifestError, Module, NodePlan, PackageId, PackageName, PlannedModule, UpdateId,
};

use super::software::Software;

/// A manifest as it is kept: its text, which its id is the hash of, and what the text says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredManifest {
    /// The package's id.
    pub id: PackageId,
    /// The canonical text.
    pub text: String,
    /// What it says.
    pub manifest: Manifest,
}

impl StoredManifest {
    /// Reads a manifest from its canonical text.
    ///
    /// # Errors
    /// It is not one.
    pub fn read(text: &str) -> Result<Self, ManifestError> {
        Ok(Self { id: PackageId::of(text), manifest: Manifest::parse(text)?, text: text.to_owned() })
    }
}

/// Where a module stands in which manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) package: PackageId,
    pub(super) index: u32,
}

/// What a node has, or would have: a generation, and the manifests of its packages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed {
    /// Its packages' versions and its modules' signatures. Number 0: nothing, or what a plan leads to and is not staged.
    pub generation: Generation,
    packages: BTreeMap<PackageId, Arc<StoredManifest>>,
    places: BTreeMap<String, Place>,
    /// The update in whose ephemeral storage it is; none: it is in local storage.
    ephemeral: Option<UpdateId>,
}

/// A module of an [`Installed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstalledModule<'a> {
    /// `package/module`.
    pub key: &'a str,
    /// Its package.
    pub package: &'a StoredManifest,
    /// The module.
    pub module: &'a Module,
    /// Its place in the package's manifest.
    pub index: u32,
}

/// Why a plan or a generation does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A manifest was not sent, and is not on this node.
    #[error("the manifest of package {0} is neither in the plan nor on this node")]
    NoManifest(PackageId),
    /// A package's manifest is another package's.
    #[error("{id} is not a version of package {package}: it is one of {found}")]
    OtherPackage {
        /// The package as the plan says.
        package: PackageName,
        /// The version.
        id: PackageId,
        /// Whose version that is.
        found: PackageName,
    },
    /// The plan was made for a node that has something else.
    #[error("the plan changes package {package} from {from}, and this node has {has}; submit the update again")]
    Base {
        /// The package.
        package: PackageName,
        /// What the plan was made for.
        from: String,
        /// What the node has.
        has: String,
    },
    /// A package stays as it is, and the plan has none of its modules.
    #[error(
        "the plan does not change package {0}, which is installed here, and has none of its modules; submit the update again"
    )]
    Forgotten(PackageName),
    /// A module belongs to a version that the plan does not give the node.
    #[error("module {module} is of package {package}, which is not among the versions this node is to have")]
    OtherVersion {
        /// The module, as `package/module`.
        module: String,
        /// The version.
        package: PackageId,
    },
    /// A module is not as its manifest has it.
    #[error("module {module} is not what the manifest of package {package} has at place {index}")]
    OtherModule {
        /// The module, as `package/module`.
        module: String,
        /// The version.
        package: PackageId,
        /// The place.
        index: u32,
    },
}

impl Installed {
    /// Puts a generation and its manifests together, or says what does not fit.
    pub(super) fn new(
        generation: Generation,
        packages: BTreeMap<PackageId, Arc<StoredManifest>>,
        places: BTreeMap<String, Place>,
    ) -> Result<Self, PlanError> {
        for (name, id) in &generation.packages {
            let stored = packages.get(id).ok_or(PlanError::NoManifest(*id))?;
            if stored.manifest.name != *name {
                let found = stored.manifest.name.clone();
                return Err(PlanError::OtherPackage { package: name.clone(), id: *id, found });
            }
        }
        let packages: BTreeMap<_, _> =
            packages.into_iter().filter(|(id, stored)| generation.packages.get(&stored.manifest.name) == Some(id)).collect();
        for (key, place) in &places {
            let Place { package, index } = *place;
            let stored = packages.get(&package).ok_or_else(|| PlanError::OtherVersion { module: key.clone(), package })?;
            let module = stored.manifest.modules.get(index as usize);
            let fits = |module: &Module| {
                *key == format!("{}/{}", stored.manifest.name, module.name)
                    && generation.modules.get(key) == Some(&module.signature)
            };
            if !module.is_some_and(fits) {
                return Err(PlanError::OtherModule { module: key.clone(), package, index });
            }
        }
        Ok(Self { generation, packages, places, ephemeral: None })
    }

    /// The same, in the ephemeral storage of an update, or in local storage.
    pub(super) fn in_storage_of(self, ephemeral: Option<UpdateId>) -> Self {
        Self { ephemeral, ..self }
    }

    /// What children run from that are started from it.
    #[must_use]
    pub fn software(&self) -> Software {
        match self.ephemeral {
            Some(update) => Software::Ephemeral(update, self.number()),
            None => Software::Generation(self.number()),
        }
    }

    /// Its number; 0: nothing is installed, or it is only planned.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.generation.number
    }

    /// The module with this key (`package/module`).
    #[must_use]
    pub fn module(&self, key: &str) -> Option<InstalledModule<'_>> {
        let (key, place) = self.places.get_key_value(key)?;
        self.at(key, *place)
    }

    /// All modules, in the order of their keys.
    pub fn modules(&self) -> impl Iterator<Item = InstalledModule<'_>> {
        self.places.iter().filter_map(|(key, place)| self.at(key, *place))
    }

    fn at<'a>(&'a self, key: &'a str, place: Place) -> Option<InstalledModule<'a>> {
        // Both are there: `new` has checked it.
        let package = self.packages.get(&place.package)?;
        let module = package.manifest.modules.get(place.index as usize)?;
        Some(InstalledModule { key, package, module, index: place.index })
    }

    /// The package with this id.
    #[must_use]
    pub fn package(&self, id: &PackageId) -> Option<&Arc<StoredManifest>> {
        self.packages.get(id)
    }

    /// The package with this name.
    #[must_use]
    pub fn package_named(&self, name: &PackageName) -> Option<&Arc<StoredManifest>> {
        self.packages.get(self.generation.packages.get(name)?)
    }

    /// All packages, in the order of their ids.
    pub fn packages(&self) -> impl Iterator<Item = &Arc<StoredManifest>> {
        self.packages.values()
    }

    /// Whether both have the same versions and modules, whatever their numbers.
    #[must_use]
    pub fn same_software(&self, other: &Installed) -> bool {
        self.generation.packages == other.generation.packages && self.places == other.places
    }

    /// What a node that has this would have after the plan: number 0, replacing this one. The manifests of packages that
    /// it has already need not be given.
    ///
    /// # Errors
    /// The plan does not fit what is installed, or its manifests.
    pub fn planned(&self, plan: &NodePlan, manifests: &[Arc<StoredManifest>]) -> Result<Installed, PlanError> {
        let packages = self.packages_after(plan)?;
        let mut known = self.packages.clone();
        known.extend(manifests.iter().map(|stored| (stored.id, stored.clone())));
        let modules = plan.modules.iter().map(|(key, module)| (key.clone(), module.signature)).collect();
        let places = plan.modules.iter().map(|(key, module)| (key.clone(), place_of(module))).collect();
        let generation = Generation { number: 0, replaced: Some(self.number()), packages, modules };
        let planned = Self::new(generation, known, places)?;
        for (key, module) in &plan.modules {
            if planned.module(key).is_none_or(|found| found.module.size != module.size) {
                return Err(PlanError::OtherModule { module: key.clone(), package: module.package, index: module.index });
            }
        }
        Ok(planned)
    }

    /// The versions of packages after a plan.
    pub(super) fn packages_after(&self, plan: &NodePlan) -> Result<BTreeMap<PackageName, PackageId>, PlanError> {
        let mut packages = self.generation.packages.clone();
        for change in &plan.changes {
            let has = packages.get(&change.name).copied();
            if has != change.from && has != change.to {
                let shown = |id: Option<PackageId>| id.map_or_else(|| "nothing".to_owned(), |id| id.short());
                return Err(PlanError::Base { package: change.name.clone(), from: shown(change.from), has: shown(has) });
            }
            match change.to {
                Some(to) => packages.insert(change.name.clone(), to),
                None => packages.remove(&change.name),
            };
        }
        for (name, id) in &self.generation.packages {
            let stays = packages.get(name) == Some(id) && !plan.changes.iter().any(|change| change.name == *name);
            let here = self.places.values().any(|place| place.package == *id);
            if stays && here && !plan.modules.values().any(|module| module.package == *id) {
                return Err(PlanError::Forgotten(name.clone()));
            }
        }
        Ok(packages)
    }

    /// Where each module stands.
    pub(super) fn places(&self) -> &BTreeMap<String, Place> {
        &self.places
    }
}

fn place_of(module: &PlannedModule) -> Place {
    Place { package: module.package, index: module.index }
}
