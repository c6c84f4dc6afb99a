//! The folder of blobs.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use blake3::{Hash, Hasher};
use tokio::io::{AsyncRead, AsyncReadExt};
use tracing::{error, info};

use super::reader::BlobReader;
use super::writer::BlobWriter;
use super::{BlobError, DEFAULT_RESERVE, STEP, blocking, io_at};

const PARTIAL: &str = "partial";
const INCOMING: &str = "incoming";
const CORRUPT: &str = "corrupt";

/// A folder of blobs. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct BlobStore {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    folder: PathBuf,
    reserve: u64,
    /// Blobs being written: two writers must not share a partial file.
    writing: Mutex<HashSet<Hash>>,
}

/// What [`BlobStore::verify`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Every byte is as the signature says.
    Sound,
    /// The bytes have changed; the blob has been moved to `corrupt/` and is no longer in the store.
    Corrupt {
        /// The signature of the bytes as they are.
        actual: Hash,
    },
    /// The store does not have it.
    Missing,
}

/// A blob that was imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// Its signature.
    pub signature: Hash,
    /// Its size in bytes.
    pub size: u64,
}

impl BlobStore {
    /// Opens the store in `folder`, which is made if it is not there, leaving [`DEFAULT_RESERVE`] of free space to others.
    pub async fn open(folder: impl Into<PathBuf>) -> Result<Self, BlobError> {
        Self::open_with_reserve(folder, DEFAULT_RESERVE).await
    }

    /// Opens the store in `folder`; writing stops when less than `reserve` bytes would stay free on its disk.
    pub async fn open_with_reserve(folder: impl Into<PathBuf>, reserve: u64) -> Result<Self, BlobError> {
        let folder = folder.into();
        blocking(move || {
            let incoming = folder.join(INCOMING);
            match fs::remove_dir_all(&incoming) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_at("wipe", &incoming)(e)),
                _ => {}
            }
            for part in [PARTIAL, INCOMING, CORRUPT] {
                let part = folder.join(part);
                fs::create_dir_all(&part).map_err(io_at("create", &part))?;
            }
            sync_folder(&folder)?;
            Ok(Self { inner: Arc::new(Inner { folder, reserve, writing: Mutex::default() }) })
        })
        .await
    }

    /// Where the blob lies, or would lie.
    pub fn path(&self, signature: &Hash) -> PathBuf {
        self.inner.path(signature)
    }

    /// Whether the store has the blob, whole.
    pub async fn contains(&self, signature: &Hash) -> Result<bool, BlobError> {
        Ok(self.size(signature).await?.is_some())
    }

    /// The blob's size in bytes; `None` when the store does not have it.
    pub async fn size(&self, signature: &Hash) -> Result<Option<u64>, BlobError> {
        let path = self.path(signature);
        blocking(move || match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_at("inspect", &path)(e)),
        })
        .await
    }

    /// Whether so many more bytes leave the reserve of free space untouched, for whoever writes beside the store.
    ///
    /// # Errors
    /// [`BlobError::NoSpace`] when they do not.
    pub async fn has_room(&self, needed: u64) -> Result<(), BlobError> {
        let inner = self.inner.clone();
        blocking(move || inner.check_space(needed)).await
    }

    /// Every blob in the store with its size in bytes, in the order of their signatures. Files that are no blobs are passed over.
    pub async fn list(&self) -> Result<Vec<(Hash, u64)>, BlobError> {
        let inner = self.inner.clone();
        blocking(move || inner.list()).await
    }

    /// Begins, or resumes, to write the blob `expected` of `size` bytes.
    ///
    /// # Errors
    /// [`BlobError::Busy`] while another writer of the same blob lives; [`BlobError::NoSpace`].
    pub async fn writer(&self, expected: Hash, size: u64) -> Result<BlobWriter, BlobError> {
        let claim = Claim::new(&self.inner, expected).ok_or(BlobError::Busy(expected))?;
        blocking(move || BlobWriter::open(claim, expected, size)).await
    }

    /// Takes everything that `source` gives, at most `limit` bytes, into the store.
    ///
    /// # Errors
    /// [`BlobError::Mismatch`] when it is not the blob `expected`; then nothing is kept.
    pub async fn import(
        &self,
        mut source: impl AsyncRead + Unpin,
        limit: u64,
        expected: Option<Hash>,
    ) -> Result<Imported, BlobError> {
        let inner = self.inner.clone();
        let mut draft = blocking(move || Draft::new(inner)).await?;
        loop {
            let mut buffer = std::mem::take(&mut draft.buffer);
            buffer.clear();
            while buffer.len() < STEP {
                let room = (STEP - buffer.len()) as u64;
                let read = (&mut source).take(room).read_buf(&mut buffer).await;
                if read.map_err(io_at("read what is imported to", &draft.path))? == 0 {
                    break;
                }
            }
            let ended = buffer.len() < STEP;
            draft.buffer = buffer;
            draft = blocking(move || draft.take_in(limit)).await?;
            if ended {
                return blocking(move || draft.keep(expected)).await;
            }
        }
    }

    /// Takes a blob that another store on this machine has: the same file where both lie on one file system, else a copy. `false`
    /// when that store has none, or its copy is damaged.
    ///
    /// # Errors
    /// The disk cannot be read or written.
    pub async fn take_from(&self, other: &BlobStore, signature: &Hash) -> Result<bool, BlobError> {
        if other.verify(signature).await? != Condition::Sound {
            return Ok(false);
        }
        let (inner, from, hash) = (self.inner.clone(), other.path(signature), *signature);
        if blocking(move || inner.link(&from, &hash)).await? {
            return Ok(true);
        }
        let path = other.path(signature);
        let copy = tokio::fs::File::open(&path).await.map_err(io_at("open", &path))?;
        self.import(copy, u64::MAX, Some(*signature)).await?;
        Ok(true)
    }

    /// Opens the blob for reading from `offset`; the reader checks all of it while it is read.
    ///
    /// # Errors
    /// [`BlobError::Missing`]; [`BlobError::WrongSize`] when `offset` lies beyond its end.
    pub async fn read_verified(&self, signature: &Hash, offset: u64) -> Result<BlobReader, BlobError> {
        BlobReader::open(self.path(signature), *signature, offset).await
    }

    /// Whether a copy was found changed and moved away, and no sound one has come since.
    pub async fn was_damaged(&self, signature: &Hash) -> Result<bool, BlobError> {
        let (inner, signature) = (self.inner.clone(), *signature);
        blocking(move || Ok(inner.corrupt(&signature).exists() && !inner.path(&signature).exists())).await
    }

    /// Reads the whole blob and compares. A blob whose bytes have changed is moved away: it is better missed than run.
    pub async fn verify(&self, signature: &Hash) -> Result<Condition, BlobError> {
        let (inner, signature) = (self.inner.clone(), *signature);
        blocking(move || inner.verify(&signature)).await
    }

    /// Removes the blob, what has come of it if it is being fetched no more, and a copy that was found changed. Removing one that is not
    /// there is no error.
    pub async fn remove(&self, signature: &Hash) -> Result<(), BlobError> {
        let claim = Claim::new(&self.inner, *signature).ok_or(BlobError::Busy(*signature))?;
        let signature = *signature;
        blocking(move || {
            for path in [claim.inner.path(&signature), claim.inner.partial(&signature), claim.inner.corrupt(&signature)] {
                match fs::remove_file(&path) {
                    Ok(()) => sync_folder(parent_of(&path))?,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(io_at("remove", &path)(e)),
                }
            }
            Ok(())
        })
        .await
    }
}

