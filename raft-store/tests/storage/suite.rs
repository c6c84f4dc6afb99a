//! openraft's storage suite, on both engines.

use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{ErrorSubject, ErrorVerb, StorageError};
use tempfile::TempDir;
use tribune_raft_store::engine::model::ModelDisk;
use tribune_raft_store::log_store::LogStore;
use tribune_raft_store::machine::Machine;
use tribune_raft_store::raft_types::{Replicated, TypeConfig};
use tribune_raft_store::record::Record;
use tribune_raft_store::store::{Store, StoreError};

use crate::ledger::Ledger;

struct OnRocks;
struct OnModel;

fn failed<S: Replicated>(error: StoreError) -> StorageError<TypeConfig<S>> {
    StorageError::from_io_error(ErrorSubject::Store, ErrorVerb::Read, error.into())
}

impl StoreBuilder<TypeConfig<Record>, LogStore<Record>, Machine<Record>, TempDir> for OnRocks {
    async fn build(&self) -> Result<(TempDir, LogStore<Record>, Machine<Record>), StorageError<TypeConfig<Record>>> {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).map_err(failed)?;
        Ok((folder, store.log, store.machine))
    }
}

impl StoreBuilder<TypeConfig<Ledger>, LogStore<Ledger>, Machine<Ledger>, ModelDisk> for OnModel {
    async fn build(&self) -> Result<(ModelDisk, LogStore<Ledger>, Machine<Ledger>), StorageError<TypeConfig<Ledger>>> {
        let disk = ModelDisk::new(1);
        let store = Store::open_model(&disk).map_err(failed)?;
        Ok((disk, store.log, store.machine))
    }
}

#[tokio::test(start_paused = true)]
async fn the_suite_of_openraft_passes_on_the_model_engine() {
    Suite::test_all(OnModel).await.unwrap();
}

#[tokio::test]
async fn the_suite_of_openraft_passes_on_rocksdb_with_the_record() {
    Suite::test_all(OnRocks).await.unwrap();
}
