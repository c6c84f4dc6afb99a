//! What goes into a backup, and the writing of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tribune_keeper::Hold;
use tribune_master::store_blobs;
use tribune_p2p::blobs::{BlobError, BlobStore, Condition};
use tribune_p2p::{Hasher, blocking};
use tribune_raft_store::machine::Applied;
use tribune_raft_store::model::{NodeName, RaftRole, Signature};
use tribune_raft_store::record::Record;
use tribune_raft_store::snapshot::format as snapshot;
use tribune_raft_store::stopped::{RecordFileError, StoppedStore, write_record};

use super::format::{AROUND, About, EDGES, FORMAT, FormatError, Kind, MAGIC};
use super::save::Draft;
use crate::belief::{Belief, BeliefKeeper};
use crate::data::DataFolder;
use crate::error::NodeError;
use crate::facts::VERSION;
use crate::recovery::force::not_in_raft;
use crate::recovery::found::time_of;
use crate::recovery::shown::now;
use crate::settings::Settings;
use crate::store::hash_of;

/// How much of the record is read at a time.
const STEP: usize = 256 << 10;

/// Why a backup was not made, or is not used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file is none that can be used.
    #[error("{} is refused: {why}", path.display())]
    Refused {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: FormatError,
    },
    /// What is in the file does not fit together.
    #[error("{} is refused: {why}", path.display())]
    Inconsistent {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is something at its place already.
    #[error("{} exists already, and a backup never takes the place of another: name a new file", .0.display())]
    Exists(PathBuf),
    /// A file failed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The record cannot be written as a snapshot.
    #[error("the record cannot be written: {0}")]
    Record(#[from] snapshot::FormatError),
    /// The record that was written cannot be read.
    #[error("the record cannot be read: {0}")]
    Unreadable(#[from] RecordFileError),
    /// The package store failed.
    #[error("the package store: {0}")]
    Store(#[from] BlobError),
    /// What it goes to failed.
    #[error("the backup cannot be written: {0}")]
    Write(io::Error),
    /// There is no record yet.
    #[error("the cluster was not made yet")]
    NoCluster,
    /// The node.
    #[error(transparent)]
    Node(#[from] Box<NodeError>),
}

impl From<NodeError> for BackupError {
    fn from(error: NodeError) -> Self {
        Self::Node(Box::new(error))
    }
}

/// A file error with its place.
pub(super) fn file_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BackupError + 'a {
    move |source| BackupError::File { action, path: path.to_owned(), source }
}

/// Writes a backup, part by part.
pub struct Writer<W> {
    to: W,
    all: Hasher,
    part: Hasher,
    parts: u64,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes how it begins.
    ///
    /// # Errors
    /// What it goes to failed; so for the others.
    pub async fn begin(to: W) -> io::Result<Self> {
        let mut writer = Self { to, all: Hasher::new(), part: Hasher::new(), parts: 0 };
        writer.raw(MAGIC).await?;
        writer.raw(&FORMAT.to_be_bytes()).await?;
        Ok(writer)
    }

    async fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.all.update(bytes);
        self.to.write_all(bytes).await
    }

    /// Begins a part of so many bytes, which are to be [put](Self::put) next.
    ///
    /// # Errors
    /// As [`Writer::begin`].
    pub async fn begin_part(&mut self, kind: Kind, length: u64) -> io::Result<()> {
        self.part = Hasher::new();
        self.parts += 1;
        self.raw(&[kind.byte()]).await?;
        self.raw(&length.to_be_bytes()).await
    }

    /// The next bytes of the part.
    ///
    /// # Errors
    /// As [`Writer::begin`].
    pub async fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.part.update(bytes);
        self.raw(bytes).await
    }

    /// Ends the part.
    ///
    /// # Errors
    /// As [`Writer::begin`].
    pub async fn end_part(&mut self) -> io::Result<()> {
        let hash = self.part.finalize();
        self.raw(hash.as_bytes()).await
    }

    /// Writes the end.
    ///
    /// # Errors
    /// As [`Writer::begin`].
    pub async fn finish(mut self) -> io::Result<()> {
        self.raw(&[0]).await?;
        let parts = self.parts;
        self.raw(&parts.to_be_bytes()).await?;
        let hash = self.all.finalize();
        self.to.write_all(hash.as_bytes()).await?;
        self.to.flush().await
    }
}

/// Everything that goes into one backup.
#[derive(Debug)]
pub struct Contents {
    about: Vec<u8>,
    record: File,
    record_bytes: u64,
    modules: BTreeMap<Signature, u64>,
    blobs: BlobStore,
}

impl Contents {
    /// Gathers a record, and of the modules that its packages have those that are `sound` in this store. The record is written to a file
    /// without a name in `scratch` meanwhile.
    ///
    /// # Errors
    /// There is no record, or the disk failed.
    pub fn gather(
        applied: &Applied<Record>,
        node: NodeName,
        (blobs, sound): (BlobStore, &BTreeSet<Signature>),
        scratch: &Path,
    ) -> Result<Self, BackupError> {
        let record = &applied.state;
        let cluster = record.cluster().ok_or(BackupError::NoCluster)?;
        let wanted = store_blobs(record);
        let modules: BTreeMap<Signature, u64> = wanted.into_iter().filter(|(signature, _)| sound.contains(signature)).collect();
        let about = About {
            cluster: cluster.id,
            epoch: cluster.epoch,
            node,
            version: VERSION.to_owned(),
            made_at: now(),
            index: applied.last_applied.as_ref().map_or(0, |last| last.index),
            last_written: time_of(record),
            modules: modules.len() as u64,
            incomplete: incomplete(record, |signature| modules.contains_key(signature)).into_iter().collect(),
        };
        let about = serde_json::to_vec(&about).map_err(|error| BackupError::Write(io::Error::other(error)))?;
        let failed = || file_error("write the record to a file in", scratch);
        let mut file = tempfile::tempfile_in(scratch).map_err(failed())?;
        let mut to = BufWriter::with_capacity(STEP, &mut file);
        let record_bytes = write_record(applied, &mut to)?;
        to.flush().map_err(failed())?;
        drop(to);
        file.rewind().map_err(failed())?;
        Ok(Self { about, record: file, record_bytes, modules, blobs })
    }

    /// How many bytes the backup will have.
    pub fn size(&self) -> u64 {
        let parts = 2 + self.modules.len() as u64;
        EDGES + parts * AROUND + self.about.len() as u64 + self.record_bytes + self.modules.values().sum::<u64>()
    }

    /// Writes it.
    ///
    /// # Errors
    /// What it goes to failed, or a module was found damaged: what was written is of no use then.
    pub async fn write(self, to: impl AsyncWrite + Unpin) -> Result<(), BackupError> {
        let Self { about, record, record_bytes, modules, blobs } = self;
        let mut writer = Writer::begin(to).await.map_err(BackupError::Write)?;
        writer.begin_part(Kind::About, about.len() as u64).await.map_err(BackupError::Write)?;
        writer.put(&about).await.map_err(BackupError::Write)?;
        writer.end_part().await.map_err(BackupError::Write)?;
        writer.begin_part(Kind::Record, record_bytes).await.map_err(BackupError::Write)?;
        let mut record = blocking::file(record);
        let mut buffer = vec![0; STEP];
        loop {
            match record.read(&mut buffer).await.map_err(BackupError::Write)? {
                0 => break,
                read => writer.put(&buffer[..read]).await.map_err(BackupError::Write)?,
            }
        }
        writer.end_part().await.map_err(BackupError::Write)?;
        for (signature, size) in modules {
            writer.begin_part(Kind::Module, size).await.map_err(BackupError::Write)?;
            let mut module = blobs.read_verified(&hash_of(&signature), 0).await?;
            if module.size() != size {
                let (signature, actual) = (hash_of(&signature), module.size());
                return Err(BlobError::WrongSize { signature, expected: size, actual }.into());
            }
            while let Some(bytes) = module.next().await? {
                writer.put(bytes).await.map_err(BackupError::Write)?;
            }
            writer.end_part().await.map_err(BackupError::Write)?;
        }
        writer.finish().await.map_err(BackupError::Write)
    }
}

/// The packages, as `name version`, of which not every module is there.
pub(crate) fn incomplete(record: &Record, there: impl Fn(&Signature) -> bool) -> BTreeSet<String> {
    let packages = record.packages().values();
    let lacking = packages.filter(|package| package.manifest.modules.iter().any(|module| !there(&module.signature)));
    lacking.map(|package| format!("{} {}", package.manifest.name, package.manifest.version)).collect()
}

/// The modules that this store has and that are as their signatures say. A damaged one is moved away.
pub(crate) async fn sound(blobs: &BlobStore, wanted: &BTreeMap<Signature, u64>) -> Result<BTreeSet<Signature>, BlobError> {
    let mut sound = BTreeSet::new();
    for signature in wanted.keys() {
        if blobs.verify(&hash_of(signature)).await? == Condition::Sound {
            sound.insert(*signature);
        }
    }
    Ok(sound)
}

/// Makes a backup from the folder of a node that does not run.
///
/// # Errors
/// The node runs, has no part in Raft, or its store is damaged; or the file cannot be written.
pub async fn from_stopped(folder: &Path, to: &Path) -> Result<(About, u64), BackupError> {
    let draft = Draft::begin(to)?;
    let data = DataFolder::open(folder)?;
    let _hold = Hold::take(&data.keeper()).map_err(NodeError::from)?;
    let settings = Settings::load(&data)?;
    let believed = Belief::clone(&BeliefKeeper::open(&data)?.watch().borrow());
    if believed.role() == RaftRole::Member {
        // What an earlier part in Raft may have left is outdated.
        return Err(not_in_raft(&believed).into());
    }
    let at_end = StoppedStore::look(&data.raft()).map_err(NodeError::from)?;
    let blobs = BlobStore::open_with_reserve(data.packages(), settings.reserve()).await?;
    let sound = sound(&blobs, &store_blobs(at_end.record())).await?;
    let contents = Contents::gather(&at_end.applied, settings.name, (blobs, &sound), data.root())?;
    contents.write(draft.writer()?).await?;
    draft.finish()
}
