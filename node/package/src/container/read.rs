//! Reads a container, streamed: what it hands out is verified before the last byte of it is.

use std::io::{self, Read, Write};

use tribune_raft_store::model::{ModuleKind, Signature};

use super::{CONTAINER_FORMAT, ContainerError, Header, MAGIC, MAX_HEADER_BYTES, Part};
use crate::archive::{self, ArchiveError};
use crate::digest::{Digest, DigestReader, fill};

/// A container whose header was read and checked.
pub struct ContainerReader<R> {
    input: DigestReader<R>,
    header: Header,
    /// The blobs not yet begun, last first.
    waiting: Vec<Signature>,
    state: State,
}

/// How far a container was read.
enum State {
    /// At the beginning of a blob, or of the trailer.
    Between,
    /// Within a blob.
    Within(Box<Current>),
    /// The trailer was read and all is well.
    Done,
    /// It is damaged; nothing more is handed out.
    Broken,
}

/// The blob that is being read.
struct Current {
    signature: Signature,
    size: u64,
    digest: Digest,
}

impl<R: Read> ContainerReader<R> {
    /// Reads the header, checks it, and stands before the first blob.
    pub fn open(input: R) -> Result<Self, ContainerError> {
        let mut input = DigestReader::new(input);
        let mut magic = [0; MAGIC.len()];
        // A file shorter than this that begins like one was cut; any other is foreign.
        let filled =
            fill(&mut input, &mut magic).map_err(|source| ContainerError::Input { at: 0, within: Part::Header, source })?;
        if magic[..filled] != MAGIC[..filled] {
            return Err(ContainerError::Foreign);
        }
        if filled < magic.len() {
            return Err(ContainerError::Cut { at: filled as u64, within: Part::Header });
        }
        let format = u32::from_le_bytes(exact(&mut input)?);
        if format != CONTAINER_FORMAT {
            return Err(ContainerError::Format(format));
        }
        let length = u32::from_le_bytes(exact(&mut input)?);
        if length as usize > MAX_HEADER_BYTES {
            return Err(ContainerError::HeaderTooLong(length.into()));
        }
        let mut text = Vec::new();
        // Grows with what really comes: a false length makes nobody allocate for it.
        let read = (&mut input).take(length.into()).read_to_end(&mut text);
        if let Err(source) = read {
            return Err(ContainerError::Input { at: input.digest.length(), within: Part::Header, source });
        }
        if text.len() < length as usize {
            return Err(ContainerError::Cut { at: input.digest.length(), within: Part::Header });
        }
        let hash = input.digest.signature();
        if exact::<32>(&mut input)? != *hash.as_bytes() {
            return Err(ContainerError::HeaderDamaged);
        }
        let header = Header::from_text(&text)?;
        let waiting = header.blobs().keys().rev().copied().collect();
        Ok(Self { input, header, waiting, state: State::Between })
    }

    /// What the container says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next blob, in order of signature, or `None` when all were read and the trailer and the end are as they
    /// should be. What was left unread of the blob before is read and verified first.
    pub fn next_blob(&mut self) -> Result<Option<BlobReader<'_, R>>, ContainerError> {
        let mut buffer = vec![0; if matches!(self.state, State::Within(_)) { 64 << 10 } else { 0 }];
        while matches!(self.state, State::Within(_)) {
            self.read_blob(&mut buffer)?;
        }
        match self.state {
            State::Broken => return Err(ContainerError::Broken),
            State::Done => return Ok(None),
            State::Between | State::Within(_) => {}
        }
        let Some(signature) = self.waiting.pop() else {
            self.state = State::Broken;
            self.trailer()?;
            self.state = State::Done;
            return Ok(None);
        };
        // The signatures that wait are the keys of the header's blobs.
        let size = self.header.blobs()[&signature].size;
        self.state = State::Within(Box::new(Current { signature, size, digest: Digest::default() }));
        if size == 0 {
            // There is no last byte at which to verify it.
            self.verify()?;
        }
        Ok(Some(BlobReader { container: self, signature, size }))
    }

    /// The signature of the blob that [`next_blob`](Self::next_blob) would give, if there is one more.
    pub fn next_signature(&self) -> Option<Signature> {
        self.waiting.last().copied()
    }

    /// Reads all blobs that are left, only to verify and check them.
    pub fn verify_rest(&mut self) -> Result<(), ContainerError> {
        while let Some(blob) = self.next_blob()? {
            blob.copy_to(&mut io::sink())?;
        }
        Ok(())
    }

    /// How many bytes were read so far: all there are, once everything was verified.
    pub fn position(&self) -> u64 {
        let trailer = if matches!(self.state, State::Done) { 32 } else { 0 };
        self.input.digest.length() + trailer
    }

    /// Reads into the buffer from the current blob; 0 at its end. The read that completes it also verifies it.
    fn read_blob(&mut self, buffer: &mut [u8]) -> Result<usize, ContainerError> {
        let current = match &mut self.state {
            State::Within(current) => current,
            State::Between | State::Done => return Ok(0),
            State::Broken => return Err(ContainerError::Broken),
        };
        let left = current.size - current.digest.length();
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = loop {
            match self.input.read(&mut buffer[..want]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let count = match read {
            Ok(count) => count,
            Err(source) => {
                let within = self.break_within();
                return Err(ContainerError::Input { at: self.position(), within, source });
            }
        };
        if count == 0 && want > 0 {
            let within = self.break_within();
            return Err(ContainerError::Cut { at: self.position(), within });
        }
        current.digest.add(&buffer[..count]);
        if current.digest.length() == current.size {
            self.verify()?;
        }
        Ok(count)
    }

    /// Verifies the current blob, which is complete.
    fn verify(&mut self) -> Result<(), ContainerError> {
        let State::Within(current) = &self.state else { return Ok(()) };
        let (found, wanted) = (current.digest.signature(), current.signature);
        if found == wanted {
            self.state = State::Between;
            return Ok(());
        }
        self.state = State::Broken;
        Err(ContainerError::Mismatch { module: self.names(&wanted), found, wanted })
    }

    fn break_within(&mut self) -> Part {
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Within(current) => Part::Module(self.names(&current.signature)),
            State::Between | State::Done | State::Broken => Part::Trailer,
        }
    }

    fn names(&self, signature: &Signature) -> String {
        self.header.blobs().get(signature).map_or_else(String::new, |blob| blob.modules.join(" and "))
    }

    fn trailer(&mut self) -> Result<(), ContainerError> {
        let at = self.position();
        let failed = |source| ContainerError::Input { at, within: Part::Trailer, source };
        let wanted = self.input.digest.signature();
        let mut found = [0; 32];
        let filled = fill(self.input.undigested(), &mut found).map_err(failed)?;
        if filled < found.len() {
            return Err(ContainerError::Cut { at: at + filled as u64, within: Part::Trailer });
        }
        if found != *wanted.as_bytes() {
            return Err(ContainerError::TrailerDamaged);
        }
        match fill(self.input.undigested(), &mut [0]).map_err(failed)? {
            0 => Ok(()),
            _ => Err(ContainerError::Trailing { at: at + found.len() as u64 }),
        }
    }
}

