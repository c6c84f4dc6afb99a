//! Generations on disk: made once under a temporary name, then only read, made current, or removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tribune_raft_store::model::{Generation, ModuleKind, NodePlan, PackageId, PackageName, Signature, UpdateId};

use super::files::{self, damaged, failed};
use super::installed::{Installed, Place, PlanError, StoredManifest};
use super::journal::{self, NOTES, UPDATES};
use super::software::Software;
use super::{LocalError, modules, twin};

const MODULES: &str = "modules";
const FOLDERS: &str = "folders";
const MANIFESTS: &str = "manifests";
const GENERATIONS: &str = "generations";
const TREE: &str = "tree";
const DESCRIPTION: &str = "generation.json";
const WAS_CURRENT: &str = "was-current";
const CURRENT: &str = "current";
const LIVE: &str = "live";
const HIGHEST: &str = "highest";
/// The folder of ephemeral storage, as seen from that of local storage.
const EPHEMERAL_FROM_HERE: &str = "../ephemeral";

/// The folder in which a generation of the local storage at `local` has its modules, as `PACKAGE/MODULE`.
pub(crate) fn tree(local: &Path, generation: u64) -> PathBuf {
    local.join(GENERATIONS).join(generation.to_string()).join(TREE)
}

/// The link to the tree of the generation whose modules run.
pub(crate) fn live(local: &Path) -> PathBuf {
    local.join(LIVE)
}

/// A generation as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Description {
    number: u64,
    replaced: Option<u64>,
    /// The update that made it.
    pub(super) update: UpdateId,
    packages: BTreeMap<PackageName, PackageId>,
    modules: BTreeMap<String, DescribedModule>,
}

impl Description {
    /// Which module of which package each of its modules is.
    pub(super) fn places(&self) -> impl Iterator<Item = (PackageId, u32)> + '_ {
        self.modules.values().map(|module| (module.package, module.index))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct DescribedModule {
    package: PackageId,
    index: u32,
    signature: Signature,
}

/// A generation that was read, and the update that made it.
#[derive(Debug, Clone)]
pub(super) struct OnDisk {
    pub(super) generation: Generation,
    pub(super) update: UpdateId,
    places: BTreeMap<String, Place>,
}

impl From<Description> for OnDisk {
    fn from(description: Description) -> Self {
        let Description { number, replaced, update, packages, modules } = description;
        let place = |module: &DescribedModule| Place { package: module.package, index: module.index };
        let places = modules.iter().map(|(key, module)| (key.clone(), place(module))).collect();
        let modules = modules.into_iter().map(|(key, module)| (key, module.signature)).collect();
        Self { generation: Generation { number, replaced, packages, modules }, update, places }
    }
}

/// The folder of local storage, and everything that is done in it without waiting for anyone.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    /// The update whose ephemeral storage this is; none: the node's local storage.
    ephemeral: Option<UpdateId>,
}

