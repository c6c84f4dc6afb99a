//! Looking at local storage without changing anything, whether or not a node runs with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tribune_p2p::blobs;
use tribune_package::archive;
use tribune_raft_store::model::{Module, ModuleKind, PackageId, Signature};

use super::generations::{Description, Disk, parse_manifest, read_current, read_description};
use super::installed::StoredManifest;
use super::journal::{NOTES, UPDATES, read_entry};
use super::modules::{hash, measure_of};
use super::{LocalError, files, twin};

const FROM_COPY: &str = "its second copy is sound: the node puts it right when it reads it; nothing is lost";
const COPY_ONLY: &str = "the file itself is sound: the node writes the copy anew when it starts; nothing is lost";
const BOTH: &str = "put it back from a copy of this folder, or make the node anew with `tribune join --replace`";
const FETCHED: &str = "run the node: it fetches the module again from a peer before it starts it; nothing damaged is run";

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsound {
    /// Where.
    pub path: PathBuf,
    /// What is wrong, as the end of a sentence.
    pub what: String,
    /// What to do.
    pub todo: &'static str,
}

/// What local storage has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examined {
    /// How many files and modules were read.
    pub read: u64,
    /// How many bytes the modules have.
    pub bytes: u64,
    /// What is not as it was written.
    pub unsound: Vec<Unsound>,
}

/// Reads everything in the folder of local storage that it can go by. One that is not there has nothing. Blocks.
///
/// # Errors
/// The folder cannot be listed.
pub fn examine(folder: &Path) -> Result<Examined, LocalError> {
    let mut examined = Examined::default();
    if !folder.is_dir() {
        return Ok(examined);
    }
    let disk = Disk::new(folder.to_owned(), None);
    let current = examined.twin(&disk.current_file(), read_current).unwrap_or(0);
    let mut needed: BTreeMap<PackageId, BTreeSet<u32>> = BTreeMap::new();
    let kept: BTreeSet<u64> =
        disk.numbers()?.into_iter().filter(|number| *number == current || disk.was_current(*number)).collect();
    if current != 0 && !kept.contains(&current) {
        examined.note(disk.current_file(), format!("it names generation {current}, which is not there"), BOTH);
    }
    for number in kept {
        let read = examined.twin(&disk.description(number), |path| read_description(path, number));
        if read.is_none() {
            examined.needs(disk.description(number));
        }
        for (package, index) in read.iter().flat_map(Description::places) {
            needed.entry(package).or_default().insert(index);
        }
    }
    let modules = examined.manifests(&disk, &needed);
    for folder in [UPDATES, NOTES].map(|name| folder.join(name)).into_iter().filter(|folder| folder.is_dir()) {
        for name in files::names(&folder)? {
            examined.twin(&folder.join(name), read_entry::<serde_json::Value>);
        }
    }
    examined.modules(&disk, &modules)?;
    Ok(examined)
}

impl Examined {
    fn note(&mut self, path: PathBuf, what: String, todo: &'static str) {
        self.unsound.push(Unsound { path, what, todo });
    }

    /// A file that must be there and could not be read. If it is damaged that was said.
    fn needs(&mut self, path: PathBuf) {
        if !path.exists() && !twin::copy_of(&path).exists() {
            self.note(path, "it is not there, and a generation needs it".into(), BOTH);
        }
    }

    /// Reads both copies of a file; gives what one of them says.
    fn twin<T>(&mut self, path: &Path, parse: impl Fn(&Path) -> Result<Option<T>, LocalError>) -> Option<T> {
        self.read += 1;
        let copy = twin::copy_of(path);
        match (parse(path), parse(&copy)) {
            (Ok(Some(value)), Ok(_)) => Some(value),
            (Ok(Some(value)), Err(error)) => {
                self.note(copy, why(error), COPY_ONLY);
                Some(value)
            }
            (Ok(None), Ok(Some(value))) => {
                self.note(path.to_owned(), "it is gone".into(), FROM_COPY);
                Some(value)
            }
            (Err(error), Ok(Some(value))) => {
                self.note(path.to_owned(), why(error), FROM_COPY);
                Some(value)
            }
            (Ok(None), Ok(None)) => None,
            (Err(error), _) | (Ok(None), Err(error)) => {
                self.note(path.to_owned(), why(error), BOTH);
                None
            }
        }
    }

    /// The modules of these packages, as their manifests have them.
    fn manifests(&mut self, disk: &Disk, needed: &BTreeMap<PackageId, BTreeSet<u32>>) -> BTreeMap<(Signature, bool), Module> {
        let mut modules = BTreeMap::new();
        for (id, indexes) in needed {
            let path = disk.manifest(id);
            let found: Option<StoredManifest> = self.twin(&path, |path| parse_manifest(path, id));
            let Some(stored) = found else {
                self.needs(path);
                continue;
            };
            for module in indexes.iter().filter_map(|index| stored.manifest.modules.get(usize::try_from(*index).ok()?)) {
                modules.insert((module.signature, module.kind == ModuleKind::Folder), module.clone());
            }
        }
        modules
    }

    fn modules(&mut self, disk: &Disk, needed: &BTreeMap<(Signature, bool), Module>) -> Result<(), LocalError> {
        let found = blobs::examine(&disk.modules())?;
        self.read += found.blobs;
        self.bytes += found.bytes;
        self.unsound.extend(found.unsound.into_iter().map(|unsound| Unsound {
            path: unsound.path,
            what: unsound.why,
            todo: FETCHED,
        }));
        for ((signature, _), module) in needed {
            let (path, wrong) = match module.kind {
                ModuleKind::File => {
                    let path = blobs::path_in(&disk.modules(), &hash(signature));
                    let gone = !path.is_file();
                    (path, gone.then(|| "it is not there, and a generation has it".to_owned()))
                }
                ModuleKind::Folder => {
                    self.read += 1;
                    let path = disk.unpacked(signature);
                    let wrong = match archive::measure(&path) {
                        Ok(found) if found == measure_of(module) => None,
                        Ok(_) => Some("something was added, changed or removed in it".to_owned()),
                        Err(error) => Some(format!("it cannot be read: {error}")),
                    };
                    (path, wrong)
                }
            };
            if let Some(what) = wrong {
                self.note(path, what, FETCHED);
            }
        }
        Ok(())
    }
}

/// What is wrong with a file, without its name.
fn why(error: LocalError) -> String {
    match error {
        LocalError::DamagedFile { problem, .. } => format!("it is damaged: {problem}"),
        other => other.to_string(),
    }
}