/// Reads a fixed number of bytes of the header.
fn exact<const N: usize>(input: &mut DigestReader<impl Read>) -> Result<[u8; N], ContainerError> {
    let mut bytes = [0; N];
    let filled = fill(input, &mut bytes);
    let at = input.digest.length();
    match filled {
        Ok(count) if count == N => Ok(bytes),
        Ok(_) => Err(ContainerError::Cut { at, within: Part::Header }),
        Err(source) => Err(ContainerError::Input { at, within: Part::Header, source }),
    }
}

/// The bytes of one blob.
///
/// The read that would hand out its last byte verifies all of it first, and fails if they are not those of its
/// signature: whoever has read `size` bytes without an error has the right ones. What is read before is not verified
/// yet, and must not be used until then. Errors are [`ContainerError`] within [`io::Error`].
pub struct BlobReader<'a, R> {
    container: &'a mut ContainerReader<R>,
    signature: Signature,
    size: u64,
}

impl<R: Read> BlobReader<'_, R> {
    /// The signature of the bytes.
    pub fn signature(&self) -> Signature {
        self.signature
    }

    /// How many bytes there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Copies all bytes of a blob of which none was read yet. When it returns without an error, they are those of the
    /// signature, and if they are a folder's, they can be unpacked: no path in them leads out of it.
    pub fn copy_to(mut self, output: &mut impl Write) -> Result<(), ContainerError> {
        let size = self.size;
        let kind = self.container.header.blobs().get(&self.signature).map(|blob| blob.kind);
        let mut tee = Tee { blob: &mut self, output, output_failed: None };
        let problem = match kind {
            Some(ModuleKind::Folder) => archive::check(&mut tee, size).err(),
            Some(ModuleKind::File) | None => None,
        };
        // For a file, all of it. For a folder's archive, what is left after a problem: if the bytes are damaged, that
        // is what must be said.
        let rest = match problem {
            Some(ArchiveError::Input(error)) => Err(error),
            _ => io::copy(&mut tee, &mut io::sink()).map(|_| problem),
        };
        match (tee.output_failed, rest) {
            (Some(error), _) => Err(ContainerError::Output(error)),
            (None, Err(error)) => Err(self.reason(error)),
            (None, Ok(None)) => Ok(()),
            (None, Ok(Some(problem))) => {
                self.container.state = State::Broken;
                Err(ContainerError::Archive { module: self.container.names(&self.signature), problem: problem.into() })
            }
        }
    }

    /// What an error of reading this blob was.
    fn reason(&self, error: io::Error) -> ContainerError {
        let within = Part::Module(self.container.names(&self.signature));
        error.downcast().unwrap_or_else(|source| ContainerError::Input { at: self.container.position(), within, source })
    }
}

/// Writes to the output what is read from the blob.
struct Tee<'a, 'b, R, W> {
    blob: &'a mut BlobReader<'b, R>,
    output: &'a mut W,
    output_failed: Option<io::Error>,
}

impl<R: Read, W: Write> Read for Tee<'_, '_, R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.output_failed.is_some() {
            return Err(io::Error::other("the output failed"));
        }
        let count = self.blob.read(buffer)?;
        if let Err(error) = self.output.write_all(&buffer[..count]) {
            self.output_failed = Some(error);
            return Err(io::Error::other("the output failed"));
        }
        Ok(count)
    }
}

impl<R: Read> Read for BlobReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.container.read_blob(buffer).map_err(io::Error::other)
    }
}
