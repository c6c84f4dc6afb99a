//! The file of a backup: whole under its name, checked and on disk, or not there. And the checking of one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Seek};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use tribune_master::store_blobs;
use tribune_p2p::blocking::{self, BlockingFile};
use tribune_raft_store::machine::Applied;
use tribune_raft_store::model::Signature;
use tribune_raft_store::record::Record;
use tribune_raft_store::snapshot::format::MAX_SNAPSHOT;
use tribune_raft_store::stopped::read_record;

use super::format::{About, Kind, Reader};
use super::make::{BackupError, file_error, incomplete};

/// How much is read at a time.
const STEP: usize = 256 << 10;

/// A backup that is being written, beside its place. It is removed unless it is finished.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    file: NamedTempFile,
}

impl Draft {
    /// Begins a backup that will lie at this path.
    ///
    /// # Errors
    /// There is something already, or its folder cannot be written.
    pub fn begin(path: &Path) -> Result<Self, BackupError> {
        if path.symlink_metadata().is_ok() {
            return Err(BackupError::Exists(path.to_owned()));
        }
        let folder = folder_of(path);
        let file = tempfile::Builder::new().prefix(".backup-").tempfile_in(folder);
        Ok(Self { path: path.to_owned(), file: file.map_err(file_error("make a file in", folder))? })
    }

    /// Where its bytes go.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn writer(&self) -> Result<BlockingFile, BackupError> {
        let file = self.file.as_file().try_clone().map_err(file_error("write", &self.path))?;
        Ok(blocking::file(file))
    }

    /// Checks what was written to its last byte, and puts it in its place; gives what it is of, and its size in bytes.
    ///
    /// # Errors
    /// It is not whole, there is something at its place by now, or the disk failed.
    pub fn finish(self) -> Result<(About, u64), BackupError> {
        let Self { path, file } = self;
        file.as_file().sync_all().map_err(file_error("fsync", &path))?;
        let mut written = file.as_file().try_clone().map_err(file_error("read", &path))?;
        let Checked { about, .. } = check_file(&mut written, &path)?;
        let size = file.as_file().metadata().map_err(file_error("look at", &path))?.len();
        file.persist_noclobber(&path).map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => BackupError::Exists(path.clone()),
            _ => file_error("put in its place", &path)(error.error),
        })?;
        let folder = folder_of(&path);
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(file_error("fsync", folder))?;
        Ok((about, size))
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A backup of which every byte was found right.
#[derive(Debug)]
pub struct Checked {
    /// What it is of.
    pub about: About,
    /// The record.
    pub applied: Applied<Record>,
    /// Where each module begins in the file, and how many bytes it has.
    pub modules: BTreeMap<Signature, (u64, u64)>,
}

/// Checks a backup to its last byte.
///
/// # Errors
/// What is wrong with it.
pub fn check(path: &Path) -> Result<Checked, BackupError> {
    let mut file = File::open(path).map_err(file_error("open", path))?;
    check_file(&mut file, path)
}

fn check_file(file: &mut File, path: &Path) -> Result<Checked, BackupError> {
    file.rewind().map_err(file_error("read", path))?;
    let refused = |why| BackupError::Refused { path: path.to_owned(), why };
    let wrong = |why: String| BackupError::Inconsistent { path: path.to_owned(), why };
    let mut reader = Reader::begin(BufReader::with_capacity(STEP, file)).map_err(refused)?;
    let about = reader.about().map_err(refused)?;
    let Some((Kind::Record, length)) = reader.next_part().map_err(refused)? else {
        return Err(wrong("it has no record".into()));
    };
    if length > MAX_SNAPSHOT {
        return Err(wrong(format!("its record has {length} bytes; at most {MAX_SNAPSHOT} are possible")));
    }
    let failed = |source| BackupError::File { action: "keep the record of", path: path.to_owned(), source };
    let mut record = tempfile::tempfile().map_err(failed)?;
    reader.copy(length, &mut record).map_err(refused)?;
    record.rewind().map_err(failed)?;
    let applied = read_record(BufReader::with_capacity(STEP, record)).map_err(|error| wrong(error.to_string()))?;
    let mut modules = BTreeMap::new();
    while let Some((_, length)) = reader.next_part().map_err(refused)? {
        let begins = reader.position();
        let hash = reader.copy(length, io::sink()).map_err(refused)?;
        modules.insert(Signature::new(*hash.as_bytes()), (begins, length));
    }
    let cluster = applied.state.cluster().ok_or_else(|| wrong("its record is of no cluster".into()))?;
    if (cluster.id, cluster.epoch) != (about.cluster, about.epoch) || modules.len() as u64 != about.modules {
        return Err(wrong("its parts are of different backups".into()));
    }
    let lacks = incomplete(&applied.state, |signature| modules.contains_key(signature));
    if !lacks.iter().eq(&about.incomplete) {
        return Err(wrong(format!("it lacks modules of {lacks:?}, and says that it lacks those of {:?}", about.incomplete)));
    }
    let wanted = store_blobs(&applied.state);
    let fits = |(signature, (_, length)): (&Signature, &(u64, u64))| wanted.get(signature) == Some(length);
    if !modules.iter().all(fits) {
        return Err(wrong("it has a module that no package of its record has".into()));
    }
    Ok(Checked { about, applied, modules })
}
