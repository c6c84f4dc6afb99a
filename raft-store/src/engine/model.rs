//! The engine for tests and simulations: a disk in memory that loses what was not synced.
//!
//! One idea: every change of the disk is a numbered step, so that a test can cut the power before each of them in turn.
//! After a cut the disk keeps what was synced and, drawn from a seed, some prefix of what was written since: what a
//! write-ahead log and a journaling file system promise, and nothing more.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpds::RedBlackTreeMapSync;

use super::{Batch, Durability, Engine, EngineError, Family, KeyRange, Op, Order, Rows};
use crate::snapshot::model_folder::Files;
pub use crate::snapshot::model_folder::ModelFolder;

type Keys = RedBlackTreeMapSync<Vec<u8>, Arc<[u8]>>;

/// The four families. Cloning them costs nothing.
#[derive(Debug, Clone, Default)]
struct Contents {
    families: [Keys; 4],
}

impl Contents {
    fn family(&self, family: Family) -> &Keys {
        &self.families[family as usize]
    }

    fn apply(&mut self, batch: &Batch) {
        for op in batch.ops() {
            match op {
                Op::Put { family, key, value } => {
                    self.families[*family as usize].insert_mut(key.clone(), value.as_slice().into());
                }
                Op::Delete { family, key } => {
                    self.families[*family as usize].remove_mut(key);
                }
                Op::DeleteRange { family, from, to } => {
                    let keys = &mut self.families[*family as usize];
                    let gone: Vec<_> = keys.keys().filter(|key| *key >= from && *key < to).cloned().collect();
                    for key in gone {
                        keys.remove_mut(&key);
                    }
                }
            }
        }
    }
}

/// What happens at a step of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The power is cut before this step is taken; nothing works until [`ModelDisk::restart`].
    PowerCut {
        /// Before which step.
        step: u64,
    },
    /// This step alone fails.
    Error {
        /// Which.
        step: u64,
    },
    /// The disk is full from this step on.
    Full {
        /// From which step on.
        step: u64,
    },
}

#[derive(Debug)]
pub(crate) struct Disk {
    /// How often it was started: a handle from before is dead.
    boot: u64,
    powered: bool,
    step: u64,
    fault: Option<Fault>,
    takes: Duration,
    random: u64,
    contents: Contents,
    synced: Contents,
    /// The contents after each write since the last synced one.
    unsynced: Vec<Contents>,
    pub(crate) files: Files,
}

impl Disk {
    /// Takes one step, unless it is the one that fails.
    pub(crate) fn take_step(&mut self, boot: u64) -> Result<(), String> {
        self.check_power(boot)?;
        let step = self.step;
        self.step += 1;
        match self.fault {
            Some(Fault::PowerCut { step: at }) if step >= at => {
                self.powered = false;
                Err("the power is off".into())
            }
            Some(Fault::Error { step: at }) if step == at => Err(format!("injected error at step {step}")),
            Some(Fault::Full { step: at }) if step >= at => Err("no space left on device".into()),
            _ => Ok(()),
        }
    }

    pub(crate) fn check_power(&self, boot: u64) -> Result<(), String> {
        if self.powered && self.boot == boot { Ok(()) } else { Err("the power is off".into()) }
    }

    /// A number below `bound`, drawn from the seed (splitmix64).
    pub(crate) fn draw(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // Below a usize, so it fits.
        (z % bound.max(1) as u64) as usize
    }

    fn lose_unsynced(&mut self) {
        let kept = self.draw(self.unsynced.len() + 1);
        if let Some(last) = kept.checked_sub(1) {
            self.synced = self.unsynced[last].clone();
        }
        self.unsynced.clear();
        self.contents = self.synced.clone();
        let mut files = std::mem::take(&mut self.files);
        files.lose_unsynced(self);
        self.files = files;
    }
}

/// A disk in memory: an engine and a folder. Clones are the same disk.
#[derive(Clone)]
pub struct ModelDisk {
    disk: Arc<Mutex<Disk>>,
}

impl fmt::Debug for ModelDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.lock();
        f.debug_struct("ModelDisk").field("boot", &disk.boot).field("step", &disk.step).field("fault", &disk.fault).finish()
    }
}

