//! Modules on disk: that they are here, sound, and can be run.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use blake3::Hash;
use tribune_p2p::blobs::Condition;
use tribune_package::archive::{self, ArchiveError, Measure};
use tribune_planted::{Bug, planted};
use tribune_raft_store::model::{Module, ModuleKind, Signature};

use super::files::{self, failed};
use super::generations::Disk;
use super::installed::Installed;
use super::{LocalError, LocalStorage, blocking};

/// The mode of a staged module that is a file.
const MODE: u32 = 0o555;

/// What is wrong with a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The module, as `package/module`.
    pub module: String,
    /// Its signature.
    pub signature: Signature,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "module {} ({}) {}", self.module, self.signature.short(), self.problem)
    }
}

/// A signature as the folder of modules has it.
pub(super) fn hash(signature: &Signature) -> Hash {
    Hash::from_bytes(*signature.as_bytes())
}

/// Where a module lies in a folder of modules, as [`tribune_p2p::blobs`] describes it.
pub(super) fn blob_path(folder: &Path, signature: &Signature) -> PathBuf {
    let hex = signature.to_string();
    folder.join(&hex[..2]).join(hex)
}

/// The modules of an installation, each file and folder once, by a key that has it.
fn each_once(installed: &Installed) -> BTreeMap<(Signature, bool), (String, Module)> {
    let mut once = BTreeMap::new();
    for module in installed.modules() {
        let id = (module.module.signature, module.module.kind == ModuleKind::Folder);
        once.entry(id).or_insert_with(|| (module.key.to_owned(), module.module.clone()));
    }
    once
}

impl LocalStorage {
    /// Makes every module ready to be run, once all are here: files are verified and executable, folders are unpacked.
    ///
    /// # Errors
    /// [`LocalError::Lacking`] names those that are not here or not sound.
    pub(super) async fn make_ready(&self, installed: &Installed) -> Result<(), LocalError> {
        let mut lacking = Vec::new();
        for (key, module) in each_once(installed).into_values() {
            let Module { signature, .. } = module;
            let problem = match module.kind {
                ModuleKind::File => self.make_file_ready(&module).await?,
                ModuleKind::Folder => self.make_folder_ready(&key, &module).await?,
            };
            lacking.extend(problem.map(|problem| Damage { module: key, signature, problem }));
        }
        if lacking.is_empty() { Ok(()) } else { Err(LocalError::Lacking(lacking)) }
    }

    /// Verifies a file and makes it executable; answers what is wrong with it.
    async fn make_file_ready(&self, module: &Module) -> Result<Option<String>, LocalError> {
        if let Some(problem) = self.check_file(module).await? {
            return Ok(Some(problem));
        }
        let path = self.blobs().path(&hash(&module.signature));
        blocking(move || make_executable(&path)).await?;
        Ok(None)
    }

    /// Verifies an unpacked folder, or unpacks it; answers what is wrong with its archive.
    async fn make_folder_ready(&self, key: &str, module: &Module) -> Result<Option<String>, LocalError> {
        let Some(damage) = self.check_folder(module).await? else { return Ok(None) };
        let folder = self.0.disk.unpacked(&module.signature);
        if let Some(problem) = self.check_file(module).await? {
            // What is damaged counts as lacking only when it is not there.
            blocking(move || files::remove_folder(&folder)).await?;
            return Ok(Some(problem));
        }
        tracing::debug!(module = key, signature = %module.signature, "unpacked, since it {damage}");
        let path = self.blobs().path(&hash(&module.signature));
        let expected = measure_of(module);
        // Unpacked, it takes up about as much as packed.
        self.blobs().has_room(expected.size).await?;
        let module = key.to_owned();
        blocking(move || {
            files::replace_folder(&folder, |fresh| {
                let input = File::open(&path).map_err(failed("open", &path))?;
                let input = std::io::BufReader::new(input);
                archive::unpack(input, expected, fresh).map_err(|source| LocalError::Unpack { module, source })
            })
        })
        .await?;
        Ok(None)
    }

