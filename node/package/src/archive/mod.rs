//! The canonical archive: a folder module as bytes.
//!
//! One idea: a folder has exactly one archive. Entries are in one order, carry nothing but path, kind, executable bit
//! and contents, and an archive that says the same in other bytes is refused, so that its signature is as well defined
//! as a file's.
//!
//! The format, with little-endian numbers:
//!
//! ```text
//! magic    8 bytes  "TRIBDIR" and the format version, 1
//! entry             repeated, in increasing order of path compared component by component (so that a folder
//!                   comes right before what is in it); every folder has an entry, the root has none
//!   kind   1 byte   1 folder, 2 file, 3 executable file, 4 link
//!   path   u16 length, then UTF-8: components joined by '/', none empty, "." or ".."
//!   file:  u64 length, then the contents
//!   link:  u16 length, then the target: relative, ".." only at its beginning and not out of the folder
//! end      1 byte   0, and nothing after it
//! ```
//!
//! Unpacked, folders and executable files have mode 0755, other files 0644. Times, owners, other mode bits and hard
//! links are not kept; devices, sockets and pipes are refused.
//!
//! Why a link's `..` may stand only at its beginning: an entry's parents are real folders, so leading `..` climb
//! exactly one real folder each; whatever follows only descends, through links that stay inside by the same rule. No
//! chain of links can therefore leave the folder, which a check of the text alone could not promise otherwise.

mod pack;
mod read;
mod unpack;

use std::cmp::Ordering;
use std::io;
use std::path::PathBuf;

use tribune_raft_store::model::Signature;

pub(crate) use pack::copy_file;
pub use pack::{measure, pack};
pub use read::check;
pub use unpack::{PARTIAL_PREFIX, unpack};

/// The most entries of one archive.
pub const MAX_ENTRIES: u64 = 200_000;
/// The longest path of an entry and the longest target of a link, in bytes.
pub const MAX_PATH_BYTES: usize = 1024;
/// The deepest entry, in components.
pub const MAX_DEPTH: usize = 64;

const MAGIC: &[u8; 8] = b"TRIBDIR\x01";
const END: u8 = 0;
const FOLDER: u8 = 1;
const FILE: u8 = 2;
const EXECUTABLE: u8 = 3;
const LINK: u8 = 4;

/// What some bytes must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// The BLAKE3 of the bytes.
    pub signature: Signature,
    /// How many bytes there are.
    pub size: u64,
}

/// Why a folder cannot be packed or an archive not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file or folder cannot be read or written.
    #[error("{} cannot be {doing}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried, such as `read`.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Something in the folder has no place in an archive.
    #[error("{} {problem}", path.display())]
    Unfit {
        /// Which.
        path: PathBuf,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// A file became longer or shorter while it was read.
    #[error("{} changed while it was being packed; build again when nothing writes to it", .0.display())]
    Changed(PathBuf),
    /// The folder has too many entries.
    #[error("{} has more than {MAX_ENTRIES} files and folders; split it into several modules", .0.display())]
    TooMany(PathBuf),
    /// The archive could not be written to where it should go.
    #[error("the archive cannot be written: {0}")]
    Output(#[source] io::Error),
    /// The archive could not be read from where it comes.
    #[error("the archive cannot be read: {0}")]
    Input(#[source] io::Error),
    /// The bytes are no canonical archive.
    #[error("the archive is not valid at byte {at}: {problem}")]
    Malformed {
        /// How many bytes came before.
        at: u64,
        /// What is wrong.
        problem: String,
    },
    /// The bytes are not those that were asked for.
    #[error("the archive's {} bytes have signature {}, and {} bytes with {} are wanted", found.size, found.signature, wanted.size, wanted.signature)]
    Mismatch {
        /// What came.
        found: Measure,
        /// What is wanted.
        wanted: Measure,
    },
    /// The folder to be made is there already.
    #[error("{} is already there; an archive is unpacked into a new folder only", .0.display())]
    Exists(PathBuf),
}

/// Compares two paths of entries component by component: the order of entries in an archive.
fn order(a: &str, b: &str) -> Ordering {
    a.split('/').cmp(b.split('/'))
}

/// Checks the path of an entry; the error says what is wrong with it.
fn check_path(path: &str) -> Result<(), String> {
    if path.len() > MAX_PATH_BYTES {
        return Err(format!("has a path of {} bytes; at most {MAX_PATH_BYTES} are allowed", path.len()));
    }
    if path.starts_with('/') {
        return Err("has an absolute path; paths are relative to the module's folder".into());
    }
    let mut depth = 0;
    for component in path.split('/') {
        depth += 1;
        match component {
            "" | "." => return Err("has an empty or \".\" component in its path".into()),
            ".." => return Err("has \"..\" in its path, which could lead out of the module's folder".into()),
            name if name.len() > 255 => return Err("has a name of more than 255 bytes".into()),
            name if name.chars().any(char::is_control) => return Err("has a control character in its name; rename it".into()),
            _ => {}
        }
    }
    if depth > MAX_DEPTH {
        return Err(format!("lies {depth} folders deep; at most {MAX_DEPTH} are allowed"));
    }
    Ok(())
}

/// Checks the target of a link at an already checked path; the error says what is wrong with it.
fn check_link(path: &str, target: &str) -> Result<(), String> {
    if target.is_empty() || target.len() > MAX_PATH_BYTES || target.chars().any(char::is_control) {
        return Err(format!("is a link whose target is empty, has a control character or more than {MAX_PATH_BYTES} bytes"));
    }
    if target.starts_with('/') {
        return Err(format!("is a link to the absolute path {target}; make it relative"));
    }
    let mut climb = 0;
    let mut descended = false;
    for component in target.split('/') {
        match component {
            "" | "." => {}
            ".." if descended => {
                return Err(format!("is a link to {target}; \"..\" is allowed only at the beginning of a link's target"));
            }
            ".." => climb += 1,
            _ => descended = true,
        }
    }
    if climb > path.split('/').count() - 1 {
        return Err(format!("is a link to {target}, out of the module's folder"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
