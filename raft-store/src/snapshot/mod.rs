//! Snapshots: the state as a file, to be sent to who lacks the log for it.
//!
//! One idea: the store names its current snapshot in the same batch that changes the state, and a file that the store does
//! not name is rubbish. So whenever the power goes, there is one state, whole, and at most one snapshot, which is not
//! ahead of it.

pub mod folder;
pub mod format;
pub mod model_folder;
mod transfer;

use std::io::{self, BufReader, BufWriter};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tribune_planted::{Bug, planted};

use self::folder::{ByteStream, DiskFolder, Folder};
use self::format::{FormatError, FrameReader, FrameWriter, MAX_SNAPSHOT};
pub use self::transfer::SnapshotSink;
use crate::engine::{Batch, Durability, Engine, Family};
use crate::raft_types::{Record, Replicated, SnapshotMeta};
use crate::record::RecordError;
use crate::store::StoreError;
use crate::stored::{StoredPosition, decode, encode};
use crate::writer::{Work, WriteError, Writer};

const POINTER: &[u8] = b"snapshot";
/// How much is read and written at once.
const BUFFER: usize = 256 << 10;

/// The table that a planted bug leaves out.
const TOMBSTONES: u8 = 6;

/// Why a snapshot was not made, kept or taken over.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file is not one that can be used.
    #[error("the snapshot {file} is refused: {why}")]
    Refused {
        /// Which file.
        file: String,
        /// What is wrong with it.
        why: FormatError,
    },
    /// Its rows are not a state.
    #[error("the snapshot {file} is refused: {why}")]
    State {
        /// Which file.
        file: String,
        /// What is wrong with its rows.
        why: RecordError,
    },
    /// It is of another moment than was said.
    #[error("the snapshot {file} is refused: it is not of the log entry that the master said")]
    Mismatch {
        /// Which file.
        file: String,
    },
    /// It is older than the state.
    #[error("the snapshot {file} is refused: it is older than the state that it would replace")]
    Outdated {
        /// Which file.
        file: String,
    },
    /// More was received than a snapshot can have.
    #[error("a snapshot of more than {MAX_SNAPSHOT} bytes is refused")]
    TooLong,
    /// The file system failed.
    #[error("{what} the snapshot {file}: {why}")]
    Io {
        /// What was done.
        what: &'static str,
        /// Which file.
        file: String,
        /// What is wrong.
        why: io::Error,
    },
    /// No thread could be had.
    #[error("no thread for the snapshot: {0}")]
    Thread(io::Error),
    /// The store failed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// It cannot be encoded.
    #[error("it cannot be encoded: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        Self::other(error)
    }
}

/// A file that is removed with its last handle, unless it is kept.
#[derive(Debug)]
struct StoredFile {
    folder: Arc<dyn Folder>,
    name: String,
    kept: AtomicBool,
}

impl StoredFile {
    fn temporary(folder: &Arc<dyn Folder>, name: String) -> Arc<Self> {
        Arc::new(Self { folder: Arc::clone(folder), name, kept: AtomicBool::new(false) })
    }

    fn describe(&self) -> String {
        self.folder.describe(&self.name)
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> SnapshotError {
        let file = self.describe();
        move |why| SnapshotError::Io { what, file, why }
    }

    fn refused(&self) -> impl FnOnce(FormatError) -> SnapshotError {
        let file = self.describe();
        move |why| SnapshotError::Refused { file, why }
    }
}

impl Drop for StoredFile {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Relaxed)
            && let Err(error) = self.folder.remove(&self.name)
        {
            // It is removed at the next start.
            tracing::debug!(file = self.describe(), %error, "a snapshot that is not needed stays");
        }
    }
}

/// A snapshot's file. It stays readable while there is a handle, even when a newer snapshot replaces it.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    file: Arc<StoredFile>,
    bytes: u64,
}

