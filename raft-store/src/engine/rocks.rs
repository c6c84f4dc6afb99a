//! The engine that ships: one RocksDB with four column families.
//!
//! One idea: its settings are those of a small daemon that must lose nothing. Buffers and files are few, because an
//! idle node's memory counts; a damaged log is an error at the next start, because silence would lose entries.

use std::fs::File;
use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, ErrorKind,
    IteratorMode, LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};

use super::{Batch, Durability, Engine, EngineError, Family, KeyRange, Op, Order, Rows};

/// Memory for one family's newest rows. Raft's entries are small and the record has at most 64 MiB.
const WRITE_BUFFER: usize = 2 << 20;
/// Memory for the newest rows of all families.
const WRITE_BUFFERS: usize = 6 << 20;
/// Memory for blocks that were read.
const BLOCK_CACHE: usize = 4 << 20;
/// How much write-ahead log is kept before it is flushed.
const WAL_BYTES: u64 = 32 << 20;
/// How many files are kept open.
const OPEN_FILES: i32 = 128;
/// The size of one of RocksDB's own log files, and how many of them are kept.
const INFO_LOG_BYTES: usize = 1 << 20;
const INFO_LOGS: usize = 2;

/// A RocksDB in a folder of its own.
pub struct RocksEngine {
    db: DB,
}

impl std::fmt::Debug for RocksEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksEngine").field("folder", &self.db.path()).finish()
    }
}

impl RocksEngine {
    /// Opens the store in a folder, or makes a new one there. Only one process can have it open.
    pub fn open(folder: &Path) -> Result<Self, EngineError> {
        let options = database_options();
        refuse_remains(folder)?;
        refuse_unknown_families(&options, folder)?;
        let cache = Cache::new_lru_cache(BLOCK_CACHE);
        let families = Family::ALL.map(|family| ColumnFamilyDescriptor::new(family.name(), family_options(&cache)));
        let default = ColumnFamilyDescriptor::new("default", family_options(&cache));
        let db = DB::open_cf_descriptors(&options, folder, families.into_iter().chain([default]))
            .map_err(|e| open_error(folder, &e))?;
        // RocksDB makes what is in its folder durable, and not the folder's own name.
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let named = File::open(parent).and_then(|parent| parent.sync_all());
        named.map_err(|error| EngineError::Open { folder: folder.to_owned(), why: format!("fsync of its parent: {error}") })?;
        Ok(Self { db })
    }

    /// Opens the store that is in a folder for reading alone: no byte of it is changed, and another process may have it open.
    pub fn open_read_only(folder: &Path) -> Result<Self, EngineError> {
        refuse_remains(folder)?;
        let mut options = database_options();
        options.create_if_missing(false);
        options.create_missing_column_families(false);
        // A process that has it open may remove files meanwhile: those that are open stay readable.
        options.set_max_open_files(-1);
        let cache = Cache::new_lru_cache(BLOCK_CACHE);
        refuse_unknown_families(&options, folder)?;
        let families = Family::ALL.map(|family| ColumnFamilyDescriptor::new(family.name(), family_options(&cache)));
        let default = ColumnFamilyDescriptor::new("default", family_options(&cache));
        let db = DB::open_cf_descriptors_read_only(&options, folder, families.into_iter().chain([default]), false)
            .map_err(|e| open_error(folder, &e))?;
        Ok(Self { db })
    }

    fn read_error(&self, family: Family, error: &rocksdb::Error) -> EngineError {
        let why = error.to_string();
        if is_damage(error) {
            EngineError::Damaged { folder: self.db.path().to_owned(), why }
        } else {
            EngineError::Read { family, why }
        }
    }

    fn family(&self, family: Family) -> Result<&ColumnFamily, EngineError> {
        self.db.cf_handle(family.name()).ok_or_else(|| EngineError::Read { family, why: "it was not opened".into() })
    }
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // The default recovery drops what follows a bad record without a word; this one accepts only a torn tail.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    options.set_max_total_wal_size(WAL_BYTES);
    options.set_db_write_buffer_size(WRITE_BUFFERS);
    options.set_max_open_files(OPEN_FILES);
    options.set_max_background_jobs(2);
    options.set_max_log_file_size(INFO_LOG_BYTES);
    options.set_keep_log_file_num(INFO_LOGS);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options
}

fn family_options(cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(WRITE_BUFFER);
    options.set_max_write_buffer_number(2);
    options
}

fn refuse_unknown_families(options: &Options, folder: &Path) -> Result<(), EngineError> {
    if !folder.join("CURRENT").exists() {
        return Ok(());
    }
    let found = DB::list_cf(options, folder).map_err(|e| open_error(folder, &e))?;
    let known = |name: &str| name == "default" || Family::ALL.iter().any(|family| family.name() == name);
    match found.into_iter().find(|name| !known(name)) {
        Some(family) => Err(EngineError::Newer { folder: folder.into(), family }),
        None => Ok(()),
    }
}

/// Refuses what is left of a store whose first file is gone: RocksDB would make a new, empty one of it.
fn refuse_remains(folder: &Path) -> Result<(), EngineError> {
    let remains = |name: &str| name.starts_with("MANIFEST-") || name.ends_with(".sst") || name.ends_with(".log");
    if folder.join("CURRENT").exists() {
        return Ok(());
    }
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    match files.map(|file| file.file_name().to_string_lossy().into_owned()).find(|name| remains(name)) {
        Some(found) => Err(EngineError::Damaged { folder: folder.into(), why: format!("it has {found}, and no file CURRENT") }),
        None => Ok(()),
    }
}