impl Inner {
    pub(super) fn path(&self, signature: &Hash) -> PathBuf {
        let hex = signature.to_hex();
        self.folder.join(&hex[..2]).join(hex.as_str())
    }

    pub(super) fn partial(&self, signature: &Hash) -> PathBuf {
        self.folder.join(PARTIAL).join(signature.to_hex().as_str())
    }

    /// Gives a whole, fsynced file a second name here; `false` when that cannot be: it lies on another file system, that has no links,
    /// the file has as many names as it may have.
    fn link(&self, from: &Path, signature: &Hash) -> Result<bool, BlobError> {
        let fresh = self.folder.join(INCOMING).join(format!("{:032x}", rand::random::<u128>()));
        match fs::hard_link(from, &fresh) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(io_at("link", from)(e)),
            Err(_) => return Ok(false),
        }
        self.put_in_place(&fresh, signature)?;
        Ok(true)
    }

    /// Moves a whole, fsynced file to its place. Several may come at once with the same bytes: any of them will do.
    pub(super) fn put_in_place(&self, from: &Path, signature: &Hash) -> Result<(), BlobError> {
        let path = self.path(signature);
        let folder = parent_of(&path);
        match fs::create_dir(folder) {
            Ok(()) => sync_folder(&self.folder)?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io_at("create", folder)(e)),
        }
        fs::rename(from, &path).map_err(io_at("move into place", &path))?;
        sync_folder(folder)
    }

    /// Whether `needed` more bytes leave the reserve untouched.
    pub(super) fn check_space(&self, needed: u64) -> Result<(), BlobError> {
        let disk = rustix::fs::statvfs(&self.folder).map_err(|e| io_at("inspect the disk of", &self.folder)(e.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free >= needed.saturating_add(self.reserve) {
            return Ok(());
        }
        Err(BlobError::NoSpace { folder: self.folder.clone(), needed, free, reserve: self.reserve })
    }

    fn list(&self) -> Result<Vec<(Hash, u64)>, BlobError> {
        let mut blobs = Vec::new();
        for prefix in fs::read_dir(&self.folder).map_err(io_at("list", &self.folder))? {
            let prefix = prefix.map_err(io_at("list", &self.folder))?;
            if prefix.file_name().len() != 2 {
                continue;
            }
            let folder = prefix.path();
            for blob in fs::read_dir(&folder).map_err(io_at("list", &folder))? {
                let blob = blob.map_err(io_at("list", &folder))?;
                let Some(signature) = blob.file_name().to_str().and_then(|name| Hash::from_hex(name).ok()) else { continue };
                match blob.metadata() {
                    Ok(metadata) if metadata.is_file() => blobs.push((signature, metadata.len())),
                    // Removed since.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Ok(_) => {}
                    Err(e) => return Err(io_at("inspect", &blob.path())(e)),
                }
            }
        }
        blobs.sort_by_key(|(signature, _)| *signature.as_bytes());
        Ok(blobs)
    }

    /// Where a copy goes that was found changed.
    fn corrupt(&self, signature: &Hash) -> PathBuf {
        self.folder.join(CORRUPT).join(signature.to_hex().as_str())
    }

    fn verify(&self, signature: &Hash) -> Result<Condition, BlobError> {
        let path = self.path(signature);
        let mut hasher = Hasher::new();
        match File::open(&path) {
            Ok(mut file) => io::copy(&mut file, &mut hasher).map_err(io_at("read", &path))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Condition::Missing),
            Err(e) => return Err(io_at("open", &path)(e)),
        };
        let actual = hasher.finalize();
        if actual == *signature {
            return Ok(Condition::Sound);
        }
        let corrupt = self.corrupt(signature);
        fs::rename(&path, &corrupt).map_err(io_at("move away the corrupt", &path))?;
        sync_folder(parent_of(&path))?;
        sync_folder(parent_of(&corrupt))?;
        error!(blob = %signature, %actual, moved_to = %corrupt.display(), "a blob's bytes have changed on disk");
        Ok(Condition::Corrupt { actual })
    }
}

