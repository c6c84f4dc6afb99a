//! Local storage: what is installed on this node, and what it can go back to without any network.
//!
//! Its one idea: **nothing that is there is ever changed**. Modules lie by their signature, manifests by their id, and a
//! generation is written once, elsewhere, and gets its number when it is complete and on disk. To install or to go back
//! is to make one small file, `current`, name another generation; a module that both have is the same file.
//!
//! | in the folder | what it is |
//! | --- | --- |
//! | `modules/` | the modules' bytes by signature, see [`tribune_p2p::blobs`]; mode 0555 once staged |
//! | `folders/SIGNATURE/` | folder modules, unpacked |
//! | `manifests/ID.json` | canonical manifests, verbatim |
//! | `generations/N/generation.json` | which package versions and modules generation N has |
//! | `generations/N/tree/PACKAGE/MODULE` | a link to each module's file or folder: where programs run |
//! | `generations/N/was-current` | there if it ever was current, so that it can be gone back to |
//! | `current` | the number of the generation that a node restart starts; not there: nothing is installed |
//! | `live` | a link to the tree of the generation whose modules run now |
//! | `highest` | the highest number that was given to a generation since removed; none is given twice |
//! | `updates/uN.json` | the journal of each open update |
//! | `notes/NAME.json` | other small things the agent remembers |
//!
//! `current`, manifests, `generation.json`, journals and notes have a second copy beside them (`.copy-NAME`), so that one turned bit costs nothing.
//! Files that are replaced are written beside, fsynced, renamed, and their folder is fsynced. Names that begin with
//! `.new-` or `.old-` are what a crash left, and are removed when the folder is opened. One process opens it at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tribune_p2p::blobs::{BlobError, BlobStore, DEFAULT_RESERVE};
use tribune_package::archive::ArchiveError;
use tribune_raft_store::model::{Generation, NodePlan, Signature, UpdateId};

mod clearing;
mod ephemeral;
mod examine;
mod files;
mod generations;
mod installed;
mod journal;
mod modules;
mod software;
mod staging;
#[cfg(test)]
pub(crate) mod tests;
mod twin;

pub use ephemeral::EphemeralStorage;
pub use examine::{Examined, Unsound, examine};
pub(crate) use generations::live as live_in;
pub use installed::{Installed, InstalledModule, PlanError, StoredManifest};
pub use modules::Damage;
pub use software::{Software, SoftwareError};

use self::generations::Disk;

/// How many of the generations that were current are kept, the current one among them.
pub const KEPT_GENERATIONS: usize = 5;

