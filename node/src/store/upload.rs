//! Taking in an uploaded package or image file.
//!
//! One idea: the file is read once, as it comes, and verified while it is read; each blob goes to disk on its way. Only when the last byte was
//! right do the manifests follow. What is cut short or wrong leaves nothing: the blobs that were not there before are removed again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tribune_p2p::blobs::{BlobError, BlobStore, Imported};
use tribune_p2p::blocking;
use tribune_package::{ContainerError, ContainerReader, Header};
use tribune_raft_store::model::{PackageId, Signature};

use super::{Inner, PackageStore, hash_of};

/// Bytes of a blob that are on their way from the reader to the disk.
const PIPE: usize = 256 << 10;

/// What an upload brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenIn {
    /// The packages in the file.
    pub packages: BTreeSet<PackageId>,
    /// Their blobs, with their sizes in bytes.
    pub blobs: BTreeMap<Signature, u64>,
}

/// Why a file was not taken in. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The file is cut short or damaged.
    #[error("the file cannot be used: {0}")]
    File(#[from] ContainerError),
    /// It cannot be written here.
    #[error(transparent)]
    Store(#[from] BlobError),
}

impl PackageStore {
    /// Takes in a package or image file from `source`, which ends with the file. Afterwards all its blobs and manifests are on disk, fsynced.
    ///
    /// It goes on when its future is dropped, until the source ends.
    ///
    /// # Errors
    /// Then nothing is left of it.
    pub async fn take_in(&self, source: impl AsyncRead + Send + Unpin + 'static) -> Result<TakenIn, UploadError> {
        let store = self.clone();
        if blocking::is_in_place() {
            // Nothing can come while it is worked on, so all of it comes first.
            let (mut source, mut whole) = (source, Vec::new());
            // What breaks off is short, and found to be.
            let _ = source.read_to_end(&mut whole).await;
            return store.take(io::Cursor::new(whole), Waits::InPlace);
        }
        let waits = Waits::On(Handle::current());
        let bridge = Bridge { io: source, waits: waits.clone() };
        let work = blocking::run(move || store.take(io::BufReader::with_capacity(PIPE, bridge), waits)).await;
        work.unwrap_or(Err(UploadError::Store(BlobError::Interrupted)))
    }

    fn take(&self, source: impl io::Read, waits: Waits) -> Result<TakenIn, UploadError> {
        let container = ContainerReader::open(source)?;
        let upload = Upload::begin(&self.inner, &waits, container.header())?;
        upload.take(container)
    }

    /// The manifest of a package that was uploaded here and is not forgotten.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn manifest(&self, id: PackageId) -> Result<Option<String>, BlobError> {
        self.inner.manifests.get(id).await
    }
}

/// How work that blocks waits for what futures come to.
#[derive(Debug, Clone)]
enum Waits {
    /// On a thread made for it.
    On(Handle),
    /// In place: they have nothing to wait for.
    InPlace,
}

impl Waits {
    fn for_it<F: Future>(&self, future: F) -> F::Output {
        match self {
            Self::On(runtime) => runtime.block_on(future),
            Self::InPlace => blocking::at_once(future),
        }
    }
}

/// An upload under way: it has announced its blobs, so that nobody removes them.
struct Upload<'a> {
    inner: &'a Inner,
    waits: &'a Waits,
    blobs: BTreeMap<Signature, u64>,
    /// Those that were not there when it began.
    new: BTreeSet<Signature>,
}

impl<'a> Upload<'a> {
    fn begin(inner: &'a Inner, waits: &'a Waits, header: &Header) -> Result<Self, BlobError> {
        let blobs: BTreeMap<Signature, u64> = header.blobs().iter().map(|(signature, blob)| (*signature, blob.size)).collect();
        let mut upload = Self { inner, waits, blobs, new: BTreeSet::new() };
        let _here = waits.for_it(inner.removing.read());
        {
            let mut promised = inner.promised();
            for signature in upload.blobs.keys() {
                *promised.coming.entry(*signature).or_default() += 1;
            }
        }
        for signature in upload.blobs.keys() {
            if !waits.for_it(inner.blobs.contains(&hash_of(signature)))? {
                upload.new.insert(*signature);
            }
        }
        // Said before gigabytes have come for nothing. The sum was checked with the header.
        let coming: u64 = upload.new.iter().filter_map(|signature| upload.blobs.get(signature)).sum();
        waits.for_it(inner.blobs.has_room(coming))?;
        Ok(upload)
    }

