//! Files known by the BLAKE3 of their bytes (their *signature*), each verified before it is believed.
//!
//! A blob lies at `<folder>/<first two hex digits>/<64 hex digits>`, read-only, and is there only when it is whole and fsynced: it is written elsewhere,
//! fsynced, renamed, and then its folder is fsynced. Beside them:
//!
//! - `partial/<hex>`: what has come of a blob that is being fetched; kept, so that fetching resumes;
//! - `incoming/`: imports under way, wiped when the store is opened;
//! - `corrupt/<hex>`: blobs whose bytes were found changed, kept for whoever looks into it.
//!
//! One process opens a folder at a time. Everything that touches a file runs where it may block ([`blocking`](crate::blocking)).

mod examine;
mod reader;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

use blake3::Hash;

pub use examine::{Examined, Unsound, examine, path_in};
pub use reader::BlobReader;
pub use store::{BlobStore, Condition, Imported};
pub use writer::BlobWriter;

/// Bytes read or written at a time.
pub(crate) const STEP: usize = 256 * 1024;
/// Free space that is left to others unless set otherwise: Raft must be able to write when blobs can not.
pub const DEFAULT_RESERVE: u64 = 256 * 1024 * 1024;

/// What can go wrong with blobs.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The store does not have it.
    #[error("there is no blob {0} here")]
    Missing(Hash),
    /// The store had it, and its bytes had changed: they were moved away.
    #[error("the copy of blob {0} that was here is damaged")]
    Damaged(Hash),
    /// The bytes are not those that the signature names.
    #[error("wrong bytes: expected the blob {expected}, but these are {actual}")]
    Mismatch {
        /// The signature that was wanted.
        expected: Hash,
        /// The signature of what was there.
        actual: Hash,
    },
    /// There are more, or fewer, bytes than were announced.
    #[error("wrong size: blob {signature} was announced with {expected} bytes, but there are {actual}")]
    WrongSize {
        /// The blob.
        signature: Hash,
        /// The announced size in bytes.
        expected: u64,
        /// The size there is, or would be, in bytes.
        actual: u64,
    },
    /// An import is larger than its caller allows.
    #[error("too large: more than the allowed {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The blob is being written by somebody else in this process.
    #[error("blob {0} is being written already")]
    Busy(Hash),
    /// Writing would eat into the reserve of free space.
    #[error(
        "not enough space in {folder}: {needed} bytes are needed and {free} are free, of which {reserve} stay reserved; make room on its disk",
        folder = folder.display()
    )]
    NoSpace {
        /// The store's folder.
        folder: PathBuf,
        /// Bytes to be written.
        needed: u64,
        /// Free bytes.
        free: u64,
        /// Bytes that must stay free.
        reserve: u64,
    },
    /// The disk, or what this user may have of it, is full.
    #[error("cannot {action} {path}: its disk is full; make room there", path = path.display())]
    DiskFull {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
    },
    /// The system failed.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The runtime is shutting down.
    #[error("interrupted: the program is shutting down")]
    Interrupted,
}

/// An IO error with its place.
pub(crate) fn io_at<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> BlobError + 'a {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BlobError::DiskFull { action, path: path.to_owned() },
        _ => BlobError::Io { action, path: path.to_owned(), source },
    }
}

/// Runs `work` where it may block.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, BlobError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, BlobError> + Send + 'static,
{
    crate::blocking::run(work).await.unwrap_or(Err(BlobError::Interrupted))
}
