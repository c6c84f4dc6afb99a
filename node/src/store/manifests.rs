//! The manifests of packages that were uploaded: from the upload until the order that publishes them.
//!
//! One idea: one file each, by the package's id, which is the BLAKE3 of its text: a damaged one is as good as none.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tribune_p2p::blobs::BlobError;
use tribune_raft_store::model::PackageId;

/// The folder of manifests.
#[derive(Debug, Clone)]
pub(super) struct Manifests {
    folder: PathBuf,
}

impl Manifests {
    pub(super) async fn open(folder: PathBuf) -> Result<Self, BlobError> {
        blocking(move || {
            fs::create_dir_all(&folder).map_err(at("create", &folder))?;
            Ok(Self { folder })
        })
        .await
    }

    fn path(&self, id: &PackageId) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// Writes manifests down, durably. Runs where it may block.
    pub(super) fn put(&self, texts: &[String]) -> Result<BTreeSet<PackageId>, BlobError> {
        let mut ids = BTreeSet::new();
        for text in texts {
            let id = PackageId::of(text);
            let path = self.path(&id);
            let draft = path.with_extension("new");
            let written = File::create(&draft).and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            });
            written.map_err(at("write", &draft))?;
            fs::rename(&draft, &path).map_err(at("move into place", &path))?;
            ids.insert(id);
        }
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(at("fsync the folder", &self.folder))?;
        Ok(ids)
    }

    /// The manifest of a package, if it was uploaded here and is whole.
    pub(super) async fn get(&self, id: PackageId) -> Result<Option<String>, BlobError> {
        let path = self.path(&id);
        blocking(move || match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text).filter(|text| PackageId::of(text) == id)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => Ok(None),
            Err(error) => Err(at("read", &path)(error)),
        })
        .await
    }

    /// Removes those that were written longer ago than `age`.
    pub(super) async fn forget_older_than(&self, age: Duration) -> Result<(), BlobError> {
        let folder = self.folder.clone();
        blocking(move || {
            for file in fs::read_dir(&folder).map_err(at("list", &folder))? {
                let path = file.map_err(at("list", &folder))?.path();
                let written = fs::metadata(&path).and_then(|metadata| metadata.modified()).map_err(at("inspect", &path))?;
                if written.elapsed().is_ok_and(|since| since > age) {
                    fs::remove_file(&path).map_err(at("remove", &path))?;
                }
            }
            Ok(())
        })
        .await
    }
}

fn at<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> BlobError + 'a {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BlobError::DiskFull { action, path: path.to_owned() },
        _ => BlobError::Io { action, path: path.to_owned(), source },
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, BlobError> + Send + 'static) -> Result<T, BlobError> {
    tribune_p2p::blocking::run(work).await.unwrap_or(Err(BlobError::Interrupted))
}
