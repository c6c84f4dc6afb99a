//! What ephemeral updates put beside local storage: `DATA/ephemeral/uN`, which a node restart wipes.
//!
//! One idea: each is a local storage of its own with everything that it runs, so that it is staged, verified and read by the
//! same code. A module that local storage has too is the same file, by a hard link.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;
use tribune_raft_store::model::UpdateId;

use super::installed::Installed;
use super::{LocalError, LocalStorage, blocking, files};

/// Where ephemeral updates keep what they run. Clones are handles to the same.
#[derive(Debug, Clone)]
pub struct EphemeralStorage {
    folder: Arc<Path>,
    /// Bytes of the disk that modules leave free.
    reserve: u64,
    /// Each is opened once.
    opened: Arc<Mutex<BTreeMap<UpdateId, LocalStorage>>>,
}

impl EphemeralStorage {
    /// The storage in this folder, which is made when something is put there. So many bytes of the disk stay free.
    pub fn new(folder: PathBuf, reserve: u64) -> Self {
        Self { folder: folder.into(), reserve, opened: Arc::default() }
    }

    /// Where an update keeps what it runs.
    fn place(&self, update: UpdateId) -> PathBuf {
        self.folder.join(update.to_string())
    }

    /// The storage of one update, made if it is not there.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub async fn of(&self, update: UpdateId) -> Result<LocalStorage, LocalError> {
        let mut opened = self.opened.lock().await;
        if let Some(storage) = opened.get(&update) {
            return Ok(storage.clone());
        }
        let storage = LocalStorage::open_ephemeral(self.place(update), update, self.reserve).await?;
        opened.insert(update, storage.clone());
        Ok(storage)
    }

    /// What an update runs, or is to run.
    ///
    /// # Errors
    /// [`LocalError::NoGeneration`] when it is not there; [`LocalError::DamagedFile`].
    pub async fn installed(&self, update: UpdateId, number: u64) -> Result<Installed, LocalError> {
        let place = self.place(update);
        if !blocking(move || Ok(place.is_dir())).await? {
            return Err(LocalError::NoGeneration(number));
        }
        self.of(update).await?.installed(number).await
    }

    /// Removes everything but what these updates have.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub async fn keep_only(&self, keep: &BTreeSet<UpdateId>) -> Result<(), LocalError> {
        let (folder, keep) = (self.folder.clone(), keep.clone());
        let mut opened = self.opened.lock().await;
        opened.retain(|update, _| keep.contains(update));
        blocking(move || {
            if !folder.is_dir() {
                return Ok(());
            }
            files::sweep(&folder)?;
            for name in files::names(&folder)? {
                if !name.parse().is_ok_and(|update| keep.contains(&update)) {
                    files::remove_folder(&folder.join(name))?;
                }
            }
            Ok(())
        })
        .await
    }
}
