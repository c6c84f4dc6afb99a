//! The record: everything the cluster has agreed on, and the one function that changes it.
//!
//! One idea: [`Record::apply`] is deterministic and total. The same entries give the same bytes on every voter, and an
//! entry that is not allowed is answered with a [`Rejection`](crate::command::Rejection), never with a panic.

mod access;
mod apply;
mod ephemeral;
mod fleet;
mod needs;
mod packages;
mod progress;
mod query;
mod queue;
mod recovery;
mod removal;
mod should;
mod table;
mod updates;

use std::sync::Arc;

use rpds::RedBlackTreeMapSync;
use semver::Version;
use serde::{Deserialize, Serialize};

pub use needs::MAX_UNMET;
pub use query::{Waiting, WaitingFor};
pub use table::{Change, Key, Table};
pub use updates::MAX_OPEN_UPDATES;

use crate::command::Response;
use crate::model::{
    Class, ClassName, Cluster, Event, NeedKey, Node, NodeName, Package, PackageId, PackageName, PeerId, Principal, PublicKey,
    RECORD_LEVEL, Removed, RequestId, Retired, Signature, Timestamp, Token, Tombstone, TombstoneKey, Unmet, Update, UpdateId,
};

/// How many ended updates are kept.
pub const KEPT_UPDATES: usize = 1000;
/// How many events are kept.
pub const KEPT_EVENTS: usize = 1000;

/// Where an entry stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPlace {
    /// Its index.
    pub index: u64,
    /// The index of the entry that says who is in Raft here.
    pub membership: u64,
}

/// Why stored bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A table this build does not know.
    #[error("the record has a table {0} that this build does not know; it was written by a newer one")]
    UnknownTable(u8),
    /// A row's key cannot be read.
    #[error("a key in table {table} of the record cannot be read")]
    Key {
        /// Which table.
        table: u8,
    },
    /// A row cannot be read.
    #[error("a row in table {table} of the record cannot be read: {why}")]
    Row {
        /// Which table.
        table: u8,
        /// What is wrong with it.
        why: String,
    },
    /// The record has a newer format.
    #[error("the record has format level {found}; this build knows levels up to {RECORD_LEVEL}")]
    Level {
        /// The level it has.
        found: u32,
    },
}

/// An answer that was given, kept so that a repeat gets it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// When.
    pub at: Timestamp,
    /// What.
    pub response: Response,
}

/// The record. Cloning it costs nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The cluster itself: one row, once it was made.
    clusters: Table<u64, Cluster>,
    nodes: Table<NodeName, Node>,
    classes: Table<ClassName, Class>,
    packages: Table<PackageId, Package>,
    updates: Table<UpdateId, Update>,
    tombstones: Table<TombstoneKey, Tombstone>,
    principals: Table<PublicKey, Principal>,
    tokens: Table<Signature, Token>,
    events: Table<u64, Event>,
    answers: Table<RequestId, Answered>,
    unmet: Table<NeedKey, Unmet>,
    removed: Table<PeerId, Removed>,
    retired: Table<PackageId, Retired>,
    /// Not stored: follows from `packages` and `retired`.
    versions: RedBlackTreeMapSync<(PackageName, Version), PackageId>,
    /// Not stored: follows from `answers`, oldest first.
    answer_ages: RedBlackTreeMapSync<(Timestamp, RequestId), ()>,
}

/// Calls a macro with every table's field and tag. A new table is added here once.
macro_rules! each_table {
    ($record:expr, $call:ident) => {
        $call!($record.clusters);
        $call!($record.nodes);
        $call!($record.classes);
        $call!($record.packages);
        $call!($record.updates);
        $call!($record.tombstones);
        $call!($record.principals);
        $call!($record.tokens);
        $call!($record.events);
        $call!($record.answers);
        $call!($record.unmet);
        $call!($record.removed);
        $call!($record.retired);
    };
}

impl Default for Record {
    fn default() -> Self {
        Self {
            clusters: Table::new(1),
            nodes: Table::new(2),
            classes: Table::new(3),
            packages: Table::new(4),
            updates: Table::new(5),
            tombstones: Table::new(6),
            principals: Table::new(7),
            tokens: Table::new(8),
            events: Table::new(9),
            answers: Table::new(10),
            unmet: Table::new(11),
            removed: Table::new(12),
            retired: Table::new(13),
            versions: RedBlackTreeMapSync::new_sync(),
            answer_ages: RedBlackTreeMapSync::new_sync(),
        }
    }
}

