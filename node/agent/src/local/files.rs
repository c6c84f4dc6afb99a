//! Writing files so that a crash at any moment leaves the old or the new one, whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tribune_package::archive::PARTIAL_PREFIX;

use super::LocalError;

/// How the names of files and folders begin that are not complete yet.
pub(super) const NEW: &str = ".new-";
/// How the names of folders begin that are being removed.
pub(super) const OLD: &str = ".old-";

/// An error of the system with its place.
pub(super) fn failed<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> LocalError + 'a {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LocalError::DiskFull { doing, path: path.to_owned() },
        _ => LocalError::File { doing, path: path.to_owned(), source },
    }
}

/// Where tests end the process: before and after each change of the disk.
#[cfg(not(test))]
pub(super) fn point() {}
#[cfg(test)]
pub(super) use super::tests::crash::point;

/// Writes a file in the place of what had that name; when it returns, it is on disk.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), LocalError> {
    let folder = parent(path);
    point();
    let mut file = tempfile::Builder::new().prefix(NEW).tempfile_in(folder).map_err(failed("create a file in", folder))?;
    file.write_all(bytes).map_err(failed("write", path))?;
    point();
    file.as_file().sync_all().map_err(failed("fsync", path))?;
    file.persist(path).map_err(|error| failed("replace", path)(error.error))?;
    point();
    sync_folder(folder)?;
    point();
    Ok(())
}

/// Makes a link in the place of the link that had that name; when it returns, it is on disk.
pub(super) fn link(target: &Path, path: &Path) -> Result<(), LocalError> {
    let folder = parent(path);
    point();
    let link = tempfile::Builder::new()
        .prefix(NEW)
        .make_in(folder, |at| symlink(target, at))
        .map_err(failed("create a link in", folder))?;
    link.into_temp_path().persist(path).map_err(|error| failed("replace", path)(error.error))?;
    point();
    sync_folder(folder)
}

/// Reads a file as text; `None` if it is not there.
pub(super) fn read(path: &Path) -> Result<Option<String>, LocalError> {
    match fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(damaged(path, "it is not UTF-8")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// A file that cannot be understood.
pub(super) fn damaged(path: &Path, problem: impl ToString) -> LocalError {
    LocalError::DamagedFile { path: path.to_owned(), problem: problem.to_string() }
}

/// Removes a file, durably; one that is not there is no error.
pub(super) fn remove(path: &Path) -> Result<(), LocalError> {
    point();
    match fs::remove_file(path) {
        Ok(()) => sync_folder(parent(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

/// Removes a folder with everything in it, so that nobody sees it half removed; one that is not there is no error.
pub(super) fn remove_folder(path: &Path) -> Result<(), LocalError> {
    let folder = parent(path);
    let away = tempfile::Builder::new().prefix(OLD).tempdir_in(folder).map_err(failed("create a folder in", folder))?;
    point();
    match fs::rename(path, away.path().join("removed")) {
        Ok(()) => sync_folder(folder)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("move away", path)(error)),
    }
    point();
    away.close().map_err(failed("remove", path))
}

/// Puts a folder that `make` makes at another path in the place of the one that had that name, if there was one: in one
/// step, so that whoever finds files through it finds them at any moment. `make` puts it on disk.
pub(super) fn replace_folder(path: &Path, make: impl FnOnce(&Path) -> Result<(), LocalError>) -> Result<(), LocalError> {
    let folder = parent(path);
    let beside = tempfile::Builder::new().prefix(OLD).tempdir_in(folder).map_err(failed("create a folder in", folder))?;
    let fresh = beside.path().join("fresh");
    point();
    make(&fresh)?;
    point();
    let flags = if path.symlink_metadata().is_ok() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
    renameat_with(CWD, &fresh, CWD, path, flags).map_err(|error| failed("replace", path)(error.into()))?;
    point();
    sync_folder(folder)?;
    beside.close().map_err(failed("remove what was", path))
}

/// Makes a folder and those above it.
pub(super) fn make_folder(path: &Path) -> Result<(), LocalError> {
    fs::create_dir_all(path).map_err(failed("create the folder", path))
}

/// Puts the names in a folder on disk.
pub(super) fn sync_folder(path: &Path) -> Result<(), LocalError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(failed("fsync the folder", path))
}

/// The names in a folder, without those of what is being made or removed.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, LocalError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed("list", folder))? {
        let entry = entry.map_err(failed("list", folder))?;
        // A name that is not UTF-8 is none of ours.
        names.extend(entry.file_name().into_string().ok().filter(|name| !name.starts_with('.')));
    }
    names.sort();
    Ok(names)
}

/// Removes what a crash left in a folder.
pub(super) fn sweep(folder: &Path) -> Result<(), LocalError> {
    for entry in fs::read_dir(folder).map_err(failed("list", folder))? {
        let entry = entry.map_err(failed("list", folder))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if ![NEW, OLD, PARTIAL_PREFIX].iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let path = entry.path();
        let kind = entry.file_type().map_err(failed("inspect", &path))?;
        let removed = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(failed("remove", &path))?;
    }
    Ok(())
}

/// The folder that a path lies in.
fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or_else(|| Path::new("."))
}

/// A path as text for a link: up from a folder so many levels, then down.
pub(super) fn up(levels: usize, down: &Path) -> PathBuf {
    std::iter::repeat_n(Path::new(".."), levels).collect::<PathBuf>().join(down)
}
