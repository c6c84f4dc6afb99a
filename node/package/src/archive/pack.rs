//! Packs a folder: streamed, in the one order, and with nothing that another machine would write differently.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::{ArchiveError, END, EXECUTABLE, FILE, FOLDER, LINK, MAGIC, MAX_ENTRIES, Measure, check_link, check_path};
use crate::digest::{CopyError, DigestWriter, copy_up_to};

/// Writes the canonical archive of a folder.
pub fn pack(folder: &Path, output: &mut impl Write) -> Result<(), ArchiveError> {
    let mut packer = Packer { output, entries: 0 };
    packer.put(MAGIC)?;
    packer.folder(folder, "")?;
    packer.put(&[END])
}

/// The signature and size that the folder's archive has, without keeping it anywhere.
pub fn measure(folder: &Path) -> Result<Measure, ArchiveError> {
    let mut sink = DigestWriter::new(io::sink());
    pack(folder, &mut sink)?;
    Ok(Measure { signature: sink.digest.signature(), size: sink.digest.length() })
}

struct Packer<'a, W> {
    output: &'a mut W,
    entries: u64,
}

impl<W: Write> Packer<'_, W> {
    /// Packs what is in a folder; `prefix` is its path in the archive, with a `/` at its end unless it is the root.
    fn folder(&mut self, folder: &Path, prefix: &str) -> Result<(), ArchiveError> {
        let read = |source| ArchiveError::File { path: folder.into(), doing: "read", source };
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(read)? {
            let name = entry.map_err(read)?.file_name();
            let name = name.into_string().map_err(|name| ArchiveError::Unfit {
                path: folder.join(name),
                problem: "has a name that is not UTF-8; rename it".into(),
            })?;
            names.push(name);
            if self.entries + names.len() as u64 > MAX_ENTRIES {
                return Err(ArchiveError::TooMany(folder.into()));
            }
        }
        names.sort_unstable();
        for name in names {
            self.entry(&folder.join(&name), &format!("{prefix}{name}"))?;
        }
        Ok(())
    }

    fn entry(&mut self, at: &Path, path: &str) -> Result<(), ArchiveError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(ArchiveError::TooMany(at.into()));
        }
        let unfit = |problem| ArchiveError::Unfit { path: at.into(), problem };
        check_path(path).map_err(unfit)?;
        let metadata =
            fs::symlink_metadata(at).map_err(|source| ArchiveError::File { path: at.into(), doing: "read", source })?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            self.head(FOLDER, path)?;
            self.folder(at, &format!("{path}/"))
        } else if kind.is_symlink() {
            self.link(at, path)
        } else if kind.is_file() {
            self.file(at, path)
        } else {
            Err(unfit("is neither a file, a folder nor a link; a module cannot hold devices, sockets or pipes".into()))
        }
    }

    fn link(&mut self, at: &Path, path: &str) -> Result<(), ArchiveError> {
        let target = fs::read_link(at).map_err(|source| ArchiveError::File { path: at.into(), doing: "read", source })?;
        let unfit = |problem| ArchiveError::Unfit { path: at.into(), problem };
        let target = target.to_str().ok_or_else(|| unfit("is a link to a name that is not UTF-8; rename it".into()))?;
        check_link(path, target).map_err(unfit)?;
        self.head(LINK, path)?;
        self.text(target)
    }

    fn file(&mut self, at: &Path, path: &str) -> Result<(), ArchiveError> {
        let (mut file, metadata) = open_file(at)?;
        self.head(if metadata.mode() & 0o100 == 0 { FILE } else { EXECUTABLE }, path)?;
        self.put(&metadata.len().to_le_bytes())?;
        copy_exactly(&mut file, at, metadata.len(), self.output)
    }

    fn head(&mut self, kind: u8, path: &str) -> Result<(), ArchiveError> {
        self.put(&[kind])?;
        self.text(path)
    }

    fn text(&mut self, text: &str) -> Result<(), ArchiveError> {
        // Both kinds of text were checked against MAX_PATH_BYTES, so the length fits.
        self.put(&(text.len() as u16).to_le_bytes())?;
        self.put(text.as_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.output.write_all(bytes).map_err(ArchiveError::Output)
    }
}

/// Writes the bytes of a file.
pub(crate) fn copy_file(at: &Path, output: &mut impl Write) -> Result<(), ArchiveError> {
    let (mut file, metadata) = open_file(at)?;
    copy_exactly(&mut file, at, metadata.len(), output)
}

/// Opens a regular file: never what a link names, and never waiting for the other end of a pipe.
fn open_file(at: &Path) -> Result<(File, Metadata), ArchiveError> {
    let failed = |source| ArchiveError::File { path: at.into(), doing: "read", source };
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(at).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(ArchiveError::Changed(at.into())) }
}

/// Copies a file that must have exactly `size` bytes.
fn copy_exactly(file: &mut File, at: &Path, size: u64, output: &mut impl Write) -> Result<(), ArchiveError> {
    let copied = copy_up_to(file, output, size).map_err(|error| match error {
        CopyError::Input(source) => ArchiveError::File { path: at.into(), doing: "read", source },
        CopyError::Output(source) => ArchiveError::Output(source),
    })?;
    let mut more = [0];
    let rest =
        crate::digest::fill(file, &mut more).map_err(|source| ArchiveError::File { path: at.into(), doing: "read", source })?;
    if copied == size && rest == 0 { Ok(()) } else { Err(ArchiveError::Changed(at.into())) }
}
