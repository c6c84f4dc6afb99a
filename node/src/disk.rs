//! Whether a disk has room for Raft.
//!
//! One idea: Raft stops at the first write that fails, and stops again at once on a disk that is still full. So it is begun again only when
//! there is room for more than one write.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What must be free before Raft begins again, in bytes: more than the log that the store writes before it is put in order …
const ROOM: u64 = 16 << 20;
/// … but no more than this part of a disk that is small.
const PART: u64 = 8;

/// A disk that is full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Full {
    folder: PathBuf,
    needed: u64,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { folder, needed } = self;
        let folder = folder.display();
        write!(
            f,
            "the disk of {folder} is full: make room there; with {needed} bytes free this node takes part in Raft again by itself"
        )
    }
}

/// Looks whether the disk of a folder has room for Raft.
///
/// # Errors
/// The system does not say.
pub(crate) fn look(folder: &Path) -> io::Result<Result<(), Full>> {
    let disk = rustix::fs::statvfs(folder)?;
    let needed = ROOM.min(disk.f_blocks.saturating_mul(disk.f_frsize) / PART);
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    Ok(if free >= needed { Ok(()) } else { Err(Full { folder: folder.to_owned(), needed }) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_has_room_is_found_to_and_one_that_is_full_says_what_to_do() {
        assert_eq!(look(Path::new("/")).unwrap(), Ok(()));
        assert!(look(Path::new("/nowhere/at/all")).is_err());
        let full = Full { folder: "/d/raft".into(), needed: 100 };
        let expected =
            "the disk of /d/raft is full: make room there; with 100 bytes free this node takes part in Raft again by itself";
        assert_eq!(full.to_string(), expected);
    }
}
