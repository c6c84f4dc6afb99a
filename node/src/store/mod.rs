//! The package store of a voter or standby: every blob that a package of the record needs, and the manifests of what was uploaded and not yet
//! published.
//!
//! One idea: what somebody was just told is here stays here. A blob that was kept or uploaded is not forgotten for [`KEPT_FOR`], whoever asks; what
//! no package of the record names by then goes when the master says so. So an upload and the order that publishes it can be far apart, and no
//! receipt is given for what is being removed.

mod manifests;
#[cfg(test)]
mod tests;
mod upload;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use tokio::sync::{RwLock, watch};
use tokio::time::{Instant, timeout};
use tribune_messages::store::{PeerRequest, PeerResponse};
use tribune_p2p::blobs::{BlobError, BlobStore};
use tribune_p2p::transfer::{FetchError, Fetcher, Provider, Request};
use tribune_p2p::{Hash, Network, PeerId};
use tribune_raft_store::model::Signature;

pub use upload::{TakenIn, UploadError};

use manifests::Manifests;

/// How long what no package of the record needs is kept after somebody was told that it is here, and after a start.
pub const KEPT_FOR: Duration = Duration::from_secs(3600);
/// Blobs that are fetched at a time.
const AT_ONCE: usize = 4;
/// How long a blob that somebody else works with is waited for before it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The package store. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct PackageStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    blobs: BlobStore,
    manifests: Manifests,
    fetcher: Fetcher,
    kept_for: Duration,
    opened: Instant,
    /// What may not be forgotten now.
    promised: Mutex<Promised>,
    /// Held for reading while somebody is told that a blob is here, for writing while blobs are removed.
    removing: RwLock<()>,
    /// Counts the fetches that ended: who waits for another's fetch of the same blob hears of it here.
    ended: watch::Sender<u64>,
}

/// What may not be forgotten now.
#[derive(Debug, Default)]
struct Promised {
    /// When somebody was last told that a blob is here.
    told: HashMap<Signature, Instant>,
    /// How many uploads under way bring a blob.
    coming: HashMap<Signature, u32>,
}

/// What is in a package store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// The blobs that are there, on disk and fsynced, with their sizes in bytes.
    pub blobs: BTreeMap<Signature, u64>,
    /// What could not be had, and why.
    pub failed: BTreeMap<Signature, String>,
}

impl From<Held> for PeerResponse {
    fn from(held: Held) -> Self {
        let Held { blobs, failed } = held;
        PeerResponse::Held { blobs, failed }
    }
}

impl PackageStore {
    /// Opens the store in a folder, which is made if it is not there. Blobs come over `data`; `reserve` bytes of the disk stay free.
    ///
    /// # Errors
    /// When the folder cannot be read or made.
    pub async fn open(folder: impl Into<PathBuf>, data: Network, reserve: u64) -> Result<Self, BlobError> {
        Self::open_keeping(folder, data, reserve, KEPT_FOR).await
    }

