//! Readers and writers that hash and count what passes through them, so that nothing is read twice to be checked.

use std::io::{self, Read, Write};

use tribune_raft_store::model::Signature;

/// How many bytes are copied at a time.
const COPY_BUFFER: usize = 128 << 10;

/// Hashes and counts bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Digest {
    hasher: blake3::Hasher,
    length: u64,
}

impl Digest {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// How many bytes were added.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// The signature of the bytes added so far.
    pub(crate) fn signature(&self) -> Signature {
        Signature::new(*self.hasher.finalize().as_bytes())
    }
}

/// Passes on what is written, and digests it.
pub(crate) struct DigestWriter<W> {
    inner: W,
    /// What was written so far.
    pub(crate) digest: Digest,
}

impl<W: Write> DigestWriter<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, digest: Digest::default() }
    }
}

impl<W: Write> Write for DigestWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.digest.add(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Passes on what is read, and digests it.
pub(crate) struct DigestReader<R> {
    inner: R,
    /// What was read so far.
    pub(crate) digest: Digest,
}

impl<R: Read> DigestReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, digest: Digest::default() }
    }

    /// Reads on without digesting: for a trailer that holds the digest of what was before it.
    pub(crate) fn undigested(&mut self) -> &mut R {
        &mut self.inner
    }
}

impl<R: Read> Read for DigestReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.digest.add(&buffer[..count]);
        Ok(count)
    }
}

/// Copies up to `limit` bytes; returns how many there were.
pub(crate) fn copy_up_to(input: &mut impl Read, output: &mut impl Write, limit: u64) -> Result<u64, CopyError> {
    let mut buffer = vec![0; COPY_BUFFER.min(usize::try_from(limit).unwrap_or(COPY_BUFFER))];
    let mut copied = 0;
    while copied < limit {
        let want = buffer.len().min(usize::try_from(limit - copied).unwrap_or(buffer.len()));
        let count = match input.read(&mut buffer[..want]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Input(error)),
        };
        output.write_all(&buffer[..count]).map_err(CopyError::Output)?;
        copied += count as u64;
    }
    Ok(copied)
}

/// Which side of a copy failed.
#[derive(Debug)]
pub(crate) enum CopyError {
    /// Reading did.
    Input(io::Error),
    /// Writing did.
    Output(io::Error),
}

/// Fills the buffer as far as the input goes; returns how many bytes there were.
pub(crate) fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
