//! Writes a container, streamed.

use std::io::{self, Write};

use tribune_raft_store::model::Signature;

use super::{CONTAINER_FORMAT, ContainerError, Header, MAGIC};
use crate::digest::DigestWriter;

/// Writes a container: the header, and then each blob as `blob` writes it when called with its signature, in order.
///
/// What `blob` writes is checked: bytes that are not those of the signature are an error, named by the module, and the
/// output is then not to be used. An error of `blob` itself is passed on.
pub fn write<E: From<ContainerError>>(
    header: &Header,
    output: impl Write,
    mut blob: impl FnMut(&Signature, &mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let mut output = DigestWriter::new(output);
    let text = header.to_text()?;
    put(&mut output, MAGIC)?;
    put(&mut output, &CONTAINER_FORMAT.to_le_bytes())?;
    // `to_text` keeps to MAX_HEADER_BYTES, so the length fits.
    put(&mut output, &(text.len() as u32).to_le_bytes())?;
    put(&mut output, text.as_bytes())?;
    let hash = output.digest.signature();
    put(&mut output, hash.as_bytes())?;
    for (signature, announced) in header.blobs() {
        let mut checked = DigestWriter::new(Bounded { inner: &mut output, left: announced.size });
        blob(signature, &mut checked)?;
        let found = checked.digest.signature();
        if found != *signature || checked.digest.length() != announced.size {
            let module = announced.modules.join(" and ");
            return Err(ContainerError::Mismatch { module, found, wanted: *signature }.into());
        }
    }
    let hash = output.digest.signature();
    put(&mut output, hash.as_bytes())?;
    Ok(output.flush().map_err(ContainerError::Output)?)
}

fn put(output: &mut impl Write, bytes: &[u8]) -> Result<(), ContainerError> {
    output.write_all(bytes).map_err(ContainerError::Output)
}

/// Takes no more bytes than were announced.
struct Bounded<W> {
    inner: W,
    left: u64,
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::other("the module became longer while it was being written"));
        }
        let count = self.inner.write(bytes)?;
        self.left -= count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
