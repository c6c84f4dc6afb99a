//! The one file format of packages (`.tpkg`) and images (`.timg`).
//!
//! One idea: the header says every byte that follows, by signature and length, and is itself protected by a hash, so
//! that a reader knows at each moment what it is reading, and a damaged byte is always blamed on the right part.
//!
//! The format, with little-endian numbers:
//!
//! ```text
//! magic     8 bytes   "TRIBUNE" and 0
//! format    u32       1
//! length    u32       of the header
//! header              RFC 8785 JSON: {"packages": [manifest texts], "targets": {"nodes": …, "classes": …}}; the
//!                     packages are sorted by name and version, targets are left out if there are none
//! hash      32 bytes  BLAKE3 of all before
//! blobs               the bytes of every module, each signature once, in increasing order of signature
//! trailer   32 bytes  BLAKE3 of all before, and nothing after it
//! ```
//!
//! A package file is such a file with one package and no targets.

mod header;
mod read;
mod write;

use std::fmt;
use std::io;

use tribune_raft_store::model::{ManifestError, Signature};

use crate::archive::ArchiveError;
use crate::targets::TargetsError;

pub use header::{Blob, Header};
pub use read::{BlobReader, ContainerReader};
pub use write::write;

/// The container format this build writes and reads.
pub const CONTAINER_FORMAT: u32 = 1;
/// The longest header that is read, in bytes.
pub const MAX_HEADER_BYTES: usize = 16 << 20;
/// The most packages of one container.
pub const MAX_PACKAGES: usize = 256;

const MAGIC: &[u8; 8] = b"TRIBUNE\0";

/// A part of a container, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Magic, format, header and its hash.
    Header,
    /// A module's bytes, by `package/module` and its platform.
    Module(String),
    /// The hash at the end.
    Trailer,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Header => f.write_str("its header"),
            Part::Module(name) => write!(f, "module {name}"),
            Part::Trailer => f.write_str("its trailer"),
        }
    }
}

/// Why a container cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The bytes cannot be read from where they come.
    #[error("reading failed at byte {at}, within {within}: {source}")]
    Input {
        /// How many bytes came before.
        at: u64,
        /// What was being read.
        within: Part,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes cannot be written to where they should go.
    #[error("writing failed: {0}")]
    Output(#[source] io::Error),
    /// It does not begin like a container.
    #[error("this is no Tribune package or image: it does not begin like one")]
    Foreign,
    /// Its format is not known to this build.
    #[error("it has container format {0}; this build reads format {CONTAINER_FORMAT}, so use a newer Tribune")]
    Format(u32),
    /// It ends too early.
    #[error("it ends at byte {at}, within {within}: it is cut short; copy or build it again")]
    Cut {
        /// How many bytes there are.
        at: u64,
        /// What was being read.
        within: Part,
    },
    /// The header is longer than any can be.
    #[error("its header has {0} bytes, and at most {MAX_HEADER_BYTES} are allowed; it is damaged or made to do harm")]
    HeaderTooLong(u64),
    /// The header's bytes are not those that were written.
    #[error("its header is damaged: its hash does not match; copy or build it again")]
    HeaderDamaged,
    /// The header's bytes are intact, and make no header.
    #[error("its header is not valid: {0}")]
    Header(String),
    /// A manifest in the header is not valid.
    #[error("its package number {number} is not valid: {problem}")]
    Manifest {
        /// Which, counted from 1.
        number: usize,
        /// What is wrong.
        problem: ManifestError,
    },
    /// The target list does not fit the packages.
    #[error(transparent)]
    Targets(#[from] TargetsError),
    /// A module's bytes are not those of its signature.
    #[error(
        "module {module} is damaged: its bytes have signature {found}, and its manifest says {wanted}; copy or build it again"
    )]
    Mismatch {
        /// The module, as `package/module` and its platform.
        module: String,
        /// The signature of what is there.
        found: Signature,
        /// The signature in the manifest.
        wanted: Signature,
    },
    /// A folder module's bytes are those of its signature, and no archive that could be unpacked safely.
    #[error("module {module} is not valid: {problem}")]
    Archive {
        /// The module, as `package/module` and its platform.
        module: String,
        /// What is wrong with its archive.
        problem: Box<ArchiveError>,
    },
    /// All modules are intact, and the hash at the end is not.
    #[error("its trailer is damaged: the hash at its end does not match; copy or build it again")]
    TrailerDamaged,
    /// It was read on after an error.
    #[error("it was found to be damaged before; nothing more of it is read")]
    Broken,
    /// There are bytes after the end.
    #[error("there are bytes after its end, at byte {at}; it is damaged or was appended to; copy or build it again")]
    Trailing {
        /// Where the container ends.
        at: u64,
    },
}

#[cfg(test)]
mod tests;
