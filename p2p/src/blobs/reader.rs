//! Reading a blob, and knowing at its end that it was the right one.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use blake3::{Hash, Hasher};

use super::{BlobError, STEP, blocking, io_at};

/// A blob being read. It hashes everything from the first byte on, also when reading begins further on, and the last step fails when
/// the bytes are not those of the signature.
#[derive(Debug)]
pub struct BlobReader {
    signature: Hash,
    size: u64,
    offset: u64,
    buffer: Vec<u8>,
    /// Away while a blocking thread works with it.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    hasher: Hasher,
}

impl BlobReader {
    pub(super) async fn open(path: PathBuf, signature: Hash, offset: u64) -> Result<Self, BlobError> {
        blocking(move || {
            let file = File::open(&path).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => BlobError::Missing(signature),
                _ => io_at("open", &path)(e),
            })?;
            let size = file.metadata().map_err(io_at("inspect", &path))?.len();
            if offset > size {
                return Err(BlobError::WrongSize { signature, expected: offset, actual: size });
            }
            let mut hasher = Hasher::new();
            io::copy(&mut (&file).take(offset), &mut hasher).map_err(io_at("read", &path))?;
            let open = Open { path, file, hasher };
            Ok(Self { signature, size, offset, buffer: Vec::new(), open: Some(open) })
        })
        .await
    }

    /// The blob's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the next piece begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes, at most 256 KiB; `None` at the end, once the whole blob has been found right.
    ///
    /// # Errors
    /// [`BlobError::Mismatch`] at the end, or [`BlobError::WrongSize`] when the file became shorter: what was read is not to be used.
    pub async fn next(&mut self) -> Result<Option<&[u8]>, BlobError> {
        let mut open = self.open.take().ok_or(BlobError::Interrupted)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let left = self.size - self.offset;
        let signature = self.signature;
        let (size, offset) = (self.size, self.offset);
        let (open, buffer) = blocking(move || {
            buffer.clear();
            if left == 0 {
                let actual = open.hasher.finalize();
                return if actual == signature {
                    Ok((open, buffer))
                } else {
                    Err(BlobError::Mismatch { expected: signature, actual })
                };
            }
            let want = left.min(STEP as u64);
            let read = (&open.file).take(want).read_to_end(&mut buffer).map_err(io_at("read", &open.path))?;
            if (read as u64) < want {
                return Err(BlobError::WrongSize { signature, expected: size, actual: offset + read as u64 });
            }
            open.hasher.update(&buffer);
            Ok((open, buffer))
        })
        .await?;
        self.offset += buffer.len() as u64;
        (self.open, self.buffer) = (Some(open), buffer);
        Ok(if left == 0 { None } else { Some(&self.buffer) })
    }
}
