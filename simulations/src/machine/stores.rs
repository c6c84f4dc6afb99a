//! Where a simulated machine has Raft's stores: on model disks, each beside a mark in its folder, so that a store goes with its folder.

use std::fs::{self, File};
use std::path::Path;

use tribune_node::world::Stores;
use tribune_raft_store::engine::model::ModelDisk;
use tribune_raft_store::machine::Applied;
use tribune_raft_store::raft_types::Record;
use tribune_raft_store::stopped::{StoppedError, StoppedStore};
use tribune_raft_store::store::{Store, StoreError};

use super::Machine;

/// Where a store lies in Raft's folder, and what says there which disk it is.
const DB: &str = "db";
const MARK: &str = "db/mark";

/// See the module.
#[derive(Debug)]
pub(super) struct ModelStores(pub(super) Machine);

impl ModelStores {
    /// The disk of the store in a folder, if there is one.
    fn disk(&self, folder: &Path) -> Option<ModelDisk> {
        let mark = fs::read_to_string(folder.join(MARK)).ok()?;
        self.0.lock().disks.get(&mark).cloned()
    }

    /// A disk for a new store in a folder.
    fn new_disk(&self, folder: &Path) -> Result<ModelDisk, StoreError> {
        let failed = |why| StoreError::Io { what: format!("marking {}", folder.display()), why };
        let disk = ModelDisk::new(rand::random());
        let name = {
            let mut inner = self.0.lock();
            inner.next_disk += 1;
            let name = inner.next_disk.to_string();
            inner.disks.insert(name.clone(), disk.clone());
            name
        };
        let (db, mark) = (folder.join(DB), folder.join(MARK));
        fs::create_dir_all(&db).map_err(failed)?;
        fs::write(&mark, &name).map_err(failed)?;
        for synced in [&mark, &db, folder] {
            File::open(synced).and_then(|file| file.sync_all()).map_err(failed)?;
        }
        Ok(disk)
    }
}

impl Stores for ModelStores {
    fn open(&self, folder: &Path) -> Result<Store, StoreError> {
        let disk = match self.disk(folder) {
            Some(disk) => disk,
            None => self.new_disk(folder)?,
        };
        Store::open_model(&disk)
    }

    fn open_stopped(&self, folder: &Path) -> Result<StoppedStore, StoppedError> {
        let disk = self.disk(folder).ok_or_else(|| StoppedError::Missing(folder.to_owned()))?;
        StoppedStore::open_model(folder, &disk)
    }

    fn plant(&self, folder: &Path, record: Applied<Record>) -> Result<StoppedStore, StoppedError> {
        StoppedStore::plant_model(folder, &self.new_disk(folder)?, record)
    }
}
