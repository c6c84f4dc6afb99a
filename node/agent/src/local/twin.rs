//! Small files that the node cannot do without, each in two copies.
//!
//! One idea: a disk that turns a bit does so in one place. Whoever reads such a file checks it; where it is damaged the other copy is
//! taken, and put back in its place. Only when both are damaged is there an error.

use std::fs;
use std::path::{Path, PathBuf};

use super::{LocalError, files};

/// How the name of a second copy begins.
const COPY: &str = ".copy-";

/// Where the second copy of a file lies: beside it.
pub(super) fn copy_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{COPY}{name}"))
}

/// Writes both copies; when it returns, they are on disk.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), LocalError> {
    files::write(path, bytes)?;
    files::write(&copy_of(path), bytes)
}

/// Removes both copies; what is not there is no error. The second goes first: alone it would be put back.
pub(super) fn remove(path: &Path) -> Result<(), LocalError> {
    files::remove(&copy_of(path))?;
    files::remove(path)
}

/// Reads the file as `parse` does, which gives `None` if it is not there, or its copy.
pub(super) fn read<T>(path: &Path, parse: impl Fn(&Path) -> Result<Option<T>, LocalError>) -> Result<Option<T>, LocalError> {
    let first = parse(path);
    if matches!(&first, Ok(Some(_))) {
        return first;
    }
    let copy = copy_of(path);
    let Ok(Some(second)) = parse(&copy) else { return first };
    let why = first.err().map_or_else(|| format!("{} is gone", path.display()), |error| error.to_string());
    tracing::error!(why, copy = %copy.display(), "a file of local storage is put back from its copy");
    let restored = fs::read(&copy).map_err(files::failed("read", &copy)).and_then(|bytes| files::write(path, &bytes));
    if let Err(error) = restored {
        tracing::warn!(%error, "it could not be put back; its copy is used");
    }
    Ok(Some(second))
}

/// Makes the copy say what the file says: a crash between the two writes left it behind. Where that cannot be, for want of room, the
/// file alone has to do until it is written again: an older copy is removed, lest it is believed.
pub(super) fn even_out<T>(path: &Path, parse: impl Fn(&Path) -> Result<Option<T>, LocalError>) {
    let Ok(Some(_)) = parse(path) else { return };
    let copy = copy_of(path);
    let evened = files::read(path).map(Option::unwrap_or_default).and_then(|text| {
        let same = files::read(&copy).ok().flatten().as_deref() == Some(text.as_str());
        if same { Ok(()) } else { files::write(&copy, text.as_bytes()) }
    });
    if let Err(error) = evened {
        let removed = files::remove(&copy).err().map(|error| error.to_string());
        tracing::warn!(%error, removed, "a file of local storage has no second copy");
    }
}