/// The right to write one blob, given back when dropped.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) inner: Arc<Inner>,
    signature: Hash,
}

impl Claim {
    fn new(inner: &Arc<Inner>, signature: Hash) -> Option<Self> {
        let fresh = inner.writing.lock().unwrap_or_else(PoisonError::into_inner).insert(signature);
        fresh.then(|| Self { inner: inner.clone(), signature })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.inner.writing.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.signature);
    }
}

/// An import under way; its file is removed unless it is kept.
struct Draft {
    inner: Arc<Inner>,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    size: u64,
    buffer: Vec<u8>,
}

impl Draft {
    fn new(inner: Arc<Inner>) -> Result<Self, BlobError> {
        let path = inner.folder.join(INCOMING).join(format!("{:032x}", rand::random::<u128>()));
        let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(io_at("create", &path))?;
        Ok(Self { inner, path, file, hasher: Hasher::new(), size: 0, buffer: Vec::with_capacity(STEP) })
    }

    fn take_in(mut self, limit: u64) -> Result<Self, BlobError> {
        let size = self.size + self.buffer.len() as u64;
        if size > limit {
            return Err(BlobError::TooLarge { limit });
        }
        self.inner.check_space(self.buffer.len() as u64)?;
        self.file.write_all(&self.buffer).map_err(io_at("write", &self.path))?;
        self.hasher.update(&self.buffer);
        self.size = size;
        Ok(self)
    }

    fn keep(self, expected: Option<Hash>) -> Result<Imported, BlobError> {
        let signature = self.hasher.finalize();
        match expected {
            Some(expected) if expected != signature => return Err(BlobError::Mismatch { expected, actual: signature }),
            _ => {}
        }
        seal(&self.file, &self.path)?;
        self.inner.put_in_place(&self.path, &signature)?;
        info!(blob = %signature, size = self.size, "imported");
        Ok(Imported { signature, size: self.size })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Gone already when it was kept; and what cannot be removed now is wiped when the store is next opened.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes a finished file read-only and durable.
pub(super) fn seal(file: &File, path: &Path) -> Result<(), BlobError> {
    file.set_permissions(fs::Permissions::from_mode(0o444)).map_err(io_at("make read-only", path))?;
    file.sync_all().map_err(io_at("fsync", path))
}

pub(super) fn parent_of(path: &Path) -> &Path {
    path.parent().unwrap_or_else(|| Path::new("."))
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), BlobError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_at("fsync the folder", folder))
}
