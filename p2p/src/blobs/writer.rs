//! Writing a blob whose signature is known before its bytes: by pieces, with pauses, over restarts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use blake3::{Hash, Hasher};

use super::store::{Claim, parent_of, seal, sync_folder};
use super::{BlobError, STEP, blocking, io_at};

/// A blob being written. Dropping it keeps what was flushed, for the next [`BlobStore::writer`](super::BlobStore::writer) to go on with.
#[derive(Debug)]
pub struct BlobWriter {
    expected: Hash,
    size: u64,
    /// Bytes in the file and the buffer together.
    offset: u64,
    buffer: Vec<u8>,
    /// Away while a blocking thread works with it; lost when that work was cancelled.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    claim: Claim,
    path: PathBuf,
    file: File,
    hasher: Hasher,
}

impl BlobWriter {
    /// Opens the partial file and hashes what is in it.
    pub(super) fn open(claim: Claim, expected: Hash, size: u64) -> Result<Self, BlobError> {
        let path = claim.inner.partial(&expected);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io_at("open", &path))?;
        let found = file.metadata().map_err(io_at("inspect", &path))?.len();
        let mut hasher = Hasher::new();
        let mut offset = 0;
        if found <= size {
            // The file's position is at its end afterwards: writing goes on there.
            offset = io::copy(&mut file, &mut hasher).map_err(io_at("read", &path))?;
        } else {
            file.set_len(0).map_err(io_at("empty", &path))?;
        }
        claim.inner.check_space(size.saturating_sub(offset))?;
        let open = Open { claim, path, file, hasher };
        Ok(Self { expected, size, offset, buffer: Vec::new(), open: Some(open) })
    }

    /// How many bytes there are; the next to be written is the one at this offset.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes there will be.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// [`BlobError::WrongSize`] when they are more than were announced; nothing of them is written then.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        let offset = self.offset + bytes.len() as u64;
        if offset > self.size {
            return Err(BlobError::WrongSize { signature: self.expected, expected: self.size, actual: offset });
        }
        self.buffer.extend_from_slice(bytes);
        self.offset = offset;
        if self.buffer.len() >= STEP { self.flush().await } else { Ok(()) }
    }

    /// Hands everything written so far to the system, where a later writer finds it.
    pub async fn flush(&mut self) -> Result<(), BlobError> {
        let mut open = self.open.take().ok_or(BlobError::Interrupted)?;
        let buffer = std::mem::take(&mut self.buffer);
        let (open, mut buffer) = blocking(move || {
            open.claim.inner.check_space(buffer.len() as u64)?;
            open.file.write_all(&buffer).map_err(io_at("write", &open.path))?;
            open.hasher.update(&buffer);
            Ok((open, buffer))
        })
        .await?;
        buffer.clear();
        (self.open, self.buffer) = (Some(open), buffer);
        Ok(())
    }

    /// Forgets everything written so far and begins again at offset 0.
    pub async fn restart(&mut self) -> Result<(), BlobError> {
        let mut open = self.open.take().ok_or(BlobError::Interrupted)?;
        self.buffer.clear();
        let open = blocking(move || {
            open.file.set_len(0).map_err(io_at("empty", &open.path))?;
            io::Seek::rewind(&mut open.file).map_err(io_at("rewind", &open.path))?;
            open.hasher = Hasher::new();
            Ok(open)
        })
        .await?;
        self.offset = 0;
        self.open = Some(open);
        Ok(())
    }

    /// Removes everything written so far.
    pub async fn discard(mut self) -> Result<(), BlobError> {
        let open = self.open.take().ok_or(BlobError::Interrupted)?;
        blocking(move || fs::remove_file(&open.path).map_err(io_at("remove", &open.path))).await
    }

    /// Compares with the signature and, when it matches, puts the blob into its place, durably.
    ///
    /// # Errors
    /// [`BlobError::WrongSize`] when bytes are missing (what there is stays); [`BlobError::Mismatch`] when the bytes are
    /// others: then they are removed.
    pub async fn commit(mut self) -> Result<(), BlobError> {
        if self.offset != self.size {
            return Err(BlobError::WrongSize { signature: self.expected, expected: self.size, actual: self.offset });
        }
        self.flush().await?;
        let open = self.open.take().ok_or(BlobError::Interrupted)?;
        let expected = self.expected;
        blocking(move || {
            let actual = open.hasher.finalize();
            if actual != expected {
                fs::remove_file(&open.path).map_err(io_at("remove", &open.path))?;
                return Err(BlobError::Mismatch { expected, actual });
            }
            seal(&open.file, &open.path)?;
            open.claim.inner.put_in_place(&open.path, &expected)?;
            sync_folder(parent_of(&open.path))
        })
        .await
    }
}