    fn take(mut self, mut container: ContainerReader<impl io::Read>) -> Result<TakenIn, UploadError> {
        while let Some(blob) = container.next_blob()? {
            if self.new.contains(&blob.signature()) {
                let mut import = Import::begin(self.waits, self.inner.blobs.clone(), blob.signature(), blob.size());
                match blob.copy_to(&mut import) {
                    Ok(()) => import.end()?,
                    // It stopped reading: why, it says itself.
                    Err(ContainerError::Output(why)) => {
                        import.end()?;
                        return Err(ContainerError::Output(why).into());
                    }
                    Err(error) => return Err(error.into()),
                }
            } else {
                // It is here. It is read all the same: the file is to be right as a whole.
                blob.copy_to(&mut io::sink())?;
            }
        }
        let texts: Vec<String> = container.header().packages().iter().map(|manifest| manifest.canonical()).collect();
        let bytes: usize = texts.iter().map(String::len).sum();
        self.waits.for_it(self.inner.blobs.has_room(bytes as u64))?;
        let packages = self.inner.manifests.put(&texts)?;
        self.new.clear();
        let now = Instant::now();
        self.inner.promised().told.extend(self.blobs.keys().map(|signature| (*signature, now)));
        Ok(TakenIn { packages, blobs: self.blobs.clone() })
    }
}

impl Drop for Upload<'_> {
    /// Lets go of its blobs, and removes those it brought unless somebody else needs them by now.
    fn drop(&mut self) {
        let _removing = (!self.new.is_empty()).then(|| self.waits.for_it(self.inner.removing.write()));
        {
            let mut promised = self.inner.promised();
            for signature in self.blobs.keys() {
                if let Some(count) = promised.coming.get_mut(signature) {
                    *count -= 1;
                    if *count == 0 {
                        promised.coming.remove(signature);
                    }
                }
            }
            self.new.retain(|signature| !promised.holds(signature, self.inner.kept_for));
        }
        for signature in &self.new {
            if let Err(error) = self.waits.for_it(self.inner.remove(signature)) {
                tracing::warn!(blob = %signature, %error, "what a failed upload brought could not be removed");
            }
        }
    }
}

/// A blob on its way to the disk. Dropping it before [`Import::end`] leaves nothing of it.
enum Import {
    /// A task takes it in as it comes.
    Beside { waits: Handle, pipe: Option<Bridge<DuplexStream>>, import: JoinHandle<Result<Imported, BlobError>> },
    /// It is taken in when it is whole.
    InPlace { store: BlobStore, signature: Signature, size: u64, bytes: Vec<u8> },
}

impl Import {
    fn begin(waits: &Waits, store: BlobStore, signature: Signature, size: u64) -> Self {
        let Waits::On(runtime) = waits else { return Self::InPlace { store, signature, size, bytes: Vec::new() } };
        let (near, far) = tokio::io::duplex(PIPE);
        let import = runtime.spawn(async move { store.import(far, size, Some(hash_of(&signature))).await });
        Self::Beside { waits: runtime.clone(), pipe: Some(Bridge { io: near, waits: waits.clone() }), import }
    }

    /// Ends the bytes, and waits until they are on disk.
    fn end(mut self) -> Result<(), BlobError> {
        match &mut self {
            Self::Beside { waits, pipe, import } => {
                *pipe = None;
                waits.block_on(import).unwrap_or(Err(BlobError::Interrupted)).map(|_| ())
            }
            Self::InPlace { store, signature, size, bytes } => {
                blocking::at_once(store.import(bytes.as_slice(), *size, Some(hash_of(signature)))).map(|_| ())
            }
        }
    }
}

impl Write for Import {
    fn write(&mut self, new: &[u8]) -> io::Result<usize> {
        match self {
            Self::Beside { pipe: Some(pipe), .. } => pipe.write(new),
            Self::Beside { pipe: None, .. } => Err(io::ErrorKind::BrokenPipe.into()),
            Self::InPlace { bytes, .. } => Write::write(bytes, new),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Beside { pipe: Some(pipe), .. } => pipe.flush(),
            Self::Beside { pipe: None, .. } | Self::InPlace { .. } => Ok(()),
        }
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        let Self::Beside { waits, pipe, import } = self else { return };
        // What was not ended is short, so that its signature is wrong and nothing of it is kept; waited for, so that this is so when the
        // upload looks at what it brought.
        *pipe = None;
        if !import.is_finished() {
            let _ = waits.block_on(import);
        }
    }
}

/// Reads and writes, where it may block, what is read and written by futures elsewhere.
struct Bridge<T> {
    io: T,
    waits: Waits,
}

impl<T: AsyncRead + Unpin> io::Read for Bridge<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.waits.for_it(self.io.read(buffer))
    }
}

impl<T: AsyncWrite + Unpin> Write for Bridge<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waits.for_it(self.io.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.waits.for_it(self.io.flush())
    }
}