impl SnapshotFile {
    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Opens it for sending, from its beginning.
    pub fn open(&self) -> Result<ByteStream, SnapshotError> {
        self.file.folder.open_stream(&self.file.name).map_err(self.file.failed("opening"))
    }
}

/// A snapshot: what it is of, and its bytes.
pub type Snapshot =
    openraft::Snapshot<openraft::vote::leader_id_std::CommittedLeaderId<u64>, u64, crate::raft_types::RaftPeer, SnapshotFile>;

#[derive(Debug, Serialize, Deserialize)]
struct Pointer {
    name: String,
    bytes: u64,
    serial: u64,
    position: StoredPosition,
}

#[derive(Debug)]
struct Inner {
    folder: Arc<dyn Folder>,
    writer: Writer,
    work: Work,
    schema: &'static str,
    serial: AtomicU64,
    current: Mutex<Option<Snapshot>>,
}

/// The snapshots of one store. Clones are the same.
#[derive(Debug, Clone)]
pub struct Snapshots {
    inner: Arc<Inner>,
}

/// A state read from a snapshot, and the writing of it.
pub(crate) struct Restored<S> {
    pub state: S,
    pub rows: Batch,
    pub file: SnapshotFile,
}

impl Snapshots {
    /// Finds the current snapshot and removes what is left of others. One that is damaged is dropped with a message: it
    /// can be made again from the state.
    pub(crate) fn open(folder: Arc<dyn Folder>, writer: Writer, work: Work, schema: &'static str) -> Result<Self, StoreError> {
        let pointer = match writer.engine().get(Family::StateMeta, POINTER)? {
            Some(bytes) => Some(decode::<Pointer>(&bytes).map_err(|why| StoreError::Value { what: "snapshot".into(), why })?),
            None => None,
        };
        let serial = pointer.as_ref().map_or(0, |pointer| pointer.serial + 1);
        let current = match pointer {
            Some(pointer) => usable(&folder, pointer, schema)?,
            None => None,
        };
        remove_others(&folder, current.as_ref())?;
        let inner = Inner { folder, writer, work, schema, serial: AtomicU64::new(serial), current: Mutex::new(current) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The current snapshot.
    pub fn current(&self) -> Option<Snapshot> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Snapshot>> {
        // What is done under the lock is done at its end.
        self.inner.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn work(&self) -> Work {
        self.inner.work
    }

    fn next_serial(&self) -> u64 {
        self.inner.serial.fetch_add(1, Ordering::Relaxed)
    }

    fn temporary(&self) -> Arc<StoredFile> {
        StoredFile::temporary(&self.inner.folder, format!("{:016x}.tmp", self.next_serial()))
    }

    /// Begins to take in a snapshot that is received. What is not finished is removed.
    pub fn receive(&self) -> Result<SnapshotSink, SnapshotError> {
        SnapshotSink::create(self.temporary())
    }

    /// Checks a snapshot that was received, to its last byte, and that it is of what it is said to be of. Blocks.
    pub fn check(&self, file: &SnapshotFile, meta: &SnapshotMeta) -> Result<(), SnapshotError> {
        check(&file.file, self.inner.schema, meta)
    }

    /// Writes a state to a file and puts it on disk. Blocks.
    pub(crate) fn write_state<S: Replicated>(&self, state: &S, meta: &SnapshotMeta) -> Result<SnapshotFile, SnapshotError> {
        let file = self.temporary();
        let to = file.folder.create(&file.name).map_err(file.failed("creating"))?;
        let to = BufWriter::with_capacity(BUFFER, to);
        let written = FrameWriter::begin(to, self.inner.schema, &meta.into()).and_then(|mut frames| {
            for (key, value) in state.entries() {
                if planted(Bug::SnapshotOmitsTombstones) && key.first() == Some(&TOMBSTONES) {
                    continue;
                }
                frames.row(&key, &value)?;
            }
            frames.finish()
        });
        let bytes = written.map_err(file.refused())?;
        self.finish(&file, bytes)
    }

    /// Puts a file on disk, and under a name that lasts. The store does not name it yet.
    fn finish(&self, file: &Arc<StoredFile>, bytes: u64) -> Result<SnapshotFile, SnapshotError> {
        let name = format!("{:016x}.snapshot", self.next_serial());
        file.folder.sync_file(&file.name).map_err(file.failed("syncing"))?;
        file.folder.rename(&file.name, &name).map_err(file.failed("renaming"))?;
        file.kept.store(true, Ordering::Relaxed);
        let file = StoredFile::temporary(&file.folder, name);
        file.folder.sync().map_err(file.failed("syncing the folder of"))?;
        Ok(SnapshotFile { file, bytes })
    }

    /// Checks a snapshot to its last byte, reads the state in it, and puts its file on disk. Blocks.
    pub(crate) fn read_state<S: Replicated>(
        &self,
        from: SnapshotFile,
        meta: &SnapshotMeta,
    ) -> Result<Restored<S>, SnapshotError> {
        let ours = Arc::ptr_eq(&from.file.folder, &self.inner.folder) && !from.file.kept.load(Ordering::Relaxed);
        let file = if ours { from.file } else { self.copy(&from.file)? };
        let (state, rows) = read_rows::<S>(&file, self.inner.schema, Some(meta))?;
        let file = self.finish(&file, from.bytes)?;
        Ok(Restored { state, rows, file })
    }

    fn copy(&self, from: &StoredFile) -> Result<Arc<StoredFile>, SnapshotError> {
        let file = self.temporary();
        let bytes = from.folder.open(&from.name).map_err(from.failed("opening"))?;
        let mut to = file.folder.create(&file.name).map_err(file.failed("creating"))?;
        io::copy(&mut BufReader::with_capacity(BUFFER, bytes), &mut to).map_err(file.failed("copying"))?;
        to.flush().map_err(file.failed("copying"))?;
        Ok(file)
    }

    /// Makes a snapshot the current one, together with the changes in a batch. With `Purpose::Replace` it is kept only if
    /// no newer one became current meanwhile. Gives the current one.
    pub(crate) async fn publish(
        &self,
        snapshot: Snapshot,
        mut batch: Batch,
        purpose: Purpose,
    ) -> Result<Snapshot, SnapshotError> {
        let pointer = Pointer {
            name: snapshot.snapshot.file.name.clone(),
            bytes: snapshot.snapshot.bytes,
            serial: self.inner.serial.load(Ordering::Relaxed),
            position: (&snapshot.meta).into(),
        };
        batch.put(Family::StateMeta, POINTER, encode(&pointer)?);
        let (ticket, replaced) = {
            // Under the lock, so that the order on disk is the order here.
            let mut current = self.lock();
            if let (Purpose::Replace, Some(current)) = (purpose, current.as_ref())
                && current.meta.last_log_id >= snapshot.meta.last_log_id
            {
                return Ok(current.clone());
            }
            snapshot.snapshot.file.kept.store(true, Ordering::Relaxed);
            let ticket = self.inner.writer.ticket(batch, Durability::Synced);
            (ticket, current.replace(snapshot.clone()))
        };
        ticket.await.unwrap_or(Err(WriteError::Closed))?;
        if let Some(replaced) = replaced {
            replaced.snapshot.file.kept.store(false, Ordering::Relaxed);
        }
        Ok(snapshot)
    }
}

/// Why a snapshot becomes the current one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It was built from the state, in place of an older one.
    Replace,
    /// It replaces the state.
    Install,
}

/// Checks the snapshot that a store names, if it names one, without changing anything.
pub(crate) fn examine(engine: &dyn Engine, folder: &Path) -> Result<(), StoreError> {
    let Some(bytes) = engine.get(Family::StateMeta, POINTER)? else { return Ok(()) };
    let unreadable = |why| StoreError::Value { what: "snapshot".into(), why };
    let Pointer { name, position, .. } = decode::<Pointer>(&bytes).map_err(unreadable)?;
    let meta = SnapshotMeta::try_from(position).map_err(unreadable)?;
    let folder: Arc<dyn Folder> = Arc::new(DiskFolder::existing(folder));
    let file = StoredFile { folder, name, kept: AtomicBool::new(true) };
    Ok(check(&file, Record::SCHEMA, &meta)?)
}

/// The snapshot that the store names, if it is good.
fn usable(folder: &Arc<dyn Folder>, pointer: Pointer, schema: &'static str) -> Result<Option<Snapshot>, StoreError> {
    let Pointer { name, bytes, position, .. } = pointer;
    let meta = SnapshotMeta::try_from(position).map_err(|why| StoreError::Value { what: "snapshot".into(), why })?;
    let file = Arc::new(StoredFile { folder: Arc::clone(folder), name, kept: AtomicBool::new(true) });
    match check(&file, schema, &meta) {
        Ok(()) => Ok(Some(Snapshot { meta, snapshot: SnapshotFile { file, bytes } })),
        Err(SnapshotError::Io { what, file, why }) if why.kind() != io::ErrorKind::NotFound => {
            Err(SnapshotError::Io { what, file, why }.into())
        }
        Err(error) => {
            tracing::error!(%error, "it will be made again from the state");
            Ok(None)
        }
    }
}

fn check(file: &StoredFile, schema: &'static str, meta: &SnapshotMeta) -> Result<(), SnapshotError> {
    let mut frames = open_frames(file, schema, Some(meta))?;
    while frames.row().map_err(file.refused())?.is_some() {}
    Ok(())
}

fn open_frames(
    file: &StoredFile,
    schema: &'static str,
    meta: Option<&SnapshotMeta>,
) -> Result<FrameReader<impl io::Read>, SnapshotError> {
    let bytes = file.folder.open(&file.name).map_err(file.failed("opening"))?;
    let frames = FrameReader::begin(BufReader::with_capacity(BUFFER, bytes), schema).map_err(file.refused())?;
    if meta.is_some_and(|meta| StoredPosition::from(meta) != *frames.position()) {
        return Err(SnapshotError::Mismatch { file: file.describe() });
    }
    Ok(frames)
}

/// The state in a file, and the rows to write it. Both only if the whole file is good.
fn read_rows<S: Replicated>(
    file: &StoredFile,
    schema: &'static str,
    meta: Option<&SnapshotMeta>,
) -> Result<(S, Batch), SnapshotError> {
    let mut frames = open_frames(file, schema, meta)?;
    let mut batch = Batch::new();
    let mut bad = None;
    let rows = std::iter::from_fn(|| match frames.row() {
        Ok(row) => row.inspect(|(key, value)| batch.put(Family::State, key.as_slice(), value.as_slice())),
        Err(error) => {
            bad = Some(error);
            None
        }
    });
    let mut rows = rows.fuse();
    let state = S::from_entries(&mut rows);
    // The hash is at the end, whether or not the rows before it were liked.
    rows.by_ref().for_each(drop);
    drop(rows);
    if let Some(error) = bad {
        return Err(file.refused()(error));
    }
    let state = state.map_err(|why| SnapshotError::State { file: file.describe(), why })?;
    Ok((state, batch))
}

fn remove_others(folder: &Arc<dyn Folder>, current: Option<&Snapshot>) -> Result<(), StoreError> {
    let failed = |what: &'static str, name: &str| {
        let file = folder.describe(name);
        move |why| SnapshotError::Io { what, file, why }
    };
    for name in folder.list().map_err(failed("listing the folder of", ""))? {
        if current.is_none_or(|current| current.snapshot.file.name != name) {
            folder.remove(&name).map_err(failed("removing", &name))?;
        }
    }
    Ok(())
}