fn open_error(folder: &Path, error: &rocksdb::Error) -> EngineError {
    let why = error.to_string();
    let folder = folder.to_owned();
    if why.contains("lock file") || why.contains("lock hold by current process") {
        EngineError::InUse { folder }
    } else if is_damage(error) {
        EngineError::Damaged { folder, why }
    } else {
        EngineError::Open { folder, why }
    }
}

/// Whether what is on disk is to blame: a checksum that is wrong, or a file that is gone.
fn is_damage(error: &rocksdb::Error) -> bool {
    error.kind() == ErrorKind::Corruption || error.as_ref().contains("No such file or directory")
}

impl Engine for RocksEngine {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.db.get_cf(self.family(family)?, key).map_err(|e| self.read_error(family, &e))
    }

    fn scan(&self, family: Family, range: KeyRange, order: Order) -> Rows<'_> {
        if range.is_empty() {
            return Box::new(std::iter::empty());
        }
        let handle = match self.family(family) {
            Ok(handle) => handle,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(range.from);
        if let Some(to) = range.to {
            options.set_iterate_upper_bound(to);
        }
        let mode = match order {
            Order::Ascending => IteratorMode::Start,
            Order::Descending => IteratorMode::End,
        };
        let rows = self.db.iterator_cf_opt(handle, options, mode);
        Box::new(rows.map(move |row| match row {
            Ok((key, value)) => Ok((key.into_vec(), value.into_vec())),
            Err(e) => Err(self.read_error(family, &e)),
        }))
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), EngineError> {
        let mut changes = WriteBatch::default();
        for op in batch.ops() {
            match op {
                Op::Put { family, key, value } => changes.put_cf(self.family(*family)?, key, value),
                Op::Delete { family, key } => changes.delete_cf(self.family(*family)?, key),
                // RocksDB takes a range that ends before it begins for an error.
                Op::DeleteRange { from, to, .. } if to <= from => {}
                Op::DeleteRange { family, from, to } => changes.delete_range_cf(self.family(*family)?, from, to),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        self.db.write_opt(changes, &options).map_err(|e| EngineError::Write { why: e.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_open_is_refused_with_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let _open = RocksEngine::open(folder.path()).unwrap();
        let error = RocksEngine::open(folder.path()).unwrap_err();
        assert_eq!(error, EngineError::InUse { folder: folder.path().into() });
    }

    #[test]
    fn a_store_with_an_unknown_part_is_refused_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        drop(RocksEngine::open(folder.path()).unwrap());
        let mut db =
            DB::open_cf(&database_options(), folder.path(), DB::list_cf(&Options::default(), folder.path()).unwrap()).unwrap();
        db.create_cf("from-tomorrow", &Options::default()).unwrap();
        drop(db);
        let error = RocksEngine::open(folder.path()).unwrap_err();
        assert_eq!(error, EngineError::Newer { folder: folder.path().into(), family: "from-tomorrow".into() });
    }

    #[test]
    fn a_damaged_log_is_an_error_and_not_a_shorter_store() {
        let folder = tempfile::tempdir().unwrap();
        let engine = RocksEngine::open(folder.path()).unwrap();
        for n in 0..200_u32 {
            let mut batch = Batch::new();
            batch.put(Family::Log, n.to_be_bytes(), [7; 1000]);
            engine.write(batch, Durability::Synced).unwrap();
        }
        // A copy, as the killed process would leave it: closing the store would flush it.
        let copy = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        let wal = std::fs::read_dir(copy.path())
            .unwrap()
            .map(|f| f.unwrap().path())
            .find(|p| p.extension().is_some_and(|e| e == "log"));
        let wal = wal.unwrap();
        let mut bytes = std::fs::read(&wal).unwrap();
        bytes[50_000] ^= 1;
        std::fs::write(&wal, bytes).unwrap();
        let error = RocksEngine::open(copy.path()).unwrap_err();
        assert!(matches!(&error, EngineError::Damaged { folder, .. } if folder == copy.path()), "{error}");
        assert!(error.to_string().contains("orruption"), "{error}");
    }

    #[test]
    fn a_damaged_table_is_an_error_when_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let engine = RocksEngine::open(folder.path()).unwrap();
        let mut batch = Batch::new();
        for n in 0..2000_u32 {
            batch.put(Family::Log, n.to_be_bytes(), blake3::hash(&n.to_be_bytes()).as_bytes().repeat(8));
        }
        engine.write(batch, Durability::Synced).unwrap();
        engine.db.flush_cf(engine.family(Family::Log).unwrap()).unwrap();
        drop(engine);
        let files = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
        let table = files
            .filter(|path| path.extension().is_some_and(|ending| ending == "sst"))
            .max_by_key(|path| path.metadata().unwrap().len());
        let table = table.unwrap();
        let mut bytes = std::fs::read(&table).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&table, bytes).unwrap();
        let engine = RocksEngine::open(folder.path()).unwrap();
        let error = engine.scan(Family::Log, KeyRange::all(), Order::Ascending).find_map(Result::err).unwrap();
        assert!(matches!(&error, EngineError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(&format!("the store in {} is damaged", folder.path().display())), "{error}");
    }

    #[test]
    fn what_is_left_of_a_store_is_not_taken_for_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        drop(RocksEngine::open(folder.path()).unwrap());
        std::fs::remove_file(folder.path().join("CURRENT")).unwrap();
        let error = RocksEngine::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("no file CURRENT"), "{error}");
        assert!(matches!(error, EngineError::Damaged { .. }));
    }
}
