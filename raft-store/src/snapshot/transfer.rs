//! Taking in a snapshot from the network.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;

use super::folder::ByteSink;
use super::format::MAX_SNAPSHOT;
use super::{SnapshotError, SnapshotFile, StoredFile};

/// Where a received snapshot's bytes go. Dropped at any byte, it leaves nothing behind. Nothing in the bytes is believed
/// before the whole of them is checked, when the snapshot is installed.
pub struct SnapshotSink {
    file: Arc<StoredFile>,
    to: ByteSink,
    bytes: u64,
}

impl std::fmt::Debug for SnapshotSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotSink").field("file", &self.file.name).field("bytes", &self.bytes).finish()
    }
}

impl SnapshotSink {
    pub(super) fn create(file: Arc<StoredFile>) -> Result<Self, SnapshotError> {
        let to = file.folder.create_sink(&file.name).map_err(file.failed("creating"))?;
        Ok(Self { file, to, bytes: 0 })
    }

    /// How many bytes were taken in.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes in the next bytes. Fails if a snapshot cannot have as many.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        if self.bytes + bytes.len() as u64 > MAX_SNAPSHOT {
            return Err(SnapshotError::TooLong);
        }
        self.to.write_all(bytes).await.map_err(self.file.failed("writing"))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// All bytes were taken in: the file, to be given to Raft, which has it checked and installed.
    pub async fn finish(mut self) -> Result<SnapshotFile, SnapshotError> {
        self.to.shutdown().await.map_err(self.file.failed("writing"))?;
        Ok(SnapshotFile { file: Arc::clone(&self.file), bytes: self.bytes })
    }
}
