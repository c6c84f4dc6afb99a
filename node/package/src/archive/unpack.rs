//! Unpacks an archive into a new folder, trusting nothing in it.
//!
//! One idea: no path of the archive is ever given to the system. Each entry is made by its last component in the
//! already open folder that holds it, so neither text nor link can lead elsewhere; and the folder gets its name only
//! when everything in it has been verified and is on disk.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::read::{Entries, FileKind, Place, read};
use super::{ArchiveError, Measure};

/// How the names of folders begin that are still being unpacked. After a crash such a folder may be removed.
pub const PARTIAL_PREFIX: &str = ".unpacking-";

const FOLDER_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;
const EXECUTABLE_MODE: u32 = 0o755;

/// Unpacks an archive into a folder that is made by it, all or nothing: when it returns, everything is on disk.
///
/// Reads exactly `expected.size` bytes and refuses what does not have `expected.signature`. Until the end it works in a
/// folder beside `folder` whose name begins with [`PARTIAL_PREFIX`].
pub fn unpack(input: impl Read, expected: Measure, folder: &Path) -> Result<(), ArchiveError> {
    let failed = |doing| move |source| ArchiveError::File { path: folder.into(), doing, source };
    if folder.symlink_metadata().is_ok() {
        return Err(ArchiveError::Exists(folder.into()));
    }
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let partial = tempfile::Builder::new().prefix(PARTIAL_PREFIX).tempdir_in(parent).map_err(failed("made"))?;
    let root = open_folder(rustix::fs::CWD, partial.path()).map_err(failed("made"))?;

    let mut disk = Disk { root, open: Vec::new() };
    let found = read(input, expected.size, &mut disk).map_err(|error| match error {
        ArchiveError::File { path, doing, source } => ArchiveError::File { path: folder.join(path), doing, source },
        other => other,
    })?;
    if found != expected {
        return Err(ArchiveError::Mismatch { found, wanted: expected });
    }

    set_mode(&disk.root, FOLDER_MODE).map_err(failed("made"))?;
    // One flush of the file system: thousands of small files would each cost a commit of its journal.
    rustix::fs::syncfs(&disk.root).map_err(io::Error::from).map_err(failed("written to disk"))?;
    std::fs::rename(partial.path(), folder).map_err(failed("made"))?;
    // It has its name now: nothing of the partial folder is left to remove.
    let _ = partial.keep();
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("written to disk"))
}

/// Makes entries in a fresh folder.
struct Disk {
    root: OwnedFd,
    /// The folder that the last entry lies in or is, and its parents but the root.
    open: Vec<OwnedFd>,
}

impl Disk {
    /// The folder that an entry lies in.
    fn parent(&mut self, place: &Place<'_>) -> &OwnedFd {
        self.open.truncate(place.depth);
        self.open.last().unwrap_or(&self.root)
    }
}

impl Entries for Disk {
    type File = File;

    fn folder(&mut self, place: &Place<'_>) -> io::Result<()> {
        let parent = self.parent(place);
        rustix::fs::mkdirat(parent, place.name, Mode::from_raw_mode(FOLDER_MODE))?;
        let folder = open_folder(parent, place.name)?;
        set_mode(&folder, FOLDER_MODE)?;
        self.open.push(folder);
        Ok(())
    }

    fn file(&mut self, place: &Place<'_>, kind: FileKind) -> io::Result<File> {
        let mode = match kind {
            FileKind::Plain => FILE_MODE,
            FileKind::Executable => EXECUTABLE_MODE,
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.parent(place), place.name, flags, Mode::from_raw_mode(mode))?;
        set_mode(&file, mode)?;
        Ok(file.into())
    }

    fn link(&mut self, place: &Place<'_>, target: &str) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, self.parent(place), place.name)?)
    }
}

fn open_folder(at: impl AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

/// Sets a mode whatever the process's umask, which must not show in what is installed.
fn set_mode(at: impl AsFd, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(at, Mode::from_raw_mode(mode))?)
}