impl Record {
    /// What changed since this was last called, to be written to disk in one batch.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        macro_rules! take {
            ($table:expr) => {
                $table.take_changes(&mut changes)
            };
        }
        each_table!(self, take);
        changes
    }

    /// The whole record as rows, in order of their keys.
    pub fn entries(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
        self.clusters
            .entries()
            .chain(self.nodes.entries())
            .chain(self.classes.entries())
            .chain(self.packages.entries())
            .chain(self.updates.entries())
            .chain(self.tombstones.entries())
            .chain(self.principals.entries())
            .chain(self.tokens.entries())
            .chain(self.events.entries())
            .chain(self.answers.entries())
            .chain(self.unmet.entries())
            .chain(self.removed.entries())
            .chain(self.retired.entries())
    }

    /// The record with these rows.
    pub fn from_entries(entries: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<Self, RecordError> {
        let mut record = Self::default();
        for (key, value) in entries {
            record.load(&key, &value)?;
        }
        for (id, package) in record.packages.iter() {
            let version = (package.manifest.name.clone(), package.manifest.version.clone());
            record.versions.insert_mut(version, *id);
        }
        for (id, retired) in record.retired.iter() {
            record.versions.insert_mut((retired.name.clone(), retired.version.clone()), *id);
        }
        for (id, answered) in record.answers.iter() {
            record.answer_ages.insert_mut((answered.at, *id), ());
        }
        if let Some(cluster) = record.cluster()
            && cluster.level > RECORD_LEVEL
        {
            return Err(RecordError::Level { found: cluster.level });
        }
        Ok(record)
    }

    fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), RecordError> {
        let (tag, key) = key.split_first().ok_or(RecordError::UnknownTable(0))?;
        match tag {
            1 => self.clusters.load(key, value),
            2 => self.nodes.load(key, value),
            3 => self.classes.load(key, value),
            4 => self.packages.load(key, value),
            5 => self.updates.load(key, value),
            6 => self.tombstones.load(key, value),
            7 => self.principals.load(key, value),
            8 => self.tokens.load(key, value),
            9 => self.events.load(key, value),
            10 => self.answers.load(key, value),
            11 => self.unmet.load(key, value),
            12 => self.removed.load(key, value),
            13 => self.retired.load(key, value),
            other => Err(RecordError::UnknownTable(*other)),
        }
    }

    /// The cluster, once it was made.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.clusters.get(&0)
    }

    /// The nodes.
    pub fn nodes(&self) -> &Table<NodeName, Node> {
        &self.nodes
    }

    /// The classes.
    pub fn classes(&self) -> &Table<ClassName, Class> {
        &self.classes
    }

    /// The packages in the store.
    pub fn packages(&self) -> &Table<PackageId, Package> {
        &self.packages
    }

    /// The updates that are kept, oldest first.
    pub fn updates(&self) -> &Table<UpdateId, Update> {
        &self.updates
    }

    /// What was regressed, and is not installed again unless someone says so.
    pub fn tombstones(&self) -> &Table<TombstoneKey, Tombstone> {
        &self.tombstones
    }

    /// Who may do what.
    pub fn principals(&self) -> &Table<PublicKey, Principal> {
        &self.principals
    }

    /// The needs that are not met, as of the last check.
    pub fn unmet(&self) -> &Table<NeedKey, Unmet> {
        &self.unmet
    }

    /// The nodes that are in the cluster no more, by their identities.
    pub fn removed(&self) -> &Table<PeerId, Removed> {
        &self.removed
    }

    /// The last events, oldest first.
    pub fn events(&self) -> &Table<u64, Event> {
        &self.events
    }

    /// The package with this name and version.
    pub fn package_named(&self, name: &PackageName, version: &Version) -> Option<(PackageId, &Package)> {
        let id = self.versions.get(&(name.clone(), version.clone()))?;
        Some((*id, self.packages.get(id)?))
    }
}

/// A record that readers share.
pub type SharedRecord = Arc<Record>;
