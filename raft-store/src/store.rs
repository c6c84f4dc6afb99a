//! The storage of one node's Raft, put together: log, state, snapshots.
//!
//! One idea: all of it shares one engine and one writer, so there is one order in which things become durable.

use std::io;
use std::path::Path;
use std::sync::Arc;

use openraft::type_config::AsyncRuntime;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::engine::model::ModelDisk;
use crate::engine::rocks::RocksEngine;
use crate::engine::{Batch, Durability, Engine, EngineError, Family};
use crate::log_store::LogStore;
use crate::machine::{Applied, Machine};
use crate::raft_types::{Replicated, TokioRuntime};
use crate::record::{Record, RecordError};
use crate::snapshot::folder::{DiskFolder, Folder};
use crate::snapshot::{SnapshotError, Snapshots};
use crate::stored::{DecodeError, decode, encode};
use crate::writer::{Closed, Work, WriteError, Writer};

/// The format of the store as a whole: which keys there are, and what they mean.
const FORMAT: u32 = 1;
const FORMAT_KEY: &[u8] = b"format";

/// Why the store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A write failed, now or earlier.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A snapshot failed.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A file or a thread failed.
    #[error("{what}: {why}")]
    Io {
        /// What was done.
        what: String,
        /// What is wrong.
        why: io::Error,
    },
    /// It was written by a newer build.
    #[error(
        "the store has format {found}, and this build of Tribune knows formats up to {FORMAT}; use the newer one that wrote it"
    )]
    NewerFormat {
        /// The format it has.
        found: u32,
    },
    /// It is a store of something else.
    #[error("the store holds {found:?} and not {expected:?}; it belongs to another program")]
    Schema {
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A log entry cannot be read.
    #[error("log entry {index} cannot be applied: {why}")]
    Entry {
        /// Which.
        index: u64,
        /// What is wrong with it.
        why: DecodeError,
    },
    /// A value cannot be read.
    #[error("{what:?} in the store cannot be read: {why}")]
    Value {
        /// Which.
        what: String,
        /// What is wrong with it.
        why: DecodeError,
    },
    /// A value cannot be written.
    #[error("it cannot be encoded: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
    /// The rows of the state are not a state.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A row of the state has a key that cannot be.
    #[error("the state has a row whose key begins with the byte 255, which is kept free")]
    RowKey,
    /// The log has a key that cannot be.
    #[error("the log has a key of {bytes} bytes; an index has 8: the store is damaged")]
    LogKey {
        /// Its length.
        bytes: usize,
    },
    /// The log has an entry in another's place.
    #[error("log entry {index} says it is entry {found}: the store is damaged")]
    Misplaced {
        /// Where it is.
        index: u64,
        /// What it says.
        found: u64,
    },
    /// An entry is missing from the log.
    #[error("log entry {index} is missing: the store is damaged")]
    Missing {
        /// Which.
        index: u64,
    },
    /// The log says that an earlier master wrote after a later one.
    #[error("log entry {index} is of term {term}, and the one before it of term {before}: the store is damaged")]
    TermFalls {
        /// Which.
        index: u64,
        /// Its term.
        term: u64,
        /// The term of the one before it.
        before: u64,
    },
    /// The log does not begin where it should.
    #[error("the log begins at entry {found}; it should begin at {expected}: the store is damaged")]
    LogBegins {
        /// Where it begins.
        found: u64,
        /// Where it should.
        expected: u64,
    },
    /// Entries were appended that do not follow the log's end.
    #[error("entry {found} cannot be appended; the next is {expected}")]
    Hole {
        /// What was appended.
        found: u64,
        /// What should have been.
        expected: u64,
    },
}

impl StoreError {
    /// Whether what is on disk is not what was written there: opening it again would not help.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Engine(error) | Self::Write(WriteError::Failed(error)) => matches!(error, EngineError::Damaged { .. }),
            Self::RowKey
            | Self::LogKey { .. }
            | Self::Misplaced { .. }
            | Self::Missing { .. }
            | Self::TermFalls { .. }
            | Self::LogBegins { .. } => true,
            // What cannot be read, although its bytes are those that were written, is of another build.
            Self::Write(WriteError::Closed)
            | Self::Snapshot(_)
            | Self::Io { .. }
            | Self::NewerFormat { .. }
            | Self::Schema { .. }
            | Self::Entry { .. }
            | Self::Value { .. }
            | Self::Encode(_)
            | Self::Record(_)
            | Self::Hole { .. } => false,
        }
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        Self::other(error)
    }
}

