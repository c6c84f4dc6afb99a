//! Where bytes lie: a small sorted key-value store with four families of keys, one write-ahead log and no idea of Raft.
//!
//! One idea: the whole of the storage is written against this trait, so that the engine which loses everything that was
//! not synced ([`model`]) runs the same code as the one that ships ([`rocks`]). Both promise: a batch is
//! there whole or not at all, and what is lost in a crash is a suffix of the writes since the last synced one.

pub mod model;
pub mod rocks;

use std::fmt;
use std::path::PathBuf;

/// A family of keys: each is sorted by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// The entries of the Raft log, by index.
    Log,
    /// What Raft remembers beside its log: the vote, how far the log was purged, how far it is committed.
    Meta,
    /// The rows of the replicated state.
    State,
    /// What the state is the state of: the last applied entry, the membership, the current snapshot.
    StateMeta,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Log, Self::Meta, Self::State, Self::StateMeta];

    /// Its name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Meta => "meta",
            Self::State => "state",
            Self::StateMeta => "state-meta",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// When a write counts as done. `Synced` is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// When readers see it. It may be lost if the machine stops, together with all that was written after it.
    Buffered,
    /// When it is on disk, with all that was written before it.
    Synced,
}

/// In which order a scan goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// From the first key to the last.
    Ascending,
    /// From the last key to the first.
    Descending,
}

/// A range of keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRange {
    /// The first key in it.
    pub from: Vec<u8>,
    /// The first key after it; `None` if there is no end.
    pub to: Option<Vec<u8>>,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self::default()
    }

    /// The keys from `from` up to, but without, `to`.
    pub fn new(from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) -> Self {
        Self { from: from.into(), to: Some(to.into()) }
    }

    /// Whether no key can be in it.
    pub fn is_empty(&self) -> bool {
        self.to.as_ref().is_some_and(|to| *to <= self.from)
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a row.
    Put {
        /// Where.
        family: Family,
        /// Its key.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// Takes a row away, if it is there.
    Delete {
        /// Where.
        family: Family,
        /// Its key.
        key: Vec<u8>,
    },
    /// Takes away the rows from `from` up to, but without, `to`.
    DeleteRange {
        /// Where.
        family: Family,
        /// The first key that goes.
        from: Vec<u8>,
        /// The first key after it that stays.
        to: Vec<u8>,
    },
}

/// Changes that take effect together, in their order.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    ops: Vec<Op>,
    bytes: usize,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the writing of a row.
    pub fn put(&mut self, family: Family, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        self.ops.push(Op::Put { family, key, value });
    }

    /// Adds the removal of a row.
    pub fn delete(&mut self, family: Family, key: impl Into<Vec<u8>>) {
        let key = key.into();
        self.bytes += key.len();
        self.ops.push(Op::Delete { family, key });
    }

    /// Adds the removal of the rows from `from` up to, but without, `to`.
    pub fn delete_range(&mut self, family: Family, from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) {
        let (from, to) = (from.into(), to.into());
        self.bytes += from.len() + to.len();
        self.ops.push(Op::DeleteRange { family, from, to });
    }

    /// Adds all changes of another batch.
    pub fn append(&mut self, mut other: Self) {
        self.ops.append(&mut other.ops);
        self.bytes += other.bytes;
    }

    /// The changes in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// How many bytes of keys and values it has.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// A row: its key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// The rows of a scan. It sees the store as it was when the scan began, whatever is written meanwhile.
pub type Rows<'a> = Box<dyn Iterator<Item = Result<Row, EngineError>> + 'a>;

/// A store of bytes. Calls block; they are short unless the disk is slow.
pub trait Engine: fmt::Debug + Send + Sync + 'static {
    /// The value of a row.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// The rows with keys in a range.
    fn scan(&self, family: Family, range: KeyRange, order: Order) -> Rows<'_>;

    /// Makes all changes of a batch or, with an error, none that would survive a crash. After an error nothing is known
    /// about what is on disk, and the store must be opened anew.
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), EngineError>;
}

/// Why an engine could not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Someone else has it open.
    #[error("the store in {folder} is in use by another process; stop that one first")]
    InUse {
        /// Where.
        folder: PathBuf,
    },
    /// It has a family that this build does not know.
    #[error("the store in {folder} has a part {family:?} that this build does not know; it was written by a newer one, use that")]
    Newer {
        /// Where.
        folder: PathBuf,
        /// What is unknown.
        family: String,
    },
    /// What is on disk is not what was written there.
    #[error("the store in {folder} is damaged: {why}")]
    Damaged {
        /// Where.
        folder: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It cannot be opened.
    #[error("the store in {folder} cannot be opened: {why}")]
    Open {
        /// Where.
        folder: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A read failed.
    #[error("{family} of the store cannot be read: {why}")]
    Read {
        /// Which part.
        family: Family,
        /// What is wrong.
        why: String,
    },
    /// A write failed.
    #[error("the store cannot be written: {why}")]
    Write {
        /// What is wrong.
        why: String,
    },
}