    /// What is wrong with the bytes of a module, if anything. A file that has changed is moved away.
    async fn check_file(&self, module: &Module) -> Result<Option<String>, LocalError> {
        let signature = hash(&module.signature);
        if planted(Bug::DamagedModuleStaged) {
            return Ok(None);
        }
        Ok(match self.blobs().verify(&signature).await? {
            Condition::Missing => Some("is not here".to_owned()),
            Condition::Corrupt { actual } => {
                Some(format!("has changed on disk: its bytes have signature {}", &actual.to_hex()[..8]))
            }
            Condition::Sound => {
                let size = self.blobs().size(&signature).await?;
                (size != Some(module.size)).then(|| format!("does not have the {} bytes that its manifest says", module.size))
            }
        })
    }

    /// What is wrong with an unpacked folder, if anything.
    async fn check_folder(&self, module: &Module) -> Result<Option<String>, LocalError> {
        let folder = self.0.disk.unpacked(&module.signature);
        let expected = measure_of(module);
        blocking(move || {
            if !folder.is_dir() {
                return Ok(Some("is not unpacked here".to_owned()));
            }
            Ok(match archive::measure(&folder) {
                Ok(found) if found == expected => None,
                Ok(_) => Some(format!("has changed on disk: something was added, changed or removed in {}", folder.display())),
                // Something that no module has was put there.
                Err(error @ (ArchiveError::Unfit { .. } | ArchiveError::TooMany(_) | ArchiveError::Changed(_))) => {
                    Some(format!("has changed on disk: {error}"))
                }
                Err(error) => Some(format!("cannot be checked: {error}")),
            })
        })
        .await
    }

    /// Checks every module of a generation, and its links.
    pub(super) async fn verify_modules(&self, installed: &Installed) -> Result<(), LocalError> {
        let mut problems = BTreeMap::new();
        for (id, (_, module)) in each_once(installed) {
            let problem = match module.kind {
                ModuleKind::File => self.check_file(&module).await?,
                ModuleKind::Folder => self.check_folder(&module).await?,
            };
            problems.extend(problem.map(|problem| (id, problem)));
        }
        let tree = self.tree(installed.number());
        let disk = self.0.disk.clone();
        let installed = installed.clone();
        blocking(move || {
            let damaged = installed.modules().filter_map(|found| {
                let Module { signature, kind, .. } = *found.module;
                let problem = problems.get(&(signature, kind == ModuleKind::Folder)).cloned();
                let problem = problem.or_else(|| disk.check_link(&tree.join(found.key), kind, &signature));
                problem.map(|problem| Damage { module: found.key.to_owned(), signature, problem })
            });
            let modules: Vec<Damage> = damaged.collect();
            if modules.is_empty() { Ok(()) } else { Err(LocalError::Damaged { generation: installed.number(), modules }) }
        })
        .await
    }
}

impl Disk {
    /// What is wrong with a module's link, or with the mode of the file it leads to, if anything.
    fn check_link(&self, link: &Path, kind: ModuleKind, signature: &Signature) -> Option<String> {
        if !fs::read_link(link).is_ok_and(|target| target == self.target(kind, signature)) {
            return Some(format!("is not where {} should lead", link.display()));
        }
        let executable = fs::metadata(link).is_ok_and(|metadata| metadata.permissions().mode() & MODE == MODE);
        (!executable).then(|| format!("is not executable at {}", link.display()))
    }
}

pub(super) fn measure_of(module: &Module) -> Measure {
    Measure { signature: module.signature, size: module.size }
}

/// Makes a file executable for all and writable for none. One that is so already is not touched.
fn make_executable(path: &Path) -> Result<(), LocalError> {
    let file = File::open(path).map_err(failed("open", path))?;
    let mode = file.metadata().map_err(failed("inspect", path))?.permissions().mode();
    if mode & 0o7777 == MODE {
        return Ok(());
    }
    files::point();
    file.set_permissions(fs::Permissions::from_mode(MODE)).map_err(failed("make executable", path))?;
    file.sync_all().map_err(failed("fsync", path))
}
