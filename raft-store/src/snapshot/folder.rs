//! The folder that snapshots lie in.
//!
//! One idea: a file counts only once its bytes, and then its name, were synced; so the calls that do that are named, and a
//! folder in memory can lose what was not.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::{fmt, sync::Arc};

use tokio::io::{AsyncRead, AsyncWrite};

/// A file that is being read without blocking.
pub type ByteStream = Box<dyn AsyncRead + Send + Unpin>;
/// A file that is being written without blocking.
pub type ByteSink = Box<dyn AsyncWrite + Send + Unpin>;

/// A folder of files. Names are plain file names.
pub trait Folder: fmt::Debug + Send + Sync + 'static {
    /// Makes an empty file, to be written from its beginning. One of this name is emptied.
    fn create(&self, name: &str) -> io::Result<Box<dyn Write + Send>>;
    /// As [`Folder::create`], for writing without blocking.
    fn create_sink(&self, name: &str) -> io::Result<ByteSink>;
    /// Opens a file for reading from its beginning.
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>>;
    /// As [`Folder::open`], for reading without blocking.
    fn open_stream(&self, name: &str) -> io::Result<ByteStream>;
    /// Puts a file's bytes on disk.
    fn sync_file(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name; one that had it is replaced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// The names in it.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Puts the names themselves on disk.
    fn sync(&self) -> io::Result<()>;
    /// What a user would call this file.
    fn describe(&self, name: &str) -> String;
}

/// A folder on disk.
#[derive(Debug, Clone)]
pub struct DiskFolder {
    path: PathBuf,
}

impl DiskFolder {
    /// Opens a folder, or makes it. Only its owner may read it.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        Ok(Self { path: path.into() })
    }

    /// A folder that is there, for reading.
    pub(crate) fn existing(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// The same, behind the trait.
    pub fn shared(path: &Path) -> io::Result<Arc<dyn Folder>> {
        Ok(Arc::new(Self::open(path)?))
    }

    fn create_file(&self, name: &str) -> io::Result<File> {
        File::create(self.path.join(name))
    }
}

impl Folder for DiskFolder {
    fn create(&self, name: &str) -> io::Result<Box<dyn Write + Send>> {
        Ok(Box::new(self.create_file(name)?))
    }

    fn create_sink(&self, name: &str) -> io::Result<ByteSink> {
        Ok(Box::new(tokio::fs::File::from_std(self.create_file(name)?)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(self.path.join(name))?))
    }

    fn open_stream(&self, name: &str) -> io::Result<ByteStream> {
        Ok(Box::new(tokio::fs::File::from_std(File::open(self.path.join(name))?)))
    }

    fn sync_file(&self, name: &str) -> io::Result<()> {
        File::open(self.path.join(name))?.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.path)?.map(|file| Ok(file?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn describe(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}
