//! What a log looks like now, whatever of it has reached the disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{key, read_entry};
use crate::engine::{Family, KeyRange, Order};
use crate::raft_types::{LogEntry, LogId, Replicated, Vote};
use crate::store::StoreError;
use crate::writer::OpenEngine;

/// Which append an entry came with. Greater is later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pass(u64);

#[derive(Debug)]
struct Pending<S: Replicated> {
    pass: Pass,
    entry: Arc<LogEntry<S>>,
    bytes: usize,
}

/// How much is read at once: entries until one goes over one of these, and at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    pub entries: usize,
    pub bytes: usize,
}

impl Limit {
    pub const NONE: Self = Self { entries: usize::MAX, bytes: usize::MAX };
}

/// The log's edges, and its newest entries.
#[derive(Debug)]
pub(super) struct Live<S: Replicated> {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    purged: Option<LogId>,
    /// The first index and the last entry, if there are any. Nothing outside of it is seen.
    range: Option<(u64, LogId)>,
    /// The entries that may not be on disk yet: always the end of the range.
    pending: BTreeMap<u64, Pending<S>>,
    passes: u64,
}

impl<S: Replicated> Live<S> {
    pub fn new(vote: Option<Vote>, committed: Option<LogId>, purged: Option<LogId>, range: Option<(u64, LogId)>) -> Self {
        Self { vote, committed, purged, range, pending: BTreeMap::new(), passes: 0 }
    }

    pub fn purged(&self) -> Option<&LogId> {
        self.purged.as_ref()
    }

    /// The last entry, or the last that was purged if there is none.
    pub fn last(&self) -> Option<&LogId> {
        self.range.as_ref().map(|(_, last)| last).or(self.purged.as_ref())
    }

    /// Adds entries with the lengths of their bytes. They must follow each other and the log's end.
    pub fn append(&mut self, entries: Vec<(LogEntry<S>, usize)>) -> Result<Pass, StoreError> {
        let mut expected = self.last().map(|last| last.index + 1);
        for (entry, _) in &entries {
            let found = entry.log_id.index;
            if expected.is_some_and(|expected| expected != found) {
                return Err(StoreError::Hole { found, expected: expected.unwrap_or(0) });
            }
            expected = found.checked_add(1);
        }
        self.passes += 1;
        let pass = Pass(self.passes);
        for (entry, bytes) in entries {
            let id = entry.log_id;
            self.pending.insert(id.index, Pending { pass, entry: Arc::new(entry), bytes });
            let first = self.range.as_ref().map_or(id.index, |(first, _)| *first);
            self.range = Some((first, id));
        }
        Ok(pass)
    }

    /// The entries of this append and of those before it are on disk.
    pub fn on_disk(&mut self, pass: Pass) {
        self.pending.retain(|_, pending| pending.pass > pass);
    }

    /// Cuts the end off. Gives what is to be deleted on disk: the first index, and the first after it that stays.
    pub fn truncate_after(&mut self, last: Option<LogId>) -> Option<(u64, u64)> {
        let (first, end) = self.range?;
        let kept = last.filter(|last| last.index >= first);
        let from = kept.as_ref().map_or(first, |last| last.index.saturating_add(1));
        if from > end.index {
            return None;
        }
        self.range = kept.map(|last| (first, last));
        self.pending.split_off(&from);
        Some((from, end.index.saturating_add(1)))
    }

    /// Cuts the beginning off, up to and with this entry. Gives what is to be deleted on disk.
    pub fn purge(&mut self, upto: LogId) -> Option<(u64, u64)> {
        if self.purged.as_ref().is_none_or(|purged| *purged < upto) {
            self.purged = Some(upto);
        }
        let (first, last) = self.range?;
        if upto.index < first {
            return None;
        }
        let next = upto.index.saturating_add(1);
        self.pending = self.pending.split_off(&next);
        self.range = (next <= last.index).then_some((next, last));
        Some((first, next.min(last.index.saturating_add(1))))
    }
}

/// A log that several read.
#[derive(Debug)]
pub(super) struct Shared<S: Replicated> {
    engine: Arc<OpenEngine>,
    live: Mutex<Live<S>>,
}

impl<S: Replicated> Shared<S> {
    pub fn new(engine: Arc<OpenEngine>, live: Live<S>) -> Self {
        Self { engine, live: Mutex::new(live) }
    }

    pub fn live(&self) -> MutexGuard<'_, Live<S>> {
        // Nothing that is done under the lock can panic half way.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entries from `start` up to, but without, `end`; those of them that the log has. One that it should have and
    /// has not is an error.
    pub fn read(&self, start: u64, end: u64, limit: Limit) -> Result<Vec<LogEntry<S>>, StoreError> {
        let live = self.live();
        let Some((first, last)) = live.range.as_ref() else { return Ok(Vec::new()) };
        let start = start.max(*first);
        let end = end.min(last.index.saturating_add(1));
        if start >= end {
            return Ok(Vec::new());
        }
        let on_disk_until = live.pending.keys().next().map_or(end, |index| (*index).clamp(start, end));
        // The scan sees the disk as it is now, under the lock; what is deleted later stays in it.
        let rows = self.engine.scan(Family::Log, KeyRange::new(key(start), key(on_disk_until)), Order::Ascending);
        let pending: Vec<_> = live.pending.range(on_disk_until..end).map(|(_, p)| (Arc::clone(&p.entry), p.bytes)).collect();
        drop(live);
        let mut gathered = Gathered::<S> { entries: Vec::new(), bytes: 0, next: start, limit };
        for row in rows {
            let (key, value) = row?;
            let bytes = value.len();
            let entry = match read_entry::<S>(&key, &value) {
                // What comes before one that cannot be read is given first.
                Err(_) if limit != Limit::NONE && !gathered.entries.is_empty() => return Ok(gathered.entries),
                read => read?,
            };
            if !gathered.add(entry, bytes)? {
                return Ok(gathered.entries);
            }
        }
        for (entry, bytes) in pending {
            if !gathered.add(entry.as_ref().clone(), bytes)? {
                return Ok(gathered.entries);
            }
        }
        if gathered.next < end {
            return Err(StoreError::Missing { index: gathered.next });
        }
        Ok(gathered.entries)
    }
}

struct Gathered<S: Replicated> {
    entries: Vec<LogEntry<S>>,
    bytes: usize,
    next: u64,
    limit: Limit,
}

impl<S: Replicated> Gathered<S> {
    /// Adds the next entry; says whether there is room for another.
    fn add(&mut self, entry: LogEntry<S>, bytes: usize) -> Result<bool, StoreError> {
        if entry.log_id.index != self.next {
            return Err(StoreError::Missing { index: self.next });
        }
        self.next += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.entries.push(entry);
        Ok(self.entries.len() < self.limit.entries && self.bytes < self.limit.bytes)
    }
}
