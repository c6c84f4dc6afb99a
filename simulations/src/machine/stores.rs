//! Where a simulated machine has Raft's stores: on model disks, each beside a mark in its folder, so that a store goes with its folder.

use std::fs::{self, File};
use std::path::Path;

use tribune_node::world::Stores;
use tribune_raft_store::engine::model::ModelDisk;
use tribune_raft_store::stopped::{StoppedError, StoppedStore};
use tribune_raft_store::store::{Store, StoreError};

use super::Machine;

/// See the module.
#[derive(Debug)]
pub(super) struct ModelStores(pub(super) Machine);

impl Stores for ModelStores {
    fn open(&self, folder: &Path) -> Result<Store, StoreError> {
        let failed = |why| StoreError::Io { what: format!("marking {}", folder.display()), why };
        let (db, mark) = (folder.join("db"), folder.join("db/mark"));
        let known = fs::read_to_string(&mark).ok();
        let disk = {
            let mut inner = self.0.lock();
            match known.and_then(|mark| inner.disks.get(&mark).cloned()) {
                Some(disk) => disk,
                None => {
                    inner.next_disk += 1;
                    let name = format!("{}", inner.next_disk);
                    let disk = ModelDisk::new(rand::random());
                    inner.disks.insert(name.clone(), disk.clone());
                    drop(inner);
                    fs::create_dir_all(&db).map_err(failed)?;
                    fs::write(&mark, &name).map_err(failed)?;
                    for synced in [&mark, &db, folder] {
                        File::open(synced).and_then(|file| file.sync_all()).map_err(failed)?;
                    }
                    disk
                }
            }
        };
        Store::open_model(&disk)
    }

    fn open_stopped(&self, folder: &Path) -> Result<StoppedStore, StoppedError> {
        let mark = fs::read_to_string(folder.join("db/mark")).ok();
        let disk = mark.and_then(|mark| self.0.lock().disks.get(&mark).cloned());
        StoppedStore::open_model(folder, &disk.ok_or_else(|| StoppedError::Missing(folder.to_owned()))?)
    }
}
