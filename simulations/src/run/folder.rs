//! Where a run has its files.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// The folder of a run, in memory where that can be; removed with it.
pub(super) struct Folder(pub(super) PathBuf, #[expect(dead_code, reason = "held until the run is over")] std::fs::File);

impl Folder {
    pub(super) fn new(seed: u64) -> Result<Self> {
        let base = if PathBuf::from("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
        // The same path for the same seed in every run: paths are in what processes are started with.
        let path = base.join(format!("tribune-simulation-{seed}"));
        // Another run of this seed is waited for.
        let lock = lock_of(&base.join(format!("tribune-simulation-{seed}.lock")))?;
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        std::fs::create_dir_all(&path)?;
        Ok(Self(path, lock))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        let _ = std::fs::remove_file(self.0.with_extension("lock"));
    }
}

/// Locks a file that whoever had it before removes.
fn lock_of(path: &Path) -> std::io::Result<std::fs::File> {
    loop {
        let lock = std::fs::File::create(path)?;
        lock.lock()?;
        // What was waited for may be gone, and another have made it anew.
        if std::fs::metadata(path).is_ok_and(|there| lock.metadata().is_ok_and(|here| here.ino() == there.ino())) {
            return Ok(lock);
        }
    }
}