    /// The same, where what no package needs is forgotten after so long instead of [`KEPT_FOR`].
    ///
    /// # Errors
    /// When the folder cannot be read or made.
    pub async fn open_keeping(
        folder: impl Into<PathBuf>,
        data: Network,
        reserve: u64,
        kept_for: Duration,
    ) -> Result<Self, BlobError> {
        let folder = folder.into();
        let blobs = BlobStore::open_with_reserve(folder.clone(), reserve).await?;
        let manifests = Manifests::open(folder.join("manifests")).await?;
        let inner = Inner {
            folder,
            blobs,
            manifests,
            fetcher: Fetcher::new(data),
            kept_for,
            opened: Instant::now(),
            promised: Mutex::default(),
            removing: RwLock::new(()),
            ended: watch::Sender::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// How long what no package needs is kept.
    pub fn kept_for(&self) -> Duration {
        self.inner.kept_for
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// The blobs themselves, to be served to others.
    pub fn blobs(&self) -> &BlobStore {
        &self.inner.blobs
    }

    /// Has these blobs, of these sizes in bytes: what is lacking is fetched from the peers named.
    pub async fn keep(&self, blobs: &BTreeMap<Signature, u64>, from: &[PeerId]) -> Held {
        let wanted: Vec<(Signature, u64)> = blobs.iter().map(|(signature, size)| (*signature, *size)).collect();
        let each = wanted.into_iter().map(|(signature, size)| -> BoxFuture<'_, _> {
            // Boxed, so that the compiler sees that it can be sent.
            Box::pin(async move { (signature, size, self.keep_one(signature, size, from).await) })
        });
        let mut each = stream::iter(each).buffer_unordered(AT_ONCE);
        let mut held = Held::default();
        while let Some((signature, size, kept)) = each.next().await {
            match kept {
                Ok(()) => drop(held.blobs.insert(signature, size)),
                Err(why) => drop(held.failed.insert(signature, why.to_string())),
            }
        }
        held
    }

    async fn keep_one(&self, signature: Signature, size: u64, from: &[PeerId]) -> Result<(), FetchError> {
        let hash = hash_of(&signature);
        loop {
            let mut ended = self.inner.ended.subscribe();
            {
                let _here = self.inner.removing.read().await;
                self.inner.promised().told.insert(signature, Instant::now());
                if self.inner.blobs.contains(&hash).await? {
                    return Ok(());
                }
            }
            let working = Working(&self.inner);
            let providers = from.iter().copied().map(Provider::from).collect();
            let fetched =
                self.inner.fetcher.fetch(Request { signature: hash, size }, providers, &self.inner.blobs, &|_| {}).await;
            match fetched {
                // It is looked for again, now that it cannot be removed any more.
                Ok(_) => {}
                // Another call of this one, or a removal, works with it: what that comes to is seen then.
                Err(FetchError::Store(BlobError::Busy(_))) => {
                    working.was_not();
                    // One that is cancelled may let go a moment after it said so: hence the limit.
                    drop(timeout(LOOK_AGAIN, ended.changed()).await);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Everything that is in the store.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn held(&self) -> Result<Held, BlobError> {
        let blobs = self.inner.blobs.list().await?;
        let blobs = blobs.into_iter().map(|(hash, size)| (signature_of(&hash), size)).collect();
        Ok(Held { blobs, failed: BTreeMap::new() })
    }

    /// Removes these blobs, which no package of the record needs: those that nobody was told of for [`KEPT_FOR`].
    ///
    /// # Errors
    /// When one cannot be removed.
    pub async fn forget(&self, blobs: &[Signature]) -> Result<(), BlobError> {
        let kept_for = self.inner.kept_for;
        let _removing = self.inner.removing.write().await;
        if self.inner.opened.elapsed() < kept_for {
            return Ok(());
        }
        self.inner.promised().told.retain(|_, told| told.elapsed() < kept_for);
        for signature in blobs {
            if !self.inner.promised().holds(signature, kept_for) {
                self.inner.remove(signature).await?;
            }
        }
        Ok(())
    }

    /// Removes manifests of uploads that were not published in [`KEPT_FOR`].
    ///
    /// # Errors
    /// When one cannot be removed.
    pub async fn forget_old_manifests(&self) -> Result<(), BlobError> {
        self.inner.manifests.forget_older_than(self.inner.kept_for).await
    }

    /// Answers what one node asks another about blobs; `None` if the question is about something else.
    pub async fn answer(&self, request: &PeerRequest, asker: PeerId) -> Option<PeerResponse> {
        let refused = |error: BlobError| PeerResponse::Refused { why: error.to_string() };
        match request {
            PeerRequest::Keep { blobs } => Some(self.keep(blobs, &[asker]).await.into()),
            PeerRequest::Held => Some(self.held().await.map_or_else(refused, PeerResponse::from)),
            PeerRequest::Forget { blobs } => Some(self.forget(blobs).await.map_or_else(refused, |()| PeerResponse::Done)),
            PeerRequest::WhoIsMaster | PeerRequest::Processes | PeerRequest::Log { .. } => None,
        }
    }
}

impl Inner {
    fn promised(&self) -> std::sync::MutexGuard<'_, Promised> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a blob; one that is being fetched stays.
    async fn remove(&self, signature: &Signature) -> Result<(), BlobError> {
        let working = Working(self);
        match self.blobs.remove(&hash_of(signature)).await {
            Err(BlobError::Busy(_)) => {
                working.was_not();
                Ok(())
            }
            other => other,
        }
    }
}

impl Promised {
    fn holds(&self, signature: &Signature, kept_for: Duration) -> bool {
        self.coming.contains_key(signature) || self.told.get(signature).is_some_and(|told| told.elapsed() < kept_for)
    }
}

/// Something that works with a blob's file under its signature. When it ends, those that waited look again.
struct Working<'a>(&'a Inner);

impl Working<'_> {
    /// It did not come to it: somebody else works with the file.
    fn was_not(self) {
        std::mem::forget(self);
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.ended.send_modify(|count| *count += 1);
    }
}

pub(crate) fn hash_of(signature: &Signature) -> Hash {
    Hash::from_bytes(*signature.as_bytes())
}

fn signature_of(hash: &Hash) -> Signature {
    Signature::new(*hash.as_bytes())
}