/// What can go wrong with local storage.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The system failed.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The disk, or what this user may have of it, is full.
    #[error("cannot {doing} {}: its disk is full; make room there", path.display())]
    DiskFull {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
    },
    /// A file of local storage is not as it was written.
    #[error("{} is damaged: {problem}; put it back from a backup, or make the node anew", path.display())]
    DamagedFile {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Modules of a generation are not as they were staged.
    #[error("generation {generation} is damaged: {}", list(modules))]
    Damaged {
        /// Which generation.
        generation: u64,
        /// Which modules, and what is wrong with each.
        modules: Vec<Damage>,
    },
    /// Modules are not here, or no longer sound: they have to be fetched.
    #[error("local storage lacks {}", list(.0))]
    Lacking(Vec<Damage>),
    /// The plan does not fit what is installed or its own manifests.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The folder of modules failed.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// A folder module cannot be unpacked.
    #[error("module {module} cannot be unpacked: {source}")]
    Unpack {
        /// Which, as `package/module`.
        module: String,
        /// Why.
        source: ArchiveError,
    },
    /// There is no such generation.
    #[error("there is no generation {0} on this node; `tribune local show` lists those there are")]
    NoGeneration(u64),
    /// A generation that is or was current is not thrown away like one that was only staged.
    #[error("generation {0} is or was in use and cannot be discarded")]
    WasCurrent(u64),
    /// A note's name would not be safe as a file name.
    #[error("{0:?} is not the name of a note; use 1 to 64 of a-z, 0-9 and '-'")]
    Name(String),
    /// What should be written cannot be expressed as JSON.
    #[error("{} cannot be written: {source}", path.display())]
    Json {
        /// Where it should have gone.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// The runtime is shutting down.
    #[error("interrupted: the program is shutting down")]
    Interrupted,
}

fn list(items: &[Damage]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The node's local storage. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct LocalStorage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    disk: Arc<Disk>,
    blobs: BlobStore,
    /// Held while generations are made, switched or removed: these read what there is before they write. Everything else
    /// only adds files or replaces one.
    changing: Arc<Mutex<()>>,
}

impl LocalStorage {
    /// Opens the folder, which is made if it is not there, and clears what a crash may have left. Modules leave
    /// [`DEFAULT_RESERVE`] of the disk free.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub async fn open(folder: PathBuf) -> Result<Self, LocalError> {
        Self::open_with_reserve(folder, DEFAULT_RESERVE).await
    }

    /// The same, with so many bytes of the disk that modules leave free.
    ///
    /// # Errors
    /// As [`LocalStorage::open`].
    pub async fn open_with_reserve(folder: PathBuf, reserve: u64) -> Result<Self, LocalError> {
        Self::open_disk(Disk::new(folder, None), reserve).await
    }

    /// The same, for what an ephemeral update puts beside local storage.
    async fn open_ephemeral(folder: PathBuf, update: UpdateId, reserve: u64) -> Result<Self, LocalError> {
        Self::open_disk(Disk::new(folder, Some(update)), reserve).await
    }

    async fn open_disk(disk: Disk, reserve: u64) -> Result<Self, LocalError> {
        let disk = Arc::new(disk);
        let opened = disk.clone();
        blocking(move || opened.prepare()).await?;
        let blobs = BlobStore::open_with_reserve(disk.modules(), reserve).await?;
        Ok(Self(Arc::new(Inner { disk, blobs, changing: Arc::default() })))
    }

    /// Where it lies.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.0.disk.folder()
    }

    /// Where modules lie by signature: whatever is [lacking](Self::lacking) is fetched into it.
    #[must_use]
    pub fn blobs(&self) -> &BlobStore {
        &self.0.blobs
    }

    /// The folder in which a generation has its modules, as `PACKAGE/MODULE`.
    #[must_use]
    pub fn tree(&self, generation: u64) -> PathBuf {
        generations::tree(self.folder(), generation)
    }

    /// A link to the tree of the generation whose modules run; see [`LocalStorage::show_live`].
    #[must_use]
    pub fn live(&self) -> PathBuf {
        generations::live(self.folder())
    }

    /// What is installed: what a node restart starts.
    ///
    /// # Errors
    /// [`LocalError::DamagedFile`] names the file that cannot be understood.
    pub async fn current(&self) -> Result<Installed, LocalError> {
        self.reading(|disk| disk.installed(disk.current()?)).await
    }

    /// What a generation has; 0 is nothing.
    ///
    /// # Errors
    /// [`LocalError::NoGeneration`]; [`LocalError::DamagedFile`].
    pub async fn installed(&self, number: u64) -> Result<Installed, LocalError> {
        self.reading(move |disk| disk.installed(number)).await
    }

    /// The generations, other than the current one, that the node can go back to: those that were current once.
    ///
    /// # Errors
    /// [`LocalError::DamagedFile`] names the file that cannot be understood.
    pub async fn kept(&self) -> Result<BTreeMap<u64, Generation>, LocalError> {
        self.reading(|disk| {
            let current = disk.current()?;
            let mut kept = BTreeMap::new();
            for number in disk.numbers()?.into_iter().filter(|number| *number != current && disk.was_current(*number)) {
                kept.insert(number, disk.read(number)?.generation);
            }
            Ok(kept)
        })
        .await
    }

    /// What a node that has `base` would have after this plan, with number 0. Manifests that are not given are those of
    /// `base`, or are looked for on disk.
    ///
    /// # Errors
    /// [`LocalError::Plan`].
    pub async fn planned(&self, base: &Installed, plan: &NodePlan, manifests: &[String]) -> Result<Installed, LocalError> {
        let (base, plan, manifests) = (base.clone(), plan.clone(), manifests.to_vec());
        self.reading(move |disk| disk.planned(&base, &plan, &manifests)).await
    }

    /// The modules that the plan needs and that are not here, each once, with their sizes in bytes.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub async fn lacking(&self, plan: &NodePlan) -> Result<Vec<(Signature, u64)>, LocalError> {
        let wanted: BTreeMap<_, _> = plan.modules.values().map(|module| (module.signature, module.size)).collect();
        let (disk, blobs) = (self.0.disk.clone(), self.0.blobs.clone());
        blocking(move || {
            let is_here =
                |signature: &Signature| disk.unpacked(signature).is_dir() || blobs.path(&modules::hash(signature)).is_file();
            Ok(wanted.into_iter().filter(|(signature, _)| !is_here(signature)).collect())
        })
        .await
    }

    /// Takes a module that another storage of this node has; `false` when it has none that is sound.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub async fn take_from(&self, other: &LocalStorage, signature: Signature) -> Result<bool, LocalError> {
        Ok(self.blobs().take_from(other.blobs(), &modules::hash(&signature)).await?)
    }

    /// Makes the generation that the plan leads to from `base`, complete, verified and on disk, without making it current.
    /// Everything lacking must have been fetched. Manifests may be left out as in [`LocalStorage::planned`].
    ///
    /// - The same call again answers the same generation; one that an earlier plan of this update made is replaced by it.
    /// - A plan that changes nothing answers `base`.
    /// - A local plan (a regress) that leads to what a kept generation has, or to nothing, answers that.
    ///
    /// # Errors
    /// [`LocalError::Plan`]; [`LocalError::Lacking`] names what has to be fetched (again); the disk is full.
    pub async fn stage(
        &self,
        update: UpdateId,
        base: &Installed,
        plan: &NodePlan,
        manifests: &[String],
    ) -> Result<Installed, LocalError> {
        let (storage, base, plan, manifests) = (self.clone(), base.clone(), plan.clone(), manifests.to_vec());
        self.changing(async move { storage.stage_alone(update, base, plan, manifests).await }).await
    }

    /// Checks every module of a generation against its signature, and its links. A file that is not as it should be is
    /// moved away, so that it is fetched again rather than run.
    ///
    /// # Errors
    /// [`LocalError::Damaged`] names the modules; [`LocalError::DamagedFile`].
    pub async fn verify(&self, number: u64) -> Result<(), LocalError> {
        let installed = self.installed(number).await?;
        self.verify_modules(&installed).await
    }

    /// Makes a generation whose lacking modules have been fetched again sound: unpacks, sets modes, makes its links.
    ///
    /// # Errors
    /// [`LocalError::Lacking`] names what is still not here.
    pub async fn mend(&self, number: u64) -> Result<(), LocalError> {
        let storage = self.clone();
        self.changing(async move {
            let installed = storage.installed(number).await?;
            storage.make_ready(&installed).await?;
            storage.reading(move |disk| disk.relink(&installed)).await
        })
        .await
    }

    /// Makes [`LocalStorage::live`] lead to this software's tree: to be called before its modules are started, and again
    /// with the old one when those take over again. With generation 0 there is no such link.
    ///
    /// # Errors
    /// [`LocalError::NoGeneration`]; the disk cannot be written.
    pub async fn show_live(&self, software: Software) -> Result<(), LocalError> {
        self.alone(move |disk| disk.show_live(software)).await
    }

    /// Makes a generation current, durably: what a node restart starts from now on. 0 is nothing. Its tree is live then too.
    ///
    /// # Errors
    /// [`LocalError::NoGeneration`]; [`LocalError::DamagedFile`]; the disk cannot be written.
    pub async fn switch_current(&self, number: u64) -> Result<(), LocalError> {
        self.alone(move |disk| disk.switch_current(number)).await
    }

    /// Removes a generation that was staged and never became current. One that is not there is no error.
    ///
    /// # Errors
    /// [`LocalError::WasCurrent`]; the disk cannot be written.
    pub async fn discard(&self, number: u64) -> Result<(), LocalError> {
        self.alone(move |disk| disk.discard(number)).await
    }

    /// Removes what nothing needs any more: all generations but the current one, the one it replaced, the last
    /// [`KEPT_GENERATIONS`] that were current, and those to `keep` (staged ones, and those that running children came
    /// from); then all modules and manifests that none of these has, but for the modules `wanted` by plans under way.
    ///
    /// # Errors
    /// [`LocalError::DamagedFile`]: what a generation needs cannot be told, and nothing is removed; the disk cannot be written.
    pub async fn clear_away(&self, keep: &BTreeSet<u64>, wanted: &BTreeSet<Signature>) -> Result<(), LocalError> {
        let (storage, keep, wanted) = (self.clone(), keep.clone(), wanted.clone());
        self.changing(async move { storage.clear_alone(keep, wanted).await }).await
    }

    /// Writes an update's journal, durably, in the place of what it held.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub async fn save_update<T: Serialize + ?Sized>(&self, update: UpdateId, entry: &T) -> Result<(), LocalError> {
        let (path, text) = self.0.disk.entry_text(journal::UPDATES, &update.to_string(), entry)?;
        blocking(move || twin::write(&path, text.as_bytes())).await
    }

    /// The journals of all open updates.
    ///
    /// # Errors
    /// [`LocalError::DamagedFile`] names the journal that cannot be understood.
    pub async fn load_updates<T: DeserializeOwned + Send + 'static>(&self) -> Result<BTreeMap<UpdateId, T>, LocalError> {
        self.reading(|disk| disk.load_updates()).await
    }

    /// Removes an update's journal; one that is not there is no error.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub async fn remove_update(&self, update: UpdateId) -> Result<(), LocalError> {
        self.reading(move |disk| twin::remove(&disk.entry(journal::UPDATES, &update.to_string()))).await
    }

    /// Writes a note, durably, in the place of what it held. The name is 1 to 64 of `a-z 0-9 -`.
    ///
    /// # Errors
    /// [`LocalError::Name`]; the disk cannot be written.
    pub async fn save<T: Serialize + ?Sized>(&self, name: &str, value: &T) -> Result<(), LocalError> {
        journal::check_name(name)?;
        let (path, text) = self.0.disk.entry_text(journal::NOTES, name, value)?;
        blocking(move || twin::write(&path, text.as_bytes())).await
    }

    /// Reads a note; `None` if it was never written.
    ///
    /// # Errors
    /// [`LocalError::Name`]; [`LocalError::DamagedFile`].
    pub async fn load<T: DeserializeOwned + Send + 'static>(&self, name: &str) -> Result<Option<T>, LocalError> {
        journal::check_name(name)?;
        let path = self.0.disk.entry(journal::NOTES, name);
        blocking(move || twin::read(&path, journal::read_entry)).await
    }

    /// Runs what only reads, or replaces one file, where it may block.
    async fn reading<T, F>(&self, work: F) -> Result<T, LocalError>
    where
        T: Send + 'static,
        F: FnOnce(&Disk) -> Result<T, LocalError> + Send + 'static,
    {
        let disk = self.0.disk.clone();
        blocking(move || work(&disk)).await
    }

    /// Runs blocking work on the generations while nobody else changes them.
    async fn alone<T, F>(&self, work: F) -> Result<T, LocalError>
    where
        T: Send + 'static,
        F: FnOnce(&Disk) -> Result<T, LocalError> + Send + 'static,
    {
        let storage = self.clone();
        self.changing(async move { storage.reading(work).await }).await
    }

    /// Runs work on the generations while nobody else changes them, to its end even if the caller loses interest.
    async fn changing<T, F>(&self, work: F) -> Result<T, LocalError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, LocalError>> + Send + 'static,
    {
        let guard = self.0.changing.clone().lock_owned().await;
        let alone = async move {
            let result = work.await;
            drop(guard);
            result
        };
        finished(tokio::spawn(alone).await)
    }
}

/// Runs `work` where it may block.
async fn blocking<T, F>(work: F) -> Result<T, LocalError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, LocalError> + Send + 'static,
{
    tribune_p2p::blocking::run(work).await.unwrap_or(Err(LocalError::Interrupted))
}

fn finished<T>(joined: Result<Result<T, LocalError>, tokio::task::JoinError>) -> Result<T, LocalError> {
    match joined {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(LocalError::Interrupted),
        },
    }
}