impl Disk {
    pub(super) fn new(folder: PathBuf, ephemeral: Option<UpdateId>) -> Self {
        Self { folder, ephemeral }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where modules lie by signature.
    pub(super) fn modules(&self) -> PathBuf {
        self.folder.join(MODULES)
    }

    /// Where folder modules lie, unpacked.
    pub(super) fn folders(&self) -> PathBuf {
        self.folder.join(FOLDERS)
    }

    /// Where a folder module lies, or would lie, unpacked.
    pub(super) fn unpacked(&self, signature: &Signature) -> PathBuf {
        self.folders().join(signature.to_string())
    }

    pub(super) fn manifests(&self) -> PathBuf {
        self.folder.join(MANIFESTS)
    }

    /// Where it is written down what a generation has.
    pub(super) fn description(&self, number: u64) -> PathBuf {
        self.generation(number).join(DESCRIPTION)
    }

    /// Where it is written down which generation is current.
    pub(super) fn current_file(&self) -> PathBuf {
        self.folder.join(CURRENT)
    }

    fn generation(&self, number: u64) -> PathBuf {
        self.folder.join(GENERATIONS).join(number.to_string())
    }

    /// Makes the folders, and removes what a crash left.
    pub(super) fn prepare(&self) -> Result<(), LocalError> {
        files::make_folder(&self.folder)?;
        files::sweep(&self.folder)?;
        for name in [MODULES, FOLDERS, MANIFESTS, GENERATIONS, UPDATES, NOTES] {
            let folder = self.folder.join(name);
            files::make_folder(&folder)?;
            files::sweep(&folder)?;
        }
        twin::even_out(&self.folder.join(CURRENT), read_current);
        for folder in [UPDATES, NOTES].map(|name| self.folder.join(name)) {
            for name in files::names(&folder)? {
                twin::even_out(&folder.join(name), journal::read_entry::<serde_json::Value>);
            }
        }
        files::sync_folder(&self.folder)
    }

    /// The number of the current generation.
    pub(super) fn current(&self) -> Result<u64, LocalError> {
        Ok(twin::read(&self.folder.join(CURRENT), read_current)?.unwrap_or(0))
    }

    fn number_in(&self, name: &str) -> Result<u64, LocalError> {
        let path = self.folder.join(name);
        match files::read(&path)? {
            Some(text) => text.trim_end().parse().map_err(|_| damaged(&path, "it does not hold a number")),
            None => Ok(0),
        }
    }

    /// The numbers of all generations that are on disk.
    pub(super) fn numbers(&self) -> Result<BTreeSet<u64>, LocalError> {
        let names = files::names(&self.folder.join(GENERATIONS))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).filter(|number| *number != 0).collect())
    }

    pub(super) fn was_current(&self, number: u64) -> bool {
        self.generation(number).join(WAS_CURRENT).exists()
    }

    /// Reads what a generation has, without its manifests.
    pub(super) fn read(&self, number: u64) -> Result<OnDisk, LocalError> {
        let path = self.description(number);
        let description = twin::read(&path, |path| read_description(path, number))?;
        Ok(description.ok_or(LocalError::NoGeneration(number))?.into())
    }

    /// Reads what a generation has; 0 is nothing.
    pub(super) fn installed(&self, number: u64) -> Result<Installed, LocalError> {
        if number == 0 {
            return Ok(Installed::default());
        }
        let OnDisk { generation, places, .. } = self.read(number)?;
        let mut packages = BTreeMap::new();
        for id in generation.packages.values() {
            let missing = || damaged(&self.manifest(id), format!("it is not there, and generation {number} needs it"));
            packages.insert(*id, self.read_manifest(id)?.ok_or_else(missing)?);
        }
        let unfit = |error: PlanError| damaged(&self.generation(number).join(DESCRIPTION), error);
        Installed::new(generation, packages, places).map(|found| found.in_storage_of(self.ephemeral)).map_err(unfit)
    }

    pub(super) fn manifest(&self, id: &PackageId) -> PathBuf {
        self.manifests().join(format!("{id}.json"))
    }

    /// Reads a manifest and checks it against its id.
    pub(super) fn read_manifest(&self, id: &PackageId) -> Result<Option<Arc<StoredManifest>>, LocalError> {
        Ok(twin::read(&self.manifest(id), |path| parse_manifest(path, id))?.map(Arc::new))
    }

    /// What a node that has `base` would have after a plan.
    pub(super) fn planned(&self, base: &Installed, plan: &NodePlan, manifests: &[String]) -> Result<Installed, LocalError> {
        let mut known = Vec::new();
        for text in manifests {
            known.push(Arc::new(StoredManifest::read(text).map_err(PlanError::from)?));
        }
        for id in base.packages_after(plan)?.values() {
            if base.package(id).is_none() && !known.iter().any(|stored| stored.id == *id) {
                // One that is damaged here is as good as missing: the plan's sender has it.
                known.extend(self.read_manifest(id).ok().flatten());
            }
        }
        Ok(base.planned(plan, &known)?.in_storage_of(self.ephemeral))
    }

    /// Finds what answers a plan without making anything: the base itself, or, for a plan that goes back, what is kept.
    pub(super) fn answering(
        &self,
        base: &Installed,
        plan: &NodePlan,
        planned: &Installed,
    ) -> Result<Option<Installed>, LocalError> {
        if self.ephemeral.is_some() {
            return Ok(None);
        }
        if planned.same_software(base) {
            return Ok(Some(base.clone()));
        }
        if !plan.local {
            return Ok(None);
        }
        if planned.same_software(&Installed::default()) {
            return Ok(Some(Installed::default()));
        }
        for number in self.numbers()?.into_iter().rev().filter(|number| self.was_current(*number)) {
            // One that cannot be read is not gone back to; another may do.
            match self.installed(number) {
                Ok(kept) if planned.same_software(&kept) => return Ok(Some(kept)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Finds the generation that an update made with this software on this base; others that it made and that never were
    /// current are removed.
    pub(super) fn made_by(&self, update: UpdateId, planned: &Installed) -> Result<Option<Installed>, LocalError> {
        for number in self.numbers()? {
            if !self.read(number).is_ok_and(|on_disk| on_disk.update == update) {
                continue;
            }
            match self.installed(number) {
                Ok(made) if planned.same_software(&made) && made.generation.replaced == planned.generation.replaced => {
                    return Ok(Some(made));
                }
                _ if self.was_current(number) => {}
                _ => self.discard(number)?,
            }
        }
        Ok(None)
    }

    /// Writes a planned generation under the next number; its modules must be ready.
    pub(super) fn make(&self, update: UpdateId, mut planned: Installed) -> Result<Installed, LocalError> {
        for stored in planned.packages() {
            if !matches!(self.read_manifest(&stored.id), Ok(Some(_))) {
                twin::write(&self.manifest(&stored.id), stored.text.as_bytes())?;
            }
        }
        let number = self.numbers()?.last().copied().unwrap_or(0).max(self.number_in(HIGHEST)?) + 1;
        planned.generation.number = number;
        let generations = self.folder.join(GENERATIONS);
        let made = tempfile::Builder::new()
            .prefix(files::NEW)
            .tempdir_in(&generations)
            .map_err(failed("create a folder in", &generations))?;
        self.make_tree(&planned, &made.path().join(TREE))?;
        let path = made.path().join(DESCRIPTION);
        twin::write(&path, journal::entry_text(&path, &describe(update, &planned))?.as_bytes())?;
        let place = self.generation(number);
        files::point();
        fs::rename(made.path(), &place).map_err(failed("create", &place))?;
        // It has its name now: nothing of the temporary folder is left to remove.
        let _ = made.keep();
        files::point();
        files::sync_folder(&generations)?;
        files::point();
        Ok(planned)
    }

    /// Makes the folder of links through which a generation's modules are found.
    fn make_tree(&self, installed: &Installed, tree: &Path) -> Result<(), LocalError> {
        files::make_folder(tree)?;
        for stored in installed.packages() {
            files::make_folder(&tree.join(stored.manifest.name.as_str()))?;
        }
        for module in installed.modules() {
            files::link(&self.target(module.module.kind, &module.module.signature), &tree.join(module.key))?;
        }
        for stored in installed.packages() {
            files::sync_folder(&tree.join(stored.manifest.name.as_str()))?;
        }
        files::sync_folder(tree)
    }

    /// What a module's link in a tree holds. It is relative, so that the whole data folder may be moved.
    pub(super) fn target(&self, kind: ModuleKind, signature: &Signature) -> PathBuf {
        let down = match kind {
            ModuleKind::File => modules::blob_path(Path::new(MODULES), signature),
            ModuleKind::Folder => Path::new(FOLDERS).join(signature.to_string()),
        };
        // From generations/N/tree/PACKAGE.
        files::up(4, &down)
    }

    /// Makes a generation's links again.
    pub(super) fn relink(&self, installed: &Installed) -> Result<(), LocalError> {
        self.make_tree(installed, &tree(&self.folder, installed.number()))
    }

    /// Makes `live` lead to the tree of what runs.
    pub(super) fn show_live(&self, software: Software) -> Result<(), LocalError> {
        let live = live(&self.folder);
        match software {
            Software::Generation(0) => return files::remove(&live),
            Software::Generation(number) => drop(self.read(number)?),
            Software::Ephemeral(..) => {}
        }
        // Relative, so that the whole data folder may be moved.
        let target = software.tree(Path::new(""), Path::new(EPHEMERAL_FROM_HERE));
        if fs::read_link(&live).is_ok_and(|found| found == target) {
            return Ok(());
        }
        files::link(&target, &live)
    }

    /// Makes a generation current.
    pub(super) fn switch_current(&self, number: u64) -> Result<(), LocalError> {
        self.installed(number)?;
        if number != 0 && !self.was_current(number) {
            files::write(&self.generation(number).join(WAS_CURRENT), b"")?;
        }
        if self.current()? != number || !self.folder.join(CURRENT).exists() {
            twin::write(&self.folder.join(CURRENT), current_text(number).as_bytes())?;
        }
        self.show_live(Software::Generation(number))
    }

    /// Removes a generation that never was current.
    pub(super) fn discard(&self, number: u64) -> Result<(), LocalError> {
        if self.was_current(number) || self.current()? == number {
            return Err(LocalError::WasCurrent(number));
        }
        self.remove_generation(number)
    }

    /// Removes a generation, whatever it was; its number is not given again.
    pub(super) fn remove_generation(&self, number: u64) -> Result<(), LocalError> {
        if self.number_in(HIGHEST)? < number && self.numbers()?.contains(&number) {
            files::write(&self.folder.join(HIGHEST), format!("{number}\n").as_bytes())?;
        }
        files::remove_folder(&self.generation(number))
    }
}

/// What `current` holds: a number, and what tells that it is the one that was written.
fn current_text(number: u64) -> String {
    let check = blake3::hash(format!("current {number}").as_bytes()).to_hex();
    format!("{number} {}\n", &check[..16])
}

/// Reads the manifest in a file and checks it against its id.
pub(super) fn parse_manifest(path: &Path, id: &PackageId) -> Result<Option<StoredManifest>, LocalError> {
    let Some(text) = files::read(path)? else { return Ok(None) };
    if PackageId::of(&text) != *id {
        return Err(damaged(path, "its text is not that of its id"));
    }
    StoredManifest::read(&text).map(Some).map_err(|error| damaged(path, error))
}

/// Reads what the generation with this number has.
pub(super) fn read_description(path: &Path, number: u64) -> Result<Option<Description>, LocalError> {
    match journal::read_entry::<Description>(path)? {
        Some(other) if other.number != number => Err(damaged(path, format!("it describes generation {}", other.number))),
        found => Ok(found),
    }
}

pub(super) fn read_current(path: &Path) -> Result<Option<u64>, LocalError> {
    let Some(text) = files::read(path)? else { return Ok(None) };
    let number: u64 = match text.split_whitespace().next().map(str::parse) {
        Some(Ok(number)) => number,
        _ => return Err(damaged(path, "it does not hold a number")),
    };
    // One of before has the number alone.
    if text.trim_end() == number.to_string() || text == current_text(number) {
        return Ok(Some(number));
    }
    Err(damaged(path, "it does not hold the number that was written"))
}

fn describe(update: UpdateId, installed: &Installed) -> Description {
    let Generation { number, replaced, packages, modules } = &installed.generation;
    let described = |(key, place): (&String, &Place)| {
        // `Installed::new` has checked that each place has a signature.
        let signature = *modules.get(key)?;
        Some((key.clone(), DescribedModule { package: place.package, index: place.index, signature }))
    };
    Description {
        number: *number,
        replaced: *replaced,
        update,
        packages: packages.clone(),
        modules: installed.places().iter().filter_map(described).collect(),
    }
}