impl ModelDisk {
    /// An empty disk. The seed decides what a cut of power leaves of the writes that were not synced.
    pub fn new(seed: u64) -> Self {
        let disk = Disk {
            boot: 0,
            powered: true,
            step: 0,
            fault: None,
            takes: Duration::ZERO,
            random: seed,
            contents: Contents::default(),
            synced: Contents::default(),
            unsynced: Vec::new(),
            files: Files::default(),
        };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Disk> {
        // A panic elsewhere leaves the disk as a cut would: usable.
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine on it, good until the power is cut or the disk restarted.
    pub fn engine(&self) -> ModelEngine {
        ModelEngine { boot: self.lock().boot, disk: self.clone() }
    }

    /// The folder on it, good until the power is cut or the disk restarted.
    pub fn folder(&self) -> ModelFolder {
        let boot = self.lock().boot;
        ModelFolder::new(self.clone(), boot)
    }

    /// How many steps were taken: each write of the engine, each sync, and each change of a file or a folder is one.
    pub fn steps(&self) -> u64 {
        self.lock().step
    }

    /// What will go wrong, and when.
    pub fn plan(&self, fault: Option<Fault>) {
        self.lock().fault = fault;
    }

    /// How long whatever is written takes from now on.
    pub fn slow_down(&self, takes: Duration) {
        self.lock().takes = takes;
    }

    /// How long whatever is written takes now.
    pub fn takes(&self) -> Duration {
        self.lock().takes
    }

    /// Every write fails from now on, as on a disk that is full, until [`ModelDisk::plan`] says otherwise.
    pub fn fill(&self) {
        let mut disk = self.lock();
        disk.fault = Some(Fault::Full { step: disk.step });
    }

    /// Whether the power was cut.
    pub fn is_off(&self) -> bool {
        !self.lock().powered
    }

    /// Cuts the power now and starts the disk again: what was not synced is lost, all handles are dead, no fault is planned.
    pub fn restart(&self) {
        let mut disk = self.lock();
        disk.lose_unsynced();
        disk.boot += 1;
        disk.powered = true;
        disk.fault = None;
    }
}

/// The engine of a [`ModelDisk`].
#[derive(Debug, Clone)]
pub struct ModelEngine {
    disk: ModelDisk,
    boot: u64,
}

impl ModelEngine {
    fn read(&self, family: Family) -> Result<Keys, EngineError> {
        let disk = self.disk.lock();
        disk.check_power(self.boot).map_err(|why| EngineError::Read { family, why })?;
        Ok(disk.contents.family(family).clone())
    }
}

impl Engine for ModelEngine {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.read(family)?.get(key).map(|value| value.to_vec()))
    }

    fn scan(&self, family: Family, range: KeyRange, order: Order) -> Rows<'_> {
        let keys = match self.read(family) {
            Ok(keys) => keys,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        if range.is_empty() {
            return Box::new(std::iter::empty());
        }
        // The tree is a snapshot; the next row is found by the key of the one before.
        let mut left = range;
        Box::new(std::iter::from_fn(move || {
            let inside = |key: &Vec<u8>| left.to.as_ref().is_none_or(|to| key < to);
            match order {
                Order::Ascending => {
                    let (key, value) = keys.range(left.from.clone()..).next().filter(|(key, _)| inside(key))?;
                    let row = (key.clone(), value.to_vec());
                    left.from = [key.as_slice(), &[0]].concat();
                    Some(Ok(row))
                }
                Order::Descending => {
                    let found = match left.to.clone() {
                        Some(to) if to <= left.from => None,
                        Some(to) => keys.range(left.from.clone()..to).next_back(),
                        None => keys.range(left.from.clone()..).next_back(),
                    };
                    let (key, value) = found?;
                    let row = (key.clone(), value.to_vec());
                    left.to = Some(key.clone());
                    Some(Ok(row))
                }
            }
        }))
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), EngineError> {
        let mut disk = self.disk.lock();
        let error = |why| EngineError::Write { why };
        disk.take_step(self.boot).map_err(error)?;
        disk.contents.apply(&batch);
        let after = disk.contents.clone();
        disk.unsynced.push(after);
        if durability == Durability::Synced {
            disk.take_step(self.boot).map_err(error)?;
            disk.synced = disk.contents.clone();
            disk.unsynced.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(engine: &ModelEngine, key: u8, durability: Durability) {
        let mut batch = Batch::new();
        batch.put(Family::State, [key], [key]);
        engine.write(batch, durability).unwrap();
    }

    fn keys(engine: &ModelEngine, order: Order) -> Vec<u8> {
        engine.scan(Family::State, KeyRange::all(), order).map(|row| row.unwrap().0[0]).collect()
    }

    #[test]
    fn a_cut_of_power_leaves_what_was_synced_and_a_prefix_of_the_rest() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let disk = ModelDisk::new(seed);
            let engine = disk.engine();
            put(&engine, 1, Durability::Buffered);
            put(&engine, 2, Durability::Synced);
            put(&engine, 3, Durability::Buffered);
            put(&engine, 4, Durability::Buffered);
            disk.restart();
            let left = keys(&disk.engine(), Order::Ascending);
            assert!([1, 2, 3, 4].starts_with(&left) && left.len() >= 2, "{left:?}");
            seen.insert(left.len());
            assert!(engine.get(Family::State, &[1]).is_err(), "a handle from before the cut is dead");
        }
        assert_eq!(seen.len(), 3, "every prefix comes up");
    }

    #[test]
    fn scans_go_both_ways_and_keep_to_their_range() {
        let disk = ModelDisk::new(0);
        let engine = disk.engine();
        (1..=5).for_each(|key| put(&engine, key, Durability::Buffered));
        assert_eq!(keys(&engine, Order::Descending), [5, 4, 3, 2, 1]);
        let within: Vec<_> =
            engine.scan(Family::State, KeyRange::new([2], [4]), Order::Descending).map(|r| r.unwrap().0[0]).collect();
        assert_eq!(within, [3, 2]);
        let mut batch = Batch::new();
        batch.delete_range(Family::State, [2], [5]);
        engine.write(batch, Durability::Buffered).unwrap();
        assert_eq!(keys(&engine, Order::Ascending), [1, 5]);
    }
}