/// The storage of one Raft node. Raft takes `log` and `machine`; the rest stays with whoever started it.
#[derive(Debug)]
pub struct Store<S: Replicated = Record, RT = TokioRuntime> {
    /// The log and the vote.
    pub log: LogStore<S, RT>,
    /// The state.
    pub machine: Machine<S, RT>,
    /// The snapshots, for sending and receiving them.
    pub snapshots: Snapshots,
    /// The state as it is after each batch of applied entries.
    pub applied: watch::Receiver<Arc<Applied<S>>>,
    /// When all of it is closed.
    pub closed: Closed,
}

impl<S: Replicated, RT: AsyncRuntime> Store<S, RT> {
    /// Opens the store in a folder on disk, or makes a new one: RocksDB in `db`, snapshots in `snapshots`.
    /// It is closed when the last handle to any part of it is gone.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let failed = |what: &str| {
            let what = format!("{what} {}", folder.display());
            move |why| StoreError::Io { what, why }
        };
        std::fs::create_dir_all(folder).map_err(failed("making"))?;
        let files = DiskFolder::shared(&folder.join("snapshots")).map_err(failed("opening the snapshots in"))?;
        let engine = Arc::new(RocksEngine::open(&folder.join("db"))?);
        Self::assemble(engine, files, Work::Threads)
    }

    /// Opens the store on a disk in memory, for tests and simulations. Everything happens at once and in one thread.
    pub fn open_model(disk: &ModelDisk) -> Result<Self, StoreError> {
        let engine: Arc<dyn Engine> = Arc::new(disk.engine());
        check_format::<S>(engine.as_ref())?;
        let slow = disk.clone();
        let writer = Writer::start_paced(engine, Arc::new(move || slow.takes()));
        Self::on(writer, Arc::new(disk.folder()), Work::Inline)
    }

    /// Opens the store in this engine, with its snapshots in this folder.
    pub fn assemble(engine: Arc<dyn Engine>, folder: Arc<dyn Folder>, work: Work) -> Result<Self, StoreError> {
        check_format::<S>(engine.as_ref())?;
        let writer = Writer::start(engine, work).map_err(|why| StoreError::Io { what: "starting the writer".into(), why })?;
        Self::on(writer, folder, work)
    }

    fn on(writer: Writer, folder: Arc<dyn Folder>, work: Work) -> Result<Self, StoreError> {
        let closed = writer.closed();
        let log = LogStore::open(writer.clone())?;
        let snapshots = Snapshots::open(folder, writer.clone(), work, S::SCHEMA)?;
        let (machine, applied) = Machine::open(writer, snapshots.clone())?;
        Ok(Self { log, machine, snapshots, applied, closed })
    }
}

#[derive(Serialize, Deserialize)]
struct StoreFormat {
    format: u32,
    schema: String,
}

/// Refuses a store that is not ours; marks a new one.
pub(crate) fn check_format<S: Replicated>(engine: &dyn Engine) -> Result<(), StoreError> {
    if refuse_format::<S>(engine)? == Format::None {
        let mut batch = Batch::new();
        batch.put(Family::StateMeta, FORMAT_KEY, encode(&StoreFormat { format: FORMAT, schema: S::SCHEMA.into() })?);
        engine.write(batch, Durability::Synced)?;
    }
    Ok(())
}

/// Whether a store says what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// It is one of ours.
    Ours,
    /// It is new: nothing was ever written there.
    None,
}

/// Refuses a store that is not ours.
pub(crate) fn refuse_format<S: Replicated>(engine: &dyn Engine) -> Result<Format, StoreError> {
    let Some(bytes) = engine.get(Family::StateMeta, FORMAT_KEY)? else { return Ok(Format::None) };
    let found: StoreFormat = decode(&bytes).map_err(|why| StoreError::Value { what: "format".into(), why })?;
    if found.format > FORMAT {
        return Err(StoreError::NewerFormat { found: found.format });
    }
    if found.schema != S::SCHEMA {
        return Err(StoreError::Schema { found: found.schema, expected: S::SCHEMA });
    }
    Ok(Format::Ours)
}
